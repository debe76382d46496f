//! Golden conversations: everything a user sees, on a small simulated fleet. `VSGPU_ACCEPT=1 cargo test -p
//! vsgpu-tests --test screens` accepts changes. And stored formats: what an earlier version wrote must still
//! read.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout, reason = "test code")]

use vsgpu::journal::{self, Folder};
use vsgpu_tests::lab::{Lab, files, workspace};

/// What changes from run to run is named instead.
fn steady(lab: &Lab, text: &str) -> String {
    let mut text = text.replace(&lab.folder.display().to_string(), "LAB");
    // How long it took is another matter each time.
    let lines = text.lines().map(|line| {
        let cut = |mark: &str| line.find(mark).map(|at| format!("{}{mark}..", &line[..at]));
        cut(" steps done, in ").or_else(|| cut(": took ")).unwrap_or_else(|| line.to_string())
    });
    text = lines.collect::<Vec<_>>().join("\n") + if text.ends_with('\n') { "\n" } else { "" };
    for name in ["esx-01", "vm-01"] {
        text = text.replace(&lab.address(name), &format!("ADDRESS-OF-{name}"));
    }
    text
}

fn golden(name: &str, text: &str) {
    let path = workspace().join("tests/data/golden").join(name);
    if std::env::var_os("VSGPU_ACCEPT").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let stored = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        stored == text,
        "{} differs; VSGPU_ACCEPT=1 accepts\n--- stored\n{stored}\n--- now\n{text}",
        path.display()
    );
}

#[test]
fn everything_a_user_sees() {
    let lab = Lab::new("screens");
    lab.host("esx-01", "8.0.2", vec![files::a100("0000:3b:00.0")]);
    lab.vm("vm-01", "esx-01");
    files::write_all(&lab.folder.join("files"));
    lab.write_fleet(&format!(
        "version: 1\nhosts:\n  esx-01:\n    address: {}\n    graphics-type: SharedPassthru\n    vgpu-manager: {{ package: files/{}, datastore: datastore1 }}\nvms:\n  vm-01:\n    host: esx-01\n    vgpu: [nvidia_a100-40c]\n    guest:\n      address: {}\n      driver: {{ package: files/{} }}\n      license: {{ token: files/{} }}\n      cuda-toolkit: {{ package: files/{} }}\n",
        lab.address("esx-01"), files::MANAGER_16_6, lab.address("vm-01"), files::DRIVER_16_6, files::TOKEN_FILE, files::CUDA_12_2
    ));
    lab.start();
    let mut screen = String::new();
    for (status, args) in [
        (0, vec!["validate"]),
        (3, vec!["verify"]),
        (0, vec!["status"]),
        (3, vec!["plan"]),
        (3, vec!["plan", "--commands"]),
        (0, vec!["apply", "--yes"]),
        (0, vec!["verify"]),
        (0, vec!["verify", "-o", "wide"]),
        (0, vec!["status"]),
        (0, vec!["status", "1", "-o", "wide"]),
        (0, vec!["facts"]),
        (0, vec!["plan"]),
        (0, vec!["export"]),
        (2, vec!["plan", "nowhere.yaml"]),
        (2, vec!["facts", "-n", "esx-1"]),
    ] {
        screen += &format!("$ vsgpu {}\n{}\n", args.join(" "), lab.expect(status, &args));
    }
    let stored = workspace().join("tests/data/formats/v2/run-000001.journal");
    if std::env::var_os("VSGPU_ACCEPT").is_some() && !stored.exists() {
        std::fs::copy(lab.folder.join(".vsgpu/fleet/run-000001.journal"), stored).unwrap();
    }
    golden("journey.txt", &steady(&lab, &screen));
}

/// Written by version 0.1.0 with format 2 and never changed since: a journal that ended, and a saved plan.
#[test]
fn stored_formats_still_read() {
    let formats = Folder(workspace().join("tests/data/formats/v2"));
    let run = journal::latest(&formats).unwrap().unwrap();
    assert_eq!(
        (run.number, run.status.plan.version, run.status.steps.len()),
        (1, 2, run.status.plan.steps.len())
    );
    assert!(
        run.status.steps.iter().all(|s| matches!(s, journal::StepState::Done { .. }))
            && run.status.ended.is_some()
    );
    assert!(vsgpu::journal::outstanding(&run.status).in_maintenance.is_empty() && run.damage.is_none());
    // The same plan, through the file of `plan --out`.
    let plan: vsgpu::plan::Plan =
        serde_json::from_str(&serde_json::to_string(&run.status.plan).unwrap()).unwrap();
    assert_eq!(plan, run.status.plan);
}

/// Written with format 1, before there was a rollout in a plan: refused in so many words, never misread.
#[test]
fn a_format_of_another_version_is_refused_cleanly() {
    let folder = Folder(workspace().join("tests/data/formats/v1"));
    let error = journal::latest(&folder).err().expect("refused");
    assert!(error.message.contains("another version of vsgpu (format 1, this one reads 2)"), "{error}");
    assert!(error.hints[0].contains("--abandon"), "{error:?}");
}
