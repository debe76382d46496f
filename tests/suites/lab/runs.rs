//! Runs that are stopped, paused, given up, taken back, disturbed: real processes on the lab.

use std::time::Duration;
use vsgpu_tests::fakes::state::Fault;
use vsgpu_tests::lab::small_fleet::{begin, clear_faults, count, fault, small, small_fleet, stall};
use vsgpu_tests::lab::{Boot, FAKETIME, Lab, files, wait_until};

const INSTALL: &str = "esxcli software component apply";

fn state(lab: &Lab) -> serde_json::Value {
    serde_json::from_slice(&lab.vsgpu(&["status", "-o", "json"]).stdout).unwrap()
}

/// Three hosts with one setting each; no files, no reboots.
fn three(name: &str, rollout: &str, of_hosts: &str) -> Lab {
    let lab = Lab::new(name);
    let hosts = ["esx-01", "esx-02", "esx-03"];
    hosts
        .iter()
        .for_each(|h| lab.host(h, "6.7.0", vec![files::a100("0000:3b:00.0"), files::a100("0000:af:00.0")]));
    let host = |h: &&str| format!("  {h}: {{ address: \"{}\", {of_hosts} }}\n", lab.address(h));
    lab.write_fleet(&format!("version: 1\n{rollout}hosts:\n{}", hosts.iter().map(host).collect::<String>()));
    lab.start();
    lab
}

#[test]
fn a_canary_is_walked_first_and_the_rest_waits_for_resume() {
    let lab =
        three("canary", "rollout: { canary: 1, max-unavailable: 3 }\n", "assignment-policy: Consolidation");
    let plan = lab.expect(3, &["plan"]);
    assert!(plan.contains("wave 1: esx-01\nwave 2: esx-02, esx-03\nat most 3 hosts away at once"), "{plan}");
    let said = lab.expect(0, &["apply", "--yes", "--pause"]);
    assert!(said.contains("paused: a wave is settled") && said.contains("vsgpu resume"), "{said}");
    let set = |host: &str| lab.state(host).esxi.unwrap().policy == "Consolidation";
    assert_eq!([set("esx-01"), set("esx-02"), set("esx-03")], [true, false, false]);
    assert!(lab.expect(0, &["status"]).contains("not finished: `vsgpu resume` finishes it"));
    let said = lab.expect(2, &["apply", "--yes", "--max-hosts", "1"]);
    assert!(said.contains("the rest of run 1 touches 2 hosts, `--max-hosts 1` allows fewer"), "{said}");
    let said = lab.expect(0, &["resume"]);
    assert!(said.contains("going on with run 1") && said.contains("3 of 3 steps done"), "{said}");
    assert!(lab.expect(0, &["apply", "--yes"]).contains("nothing to do"));
    assert!(lab.expect(2, &["resume"]).contains("no run of this fleet is unfinished"));
}

/// An unfinished run and the plan behind it are one wish: `--max-hosts` counts them together.
#[test]
fn as_many_hosts_as_allowed_are_touched_by_both_rounds_together() {
    let lab = three(
        "both-rounds",
        "deadlines: { connect-secs: 5 }\nrollout: { canary: 1, max-unavailable: 3 }\n",
        "assignment-policy: Consolidation",
    );
    lab.stop_agent("esx-03");
    lab.expect(4, &["apply", "--yes", "--pause"]);
    lab.start_agent("esx-03");
    let said = lab.expect(2, &["apply", "--yes", "--max-hosts", "1"]);
    assert!(
        said.contains("the plan touches 2 hosts (with the 1 of before), `--max-hosts 1` allows fewer; nothing more was changed"),
        "{said}"
    );
    assert!(said.contains("2 of 2 steps done"), "{said}");
    let set = |host: &str| lab.state(host).esxi.unwrap().policy == "Consolidation";
    assert_eq!([set("esx-01"), set("esx-02"), set("esx-03")], [true, true, false]);
    lab.expect(0, &["apply", "--yes", "--max-hosts", "1"]);
}

