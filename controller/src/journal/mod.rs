//! The append-only record of a run: written and flushed before each act. State is the fold of the records; transitions
//! are a pure function that can refuse.
//!
//! ```text
//! Planned -> { Started -> Done | Failed -> Started .. }* -> Ended
//! ```
//! `store` keeps the records on a disk. Releases may follow the end: they concern the next run.

mod history;
mod store;

pub use history::History;
pub use store::{Disk, Folder, Journal, Lock, Log, Store, Stored, at_work, latest, latest_where, lock, next_number, records, set_aside};

use crate::fleet::{NodeId, NodeKind};
use crate::hold::{Held, Hold};
use crate::plan::{Leftovers, Plan, RebootedFor, VERSION, Work};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "kebab-case")]
pub enum Record {
    /// A run begins.
    Planned {
        /// Seconds since 1970.
        at: u64,
        /// Name of the run, the same for all who go on with it.
        run: String,
        /// What the run is for.
        purpose: Purpose,
        /// The whole plan.
        plan: Box<Plan>,
        /// Hosts that an earlier run left in maintenance mode.
        in_maintenance: BTreeSet<String>,
        /// VMs that an earlier run left stopped.
        stopped: BTreeSet<String>,
        /// Those of them of which it is not known how that ended.
        #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
        unsettled: BTreeSet<NodeId>,
        /// Reboots of earlier runs that did not bring what they were for.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        rebooted: BTreeMap<NodeId, RebootedFor>,
        /// Nodes that earlier runs left held and nobody has released.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        held: BTreeMap<NodeId, Held>,
    },
    /// A step is about to be done.
    Started {
        /// Seconds since 1970.
        at: u64,
        /// Step.
        step: usize,
        /// The boot in which it was started.
        boot_id: String,
    },
    /// A step is done and its result was seen.
    Done {
        /// Seconds since 1970.
        at: u64,
        /// Step.
        step: usize,
        /// What is so.
        note: String,
        /// Somebody else took what this step was to take: it is not ours to give back.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        theirs: bool,
    },
    /// A step failed.
    Failed {
        /// Seconds since 1970.
        at: u64,
        /// Step.
        step: usize,
        /// Why.
        error: String,
        /// Why, in a word.
        hold: Hold,
    },
    /// The run is over.
    Ended {
        /// Seconds since 1970.
        at: u64,
        /// How.
        how: How,
    },
    /// A person has looked at a held node and lets it go. May follow the end.
    Released {
        /// Seconds since 1970.
        at: u64,
        /// The node.
        node: NodeId,
    },
}

/// What a run is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    /// Towards the fleet file.
    Apply,
    /// Towards the facts recorded before another run.
    Rollback,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    /// All that could be done was done.
    Walked,
    /// What it had taken was given back, on the operator's word.
    Aborted,
    /// It was given up as it stood: the next run looks at everything anew.
    GivenUp,
}

/// Where one step is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum StepState {
    /// Not begun.
    #[default]
    Waiting,
    /// Begun; its outcome is not known.
    Started {
        /// The boot in which it was begun.
        boot_id: String,
        /// How often it had failed before.
        times: u32,
        /// An earlier try had been begun, too.
        #[serde(skip)]
        again: bool,
    },
    /// Done.
    Done {
        /// What is so.
        note: String,
        /// Somebody else had taken it.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        theirs: bool,
    },
    /// Failed.
    Failed {
        /// Why, and since when.
        #[serde(flatten)]
        held: Held,
        /// How often it has failed.
        times: u32,
        /// Whether it had been begun: a step whose node could not be reached never was.
        begun: bool,
        /// The boot in which it was begun.
        boot_id: String,
        /// What was begun may still come true.
        #[serde(skip)]
        open: bool,
    },
}

impl StepState {
    /// Whether the node may have been touched.
    pub fn begun(&self) -> bool {
        !matches!(self, Self::Waiting | Self::Failed { begun: false, .. } | Self::Done { theirs: true, .. })
    }

    /// Whether somebody else had taken what it was to take.
    pub fn is_theirs(&self) -> bool {
        matches!(self, Self::Done { theirs: true, .. })
    }

