//! What runs took and have not given back: our own by the journal, anybody's by what the hosts' agents keep. Another run's is shown,
//! never touched, until somebody says that it is taken over.

use super::{Planner, maintenance_spec, whole};
use crate::error::{Error, Kind};
use crate::fleet::{Fleet, NodeId, NodeKind};
use crate::inventory::{Inventory, Reach, Seen};
use crate::plan::{Leftovers, Plan};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use vsgpu_core::text::sentence;
use vsgpu_host_agent::host::{MAINTENANCE_MODE, VirtualMachines};
use vsgpu_host_agent::vm::{POWER, PowerState};
use vsgpu_proto::client::{Description, Holder};
use vsgpu_proto::taken::Taken;

/// What an earlier run took and is really still taken: the world may have given it back, or the fleet file no longer wants it. Where it
/// is not known how the taking ended, a look does not settle it: a VM may still be shutting down.
pub fn still_taken(fleet: &Fleet, inventory: &Inventory, left: Leftovers) -> Leftovers {
    let fact = |host: &str, name: &str| inventory.seen(&NodeId::new(NodeKind::Host, host))?.facts.get(name)?.as_ref().ok();
    let unsettled = |kind: NodeKind, name: &str| left.unsettled.contains(&NodeId::new(kind, name));
    let in_maintenance = |host: &String| {
        let out = fact(host, "maintenance-mode").and_then(|f| f["enabled"].as_bool()) == Some(false);
        fleet.hosts.iter().any(|h| h.name == *host) && (!out || unsettled(NodeKind::Host, host))
    };
    let stopped = |name: &String| {
        let Some(vm) = fleet.vms.iter().find(|vm| vm.name == *name) else { return false };
        let listed = fact(&vm.host, "virtual-machines").and_then(|f| serde_json::from_value::<VirtualMachines>(f.clone()).ok());
        let runs = listed.is_some_and(|l| l.vms.iter().any(|v| v.name == vm.vm_name && v.running));
        vm.power != Some(PowerState::Off) && (!runs || unsettled(NodeKind::Vm, name))
    };
    let in_maintenance: BTreeSet<String> = left.in_maintenance.iter().filter(|host| in_maintenance(host)).cloned().collect();
    let stopped: BTreeSet<String> = left.stopped.iter().filter(|vm| stopped(vm)).cloned().collect();
    let still =
        |node: &NodeId| if node.kind == NodeKind::Host { in_maintenance.contains(&node.name) } else { stopped.contains(&node.name) };
    Leftovers {
        unsettled: left.unsettled.into_iter().filter(still).collect(),
        in_maintenance,
        stopped,
        rebooted: left.rebooted,
        held: left.held,
    }
}

/// One thing of a host that a run took, as its agent keeps it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Left {
    /// The host.
    pub host: String,
    /// `maintenance-mode`, or `power` of a VM.
    pub what: String,
    /// The VM's display name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub vm: String,
    /// The run, with who ran it.
    pub run: String,
    /// Since when, seconds since 1970 by the host's clock.
    pub since: u64,
    /// Somebody may still be at work there.
    pub at_work: bool,
}

/// What a host's agent keeps.
pub fn of_host(host: &str, taken: &[Taken], holder: Option<&Holder>) -> Vec<Left> {
    let at_work = |run: &str| holder.is_some_and(|h| h.is_live() && run.starts_with(&h.name));
    let left = |t: &Taken| Left {
        host: host.into(),
        what: t.what.clone(),
        vm: t.vm.clone(),
        run: t.run.clone(),
        since: t.since,
        at_work: at_work(&t.run),
    };
    let mut all: Vec<Left> = taken.iter().map(left).collect();
    // The host before its VMs.
    all.sort_by(|a, b| (&a.vm, &a.what).cmp(&(&b.vm, &b.what)));
    all
}

/// The same of what it says of itself.
pub fn described(host: &str, said: &Description) -> Vec<Left> {
    of_host(host, &said.taken, said.holder.as_ref())
}

impl Left {
    /// A line of its own, for who did not do it.
    pub fn line(&self, now: u64) -> String {
        let what = if self.what == MAINTENANCE_MODE {
            format!("{} IS IN MAINTENANCE MODE", self.host)
        } else {
            format!("{} (on {}) IS SHUT DOWN", sentence(&self.vm), self.host)
        };
        format!("{what} through {}", self.whose(now))
    }

