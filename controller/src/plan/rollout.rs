//! In which order hosts are touched and how many at once: a canary first, then batches, healthiest first, and
//! never more of a cluster away than its budget allows. Pure: settled when the plan is made, so that `plan`
//! can show it.

use crate::fleet::{Fleet, Vm};
use crate::inventory::Inventory;
use crate::node::{NodeId, NodeKind};
use crate::plan::steps::{Cluster, Rollout, Step, Work};
use std::collections::{BTreeMap, BTreeSet};
use vsgpu_guest_agent::facts::Health;
use vsgpu_host_agent::facts::VirtualMachines;
use vsgpu_host_agent::host::MaintenanceModeFact;
use vsgpu_host_agent::vm::POWER;

/// Settles waves and budgets for the hosts that have steps.
pub fn rollout(fleet: &Fleet, inventory: &Inventory, steps: &[Step]) -> Rollout {
    let touched: BTreeSet<&str> = steps.iter().map(|s| s.host.as_str()).collect();
    let by_host = fleet.vms_by_host();
    let named =
        fleet.hosts.iter().map(|h| h.name.as_str()).enumerate().filter(|(_, host)| touched.contains(host));
    let mut ill: Vec<((usize, usize, usize), &str)> =
        named.map(|(place, host)| (health_rank(inventory, host, place, &by_host[host]), host)).collect();
    ill.sort_unstable();
    let order: Vec<&str> = ill.into_iter().map(|(_, host)| host).collect();
    let strategy = &fleet.rollout;
    let mut waves: Vec<Vec<String>> = vec![];
    let mut rest = order.as_slice();
    if let Some(canary) = strategy.canary.filter(|_| order.len() > 1) {
        let (first, others) = rest.split_at(canary.up(order.len()).min(rest.len()));
        waves.push(first.iter().map(ToString::to_string).collect());
        rest = others;
    }
    let batch = strategy.batch.map_or(rest.len(), |b| b.up(order.len())).max(1);
    waves.extend(rest.chunks(batch).map(|wave| wave.iter().map(ToString::to_string).collect()));
    not_before_its_server(steps, &mut waves);
    let mut clusters: BTreeMap<String, Cluster> = BTreeMap::new();
    for host in &fleet.hosts {
        let name = host.cluster.clone().unwrap_or_default();
        let cluster = clusters.entry(name).or_default();
        cluster.hosts.insert(host.name.clone());
        if let Some(why) = away(inventory, &host.name) {
            cluster.unavailable.insert(host.name.clone(), why);
        }
    }
    for (name, cluster) in &mut clusters {
        let share = strategy.clusters.get(name).copied().unwrap_or(strategy.max_unavailable);
        // A share of a small cluster that comes to nothing would never let anything happen.
        cluster.max_unavailable = share.down(cluster.hosts.len()).max(1);
    }
    clusters.retain(|_, c| c.hosts.iter().any(|h| touched.contains(h.as_str())));
    let stop_at_failed = strategy.stop_at_failed.up(order.len()).max(1);
    Rollout { waves, clusters, stop_at_failed }
}

/// A step that waits for a step of another host must not keep that host's wave from beginning: such a host comes
/// with the one that waits for it.
fn not_before_its_server(steps: &[Step], waves: &mut Vec<Vec<String>>) {
    let host = |id: usize| steps[id - 1].host.as_str();
    let across: BTreeSet<(&str, &str)> = steps
        .iter()
        .flat_map(|step| step.after.iter().map(move |before| (step.host.as_str(), host(*before))))
        .filter(|(waits, on)| waits != on)
        .collect();
    loop {
        let wave = |name: &str| waves.iter().position(|wave| wave.iter().any(|host| host == name));
        let late = across.iter().find_map(|(waits, on)| {
            let (waits, on_wave) = wave(waits).zip(wave(on))?;
            (on_wave > waits).then(|| (waits, on_wave, on.to_string()))
        });
        let Some((to, from, name)) = late else { break };
        waves[from].retain(|host| *host != name);
        waves[to].push(name);
    }
    waves.retain(|wave| !wave.is_empty());
}

/// Where VMs of one host move, a VM of another one that is off for its own change could lose its place to them: that host
/// counts as away meanwhile, so that both are only done at once where the cluster's budget is for two.
pub fn keep_room_for_moves(fleet: &Fleet, steps: &mut [Step]) {
    let moves = |step: &&Step| step.moves.as_deref().is_some_and(|moves| !moves.is_empty());
    let moving: BTreeSet<&str> = steps.iter().filter(moves).map(|step| step.host.as_str()).collect();
    if moving.is_empty() {
        return;
    }
    let cluster: BTreeMap<&str, Option<&str>> =
        fleet.hosts.iter().map(|host| (host.name.as_str(), host.cluster.as_deref())).collect();
    let clusters: BTreeSet<Option<&str>> =
        moving.iter().filter_map(|host| cluster.get(host).copied()).collect();
    let beside = |host: &str| cluster.get(host).is_some_and(|cluster| clusters.contains(cluster));
    let stopping: BTreeSet<String> = steps
        .iter()
        .filter(|step| step.stops_vm() && beside(&step.host))
        .map(|step| step.host.clone())
        .collect();
    for step in steps.iter_mut().filter(|step| stopping.contains(&step.host) && takes_away(step)) {
        step.disrupts = true;
    }
}

