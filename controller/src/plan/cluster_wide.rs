//! What one host says is so for all of its cluster: hosts that say otherwise of each other would undo it in turns.

use crate::error::{Error, Kind};
use crate::fleet::{Fleet, Host};
use crate::inventory::Inventory;
use crate::node::{NodeId, NodeKind};
use std::collections::{BTreeMap, BTreeSet};
use vsgpu_core::Requirement;
use vsgpu_core::words::first;
use vsgpu_host_agent::facts::{PackageWish, Vcenter};
use vsgpu_host_agent::host::gpu_management_daemon::GpuManagementDaemon;
use vsgpu_host_agent::host::{DrsOptions, VgpuManager};

/// Hosts of one cluster of vCenter's that want something of it to be different things, each with the reason: none of them is
/// changed.
pub(super) fn disagree(fleet: &Fleet, inventory: &Inventory) -> BTreeMap<NodeId, Vec<Error>> {
    let node = |host: &Host| NodeId::new(NodeKind::Host, &host.name);
    let mut clusters: BTreeMap<(String, String), Vec<(&Host, bool)>> = BTreeMap::new();
    for host in &fleet.hosts {
        let Some(of) = inventory.fact::<Vcenter>(&node(host)).ok().and_then(|fact| fact.host) else {
            continue;
        };
        let by_image = of.image.as_ref().is_some_and(|image| image.is_of_cluster);
        if let Some(cluster) = of.cluster {
            clusters.entry((of.server, cluster.name)).or_default().push((host, by_image));
        }
    }
    let mut refused: BTreeMap<NodeId, Vec<Error>> = BTreeMap::new();
    for ((_, cluster), hosts) in &clusters {
        // Who says what: an option of DRS, or the version of a package of the image.
        let mut said: BTreeMap<String, BTreeMap<String, Vec<&Host>>> = BTreeMap::new();
        let mut says = |what: String, value: String, host| {
            said.entry(what).or_default().entry(value).or_default().push(host);
        };
        for (host, by_image) in hosts {
            for (option, value) in host.specs.get::<DrsOptions>().into_iter().flatten() {
                let value = value.map_or("not set".into(), |value: i64| value.to_string());
                says(format!("values of the DRS option {option:?}"), value, *host);
            }
            let packages = [
                (VgpuManager::NAME, host.specs.get::<VgpuManager>()),
                (GpuManagementDaemon::NAME, host.specs.get::<GpuManagementDaemon>()),
            ];
            for (name, wish) in packages.into_iter().filter(|_| *by_image) {
                if let Some(PackageWish::Map(spec)) = wish {
                    let version = spec.package.version().unwrap_or_default().to_string();
                    says(format!("versions of {name} in its image"), version, *host);
                }
            }
        }
        for (what, values) in said.iter().filter(|(_, values)| values.len() > 1) {
            let names: BTreeSet<&str> = values.values().flatten().map(|host| host.name.as_str()).collect();
            let each = |(value, hosts): (&String, &Vec<&Host>)| {
                format!("{value} at {}", first(hosts.iter().map(|host| host.name.clone()), 3, ""))
            };
            let shown = first(values.iter().map(each), 3, "");
            let error =
                Error::new(Kind::Blocked, format!("hosts of {cluster} ask for different {what}: {shown}"))
                    .hint("all hosts of the cluster share it: write one for all of them in the fleet file");
            for name in names {
                refused.entry(NodeId::new(NodeKind::Host, name)).or_default().push(error.clone());
            }
        }
    }
    refused
}
