//! One step on its agent. It looks before it acts, it is named, so that a cut connection finds it again, and
//! what is not known is looked at, never guessed.

use crate::error::{Error, Kind};
use crate::hold::Hold;
use crate::journal::StepState;
use crate::plan::{Plan, Step, Work};
use crate::run::agents::{Agents, Claimed};
use crate::run::event::Event;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use vsgpu_core::failpoint;
use vsgpu_core::outcome::{Expectation, Outcome};
use vsgpu_core::requirement::Deadline;
use vsgpu_core::{Catalogue, Entry};
use vsgpu_host_agent::host::MaintenanceMode;
use vsgpu_wire::client::{Call, CallError, Target};
use vsgpu_wire::traceparent::TraceParent;

/// Longest wait for the answer of an agent beyond what the step itself may take.
pub(super) const GRACE: Duration = Duration::from_secs(60);
/// Between two looks at a node that is to become something.
pub(super) const LOOK: Duration = Duration::from_secs(1);
pub(super) const OBSERVE: Duration = Duration::from_secs(300);
/// Cuts of the connection after which an act is given up: a node that flaps would be asked for ever.
pub(super) const CUTS: u32 = 10;
/// Boots that nobody asked for, after which a node is said to be in a loop.
pub(super) const LOOP: u32 = 2;

/// Observed state after success, and who changed it.
pub(super) type StepResult = Result<(String, ChangedBy), Error>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ChangedBy {
    Us,
    /// It was so before, and that is all that counts.
    Already,
    /// Somebody else changed between plan and step what this one was to change: it is not ours to restore.
    Another,
}

/// What a step tells the main loop.
pub(super) enum Message {
    /// About to act: must be on disk before it does.
    Starting {
        step: usize,
        boot_id: String,
        recorded: oneshot::Sender<()>,
    },
    Event(Event),
}

/// What an agent is asked to change.
pub(super) enum Change<'a> {
    Meet { requirement: &'a str, spec: &'a Value, expect: Option<Expectation> },
    Activate { restart: Option<&'a str>, before: &'a str },
}

pub(super) struct StepRunner {
    pub(super) plan: Arc<Plan>,
    pub(super) id: usize,
    pub(super) was: StepState,
    /// Name of the operation at the agent.
    pub(super) operation: String,
    /// Name of the run.
    pub(super) run: String,
    /// Another step restores what it changes.
    pub(super) temporary: bool,
    /// Where it belongs in the run's trace.
    pub(super) trace: TraceParent,
    /// It changes what is not ours yet, and another step restores it.
    pub(super) not_ours_yet: bool,
    /// What must still be so on the node.
    pub(super) preconditions: Vec<(String, Value)>,
    pub(super) catalogue: &'static Catalogue,
    pub(super) agents: Arc<Agents>,
    pub(super) tx: mpsc::Sender<Message>,
}

impl StepRunner {
    pub(super) fn step(&self) -> &Step {
        &self.plan.steps[self.id - 1]
    }

    pub(super) fn vm(&self) -> Option<&str> {
        self.plan.reaches.get(&self.step().node)?.vm.as_deref()
    }

    pub(super) fn fail(&self, kind: Kind, why: impl std::fmt::Display) -> Error {
        Error::new(kind, format!("{}: {why}", self.step().title)).with(&self.step().node.to_string())
    }

    pub(super) fn call_failed(&self, error: CallError) -> Error {
        let inner = Error::from(error);
        // In a run a node that went away is a step that failed; "unreachable" is for nodes that were never
        // reached.
        let kind = if inner.kind == Kind::Unreachable { Kind::Failed } else { inner.kind };
        let message = format!("{}: {}", self.step().title, inner.cause());
        Error { kind, message, machine: None, ..inner }.with(&self.step().node.to_string())
    }

    pub(super) fn target(&self) -> Result<Target, Error> {
        let reach = self.plan.reaches.get(&self.step().node);
        reach
            .map(|r| r.target())
            .ok_or_else(|| self.fail(Kind::Internal, "the plan does not say how to reach the node"))
    }

