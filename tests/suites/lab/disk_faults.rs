//! The operator's disk fails under the real controller: EIO at a flush, ENOSPC at a write, by system-call
//! injection. The run stops before the effect that could not be recorded, says so, and is gone on with.

use serde_json::Value;
use std::process::{Command, Stdio};
use vsgpu_tests::lab::small_fleet::{count, small};
use vsgpu_tests::lab::{Lab, programs};

/// Runs `vsgpu apply` with a fault injected into its n-th call on the journal.
fn apply_with(lab: &Lab, fault: &str) -> (Option<i32>, String) {
    // Only calls on this file count.
    let journal = lab.folder.join(".vsgpu/fleet/run-000001.journal");
    let output = Command::new("strace")
        .args([
            "-f",
            "-qq",
            "-o",
            "/dev/null",
            "-e",
            "trace=write,fdatasync",
            "-e",
            &format!("inject={fault}"),
            "-P",
        ])
        .arg(&journal)
        .arg(programs().join("vsgpu"))
        .args(["apply", "--yes"])
        .current_dir(&lab.folder)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_journal_that_cannot_be_written_stops_the_run_before_the_effect() {
    let works = Command::new("strace")
        .args(["-qq", "-o", "/dev/null", "-e", "inject=getuid:retval=0", "true"])
        .output();
    if !works.is_ok_and(|o| o.status.success()) {
        println!("SKIPPED: strace (Debian's package strace) is not here, or must not trace");
        return;
    }
    for (at, fault) in [
        (2, "fdatasync:error=EIO"),
        (6, "fdatasync:error=EIO"),
        (3, "write:error=ENOSPC"),
        (7, "write:error=ENOSPC"),
        (24, "write:error=ENOSPC"),
    ] {
        let lab = small(&format!("disk-{at}"));
        let (status, said) = apply_with(&lab, &format!("{fault}:when={at}+"));
        assert_eq!(status, Some(1), "{fault} at {at}: {said}");
        assert!(
            said.contains("run-000001.journal: ") && said.contains("nothing is done that cannot be recorded"),
            "{said}"
        );
        // What the journal does not say was begun was not done, on any node.
        let state: Value = serde_json::from_slice(&lab.vsgpu(&["status", "-o", "json"]).stdout).unwrap();
        let steps = state["steps"].as_array().unwrap().iter().filter(|s| s["state"]["state"] == "waiting");
        let waiting: Vec<String> = steps
            .map(|s| format!("{} {}", s["node"].as_str().unwrap(), s["title"].as_str().unwrap()))
            .collect();
        assert!(!waiting.is_empty(), "{state:#}");
        let calls = [lab.changing_calls("esx-01"), lab.changing_calls("vm-01")].concat();
        for (title, call) in [
            ("esx-01 vgpu-manager", "component apply"),
            ("esx-01 reboot", "shutdown reboot"),
            ("esx-01 graphics-type", "graphics host set"),
            ("vm-01 (guest) build-tools", "apt-get install"),
            ("vm-01 (guest) driver", "-grid.run --silent"),
            ("vm-01 (guest) cuda-toolkit", "cuda_12.2.2_535.104.05_linux.run --silent"),
        ] {
            assert!(
                !waiting.iter().any(|w| w == title) || count(&calls, call) == 0,
                "{fault} at {at}: {title} waits, and {calls:#?}"
            );
        }
        lab.expect(0, &["apply", "--yes"]);
        lab.expect(0, &["verify"]);
        println!("{fault} at {at}: exit {status:?}, {} changes before", calls.len());
        assert_eq!(count(&lab.calls("esx-01"), "component apply"), 1);
        assert_eq!(count(&lab.calls("esx-01"), "shutdown reboot"), 1);
    }
}
