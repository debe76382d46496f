//! The smallest fleet that has everything: one host, one VM, its guest.

use super::{Lab, files};

/// One host, one VM: enough for every error branch.
pub fn small(name: &str) -> Lab {
    let lab = Lab::new(name);
    lab.host("esx-01", "8.0.2", vec![files::a100("0000:3b:00.0")]);
    lab.vm("vm-01", "esx-01");
    files::write_all(&lab.folder.join("files"));
    lab.write_fleet(&small_fleet(&lab, ""));
    lab.start();
    lab
}

pub fn small_fleet(lab: &Lab, more: &str) -> String {
    format!(
        "version: 1\ndeadlines: {{ host-reboot-secs: 20, guest-boot-secs: 20 }}\nhosts:\n  esx-01:\n    address: {}\n    graphics-type: SharedPassthru\n    vgpu-manager: {{ package: files/{}, datastore: datastore1 }}\nvms:\n  vm-01:\n    host: esx-01\n    vgpu: [nvidia_a100-40c]\n    shutdown-secs: 2\n{more}    guest:\n      address: {}\n      driver: {{ package: files/{} }}\n      license: {{ token: files/{}, wait-secs: 3 }}\n      cuda-toolkit: {{ package: files/{} }}\n",
        lab.address("esx-01"),
        files::MANAGER_16_6,
        lab.address("vm-01"),
        files::DRIVER_16_6,
        files::TOKEN_FILE,
        files::CUDA_12_2
    )
}

pub fn count(calls: &[String], what: &str) -> usize {
    calls.iter().filter(|c| c.contains(what)).count()
}

/// A fault of a tool of a machine, from now on.
pub fn fault(lab: &Lab, machine: &str, call: &str, fault: crate::fakes::state::Fault) {
    lab.change(machine, |m| drop(m.faults.insert(call.into(), fault)));
}

/// Starts the controller and keeps what it says.
pub fn begin(lab: &Lab, args: &[&str]) -> std::process::Child {
    use std::process::Stdio;
    lab.command(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// How a controller that was begun ended: its exit status, and all that it said.
pub fn end(child: std::process::Child) -> (Option<i32>, String) {
    let output = child.wait_with_output().unwrap();
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.code(), said)
}
