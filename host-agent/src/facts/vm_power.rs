//! Power of a VM.

use crate::facts::virtual_machines::VirtualMachines;
use crate::facts::vm_config::{find, state};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use vsgpu_core::readers::vim_cmd;
use vsgpu_core::{Fact, Observation, Probe, Subject, Unreadable};

/// Power state of a VM.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct VmPower {
    /// hostd's number.
    pub vmid: u32,
    /// `on`, `off` or `suspended`.
    pub state: String,
}

impl Fact for VmPower {
    const NAME: &'static str = "vm-power";
    const ABOUT: &'static str = "Power state of the VM";
    fn probes(on: &Subject, seen: &Observation) -> Vec<Probe> {
        let mut probes = VirtualMachines::probes(on, seen);
        if let Ok(vm) = find(on, seen) {
            probes.push(Probe::Run(state(vm.vmid)));
        }
        probes
    }
    fn parse(on: &Subject, seen: &Observation) -> Result<Self, Unreadable> {
        let vm = find(on, seen)?;
        let command = state(vm.vmid);
        let state = vim_cmd::power_state(seen.stdout(&command)?)
            .map_err(|why| Unreadable::new(format!("`{command}`: {why}")))?;
        Ok(Self { vmid: vm.vmid, state: state.into() })
    }
    fn sentence(&self) -> Option<String> {
        Some(self.state.clone())
    }
}
