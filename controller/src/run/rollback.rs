//! The way back from a run: the specs that its steps found before.

use crate::fleet::Fleet;
use crate::journal::Status;
use crate::node::{NodeId, NodeKind};
use crate::plan::Step;
use std::collections::BTreeMap;

/// What the way back from a run wishes, and what there is no way back from.
pub fn way_back(fleet: &Fleet, status: &Status) -> (Fleet, Vec<String>) {
    use crate::fleet::{Spec, Specs};
    use crate::plan::Work;
    let mut back = fleet.clone();
    let mut lost = vec![];
    let catalogue = crate::catalogue::catalogue();
    let mut touched: BTreeMap<&NodeId, Vec<&Step>> = BTreeMap::new();
    for (step, _) in status.plan.steps.iter().zip(&status.steps).filter(|(_, state)| state.begun()) {
        touched.entry(&step.node).or_default().push(step);
    }
    let mut of = |kind: NodeKind, name: &str| -> Specs {
        let mut specs = vec![];
        for step in touched.get(&NodeId::new(kind, name)).into_iter().flatten() {
            let Work::Meet { requirement, .. } = &step.work else { continue };
            let Some(entry) = catalogue.find(kind.scope(), requirement).filter(|e| e.is_key) else {
                continue;
            };
            match &step.before {
                Some(before) => specs.push(Spec { requirement: entry.name, value: before.clone() }),
                None => lost.push(format!("{}: {}: {}", step.node, step.title, step.change)),
            }
        }
        specs.into_iter().collect()
    };
    for host in &mut back.hosts {
        host.specs = of(NodeKind::Host, &host.name);
    }
    for vm in &mut back.vms {
        vm.specs = of(NodeKind::Vm, &vm.name);
        if let Some(guest) = &mut vm.guest {
            guest.specs = of(NodeKind::Guest, &vm.name);
        }
    }
    let untouched = |vm: &&crate::fleet::Vm| !touched.contains_key(&NodeId::new(NodeKind::Guest, &vm.name));
    back.stay = fleet.vms.iter().filter(untouched).map(|vm| vm.name.clone()).collect();
    (back, lost)
}
