//! One step on its agent. It looks before it acts, it is named, so that a cut connection finds it again, and what is not
//! known is looked at, never guessed.

use super::agents::{Agents, Claimed};
use super::{By, Ended, Message};
use crate::error::{Error, Kind};
use crate::event::Event;
use crate::fleet::NodeKind;
use crate::hold::Hold;
use crate::journal::StepState;
use crate::plan::{Plan, Step, Work};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use vsgpu_core::execute::{Expectation, Outcome};
use vsgpu_core::planted::{Bug, planted};
use vsgpu_core::requirement::{Deadline, Verdict};
use vsgpu_core::{Artifact, Catalogue, Entry, Fact as _, judge};
use vsgpu_host_agent::host::{MaintenanceMode, MaintenanceModeFact};
use vsgpu_host_agent::vm::POWER;
use vsgpu_proto::client::{Call, CallError, Connection, Target};
use vsgpu_proto::traceparent::TraceParent;
use vsgpu_proto::v1::ArtifactId;

/// Longest wait for the answer of an agent beyond what the step itself may take.
const GRACE: Duration = Duration::from_secs(60);
/// Between two looks at a node that is to become something.
const LOOK: Duration = Duration::from_secs(1);
const OBSERVE: Duration = Duration::from_secs(300);
/// Cuts of the connection after which an act is given up: a node that flaps would be asked for ever.
const CUTS: u32 = 10;
/// Boots that nobody asked for, after which a node is said to be in a loop.
const LOOP: u32 = 2;

/// What an agent is asked to change.
enum Change<'a> {
    Meet { requirement: &'a str, spec: &'a Value, expect: Option<Expectation> },
    Activate { restart: Option<&'a str>, before: &'a str },
}

pub(super) struct Task {
    pub(super) plan: Arc<Plan>,
    pub(super) id: usize,
    pub(super) was: StepState,
    /// Name of the operation at the agent.
    pub(super) operation: String,
    /// Name of the run.
    pub(super) run: String,
    /// What it takes another step gives back.
    pub(super) borrows: bool,
    /// Where it belongs in the run's trace.
    pub(super) trace: TraceParent,
    /// It takes what is not ours yet; another step gives it back.
    pub(super) takes: bool,
    /// What must still be so on the node.
    pub(super) still: Vec<(String, Value)>,
    pub(super) catalogue: &'static Catalogue,
    pub(super) agents: Arc<Agents>,
    pub(super) tx: mpsc::Sender<Message>,
}

impl Task {
    fn step(&self) -> &Step {
        &self.plan.steps[self.id - 1]
    }

    fn vm(&self) -> Option<&str> {
        self.plan.reaches.get(&self.step().node)?.vm.as_deref()
    }

    fn fail(&self, kind: Kind, why: impl std::fmt::Display) -> Error {
        Error::new(kind, format!("{}: {}: {why}", self.step().node, self.step().title))
    }

    fn call_failed(&self, error: CallError) -> Error {
        let inner = Error::from(error);
        // In a run a node that went away is a step that failed; "unreachable" is for nodes that were never reached.
        let kind = if inner.kind == Kind::Unreachable { Kind::Failed } else { inner.kind };
        Error { kind, message: format!("{}: {}: {}", self.step().node, self.step().title, inner.message), ..inner }
    }

    /// What is so at the end, and whether anything was changed.
    pub(super) async fn run(self) -> Ended {
        match &self.step().work {
            Work::Send { artifact, datastore } => self.send(artifact, datastore.as_deref()).await,
            Work::Meet { requirement, spec, expect } => self.meet(requirement, spec, expect.clone()).await,
            Work::Activate { restart, proves } => {
                // The agent is asked with the specs themselves.
                let proves: Vec<_> = proves.iter().map(|(name, spec)| (name.clone(), (**spec).clone())).collect();
                self.activate(restart.as_deref(), &proves).await
            }
        }
    }