#[test]
fn a_failed_canary_stops_the_rollout() {
    let lab =
        three("breaker", "rollout: { canary: 1, max-unavailable: 3 }\n", "assignment-policy: Consolidation");
    fault(&lab, "esx-01", "esxcli graphics host set", Fault::Fail { text: "Error: not today\n".into() });
    let said = lab.expect(5, &["apply", "--yes"]);
    assert!(said.contains("esx-02 was left out: the rollout has stopped: esx-01 failed"), "{said}");
    assert_eq!(lab.changing_calls("esx-02").len() + lab.changing_calls("esx-03").len(), 0);
    assert_eq!(state(&lab)["nodes"]["esx-01"]["hold"], "failed");
    assert!(
        lab.expect(2, &["apply", "--yes", "--max-hosts", "2"])
            .contains("touches 3 hosts, `--max-hosts 2` allows fewer")
    );
    clear_faults(&lab, "esx-01");
    lab.expect(0, &["apply", "--yes"]);
}

#[test]
fn a_cluster_with_a_host_away_is_left_alone() {
    let lab = three(
        "budget",
        "rollout: { max-unavailable: 1 }\n",
        "cluster: prod, passthrough: [\"0000:af:00.0\"]",
    );
    lab.stop_agent("esx-02");
    let said = lab.expect(6, &["apply", "--yes"]);
    assert!(said.contains("no more than 1 of cluster prod may be away, and away are: esx-02"), "{said}");
    assert_eq!(lab.changing_calls("esx-01").len() + lab.changing_calls("esx-03").len(), 0, "{said}");
    lab.start_agent("esx-02");
    lab.expect(0, &["apply", "--yes"]);
    lab.expect(0, &["verify"]);
}

#[test]
fn a_run_is_stopped_and_what_it_took_is_given_back() {
    let lab = small("abort");
    stall(&lab, "esx-01", INSTALL);
    let mut child = begin(&lab, &["apply", "--yes"]);
    wait_until("the install has begun", Duration::from_secs(60), || {
        count(&lab.calls("esx-01"), "component apply") == 1
    });
    // From another terminal: the run is asked to stop, the install is finished first, then all is restored.
    let mut abort = begin(&lab, &["abort"]);
    abort.wait_for("is asked to stop");
    child.wait_for("stopping: what runs is finished");
    clear_faults(&lab, "esx-01");
    let (status, said) = abort.end();
    assert_eq!(status, Some(0), "{said}");
    let (status, said) = child.end();
    assert_eq!(status, Some(5), "{said}");
    let host = lab.state("esx-01").esxi.unwrap();
    assert!(
        !host.maintenance && host.vms[0].on && host.vibs.len() == 2,
        "given back, and the install was finished: {host:#?}\n{}",
        lab.logs()
    );
    assert_eq!(count(&lab.calls("esx-01"), "shutdown reboot"), 0);
    assert!(lab.expect(0, &["status"]).contains("aborted"));
    clear_faults(&lab, "esx-01");
    lab.expect(0, &["apply", "--yes"]);
    lab.expect(0, &["verify"]);
    assert_eq!(count(&lab.calls("esx-01"), "component apply"), 1);
}

/// Begins a run and leaves it with two Ctrl-C when something is so.
fn leave_at_once(lab: &Lab, begun: impl Fn() -> bool) {
    let mut child = begin(lab, &["apply", "--yes"]);
    wait_until("it has begun", Duration::from_secs(60), begun);
    child.signal(nix::sys::signal::Signal::SIGINT);
    child.wait_for("Ctrl-C again leaves at once");
    child.signal(nix::sys::signal::Signal::SIGINT);
    let (status, said) = child.end();
    assert_eq!(status, Some(5), "{said}");
}

