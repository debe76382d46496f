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
        "version: 1\ndeadlines: {{ host-reboot-secs: 20, guest-boot-secs: 20 }}\nhosts:\n  esx-01:\n    address: {}\n    graphics-type: SharedPassthru\n    vgpu-manager: {{ package: files/{}, datastore: datastore1 }}\nvms:\n  vm-01:\n    host: esx-01\n    vgpu: [grid_a100-40c]\n    shutdown-secs: 2\n{more}    guest:\n      address: {}\n      driver: {{ package: files/{} }}\n      license: {{ token: files/{}, wait-secs: 3 }}\n      cuda-toolkit: {{ package: files/{} }}\n",
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

/// Stalls a tool of a machine: whoever calls it waits until [`clear_faults`].
pub fn stall(lab: &Lab, machine: &str, call: &str) {
    fault(lab, machine, call, crate::fakes::state::Fault::Stalled);
}

/// Takes all faults from a machine: what stalled goes on.
pub fn clear_faults(lab: &Lab, machine: &str) {
    lab.change(machine, |m| m.faults.clear());
}

/// A controller at work, and what it has said so far; killed where a test leaves it behind.
pub struct Begun {
    child: std::process::Child,
    log: std::path::PathBuf,
}

/// Starts the controller and keeps what it says.
pub fn begin(lab: &Lab, args: &[&str]) -> Begun {
    let mut child = lab.command(args);
    static NUMBER: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(1);
    let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let log = lab.folder.join(format!("said-{number}.log"));
    let file = std::fs::File::create_new(&log).unwrap();
    child.stdin(std::process::Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
    Begun { child: child.spawn().unwrap(), log }
}

impl Begun {
    /// All that it has said until now.
    pub fn said(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap()).into_owned()
    }

    /// Waits until it has said something.
    pub fn wait_for(&mut self, text: &str) {
        super::wait_until(text, std::time::Duration::from_secs(60), || {
            let ended = self.child.try_wait().unwrap();
            let said = self.said().contains(text);
            assert!(said || ended.is_none(), "ended without `{text}`: {}", self.said());
            said
        });
    }

    /// How it ended: its exit status, and all that it said.
    pub fn end(mut self) -> (Option<i32>, String) {
        let mut status = None;
        super::wait_until("its end", super::ANSWER, || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        (status.unwrap().code(), self.said())
    }

    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// Ends it at once, as a machine that loses its power would.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Its exit status, once it has ended.
    pub fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.child.try_wait().unwrap()
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
