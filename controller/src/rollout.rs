//! In which order hosts are touched and how many at once: a canary first, then batches, healthiest first, and never more of a
//! cluster away than its budget allows. Pure: settled when the plan is made, so that `plan` can show it.

use crate::fleet::{Fleet, NodeId, NodeKind, Vm};
use crate::inventory::Inventory;
use crate::plan::{Cluster, Rollout, Step};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use vsgpu_guest_agent::guest::Health;
use vsgpu_host_agent::host::{MaintenanceModeFact, VirtualMachines};

/// So many, or so many of a hundred: `2`, `25%`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// A number.
    Count(u32),
    /// Percent.
    Percent(u32),
}

impl Share {
    /// Of a whole, rounded down.
    fn down(self, whole: usize) -> usize {
        match self {
            Self::Count(n) => n as usize,
            Self::Percent(p) => whole * p as usize / 100,
        }
    }

    /// Of a whole, rounded up.
    fn up(self, whole: usize) -> usize {
        match self {
            Self::Count(n) => n as usize,
            Self::Percent(p) => (whole * p as usize).div_ceil(100),
        }
    }
}

impl std::fmt::Display for Share {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Count(n) => write!(f, "{n}"),
            Self::Percent(p) => write!(f, "{p}%"),
        }
    }
}

impl Serialize for Share {
    fn serialize<S: serde::Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Count(n) => out.serialize_u32(*n),
            Self::Percent(_) => out.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let wrong = || serde::de::Error::custom("a number (`2`) or a share (`25%`) above 0 is expected");
        let value = Value::deserialize(input)?;
        let share = match &value {
            Value::Number(n) => n.as_u64().and_then(|n| u32::try_from(n).ok()).map(Self::Count),
            Value::String(text) => match text.strip_suffix('%') {
                Some(percent) => percent.trim().parse().ok().filter(|p| *p <= 100).map(Self::Percent),
                None => text.parse().ok().map(Self::Count),
            },
            _ => None,
        };
        share.filter(|s| !matches!(s, Self::Count(0) | Self::Percent(0))).ok_or_else(wrong)
    }
}

impl JsonSchema for Share {
    fn schema_name() -> Cow<'static, str> {
        "Share".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "anyOf": [{ "type": "integer", "minimum": 1 }, { "type": "string", "pattern": "^[0-9]+%$" }] })
    }
}

/// `rollout:` of the fleet file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Strategy {
    /// Hosts that go first, alone; the others follow only when all is well there. None where it is absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canary: Option<Share>,
    /// Hosts of one wave after that; all where it is absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<Share>,
    /// Hosts of one cluster that may be down, in maintenance or failed at once.
    pub max_unavailable: Share,
    /// The same for single clusters, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub clusters: BTreeMap<String, Share>,
    /// So many failed hosts stop the rollout: what has begun is finished, nothing new is begun.
    pub stop_at_failed: Share,
}

impl Default for Strategy {
    /// One host of a cluster at a time, as lifecycle managers do, and a stop at the first failure of every five.
    fn default() -> Self {
        Self { canary: None, batch: None, max_unavailable: Share::Count(1), clusters: BTreeMap::new(), stop_at_failed: Share::Percent(20) }
    }
}

/// Settles waves and budgets for the hosts that have steps.
pub fn rollout(fleet: &Fleet, inventory: &Inventory, steps: &[Step]) -> Rollout {
    let touched: BTreeSet<&str> = steps.iter().map(|s| s.host.as_str()).collect();
    let by_host = fleet.vms_by_host();
    let named = fleet.hosts.iter().map(|h| h.name.as_str()).enumerate().filter(|(_, host)| touched.contains(host));
    let mut ill: Vec<((usize, usize, usize), &str)> =
        named.map(|(place, host)| (illness(inventory, host, place, &by_host[host]), host)).collect();
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

/// What speaks against beginning with a host: what cannot be read of it and its VMs, findings of its GPUs, then how much
/// runs on it, then its place in the fleet file.
fn illness(inventory: &Inventory, host: &str, place: usize, vms: &[&Vm]) -> (usize, usize, usize) {
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
