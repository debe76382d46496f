//! What a host, a VM and its guest say of themselves, decoded once for all signs, and the questions that
//! several signs ask.

use crate::fleet::{DriverCatalogue, Fleet, Vm};
use crate::inventory::{Inventory, Seen};
use crate::node::{NodeId, NodeKind};
use std::sync::Arc;
use vsgpu_core::Fact;
use vsgpu_guest_agent::facts::{Clock, Health};
use vsgpu_guest_agent::guest::build_tools::BuildToolsFact;
use vsgpu_guest_agent::guest::driver::DriverFact;
use vsgpu_guest_agent::guest::license::LicenseFact;
use vsgpu_guest_agent::guest::nouveau::NouveauFact;
use vsgpu_host_agent::facts::{Gpus, HostSummary, VgpuTypes, VirtualMachines, VmConfig, VmDevices};
use vsgpu_host_agent::host::mig::MigFact;
use vsgpu_host_agent::host::{HostGraphics, HostPassthrough, MaintenanceModeFact, VgpuManagerFact};
use vsgpu_host_agent::pci_slots::{Slot, slots};
use vsgpu_host_agent::vm::PowerState;

/// What is known of a host, read once for all its VMs.
#[derive(Default)]
pub struct HostFacts {
    pub(super) name: String,
    pub(super) vms: Option<VirtualMachines>,
    pub(super) graphics: Option<HostGraphics>,
    pub(super) passthrough: Option<HostPassthrough>,
    pub(super) manager: Option<VgpuManagerFact>,
    pub(super) types: Option<VgpuTypes>,
    pub(super) mig: Option<MigFact>,
    pub(super) gpus: Option<Gpus>,
    pub(super) summary: Option<HostSummary>,
    pub(super) maintenance: Option<MaintenanceModeFact>,
}

impl HostFacts {
    pub fn of(name: &str, seen: Option<&Seen>) -> Self {
        Self {
            name: name.into(),
            vms: fact(seen),
            graphics: fact(seen),
            passthrough: fact(seen),
            manager: fact(seen),
            types: fact(seen),
            mig: fact(seen),
            gpus: fact(seen),
            summary: fact(seen),
            maintenance: fact(seen),
        }
    }
}

/// What is known of a VM and its guest.
#[derive(Default)]
pub struct VmFacts {
    pub(super) name: String,
    pub(super) guest_name: String,
    pub(super) devices: Option<VmDevices>,
    /// The keys that requirements without devices read.
    pub(super) config: Option<VmConfig>,
    pub(super) running: Option<bool>,
    pub(super) to_run: bool,
    /// The fleet file wants it off.
    pub(super) meant_off: bool,
    pub(super) driver: Option<DriverFact>,
    pub(super) health: Option<Health>,
    pub(super) nouveau: Option<NouveauFact>,
    pub(super) license: Option<LicenseFact>,
    pub(super) tools: Option<BuildToolsFact>,
    pub(super) clock: Option<Clock>,
    /// NVIDIA's own list of pairs, where the operator has it.
    pub(super) catalogue: Option<Arc<DriverCatalogue>>,
    /// When the facts were gathered, by the controller's clock.
    pub(super) at: u64,
}

impl VmFacts {
    pub fn of(fleet: &Fleet, vm: &Vm, host: &HostFacts, inventory: &Inventory) -> Self {
        let (node, of_guest) = (NodeId::new(NodeKind::Vm, &vm.name), NodeId::new(NodeKind::Guest, &vm.name));
        let (seen, guest) = (inventory.seen(&node), inventory.seen(&of_guest));
        let listed = host.vms.iter().flat_map(|all| &all.vms).find(|v| v.name == vm.vm_name);
        Self {
            name: node.to_string(),
            guest_name: of_guest.to_string(),
            devices: fact(seen),
            config: fact(seen),
            running: listed.map(|v| v.running),
            to_run: vm.is_to_run(),
            meant_off: vm.power == Some(PowerState::Off),
            driver: fact(guest),
            health: fact(guest),
            nouveau: fact(guest),
            license: fact(guest),
            tools: fact(guest),
            clock: fact(guest),
            catalogue: fleet.catalogue.clone(),
            at: inventory.at,
        }
    }

    pub(super) fn slots(&self) -> Vec<Slot> {
        self.devices.iter().flat_map(|d| slots(&d.config.keys).into_values()).collect()
    }

    pub(super) fn profiles(&self) -> Vec<String> {
        let profile = |slot| if let Slot::Vgpu(profile) = slot { Some(profile) } else { None };
        self.slots().into_iter().filter_map(profile).collect()
    }

    pub(super) fn has_whole_gpu(&self) -> bool {
        self.fixed().next().is_some()
            || self.slots().iter().any(|slot| matches!(slot, Slot::Dynamic(_)) && slot.is_nvidia_gpu())
    }

    /// Whole GPUs that the VM's file names by their address; NVSwitches and sound functions are none.
    pub(super) fn fixed(&self) -> impl Iterator<Item = String> {
        let is_gpu = |at: &String| self.devices.as_ref().is_none_or(|d| !d.no_gpus.contains(at));
        let address = |slot| match slot {
            Slot::Fixed { at, .. } => at.map(|at| at.to_string()),
            _ => None,
        };
        self.slots().into_iter().filter(Slot::is_nvidia_gpu).filter_map(address).filter(is_gpu)
    }

    pub(super) fn has_gpu(&self) -> bool {
        self.has_whole_gpu() || !self.profiles().is_empty()
    }

    /// It does not run, and nobody wants it off.
    pub(super) fn is_down(&self) -> bool {
        self.running == Some(false) && !self.meant_off
    }

    /// As much memory is reserved as it has, pinned or not.
    pub(super) fn reserves_all(&self) -> bool {
        let config = self.config.as_ref();
        let least = config.and_then(|c| c.keys.get("sched.mem.min")?.parse::<u64>().ok());
        least.zip(config).is_some_and(|(least, config)| least >= config.memory_mib)
    }

    pub(super) fn key(&self, key: &str) -> bool {
        self.devices
            .as_ref()
            .and_then(|d| d.config.keys.get(key))
            .is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }

    /// The driver's module is on disk for the running kernel and not loaded.
    pub(super) fn module_waits(&self) -> bool {
        self.driver.as_ref().is_some_and(|d| d.modules.is_empty() && d.module_version.is_some())
    }
}

fn fact<F: Fact>(seen: Option<&Seen>) -> Option<F> {
    seen?.fact().ok()
}

/// A host by itself, or with one of its VMs.
pub struct Machines<'a> {
    pub host: &'a HostFacts,
    pub vm: Option<&'a VmFacts>,
}
