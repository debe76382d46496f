//! What earlier runs left behind, and what of it is really still so.

use crate::fleet::Fleet;
use crate::hold::Held;
use crate::inventory::Inventory;
use crate::node::{NodeId, NodeKind};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use vsgpu_host_agent::facts::VirtualMachines;
use vsgpu_host_agent::host::MaintenanceModeFact;
use vsgpu_host_agent::vm::PowerState;

/// What an interrupted run left behind, from the journal.
#[derive(Clone, Debug, Default)]
pub struct Leftovers {
    /// Hosts that a run brought into maintenance mode and not out again.
    pub in_maintenance: BTreeSet<String>,
    /// VMs that a run shut down and did not start again.
    pub stopped: BTreeSet<String>,
    /// Those of them of which it is not known how that ended: what an agent was asked may still come true,
    /// whatever is seen now.
    pub unsettled: BTreeSet<NodeId>,
    /// Nodes that a run rebooted for requirements which were not met afterwards.
    pub rebooted: BTreeMap<NodeId, RebootedFor>,
    /// Nodes that are not touched before a person says `vsgpu release`.
    pub held: BTreeMap<NodeId, Held>,
}

impl Leftovers {
    /// Whether the host, or a VM of it, is among it.
    pub fn concern(&self, fleet: &Fleet, host: &str) -> bool {
        self.in_maintenance.contains(host)
            || fleet.vms.iter().any(|vm| vm.host == host && self.stopped.contains(&vm.name))
    }
}

/// A reboot that did not bring what it was for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RebootedFor {
    /// The boot before it.
    pub before: String,
    /// What it was for.
    pub requirements: BTreeSet<String>,
}

/// Keeps only the leftovers that the inventory still shows. Entries whose step never finished stay: a VM may
/// still be shutting down.
pub fn still_outstanding(fleet: &Fleet, inventory: &Inventory, left: Leftovers) -> Leftovers {
    let host_node = |host: &str| NodeId::new(NodeKind::Host, host);
    let unsettled = |kind: NodeKind, name: &str| left.unsettled.contains(&NodeId::new(kind, name));
    let in_maintenance = |host: &String| {
        let out = inventory.fact::<MaintenanceModeFact>(&host_node(host)).is_ok_and(|f| !f.enabled);
        fleet.hosts.iter().any(|h| h.name == *host) && (!out || unsettled(NodeKind::Host, host))
    };
    let stopped = |name: &String| {
        let Some(vm) = fleet.vms.iter().find(|vm| vm.name == *name) else { return false };
        let listed = inventory.fact::<VirtualMachines>(&host_node(&vm.host));
        let runs = listed.is_ok_and(|l| l.vms.iter().any(|v| v.name == vm.vm_name && v.running));
        vm.power != Some(PowerState::Off) && (!runs || unsettled(NodeKind::Vm, name))
    };
    let in_maintenance: BTreeSet<String> =
        left.in_maintenance.iter().filter(|host| in_maintenance(host)).cloned().collect();
    let stopped: BTreeSet<String> = left.stopped.iter().filter(|vm| stopped(vm)).cloned().collect();
    let still = |node: &NodeId| {
        if node.kind == NodeKind::Host {
            in_maintenance.contains(&node.name)
        } else {
            stopped.contains(&node.name)
        }
    };
    Leftovers {
        unsettled: left.unsettled.into_iter().filter(still).collect(),
        in_maintenance,
        stopped,
        rebooted: left.rebooted,
        held: left.held,
    }
}
