//! Which VMs of a host have a GPU or a vGPU in their `.vmx`, whether they run or not.

use crate::facts::virtual_machines::{VirtualMachine, VirtualMachines};
use crate::pci_slots::{Slot, slots};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use vsgpu_core::readers::vmx;
use vsgpu_core::{Fact, Observation, Probe, Subject, Unreadable};

/// VMs whose `.vmx` is read.
const MOST_VMS: usize = 512;

/// Users of GPUs.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct GpuUsers {
    /// VMs that have any.
    pub vms: Vec<GpuUser>,
}

/// One VM.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct GpuUser {
    /// Display name.
    pub vm: String,
    /// Whether it runs.
    pub running: bool,
    /// Whole GPUs, by address.
    pub fixed: Vec<String>,
    /// Whole GPUs by vendor and device (Dynamic DirectPath), one entry each; alternatives are separated by
    /// commas.
    pub dynamic: Vec<String>,
    /// vGPU profiles.
    pub vgpus: Vec<String>,
}

fn users(all: &VirtualMachines) -> impl Iterator<Item = &VirtualMachine> {
    all.vms.iter().filter(|vm| !vm.infrastructure).take(MOST_VMS)
}

impl Fact for GpuUsers {
    const NAME: &'static str = "gpu-users";
    const ABOUT: &'static str = "VMs that have a GPU or a vGPU, running or not";
    fn probes(on: &Subject, seen: &Observation) -> Vec<Probe> {
        let mut probes = VirtualMachines::probes(on, seen);
        if let Ok(all) = VirtualMachines::parse(on, seen) {
            probes.extend(users(&all).map(|vm| Probe::Read(vm.vmx.clone())));
        }
        probes
    }
    fn parse(on: &Subject, seen: &Observation) -> Result<Self, Unreadable> {
        let user = |vm: &VirtualMachine| {
            // A `.vmx` that cannot be read hides one VM, not all of them.
            let text = seen.file(&vm.vmx).ok().flatten().unwrap_or_default();
            let mut user = GpuUser {
                vm: vm.name.clone(),
                running: vm.running,
                fixed: vec![],
                dynamic: vec![],
                vgpus: vec![],
            };
            for slot in slots(&vmx::read(text.as_bytes())).into_values() {
                let whole_gpu = slot.is_nvidia_gpu();
                match slot {
                    Slot::Vgpu(profile) => user.vgpus.push(profile),
                    Slot::Fixed { at: Some(at), .. } if whole_gpu => user.fixed.push(at.to_string()),
                    Slot::Dynamic(allowed) if whole_gpu => user.dynamic.push(allowed.join(",")),
                    Slot::Fixed { .. } | Slot::Dynamic(_) | Slot::Other => {}
                }
            }
            user
        };
        let has_any =
            |user: &GpuUser| !(user.fixed.is_empty() && user.dynamic.is_empty() && user.vgpus.is_empty());
        Ok(Self { vms: users(&VirtualMachines::parse(on, seen)?).map(user).filter(has_any).collect() })
    }
    fn sentence(&self) -> Option<String> {
        let one = |user: &GpuUser| {
            let whole = user.fixed.len() + user.dynamic.len();
            let has = match (user.vgpus.as_slice(), whole) {
                ([], n) => vsgpu_core::words::counted(n, "whole GPU"),
                (types, 0) => types.join(" + "),
                (types, n) => {
                    format!("{} + {}", types.join(" + "), vsgpu_core::words::counted(n, "whole GPU"))
                }
            };
            format!("{} ({has}{})", user.vm, if user.running { "" } else { ", off" })
        };
        Some(vsgpu_core::words::first(self.vms.iter().map(one), 8, "no VM has a GPU"))
    }
}
