//! Which steps may begin now. Pure: waves one after the other, never more of a cluster away than its budget,
//! and a stop when too much has failed.
//!
//! A host is away from the first step that disrupts it until the last such step is done, and for good once a
//! step of it or of its VMs has failed. What restores what was changed temporarily is never kept waiting.

use crate::journal::{Status, StepState};
use crate::node::NodeKind;
use crate::plan::{IN_MAINTENANCE, Plan, Step};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use vsgpu_core::failpoint;

/// Whether a step whose predecessors have ended may start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    Start,
    /// Something must end before.
    Wait,
    /// It will not begin in this run, and why.
    Refuse(String),
}

#[derive(Default)]
struct Host {
    wave: usize,
    place: usize,
    cluster: String,
    /// Steps without an end.
    open: usize,
    /// Disrupting steps without a good end.
    disrupting: usize,
    begun: bool,
    /// From its first disrupting step on.
    window: bool,
    /// Steps that failed where the host itself suffers from it.
    failed: BTreeSet<usize>,
    /// It has left maintenance mode through this run.
    returned: bool,
    ill: bool,
}

impl Host {
    fn away(&self) -> bool {
        !self.failed.is_empty() || self.window && self.disrupting > 0
    }
}

/// Of all hosts; empty where it has not been asked since one moved.
#[derive(Default)]
struct Together<'a> {
    ill: Option<Vec<&'a str>>,
    first_open_wave: Option<usize>,
    away: BTreeMap<String, BTreeSet<&'a str>>,
}

/// The plan's rollout as far as it has come, and what it leaves room for.
pub struct RolloutBudget<'a> {
    plan: &'a Plan,
    hosts: BTreeMap<&'a str, Host>,
    /// Away when the plan was made, and none of ours.
    strangers: BTreeMap<&'a str, BTreeSet<&'a str>>,
    /// Waves beyond this one wait for `vsgpu resume`.
    last_wave: Option<usize>,
    /// What all hosts together say, until one of them moves: thousands that wait ask the same.
    together: RefCell<Together<'a>>,
}

impl<'a> RolloutBudget<'a> {
    /// From where a run is.
    pub fn new(plan: &'a Plan, status: &Status, pause: bool) -> Self {
        let mut hosts: BTreeMap<&str, Host> = BTreeMap::new();
        let members = plan
            .rollout
            .clusters
            .iter()
            .flat_map(|(name, c)| c.hosts.iter().map(move |host| (host.as_str(), name.as_str())));
        let cluster_of: BTreeMap<&str, &str> = members.collect();
        for (wave, names) in plan.rollout.waves.iter().enumerate() {
            for (place, name) in names.iter().enumerate() {
                let cluster = cluster_of.get(name.as_str()).map(|cluster| cluster.to_string());
                hosts.insert(
                    name,
                    Host { wave, place, cluster: cluster.unwrap_or_default(), ..Host::default() },
                );
            }
        }
        for step in &plan.steps {
            let host = hosts.entry(&step.host).or_default();
            let state = &status.steps[step.id - 1];
            let done = matches!(state, StepState::Done { .. });
            host.open += usize::from(!done);
            host.disrupting += usize::from(step.disrupts && !done);
            host.begun |= state.begun();
            host.window |= step.disrupts && state.begun();
            // Until it is tried again and comes off.
            if matches!(state, StepState::Failed { .. }) && step.node.kind != NodeKind::Guest {
                host.failed.insert(step.id);
            }
            host.returned |= done && step.leaves_maintenance();
        }
        let of = |name: &String| {
            plan.rollout.clusters.get(name).map(|c| c.unavailable.keys().map(String::as_str).collect())
        };
        let strangers =
            plan.rollout.clusters.keys().map(|name| (name.as_str(), of(name).unwrap_or_default())).collect();
        let first = hosts.values().filter(|h| h.open > 0).map(|h| h.wave).min();
        Self { plan, hosts, strangers, last_wave: first.filter(|_| pause), together: RefCell::default() }
    }

    /// The wave of a step, for those that begin first.
    pub fn order(&self, step: &Step) -> (usize, usize, usize) {
        self.hosts.get(step.host.as_str()).map_or((0, 0, step.id), |h| (h.wave, h.place, step.id))
    }

