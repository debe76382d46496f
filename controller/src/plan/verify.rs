//! What `verify` means: every spec against what was seen, and what everybody expects without a key for it.

use crate::fleet::Fleet;
use crate::inventory::{Inventory, elsewhere};
use crate::node::{NodeId, NodeKind};
use serde::Serialize;
use std::collections::BTreeMap;
use vsgpu_core::judge;
use vsgpu_core::requirement::Verdict;
use vsgpu_host_agent::facts::VirtualMachines;
use vsgpu_host_agent::host::{MAINTENANCE_MODE, MaintenanceModeFact};
use vsgpu_host_agent::vm::POWER;

/// One requirement of one node, checked.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    pub node: NodeId,
    pub requirement: String,
    /// Whether it is met.
    pub met: bool,
    /// Whether the node could be asked at all.
    pub known: bool,
    pub is: String,
    /// What is wanted, where it is not met.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wants: Option<String>,
}

/// Checks every wish against what was seen.
pub fn checks(fleet: &Fleet, inventory: &Inventory) -> Vec<Check> {
    let catalogue = crate::catalogue::catalogue();
    let mut all = vec![];
    let assigned = crate::plan::assign::settled(fleet, inventory);
    let moved = elsewhere(fleet, inventory);
    for (vm, host) in &moved {
        all.push(Check {
            node: NodeId::new(NodeKind::Vm, vm),
            requirement: "host".into(),
            met: false,
            known: true,
            is: format!("on {host}"),
            wants: fleet.vms.iter().find(|v| v.name == *vm).map(crate::fleet::Vm::wished_host),
        });
    }
    for (node, specs) in assigned.specs() {
        // Its own host knows nothing of it.
        if node.kind == NodeKind::Vm && moved.contains_key(&node.name) {
            continue;
        }
        for spec in specs.iter() {
            let check = |met, is: String, wants| Check {
                node: node.clone(),
                requirement: spec.requirement.into(),
                met,
                known: true,
                is,
                wants,
            };
            let Some(entry) = catalogue.find(node.kind.scope(), spec.requirement) else { continue };
            let Some(seen) = inventory.seen(&node) else {
                all.push(Check { known: false, ..check(false, "the node could not be asked".into(), None) });
                continue;
            };
            all.push(match judge(entry, &spec.value, seen.facts.get(entry.fact.name)) {
                Verdict::Met { is } => check(true, is, None),
                Verdict::Unmet { is, wants, .. } => check(false, is, Some(wants)),
                Verdict::Waits { on, wants, .. } => check(false, on, Some(wants)),
                Verdict::Blocked { why, .. } => check(false, why, None),
            });
        }
    }
    all.extend(standing(&assigned, inventory, &moved));
    all
}

/// What no key wishes for and everybody expects: hosts out of maintenance mode, VMs that are to run running.
fn standing(fleet: &Fleet, inventory: &Inventory, moved: &BTreeMap<String, String>) -> Vec<Check> {
    let mut all = vec![];
    let by_host = fleet.vms_by_host();
    for host in &fleet.hosts {
        let node = NodeId::new(NodeKind::Host, &host.name);
        let Some(seen) = inventory.seen(&node) else { continue };
        let mut say = |node: NodeId, requirement: &str, is: &str, wants: &str| {
            all.push(Check {
                node,
                requirement: requirement.into(),
                met: false,
                known: true,
                is: is.into(),
                wants: Some(wants.into()),
            });
        };
        let listed = seen.fact::<VirtualMachines>().ok();
        let runs = |vm: &crate::fleet::Vm| {
            listed.as_ref().is_none_or(|l| l.vms.iter().any(|v| v.name == vm.vm_name && v.running))
        };
        let mut waiting = false;
        let here = by_host[host.name.as_str()].iter().copied().filter(|vm| !moved.contains_key(&vm.name));
        for vm in here.filter(|vm| vm.is_to_run()).filter(|vm| !runs(vm)) {
            say(NodeId::new(NodeKind::Vm, &vm.name), POWER, "off", "on");
            waiting = true;
        }
        if waiting && seen.fact::<MaintenanceModeFact>().is_ok_and(|f| f.enabled) {
            say(node, MAINTENANCE_MODE, "on", "off");
        }
    }
    all
}
