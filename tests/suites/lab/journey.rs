//! The main job end to end, on the lab: real processes, real gRPC over mutual TLS, simulated tools.

use std::process::Stdio;
use std::time::Duration;
use vsgpu_tests::lab::small_fleet::{begin, clear_faults, count, small, small_fleet, stall};
use vsgpu_tests::lab::{Lab, files, wait_until};

const INSTALL: &str = "esxcli software component apply";

#[test]
fn from_bare_hosts_to_cuda_proofs_and_then_nothing() {
    let lab = Lab::new("journey");
    lab.demo_fleet();
    lab.start();
    lab.expect(3, &["verify"]);
    lab.forget_calls();
    // Looking changes nothing (I7).
    let plan = lab.expect(3, &["plan", "--commands"]);
    lab.expect(0, &["facts"]);
    for name in ["esx-01", "esx-02", "vm-01", "vm-02", "vm-03"] {
        assert_eq!(lab.changing_calls(name), Vec::<String>::new(), "{name}");
    }
    for line in [
        "esxcli software component apply -d /vmfs/volumes/datastore1/vsgpu/",
        "enter maintenance mode",
        "leave maintenance mode",
        "host reboots",
        "esxcli graphics host set --default-type SharedPassthru",
    ] {
        assert!(plan.contains(line), "{line}\n{plan}");
    }
    lab.expect(0, &["apply", "--yes"]);
    let verified = lab.expect(0, &["verify", "-o", "wide"]);
    for vm in ["vm-01", "vm-02", "vm-03"] {
        let line = verified.lines().rfind(|l| l.starts_with(vm)).unwrap_or_else(|| panic!("{verified}"));
        assert!(
            line.contains("deviceQuery PASS, vectorAdd PASSED")
                && line.contains("Licensed")
                && !line.contains("NOT:"),
            "{line}"
        );
    }
    // One reboot for the A100 host, two for the P100 host: ECC can only be seen when there is a driver.
    assert_eq!(count(&lab.calls("esx-01"), "shutdown reboot"), 1);
    assert_eq!(count(&lab.calls("esx-02"), "shutdown reboot"), 2);
    assert_eq!(count(&lab.calls("esx-02"), "nvidia-smi -i 0 -e 0"), 1);
    for host in ["esx-01", "esx-02"] {
        let mut machine = lab.state(host);
        assert!(!machine.esxi().maintenance && machine.esxi().vms.iter().all(|v| v.on), "{host}");
    }
    // The second apply runs no changing command at all (I8).
    lab.forget_calls();
    let second = lab.expect(0, &["apply", "--yes"]);
    assert!(second.contains("nothing to do"), "{second}");
    for name in ["esx-01", "esx-02", "vm-01", "vm-02", "vm-03"] {
        assert_eq!(lab.changing_calls(name), Vec::<String>::new(), "{name}");
    }
    // What is exported is a fleet file that holds.
    let output = lab.vsgpu(&["export"]);
    assert!(output.status.success());
    std::fs::write(lab.folder.join("exported.yaml"), &output.stdout).unwrap();
    lab.expect(0, &["validate", "--no-files", "exported.yaml"]);
    // Secrets stay in their files.
    let everything = format!(
        "{plan}{verified}{}{}",
        lab.logs(),
        std::fs::read_to_string(lab.folder.join(".vsgpu/fleet/run-000001.journal")).unwrap()
    );
    assert!(!everything.contains(vsgpu_tests::lab::TOKEN));
}

