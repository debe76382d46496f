//! A run whose controller or records are gone: what it took is known by the host itself, to everybody, and is
//! restored by whoever takes it over.

use std::path::Path;
use std::time::Duration;
use vsgpu_tests::lab::small_fleet::{begin, clear_faults, count, small, stall};
use vsgpu_tests::lab::{Lab, wait_until};

const INSTALL: &str = "esxcli software component apply";

/// A run that is killed in the middle of its installation; the host is in maintenance mode and its VM is
/// down.
fn killed_in_the_middle(name: &str) -> Lab {
    let lab = small(name);
    stall(&lab, "esx-01", INSTALL);
    let mut child = begin(&lab, &["apply", "--yes"]);
    wait_until("the install has begun", Duration::from_secs(60), || {
        count(&lab.calls("esx-01"), "component apply") == 1
    });
    child.kill();
    clear_faults(&lab, "esx-01");
    lab
}

/// The lease of a controller that is gone; a real one ends within a minute.
fn lease_has_ended(lab: &Lab) {
    let page = || {
        vsgpu_tests::http::get(&lab.metrics("esx-01"), "/metrics", None)
            .map(|(_, page)| page)
            .unwrap_or_default()
    };
    let mut asked = std::time::Instant::now();
    wait_until("nobody is at work there", Duration::from_secs(90), || {
        let ask = asked.elapsed() > Duration::from_millis(500);
        ask && {
            asked = std::time::Instant::now();
            page().contains("\nvsgpu_host_left_taken 1\n")
        }
    });
    let said = lab.expect(0, &["status"]);
    assert!(said.contains("no vsgpu works on it now"), "{said}\n{}", page());
}

/// A second admin: the fleet file and the CA, and no records.
fn second(lab: &Lab) -> String {
    let folder = lab.folder.join("second");
    std::fs::create_dir_all(&folder).unwrap();
    // His file need not name the VM.
    let text = lab.fleet().replace("files/", &format!("{}/files/", lab.folder.display()));
    std::fs::write(folder.join("fleet.yaml"), text).unwrap();
    folder.join("fleet.yaml").display().to_string()
}

fn restored(lab: &Lab) {
    let host = lab.state("esx-01").esxi.unwrap();
    assert!(!host.maintenance && host.vms[0].on, "{host:#?}\n{}", lab.logs());
}

#[test]
fn a_run_whose_records_are_gone_is_taken_over() {
    let lab = killed_in_the_middle("adopt");
    let pki = lab.folder.join("pki").display().to_string();
    let second = second(&lab);
    // While the first one's installer may still run, the second admin is told so, and is kept out.
    let said = lab.expect(0, &["status", &second, "--pki", &pki]);
    assert!(said.contains("esx-01 IS IN MAINTENANCE MODE\n") && said.contains("run 1"), "{said}");
    assert!(said.contains("SHUT DOWN on esx-01: vm-01"), "{said}");
    assert!(said.contains("works on it now"), "{said}");
    let said = lab.expect(6, &["plan", &second, "--pki", &pki]);
    assert!(
        said.contains("in maintenance mode through another run")
            && !said.contains("not through vsgpu")
            && !said.contains("esxcli system maintenanceMode"),
        "{said}"
    );
    let said = lab.expect(6, &["abort", &second, "--pki", &pki, "--adopt", "esx-01"]);
    assert!(said.contains("works on it now"), "{said}");
    // The records go.
    std::fs::remove_dir_all(lab.folder.join(".vsgpu")).unwrap();
    lab.restart_agent("esx-01");
    lease_has_ended(&lab);
    let said = lab.expect(0, &["status"]);
    assert!(said.contains("no run yet") && said.contains("vsgpu abort --adopt esx-01"), "{said}");
    let said = lab.expect(6, &["plan"]);
    assert!(said.contains("[left-behind]") && said.contains("vsgpu abort --adopt esx-01"), "{said}");
    // Monitoring tells it long before two hours.
    let page = || vsgpu_tests::http::get(&lab.metrics("esx-01"), "/metrics", None).unwrap().1;
    wait_until("the metric says so", Duration::from_secs(20), || {
        page().contains("\nvsgpu_host_left_taken 1\n")
    });
    assert!(
        page().contains("vsgpu_host_taken_timestamp_seconds{run=")
            && page().contains("what=\"maintenance-mode\""),
        "{}",
        page()
    );
    // Any controller with the same CA.
    let said = lab.expect(2, &["abort", &second, "--pki", &pki, "--adopt", "esx-01"]);
    assert!(
        said.contains("end maintenance mode on esx-01 and power on vm-01 there? Then add `--yes`"),
        "{said}"
    );
    let said = lab.expect(0, &["abort", &second, "--pki", &pki, "--adopt", "esx-01", "--yes"]);
    assert!(said.contains("2 of 2 steps done"), "{said}");
    restored(&lab);
    assert!(!lab.expect(0, &["status"]).contains("IS IN MAINTENANCE"));
    wait_until("the metric is quiet", Duration::from_secs(20), || {
        page().contains("\nvsgpu_host_left_taken 0\n")
    });
    let said = lab.expect(2, &["abort", "--adopt", "esx-01"]);
    assert!(said.contains("no run has left anything changed on esx-01"), "{said}");
    // And the work is done as ever.
    clear_faults(&lab, "esx-01");
    lab.expect(0, &["apply", "--yes"]);
    lab.expect(0, &["verify"]);
}

#[test]
fn a_lost_terminal_leaves_nobody_guessing() {
    let lab = small("hangup");
    stall(&lab, "esx-01", INSTALL);
    let mut child = begin(&lab, &["apply", "--yes"]);
    wait_until("the install has begun", Duration::from_secs(60), || {
        count(&lab.calls("esx-01"), "component apply") == 1
    });
    child.signal(nix::sys::signal::Signal::SIGHUP);
    child.wait_for("stopping: what runs is finished");
    clear_faults(&lab, "esx-01");
    assert_eq!(child.end().0, Some(5));
    // Its own records still tell it, and are enough.
    assert!(lab.expect(0, &["status"]).contains("IS IN MAINTENANCE MODE by this run"));
    lab.expect(0, &["abort"]);
    restored(&lab);
}

/// What a person did is that person's: never taken over, and not said to be a run's.
#[test]
fn what_a_person_did_is_not_a_runs() {
    let lab = killed_in_the_middle("persons");
    std::fs::remove_dir_all(lab.folder.join(".vsgpu")).unwrap();
    lease_has_ended(&lab);
    // Somebody brings the host out and starts the VM; the agent looks; then he takes it for himself.
    lab.change("esx-01", |m| {
        m.esxi().maintenance = false;
        m.esxi().vms[0].on = true;
    });
    lab.expect(0, &["facts", "-n", "esx-01"]);
    lab.change("esx-01", |m| {
        m.esxi().maintenance = true;
        m.esxi().vms[0].on = false;
    });
    let said = lab.expect(0, &["status"]);
    assert!(!said.contains("IS IN MAINTENANCE MODE"), "{said}");
    let said = lab.expect(6, &["plan"]);
    assert!(said.contains("no record of a run"), "{said}");
    assert!(lab.expect(2, &["abort", "--adopt", "esx-01"]).contains("no run has left anything changed"));
    assert!(lab.state("esx-01").esxi.unwrap().maintenance);
    assert!(
        !Path::new(&lab.machine("esx-01"))
            .join("root/etc/opt/vsgpu/taken.json")
            .metadata()
            .is_ok_and(|m| m.len() > 60)
    );
}
