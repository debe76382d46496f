//! The way of each VM from its host to a CUDA program, link by link: what is proven, where the first link is
//! broken, and which causes its texts speak for.

use crate::diagnose::by_facts::{self, HostFacts, Machines, VmFacts};
use crate::diagnose::moments::{Timed, Together, ahead, timed, together};
use crate::fleet::Fleet;
use crate::inventory::{Inventory, NoFact};
use crate::node::{NodeId, NodeKind};
use crate::plan::verify::{Check, checks};
use schemars::JsonSchema;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use vsgpu_core::diagnosis::{Confidence, Finding, Input, LogFindings, Stage, diagnose};
use vsgpu_core::{Fact as _, Requirement as _};
use vsgpu_guest_agent::facts::GuestLog;
use vsgpu_guest_agent::guest::driver_package::DriverPackage;
use vsgpu_guest_agent::guest::{CudaProof, CudaToolkit, GpuServer, License, NetworkGpu};
use vsgpu_host_agent::facts::{HostLog, VmLog};

/// A link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Proven.
    Good,
    /// Broken.
    Broken,
    /// Nobody could be asked.
    Unknown,
    /// Nothing is wished of it.
    NotAsked,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Link {
    pub stage: Stage,
    pub node: String,
    pub state: State,
    /// What is so.
    pub is: String,
}

/// One VM, or a host by itself.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Diagnosis {
    pub about: String,
    pub links: Vec<Link>,
    /// Of the first broken link first.
    pub findings: Vec<Finding>,
    /// What showed at one time in several logs, by one clock.
    pub together: Vec<Together>,
}

impl Diagnosis {
    /// Whether at least one link was judged: of what nobody wishes for nothing is proven.
    pub fn judged(&self) -> bool {
        self.links.iter().any(|link| link.state != State::NotAsked)
    }

    /// The first link that is broken or not known.
    pub fn red(&self) -> Option<&Link> {
        self.links.iter().find(|l| matches!(l.state, State::Broken | State::Unknown))
    }
}

/// Where a requirement stands on the way.
fn stage(check: &Check) -> Stage {
    match check.node.kind {
        NodeKind::Host => Stage::Host,
        NodeKind::Vm => Stage::Vm,
        NodeKind::Guest => match check.requirement.as_str() {
            name if name == License::NAME => Stage::License,
            name if name == CudaProof::NAME || name == CudaToolkit::NAME => Stage::Cuda,
            name if name == NetworkGpu::NAME || name == GpuServer::NAME => Stage::Network,
            _ => Stage::Guest,
        },
    }
}

const WAY: [Stage; 6] = [Stage::Host, Stage::Vm, Stage::Guest, Stage::License, Stage::Cuda, Stage::Network];

/// Every VM of these, and hosts without any.
pub fn of_fleet(fleet: &Fleet, inventory: &Inventory, only: &[String]) -> Vec<Diagnosis> {
    let files = without_files(fleet);
    let mut checks = checks(fleet, inventory);
    checks.retain(|check| check.met || !files.contains(&(check.node.clone(), check.requirement.clone())));
    let mut by_node: BTreeMap<&NodeId, Vec<&Check>> = BTreeMap::new();
    for check in &checks {
        by_node.entry(&check.node).or_default().push(check);
    }
    let asked = |names: &[&str]| only.is_empty() || only.iter().any(|o| names.contains(&o.as_str()));
    let mut all = vec![];
    let mut shown: Vec<&str> = vec![];
    let mut hosts: BTreeMap<&str, HostFacts> = BTreeMap::new();
    let of_host = |name: &str| {
        let node = NodeId::new(NodeKind::Host, name);
        HostFacts::of(name, inventory.seen(&node))
    };
    for vm in fleet.vms.iter().filter(|vm| asked(&[&vm.name, &vm.host])) {
        shown.push(&vm.host);
        let nodes = [
            NodeId::new(NodeKind::Host, &vm.host),
            NodeId::new(NodeKind::Vm, &vm.name),
            NodeId::new(NodeKind::Guest, &vm.name),
        ];
        let about = format!("{} on {}", vm.name, vm.host);
        let host = hosts.entry(&vm.host).or_insert_with(|| of_host(&vm.host));
        let facts = VmFacts::of(fleet, vm, host, inventory);
        let shows = by_facts::find(&Machines { host, vm: Some(&facts) });
        all.push(of(about, &nodes[..if vm.guest.is_some() { 3 } else { 2 }], &by_node, inventory, shows));
    }
    for host in fleet.hosts.iter().filter(|h| asked(&[&h.name]) && !shown.contains(&h.name.as_str())) {
        let node = NodeId::new(NodeKind::Host, &host.name);
        let shows = by_facts::find(&Machines { host: &of_host(&host.name), vm: None });
        all.push(of(host.name.clone(), std::slice::from_ref(&node), &by_node, inventory, shows));
    }
    all
}

