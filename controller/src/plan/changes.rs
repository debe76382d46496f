//! The wishes of one node against its facts: what is met, what is to change, what a person must look at
//! first.

use crate::error::{Error, Kind};
use crate::fleet::{Spec, Specs};
use crate::inventory::Seen;
use crate::inventory::shared::Shared;
use crate::node::{NodeId, NodeKind};
use crate::plan::leftovers::RebootedFor;
use crate::plan::order;
use crate::plan::problems::Problems;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use vsgpu_core::effect::Effect;
use vsgpu_core::requirement::{Cost, TakesEffect, Verdict};
use vsgpu_core::{Catalogue, Entry, Observation, Probe, Subject, judge};

/// One wish that is not met (or must be looked at again).
pub(super) struct Change {
    pub(super) entry: Entry,
    pub(super) spec: Arc<Value>,
    pub(super) verdict: Verdict,
    /// What is so now, as a wish, where there is a way back.
    pub(super) before: Option<Arc<Value>>,
    /// What it costs as things are.
    pub(super) cost: Cost,
    /// What is tried once where a reboot leaves it inactive.
    pub(super) once_more: Option<Arc<OnceMore>>,
    /// An earlier step changes what this one depends on.
    pub(super) loose: bool,
    /// Met now, only looked at again: its files are not sent once more.
    pub(super) recheck: bool,
}

/// A spec, and the effects that it asks for.
pub(super) type OnceMore = (Arc<Value>, Vec<Effect>);

/// What a fact means for a wish.
#[derive(Clone)]
struct Judged {
    verdict: Verdict,
    before: Option<Arc<Value>>,
    cost: Cost,
    once_more: Option<Arc<OnceMore>>,
}

/// Of many machines of one kind one is judged. By the places of requirement, spec and fact: those that are
/// equal are shared.
type Known = HashMap<(&'static str, *const Value, *const Value), Judged>;

/// Kinds of machines, each with a few dozen wishes; whatever comes after that is judged by itself.
const KNOWN: usize = 10_000;

/// Without a fact that could be read.
fn without_fact(entry: &Entry, spec: &Spec, seen: Option<&Seen>) -> Judged {
    let verdict = match seen {
        None => Verdict::waits("the VM is not running yet", (entry.shown)(&spec.value)),
        Some(seen) => judge(entry, &spec.value, seen.facts.get(entry.fact.name)),
    };
    Judged { verdict, before: None, cost: (entry.cost)(&spec.value, &Value::Null), once_more: None }
}

/// Judges the specs of one node after the other.
pub(super) struct Judge<'a> {
    catalogue: &'static Catalogue,
    wanted: BTreeMap<NodeId, &'a Specs>,
    /// What compatibility checks refuse.
    refused: BTreeMap<NodeId, Vec<Error>>,
    rebooted: &'a BTreeMap<NodeId, RebootedFor>,
    known: Known,
    pub(super) specs: Shared<Value>,
    /// Specs that are met.
    pub(super) met: usize,
    pub(super) problems: Problems,
}

impl<'a> Judge<'a> {
    pub(super) fn new(
        wanted: BTreeMap<NodeId, &'a Specs>,
        refused: BTreeMap<NodeId, Vec<Error>>,
        rebooted: &'a BTreeMap<NodeId, RebootedFor>,
    ) -> Self {
        Self {
            catalogue: crate::catalogue::catalogue(),
            wanted,
            refused,
            rebooted,
            known: Known::new(),
            specs: Shared::default(),
            met: 0,
            problems: Problems::default(),
        }
    }

    fn judged(&mut self, entry: &Entry, spec: &Spec, fact: &Arc<Value>) -> Judged {
        let key = (entry.name, Arc::as_ptr(&spec.value), Arc::as_ptr(fact));
        if let Some(known) = self.known.get(&key) {
            return known.clone();
        }
        let verdict = judge(entry, &spec.value, Some(&Ok(&**fact)));
        let before = (entry.way_back)(&spec.value, fact).ok().flatten().map(|before| self.specs.one(before));
        let once_more = (entry.once_more)(&spec.value, fact).map(|(spec, effects)| (Arc::new(spec), effects));
        let cost = (entry.cost)(&spec.value, fact);
        let judged = Judged { verdict, before, cost, once_more: once_more.map(Arc::new) };
        if self.known.len() < KNOWN {
            self.known.insert(key, judged.clone());
        }
        judged
    }

    /// Says why a node is refused; whether it is.
    pub(super) fn say_refused(&mut self, node: &NodeId) -> bool {
        let errors = self.refused.get(node).cloned();
        errors.iter().flatten().for_each(|error| self.problems.add_once(node, error.clone()));
        errors.is_some()
    }

    /// Says what of a node's wishes is blocked whatever is done before it; whether anything is.
    pub(super) fn say_lasting(&mut self, node: &NodeId, seen: &Seen) -> bool {
        let specs: &[Spec] = self.wanted.get(node).map(|specs| &***specs).unwrap_or_default();
        let mut any = false;
        for spec in specs {
            let Some(entry) = self.catalogue.find(node.kind.scope(), spec.requirement).copied() else {
                continue;
            };
            let Some(Ok(fact)) = seen.facts.get(entry.fact.name) else { continue };
            if let Verdict::Blocked { why, hint, lasting: true } = self.judged(&entry, spec, fact).verdict {
                any = true;
                let why = format!("{node}: {}: {why}", entry.name);
                self.problems.add_once(node, Error::new(Kind::Blocked, why).hint(hint));
            }
        }
        any
    }