    fn target(&self) -> Result<Target, Error> {
        let reach = self.plan.reaches.get(&self.step().node);
        reach.map(|r| r.target()).ok_or_else(|| self.fail(Kind::Internal, "the plan does not say how to reach the node"))
    }

    /// Connects and claims, trying again until the step's patience ends: the node may be booting.
    async fn reach(&self, secs: u32, anew: bool) -> Result<Claimed, Error> {
        let claimed = self.agents.reach(&self.target()?, Duration::from_secs(secs.into()), anew).await;
        claimed.map_err(|e| self.call_failed(e))
    }

    async fn starting(&self, boot_id: String) -> Result<(), Error> {
        let (recorded, waits) = oneshot::channel();
        let _ = self.tx.send(Message::Starting { step: self.id, boot_id, recorded }).await;
        // The main loop is gone: the journal could not be written, so nothing is done.
        waits.await.map_err(|_| self.fail(Kind::Internal, "the start could not be recorded"))
    }

    fn say(&self) -> impl FnMut(String) + Send + 'static {
        let (tx, step) = (self.tx.clone(), self.id);
        // A slow terminal must not hold up an agent: what does not fit is not shown.
        move |text| drop(tx.try_send(Message::Event(Event::Said { step, text })))
    }

    fn call(&self, claimed: &Claimed) -> Call {
        Call {
            fence: claimed.fence.clone(),
            operation: self.operation.clone(),
            heard: 0,
            // Begun by an earlier process of this run: what runs still is listened to, what has ended is looked at again.
            look_again: matches!(self.was, StepState::Started { .. }),
            deadline_secs: self.step().deadline_secs,
            run: self.run.clone(),
            borrows: self.borrows,
            trace: self.trace.clone(),
            still: self.still.clone(),
        }
    }

    async fn send(&self, artifact: &Artifact, datastore: Option<&str>) -> Ended {
        let folder = std::path::Path::new(&self.plan.fleet_file).parent().map(std::path::Path::to_path_buf).unwrap_or_default();
        let file = folder.join(&artifact.artifact);
        let total = artifact.size.unwrap_or_default();
        let id = ArtifactId {
            name: artifact.file_name().into(),
            sha256: artifact.sha256.clone().unwrap_or_default(),
            size: total,
            datastore: datastore.unwrap_or_default().into(),
        };
        let mut claimed = self.reach(self.step().connect_secs, false).await?;
        self.starting(String::new()).await?;
        let end = Instant::now() + Duration::from_secs(self.plan.deadlines.transfer_secs.into());
        loop {
            let (tx, step) = (self.tx.clone(), self.id);
            let mut moved = false;
            let mut progress = |bytes: u64| {
                moved |= bytes < total;
                drop(tx.try_send(Message::Event(Event::Sent { step, bytes, total })));
            };
            let left = end.saturating_duration_since(Instant::now());
            let sent = match self.agents.own(&self.target()?).await {
                Ok(own) => own.send(&file, id.clone(), &claimed.fence, &self.trace, left, &mut progress).await,
                Err(error) => Err(error),
            };
            match sent {
                Ok(state) => return Ok((state.path, if moved { By::Us } else { By::Already })),
                // A cut connection goes on where it was cut.
                Err(CallError::Away(_) | CallError::Unclaimed(_)) if Instant::now() < end => {
                    claimed = self.reach(self.plan.deadlines.reconnect_secs, true).await?;
                }
                Err(CallError::Away(why)) => {
                    return Err(self.call_failed(CallError::Away(why)).held(Hold::StepTimeout));
                }
                Err(error) => return Err(self.call_failed(error)),
            }
        }
    }

    async fn meet(&self, requirement: &str, spec: &Value, mut expect: Option<Expectation>) -> Ended {
        if let (Some(expect), StepState::Started { .. }) = (&mut expect, &self.was) {
            expect.started = true;
        }
        let claimed = self.reach(self.step().connect_secs, false).await?;
        self.starting(String::new()).await?;
        let (outcome, _, sure) = self.asked(claimed, Change::Meet { requirement, spec, expect }).await?;
        match outcome {
            // Asked once and for the first time: it was not us. What somebody else took is not ours to give back.
            Outcome::AlreadyMet { is } if self.takes && sure && !self.was.begun() && !planted(Bug::TakenByAnotherIsOurs) => {
                // The host's work needs its VMs off and does not care by whom; a host in maintenance mode is somebody's at work.
                if requirement == POWER {
                    return Ok((format!("{is}, by somebody else: it stays theirs"), By::Another));
                }
                let why = format!("somebody else did this since the plan was made ({is}): it stays theirs; nothing was done");
                Err(self.fail(Kind::Blocked, why).held(Hold::Stale).hint(Hold::Stale.advice()))
            }
            outcome => self.judged(outcome),
        }
    }

    /// Asks until the outcome is known. The operation outlives the connection: after a cut it is asked for again by its name, and
    /// an agent that has forgotten it (because it was restarted) looks at the machine first. The last word says whether the first
    /// asking was the one that was answered.
    async fn asked(&self, mut claimed: Claimed, mut change: Change<'_>) -> Result<(Outcome, Claimed, bool), Error> {
        let mut call = self.call(&claimed);
        let end = Instant::now() + Duration::from_secs(self.step().deadline_secs.into()) + GRACE;
        let mut cuts = 0;
        loop {
            let within = end.saturating_duration_since(Instant::now()).max(LOOK);
            let (on, mut say) = (&claimed.connection, self.say());
            let answer = match &change {
                Change::Meet { requirement, spec, expect } => {
                    on.apply(self.vm(), requirement, spec, expect.as_ref(), &mut call, within, &mut say).await
                }
                Change::Activate { restart, before } => match on.activate(*restart, before, &mut call, within, &mut say).await {
                    // A rebooting node cuts the line. One that still answers from the same boot may not have heard, and is asked again
                    // by the same name.
                    Err(CallError::Away(why)) if restart.is_none() => match self.same_boot(before).await {
                        true => Err(CallError::Away(why)),
                        false => Ok(Outcome::Applied { is: "asked".into(), active: false }),
                    },
                    other => other,
                },
            };
            match answer {
                Ok(outcome) => return Ok((outcome, claimed, cuts == 0)),
                Err(CallError::Away(_)) if planted(Bug::UnknownIsDone) => {
                    return Ok((Outcome::Applied { is: "sent".into(), active: true }, claimed, false));
                }
                Err(CallError::Away(why)) if Instant::now() >= end => {
                    return Err(self.call_failed(CallError::Away(why)).held(self.too_long()));
                }
                Err(error @ (CallError::Away(_) | CallError::Unclaimed(_))) => {
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
                Err(error) if cuts > 0 || matches!(error, CallError::Failed(_)) => return Err(unknown(self.call_failed(error))),
                Err(error) => return Err(self.call_failed(error)),
            }
        }
    }

    /// Whether the node answers, and from this boot.
    async fn same_boot(&self, before: &str) -> bool {
        let Ok(target) = self.target() else { return false };
        match self.agents.reach(&target, Duration::ZERO, true).await {
            Ok(claimed) => claimed.connection.describe(Duration::from_secs(10)).await.is_ok_and(|d| d.boot_id == before),
            Err(_) => false,
        }
    }

    fn too_long(&self) -> Hold {
        let Work::Meet { requirement, spec, .. } = &self.step().work else { return Hold::StepTimeout };
        match self.entry(requirement).map_or(Deadline::Step, |entry| (entry.deadline)(spec)) {
            Deadline::MaintenanceMode => Hold::MaintenanceMode,
            Deadline::PowerOn | Deadline::PowerOff => Hold::GpuAttachTimeout,
            Deadline::DriverInstall => Hold::DriverInstallTimeout,
            Deadline::Step => Hold::StepTimeout,
        }
    }

    fn judged(&self, outcome: Outcome) -> Ended {
        match outcome {
            Outcome::AlreadyMet { is } => Ok((is, By::Already)),
            Outcome::Applied { is, .. } => Ok((is, By::Us)),
            other => Err(self.refused(other)),
        }
    }

    fn refused(&self, outcome: Outcome) -> Error {
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

    async fn activate(&self, restart: Option<&str>, proves: &[(String, Value)]) -> Ended {
        // The boot in which this step was first begun: on the way back from a crash the reboot may have happened.
        let begun = match &self.was {
            StepState::Started { boot_id, .. } | StepState::Failed { boot_id, .. } if !boot_id.is_empty() => Some(boot_id.as_str()),
            _ => None,
        };
        let end = Instant::now() + Duration::from_secs(self.plan.deadlines.reconnect_secs.into());
        let mut again = false;
        let (mut claimed, boot_now, needed) = loop {
            match self.before_activation(begun, proves, again).await {
                // It may be on its way down already.
                Err(error) if error.hold == Some(Hold::Unreachable) && Instant::now() < end => tokio::time::sleep(LOOK).await,
                seen => break seen?,
            }
            again = true;
        };
        let before = begun.unwrap_or(&boot_now).to_string();
        self.starting(before.clone()).await?;
        if !needed {
            return Ok(("not needed".into(), By::Already));
        }
        if before == boot_now {
            let (outcome, still_ours, _) = self.asked(claimed, Change::Activate { restart, before: &before }).await?;
            claimed = still_ours;
            self.judged(outcome)?;
        }
        let mut boot = before.clone();
        if restart.is_none() {
            (claimed, boot) = self.rebooted(&before).await?;
            if planted(Bug::RebootWithoutBootId) {
                return Ok((String::new(), By::Us));
            }
            self.tools_answer(&claimed.connection).await?;
        }
        let settle = proves.iter().filter_map(|(name, spec)| self.entry(name).map(|e| (e.settle_secs)(spec))).max().unwrap_or(0);
        let end = Instant::now() + Duration::from_secs(u64::from(settle) + 5);
        let (what, mut boots) = (if restart.is_some() { "restart" } else { "reboot" }, 0);
        loop {
            if boots >= LOOP {
                let why = format!("it has rebooted {boots} times since, and nobody asked for that");
                return Err(self.fail(Kind::Blocked, why).held(Hold::BootLoop).hint(Hold::BootLoop.advice_for(&self.step().node)));
            }
            let why = match self.unproven(&claimed.connection, proves).await {
                Ok((_, now)) if restart.is_none() && now != boot => {
                    (boots, boot) = (boots + 1, now);
                    // Another boot is another wait.
                    self.tools_answer(&claimed.connection).await?;
                    continue;
                }
                Ok((None, _)) => return Ok((format!("{what}ed"), By::Us)),
                Ok((Some(why), _)) => Ok(why),
                Err(error) => Err(error),
            };
            match why {
                // Gone again: it is waited for as after any reboot. What answers, but wrongly, has only the time of the proof.
                Err(error) if restart.is_none() && error.hold == Some(Hold::Unreachable) => {
                    tokio::time::sleep(LOOK).await;
                    let (again, now) = self.rebooted(&before).await?;
                    boots += u32::from(now != boot);
                    (claimed, boot) = (again, now);
                }
                _ if Instant::now() < end => tokio::time::sleep(LOOK).await,
                Ok(why) => {
                    return Err(self
                        .fail(Kind::Failed, format!("after the {what}: {why}"))
                        .held(if restart.is_some() { Hold::Failed } else { Hold::CameBackUnchanged })
                        .hint(format!("a second {what} would not help; `vsgpu facts` shows what the node says")));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The boot the node is in, and whether anything is left to become active in it.
    async fn before_activation(
        &self,
        begun: Option<&str>,
        proves: &[(String, Value)],
        again: bool,
    ) -> Result<(Claimed, String, bool), Error> {
        let claimed = self.reach(self.step().connect_secs, again).await?;
        let boot = claimed.connection.describe(OBSERVE).await.map_err(|e| self.call_failed(e))?.boot_id;
        let other = begun.is_some_and(|before| before != boot);
        let needed = other || self.unproven(&claimed.connection, proves).await?.0.is_some();
        Ok((claimed, boot, needed))
    }

    /// Waits until the node answers from another boot, and has proved anew who it is.
    async fn rebooted(&self, before: &str) -> Result<(Claimed, String), Error> {
        let deadlines = &self.plan.deadlines;
        let secs = if self.step().node.kind == NodeKind::Guest { deadlines.guest_boot_secs } else { deadlines.host_reboot_secs };
        let end = Instant::now() + Duration::from_secs(secs.into());
        let mut pause = Duration::from_millis(250);
        loop {
            match self.agents.reach(&self.target()?, Duration::ZERO, true).await {
                Ok(claimed) => match claimed.connection.describe(Duration::from_secs(10)).await {
                    Ok(d) if d.boot_id != before || planted(Bug::RebootWithoutBootId) => return Ok((claimed, d.boot_id)),
                    _ => {}
                },
                Err(error @ (CallError::Overtaken(_) | CallError::Refused { .. })) => return Err(self.call_failed(error)),
                Err(_) => {}
            }
            if Instant::now() >= end {
                let node = &self.step().node;
                return Err(self
                    .fail(Kind::Failed, format!("the node did not come back within {secs} s after its reboot was started"))
                    .held(Hold::RebootTimeout)
                    .hint(format!(
                        "look at the console of {node}; when its agent answers again, `vsgpu apply` goes on without another reboot"
                    )));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(2));
        }
    }

    /// On a host the agent is up before hostd is: the next step would fail for want of it.
    async fn tools_answer(&self, connection: &Connection) -> Result<(), Error> {
        let end = Instant::now() + Duration::from_secs(self.plan.deadlines.host_reboot_secs.into());
        while self.step().node.kind == NodeKind::Host {
            let seen = connection.observe(None, &[MaintenanceModeFact::NAME], &[], OBSERVE).await;
            match seen.map(|(_, facts)| facts.get(MaintenanceModeFact::NAME).cloned()) {
                Ok(Some(Err(why))) if Instant::now() >= end => {
                    return Err(self.fail(Kind::Failed, format!("after the reboot the host's own tools do not answer: {why}")));
                }
                Ok(Some(Err(_))) => tokio::time::sleep(LOOK).await,
                // Whether it answers at all is the next question's matter.
                _ => break,
            }
        }
        Ok(())
    }

    fn entry(&self, name: &str) -> Option<&Entry> {
        self.catalogue.find(self.step().node.kind.scope(), name)
    }

    /// The first requirement that is not met, and why; and the boot that was looked at.
    async fn unproven(&self, connection: &Connection, proves: &[(String, Value)]) -> Result<(Option<String>, String), Error> {
        let names: Vec<&str> = proves.iter().filter_map(|(name, _)| Some(self.entry(name)?.fact.name)).collect();
        let (boot, facts) = connection.observe(self.vm(), &names, &[], OBSERVE).await.map_err(|e| self.call_failed(e))?;
        for (name, spec) in proves {
            let Some(entry) = self.entry(name) else { continue };
            let why = match judge(entry, spec, facts.get(entry.fact.name)) {
                Verdict::Met { .. } => continue,
                Verdict::Unmet { is, wants, .. } => format!("is {is}, wanted {wants}"),
                Verdict::Waits { on: why, .. } | Verdict::Blocked { why, .. } => why,
            };
            return Ok((Some(format!("{name}: {why}")), boot));
        }
        Ok((None, boot))
    }
}

/// An error behind which nobody knows what became of what was asked.
fn unknown(error: Error) -> Error {
    if error.hold.is_none() { error.held(Hold::Unreachable) } else { error }
}