    /// Connects and claims, trying again until the step's patience ends: the node may be booting.
    pub(super) async fn reach(&self, secs: u32, anew: bool) -> Result<Claimed, Error> {
        let claimed = self.agents.reach(&self.target()?, Duration::from_secs(secs.into()), anew).await;
        claimed.map_err(|e| self.call_failed(e))
    }

    pub(super) async fn starting(&self, boot_id: String) -> Result<(), Error> {
        let (recorded, waits) = oneshot::channel();
        let _ = self.tx.send(Message::Starting { step: self.id, boot_id, recorded }).await;
        // The main loop is gone: the journal could not be written, so nothing is done.
        waits.await.map_err(|_| self.fail(Kind::Internal, "the start could not be recorded"))
    }

    pub(super) fn say(&self) -> impl FnMut(String) + Send + 'static {
        let (tx, step) = (self.tx.clone(), self.id);
        // A slow terminal must not hold up an agent: what does not fit is not shown.
        move |text| drop(tx.try_send(Message::Event(Event::Said { step, text })))
    }

    pub(super) fn call(&self, claimed: &Claimed) -> Call {
        Call {
            fence: claimed.fence.clone(),
            operation: self.operation.clone(),
            heard: 0,
            // Begun by an earlier process of this run: what runs still is listened to, what has ended is
            // looked at again.
            look_again: matches!(self.was, StepState::Started { .. }),
            deadline_secs: self.step().deadline_secs,
            run: self.run.clone(),
            temporary: self.temporary,
            trace: self.trace.clone(),
            preconditions: self.preconditions.clone(),
        }
    }

    /// Asks until the outcome is known. The operation outlives the connection: after a cut it is asked for
    /// again by its name, and an agent that has forgotten it (because it was restarted) looks at the machine
    /// first. The last word says whether the first asking was the one that was answered.
    pub(super) async fn asked(
        &self,
        claimed: Claimed,
        change: Change<'_>,
    ) -> Result<(Outcome, Claimed, bool), Error> {
        self.asked_as(claimed, change, "").await
    }

    /// The same for a second thing that the step asks for, by a name of its own.
    pub(super) async fn asked_as(
        &self,
        mut claimed: Claimed,
        mut change: Change<'_>,
        part: &str,
    ) -> Result<(Outcome, Claimed, bool), Error> {
        let mut call = self.call(&claimed);
        if !part.is_empty() {
            call.operation = format!("{}-{part}", call.operation);
            // What it changes must not be as an earlier step made it: after a cut it may be half done.
            if let Change::Meet { requirement, .. } = &change {
                call.preconditions.retain(|(name, _)| name != requirement);
            }
        }
        let end = Instant::now() + Duration::from_secs(self.step().deadline_secs.into()) + GRACE;
        let mut cuts = 0;
        loop {
            let within = end.saturating_duration_since(Instant::now()).max(LOOK);
            let (on, mut say) = (&claimed.connection, self.say());
            let answer = match &change {
                Change::Meet { requirement, spec, expect } => {
                    on.apply(self.vm(), requirement, spec, expect.as_ref(), &mut call, within, &mut say).await
                }
                Change::Activate { restart, before } => {
                    match on.activate(*restart, before, &mut call, within, &mut say).await {
                        // A rebooting node cuts the line. One that still answers from the same boot may not
                        // have heard, and is asked again by the same name.
                        Err(CallError::Unreachable(why)) if restart.is_none() => {
                            match self.same_boot(before).await {
                                true => Err(CallError::Unreachable(why)),
                                false => Ok(Outcome::Applied { is: "asked".into(), active: false }),
                            }
                        }
                        other => other,
                    }
                }
            };
            let sent = || Outcome::Applied { is: "sent".into(), active: true };
            let answer = failpoint!(
                UnknownIsDone,
                answer.or_else(|why| matches!(why, CallError::Unreachable(_)).then(sent).ok_or(why)),
                answer
            );
            match answer {
                Ok(outcome) => return Ok((outcome, claimed, cuts == 0)),
                Err(CallError::Unreachable(why)) if Instant::now() >= end => {
                    return Err(self.call_failed(CallError::Unreachable(why)).held(self.too_long()));
                }
                Err(error @ (CallError::Unreachable(_) | CallError::LeaseLost(_))) => {
                    cuts += 1;
                    if cuts > CUTS {
                        return Err(self.call_failed(error).held(Hold::Unreachable));
                    }
                    if cuts > 1 {
                        tokio::time::sleep(LOOK).await;
                    }
                    claimed = self.reach(self.plan.deadlines.reconnect_secs, true).await.map_err(unknown)?;
                    call.fence = claimed.fence.clone();
                    call.look_again = false;
                    if let Change::Meet { expect: Some(expect), .. } = &mut change {
                        expect.started = true;
                    }
                }
                // An earlier asking, or one that broke at the agent, may have done something.
                Err(error) if cuts > 0 || matches!(error, CallError::Failed(_)) => {
                    return Err(unknown(self.call_failed(error)));
                }
                Err(error) => return Err(self.call_failed(error)),
            }
        }
    }

    /// Whether the node answers, and from this boot.
    pub(super) async fn same_boot(&self, before: &str) -> bool {
        let Ok(target) = self.target() else { return false };
        match self.agents.reach(&target, Duration::ZERO, true).await {
            Ok(claimed) => {
                claimed.connection.describe(Duration::from_secs(10)).await.is_ok_and(|d| d.boot_id == before)
            }
            Err(_) => false,
        }
    }

    pub(super) fn too_long(&self) -> Hold {
        let Work::Meet { requirement, spec, .. } = &self.step().work else { return Hold::StepTimeout };
        match self.entry(requirement).map_or(Deadline::Step, |entry| (entry.deadline)(spec)) {
            Deadline::MaintenanceMode => Hold::MaintenanceMode,
            Deadline::PowerOn | Deadline::PowerOff => Hold::GpuAttachTimeout,
            Deadline::DriverInstall => Hold::DriverInstallTimeout,
            Deadline::Step => Hold::StepTimeout,
        }
    }

    pub(super) fn judged(&self, outcome: Outcome) -> StepResult {
        match outcome {
            Outcome::AlreadyMet { is } => Ok((is, ChangedBy::Already)),
            Outcome::Applied { is, .. } => Ok((is, ChangedBy::Us)),
            other => Err(self.refused(other)),
        }
    }

    pub(super) fn refused(&self, outcome: Outcome) -> Error {
        match outcome {
            Outcome::AlreadyMet { is } | Outcome::Applied { is, .. } => self.fail(Kind::Internal, is),
            Outcome::Stale { planned, is } => self
                .fail(
                    Kind::Blocked,
                    format!("the node has changed since the plan was made: it was {planned}, it is {is}; nothing was done"),
                )
                .held(Hold::Stale)
                .hint(Hold::Stale.advice()),
            Outcome::Drifted { requirement, is, was } => self
                .fail(Kind::Blocked, format!("somebody changed {requirement} meanwhile: it was {was}, it is {is}; nothing was done"))
                .held(Hold::Drift)
                .hint(Hold::Drift.advice_for(&self.step().node)),
            Outcome::Late { secs, doing, why, hint } => {
                let hold = self.too_long();
                let why = if why.is_empty() { String::new() } else { format!(" ({why})") };
                let error = self.fail(Kind::Failed, format!("not done within {secs} s, while: {doing}{why}")).held(hold);
                let error = hint.into_iter().fold(error, Error::hint);
                error.hint(hold.advice())
            }
            Outcome::Blocked { why, hint } => self.fail(Kind::Blocked, why).held(Hold::Blocked).hint(hint),
            Outcome::Failed { why, hint } => {
                let maintenance = self.step().spec::<MaintenanceMode>().is_some();
                let hold = if maintenance { Hold::MaintenanceMode } else { Hold::Failed };
                self.fail(Kind::Failed, why).held(hold).hint(hint.unwrap_or_else(|| hold.advice().into()))
            }
        }
    }

    pub(super) fn entry(&self, name: &str) -> Option<&Entry> {
        self.catalogue.find(self.step().node.kind.scope(), name)
    }
}

/// An error behind which nobody knows what became of what was asked.
fn unknown(error: Error) -> Error {
    if error.hold.is_none() { error.held(Hold::Unreachable) } else { error }
}
