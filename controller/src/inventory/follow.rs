//! VMs that may run on any of several hosts (`host: { any: [..] }`) are followed: each is where the hosts say
//! that it is registered. DRS and vMotion move them; the fleet file stays.

use crate::fleet::Fleet;
use crate::inventory::gather::{Scope, gather};
use crate::node::{NodeId, NodeKind};
use std::collections::{BTreeSet, HashMap};
use vsgpu_host_agent::facts::VirtualMachines;
use vsgpu_wire::client::Connector;

/// Sets the host of each such VM. One that is on none of its hosts, or on two, stays where the fleet file
/// names it first: what is wrong there is said by whoever looks at it.
pub async fn follow(fleet: &mut Fleet, connector: &Connector) {
    let candidates: BTreeSet<String> = fleet.vms.iter().flat_map(|vm| &vm.any).cloned().collect();
    if candidates.is_empty() {
        return;
    }
    let of_any = |id: &NodeId| id.kind == NodeKind::Host && candidates.contains(&id.name);
    let inventory = gather(fleet, connector, Scope::WhichVms, &of_any).await;
    let mut on: HashMap<String, Vec<String>> = HashMap::new();
    for host in &candidates {
        let node = NodeId::new(NodeKind::Host, host);
        let Ok(listed) = inventory.fact::<VirtualMachines>(&node) else { continue };
        for vm in listed.vms {
            on.entry(vm.name).or_default().push(host.clone());
        }
    }
    for vm in fleet.vms.iter_mut().filter(|vm| !vm.any.is_empty()) {
        // One of the same name on a host that is none of its own is another VM.
        let own: Vec<&String> =
            on.get(&vm.vm_name).into_iter().flatten().filter(|h| vm.any.contains(h)).collect();
        if let [only] = own.as_slice() {
            vm.host.clone_from(only);
        }
    }
}