#[test]
fn a_controller_killed_anywhere_goes_on_and_reboots_once() {
    let lab = small("killed");
    let mut kills = 0;
    loop {
        let mut child = begin(&lab, &["apply", "--yes"]);
        let before = records(&lab);
        // Killed after every few records, wherever that is.
        let end = std::time::Instant::now() + Duration::from_secs(60);
        let status = loop {
            if let Some(status) = child.ended() {
                break Some(status);
            }
            if records(&lab) >= before + 7 {
                child.kill();
                break None;
            }
            assert!(std::time::Instant::now() < end, "stuck\n{}", lab.logs());
            std::thread::sleep(Duration::from_millis(2));
        };
        match status {
            Some(status) => {
                assert!(status.success(), "{status}\n{}\n{}", lab.expect(0, &["status"]), lab.logs());
                break;
            }
            None => kills += 1,
        }
    }
    assert!(kills >= 4, "only {kills} kills");
    lab.expect(0, &["verify"]);
    assert_eq!(count(&lab.calls("esx-01"), "shutdown reboot"), 1, "{:#?}", lab.calls("esx-01"));
    assert_eq!(count(&lab.calls("esx-01"), "component apply"), 1);
    assert_eq!(count(&lab.calls("vm-01"), "systemctl reboot"), 1);
    assert_eq!(count(&lab.calls("vm-01"), "--accept-license"), 1);
    assert!(!lab.state("esx-01").esxi().maintenance);
}

fn records(lab: &Lab) -> usize {
    let text =
        std::fs::read_to_string(lab.folder.join(".vsgpu/fleet/run-000001.journal")).unwrap_or_default();
    text.lines().count()
}

#[test]
fn an_agent_killed_in_the_middle_of_a_command_is_looked_at_again() {
    let lab = small("agentkill");
    stall(&lab, "esx-01", INSTALL);
    let mut child = begin(&lab, &["apply", "--yes"]);
    wait_until("the install has begun", Duration::from_secs(60), || {
        count(&lab.calls("esx-01"), "component apply") == 1
    });
    lab.stop_agent("esx-01");
    lab.start_agent("esx-01");
    child.wait_for("which an earlier agent started");
    clear_faults(&lab, "esx-01");
    let (status, said) = child.end();
    assert_eq!(status, Some(0), "{said}");
    lab.expect(0, &["verify"]);
    assert_eq!(count(&lab.calls("esx-01"), "component apply"), 1, "a second installer was started");
    assert_eq!(count(&lab.calls("esx-01"), "shutdown reboot"), 1);
}

#[test]
fn a_failed_install_brings_the_host_out_of_maintenance_and_the_vm_back() {
    let lab = small("failed");
    let text = " [InstallationError]\n [Errno 28] No space left on device\n Please refer to the log file for more details.\n";
    lab.change("esx-01", |m| {
        drop(m.faults.insert(
            "esxcli software component apply".into(),
            vsgpu_tests::fakes::state::Fault::Fail { text: text.into() },
        ))
    });
    let said = lab.expect(5, &["apply", "--yes"]);
    assert!(said.contains("[InstallationError] [Errno 28] No space left on device"), "{said}");
    assert!(!said.contains("STILL IN MAINTENANCE"), "{said}");
    let mut host = lab.state("esx-01");
    assert!(!host.esxi().maintenance && host.esxi().vms[0].on);
    assert_eq!(count(&lab.calls("vm-01"), "nvidia-installer"), 0, "the guest was left alone");
    // Mended, the same command finishes the job.
    clear_faults(&lab, "esx-01");
    lab.expect(0, &["apply", "--yes"]);
    lab.expect(0, &["verify"]);
}

#[test]
fn a_host_that_does_not_come_back_is_said_loudly() {
    let lab = small("gone");
    lab.write_fleet(&small_fleet(&lab, "").replace("host-reboot-secs: 20", "host-reboot-secs: 3"));
    lab.boots("esx-01", vsgpu_tests::lab::Boot::Never);
    let said = lab.expect(5, &["apply", "--yes"]);
    assert!(
        said.contains("did not come back within 3 s") && said.contains("esx-01 IS STILL IN MAINTENANCE MODE"),
        "{said}"
    );
    assert!(lab.expect(0, &["status"]).contains("esx-01 IS IN MAINTENANCE MODE by this run"));
}

