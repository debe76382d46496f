//! All facts of all nodes, gathered concurrently. A failure is kept where it happened: an unreachable node or
//! an unreadable fact never hides the others.

use crate::error::Error;
use crate::fleet::{Fleet, WithVms};
use crate::inventory::seen::{Inventory, Seen};
use crate::inventory::shared::SharedFacts;
use crate::node::{NodeId, NodeKind, Reach};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use vsgpu_core::Fact as _;
use vsgpu_guest_agent::facts as guest_facts;
use vsgpu_host_agent::{facts as host_facts, host};
use vsgpu_wire::client::{CallError, Connection, Connector, Description, Target};

/// Nodes talked to at once.
const AT_ONCE: usize = 128;
/// Longest observation: one probe may take its whole minute, and there are rounds of them.
const OBSERVE: Duration = Duration::from_secs(300);

/// Which facts to ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// What the wishes need, and what the planner needs.
    Wished,
    /// The same without asking anybody who can leave a host.
    Room,
    /// Which VMs the hosts have, and nothing else.
    WhichVms,
    /// Everything the agents know.
    All,
}

/// How all nodes are reached.
pub fn reaches(fleet: &Fleet) -> BTreeMap<NodeId, Reach> {
    let hosts: BTreeMap<&str, &str> =
        fleet.hosts.iter().map(|h| (h.name.as_str(), h.address.as_str())).collect();
    let reach = |node: &str, role: &str, address: &str, vm: Option<&str>| Reach {
        address: address.into(),
        node: node.into(),
        role: role.into(),
        vm: vm.map(Into::into),
    };
    let mut all: BTreeMap<NodeId, Reach> = fleet
        .hosts
        .iter()
        .map(|h| (NodeId::new(NodeKind::Host, &h.name), reach(&h.name, "host", &h.address, None)))
        .collect();
    for vm in &fleet.vms {
        if let Some(address) = hosts.get(vm.host.as_str()) {
            all.insert(
                NodeId::new(NodeKind::Vm, &vm.name),
                reach(&vm.host, "host", address, Some(&vm.vm_name)),
            );
        }
        if let Some(guest) = &vm.guest {
            all.insert(
                NodeId::new(NodeKind::Guest, &vm.name),
                reach(&vm.name, "guest", &guest.address, None),
            );
        }
    }
    all
}

/// Looks at the whole fleet, or at the named nodes.
pub async fn gather(
    fleet: &Fleet,
    connector: &Connector,
    scope: Scope,
    only: &dyn Fn(&NodeId) -> bool,
) -> Inventory {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let shared = Arc::new(Mutex::new(SharedFacts::default()));
    let mut work: JoinSet<Vec<(NodeId, Result<Seen, Error>)>> = JoinSet::new();
    let within = Duration::from_secs(fleet.deadlines.connect_secs.into());
    let catalogue = crate::catalogue::catalogue();
    let (specs, reaches, by_host) = (fleet.specs(), reaches(fleet), fleet.vms_by_host());
    // DRS is asked where its answer may be needed: whether a host changes at all is only known when it was read.
    let moved = |host: &&crate::fleet::Host| scope == Scope::Wished && host.maintenance.vms != WithVms::Off;
    let evacuated: BTreeSet<&str> = fleet.hosts.iter().filter(moved).map(|host| host.name.as_str()).collect();
    let ask = |node: &NodeId| -> Ask {
        let of_node = specs.get(node).into_iter().flat_map(|specs| specs.iter());
        let wishes: Vec<_> = of_node.map(|s| (s.requirement.to_string(), (*s.value).clone())).collect();
        let facts = match scope {
            Scope::All => vec![],
            Scope::WhichVms => vec![host_facts::VirtualMachines::NAME],
            Scope::Wished | Scope::Room => {
                let mut facts = needed(catalogue, node.kind, &wishes);
                if node.kind == NodeKind::Host && evacuated.contains(node.name.as_str()) {
                    facts.push(host_facts::Evacuation::NAME);
                }
                facts
            }
        };
        let vm = reaches.get(node).and_then(|r| r.vm.clone());
        Ask { node: node.clone(), vm, facts }
    };
    // One connection serves a host and all its VMs.
    let mut by_agent: Vec<(Target, Vec<Ask>)> = vec![];
    for host in &fleet.hosts {
        let id = NodeId::new(NodeKind::Host, &host.name);
        let vms = by_host
            .get(host.name.as_str())
            .into_iter()
            .flatten()
            .map(|vm| NodeId::new(NodeKind::Vm, &vm.name));
        let asks: Vec<Ask> =
            std::iter::once(id.clone()).chain(vms).filter(|n| only(n)).map(|n| ask(&n)).collect();
        by_agent.extend(reaches.get(&id).filter(|_| !asks.is_empty()).map(|r| (r.target(), asks)));
    }
    for vm in fleet.vms.iter().filter(|vm| vm.guest.is_some()) {
        let id = NodeId::new(NodeKind::Guest, &vm.name);
        by_agent.extend(reaches.get(&id).filter(|_| only(&id)).map(|r| (r.target(), vec![ask(&id)])));
    }
    for (target, asks) in by_agent {
        let (connector, places, shared) = (connector.clone(), places.clone(), shared.clone());
        work.spawn(async move {
            let _place = places.acquire_owned().await;
            let connection = match patient(&connector, &target, within).await {
                Ok(connection) => connection,
                Err(why) => {
                    let why = Error::from(why);
                    return asks.into_iter().map(|a| (a.node, Err(why.clone()))).collect();
                }
            };
            let mut seen = vec![];
            for ask in asks {
                let facts: Vec<&str> = ask.facts.to_vec();
                let reply = connection.observe(ask.vm.as_deref(), &facts, OBSERVE).await;
                seen.push((
                    ask.node,
                    reply
                        .map(|(boot_id, facts)| {
                            let facts = shared.lock().unwrap_or_else(PoisonError::into_inner).of(facts);
                            Seen { boot_id, facts, ..Seen::default() }
                        })
                        .map_err(Error::from),
                ));
            }
            let of_host = seen.iter_mut().find(|(node, _)| node.kind == NodeKind::Host);
            if let (Some((_, Ok(seen))), Some(said)) = (of_host, connection.description()) {
                (seen.temporary, seen.holder) = (said.temporary.clone(), said.holder.clone());
            }
            seen
        });
    }
    let mut inventory = Inventory { at: now(), ..Inventory::default() };
    while let Some(done) = work.join_next().await {
        inventory.nodes.extend(done.unwrap_or_default());
    }
    inventory
}

