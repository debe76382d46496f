//! How long a plan may take: each step as long as in earlier runs, else as stated here; hosts one after the
//! other, as far as the rollout lets them. An estimate, and said to be one.

use crate::journal::history::History;
use crate::node::NodeKind;
use crate::plan::{Plan, Step, Work};
use std::collections::BTreeMap;
use vsgpu_core::Requirement as _;
use vsgpu_guest_agent::guest::build_tools::BuildTools;
use vsgpu_guest_agent::guest::nouveau::NouveauBlocked;
use vsgpu_guest_agent::guest::{CudaProof, CudaToolkit, Driver};
use vsgpu_host_agent::host::VgpuManager;
use vsgpu_host_agent::host::gpu_management_daemon::GpuManagementDaemon;
use vsgpu_host_agent::vm::CloneOf;

/// Seconds of a host's way from the reboot command to an agent that answers, where no run has shown it.
const HOST_REBOOT: f64 = 600.0;
const GUEST_REBOOT: f64 = 90.0;
/// Bytes a second of a file on its way.
const BYTES_A_SECOND: f64 = 50e6;
/// A step that only sets something.
const OTHER: f64 = 3.0;
/// Stated by title; minutes where people wait for them.
const STATED: [(&str, f64); 12] = [
    ("enter maintenance mode", 60.0),
    ("leave maintenance mode", 20.0),
    ("shut down", 60.0),
    ("start", 60.0),
    (VgpuManager::NAME, 120.0),
    (GpuManagementDaemon::NAME, 60.0),
    (BuildTools::NAME, 60.0),
    (NouveauBlocked::NAME, 60.0),
    (Driver::NAME, 180.0),
    (CudaToolkit::NAME, 240.0),
    (CudaProof::NAME, 60.0),
    (CloneOf::NAME, 300.0),
];

/// What a plan takes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Estimate {
    /// Seconds of all of it.
    pub total: f64,
    /// Seconds of each host and its VMs, once it is begun.
    pub hosts: BTreeMap<String, f64>,
    /// Seconds for which a host with such steps is away itself.
    pub away: BTreeMap<String, f64>,
    /// Earlier runs show most of it.
    pub from_runs: bool,
}

/// Of all steps of a plan.
pub fn estimate(plan: &Plan, history: &History) -> Estimate {
    let known = plan.steps.iter().filter(|s| history.seconds(&s.title).is_some()).count();
    let mut estimate = Estimate { from_runs: known * 10 >= plan.steps.len() * 8, ..Estimate::default() };
    // The end of each step, were its host begun at once: what it waits for on other hosts is the rollout's matter.
    // Of the rest of a run not all steps are here.
    let mut ends: BTreeMap<usize, (&str, f64)> = BTreeMap::new();
    for step in &plan.steps {
        let own = |id: &usize| ends.get(id).filter(|(host, _)| *host == step.host);
        let begin = step.after.iter().filter_map(own).map(|(_, end)| *end).fold(0.0, f64::max);
        let end = begin + seconds(step, history);
        ends.insert(step.id, (&step.host, end));
        let host = estimate.hosts.entry(step.host.clone()).or_default();
        *host = host.max(end);
        if step.disrupts {
            *estimate.away.entry(step.host.clone()).or_default() += seconds(step, history);
        }
    }
    // What shuts VMs down side by side is not away as often as there are VMs.
    for (host, away) in &mut estimate.away {
        *away = away.min(estimate.hosts.get(host).copied().unwrap_or(*away));
    }
    let at_once: usize = plan.rollout.clusters.values().map(|c| c.max_unavailable).sum::<usize>().max(1);
    for wave in &plan.rollout.waves {
        let mut lanes = vec![0.0f64; at_once.min(wave.len()).max(1)];
        let mut beside: f64 = 0.0;
        for host in wave {
            let took = estimate.hosts.get(host).copied().unwrap_or_default();
            // A host that stays up waits for nobody.
            if !estimate.away.contains_key(host) {
                beside = beside.max(took);
                continue;
            }
            if let Some(lane) = lanes.iter_mut().min_by(|a, b| f64::total_cmp(a, b)) {
                *lane += took;
            }
        }
        estimate.total += lanes.into_iter().fold(beside, f64::max);
    }
    if plan.rollout.waves.is_empty() {
        estimate.total = estimate.hosts.values().copied().fold(0.0, f64::max);
    }
    estimate
}

fn seconds(step: &Step, history: &History) -> f64 {
    if let Work::Send { artifact, .. } = &step.work {
        return (artifact.size.unwrap_or_default() as f64 / BYTES_A_SECOND).max(1.0);
    }
    if let Some(seen) = history.seconds(&step.title) {
        return seen;
    }
    match &step.work {
        Work::Activate { restart: None, .. } if step.node.kind == NodeKind::Host => HOST_REBOOT,
        Work::Activate { restart: None, .. } => GUEST_REBOOT,
        _ => STATED.iter().find(|(title, _)| *title == step.title).map_or(OTHER, |(_, seconds)| *seconds),
    }
}

/// `about 26 min`.
pub fn said(seconds: f64) -> String {
    match seconds as u64 {
        0..=89 => "about 1 min".into(),
        s @ 90..=5_399 => format!("about {} min", (s + 30) / 60),
        s => format!("about {:.1} h", s as f64 / 3600.0),
    }
}