    /// Whether what was begun may still come true: its end is not known, or it was only not waited for.
    fn open_ended(&self) -> bool {
        matches!(self, Self::Started { .. } | Self::Failed { open: true, .. })
    }
}

/// A run, as its records tell it.
#[derive(Clone, Debug)]
pub struct Status {
    /// The plan.
    pub plan: Plan,
    /// One state per step.
    pub steps: Vec<StepState>,
    /// When it began.
    pub begun: u64,
    /// When it ended, if it did, and how.
    pub ended: Option<(u64, How)>,
    /// Name of the run.
    pub run: String,
    /// What it is for.
    pub purpose: Purpose,
    leftovers: Leftovers,
    held: BTreeMap<NodeId, Held>,
}

impl Status {
    /// From the first record of a run.
    ///
    /// # Errors
    /// Where it is no plan, or one of another version.
    pub fn first(record: Record) -> Result<Self, String> {
        match record {
            Record::Planned { at, run, purpose, plan, in_maintenance, stopped, unsettled, rebooted, held } if plan.version == VERSION => {
                let steps = vec![StepState::Waiting; plan.steps.len()];
                let leftovers = Leftovers { in_maintenance, stopped, unsettled, rebooted, held: BTreeMap::new() };
                Ok(Self { plan: *plan, steps, begun: at, ended: None, run, purpose, leftovers, held })
            }
            Record::Planned { plan, .. } => {
                Err(format!("the run was made by another version of vsgpu (format {}, this one reads {VERSION})", plan.version))
            }
            _ => Err("the first record is no plan".into()),
        }
    }

    /// The next state, or why the record cannot follow.
    pub fn next(&mut self, record: &Record) -> Result<(), String> {
        if let Record::Released { node, .. } = record {
            self.held.remove(node);
            for (step, state) in self.plan.steps.iter().zip(&mut self.steps) {
                if let StepState::Failed { held, .. } = state
                    && step.node == *node
                    && held.hold.needs_release()
                {
                    held.hold = Hold::Failed;
                }
            }
            return Ok(());
        }
        if self.ended.is_some() {
            return Err("a record follows the end of the run".into());
        }
        let step = match record {
            Record::Planned { .. } => return Err("a second plan in one run".into()),
            Record::Ended { at, how } => {
                self.ended = Some((*at, *how));
                return Ok(());
            }
            Record::Started { step, .. } | Record::Done { step, .. } | Record::Failed { step, .. } => *step,
            Record::Released { .. } => return Ok(()),
        };
        let state = step.checked_sub(1).and_then(|at| self.steps.get_mut(at)).ok_or_else(|| format!("there is no step {step}"))?;
        let held = |error: &String, hold: Hold, at: u64| Held { hold, why: error.clone(), since: at };
        let next = match (&*state, record) {
            (StepState::Waiting, Record::Started { boot_id, .. }) => {
                StepState::Started { boot_id: boot_id.clone(), times: 0, again: false }
            }
            // Begun again after a crash: the first boot is what tells whether the reboot has happened.
            (
                from @ (StepState::Started { boot_id: first, times, .. } | StepState::Failed { boot_id: first, times, .. }),
                Record::Started { boot_id, .. },
            ) => StepState::Started {
                boot_id: if first.is_empty() { boot_id.clone() } else { first.clone() },
                times: *times,
                again: from.begun(),
            },
            (StepState::Started { .. }, Record::Done { note, theirs, .. }) => StepState::Done { note: note.clone(), theirs: *theirs },
            (StepState::Started { boot_id, times, again }, Record::Failed { at, error, hold, .. }) => {
                // Stale is said before anything is done: what was found so is not ours to give back, unless an earlier try had begun.
                let begun = *again || *hold != Hold::Stale;
                // A guest that did not go down in time may go down all the same.
                let late = *hold == Hold::Failed && self.plan.steps.get(step - 1).is_some_and(|s| s.stops_vm());
                let settled = matches!(hold, Hold::Failed | Hold::Blocked | Hold::Stale | Hold::Drift) && !late;
                StepState::Failed {
                    held: held(error, *hold, *at),
                    times: times + 1,
                    begun,
                    boot_id: boot_id.clone(),
                    open: begun && !settled,
                }
            }
            // Not begun again: whatever kept it from that does not settle what an earlier try had begun.
            (StepState::Failed { begun, boot_id, times, open, .. }, Record::Failed { at, error, hold, .. }) => {
                StepState::Failed { held: held(error, *hold, *at), times: times + 1, begun: *begun, boot_id: boot_id.clone(), open: *open }
            }
            (StepState::Waiting, Record::Failed { at, error, hold, .. }) => {
                StepState::Failed { held: held(error, *hold, *at), times: 1, begun: false, boot_id: String::new(), open: false }
            }
            (from, record) => return Err(format!("step {step} cannot go from {from:?} to {record:?}")),
        };
        *state = next;
        Ok(())
    }