/// Requirements that are judged by what is in a file, where that is not at hand here.
fn without_files(fleet: &Fleet) -> BTreeSet<(NodeId, String)> {
    let by_contents = [DriverPackage::NAME, GpuServer::NAME, NetworkGpu::NAME];
    let catalogue = crate::catalogue::catalogue();
    let mut all = BTreeSet::new();
    for (node, specs) in fleet.specs() {
        for spec in specs.iter() {
            let Some(entry) = catalogue.find(node.kind.scope(), spec.requirement) else { continue };
            if !by_contents.contains(&spec.requirement) {
                continue;
            }
            let mut lacks = false;
            (entry.with_artifacts)(&spec.value, &mut |artifact| {
                lacks |= artifact.sha256.is_none();
                None
            });
            if lacks {
                all.insert((node.clone(), spec.requirement.to_string()));
            }
        }
    }
    all
}

fn of(
    about: String,
    nodes: &[NodeId],
    by_node: &BTreeMap<&NodeId, Vec<&Check>>,
    inventory: &Inventory,
    shows: Vec<Finding>,
) -> Diagnosis {
    let checks: Vec<&Check> = nodes.iter().filter_map(|n| by_node.get(n)).flatten().copied().collect();
    let mut links = vec![];
    for at in WAY {
        let of_stage: Vec<&&Check> = checks.iter().filter(|c| stage(c) == at).collect();
        let Some(first) = of_stage.first() else { continue };
        let broken = of_stage.iter().find(|c| c.known && !c.met);
        let unknown = of_stage.iter().find(|c| !c.known);
        let (state, is) = match (broken, unknown) {
            (Some(check), _) => (State::Broken, format!("{}: {}", check.requirement, check.is)),
            (None, Some(check)) => (State::Unknown, check.is.clone()),
            (None, None) => {
                let names: Vec<&str> = of_stage.iter().map(|c| c.requirement.as_str()).collect();
                (State::Good, names.join(", "))
            }
        };
        links.push(Link { stage: at, node: first.node.to_string(), state, is });
    }
    let unjudged: Vec<Link> = nodes.iter().filter_map(|node| unjudged(node, &links, inventory)).collect();
    links.extend(unjudged);
    links.sort_by_key(|link| WAY.iter().position(|stage| *stage == link.stage));
    let proven = links.iter().any(|l| l.stage == Stage::Cuda && l.state == State::Good);
    if !proven {
        shows.iter().for_each(|finding| turn_red(&mut links, finding));
    }
    let red = links.iter().find(|l| matches!(l.state, State::Broken | State::Unknown)).map(|l| l.stage);
    let (findings, together) = findings(nodes, &checks, inventory, red, shows);
    Diagnosis { about, links, findings, together }
}

/// A link of which the facts of machines leave no doubt is broken, though no key of the fleet file asks for it. Where a
/// CUDA program ran in this boot they are only told: it works, for now.
fn turn_red(links: &mut [Link], finding: &Finding) {
    let link = links.iter_mut().find(|link| link.stage == finding.stage);
    if let Some(link) = link.filter(|l| {
        finding.confidence == Confidence::High && matches!(l.state, State::Good | State::NotAsked)
    }) {
        link.state = State::Broken;
        link.is = finding.title.clone();
    }
}

/// A machine of which nothing is wished is no link that is proven: it could not be asked, or nobody asked for anything.
fn unjudged(node: &NodeId, links: &[Link], inventory: &Inventory) -> Option<Link> {
    let stage = match node.kind {
        NodeKind::Host => Stage::Host,
        NodeKind::Vm => Stage::Vm,
        NodeKind::Guest => Stage::Guest,
    };
    let name = node.to_string();
    if links.iter().any(|link| link.node == name) {
        return None;
    }
    let (state, is) = match inventory.nodes.get(node) {
        Some(Ok(_)) => (State::NotAsked, "the fleet file wishes nothing of it".to_string()),
        Some(Err(error)) => (State::Unknown, error.message.clone()),
        None => (State::Unknown, "nothing is known of it".into()),
    };
    Some(Link { stage, node: name, state, is })
}