/// A run is left while an agent still takes something for it, and given up: what comes true afterwards is
/// still ours to restore.
#[test]
fn what_was_still_being_taken_when_a_run_was_given_up_is_given_back() {
    for (name, takes) in [
        ("late-mode", "esxcli system maintenanceMode set --enable true"),
        ("late-stop", "vim-cmd vmsvc/power.shutdown"),
    ] {
        let lab = small(name);
        stall(&lab, "esx-01", takes);
        leave_at_once(&lab, || count(&lab.calls("esx-01"), takes) == 1);
        // Whether it is so already nobody knows, and that is what is said.
        assert!(lab.expect(0, &["status"]).contains(" MAY BE "));
        let esxi = lab.state("esx-01").esxi.unwrap();
        assert!(
            !esxi.maintenance && (esxi.vms[0].on || name == "late-mode"),
            "it is taken already: nothing is tried here"
        );
        // It comes true while the next run is at work.
        let mut next = begin(&lab, &["apply", "--yes", "--abandon"]);
        next.wait_for("run 1 was given up");
        clear_faults(&lab, "esx-01");
        let (status, said) = next.end();
        assert!(status == Some(0) && !said.contains("stale"), "{said}");
        let esxi = lab.state("esx-01").esxi.unwrap();
        assert!(!esxi.maintenance && esxi.vms[0].on, "{name}: left behind\n{said}");
        lab.expect(0, &["verify"]);
        assert!(lab.expect(0, &["apply", "--yes"]).contains("nothing to do"));
    }
}

#[test]
fn ctrl_c_twice_leaves_at_once_and_the_agent_finishes() {
    let lab = small("detach");
    stall(&lab, "esx-01", INSTALL);
    leave_at_once(&lab, || count(&lab.calls("esx-01"), "component apply") == 1);
    assert!(lab.state("esx-01").esxi.unwrap().vibs.len() == 1, "it left before the install was done");
    let records = || {
        let journal = lab.folder.join(".vsgpu/fleet/run-000001.journal");
        std::fs::read_to_string(journal).unwrap().lines().count()
    };
    let before = records();
    let resumed = begin(&lab, &["resume"]);
    wait_until("its step is begun again", Duration::from_secs(60), || records() > before);
    clear_faults(&lab, "esx-01");
    let (status, said) = resumed.end();
    assert!(status == Some(0) && said.contains("going on with run 1"), "{said}");
    lab.expect(0, &["verify"]);
    assert_eq!(count(&lab.calls("esx-01"), "component apply"), 1, "the running one was waited for");
}

#[test]
fn a_run_is_taken_back_as_far_as_there_is_a_way() {
    let lab = three(
        "rollback",
        "rollout: { max-unavailable: 3 }\n",
        "assignment-policy: Consolidation, passthrough: [\"0000:af:00.0\"]",
    );
    let before: Vec<_> = ["esx-01", "esx-02", "esx-03"].map(|h| lab.state(h).esxi.unwrap()).into();
    lab.expect(0, &["apply", "--yes"]);
    let said = lab.expect(0, &["rollback", "--yes"]);
    assert!(said.contains("steps done"), "{said}");
    for (host, before) in ["esx-01", "esx-02", "esx-03"].into_iter().zip(before) {
        let after = lab.state(host).esxi.unwrap();
        assert_eq!(
            (after.policy, after.gpus[1].given, after.maintenance),
            (before.policy, before.gpus[1].given, false),
            "{host}"
        );
    }
    assert!(lab.expect(0, &["status"]).contains("rollback 2: rolled back"));
    assert!(lab.expect(2, &["rollback", "--yes"]).contains("was a rollback already"));
    lab.expect(3, &["plan"]);
}

#[test]
fn what_has_no_way_back_is_said_before_anything_is_done() {
    let lab = small("noback");
    lab.expect(0, &["apply", "--yes"]);
    lab.forget_calls();
    let said = lab.expect(0, &["rollback", "--yes"]);
    assert!(
        said.contains("these have no way back and stay as they are")
            && said.contains("vgpu-manager: absent ->"),
        "{said}"
    );
    assert_eq!(count(&lab.calls("esx-01"), "software component remove"), 0, "{said}");
}

