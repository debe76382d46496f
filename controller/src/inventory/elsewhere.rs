//! VMs that are not where the fleet file says: moved by vMotion or DRS, or a wrong line. All hosts were asked, so where
//! they are is known.

use crate::fleet::Fleet;
use crate::inventory::seen::Inventory;
use crate::node::{NodeId, NodeKind};
use std::collections::{BTreeMap, HashMap};
use vsgpu_host_agent::facts::VirtualMachines;

/// By name in the fleet file: the host on which such a VM is registered. One that is nowhere, or whose own host did not
/// answer, is not among them.
pub fn elsewhere(fleet: &Fleet, inventory: &Inventory) -> BTreeMap<String, String> {
    let mut on: HashMap<String, Vec<&str>> = HashMap::new();
    let mut answered: BTreeMap<&str, ()> = BTreeMap::new();
    for host in &fleet.hosts {
        let node = NodeId::new(NodeKind::Host, &host.name);
        let Ok(listed) = inventory.fact::<VirtualMachines>(&node) else { continue };
        answered.insert(&host.name, ());
        for vm in listed.vms {
            on.entry(vm.name).or_default().push(&host.name);
        }
    }
    let moved =
        fleet.vms.iter().filter(|vm| answered.contains_key(vm.host.as_str())).filter_map(|vm| {
            match on.get(&vm.vm_name)?.as_slice() {
                [only] if *only != vm.host => Some((vm.name.clone(), only.to_string())),
                _ => None,
            }
        });
    moved.collect()
}
