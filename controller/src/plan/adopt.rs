//! The plan that restores what another run left on a host, when a person says that it is taken over.

use crate::fleet::Fleet;
use crate::inventory::Inventory;
use crate::inventory::acquired::some_of;
use crate::node::{NodeId, NodeKind, Reach};
use crate::plan::leftovers::Leftovers;
use crate::plan::planner::{Planner, whole};
use crate::plan::steps::Plan;
use std::collections::BTreeMap;
use vsgpu_core::text::sentence;
use vsgpu_core::units::OnOff;
use vsgpu_host_agent::host::MAINTENANCE_MODE;
use vsgpu_host_agent::vm::{POWER, PowerState};

/// A plan that restores what another run left, and what that is.
#[derive(Clone, Debug)]
pub struct Adoption {
    pub plan: Plan,
    /// What is taken over.
    pub left: Leftovers,
    /// VMs that are started, by their names in vSphere.
    pub vms: Vec<String>,
    pub host: String,
}

impl Adoption {
    /// What our own earlier runs left is not forgotten over it.
    pub fn beside(mut self, own: Leftovers) -> Self {
        self.left.in_maintenance.extend(own.in_maintenance);
        self.left.stopped.extend(own.stopped);
        self.left.unsettled.extend(own.unsettled);
        self.left.rebooted.extend(own.rebooted);
        self.left.held.extend(own.held);
        self
    }

    /// What is asked before.
    pub fn question(&self) -> String {
        let ends = self.plan.steps.iter().any(|step| step.leaves_maintenance());
        let maintenance = ends.then(|| format!("end maintenance mode on {}", self.host));
        let vms: Vec<String> = self.vms.iter().map(|vm| sentence(vm)).collect();
        let vms = (!vms.is_empty()).then(|| format!("power on {} there", some_of(&vms)));
        format!("{}?", maintenance.into_iter().chain(vms).collect::<Vec<_>>().join(" and "))
    }
}

/// The plan for a host, from what its agent keeps; without steps where nothing was left. VMs that the fleet
/// file does not name are started as well: they were stopped for this host.
pub fn adopt(fleet: &Fleet, inventory: &Inventory, host: &str) -> Adoption {
    let node = NodeId::new(NodeKind::Host, host);
    let temporary = inventory.seen(&node).map(|seen| seen.temporary.as_slice()).unwrap_or_default();
    let none = Leftovers::default();
    let mut planner = Planner::new(fleet, inventory, &none, BTreeMap::new(), BTreeMap::new());
    let mut left = Leftovers::default();
    let mut after = vec![];
    if temporary.iter().any(|t| t.what == MAINTENANCE_MODE) {
        let step = planner.maintenance(&node, OnOff::Off, true, vec![]);
        planner.steps[step - 1].restores_earlier = true;
        after = vec![step];
        left.in_maintenance.insert(host.into());
    }
    let mut strangers: Vec<(NodeId, Reach)> = vec![];
    let mut vms = vec![];
    let address = fleet.hosts.iter().find(|h| h.name == host).map(|h| h.address.clone()).unwrap_or_default();
    for t in temporary.iter().filter(|t| t.what == POWER && !t.vm.is_empty()) {
        let known = fleet.vms.iter().find(|vm| vm.may_be_on(host) && vm.vm_name == t.vm);
        // One that the fleet file wants off stays off.
        if known.is_some_and(|vm| vm.power == Some(PowerState::Off)) {
            continue;
        }
        // One that the fleet file does not name gets a name that none in it can have.
        let name = known.map_or_else(|| format!("{host}: {}", sentence(&t.vm)), |vm| vm.name.clone());
        let id = NodeId::new(NodeKind::Vm, &name);
        let step = planner.power(&id, planner.start(), None, after.clone());
        planner.steps[step - 1].restores_earlier = true;
        planner.steps[step - 1].host = host.into();
        if known.is_some() {
            left.stopped.insert(id.name.clone());
        }
        vms.push(t.vm.clone());
        if known.is_none() {
            strangers.push((
                id,
                Reach {
                    address: address.clone(),
                    node: host.into(),
                    role: "host".into(),
                    vm: Some(t.vm.clone()),
                },
            ));
        }
    }
    let mut plan = whole(fleet, inventory, planner.steps, 0);
    plan.reaches.extend(strangers);
    Adoption { plan, left, vms, host: host.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use crate::inventory::Seen;
    use std::collections::BTreeSet;
    use vsgpu_wire::acquired::TemporaryChange;

    #[test]
    fn an_adoption_asks_for_its_host_and_forgets_nothing_of_ours() -> Result<(), Vec<Error>> {
        let text = "version: 1\nhosts:\n  esx-01: { address: a:1 }\n  esx-05: { address: b:1 }\n";
        let fleet = crate::fleet::file::from_text(std::path::Path::new("f.yaml"), text)?;
        let temporary = |what: &str, vm: &str| TemporaryChange {
            what: what.into(),
            vm: vm.into(),
            run: "r".into(),
            holder: "h".into(),
            since: 1,
            seen: true,
            gone: 0,
        };
        let of = |temporary: Vec<TemporaryChange>| {
            let mut inventory = Inventory::default();
            inventory
                .nodes
                .insert(NodeId::new(NodeKind::Host, "esx-01"), Ok(Seen { temporary, ..Seen::default() }));
            adopt(&fleet, &inventory, "esx-01")
        };
        let own = || Leftovers { in_maintenance: BTreeSet::from(["esx-05".into()]), ..Leftovers::default() };
        let vm_only = of(vec![temporary(POWER, "web")]).beside(own());
        assert_eq!(vm_only.question(), "power on web there?", "esx-01 is not in maintenance mode");
        assert!(vm_only.left.in_maintenance.contains("esx-05"));
        assert!(vm_only.left.stopped.is_empty(), "a VM that the fleet file does not name is no name of it");
        let both = of(vec![temporary(POWER, "web"), temporary(MAINTENANCE_MODE, "")]).beside(own());
        assert_eq!(both.question(), "end maintenance mode on esx-01 and power on web there?");
        assert_eq!(both.left.in_maintenance.len(), 2);
        Ok(())
    }
}