#[test]
fn somebody_else_at_work_is_seen_before_the_next_change() {
    let lab = three(
        "drift",
        "rollout: { canary: 1, max-unavailable: 3, stop-at-failed: 3 }\n",
        "acceptance-level: VMwareAccepted, passthrough: [\"0000:af:00.0\"]",
    );
    stall(&lab, "esx-01", "esxcli software acceptance set");
    let child = begin(&lab, &["apply", "--yes"]);
    wait_until("a change is under way", Duration::from_secs(60), || {
        count(&lab.calls("esx-01"), "acceptance set") == 1
    });
    lab.change("esx-01", |m| m.esxi().maintenance = false);
    clear_faults(&lab, "esx-01");
    let (status, said) = child.end();
    assert_eq!(status, Some(6), "{said}");
    assert!(
        said.contains("somebody changed maintenance-mode meanwhile: it was on, it is off; nothing was done"),
        "{said}"
    );
    assert_eq!(count(&lab.calls("esx-01"), "shutdown reboot"), 0);
    assert_eq!(state(&lab)["nodes"]["esx-03"]["state"], "done", "the others go on");
    // Nothing is done there before a person has looked.
    let said = lab.expect(6, &["apply", "--yes"]);
    assert!(said.contains("esx-01 is held (drift)") && said.contains("vsgpu release host/esx-01"), "{said}");
    assert!(lab.expect(2, &["release", "esx-09"]).contains("held: host/esx-01"));
    assert!(lab.expect(0, &["release", "esx-01"]).contains("released: esx-01"));
    lab.expect(0, &["apply", "--yes"]);
    lab.expect(0, &["verify"]);
}

#[test]
fn a_deadline_ends_in_a_named_hold_and_the_others_go_on() {
    let lab = small("late");
    let short = "deadlines: { host-reboot-secs: 20, guest-boot-secs: 20, driver-install-secs: 2 }";
    lab.write_fleet(
        &small_fleet(&lab, "").replace("deadlines: { host-reboot-secs: 20, guest-boot-secs: 20 }", short),
    );
    fault(&lab, "vm-01", "nvidia-installer", Fault::Slow { ms: 20_000 });
    let said = lab.expect(5, &["apply", "--yes"]);
    assert!(
        said.contains("driver: not done within 2 s, while: ") && said.contains("driver-install-secs"),
        "{said}"
    );
    assert_eq!(state(&lab)["nodes"]["vm-01 (guest)"]["hold"], "driver-install-timeout");
    clear_faults(&lab, "vm-01");
    lab.write_fleet(&small_fleet(&lab, ""));
    lab.expect(0, &["apply", "--yes"]);
}

/// A guest that was away when the run was planned is done when an interrupted run is gone on with.
#[test]
fn what_a_plan_had_to_leave_out_is_done_behind_it() {
    let lab = small("leftout");
    lab.stop_agent("vm-01");
    stall(&lab, "esx-01", "vim-cmd vmsvc/power.shutdown");
    let mut child = begin(&lab, &["apply", "--yes"]);
    wait_until("it is at work", Duration::from_secs(60), || {
        count(&lab.calls("esx-01"), "power.shutdown") == 1
    });
    child.kill();
    clear_faults(&lab, "esx-01");
    let said = lab.expect(0, &["apply", "--yes"]);
    assert!(said.contains("going on with run 1"), "{said}");
    lab.expect(0, &["verify"]);
}

#[test]
fn a_second_controller_is_refused_while_the_first_is_at_work() {
    let lab = small("second");
    stall(&lab, "esx-01", "vim-cmd vmsvc/power.shutdown");
    let child = begin(&lab, &["apply", "--yes"]);
    wait_until("the first is at work", Duration::from_secs(60), || {
        count(&lab.calls("esx-01"), "power.shutdown") == 1
    });
    // The same fleet from another folder: no lock of this machine keeps the two apart.
    let text = lab
        .fleet()
        .replace("files/", "../files/")
        .replace("deadlines: {", "pki: ../pki\ndeadlines: { connect-secs: 1,");
    let text = text.replace(
        "    graphics-type: SharedPassthru\n",
        "    graphics-type: SharedPassthru\n    assignment-policy: Consolidation\n",
    );
    std::fs::create_dir_all(lab.folder.join("elsewhere")).unwrap();
    std::fs::write(lab.folder.join("elsewhere/fleet.yaml"), text).unwrap();
    let said = lab.expect(6, &["apply", "--yes", "elsewhere/fleet.yaml"]);
    assert!(said.contains("the node is in the hands of") && said.contains("/fleet.yaml ("), "{said}");
    clear_faults(&lab, "esx-01");
    let (status, said) = child.end();
    assert_eq!(status, Some(0), "{said}");
    assert_eq!(lab.state("esx-01").esxi.unwrap().policy, "Performance", "the second changed nothing");
}