#[test]
fn a_stubborn_guest_is_not_unplugged_unless_allowed() {
    let lab = small("stubborn");
    lab.change("esx-01", |m| m.esxi().vms[0].stubborn = true);
    let said = lab.expect(5, &["apply", "--yes"]);
    assert!(said.contains("did not show \"Powered off\" within 2 s"), "{said}");
    assert!(said.contains("still runs") && said.contains("hard-stop"), "{said}");
    assert!(
        said.contains("asked to shut down, was not seen to go down, and may still do so")
            && !said.contains("was shut down"),
        "{said}"
    );
    assert!(lab.expect(0, &["status"]).contains("vm-01 MAY BE SHUT DOWN: this run asked for it"));
    // One that waits for an answer says which.
    lab.change("esx-01", |m| {
        m.esxi().vms[0].question =
            Some("msg.cdromdisconnect.locked:The guest has locked the CD-ROM door.".into());
    });
    let said = lab.expect(5, &["apply", "--yes"]);
    assert!(
        said.contains("waits for an answer: `The guest has locked the CD-ROM door.")
            && said.contains("vim-cmd vmsvc/message 1 0 CHOICE"),
        "{said}"
    );
    lab.change("esx-01", |m| m.esxi().vms[0].question = None);
    assert!(lab.state("esx-01").esxi().vms[0].on && !lab.state("esx-01").esxi().maintenance);
    assert_eq!(count(&lab.calls("esx-01"), "component apply"), 0, "nothing was touched");
    lab.write_fleet(&small_fleet(&lab, "    hard-stop: true\n"));
    lab.expect(0, &["apply", "--yes"]);
    assert_eq!(count(&lab.calls("esx-01"), "power.off"), 1);
}

#[test]
fn a_vm_that_needs_a_person_is_started_again_and_changed_in_nothing() {
    let lab = small("blockedvm");
    lab.change("esx-01", |m| {
        let path = "/vmfs/volumes/datastore1/vm-01/vm-01.vmx";
        let text = m.text(path).unwrap().replace("\"efi\"", "\"bios\"");
        m.write(path, &text);
    });
    lab.write_fleet(&small_fleet(&lab, "    firmware: efi\n"));
    let said = lab.expect(6, &["apply", "--yes"]);
    assert!(said.contains("the firmware is bios"), "{said}");
    let mut host = lab.state("esx-01");
    assert!(host.esxi().vms[0].on && !host.esxi().maintenance && host.esxi().loaded.is_some());
    assert_eq!(count(&lab.calls("esx-01"), "vmsvc/reload"), 0);
}

#[test]
fn a_run_that_failed_and_was_then_killed_goes_on() {
    let lab = small("failkill");
    lab.host("esx-02", "8.0.2", vec![files::a100("0000:3b:00.0")]);
    lab.start_agent("esx-02");
    let two = small_fleet(&lab, "")
        .replace("hosts:\n", "rollout: { max-unavailable: 2, stop-at-failed: 2 }\nhosts:\n")
        .replace(
            "vms:\n",
            &format!(
                "  esx-02:\n    address: {}\n    assignment-policy: Consolidation\nvms:\n",
                lab.address("esx-02")
            ),
        );
    lab.write_fleet(&two);
    let fault = vsgpu_tests::fakes::state::Fault::Fail { text: "Error: not today\n".into() };
    lab.change("esx-02", |m| drop(m.faults.insert("esxcli graphics host set".into(), fault)));
    stall(&lab, "esx-01", INSTALL);
    let mut child = begin(&lab, &["apply", "--yes"]);
    wait_until("one host failed, the other is at work", Duration::from_secs(60), || {
        count(&lab.calls("esx-02"), "host set") > 0 && count(&lab.calls("esx-01"), "component apply") > 0
    });
    child.kill();
    clear_faults(&lab, "esx-01");
    clear_faults(&lab, "esx-02");
    lab.expect(0, &["apply", "--yes"]);
    lab.expect(0, &["verify"]);
    // A run whose first record never reached the disk did nothing, and hides no other run.
    std::fs::write(lab.folder.join(".vsgpu/fleet/run-000009.journal"), "0123").unwrap();
    assert!(lab.expect(0, &["status"]).contains("run 1: done"));
    lab.expect(0, &["apply", "--yes"]);
}