    /// How often a step has failed: with the run and the step it names the operation at the agent.
    pub fn failures(&self, step: usize) -> u32 {
        match self.steps.get(step - 1) {
            Some(StepState::Started { times, .. } | StepState::Failed { times, .. }) => *times,
            _ => 0,
        }
    }

    /// Nodes that are held: by this run, or by earlier ones and not released. The first failure of a node is its reason.
    pub fn held(&self) -> BTreeMap<NodeId, Held> {
        let mut all = self.held.clone();
        for (step, state) in self.plan.steps.iter().zip(&self.steps) {
            if let StepState::Failed { held, .. } = state {
                all.entry(step.node.clone()).or_insert_with(|| held.clone());
            }
        }
        all
    }

    /// Whether something was given back after a failure: then the steps before cannot simply be tried again, because what
    /// they needed (maintenance mode, VMs off) is no longer so.
    pub fn gave_back_early(&self) -> bool {
        let mut unfinished = vec![false; self.steps.len()];
        for (at, step) in self.plan.steps.iter().enumerate() {
            let before = step.after.iter().any(|a| unfinished[a - 1]);
            if before && self.steps[at].begun() {
                return true;
            }
            unfinished[at] = before || !matches!(self.steps[at], StepState::Done { .. });
        }
        false
    }

