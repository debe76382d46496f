//! The VMs registered on a host, and which of them run.

use crate::esxcli;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use vsgpu_core::readers::vim_cmd;
use vsgpu_core::{Command, Fact, Observation, Probe, Subject, Unreadable};

pub(crate) const RUNNING: [&str; 3] = ["vm", "process", "list"];

/// `vim-cmd vmsvc/getallvms`.
pub(crate) fn all_vms() -> Command {
    Command::new("vim-cmd", ["vmsvc/getallvms"])
}

/// All VMs of a host.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct VirtualMachines {
    /// Registered ones.
    pub vms: Vec<VirtualMachine>,
}

/// One VM.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct VirtualMachine {
    /// hostd's number.
    pub vmid: u32,
    /// Display name.
    pub name: String,
    /// `.vmx` file, absolute.
    pub vmx: String,
    /// Whether it runs.
    pub running: bool,
    /// A VM of vSphere itself (vCLS): it is no workload, and maintenance mode takes care of it.
    pub infrastructure: bool,
}

/// vSphere Cluster Services: by their name, or because they live on no datastore.
fn is_infrastructure(name: &str, datastore: &str) -> bool {
    name.starts_with("vCLS") || datastore.is_empty()
}

/// Absolute path of a VM's `.vmx`. Infrastructure VMs have an absolute one already.
pub(crate) fn vmx_path(vm: &vim_cmd::ListedVm) -> String {
    if vm.datastore.is_empty() {
        vm.file.clone()
    } else {
        format!("/vmfs/volumes/{}/{}", vm.datastore, vm.file)
    }
}

/// Names and `.vmx` files of running VMs, from `esxcli vm process list`.
pub(crate) fn running(seen: &Observation) -> Result<Vec<(String, String)>, Unreadable> {
    let records = esxcli::answer(&RUNNING, seen)?;
    let vm = |r: &vsgpu_core::readers::esxcli::Record| {
        let name = r.get("Display Name").unwrap_or(&r.title).to_string();
        (name, r.get("Config File").unwrap_or_default().to_string())
    };
    Ok(records.iter().map(vm).filter(|(name, _)| !is_infrastructure(name, "a datastore")).collect())
}

impl Fact for VirtualMachines {
    const NAME: &'static str = "virtual-machines";
    const ABOUT: &'static str = "VMs registered on the host, and which of them run";
    fn probes(_: &Subject, seen: &Observation) -> Vec<Probe> {
        let mut probes = esxcli::probes(&RUNNING, seen);
        probes.push(Probe::Run(all_vms()));
        probes
    }
    fn parse(_: &Subject, seen: &Observation) -> Result<Self, Unreadable> {
        let output = seen.output(&all_vms())?;
        let text = seen.stdout(&all_vms())?;
        let listed = vim_cmd::all_vms(text).map_err(|why| Unreadable::of(&all_vms(), output, why))?;
        let running = running(seen)?;
        // The process list names the datastore by its id, the inventory by its name: the end of the path is
        // the same.
        let runs = |vm: &vim_cmd::ListedVm| {
            running
                .iter()
                .any(|(name, file)| *name == vm.name && (file.is_empty() || file.ends_with(&vm.file)))
        };
        let vm = |vm: &vim_cmd::ListedVm| VirtualMachine {
            vmid: vm.vmid,
            name: vm.name.clone(),
            vmx: vmx_path(vm),
            running: runs(vm),
            infrastructure: is_infrastructure(&vm.name, &vm.datastore),
        };
        Ok(Self { vms: listed.iter().map(vm).collect() })
    }
    fn sentence(&self) -> Option<String> {
        let running = self.vms.iter().filter(|vm| vm.running).count();
        Some(format!("{}, {running} running", vsgpu_core::words::counted(self.vms.len(), "VM")))
    }
}
