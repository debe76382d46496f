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

#[derive(Serialize, Deserialize)]
struct Known {
    version: u32,
    agents: BTreeSet<Told>,
}

/// Those of earlier runs. A file that cannot be read is none: it costs a machine that left its last figures, no more.
fn known(folder: &Path) -> BTreeSet<Told> {
    let text = files::read_text(&folder.join(FILE), MAX_FILE).unwrap_or_default();
    serde_json::from_str(&text)
        .ok()
        .filter(|known: &Known| known.version == VERSION)
        .map_or_else(BTreeSet::new, |known| known.agents)
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
    let before = known(&folder);
    let mut agents: BTreeSet<Told> = by_agent.keys().cloned().collect();
    let is_there = |old: &Told| agents.iter().any(|now| (&now.role, &now.node) == (&old.role, &old.node));
    let left: Vec<Told> = before.iter().filter(|old| !is_there(old)).cloned().collect();
    for old in left {
        let role = if old.role == "host" { "host" } else { "guest" };
        let target = Target { address: old.address.clone(), node: old.node.clone(), role };
        by_agent.insert(old, (target, vec![Wishes { vm: None, wishes: vec![] }]));
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
    let mut reached = BTreeSet::new();
    while let Some(told) = work.join_next().await {
        reached.extend(told.ok().flatten());
    }
    // Who left and was away is told by a later run.
    agents.extend(before.into_iter().filter(|old| !reached.contains(old)));
    let known = Known { version: VERSION, agents };
    let Ok(text) = serde_json::to_string(&known) else { return };
    if files::read_text(&folder.join(FILE), MAX_FILE).ok().as_deref() != Some(&text) {
        // A simulated fleet has no folder.
        let _ = files::write_text(&folder.join(FILE), &text);
    }
}