/// Whether a host cannot be used while this is done, or a VM of it.
pub fn takes_away(step: &Step) -> bool {
    match &step.work {
        Work::Meet { requirement, .. } => step.node.kind == NodeKind::Host || requirement == POWER,
        Work::Activate { .. } => step.node.kind == NodeKind::Host,
        Work::Send { .. } => false,
    }
}

/// Which hosts are away now, for a run that is gone on with.
pub fn look_again(rollout: &mut Rollout, inventory: &Inventory) {
    for cluster in rollout.clusters.values_mut() {
        let why = |host: &String| Some((host.clone(), away(inventory, host)?));
        cluster.unavailable = cluster.hosts.iter().filter_map(why).collect();
    }
}

/// Why a host is away that is up.
pub const IN_MAINTENANCE: &str = "in maintenance mode";

/// Why a host is away already.
fn away(inventory: &Inventory, host: &str) -> Option<String> {
    match inventory.nodes.get(&NodeId::new(NodeKind::Host, host)) {
        Some(Err(error)) => Some(error.message.clone()),
        Some(Ok(seen)) => {
            let maintenance = seen.fact::<MaintenanceModeFact>().is_ok_and(|f| f.enabled);
            maintenance.then(|| IN_MAINTENANCE.into())
        }
        None => None,
    }
}

/// What speaks against beginning with a host: what cannot be read of it and its VMs, findings of its GPUs,
/// then how much runs on it, then its place in the fleet file.
fn health_rank(inventory: &Inventory, host: &str, place: usize, vms: &[&Vm]) -> (usize, usize, usize) {
    let seen = inventory.seen(&NodeId::new(NodeKind::Host, host));
    let unreadable = seen.map_or(1, |s| s.facts.values().filter(|f| f.is_err()).count());
    let findings: usize = vms
        .iter()
        .filter_map(|vm| inventory.fact::<Health>(&NodeId::new(NodeKind::Guest, &vm.name)).ok())
        .map(|health| health.findings.len())
        .sum();
    let listed = seen.and_then(|s| s.fact::<VirtualMachines>().ok());
    let running = listed.map_or(0, |l| l.vms.iter().filter(|v| v.running).count());
    (unreadable + findings, running, place)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::evacuation::Moves;
    use serde_json::json;

    fn step(id: usize, kind: NodeKind, name: &str, host: &str, spec: serde_json::Value) -> Step {
        let requirement = if kind == NodeKind::Vm { POWER } else { "vgpu-scheduler" };
        Step {
            id,
            node: NodeId::new(kind, name),
            title: String::new(),
            change: "".into(),
            commands: [].into(),
            work: Work::Meet { requirement: requirement.into(), spec: spec.into(), expect: None },
            after: vec![],
            restores: None,
            restores_earlier: false,
            connect_secs: 1,
            deadline_secs: 1,
            host: host.into(),
            disrupts: false,
            moves: None,
            before: None,
        }
    }

    /// One that stops beside them in the same cluster counts as away; one elsewhere, and one that only starts, do not.
    #[test]
    fn a_vm_that_is_off_for_itself_keeps_its_place_while_others_move() -> Result<(), Vec<crate::error::Error>>
    {
        let text = "version: 1\nhosts:\n  esx-01: { address: a:1, cluster: red }\n  esx-02: { address: b:1, cluster: red }\n  esx-03: { address: c:1, cluster: blue }\n  esx-04: { address: d:1, cluster: red }\n";
        let fleet = crate::fleet::file::from_text(std::path::Path::new("f.yaml"), text)?;
        let off = json!({ "state": "off", "within-secs": 1 });
        let on = json!({ "state": "on", "within-secs": 1 });
        let mut steps = vec![
            step(1, NodeKind::Host, "esx-01", "esx-01", json!("x")),
            step(2, NodeKind::Vm, "vm-02", "esx-02", off.clone()),
            step(3, NodeKind::Vm, "vm-03", "esx-03", off),
            step(4, NodeKind::Vm, "vm-04", "esx-04", on),
        ];
        let disrupts = |steps: &[Step]| steps.iter().map(|step| step.disrupts).collect::<Vec<_>>();
        keep_room_for_moves(&fleet, &mut steps);
        assert_eq!(disrupts(&steps), [false; 4], "nobody moves");
        steps[0].moves = Some(Box::new(Moves { by_drs: vec!["vm-01".into()], ..Moves::default() }));
        keep_room_for_moves(&fleet, &mut steps);
        assert_eq!(disrupts(&steps), [false, true, false, false]);
        Ok(())
    }
}