    /// What the run took and has not given back.
    pub fn leftovers(&self) -> Leftovers {
        let mut left = self.leftovers.clone();
        let given_back: BTreeSet<usize> = self.plan.steps.iter().filter_map(|s| s.gives_back).collect();
        for (step, state) in self.plan.steps.iter().zip(&self.steps) {
            let begun = state.begun();
            let done = matches!(state, StepState::Done { .. });
            let name = &step.node.name;
            let takes = step.enters_maintenance() || step.stops_vm();
            if takes && state.open_ended() {
                left.unsettled.insert(step.node.clone());
            } else if done && (takes || step.leaves_maintenance()) {
                left.unsettled.remove(&step.node);
            }
            if let Work::Activate { restart: None, proves } = &step.work {
                if let StepState::Failed { begun: true, boot_id, .. } = state {
                    let requirements = proves.iter().map(|(name, _)| name.clone()).collect();
                    left.rebooted.insert(step.node.clone(), RebootedFor { before: boot_id.clone(), requirements });
                } else if done {
                    left.rebooted.remove(&step.node);
                }
            } else if step.enters_maintenance() && begun {
                left.in_maintenance.insert(name.clone());
            } else if step.leaves_maintenance() && done {
                left.in_maintenance.remove(name);
            } else if step.stops_vm() && begun {
                // Only a VM that is to run again: one the fleet file wants off stays off.
                if given_back.contains(&step.id) {
                    left.stopped.insert(name.clone());
                }
            } else if step.starts_vm() && done {
                // Found running while a shutdown was still under way is not started: the next plan looks again.
                let stop = step.gives_back.map(|id| &self.steps[id - 1]);
                if stop.is_none_or(|s| !s.begun() || matches!(s, StepState::Done { .. })) {
                    left.unsettled.remove(&step.node);
                    left.stopped.remove(name);
                }
            }
        }
        left.unsettled.retain(|node| match node.kind {
            NodeKind::Host => left.in_maintenance.contains(&node.name),
            NodeKind::Vm | NodeKind::Guest => left.stopped.contains(&node.name),
        });
        left.held = self.held().into_iter().filter(|(_, held)| held.hold.needs_release()).collect();
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::Deadlines;
    use crate::plan::{Rollout, Step};
    use serde_json::json;
    use vsgpu_host_agent::vm::POWER;

    fn power(id: usize, to: &str, gives_back: Option<usize>) -> Step {
        Step {
            id,
            node: NodeId::new(NodeKind::Vm, "vm-01"),
            title: to.into(),
            change: "".into(),
            commands: [].into(),
            work: Work::Meet { requirement: POWER.into(), spec: json!({ "state": to }).into(), expect: None },
            after: (1..id).collect(),
            gives_back,
            rescue: gives_back.is_none() && to == "on",
            connect_secs: 1,
            deadline_secs: 1,
            host: "esx-01".into(),
            disrupts: false,
            before: None,
        }
    }

    fn begun(steps: Vec<Step>, left: Leftovers) -> Status {
        let rollout = Rollout { waves: vec![], clusters: BTreeMap::new(), stop_at_failed: 1 };
        let (fleet_file, fleet, reaches) = (String::new(), String::new(), BTreeMap::new());
        let plan = Plan { version: VERSION, fleet_file, fleet, steps, reaches, deadlines: Deadlines::default(), met: 0, rollout };
        let Leftovers { in_maintenance, stopped, unsettled, rebooted, held } = left;
        let (run, plan) = ("run".into(), Box::new(plan));
        Status::first(Record::Planned { at: 1, run, purpose: Purpose::Apply, plan, in_maintenance, stopped, unsettled, rebooted, held })
            .unwrap_or_else(|why| panic!("{why}"))
    }

    fn tell(status: &mut Status, records: &[Record]) {
        records.iter().for_each(|record| status.next(record).unwrap_or_else(|why| panic!("{why}")));
    }

    fn started(step: usize) -> Record {
        Record::Started { at: 1, step, boot_id: String::new() }
    }

    fn done(step: usize, theirs: bool) -> Record {
        Record::Done { at: 1, step, note: String::new(), theirs }
    }

    /// A guest that did not go down in time, and was found running, may go down all the same: the next run starts it again.
    #[test]
    fn a_stop_that_was_not_waited_for_is_ours_until_a_later_start_is_done() {
        let mut status = begun(vec![power(1, "off", None), power(2, "on", Some(1))], Leftovers::default());
        let failed = Record::Failed { at: 1, step: 1, error: "it did not go down".into(), hold: Hold::Failed };
        tell(&mut status, &[started(1), failed, started(2), done(2, false)]);
        let left = status.leftovers();
        assert!(left.stopped.contains("vm-01") && left.unsettled.contains(&NodeId::new(NodeKind::Vm, "vm-01")), "{left:?}");
        let mut next = begun(vec![power(1, "on", None)], left);
        tell(&mut next, &[started(1), done(1, false)]);
        let left = next.leftovers();
        assert!(left.stopped.is_empty() && left.unsettled.is_empty(), "{left:?}");
    }

    #[test]
    fn what_somebody_else_stopped_was_never_ours() {
        let mut status = begun(vec![power(1, "off", None), power(2, "on", Some(1))], Leftovers::default());
        tell(&mut status, &[started(1), done(1, true)]);
        assert!(!status.steps[0].begun() && status.leftovers().stopped.is_empty());
    }

    /// Stale is said before anything is done, but not of an earlier try that had begun.
    #[test]
    fn stale_does_not_undo_an_earlier_beginning() {
        let stale = || Record::Failed { at: 1, step: 1, error: "another".into(), hold: Hold::Stale };
        let mut once = begun(vec![power(1, "off", None)], Leftovers::default());
        tell(&mut once, &[started(1), stale()]);
        assert!(!once.steps[0].begun());
        let mut twice = begun(vec![power(1, "off", None)], Leftovers::default());
        tell(&mut twice, &[started(1), started(1), stale()]);
        assert!(twice.steps[0].begun());
    }
}
