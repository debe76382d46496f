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
    /// hostd's numbers of registered VMs that it cannot read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub invalid: Vec<u32>,
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
pub(crate) fn is_infrastructure(name: &str, datastore: &str) -> bool {
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

/// `2, 7`.
pub(crate) fn numbers(vmids: &[u32]) -> String {
    vmids.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")
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
        Ok(Self { vms: listed.iter().map(vm).collect(), invalid: vim_cmd::invalid_vms(&output.both()) })
    }
    fn sentence(&self) -> Option<String> {
        let running = self.vms.iter().filter(|vm| vm.running).count();
        let vms = vsgpu_core::words::counted(self.vms.len(), "VM");
        let invalid = match self.invalid.as_slice() {
            [] => String::new(),
            some => format!("; hostd cannot read {} more (number {})", some.len(), numbers(some)),
        };
        Some(format!("{vms}, {running} running{invalid}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::vm_config::find;
    use vsgpu_core::ExitKind;
    use vsgpu_core::Output;
    use vsgpu_core::observation::Answer;

    fn seen(listing: &str) -> Observation {
        let ran = |text: &str| {
            Answer::Ran(Output { ended: ExitKind::Status(0), stdout: text.into(), stderr: String::new() })
        };
        let mut seen = Observation::default();
        seen.0.insert(Probe::Run(all_vms()), ran(listing));
        let list = Command::new("esxcli", ["--formatter=xml", "vm", "process", "list"]);
        seen.0.insert(Probe::Run(list), ran(""));
        seen
    }

    /// hostd leaves such a VM out of its table: whoever looks for it is told of it.
    #[test]
    fn a_vm_that_hostd_cannot_read_is_named() {
        let table = "Vmid   Name    File                     Guest OS          Version   Annotation\n1      vm-01   [ds1] vm-01/vm-01.vmx   ubuntu64Guest     vmx-20\n";
        let seen = seen(&format!("Skipping invalid VM '2'\n{table}"));
        let fact = VirtualMachines::parse(&Subject::node(), &seen).unwrap();
        assert_eq!((fact.vms.len(), &fact.invalid[..]), (1, &[2][..]));
        assert!(fact.sentence().is_some_and(|s| s.contains("number 2")));
        let why = find(&Subject::vm("vm-02"), &seen).unwrap_err().message;
        assert!(why.contains("cannot read VM 2") && why.contains("vm-02"), "{why}");
        assert!(find(&Subject::vm("vm-01"), &seen).is_ok());
    }
}
