//! PCI devices of a VM, beside the GPUs of its host and who holds them.

use crate::esxcli;
use crate::facts::pci_gpus::{PciGpu, PciGpus};
use crate::facts::virtual_machines::{VirtualMachine, VirtualMachines};
use crate::facts::vm_config::{VmConfig, find};
use crate::pci_slots::{Slot, slots};
use crate::vm_gpu::{VmGpu, settle_choices};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use vsgpu_core::gpu_selector::{Candidate, GpuChoice};
use vsgpu_core::readers::vmx;
use vsgpu_core::{Fact, Observation, Probe, Subject, Unreadable};

/// VMs of one host whose `.vmx` is read to see who holds which GPU.
const MOST_VMS: usize = 512;

/// A VM's configuration beside the GPUs of its host and who holds them.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct VmDevices {
    /// The VM.
    #[serde(flatten)]
    pub config: VmConfig,
    /// NVIDIA's display controllers of the host.
    pub gpus: Vec<PciGpu>,
    /// NVIDIA's other devices (NVSwitches, sound functions), by address: they are none of ours.
    #[serde(default)]
    pub no_gpus: Vec<String>,
    /// The host's UUID, which a fixed device names; empty where vCenter does not say it.
    pub system_id: String,
    /// GPUs by address that other VMs of the host have in their `.vmx`, with the VM's name.
    pub held: BTreeMap<String, String>,
}

const UUID: [&str; 3] = ["system", "uuid", "get"];

fn others<'a>(on: &Subject, all: &'a VirtualMachines) -> impl Iterator<Item = &'a VirtualMachine> {
    let own = on.vm.clone();
    all.vms.iter().filter(move |vm| !vm.infrastructure && Some(&vm.name) != own.as_ref()).take(MOST_VMS)
}

/// A `.vmx` that cannot be read is one VM whose devices are not known: that is no reason to know nothing.
pub(crate) fn slots_of(vmx_file: &str, seen: &Observation) -> BTreeMap<u32, Slot> {
    seen.file(vmx_file).ok().flatten().map(|text| slots(&vmx::read(text.as_bytes()))).unwrap_or_default()
}

impl Fact for VmDevices {
    const NAME: &'static str = "vm-devices";
    const ABOUT: &'static str = "PCI devices of the VM, beside the GPUs of its host and who holds them";
    fn probes(on: &Subject, seen: &Observation) -> Vec<Probe> {
        let mut probes =
            [VmConfig::probes(on, seen), PciGpus::ask(seen), esxcli::probes(&UUID, seen)].concat();
        if let Ok(all) = VirtualMachines::parse(on, seen) {
            probes.extend(others(on, &all).map(|vm| Probe::Read(vm.vmx.clone())));
        }
        probes
    }
    fn parse(on: &Subject, seen: &Observation) -> Result<Self, Unreadable> {
        find(on, seen)?;
        // vCenter says it only of hosts that have something to pass through; what needs it asks for it.
        let system_id = match esxcli::is_without_answer(&UUID, seen) {
            true => String::new(),
            false => esxcli::parsed(&UUID, seen, |records| {
                let word = records.first().map(|r| r.title.trim().to_lowercase()).unwrap_or_default();
                let right = word.len() == 36 && word.chars().all(|c| c.is_ascii_hexdigit() || c == '-');
                if right { Ok(word) } else { Err("the answer is no UUID".into()) }
            })?,
        };
        let mut held = BTreeMap::new();
        for vm in others(on, &VirtualMachines::parse(on, seen)?) {
            for slot in slots_of(&vm.vmx, seen).into_values() {
                if let Slot::Fixed { at: Some(at), .. } = slot {
                    held.insert(at.to_string(), vm.name.clone());
                }
            }
        }
        let bus = PciGpus::parse(on, seen)?;
        let gpus = bus.gpus().into_iter().cloned().collect();
        let others = bus.devices.iter().filter(|d| !d.is_gpu()).map(|d| d.address.clone());
        let no_gpus = others.chain(bus.virtual_functions.iter().cloned()).collect();
        Ok(Self { config: VmConfig::parse(on, seen)?, gpus, no_gpus, system_id, held })
    }
    fn sentence(&self) -> Option<String> {
        let one = |(gpu, vm): (&String, &String)| format!("{vm} has {gpu}");
        let none = "no other VM of its host has a whole GPU";
        Some(vsgpu_core::words::first(self.held.iter().map(one), 8, none))
    }
}

