//! What one host says is so for all of its cluster: hosts that say otherwise of each other would undo it in turns.

use crate::error::{Error, Kind};
use crate::fleet::{Fleet, Host};
use crate::inventory::Inventory;
use crate::node::{NodeId, NodeKind};
use std::collections::{BTreeMap, BTreeSet};
use vsgpu_core::Requirement;
use vsgpu_host_agent::facts::Vcenter;
use vsgpu_host_agent::host::DrsOptions;

/// Hosts of one cluster of vCenter's whose `drs-options` differ, each with the reason: none of them is changed.
pub(super) fn disagree(fleet: &Fleet, inventory: &Inventory) -> BTreeMap<NodeId, Vec<Error>> {
    let node = |host: &Host| NodeId::new(NodeKind::Host, &host.name);
    let cluster = |host: &Host| {
        let host = inventory.fact::<Vcenter>(&node(host)).ok()?.host?;
        Some((host.server, host.cluster?.name))
    };
    let mut clusters: BTreeMap<(String, String), Vec<&Host>> = BTreeMap::new();
    for host in fleet.hosts.iter().filter(|host| host.specs.has::<DrsOptions>()) {
        if let Some(of) = cluster(host) {
            clusters.entry(of).or_default().push(host);
        }
    }
    let mut refused: BTreeMap<NodeId, Vec<Error>> = BTreeMap::new();
    for ((_, cluster), hosts) in &clusters {
        let mut said: BTreeMap<_, BTreeSet<Option<i64>>> = BTreeMap::new();
        for (option, value) in hosts.iter().filter_map(|host| host.specs.get::<DrsOptions>()).flatten() {
            said.entry(option).or_default().insert(value);
        }
        let Some((option, _)) = said.iter().find(|(_, values)| values.len() > 1) else { continue };
        let names: Vec<&str> = hosts.iter().map(|host| host.name.as_str()).collect();
        let names = vsgpu_core::words::first(names.iter().map(|name| name.to_string()), 5, "");
        let why = format!("hosts of {cluster} want {option:?} of its DRS to be different things: {names}");
        let error = Error::new(Kind::Blocked, why).hint(format!(
            "`{}` is so for the whole cluster: write the same at each of them",
            DrsOptions::NAME
        ));
        for host in hosts {
            refused.entry(node(host)).or_default().push(error.clone());
        }
    }
    refused
}