    /// Judges the wishes of a node; `elsewhere`: what a wish waits for may come from another node of this
    /// plan. `Err`: something must be mended by a person first.
    pub(super) fn changes(
        &mut self,
        node: &NodeId,
        seen: Option<&Seen>,
        restarted: bool,
        elsewhere: bool,
    ) -> Result<Vec<Change>, ()> {
        if self.say_refused(node) {
            return Err(());
        }
        let specs: &[Spec] = self.wanted.get(node).map(|specs| &***specs).unwrap_or_default();
        let (mut all, mut blocked) = (vec![], false);
        for spec in specs {
            let Some(entry) = self.catalogue.find(node.kind.scope(), spec.requirement).copied() else {
                continue;
            };
            let fact = seen.and_then(|s| s.facts.get(entry.fact.name)?.as_ref().ok());
            let Judged { verdict, before, cost, once_more } = match fact {
                Some(fact) => self.judged(&entry, spec, fact),
                None => without_fact(&entry, spec, seen),
            };
            all.push(Change {
                entry,
                spec: spec.value.clone(),
                verdict,
                before,
                cost,
                once_more,
                loose: restarted,
                recheck: false,
            });
        }
        let changing: BTreeSet<&str> = all
            .iter()
            .filter(|c| matches!(c.verdict, Verdict::Unmet { .. } | Verdict::Waits { .. }))
            .map(|c| c.entry.name)
            .collect();
        for change in &mut all {
            let built_on = order::foundations(self.catalogue, node.kind.scope(), change.entry.name)
                .iter()
                .any(|f| changing.contains(f));
            change.loose |= built_on;
            // What a VM's wish waits for is its host's: its own other changes do not bring it.
            let comes = built_on && node.kind != NodeKind::Vm;
            match change.verdict.clone() {
                // What it rests on changes: look again when that is done. A proof made in another boot is
                // none any more.
                Verdict::Met { is } if built_on || restarted && depends_on_boot(&change.entry) => {
                    change.recheck = true;
                    change.verdict = Verdict::waits("met; looked at again after the steps before", is);
                }
                // Nothing in this plan brings what it waits for: to begin would be an outage for nothing,
                // again and again.
                Verdict::Waits { on, wants, .. } if !comes && !restarted && !elsewhere => {
                    blocked = true;
                    let why = format!("{node}: {}: {wants} cannot be judged: {on}", change.entry.name);
                    let hint = "nothing in the fleet file changes that: mend it, add what is missing, or take this key out";
                    self.problems.add(node, Error::new(Kind::Blocked, why).hint(hint));
                }
                // What stands in its way now may be just what an earlier step mends.
                Verdict::Blocked { why, lasting: false, .. } if built_on || restarted => {
                    change.verdict = Verdict::waits(why, (change.entry.shown)(&change.spec))
                }
                Verdict::Blocked { why, hint, .. } => {
                    blocked = true;
                    self.problems.add(
                        node,
                        Error::new(Kind::Blocked, format!("{node}: {}: {why}", change.entry.name)).hint(hint),
                    );
                }
                _ => {}
            }
        }
        for change in &all {
            if let Some(error) = self.stuck(node, seen, change) {
                blocked = true;
                self.problems.add(node, error);
            }
        }
        if blocked {
            return Err(());
        }
        let before = all.len();
        all.retain(|c| !c.verdict.is_met());
        self.met += before - all.len();
        Ok(all)
    }

    /// A reboot that has been made for this change and did not bring it: a second one would not either.
    fn stuck(&self, node: &NodeId, seen: Option<&Seen>, change: &Change) -> Option<Error> {
        let pending = matches!(&change.verdict, Verdict::Unmet { effects, .. } if effects.is_empty());
        let made = self
            .rebooted
            .get(node)
            .filter(|_| pending && change.cost.takes_effect == TakesEffect::AfterReboot)?;
        let Verdict::Unmet { is, wants, .. } = &change.verdict else { return None };
        if !made.requirements.contains(change.entry.name) || seen?.boot_id == made.before {
            return None;
        }
        let why = format!(
            "{node}: {}: is {is}, wanted {wants}, although the node was rebooted for it",
            change.entry.name
        );
        let hint = match (change.entry.why_stuck)() {
            "" => "`vsgpu facts` shows what the node says; mend that and reboot by hand once",
            hint => hint,
        };
        Some(
            Error::new(Kind::Blocked, why)
                .code("came-back-unchanged")
                .detail("a second reboot is never made for the same thing")
                .hint(hint),
        )
    }
}

/// Whether a requirement's fact is bound to the running boot: it asks for it.
fn depends_on_boot(entry: &Entry) -> bool {
    (entry.fact.probes)(&Subject::node(), &Observation::default()).contains(&Probe::BootId)
}
