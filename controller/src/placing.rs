//! Where new VMs go: one that is to be made (`clone-of`), may be on any of several hosts and is on none yet is placed
//! where its GPUs fit beside what is there. Nothing that is there is moved. Where nothing fits, the first host stays, and
//! whoever looks at it says why it cannot be.

use crate::capacity;
use crate::fit::{self, Want};
use crate::fleet::{Fleet, Vm};
use crate::inventory::{Inventory, Scope, gather};
use crate::node::{NodeId, NodeKind};
use std::collections::{BTreeMap, BTreeSet};
use vsgpu_host_agent::facts::VirtualMachines;
use vsgpu_host_agent::vm::CloneOf;
use vsgpu_wire::client::Connector;

/// Looks at the hosts of VMs that are on none, and sets their host. `homeless`: by their names in the fleet file.
pub async fn place_new(fleet: &mut Fleet, connector: &Connector, homeless: &BTreeSet<String>) {
    let new: BTreeSet<&str> =
        fleet.vms.iter().filter(|vm| is_new(vm, homeless)).map(|vm| vm.name.as_str()).collect();
    if new.is_empty() {
        return;
    }
    let hosts: BTreeSet<String> = fleet
        .vms
        .iter()
        .filter(|vm| new.contains(vm.name.as_str()))
        .flat_map(|vm| vm.any.iter().cloned())
        .collect();
    let of_them = |id: &NodeId| id.kind == NodeKind::Host && hosts.contains(&id.name);
    let inventory = gather(fleet, connector, Scope::Wished, &of_them).await;
    place(fleet, &inventory, homeless);
}

fn is_new(vm: &Vm, homeless: &BTreeSet<String>) -> bool {
    homeless.contains(&vm.name) && vm.specs.has::<CloneOf>() && !vm.any.is_empty()
}

/// Pure: one question for all that may be on the same hosts.
fn place(fleet: &mut Fleet, inventory: &Inventory, homeless: &BTreeSet<String>) {
    let bases = bases(fleet, inventory);
    let mut groups: BTreeMap<Vec<String>, Vec<Vm>> = BTreeMap::new();
    for vm in fleet.vms.iter().filter(|vm| is_new(vm, homeless)) {
        groups.entry(candidates(vm, &bases)).or_default().push(vm.clone());
    }
    for (hosts, new) in groups {
        let of_group = |name: &String| hosts.contains(name);
        let mut around = fleet.clone();
        around.hosts.retain(|host| of_group(&host.name));
        around.vms.retain(|vm| of_group(&vm.host) && !new.iter().any(|other| other.name == vm.name));
        let mut wishes = around.clone();
        wishes.vms.clone_from(&new);
        wishes.vms.iter_mut().for_each(|vm| vm.host.clone_from(&hosts[0]));
        let wants: Vec<Want> = capacity::of_file(&wishes);
        let asked = capacity::of(&around, inventory, &wants, true);
        let placed = fit::without_moves(&asked.problem, asked.now);
        let mut chosen: BTreeMap<&str, String> = BTreeMap::new();
        for (at, want) in asked.problem.wants.iter().enumerate() {
            let host = placed.place_of(at).map(|place| asked.problem.hosts[place.host].name.clone());
            chosen.extend(host.map(|host| (want.vm.as_str(), host)));
        }
        let own: BTreeSet<&str> = new.iter().map(|vm| vm.name.as_str()).collect();
        for vm in fleet.vms.iter_mut().filter(|vm| own.contains(vm.name.as_str())) {
            // A VM that wants no GPU may be anywhere: the first host will do.
            vm.host = chosen.get(vm.vm_name.as_str()).unwrap_or(&hosts[0]).clone();
        }
    }
}

/// VMs that could be copied where they are, and only there: by name, their hosts. A template is copied from anywhere.
fn bases(fleet: &Fleet, inventory: &Inventory) -> BTreeMap<String, BTreeSet<String>> {
    let mut all: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for host in &fleet.hosts {
        let node = NodeId::new(NodeKind::Host, &host.name);
        let listed = inventory.fact::<VirtualMachines>(&node).map(|listed| listed.vms).unwrap_or_default();
        for vm in listed.into_iter().filter(|vm| !vm.vmx.ends_with(".vmtx")) {
            all.entry(vm.name).or_default().insert(host.name.clone());
        }
    }
    all
}

/// The hosts on which a VM can be made.
fn candidates(vm: &Vm, bases: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let base = vm.spec::<CloneOf>().and_then(|spec| bases.get(&spec.base));
    let with_base = |hosts: &BTreeSet<String>| -> Vec<String> {
        vm.any.iter().filter(|host| hosts.contains(*host)).cloned().collect()
    };
    base.map(with_base).filter(|hosts| !hosts.is_empty()).unwrap_or_else(|| vm.any.clone())
}
