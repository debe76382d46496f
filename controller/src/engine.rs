//! Walks a plan: journal, agent, journal. Nodes run beside each other, the steps of one node one after the other.
//!
//! Every step looks before it acts, so going on after a crash is the same road as the first run. A step that failed keeps
//! what builds on it from running; a step that *gives back* (leave maintenance mode, start a VM) runs all the same.
//! A reboot is done when the boot id differs from the recorded one and what it was for is met: never a second one.

use crate::error::{Error, Kind};
use crate::event::Event;
use crate::journal::{Record, Status, StepState, Store};
use crate::plan::{Plan, Step, Work};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;
use vsgpu_core::execute::{Expectation, Outcome};
use vsgpu_core::requirement::Verdict;
use vsgpu_core::{Artifact, Catalogue, Entry};
use vsgpu_proto::client::{CallError, Connection, Operator};
use vsgpu_proto::v1::ArtifactId;

/// Steps at once.
const AT_ONCE: usize = 128;
/// Longest act of an agent; each command inside has its own, shorter deadline.
const ACT: Duration = Duration::from_secs(2 * 3600);
/// Between two tries to reach an agent.
const RETRY: Duration = Duration::from_millis(250);
const OBSERVE: Duration = Duration::from_secs(300);
/// Tries of an act whose connection broke: the outcome is looked at, not guessed.
const ATTEMPTS: u32 = 5;

/// How a run ended.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Steps done.
    pub done: usize,
    /// Steps left out.
    pub skipped: usize,
    /// Steps that failed, with why.
    pub failed: Vec<(usize, Error)>,
    /// Whether any step changed anything.
    pub changed: bool,
}

/// What is so when a step has ended well, and whether it changed anything.
type Ended = Result<(String, bool), Error>;

/// What a step tells the main loop.
enum Message {
    /// About to act: must be on disk before it does.
    Starting {
        step: usize,
        boot_id: String,
        recorded: oneshot::Sender<()>,
    },
    Event(Event),
}

/// Walks the plan from where the status is.
///
/// # Errors
/// Where the journal cannot be written: then nothing more is done.
pub async fn run(
    mut status: Status,
    store: &mut dyn Store,
    operator: &Operator,
    now: fn() -> u64,
    say: &mut dyn FnMut(&Event),
) -> Result<Summary, Error> {
    let plan = Arc::new(status.plan.clone());
    let catalogue = Arc::new(crate::catalogue());
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let (tx, mut messages) = mpsc::channel::<Message>(256);
    let mut state: Vec<State> =
        status.steps.iter().map(|s| if matches!(s, StepState::Done { .. }) { State::Done } else { State::Waiting }).collect();
    let mut open: Vec<usize> = plan.steps.iter().map(|s| s.after.iter().filter(|a| state[**a - 1] != State::Done).count()).collect();
    let mut dependents: Vec<Vec<usize>> = vec![vec![]; plan.steps.len()];
    for step in &plan.steps {
        step.after.iter().for_each(|a| dependents[a - 1].push(step.id));
    }
    let mut ready: Vec<usize> = plan.steps.iter().filter(|s| open[s.id - 1] == 0 && state[s.id - 1] != State::Done).map(|s| s.id).collect();
    let mut summary = Summary { done: state.iter().filter(|s| **s == State::Done).count(), ..Summary::default() };
    let mut work: JoinSet<(usize, Ended)> = JoinSet::new();
    say(&Event::Begun { steps: plan.steps.len(), done_before: summary.done });
    loop {
        while let Some(id) = ready.pop() {
            let step = &plan.steps[id - 1];
            let tainted = step.after.iter().any(|a| state[a - 1].tainted());
            let taken = step.rescue || step.gives_back.is_some_and(|g| status.steps[g - 1].begun());
            if tainted && !taken {
                state[id - 1] = State::Skipped;
                summary.skipped += 1;
                say(&Event::Skipped { step: id });
                finished(id, &dependents, &mut open, &mut ready);
                continue;
            }
            state[id - 1] = if tainted { State::Rescue } else { State::Running };
            let task = Task {
                plan: plan.clone(),
                id,
                was: status.steps[id - 1].clone(),
                catalogue: catalogue.clone(),
                operator: operator.clone(),
                tx: tx.clone(),
            };
            let places = places.clone();
            work.spawn(async move {
                let _place = places.acquire_owned().await;
                (id, task.run().await)
            });
        }
        tokio::select! {
            // Messages first: an event of a step is said before its end.
            biased;
            Some(message) = messages.recv() => match message {
                Message::Event(event) => say(&event),
                Message::Starting { step, boot_id, recorded } => {
                    record(&mut status, store, Record::Started { at: now(), step, boot_id })?;
                    say(&Event::Started { step });
                    let _ = recorded.send(());
                }
            },
            ended = work.join_next() => match ended {
                None => break,
                Some(Err(panic)) => return Err(Error::new(Kind::Internal, format!("a step ended without an outcome: {panic}"))),
                Some(Ok((id, Ok((note, changed))))) => {
                    record(&mut status, store, Record::Done { at: now(), step: id, note: note.clone() })?;
                    summary.done += 1;
                    summary.changed |= changed;
                    // What a rescue brought back does not mend what failed before it.
                    state[id - 1] = if state[id - 1] == State::Rescue { State::Rescued } else { State::Done };
                    say(&Event::Done { step: id, note, changed });
                    finished(id, &dependents, &mut open, &mut ready);
                }
                Some(Ok((id, Err(error)))) => {
                    record(&mut status, store, Record::Failed { at: now(), step: id, error: error.message.clone() })?;
                    state[id - 1] = State::Failed;
                    say(&Event::Failed { step: id, error: error.clone() });
                    summary.failed.push((id, error));
                    finished(id, &dependents, &mut open, &mut ready);
                }
            },
        }
    }
    record(&mut status, store, Record::Ended { at: now() })?;
    say(&Event::Ended { done: summary.done, failed: summary.failed.len(), skipped: summary.skipped });
    Ok(summary)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Running,
    Rescue,
    Rescued,
    Done,
    Failed,
    Skipped,
}