#[test]
fn a_driver_is_upgraded_and_proven_again() {
    let lab = small("upgrade");
    lab.expect(0, &["apply", "--yes"]);
    let newer = "NVIDIA-Linux-x86_64-535.230.02-grid.run";
    std::fs::write(lab.folder.join("files").join(newer), files::run_file("nvidia-installer", 1000)).unwrap();
    lab.write_fleet(&lab.fleet().replace(files::DRIVER_16_6, newer));
    lab.forget_calls();
    lab.expect(0, &["apply", "--yes"]);
    assert!(lab.expect(0, &["verify"]).contains("535.230.02"));
    let calls = lab.calls("vm-01");
    assert_eq!((count(&calls, "modprobe -r"), count(&calls, "deviceQuery")), (1, 1), "{calls:#?}");
    assert_eq!(lab.changing_calls("esx-01"), Vec::<String>::new(), "the host had nothing to do");
}

#[test]
fn strangers_on_a_host_are_not_shut_down() {
    let lab = small("stranger");
    lab.change("esx-01", |m| {
        m.esxi().vms.push(vsgpu_tests::fakes::state::Vm {
            vmid: 9,
            name: "payroll".into(),
            datastore: "datastore1".into(),
            file: "payroll/payroll.vmx".into(),
            on: true,
            stubborn: false,
            question: None,
            snapshots: 0,
        })
    });
    lab.forget_calls();
    let said = lab.expect(6, &["apply", "--yes"]);
    assert!(said.contains("payroll") && said.contains("not in the fleet file"), "{said}");
    assert_eq!(lab.changing_calls("esx-01"), Vec::<String>::new());
}

#[test]
fn a_wrong_license_is_waited_for_and_then_named() {
    let lab = small("license");
    std::fs::write(lab.folder.join("files").join(files::TOKEN_FILE), "a token of another server").unwrap();
    // The daemon has refused the token for good: the ten minutes that the fleet file gives it are not waited out.
    lab.write_fleet(&lab.fleet().replace("wait-secs: 3", "wait-secs: 600"));
    let said = lab.expect(5, &["apply", "--yes"]);
    let lines: Vec<&str> = said.lines().collect();
    let at = lines
        .iter()
        .position(|l| l.starts_with("error[") && l.contains("]: vm-01 (guest): license: "))
        .unwrap_or_else(|| panic!("{said}"));
    assert!(
        lines[at].contains("Failed to decode signature from token received") && !lines[at].contains("still"),
        "{said}"
    );
    assert!(
        lines[at + 2].starts_with("hint: ") && lines[at + 3] == "more: vsgpu explain token-damaged",
        "{said}"
    );
    assert!(lab.expect(3, &["verify", "-o", "wide"]).contains("NOT: Unlicensed"));
}

#[test]
fn a_wrong_driver_pair_leaves_the_guest_without_a_gpu_and_says_so() {
    let lab = small("pair");
    // The compatibility check would refuse it: a catalogue of the operator that allows the pair is believed,
    // and reality is not.
    let catalogue = "branch:\n  - { name: R535, type: host, allow: { branch: [R580] } }\n  - { name: R580, type: guest, allow: { branch: [R535] } }\ndriver:\n  - { version: 535.183.04, branch: R535, type: host }\n  - { version: 580.65.06, branch: R580, type: guest }\n";
    std::fs::write(lab.folder.join("files/catalogue.yaml"), catalogue).unwrap();
    std::fs::write(
        lab.folder.join("files/NVIDIA-Linux-x86_64-580.65.06-grid.run"),
        files::run_file("nvidia-installer", 1000),
    )
    .unwrap();
    lab.write_fleet(
        &small_fleet(&lab, "")
            .replace(files::DRIVER_16_6, "NVIDIA-Linux-x86_64-580.65.06-grid.run")
            .replace("license: { token", "license: { wait-secs: 1, token")
            .replace(", wait-secs: 3", "")
            .replace("version: 1\n", "version: 1\ndriver-catalogue: files/catalogue.yaml\n"),
    );
    let said = lab.expect(5, &["apply", "--yes"]);
    assert!(said.contains("the NVIDIA driver is loaded, but drives no GPU"), "{said}");
}

