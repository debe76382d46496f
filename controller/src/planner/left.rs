//! What runs took and have not given back: our own by the journal, anybody's by what the hosts' agents keep. Another run's is shown,
//! never touched, until somebody says that it is taken over.

use super::{Planner, whole};
use crate::error::{Error, Kind};
use crate::fleet::{Fleet, NodeId, NodeKind};
use crate::inventory::{Inventory, Reach, Seen};
use crate::plan::{Leftovers, Plan};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use vsgpu_core::text::sentence;
use vsgpu_core::units::OnOff;
use vsgpu_host_agent::host::{MAINTENANCE_MODE, MaintenanceModeFact, VirtualMachines};
use vsgpu_host_agent::vm::{POWER, PowerState};
use vsgpu_proto::client::{Description, Holder};
use vsgpu_proto::taken::Taken;

/// What an earlier run took and is really still taken: the world may have given it back, or the fleet file no longer wants it. Where it
/// is not known how the taking ended, a look does not settle it: a VM may still be shutting down.
pub fn still_taken(fleet: &Fleet, inventory: &Inventory, left: Leftovers) -> Leftovers {
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
    /// A look has shown it so; else it was only about to happen.
    pub seen: bool,
    /// Whose run is at work on the host now, whether it is this one or another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_work: Option<String>,
}

