//! What all handlers of an agent share: the machine, its catalogue, who may change it, what it is doing and
//! what was last seen.

use crate::acquired::TemporaryChange;
use crate::metrics::{Metrics, Snapshot};
use crate::refusal::Refusal;
use crate::server::agent::Agent;
use crate::server::blocking::Blocking;
use crate::server::lease::Lease;
use crate::server::ledger::Ledger;
use crate::server::limits::Work;
use crate::server::operations::Operations;
use crate::v1;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use vsgpu_core::apply::Precondition;
use vsgpu_core::catalogue::Entry;
use vsgpu_core::outcome::Outcome;
use vsgpu_core::text::piece;
use vsgpu_core::{Catalogue, Scope, Subject, System, observe};

/// Wishes last spoken of, for the metrics: (VM or empty, requirement) -> spec.
pub(crate) type Wishes = BTreeMap<String, serde_json::Value>;
const WISHES: &str = "wishes.json";
/// Of one node or VM; there are some dozens of requirements.
const MAX_WISHES: usize = 100;
/// Bytes of one wish, and of all that are kept: on ESXi they lie on a ramdisk.
const MAX_WISH: usize = 64 << 10;
const MAX_KEPT: usize = 1 << 20;

/// Everything the handlers share.
pub(crate) struct Node {
    pub agent: Agent,
    pub catalogue: Catalogue,
    pub system: Arc<dyn System>,
    pub name: String,
    pub metrics: Metrics,
    pub snapshot: Mutex<Snapshot>,
    pub wishes: Mutex<Wishes>,
    pub lease: Lease,
    pub ledger: Ledger,
    pub operations: Operations,
    pub offload: Blocking,
    /// Between two looks for the metrics.
    pub observe_every: Duration,
    /// Whether GPUs are shown under DCGM's names, too.
    pub dcgm_names: bool,
    /// When the agent's certificate ends, seconds since 1970.
    pub certificate_end: Option<u64>,
    pub work: Work,
    /// One act at a time per subject: asked twice, the second waits and then finds it done.
    acting: Mutex<HashMap<String, Arc<Mutex<()>>>>,
}

impl Node {
    pub(crate) fn new(agent: Agent, system: Arc<dyn System>, name: String, offload: Blocking) -> Self {
        let wishes = system
            .read(&format!("{}/{WISHES}", agent.state), MAX_KEPT)
            .ok()
            .and_then(|b| serde_json::from_slice(&b).ok())
            .unwrap_or_default();
        Self {
            catalogue: (agent.catalogue)(),
            metrics: Metrics::new(agent.role),
            snapshot: Mutex::default(),
            wishes: Mutex::new(wishes),
            lease: Lease::load(system.as_ref(), agent.state),
            ledger: Ledger::load(system.as_ref(), agent.state),
            operations: Operations::default(),
            offload,
            observe_every: Duration::from_secs(60),
            dcgm_names: false,
            certificate_end: None,
            work: Work::default(),
            acting: Mutex::default(),
            agent,
            system,
            name,
        }
    }

    pub(crate) fn acting(&self, on: &Subject) -> Arc<Mutex<()>> {
        let mut all = self.acting.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        all.entry(on.vm.clone().unwrap_or_default()).or_default().clone()
    }

    /// Scope of a subject on this agent.
    pub(crate) fn scope(&self, on: &Subject) -> Scope {
        match (self.agent.role, &on.vm) {
            (_, Some(_)) => Scope::Vm,
            ("host", None) => Scope::Host,
            _ => Scope::Guest,
        }
    }

    pub(crate) fn find(&self, on: &Subject, name: &str) -> Result<Entry, Refusal> {
        self.catalogue.find(self.scope(on), name).copied().ok_or_else(|| {
            let advice = format!(
                "{} agent {} does not know the requirement `{}`: upgrade the agent",
                self.agent.role,
                env!("CARGO_PKG_VERSION"),
                piece(name, 100)
            );
            Refusal::unknown_operation(advice)
        })
    }

    /// Notes that a run is about to change something temporarily.
    pub(crate) fn note(
        &self,
        what: &str,
        on: &Subject,
        (run, holder): (String, String),
    ) -> Result<(), Outcome> {
        let vm = on.vm.clone().unwrap_or_default();
        let temporary = TemporaryChange {
            what: what.into(),
            vm,
            run,
            holder,
            since: self.system.now(),
            seen: false,
            gone: 0,
        };
        self.ledger.note(self.system.as_ref(), temporary).map_err(|why| {
            Outcome::failed(format!("the agent cannot write its record ({why}), so nothing was changed; make room where it keeps its state"))
        })
    }

    /// Begins a look: how many changes there were before it; none where one is under way.
    pub(crate) fn looking(&self) -> Option<u64> {
        let begun = self.operations.begun();
        self.operations.running().is_none().then_some(begun)
    }

    /// What a look at the node says of what was changed temporarily; not where a change was under way
    /// meanwhile, and not while something is being changed.
    pub(crate) fn looked(&self, facts: &observe::Facts, since: Option<u64>) {
        let looks = (self.agent.looks)(facts);
        if !looks.is_empty() && since.is_some() && self.looking() == since {
            self.ledger.looked(self.system.as_ref(), &looks);
        }
    }

    /// Keeps what the node and its VMs are wished to be, in place of what was known before: a VM that left the fleet
    /// file is counted no more.
    pub(crate) fn remember(&self, subjects: impl Iterator<Item = (Subject, Vec<v1::Wish>)>) {
        let Ok(mut known) = self.wishes.lock() else { return };
        let mut next = Wishes::new();
        for (on, wishes) in subjects {
            let of_subject = format!("{}/", on.vm.as_deref().unwrap_or_default());
            for wish in wishes.into_iter().take(MAX_WISHES).filter(|wish| wish.spec_json.len() <= MAX_WISH) {
                if let (Some(entry), Ok(spec)) = (
                    self.catalogue.find(self.scope(&on), &wish.requirement),
                    serde_json::from_str(&wish.spec_json),
                ) {
                    next.insert(format!("{of_subject}{}", entry.name), spec);
                }
            }
        }
        if *known == next {
            return;
        }
        let text = serde_json::to_vec(&next).unwrap_or_default();
        if text.len() > MAX_KEPT {
            return tracing::warn!(
                bytes = text.len(),
                "wishes are not remembered: they are larger than those of any host with all its VMs"
            );
        }
        *known = next;
        if let Err(why) = self.system.write(&format!("{}/{WISHES}", self.agent.state), &text, 0o600) {
            tracing::warn!(%why, "wishes are not kept over a restart of the agent");
        }
    }
}

pub(crate) fn parsed<T: serde::de::DeserializeOwned>(what: &str, json: &str) -> Result<T, Refusal> {
    // An answer's words travel as metadata, which is small: what was sent must not come back in them.
    serde_json::from_str(json).map_err(|e| Refusal::invalid(piece(&format!("{what}: {e}"), 500)))
}

impl Node {
    /// What must still be so, as the wire says it.
    pub(crate) fn preconditions(
        &self,
        on: &Subject,
        wishes: &[v1::Wish],
    ) -> Result<Vec<Precondition>, Refusal> {
        let preconditions = |wish: &v1::Wish| {
            let entry = self.find(on, &wish.requirement)?;
            let spec = (entry.read_spec)(&parsed("spec", &wish.spec_json)?)
                .map_err(|e| Refusal::invalid(piece(&format!("{}: {}", entry.name, e.message), 500)))?;
            Ok(Precondition { entry, spec })
        };
        wishes.iter().take(200).map(preconditions).collect()
    }
}