#[test]
fn a_saved_plan_runs_exactly_or_not_at_all() {
    let lab = small("saved");
    lab.expect(3, &["plan", "--out", "plan.json"]);
    lab.change("esx-01", |m| m.esxi().default_type = "SharedPassthru".into());
    let said = lab.expect(6, &["apply", "--yes", "plan.json"]);
    assert!(said.contains("the saved plan no longer fits"), "{said}");
    lab.change("esx-01", |m| m.esxi().default_type = "Shared".into());
    lab.expect(0, &["apply", "--yes", "plan.json"]);
    lab.expect(0, &["verify"]);
}

#[test]
fn ctrl_c_says_what_is_left_and_how_to_go_on() {
    let lab = small("ctrlc");
    stall(&lab, "esx-01", INSTALL);
    let mut child = begin(&lab, &["apply", "--yes"]);
    wait_until("the install has begun", Duration::from_secs(60), || {
        count(&lab.calls("esx-01"), "component apply") == 1
    });
    assert!(lab.expect(0, &["status"]).contains("running now"));
    child.signal(nix::sys::signal::Signal::SIGINT);
    child.wait_for("Ctrl-C again leaves at once");
    clear_faults(&lab, "esx-01");
    let (status, said) = child.end();
    assert_eq!(status, Some(5), "{said}");
    assert!(
        said.contains("interrupted")
            && said.contains("IS STILL IN MAINTENANCE MODE: esx-01")
            && said.contains("shut down: vm-01")
            && said.contains("`vsgpu resume` goes on from here"),
        "{said}"
    );
    let status = lab.expect(0, &["status"]);
    assert!(status.contains("not finished") && status.contains("vm-01 IS SHUT DOWN by this run"), "{status}");
    lab.expect(0, &["apply", "--yes"]);
    lab.expect(0, &["verify"]);
    assert_eq!(
        (count(&lab.calls("esx-01"), "component apply"), count(&lab.calls("esx-01"), "shutdown reboot")),
        (1, 1)
    );
}

#[test]
fn a_run_that_gave_back_after_a_failure_is_planned_anew_not_tried_again() {
    let lab = small("gaveback");
    lab.host("esx-02", "8.0.2", vec![files::a100("0000:3b:00.0")]);
    lab.start_agent("esx-02");
    let both = small_fleet(&lab, "")
        .replace("hosts:\n", "rollout: { max-unavailable: 2, stop-at-failed: 2 }\nhosts:\n");
    lab.write_fleet(&both.replace(
        "vms:\n",
        &format!(
            "  esx-02:\n    address: {}\n    vgpu-manager: {{ package: files/{}, datastore: datastore1 }}\nvms:\n",
            lab.address("esx-02"),
            files::MANAGER_16_6
        ),
    ));
    let fault = vsgpu_tests::fakes::state::Fault::Fail { text: "Error: not today\n".into() };
    lab.change("esx-01", |m| drop(m.faults.insert("esxcli software component apply".into(), fault)));
    stall(&lab, "esx-02", INSTALL);
    let mut child = begin(&lab, &["apply", "--yes"]);
    // esx-01 has failed, left maintenance mode and started its VM, while esx-02 is still at work.
    wait_until("the VM is back", Duration::from_secs(60), || {
        count(&lab.calls("esx-01"), "power.on") == 1 && count(&lab.calls("esx-02"), "component apply") == 1
    });
    wait_until("that is recorded", Duration::from_secs(10), || {
        lab.expect(0, &["status", "-o", "wide"])
            .lines()
            .any(|l| l.contains("vm-01") && l.contains("start") && l.contains("done"))
    });
    child.kill();
    clear_faults(&lab, "esx-01");
    clear_faults(&lab, "esx-02");
    lab.forget_calls();
    let said = lab.expect(0, &["apply", "--yes"]);
    assert!(said.contains("planned anew"), "{said}");
    let calls = lab.calls("esx-01");
    let at = |what: &str| {
        calls.iter().position(|c| c.contains(what)).unwrap_or_else(|| panic!("{what}: {calls:#?}"))
    };
    assert!(
        at("power.shutdown") < at("--enable true") && at("--enable true") < at("component apply"),
        "{calls:#?}"
    );
    lab.expect(0, &["verify"]);
}