/// What the machines' logs tell, and what the broken requirements say themselves.
fn findings(
    nodes: &[NodeId],
    checks: &[&Check],
    inventory: &Inventory,
    red: Option<Stage>,
    shows: Vec<Finding>,
) -> (Vec<Finding>, Vec<Together>) {
    let mut all = shows;
    let mut times: Vec<Timed> = vec![];
    for node in nodes {
        let Some(seen) = inventory.seen(node) else { continue };
        let logs: Result<LogFindings, NoFact> = match node.kind {
            NodeKind::Host => seen.fact::<HostLog>().map(|l| l.0),
            NodeKind::Vm => seen.fact::<VmLog>().map(|l| l.0),
            NodeKind::Guest => seen.fact::<GuestLog>().map(|l| l.0),
        };
        for mut finding in logs.map(|l| l.found).unwrap_or_default() {
            for evidence in &mut finding.evidence {
                evidence.text = format!("{} of {node}", evidence.text);
            }
            times.extend(timed(&finding, ahead(inventory, node)));
            all.push(finding);
        }
        // What a tool said that could not be read.
        let said: Vec<String> = seen
            .facts
            .iter()
            .filter(|(name, _)| !name.starts_with(HostLog::NAME))
            .filter_map(|(_, fact)| fact.as_ref().err())
            .map(|u| [u.message.as_str(), u.stdout.as_str(), u.stderr.as_str()].join("\n"))
            .collect();
        // Where every tool could be read, there is nothing to look for.
        if said.is_empty() {
            continue;
        }
        let text = said.join("\n");
        let sources = match node.kind {
            NodeKind::Guest => {
                vec![vsgpu_core::diagnosis::Source::GuestSmi, vsgpu_core::diagnosis::Source::GuestKernel]
            }
            _ => vec![vsgpu_core::diagnosis::Source::HostSmi, vsgpu_core::diagnosis::Source::Esxcli],
        };
        let input = Input { name: format!("{node}"), text: &text, sources };
        all.extend(diagnose(&[input]).findings);
    }
    let unmet: Vec<String> =
        checks.iter().filter(|c| c.known && !c.met).map(|c| format!("{}: {}", c.requirement, c.is)).collect();
    if !unmet.is_empty() {
        let text = unmet.join("\n");
        all.extend(diagnose(&[Input { name: "requirements".into(), text: &text, sources: vec![] }]).findings);
    }
    let together = together(times);
    let found = rank(all, red, &together);
    // Only what is told is told together.
    let told = |cause: &String| found.iter().any(|f| f.cause == *cause);
    let together = together.into_iter().filter(|t| told(&t.first) && told(&t.then)).collect();
    (found, together)
}

/// One finding for each cause: those of the broken link first, then what stands before it on the way; of the same place
/// what another log tells of at the same time. Only notes where every link is good.
fn rank(all: Vec<Finding>, red: Option<Stage>, together: &[Together]) -> Vec<Finding> {
    let mut by_cause: Vec<Finding> = vec![];
    for finding in all {
        match by_cause.iter_mut().find(|known| known.cause == finding.cause) {
            Some(known) => {
                known.confidence = known.confidence.max(finding.confidence);
                for evidence in finding.evidence {
                    if !known.evidence.iter().any(|e| e.line == evidence.line) {
                        known.evidence.push(evidence);
                    }
                }
            }
            None => by_cause.push(finding),
        }
    }
    // Everything works: what logs still hold is of the past, unless nothing else has it.
    if red.is_none() {
        by_cause.retain(|f| f.confidence == Confidence::High && !f.symptom);
    }
    let place = |stage: Stage| WAY.iter().position(|s| *s == stage).unwrap_or(WAY.len());
    by_cause.sort_by_key(|f| {
        let distance = red.map_or(0, |red| place(red).abs_diff(place(f.stage)));
        let alone = !together.iter().any(|t| t.first == f.cause || t.then == f.cause);
        (f.symptom, distance, std::cmp::Reverse(f.confidence), alone)
    });
    by_cause
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Error, Kind};
    use crate::fleet::file;

    /// Two machines that nobody could ask, and of which the file wishes nothing.
    #[test]
    fn what_was_not_asked_is_never_good() {
        let text = "version: 1\nhosts:\n  esx-01: { address: esx.lab }\nvms:\n  vm-01: { host: esx-01, guest: { address: vm.lab } }\n";
        let fleet = file::from_text(std::path::Path::new("fleet.yaml"), text).unwrap();
        let away = || Err(Error::new(Kind::Unreachable, "connection refused"));
        let nodes = [(NodeKind::Host, "esx-01"), (NodeKind::Vm, "vm-01"), (NodeKind::Guest, "vm-01")];
        let nodes = nodes.map(|(kind, name)| (NodeId::new(kind, name), away()));
        let all = of_fleet(&fleet, &Inventory { at: 0, nodes: nodes.into() }, &[]);
        assert!(all.iter().all(|way| way.links.len() == 3 && way.red().is_some()), "{all:?}");
        assert!(
            all[0].links.iter().all(|link| link.state == State::Unknown && link.is == "connection refused")
        );
        let none = of_fleet(&fleet, &Inventory { at: 0, nodes: BTreeMap::new() }, &[]);
        assert!(none.iter().all(|way| way.red().is_some()), "{none:?}");
    }
}