impl VmDevices {
    /// Slots with a whole GPU of NVIDIA.
    pub(crate) fn current(&self) -> BTreeMap<u32, Slot> {
        let ours = |slot: &Slot| match slot {
            Slot::Fixed { at: Some(at), .. } => {
                slot.is_nvidia_gpu() && !self.no_gpus.contains(&at.to_string())
            }
            other => other.is_nvidia_gpu(),
        };
        slots(&self.config.keys).into_iter().filter(|(_, slot)| ours(slot)).collect()
    }

    /// The GPUs that these wishes mean, as indexes of `gpus`, and the dynamic wishes.
    pub(crate) fn chosen<'a>(&self, spec: &'a [VmGpu]) -> Result<(Vec<usize>, Vec<&'a str>), String> {
        let fixed: Vec<GpuChoice> = spec
            .iter()
            .filter_map(|w| if let VmGpu::Fixed(choice) = w { Some(choice.clone()) } else { None })
            .collect();
        let dynamic = spec
            .iter()
            .filter_map(|w| if let VmGpu::Dynamic { dynamic } = w { Some(dynamic.as_str()) } else { None })
            .collect();
        let own: Vec<String> = self
            .current()
            .into_values()
            .filter_map(|s| if let Slot::Fixed { at, .. } = s { at } else { None })
            .map(|at| at.to_string())
            .collect();
        let picked =
            settle_choices(&fixed, &self.gpus, &own, &self.held.keys().cloned().collect::<Vec<_>>())?;
        Ok((picked, dynamic))
    }

    /// GPUs that these wishes give the VM.
    pub fn wished(&self, spec: &[VmGpu]) -> Result<Vec<Candidate<'_>>, String> {
        let (fixed, dynamic) = self.chosen(spec)?;
        let of_dynamic = |ids: &str| {
            let device = ids.split_once(':')?.1;
            self.gpus.iter().find(|g| g.device_id.as_deref() == Some(device)).map(PciGpu::candidate)
        };
        let mut all: Vec<Candidate<'_>> = fixed.into_iter().map(|at| self.gpus[at].candidate()).collect();
        for ids in dynamic {
            all.push(of_dynamic(ids).ok_or_else(|| format!("this host has no GPU {ids}"))?);
        }
        Ok(all)
    }

    /// GPUs that the VM has now.
    pub fn has(&self) -> Vec<Candidate<'_>> {
        let of = |slot: Slot| match slot {
            Slot::Fixed { at, .. } => {
                self.gpus.iter().find(|g| at.map(|a| a.to_string()).as_deref() == Some(&g.address))
            }
            Slot::Dynamic(allowed) => self.gpus.iter().find(|g| {
                allowed.iter().any(|ids| ids.split_once(':').map(|p| p.1) == g.device_id.as_deref())
            }),
            Slot::Vgpu(_) | Slot::Other => None,
        };
        self.current().into_values().filter_map(of).map(PciGpu::candidate).collect()
    }

    pub(crate) fn is_right(&self, slot: &Slot, gpu: &PciGpu) -> bool {
        matches!(slot, Slot::Fixed { at: Some(at), vendor, device, system }
            if at.to_string() == gpu.address && *vendor == gpu.vendor_id && Some(device) == gpu.device_id.as_ref() && (self.system_id.is_empty() || system.eq_ignore_ascii_case(&self.system_id)))
    }
}
