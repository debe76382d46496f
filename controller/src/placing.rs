//! Where new VMs go: one that is to be made (`clone-of`), may be on any of several hosts and is on none yet is placed
//! where its GPUs fit beside what is there. Nothing that is there is moved. Where nothing fits, the first host stays, and
//! whoever looks at it says why it cannot be.

use crate::capacity;
use crate::fit::{self, Part, Want};
use crate::fleet::{Fleet, Vm};
use crate::inventory::{Inventory, Scope, gather};
use crate::node::{NodeId, NodeKind};
use crate::plan::settled;
use std::collections::{BTreeMap, BTreeSet};
use vsgpu_core::gpu_selector::GpuChoice;
use vsgpu_host_agent::facts::VirtualMachines;
use vsgpu_host_agent::host::MaintenanceModeFact;
use vsgpu_host_agent::vm::{CloneOf, PowerState, VmPassthrough};
use vsgpu_host_agent::vm_gpu::VmGpu;
use vsgpu_wire::client::Connector;

/// Looks at the hosts of VMs that are on none, and sets their host. `homeless`: by their names in the fleet file.
pub async fn place_new(fleet: &mut Fleet, connector: &Connector, homeless: &BTreeSet<String>) {
    let is_new = |vm: &&Vm| homeless.contains(&vm.name) && vm.specs.has::<CloneOf>() && !vm.any.is_empty();
    let new: BTreeSet<String> = fleet.vms.iter().filter(is_new).map(|vm| vm.name.clone()).collect();
    if new.is_empty() {
        return;
    }
    let hosts: BTreeSet<String> =
        fleet.vms.iter().filter(|vm| new.contains(&vm.name)).flat_map(|vm| vm.any.iter().cloned()).collect();
    let of_them = |id: &NodeId| id.kind == NodeKind::Host && hosts.contains(&id.name);
    let inventory = gather(fleet, connector, Scope::Room, &of_them).await;
    place(fleet, &inventory, new);
}

/// Pure: one question for all that may be on the same hosts. `new`: VMs that have no host yet.
fn place(fleet: &mut Fleet, inventory: &Inventory, mut new: BTreeSet<String>) {
    let bases = bases(fleet, inventory);
    let away = in_maintenance(fleet, inventory);
    let mut groups: BTreeMap<Vec<String>, Vec<Vm>> = BTreeMap::new();
    for vm in fleet.vms.iter().filter(|vm| new.contains(&vm.name)) {
        // Room is kept for one that is not to run yet.
        let vm = Vm { power: Some(PowerState::On), ..vm.clone() };
        groups.entry(candidates(&vm, &bases, &away)).or_default().push(vm);
    }
    for (hosts, vms) in groups {
        let of_group = |name: &String| hosts.contains(name);
        let mut around = fleet.clone();
        around.hosts.retain(|host| of_group(&host.name));
        // Where those of other groups go is not known yet.
        around.vms.retain(|vm| !new.contains(&vm.name) && of_group(&vm.host));
        let own: BTreeSet<String> = vms.iter().map(|vm| vm.name.clone()).collect();
        let mut wishes = around.clone();
        wishes.vms = vms;
        wishes.vms.iter_mut().for_each(|vm| vm.host.clone_from(&hosts[0]));
        // Models become addresses: a GPU that somebody is to have is not free.
        let around = settled(&around, inventory);
        let wants: Vec<Want> = wanted(&wishes);
        let asked = capacity::of(&around, inventory, &wants, true);
        let placed = fit::without_moves(&asked.problem, asked.now);
        let mut chosen: BTreeMap<&str, String> = BTreeMap::new();
        for (at, want) in asked.problem.wants.iter().enumerate() {
            let host = placed.place_of(at).map(|place| asked.problem.hosts[place.host].name.clone());
            chosen.extend(host.map(|host| (want.vm.as_str(), host)));
        }
        for vm in fleet.vms.iter_mut().filter(|vm| own.contains(&vm.name)) {
            // A VM that wants no GPU may be anywhere: the first host will do.
            vm.host = chosen.get(vm.name.as_str()).unwrap_or(&hosts[0]).clone();
        }
        new.retain(|name| !own.contains(name));
    }
}

/// What they want: whole GPUs by a model's name have no address before they are dealt.
fn wanted(wishes: &Fleet) -> Vec<Want> {
    let mut wants = capacity::of_file(wishes);
    for vm in &wishes.vms {
        let models = vm.spec::<VmPassthrough>().into_iter().flatten().filter_map(|gpu| match gpu {
            VmGpu::Fixed(GpuChoice::Model { model, count }) => Some((model, count)),
            _ => None,
        });
        let parts: Vec<Part> = models
            .flat_map(|(model, count)| (0..count.unwrap_or(1)).map(move |_| Part::Whole(Some(model.clone()))))
            .collect();
        if parts.is_empty() {
            continue;
        }
        match wants.iter_mut().find(|want| want.vm == vm.name) {
            Some(want) => want.parts.extend(parts),
            None => {
                wants.push(Want { vm: vm.name.clone(), parts, memory_mib: None, host: None, apart: vec![] })
            }
        }
    }
    wants
}

/// Hosts on which nothing new is made.
fn in_maintenance(fleet: &Fleet, inventory: &Inventory) -> BTreeSet<String> {
    let is = |host: &&crate::fleet::Host| {
        let fact = inventory.fact::<MaintenanceModeFact>(&NodeId::new(NodeKind::Host, &host.name));
        fact.is_ok_and(|fact| fact.enabled)
    };
    fleet.hosts.iter().filter(is).map(|host| host.name.clone()).collect()
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

/// The hosts on which a VM can be made: those with its base, where that is a VM; of those the ones that are in use.
fn candidates(vm: &Vm, bases: &BTreeMap<String, BTreeSet<String>>, away: &BTreeSet<String>) -> Vec<String> {
    let base = vm.spec::<CloneOf>().and_then(|spec| bases.get(&spec.base));
    let some = |hosts: Vec<String>, which: &dyn Fn(&String) -> bool| -> Vec<String> {
        let found: Vec<String> = hosts.iter().filter(|host| which(host)).cloned().collect();
        if found.is_empty() { hosts } else { found }
    };
    let all = match base {
        Some(base) => some(vm.any.clone(), &|host| base.contains(host)),
        None => vm.any.clone(),
    };
    some(all, &|host| !away.contains(host))
}
