//! Where a run is: the fold of its records. Transitions are a pure function that can refuse.
//!
//! ```text
//! Planned -> { Started -> Done | Failed -> Started .. }* -> Ended
//! ```
//! Releases may follow the end: they concern the next run.

use crate::hold::{Held, Hold};
use crate::journal::record::{EndReason, Purpose, Record};
use crate::node::NodeId;
use crate::plan::{Leftovers, Plan, VERSION};
use serde::Serialize;
use std::collections::BTreeMap;

/// Where one step is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum StepState {
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
    Done {
        note: String,
        /// Somebody else had changed it.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        theirs: bool,
    },
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

    /// Whether somebody else had changed what it was to change.
    pub fn is_theirs(&self) -> bool {
        matches!(self, Self::Done { theirs: true, .. })
    }

    /// Whether what was begun may still come true: its end is not known, or it was only not waited for.
    pub(super) fn open_ended(&self) -> bool {
        matches!(self, Self::Started { .. } | Self::Failed { open: true, .. })
    }
}

/// A run, as its records tell it.
#[derive(Clone, Debug)]
pub struct Status {
    pub plan: Plan,
    /// One state per step.
    pub steps: Vec<StepState>,
    pub begun: u64,
    /// When it ended, if it did, and how.
    pub ended: Option<(u64, EndReason)>,
    /// Name of the run.
    pub run: String,
    /// What it is for.
    pub purpose: Purpose,
    /// What earlier runs left.
    pub(super) inherited: Leftovers,
    held: BTreeMap<NodeId, Held>,
}

impl Status {
    /// From the first record of a run.
    ///
    /// # Errors
    /// Where it is no plan, or one of another version.
    pub fn first(record: Record) -> Result<Self, String> {
        match record {
            Record::Planned {
                at,
                run,
                purpose,
                plan,
                in_maintenance,
                stopped,
                unsettled,
                rebooted,
                held,
            } if plan.version == VERSION => {
                let steps = vec![StepState::Waiting; plan.steps.len()];
                let inherited =
                    Leftovers { in_maintenance, stopped, unsettled, rebooted, held: BTreeMap::new() };
                Ok(Self { plan: *plan, steps, begun: at, ended: None, run, purpose, inherited, held })
            }
            Record::Planned { plan, .. } => Err(format!(
                "the run was made by another version of vsgpu (format {}, this one reads {VERSION})",
                plan.version
            )),
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
            Record::Released { .. } | Record::Task { .. } => return Ok(()),
        };
        let state = step
            .checked_sub(1)
            .and_then(|at| self.steps.get_mut(at))
            .ok_or_else(|| format!("there is no step {step}"))?;
        let held = |error: &String, hold: Hold, at: u64| Held { hold, why: error.clone(), since: at };
        let next = match (&*state, record) {
            (StepState::Waiting, Record::Started { boot_id, .. }) => {
                StepState::Started { boot_id: boot_id.clone(), times: 0, again: false }
            }
            // Begun again after a crash: the first boot is what tells whether the reboot has happened.
            (
                from @ (StepState::Started { boot_id: first, times, .. }
                | StepState::Failed { boot_id: first, times, .. }),
                Record::Started { boot_id, .. },
            ) => StepState::Started {
                boot_id: if first.is_empty() { boot_id.clone() } else { first.clone() },
                times: *times,
                again: from.begun(),
            },
            (StepState::Started { .. }, Record::Done { note, theirs, .. }) => {
                StepState::Done { note: note.clone(), theirs: *theirs }
            }
            (StepState::Started { boot_id, times, again }, Record::Failed { at, error, hold, .. }) => {
                // Stale is said before anything is done: what was found so is not ours to restore, unless
                // an earlier try had begun.
                let begun = *again || *hold != Hold::Stale;
                // A guest that did not go down in time may go down all the same.
                let late =
                    *hold == Hold::Failed && self.plan.steps.get(step - 1).is_some_and(|s| s.stops_vm());
                let settled =
                    matches!(hold, Hold::Failed | Hold::Blocked | Hold::Stale | Hold::Drift) && !late;
                StepState::Failed {
                    held: held(error, *hold, *at),
                    times: times + 1,
                    begun,
                    boot_id: boot_id.clone(),
                    open: begun && !settled,
                }
            }
            // Not begun again: whatever kept it from that does not settle what an earlier try had begun.
            (
                StepState::Failed { begun, boot_id, times, open, .. },
                Record::Failed { at, error, hold, .. },
            ) => StepState::Failed {
                held: held(error, *hold, *at),
                times: times + 1,
                begun: *begun,
                boot_id: boot_id.clone(),
                open: *open,
            },
            (StepState::Waiting, Record::Failed { at, error, hold, .. }) => StepState::Failed {
                held: held(error, *hold, *at),
                times: 1,
                begun: false,
                boot_id: String::new(),
                open: false,
            },
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

    /// Nodes that are held: by this run, or by earlier ones and not released. The first failure of a node is
    /// its reason.
    pub fn held(&self) -> BTreeMap<NodeId, Held> {
        let mut all = self.held.clone();
        for (step, state) in self.plan.steps.iter().zip(&self.steps) {
            if let StepState::Failed { held, .. } = state {
                all.entry(step.node.clone()).or_insert_with(|| held.clone());
            }
        }
        all
    }

    /// Whether something was restored after a failure: then the steps before cannot simply be tried again,
    /// because what they needed (maintenance mode, VMs off) is no longer so.
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
}