impl State {
    fn tainted(self) -> bool {
        matches!(self, Self::Failed | Self::Skipped | Self::Rescued)
    }
}

fn finished(id: usize, dependents: &[Vec<usize>], open: &mut [usize], ready: &mut Vec<usize>) {
    for next in &dependents[id - 1] {
        open[next - 1] -= 1;
        if open[next - 1] == 0 {
            ready.push(*next);
        }
    }
}

/// A record that could not follow must never reach the disk, where it would make the run unreadable.
fn record(status: &mut Status, store: &mut dyn Store, record: Record) -> Result<(), Error> {
    status.next(&record).map_err(|why| Error::new(Kind::Internal, why))?;
    store.append(&record)
}

struct Task {
    plan: Arc<Plan>,
    id: usize,
    was: StepState,
    catalogue: Arc<Catalogue>,
    operator: Operator,
    tx: mpsc::Sender<Message>,
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

    fn call(&self, error: CallError) -> Error {
        let inner = Error::from(error);
        // In a run a node that went away is a step that failed; "unreachable" is for nodes that were never reached.
        let kind = if inner.kind == Kind::Unreachable { Kind::Failed } else { inner.kind };
        Error { kind, message: format!("{}: {}: {}", self.step().node, self.step().title, inner.message), ..inner }
    }

    /// What is so at the end, and whether anything was changed.
    async fn run(self) -> Ended {
        match &self.step().work {
            Work::Send { artifact, datastore } => self.send(artifact, datastore.as_deref()).await,
            Work::Meet { requirement, spec, expect } => self.meet(requirement, spec, expect.clone()).await,
            Work::Activate { restart, proves } => self.activate(restart.as_deref(), proves).await,
        }
    }