/// What the hosts' agents say of themselves, of all that answer within this time; and which did not.
pub async fn describe(
    fleet: &Fleet,
    connector: &Connector,
    within: Duration,
) -> (BTreeMap<String, Description>, Vec<String>) {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut work = JoinSet::new();
    for (id, reach) in reaches(fleet).into_iter().filter(|(id, _)| id.kind == NodeKind::Host) {
        let (connector, places) = (connector.clone(), places.clone());
        work.spawn(async move {
            let _place = places.acquire_owned().await;
            let said = Connection::open(&connector, &reach.target(), within).await;
            (id.name, said.ok().and_then(|connection| connection.description().cloned()))
        });
    }
    let mut known = BTreeMap::new();
    let gathered = tokio::time::timeout(within * 2, async {
        while let Some(done) = work.join_next().await {
            known.extend(done.ok().and_then(|(host, said)| Some((host, said?))));
        }
    });
    let _ = gathered.await;
    let silent =
        fleet.hosts.iter().map(|h| &h.name).filter(|name| !known.contains_key(*name)).cloned().collect();
    (known, silent)
}

#[expect(clippy::disallowed_methods, reason = "the edge: guests' clocks are compared with this machine's")]
fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// Tries until the deadline: a node that is just booting is worth the wait.
pub(crate) async fn patient(
    connector: &Connector,
    target: &Target,
    within: Duration,
) -> Result<Connection, CallError> {
    let end = tokio::time::Instant::now() + within;
    let mut before = None;
    loop {
        let left = end.saturating_duration_since(tokio::time::Instant::now());
        let short = left < Duration::from_secs(1);
        match Connection::open(connector, target, left.max(Duration::from_millis(100))).await {
            Err(why @ CallError::Unreachable(_)) if tokio::time::Instant::now() < end => {
                // The last try has no time left to say more than that: what was heard before it says why.
                if before.is_none() || !short {
                    before = Some(why);
                }
                tokio::time::sleep(Duration::from_millis(250)).await;
            }
            Err(why @ CallError::Unreachable(_)) => return Err(before.filter(|_| short).unwrap_or(why)),
            ended => return ended,
        }
    }
}

struct Ask {
    node: NodeId,
    vm: Option<String>,
    facts: Vec<&'static str>,
}

/// Facts that a plan needs of a node with these wishes.
pub fn needed(
    catalogue: &vsgpu_core::Catalogue,
    kind: NodeKind,
    wishes: &[(String, serde_json::Value)],
) -> Vec<&'static str> {
    let mut names: Vec<&'static str> =
        wishes.iter().filter_map(|(name, _)| Some(catalogue.find(kind.scope(), name)?.fact.name)).collect();
    match kind {
        NodeKind::Host => names.extend([
            host::MaintenanceModeFact::NAME,
            host_facts::VirtualMachines::NAME,
            host_facts::EsxVersion::NAME,
            host_facts::Gpus::NAME,
            host_facts::GpuUsers::NAME,
            host::HostGraphics::NAME,
            host::HostPassthrough::NAME,
            host_facts::PciGpus::NAME,
            host_facts::VgpuTypes::NAME,
            host_facts::Vgpus::NAME,
            host_facts::Vcenter::NAME,
        ]),
        NodeKind::Vm => names.push(host_facts::VmPower::NAME),
        NodeKind::Guest => names.extend([
            guest_facts::Os::NAME,
            guest_facts::Clock::NAME,
            guest_facts::PciGpus::NAME,
            guest_facts::Health::NAME,
        ]),
    }
    names.sort_unstable();
    names.dedup();
    names
}
