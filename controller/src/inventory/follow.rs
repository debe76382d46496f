//! VMs that may run on any of several hosts (`host: { any: [..] }`) are followed: each is where the hosts say
//! that it is registered. DRS and vMotion move them; the fleet file stays.

use crate::fleet::Fleet;
use crate::inventory::gather::{Scope, gather};
use crate::node::{NodeId, NodeKind};
use std::collections::{BTreeSet, HashMap};
use vsgpu_host_agent::facts::VirtualMachines;
use vsgpu_wire::client::Connector;

/// Sets the host of each such VM. One that is on none of its hosts, or on two, stays where the fleet file
/// names it first: what is wrong there is said by whoever looks at it. Gives those that are on none, though all their
/// hosts answered, by their names in the fleet file.
pub async fn follow(fleet: &mut Fleet, connector: &Connector) -> BTreeSet<String> {
    let candidates: BTreeSet<String> = fleet.vms.iter().flat_map(|vm| &vm.any).cloned().collect();
    if candidates.is_empty() {
        return BTreeSet::new();
    }
    let of_any = |id: &NodeId| id.kind == NodeKind::Host && candidates.contains(&id.name);
    let inventory = gather(fleet, connector, Scope::WhichVms, &of_any).await;
    let mut on: HashMap<String, Vec<String>> = HashMap::new();
    let mut silent: BTreeSet<&String> = BTreeSet::new();
    for host in &candidates {
        let node = NodeId::new(NodeKind::Host, host);
        let Ok(listed) = inventory.fact::<VirtualMachines>(&node) else {
            silent.insert(host);
            continue;
        };
        for vm in listed.vms {
            on.entry(vm.name).or_default().push(host.clone());
        }
    }
    let mut nowhere = BTreeSet::new();
    for vm in fleet.vms.iter_mut().filter(|vm| !vm.any.is_empty()) {
        // One of the same name on a host that is none of its own is another VM.
        let own: Vec<&String> =
            on.get(&vm.vm_name).into_iter().flatten().filter(|h| vm.any.contains(h)).collect();
        match own.as_slice() {
            [only] => vm.host.clone_from(only),
            [] if !vm.any.iter().any(|host| silent.contains(host)) => drop(nowhere.insert(vm.name.clone())),
            _ => {}
        }
    }
    nowhere
}