    /// Whether all that remains waits for `vsgpu resume`.
    pub fn paused(&self) -> bool {
        let last = self.last_wave.unwrap_or(usize::MAX);
        self.hosts.values().all(|h| h.open == 0 || h.wave > last) && self.hosts.values().any(|h| h.open > 0)
    }

    /// Whether a step may begin.
    pub fn admit(&self, step: &Step) -> Admission {
        let Some(host) = self.hosts.get(step.host.as_str()) else { return Admission::Start };
        if step.is_restore() {
            return Admission::Start;
        }
        if !host.begun {
            let failed = failpoint!(BreakerIgnored, vec![], self.ill());
            if failed.len() >= self.plan.rollout.stop_at_failed.max(1) && self.hosts.len() > 1 {
                return Admission::Refuse(format!("the rollout has stopped: {} failed", failed.join(", ")));
            }
            if self.last_wave.is_some_and(|last| host.wave > last) || self.first_open_wave() < host.wave {
                return Admission::Wait;
            }
        }
        // One that is in maintenance mode already takes nothing more away; one that only did not answer may
        // be up.
        let why = self.plan.rollout.clusters.get(&host.cluster).and_then(|c| c.unavailable.get(&step.host));
        let stranger = why.is_some_and(|why| why == IN_MAINTENANCE) && !host.returned;
        if !step.disrupts || host.window || stranger {
            return Admission::Start;
        }
        let Some(cluster) = self.plan.rollout.clusters.get(&host.cluster) else { return Admission::Start };
        let away: Vec<&str> =
            self.away(&host.cluster).into_iter().filter(|name| *name != step.host).collect();
        if away.len() < failpoint!(BudgetOffByOne, cluster.max_unavailable + 1, cluster.max_unavailable) {
            return Admission::Start;
        }
        // One of them may come back only if something of it is still to be done.
        if away.iter().any(|name| self.hosts.get(name).is_some_and(|h| h.open > 0)) {
            return Admission::Wait;
        }
        let of =
            if host.cluster.is_empty() { String::new() } else { format!(" of cluster {}", host.cluster) };
        Admission::Refuse(format!(
            "no more than {}{of} may be away, and away are: {}",
            cluster.max_unavailable,
            away.join(", ")
        ))
    }

    fn ill(&self) -> Vec<&'a str> {
        let names = || self.hosts.iter().filter(|(_, h)| h.ill).map(|(name, _)| *name).collect();
        self.together.borrow_mut().ill.get_or_insert_with(names).clone()
    }

    fn first_open_wave(&self) -> usize {
        let first = || self.hosts.values().filter(|h| h.open > 0).map(|h| h.wave).min().unwrap_or(usize::MAX);
        *self.together.borrow_mut().first_open_wave.get_or_insert_with(first)
    }

    fn away(&self, cluster: &str) -> BTreeSet<&'a str> {
        if let Some(known) = self.together.borrow().away.get(cluster) {
            return known.clone();
        }
        let ours = self.hosts.iter().filter(|(_, h)| h.cluster == cluster && h.away()).map(|(name, _)| *name);
        let strangers = self.strangers.get(cluster).into_iter().flatten().copied();
        // A host that this run has brought out of maintenance mode is no stranger any more.
        let strangers = strangers.filter(|name| self.hosts.get(name).is_none_or(|h| !h.returned));
        let all: BTreeSet<&str> = ours.chain(strangers).collect();
        self.together.borrow_mut().away.insert(cluster.into(), all.clone());
        all
    }

    pub fn began(&mut self, step: &Step) {
        self.together.take();
        if let Some(host) = self.hosts.get_mut(step.host.as_str()) {
            host.begun = true;
            host.window |= step.disrupts;
        }
    }

    /// A step has ended; `good`: `None` where it was left out.
    pub fn ended(&mut self, step: &Step, good: Option<bool>) {
        self.together.take();
        if let Some(host) = self.hosts.get_mut(step.host.as_str()) {
            host.open -= 1;
            host.disrupting -= usize::from(step.disrupts && good == Some(true));
            host.ill |= good == Some(false);
            match good {
                Some(false) if step.node.kind != NodeKind::Guest => drop(host.failed.insert(step.id)),
                Some(true) => {
                    host.failed.remove(&step.id);
                    host.returned |= step.leaves_maintenance();
                }
                _ => {}
            }
        }
    }
}