    /// Connects, trying again until the step's patience ends: the node may be booting.
    async fn connect(&self, patience: u32) -> Result<Connection, Error> {
        let reach = self
            .plan
            .reaches
            .get(&self.step().node)
            .ok_or_else(|| self.fail(Kind::Internal, "the plan does not say how to reach the node"))?;
        let target = reach.target();
        let end = Instant::now() + Duration::from_secs(patience.into());
        loop {
            let once = Duration::from_secs(self.plan.deadlines.connect_secs.into());
            match Connection::open(&self.operator, &target, once).await {
                Ok(connection) => return Ok(connection),
                Err(CallError::Away(_)) if Instant::now() < end => tokio::time::sleep(RETRY).await,
                Err(error) => return Err(self.call(error)),
            }
        }
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
        let mut first = self.connect(self.step().connect_secs).await?;
        self.starting(String::new()).await?;
        let within = Duration::from_secs(self.plan.deadlines.transfer_secs.into());
        for attempt in 1.. {
            let (tx, step) = (self.tx.clone(), self.id);
            let mut moved = false;
            let mut progress = |bytes: u64| {
                moved |= bytes < total;
                drop(tx.try_send(Message::Event(Event::Sent { step, bytes, total })));
            };
            match first.send(&file, id.clone(), within, &mut progress).await {
                Ok(state) => return Ok((state.path, moved)),
                // A cut connection goes on where it was cut.
                Err(CallError::Away(_)) if attempt < ATTEMPTS => first = self.connect(self.step().connect_secs).await?,
                Err(error) => return Err(self.call(error)),
            }
        }
        unreachable!("the loop ends by returning")
    }

    async fn meet(&self, requirement: &str, spec: &Value, mut expect: Option<Expectation>) -> Ended {
        if let (Some(expect), StepState::Started { .. }) = (&mut expect, &self.was) {
            expect.started = true;
        }
        let mut connection = self.connect(self.step().connect_secs).await?;
        self.starting(String::new()).await?;
        for attempt in 1.. {
            match connection.apply(self.vm(), requirement, spec, expect.as_ref(), ACT, &mut self.say()).await {
                Ok(outcome) => return self.judged(outcome),
                // The outcome is not known: look again. The agent works on one act at a time and checks first.
                Err(CallError::Away(_)) if attempt < ATTEMPTS => {
                    expect.iter_mut().for_each(|e| e.started = true);
                    connection = self.connect(self.step().connect_secs).await?;
                }
                Err(error) => return Err(self.call(error)),
            }
        }
        unreachable!("the loop ends by returning")
    }

    fn judged(&self, outcome: Outcome) -> Ended {
        match outcome {
            Outcome::AlreadyMet { is } => Ok((is, false)),
            Outcome::Applied { is, .. } => Ok((is, true)),
            Outcome::Stale { planned, is } => Err(self
                .fail(
                    Kind::Blocked,
                    format!("the node has changed since the plan was made: it was {planned}, it is {is}; nothing was done"),
                )
                .hint("look at the new plan: `vsgpu plan`")),
            Outcome::Blocked { why, hint } => Err(self.fail(Kind::Blocked, why).hint(hint)),
            Outcome::Failed { why, hint } => {
                let next = "`vsgpu facts` shows how the node is now; `vsgpu apply` goes on from there";
                Err(self.fail(Kind::Failed, why).hint(hint.unwrap_or_else(|| next.into())))
            }
        }
    }

