//! What the agents count in their metrics: the requirements that the fleet file has for them. It goes with a
//! run, once a person has agreed to it, and takes the place of what an agent counted before. An agent that
//! does not answer counts on as before, until a later run tells it. One whose machine left the fleet file is told
//! once that nothing of it is wished any more: another fleet file may have it by then.

use crate::files;
use crate::fleet::Fleet;
use crate::inventory::reaches;
use crate::node::NodeKind;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use vsgpu_wire::client::{Connection, Connector, Target, Wishes};

/// Agents told at once.
const AT_ONCE: usize = 128;

/// Which agents were told, beside the journal.
const FILE: &str = "counted.json";
/// Version of that file.
const VERSION: u32 = 1;
/// Longest one that is read: 10,000 hosts with ten VMs each.
const MAX_FILE: u64 = 32 << 20;

/// An agent that was told.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Told {
    role: String,
    node: String,
    address: String,
}

/// One whose machine left is tried so many times: it may be gone for good.
const TRIES: u32 = 5;

#[derive(Serialize, Deserialize)]
struct Known {
    version: u32,
    /// And how often it was tried since its machine left.
    agents: Vec<(Told, u32)>,
}

/// Those of earlier runs. A file that cannot be read is none: it costs a machine that left its last figures, no more.
fn known(folder: &Path) -> Vec<(Told, u32)> {
    let text = files::read_text(&folder.join(FILE), MAX_FILE).unwrap_or_default();
    let known: Option<Known> = serde_json::from_str(&text).ok();
    known.filter(|known| known.version == VERSION).map(|known| known.agents).unwrap_or_default()
}

/// A simulated fleet has no folder: then there is nothing to keep.
fn keep(folder: &Path, now: &BTreeSet<Told>, left: &BTreeMap<Told, u32>) {
    let left = left.iter().filter(|(_, tries)| **tries < TRIES).map(|(told, tries)| (told.clone(), *tries));
    let agents = now.iter().map(|told| (told.clone(), 0)).chain(left).collect();
    let text = serde_json::to_string(&Known { version: VERSION, agents }).unwrap_or_default();
    let path = folder.join(FILE);
    if files::read_text(&path, MAX_FILE).ok().as_deref() != Some(&text) {
        let _ = files::write_text(&path, &text);
    }
}

/// Tells every agent of the fleet, and those that were of it.
pub async fn tell(fleet: &Fleet, connector: &Connector) {
    let within = Duration::from_secs(fleet.deadlines.connect_secs.into());
    let (specs, places) = (fleet.specs(), Arc::new(Semaphore::new(AT_ONCE)));
    // A VM's are its host's to count.
    let mut by_agent: BTreeMap<Told, (Target, Vec<Wishes>)> = BTreeMap::new();
    for (id, reach) in reaches(fleet) {
        let target = reach.target();
        let key = Told { role: reach.role.clone(), node: reach.node.clone(), address: reach.address.clone() };
        let (_, all) = by_agent.entry(key).or_insert_with(|| (target, vec![]));
        let of_node = specs.get(&id).into_iter().flat_map(|specs| specs.iter());
        let wishes = of_node.map(|s| (s.requirement.to_string(), (*s.value).clone())).collect();
        all.push(Wishes { vm: reach.vm.filter(|_| id.kind == NodeKind::Vm), wishes });
    }
    let folder = fleet.state_folder();
    let agents: BTreeSet<Told> = by_agent.keys().cloned().collect();
    let is_there: BTreeSet<(&str, &str)> = agents.iter().map(|now| (&*now.role, &*now.node)).collect();
    let mut left: BTreeMap<Told, u32> = known(&folder)
        .into_iter()
        .filter(|(old, _)| !is_there.contains(&(&*old.role, &*old.node)))
        .map(|(old, tries)| (old, tries + 1))
        .collect();
    // Before: whoever is away may keep this from ever being done.
    keep(&folder, &agents, &left);
    for old in left.keys() {
        let role = if old.role == "host" { "host" } else { "guest" };
        let target = Target { address: old.address.clone(), node: old.node.clone(), role };
        by_agent.insert(old.clone(), (target, vec![Wishes { vm: None, wishes: vec![] }]));
    }
    let mut work = JoinSet::new();
    for (agent, (target, wishes)) in by_agent {
        let (connector, places) = (connector.clone(), places.clone());
        work.spawn(async move {
            let _place = places.acquire_owned().await;
            let connection = Connection::open(&connector, &target, within).await.ok()?;
            // An older agent does not know the call, and counts what it was told before.
            connection.remember(&wishes, within).await.ok().map(|_| agent)
        });
    }
    while let Some(told) = work.join_next().await {
        // At once: another fleet file may have it from now on.
        if told.ok().flatten().is_some_and(|agent| left.remove(&agent).is_some()) {
            keep(&folder, &agents, &left);
        }
    }
}