/// What a host's agent keeps.
pub fn of_host(host: &str, taken: &[Taken], holder: Option<&Holder>) -> Vec<Left> {
    let at_work = holder.filter(|h| h.is_live()).map(|h| h.name.clone());
    let left = |t: &Taken| Left {
        host: host.into(),
        what: t.what.clone(),
        vm: t.vm.clone(),
        run: t.run.clone(),
        since: t.since,
        seen: t.seen,
        at_work: at_work.clone(),
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

/// For whom did not do it: what of each host is taken, by which run, and what to do. A paragraph for each host and run.
pub fn told<'a>(all: impl IntoIterator<Item = &'a Left>, now: u64) -> Vec<String> {
    let mut by_run: BTreeMap<(&str, &str), Vec<&Left>> = BTreeMap::new();
    for left in all {
        by_run.entry((&left.host, &left.run)).or_default().push(left);
    }
    by_run.values().map(|of_run| paragraph(of_run, now)).collect()
}

fn paragraph(all: &[&Left], now: u64) -> String {
    let host = &all[0].host;
    let mut lines = vec![];
    let of_host = |left: &&&Left| left.what == MAINTENANCE_MODE;
    if let Some(left) = all.iter().find(of_host) {
        lines.push(format!("{host} {} IN MAINTENANCE MODE", if left.seen { "IS" } else { "MAY BE" }));
    }
    for seen in [true, false] {
        let vms: Vec<String> = all.iter().filter(|left| !of_host(left) && left.seen == seen).map(|left| sentence(&left.vm)).collect();
        if !vms.is_empty() {
            let verb = if seen { "SHUT DOWN" } else { "MAY BE SHUT DOWN" };
            lines.push(format!("{verb} on {host}: {}", some_of(&vms)));
        }
    }
    let since = all.iter().map(|left| left.since).min().unwrap_or(now);
    lines.push(format!("  for {}, by {}", span(now.saturating_sub(since)), all[0].run));
    lines.push(format!("  {}", all[0].who_is_there()));
    lines.extend(all[0].advice().into_iter().map(|advice| format!("  {advice}")));
    lines.join("\n")
}

/// The first names of many.
pub fn some_of(names: &[String]) -> String {
    const NAMED: usize = 5;
    let more = if names.len() > NAMED { format!(" and {} more", names.len() - NAMED) } else { String::new() };
    format!("{}{more}", names[..names.len().min(NAMED)].join(", "))
}

impl Left {
    /// Who is at the host.
    fn who_is_there(&self) -> String {
        match &self.at_work {
            Some(who) => format!("{who} works on it now"),
            None => "no vsgpu works on it now; a person may".into(),
        }
    }

    /// What to do.
    pub fn advice(&self) -> Vec<String> {
        let host = &self.host;
        match self.at_work {
            Some(_) => vec!["wait for that; `vsgpu status` where it runs shows how far it is".into()],
            None => vec![
                "ask whose run that was: somebody may be at the hardware; then there: `vsgpu abort`".into(),
                format!("if that machine or its records are gone: `vsgpu abort --adopt {host}`"),
            ],
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
    let blocked = |why: &str| Error::new(Kind::Blocked, format!("{node}: the host is in maintenance mode{why}: nothing is planned for it"));
    let holder = seen.holder.as_ref().filter(|h| h.is_live());
    match (left.iter().find(|left| left.what == MAINTENANCE_MODE), holder) {
        (Some(first), _) => {
            let error = blocked(" through another run").code("left-behind").detail(format!(
                "for {}, by {}",
                span(now.saturating_sub(first.since)),
                first.run
            ));
            first.advice().into_iter().fold(error.detail(first.who_is_there()), Error::hint)
        }
        // It may be about to say so.
        (None, Some(holder)) => {
            blocked("").code("taken-over").detail(format!("{} works on it now", holder.name)).hint("wait until that is done")
        }
        // An agent before this version, or one that lost what it kept, has no record either.
        (None, None) => blocked(", and its agent has no record of a run that did it").code("maintenance-mode").hint(
            "look at its tasks in the vSphere Client, and ask; only then, on the host: `esxcli system maintenanceMode set --enable false`",
        ),
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
    /// The host.
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
        let step = planner.maintenance(&node, OnOff::Off, vec![]);
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
        // One that the fleet file does not name gets a name that none in it can have.
        let name = known.map_or_else(|| format!("{host}: {}", sentence(&t.vm)), |vm| vm.name.clone());
        let id = NodeId::new(NodeKind::Vm, &name);
        let step = planner.power(&id, planner.start(), None, after.clone());
        planner.steps[step - 1].rescue = true;
        planner.steps[step - 1].host = host.into();
        if known.is_some() {
            left.stopped.insert(id.name.clone());
        }
        vms.push(t.vm.clone());
        if known.is_none() {
            strangers.push((id, Reach { address: address.clone(), node: host.into(), role: "host".into(), vm: Some(t.vm.clone()) }));
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

    #[test]
    fn an_adoption_asks_for_its_host_and_forgets_nothing_of_ours() -> Result<(), Vec<Error>> {
        let text = "version: 1\nhosts:\n  esx-01: { address: a:1 }\n  esx-05: { address: b:1 }\n";
        let fleet = crate::spec::from_text(std::path::Path::new("f.yaml"), text)?;
        let taken = |what: &str, vm: &str| Taken {
            what: what.into(),
            vm: vm.into(),
            run: "r".into(),
            holder: "h".into(),
            since: 1,
            seen: true,
            gone: 0,
        };
        let of = |taken: Vec<Taken>| {
            let mut inventory = Inventory::default();
            inventory.nodes.insert(NodeId::new(NodeKind::Host, "esx-01"), Ok(Seen { taken, ..Seen::default() }));
            adopt(&fleet, &inventory, "esx-01")
        };
        let own = || Leftovers { in_maintenance: BTreeSet::from(["esx-05".into()]), ..Leftovers::default() };
        let vm_only = of(vec![taken(POWER, "web")]).beside(own());
        assert_eq!(vm_only.question(), "power on web there?", "esx-01 is not in maintenance mode");
        assert!(vm_only.left.in_maintenance.contains("esx-05"));
        assert!(vm_only.left.stopped.is_empty(), "a VM that the fleet file does not name is no name of it");
        let both = of(vec![taken(POWER, "web"), taken(MAINTENANCE_MODE, "")]).beside(own());
        assert_eq!(both.question(), "end maintenance mode on esx-01 and power on web there?");
        assert_eq!(both.left.in_maintenance.len(), 2);
        Ok(())
    }
}