    async fn activate(&self, restart: Option<&str>, proves: &[(String, Value)]) -> Ended {
        let mut connection = self.connect(self.step().connect_secs).await?;
        let boot_now = connection.describe(OBSERVE).await.map_err(|e| self.call(e))?.boot_id;
        // The boot in which this step was first begun: on the way back from a crash the reboot may have happened.
        let before = match &self.was {
            StepState::Started { boot_id } | StepState::Failed { boot_id, .. } if !boot_id.is_empty() => boot_id.clone(),
            _ => boot_now.clone(),
        };
        self.starting(before.clone()).await?;
        if before == boot_now && self.unproven(&connection, proves).await?.is_none() {
            return Ok(("not needed".into(), false));
        }
        if before == boot_now {
            match connection.activate(restart, &before, ACT, &mut self.say()).await {
                Ok(Outcome::Failed { why, .. }) => return Err(self.fail(Kind::Failed, why)),
                Ok(_) => {}
                // A rebooting node cuts the line; whether it reboots is seen by its boot id.
                Err(CallError::Away(_)) if restart.is_none() => {}
                Err(error) => return Err(self.call(error)),
            }
        }
        if restart.is_none() {
            connection = self.rebooted(&before).await?;
            self.tools_answer(&connection).await?;
        }
        let settle = proves.iter().filter_map(|(name, spec)| self.entry(name).map(|e| (e.settle_secs)(spec))).max().unwrap_or(0);
        let end = Instant::now() + Duration::from_secs(u64::from(settle) + 5);
        loop {
            match self.unproven(&connection, proves).await {
                Ok(None) => return Ok((if restart.is_some() { "restarted" } else { "rebooted" }.into(), true)),
                Ok(Some(_)) | Err(_) if Instant::now() < end => tokio::time::sleep(Duration::from_secs(1)).await,
                Ok(Some(why)) => {
                    let what = if restart.is_some() { "restart" } else { "reboot" };
                    return Err(self
                        .fail(Kind::Failed, format!("after the {what}: {why}"))
                        .hint(format!("a second {what} would not help; `vsgpu facts` shows what the node says")));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits until the node answers from another boot.
    async fn rebooted(&self, before: &str) -> Result<Connection, Error> {
        let deadlines = &self.plan.deadlines;
        let secs =
            if self.step().node.kind == crate::fleet::NodeKind::Guest { deadlines.guest_boot_secs } else { deadlines.host_reboot_secs };
        let end = Instant::now() + Duration::from_secs(secs.into());
        loop {
            if let Ok(connection) = self.connect(0).await
                && connection.describe(Duration::from_secs(10)).await.is_ok_and(|d| d.boot_id != before)
            {
                return Ok(connection);
            }
            if Instant::now() >= end {
                let node = &self.step().node;
                return Err(self
                    .fail(Kind::Failed, format!("the node did not come back within {secs} s after its reboot was started"))
                    .hint(format!(
                        "look at the console of {node}; when its agent answers again, `vsgpu apply` goes on without another reboot"
                    )));
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// On a host the agent is up before hostd is: the next step would fail for want of it.
    async fn tools_answer(&self, connection: &Connection) -> Result<(), Error> {
        let end = Instant::now() + Duration::from_secs(self.plan.deadlines.host_reboot_secs.into());
        while self.step().node.kind == crate::fleet::NodeKind::Host {
            let (_, facts) = connection.observe(None, &["maintenance-mode"], &[], OBSERVE).await.map_err(|e| self.call(e))?;
            match facts.get("maintenance-mode") {
                Some(Err(why)) if Instant::now() >= end => {
                    return Err(self.fail(Kind::Failed, format!("after the reboot the host's own tools do not answer: {why}")));
                }
                Some(Err(_)) => tokio::time::sleep(Duration::from_secs(1)).await,
                _ => break,
            }
        }
        Ok(())
    }

    fn entry(&self, name: &str) -> Option<&Entry> {
        self.catalogue.find(self.step().node.kind.scope(), name)
    }

    /// The first requirement that is not met, and why.
    async fn unproven(&self, connection: &Connection, proves: &[(String, Value)]) -> Result<Option<String>, Error> {
        let names: Vec<&str> = proves.iter().filter_map(|(name, _)| Some(self.entry(name)?.fact.name)).collect();
        let (_, facts) = connection.observe(self.vm(), &names, &[], OBSERVE).await.map_err(|e| self.call(e))?;
        for (name, spec) in proves {
            let Some(entry) = self.entry(name) else { continue };
            let verdict = match facts.get(entry.fact.name) {
                Some(Ok(fact)) => (entry.check)(spec, fact).map_err(|why| self.fail(Kind::Internal, why))?,
                Some(Err(unreadable)) => return Ok(Some(format!("{name}: {unreadable}"))),
                None => return Ok(Some(format!("{name}: not observed"))),
            };
            match verdict {
                Verdict::Met { .. } => {}
                Verdict::Unmet { is, wants, .. } => return Ok(Some(format!("{name}: is {is}, wanted {wants}"))),
                Verdict::Waits { on, .. } => return Ok(Some(format!("{name}: {on}"))),
                Verdict::Blocked { why, .. } => return Ok(Some(format!("{name}: {why}"))),
            }
        }
        Ok(None)
    }
}
