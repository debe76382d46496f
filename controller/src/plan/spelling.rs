//! Pure: vGPU profiles as the host spells them. NVIDIA changed the family in front of its types from GRID to
//! NVIDIA between two generations, and vSphere takes the name of the host's own list only: `grid_a100-10c`,
//! and not `nvidia_a100-10c`.

use crate::fleet::Fleet;
use crate::inventory::Inventory;
use crate::node::{NodeId, NodeKind};
use std::collections::{HashMap, HashSet};
use vsgpu_core::Requirement;
use vsgpu_core::knowledge::vgpu_types::{find, of_vsphere, plain};
use vsgpu_host_agent::facts::{VgpuTypes, VirtualMachines, VmPower};
use vsgpu_host_agent::vm::{Profile, Vgpu};

/// Respells the profiles that VMs want. A VM that runs is the best proof of its own spelling, then comes the
/// host's list, then what the VM has while it is off, then a confirmed row of the table.
pub(super) fn as_the_hosts_spell(fleet: &mut Fleet, inventory: &Inventory) {
    let mut hosts: HashMap<String, Seen> = HashMap::new();
    for vm in fleet.vms.iter_mut().filter(|vm| vm.specs.has::<Vgpu>()) {
        let host = hosts.entry(vm.host.clone()).or_insert_with(|| Seen::of(&vm.host, inventory));
        let Some(mut wishes) = vm.spec::<Vgpu>() else { continue };
        let node = NodeId::new(NodeKind::Vm, &vm.name);
        // A suspended VM has been started with it, too.
        let suspended = inventory.fact::<VmPower>(&node).is_ok_and(|power| power.state == "suspended");
        let running = suspended || host.running.contains(&vm.vm_name);
        let has: HashMap<String, String> = inventory
            .fact::<<Vgpu as Requirement>::Fact>(&node)
            .ok()
            .and_then(|fact| Vgpu::as_spec(&fact))
            .into_iter()
            .flatten()
            .map(|vgpu| (plain(vgpu.profile.name()), vgpu.profile.name().to_string()))
            .collect();
        let mut changed = false;
        for wish in &mut wishes {
            let name = plain(wish.profile.name());
            let of_vm = has.get(&name);
            let of_table =
                || find(&name).filter(|row| row.basis.confirmed).map(|row| row.profile.to_string());
            let spelled = of_vm
                .filter(|_| running)
                .or_else(|| host.offers.get(&name))
                .or(of_vm)
                .cloned()
                .or_else(of_table)
                .and_then(|spelled| Profile::try_from(spelled).ok());
            if let Some(spelled) = spelled.filter(|spelled| *spelled != wish.profile) {
                wish.profile = spelled;
                changed = true;
            }
            // A VM that is off with another spelling would not start.
            if of_vm.is_some_and(|of_vm| !of_vm.eq_ignore_ascii_case(wish.profile.name())) {
                wish.exact = true;
                changed = true;
            }
        }
        if changed {
            vm.specs.set::<Vgpu>(&wishes);
        }
    }
}

/// What counts of a host, read once for all its VMs.
struct Seen {
    /// Its own names, by what is left of them without family and case.
    offers: HashMap<String, String>,
    running: HashSet<String>,
}

impl Seen {
    fn of(host: &str, inventory: &Inventory) -> Self {
        let host = NodeId::new(NodeKind::Host, host);
        let types = inventory.fact::<VgpuTypes>(&host).map(|types| types.supported).unwrap_or_default();
        let names = types.into_iter().flat_map(|gpu| gpu.names);
        let vms = inventory.fact::<VirtualMachines>(&host).map(|listed| listed.vms).unwrap_or_default();
        Self {
            offers: names.map(|name| (plain(&name), of_vsphere(&name))).collect(),
            running: vms.into_iter().filter(|vm| vm.running).map(|vm| vm.name).collect(),
        }
    }
}
