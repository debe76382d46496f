//! A VM's registration and its `.vmx`, found by display name: the fact behind every requirement of a VM.

use crate::facts::virtual_machines::{VirtualMachine, VirtualMachines, numbers};
use crate::pci_slots::Edit;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use vsgpu_core::readers::{vim_cmd, vmx};
use vsgpu_core::{Command, Effect, Fact, Observation, Probe, Subject, Unreadable};

/// What the host knows about one VM. Keys of the `.vmx` in lower case; only those that somebody asks for.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct VmConfig {
    /// hostd's number.
    pub vmid: u32,
    /// Path of the `.vmx`.
    pub vmx: String,
    /// `bios` or `efi`.
    pub firmware: String,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Version of the virtual hardware.
    #[serde(default)]
    pub hardware_version: Option<u32>,
    /// Snapshots that the VM has.
    #[serde(default)]
    pub snapshots: usize,
    /// Keys that a requirement or a compatibility check reads.
    pub keys: BTreeMap<String, String>,
}

/// Finds the VM of the subject.
///
/// # Errors
/// Where it is not registered, or its name is not unique.
pub(crate) fn find(on: &Subject, seen: &Observation) -> Result<VirtualMachine, Unreadable> {
    let name = on.vm.as_deref().ok_or_else(|| Unreadable::new("no VM was named"))?;
    let VirtualMachines { vms, invalid } = VirtualMachines::parse(on, seen)?;
    let mut named: Vec<_> = vms.into_iter().filter(|vm| vm.name == name).collect();
    match named.len() {
        1 => Ok(named.swap_remove(0)),
        0 if !invalid.is_empty() => Err(Unreadable::new(format!(
            "no VM `{name}` is listed on this host, but hostd cannot read VM {}, which may be it: a broken line or a key twice in its .vmx, or its datastore is away (`vim-cmd vmsvc/getallvms`)",
            numbers(&invalid)
        ))),
        0 => Err(Unreadable::new(format!("no VM `{name}` is registered on this host"))),
        n => Err(Unreadable::new(format!("{n} VMs on this host are named `{name}`: rename all but one"))),
    }
}

impl VmConfig {
    /// Keys that compatibility checks read. What a requirement reads, it says itself
    /// (`Requirement::VMX_KEYS`).
    pub const KEYS: [&str; 2] = ["vhv.enable", "numa.nodeaffinity"];

    /// Effects that set keys of the `.vmx`: only while the VM is off.
    pub(crate) fn edit(&self, set: Vec<Edit>) -> Vec<Effect> {
        vec![
            Effect::Require {
                command: state(self.vmid),
                shows: "Powered off".into(),
                otherwise: "the VM is not powered off: its .vmx is not touched".into(),
            },
            Effect::ReconfigureVm { path: self.vmx.clone(), vmid: Some(self.vmid), set },
        ]
    }
}

/// `vim-cmd vmsvc/snapshot.get`.
fn snapshots(vmid: u32) -> Command {
    Command::new("vim-cmd", ["vmsvc/snapshot.get", &vmid.to_string()])
}

/// `vim-cmd vmsvc/power.getstate`.
pub(crate) fn state(vmid: u32) -> Command {
    Command::new("vim-cmd", ["vmsvc/power.getstate", &vmid.to_string()])
}

impl Fact for VmConfig {
    const NAME: &'static str = "vm-config";
    const ABOUT: &'static str =
        "Registration of the VM and what its .vmx says about firmware, memory and PCI devices";
    fn probes(on: &Subject, seen: &Observation) -> Vec<Probe> {
        let mut probes = VirtualMachines::probes(on, seen);
        if let Ok(vm) = find(on, seen) {
            probes.extend([Probe::Run(snapshots(vm.vmid)), Probe::Read(vm.vmx)]);
        }
        probes
    }
    fn parse(on: &Subject, seen: &Observation) -> Result<Self, Unreadable> {
        let vm = find(on, seen)?;
        let text = seen.file(&vm.vmx)?.ok_or_else(|| Unreadable::new(format!("{}: no such file", vm.vmx)))?;
        if let Some((key, first, second)) = vmx::twice(text.as_bytes()) {
            return Err(Unreadable::new(format!(
                "{}: `{}` is there twice, in lines {first} and {second}: hostd would not read it again; shut the VM down and delete one of them",
                vm.vmx,
                vsgpu_core::text::piece(&key, 60)
            )));
        }
        let all = vmx::read(text.as_bytes());
        // Never all of them: `guestinfo` may hold passwords.
        let wanted = |key: &str| on.vmx_keys.iter().chain(&Self::KEYS).any(|prefix| key.starts_with(prefix));
        let memory = all.get("memsize").and_then(|m| m.parse().ok());
        Ok(Self {
            vmid: vm.vmid,
            firmware: all.get("firmware").map_or("bios".into(), |f| f.to_lowercase()),
            memory_mib: memory.ok_or_else(|| Unreadable::new(format!("{}: `memSize` is missing", vm.vmx)))?,
            // Only a warning rests on it: what cannot be read is none.
            snapshots: seen.stdout(&snapshots(vm.vmid)).map_or(0, vim_cmd::snapshots),
            hardware_version: all.get("virtualhw.version").and_then(|v| v.parse().ok()),
            keys: all.into_iter().filter(|(key, _)| wanted(key)).collect(),
            vmx: vm.vmx,
        })
    }
    fn sentence(&self) -> Option<String> {
        Some(format!(
            "{} MiB of memory, {} firmware, {}{}",
            self.memory_mib,
            self.firmware,
            vsgpu_core::words::counted(self.snapshots, "snapshot"),
            self.hardware_version.map(|n| format!(", hardware version {n}")).unwrap_or_default()
        ))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A VM of today that is fit for a GPU, with these keys in its `.vmx`.
    pub(crate) fn with_keys(keys: std::collections::BTreeMap<String, String>) -> VmConfig {
        VmConfig {
            vmid: 3,
            vmx: "/vmfs/volumes/ds1/a/a.vmx".into(),
            firmware: "efi".into(),
            memory_mib: 8192,
            hardware_version: Some(19),
            snapshots: 0,
            keys,
        }
    }
}