#[test]
fn a_host_that_comes_back_on_its_old_image() {
    let lab = three("oldimage", "", "passthrough: [\"0000:af:00.0\"]");
    lab.boots("esx-01", Boot::OldImage);
    let said = lab.expect(5, &["apply", "--yes"]);
    assert!(said.contains("after the reboot: passthrough: is none"), "{said}");
    assert_eq!(state(&lab)["nodes"]["esx-01"]["hold"], "came-back-unchanged");
    assert!(!lab.state("esx-01").esxi.unwrap().maintenance, "{said}");
}

/// An hour ahead, an hour behind: no certificate, no lease and no reboot is judged by it.
#[test]
fn a_host_that_comes_back_with_a_wrong_clock() {
    if !std::path::Path::new(FAKETIME).exists() {
        println!("SKIPPED: libfaketime (Debian's package faketime) is not here");
        return;
    }
    for shift in ["+1h", "-1h"] {
        let lab = small(&format!("clock{shift}"));
        lab.boots("esx-01", Boot::WrongClock(shift));
        lab.expect(0, &["apply", "--yes"]);
        assert_eq!(count(&lab.calls("esx-01"), "shutdown reboot"), 1, "{shift}");
        lab.expect(0, &["verify"]);
        assert!(lab.expect(0, &["apply", "--yes"]).contains("nothing to do"), "{shift}");
        assert!(!lab.state("esx-01").esxi.unwrap().maintenance);
        // It really was wrong: the agent's own log says so.
        let log = std::fs::read_to_string(lab.machine("esx-01").join("agent.log")).unwrap();
        let last = log.lines().last().and_then(|line| line.split(' ').next()).unwrap();
        let at = time::OffsetDateTime::parse(last, &time::format_description::well_known::Rfc3339).unwrap();
        let ahead = (at - time::OffsetDateTime::now_utc()).whole_minutes();
        assert!(
            (50..=60).contains(&ahead.abs()) && (ahead > 0) == (shift == "+1h"),
            "{shift}: {ahead} minutes"
        );
    }
}

#[test]
fn a_host_that_comes_back_behind_its_deadline_is_not_rebooted_again() {
    let lab = small("lateboot");
    lab.write_fleet(
        &small_fleet(&lab, "").replace("host-reboot-secs: 20", "connect-secs: 1, host-reboot-secs: 2"),
    );
    lab.boots("esx-01", Boot::Late(Duration::from_secs(6)));
    let said = lab.expect(5, &["apply", "--yes"]);
    assert!(
        said.contains("did not come back within 2 s") && said.contains("IS STILL IN MAINTENANCE MODE"),
        "{said}"
    );
    assert_eq!(state(&lab)["nodes"]["esx-01"]["hold"], "reboot-timeout");
    wait_until("it is back", Duration::from_secs(30), || {
        lab.state("esx-01").boots == 2 && lab.agent_pid("esx-01").is_some()
    });
    lab.write_fleet(&small_fleet(&lab, ""));
    lab.expect(0, &["apply", "--yes", "--abandon"]);
    lab.expect(0, &["verify"]);
    assert_eq!(count(&lab.calls("esx-01"), "shutdown reboot"), 1);
}

#[test]
fn a_host_that_reboots_again_and_again() {
    let lab = three("loop", "", "passthrough: [\"0000:af:00.0\"]");
    fault(&lab, "esx-01", "esxcli --formatter=xml hardware pci list", Fault::Slow { ms: 3000 });
    lab.boots("esx-01", Boot::Loop(Duration::from_millis(1500)));
    // Whether it could be restored in between is chance.
    let (status, said) = begin(&lab, &["apply", "--yes"]).end();
    assert!([Some(5), Some(6)].contains(&status), "{said}");
    assert!(said.contains("times since, and nobody asked for that"), "{said}");
    assert_eq!(state(&lab)["nodes"]["esx-01"]["hold"], "boot-loop");
}