#[test]
fn what_an_earlier_run_took_is_given_back_whatever_fails_now() {
    let lab = small("leftover");
    stall(&lab, "esx-01", INSTALL);
    let mut child = begin(&lab, &["apply", "--yes"]);
    wait_until("the install has begun", Duration::from_secs(60), || {
        count(&lab.calls("esx-01"), "component apply") == 1
    });
    child.kill();
    // Given up in maintenance mode with its VM off, and now the reboot is refused.
    clear_faults(&lab, "esx-01");
    let fault = vsgpu_tests::fakes::state::Fault::Fail { text: "Error: not today\n".into() };
    lab.change("esx-01", |m| drop(m.faults.insert("esxcli system shutdown".into(), fault)));
    let said = lab.expect(5, &["apply", "--yes", "--abandon"]);
    let mut host = lab.state("esx-01");
    assert!(!host.esxi().maintenance && host.esxi().vms[0].on, "{said}");
    assert!(!said.contains("STILL IN MAINTENANCE"), "{said}");
    // A refused reboot was never on its way: mended, the next run reboots at once.
    clear_faults(&lab, "esx-01");
    lab.expect(0, &["apply", "--yes"]);
    lab.expect(0, &["verify"]);
}

#[test]
fn two_applies_do_not_meet() {
    let lab = small("two");
    stall(&lab, "esx-01", INSTALL);
    let first = begin(&lab, &["apply", "--yes"]);
    wait_until("the first is at work", Duration::from_secs(60), || {
        count(&lab.calls("esx-01"), "component apply") == 1
    });
    assert!(lab.expect(6, &["apply", "--yes"]).contains("another `vsgpu apply` is at work"));
    clear_faults(&lab, "esx-01");
    let (status, said) = first.end();
    assert_eq!(status, Some(0), "{said}");
}

#[test]
fn metrics_answer_while_nvidia_smi_hangs() {
    let lab = small("metrics");
    lab.expect(0, &["apply", "--yes"]);
    lab.expect(0, &["verify"]);
    let scrape = |name: &str| vsgpu_tests::http::get(&lab.metrics(name), "/metrics", None).unwrap().1;
    wait_until("the agents have looked again", Duration::from_secs(30), || {
        scrape("vm-01").contains("vsgpu_license_licensed")
            && scrape("esx-01").contains("requirement=\"vgpu-manager\"")
    });
    let guest = scrape("vm-01");
    for line in [
        "vsgpu_up 1",
        "vsgpu_license_licensed{gpu=\"0000:02:01.0\"} 1",
        "vsgpu_requirement_met{requirement=\"driver\",vm=\"\"} 1",
        "vsgpu_guest_cuda_proof_passed 1",
        "vsgpu_build_info{role=\"guest\"",
    ] {
        assert!(guest.contains(line), "{line}\n{guest}");
    }
    let host = scrape("esx-01");
    for line in [
        "vsgpu_host_maintenance_mode 0",
        "vsgpu_requirement_met{requirement=\"vgpu\",vm=\"vm-01\"} 1",
        "virtualization_mode=\"Host VGPU\"",
        "vsgpu_rpcs_total{method=\"Apply\",result=\"ok\"}",
    ] {
        assert!(host.contains(line), "{line}\n{host}");
    }
    for page in [&guest, &host] {
        assert!(page.lines().filter(|l| !l.starts_with('#')).count() <= 200);
    }
    promtool(&host);
    promtool(&guest);
    lab.change("esx-01", |m| {
        drop(m.faults.insert("nvidia-smi".into(), vsgpu_tests::fakes::state::Fault::Hang))
    });
    let hanging = || lab.calls("esx-01").len();
    let before = hanging();
    wait_until("a look hangs", Duration::from_secs(30), || hanging() > before + 3);
    assert!(scrape("esx-01").contains("vsgpu_up 1"));
}

/// Prometheus's own lint, where Debian's prometheus package is installed.
fn promtool(page: &str) {
    use std::io::Write as _;
    let Ok(mut child) = std::process::Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
    else {
        println!("SKIPPED: there is no promtool (Debian's package prometheus)");
        return;
    };
    child.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "{}{}\n{page}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