    /// By whom, for how long, and whether somebody is at it.
    fn whose(&self, now: u64) -> String {
        let at = if self.at_work { "which is at work there now" } else { "nobody is at work there now" };
        format!("{}, for {}; {at}", self.run, span(now.saturating_sub(self.since)))
    }

    /// What to do.
    pub fn advice(&self) -> String {
        match self.at_work {
            true => "wait until it is done; `vsgpu status` where it runs shows how far it is".into(),
            false => format!(
                "`vsgpu resume` where it ran goes on with it; if that is gone: `vsgpu abort --adopt {}` leaves maintenance mode and starts the VMs that were stopped",
                self.host
            ),
        }
    }
}

/// A time in words.
pub fn span(secs: u64) -> String {
    match secs {
        0..=59 => "less than a minute".into(),
        60..=7_199 => format!("{} min", secs / 60),
        7_200..=172_799 => format!("{} h {} min", secs / 3_600, secs / 60 % 60),
        _ => format!("{} days", secs / 86_400),
    }
}

/// Why nothing is planned for a host that somebody else holds in maintenance mode.
pub(super) fn foreign(node: &NodeId, seen: &Seen, now: u64) -> Error {
    let left = of_host(&node.name, &seen.taken, seen.holder.as_ref());
    match left.iter().find(|left| left.what == MAINTENANCE_MODE) {
        Some(left) => Error::new(Kind::Blocked, format!("{node}: the host is in maintenance mode through {}", left.whose(now)))
            .code("left-behind")
            .hint(left.advice()),
        None => Error::new(
            Kind::Blocked,
            format!("{node}: somebody put the host into maintenance mode, not a run of vsgpu: its VMs cannot be started"),
        )
        .code("maintenance-mode")
        .hint("when whoever did it is done: `esxcli system maintenanceMode set --enable false`"),
    }
}

/// A plan that gives back what another run left, and what that is.
#[derive(Clone, Debug)]
pub struct Adoption {
    /// The plan.
    pub plan: Plan,
    /// What is taken over.
    pub left: Leftovers,
    /// VMs that are started, by their names in vSphere.
    pub vms: Vec<String>,
}

/// The plan for a host, from what its agent keeps; without steps where nothing was taken. VMs that the fleet file does not name are
/// started as well: they were stopped for this host.
pub fn adopt(fleet: &Fleet, inventory: &Inventory, host: &str) -> Adoption {
    let node = NodeId::new(NodeKind::Host, host);
    let taken = inventory.seen(&node).map(|seen| seen.taken.as_slice()).unwrap_or_default();
    let none = Leftovers::default();
    let mut planner = Planner::new(fleet, inventory, &none, BTreeMap::new(), BTreeMap::new());
    let mut left = Leftovers::default();
    let mut after = vec![];
    if taken.iter().any(|t| t.what == MAINTENANCE_MODE) {
        let spec = maintenance_spec("off", fleet.deadlines.maintenance_secs);
        let step = planner.switch(&node, MAINTENANCE_MODE, spec, json!({ "enabled": true, "running": [] }), vec![]);
        planner.steps[step - 1].rescue = true;
        after = vec![step];
        left.in_maintenance.insert(host.into());
    }
    let mut strangers: Vec<(NodeId, Reach)> = vec![];
    let mut vms = vec![];
    let address = fleet.hosts.iter().find(|h| h.name == host).map(|h| h.address.clone()).unwrap_or_default();
    for t in taken.iter().filter(|t| t.what == POWER && !t.vm.is_empty()) {
        let known = fleet.vms.iter().find(|vm| vm.host == host && vm.vm_name == t.vm);
        // One that the fleet file wants off stays off.
        if known.is_some_and(|vm| vm.power == Some(PowerState::Off)) {
            continue;
        }
        let id = NodeId::new(NodeKind::Vm, known.map_or(t.vm.as_str(), |vm| vm.name.as_str()));
        let step = planner.switch(&id, POWER, planner.start(), Value::Null, after.clone());
        planner.steps[step - 1].rescue = true;
        planner.steps[step - 1].host = host.into();
        left.stopped.insert(id.name.clone());
        vms.push(t.vm.clone());
        if known.is_none() {
            strangers.push((id, Reach { address: address.clone(), node: host.into(), role: "host".into(), vm: Some(t.vm.clone()) }));
        }
    }
    let mut plan = whole(fleet, inventory, planner.steps, 0);
    plan.reaches.extend(strangers);
    Adoption { plan, left, vms }
}
