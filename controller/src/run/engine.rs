//! Executes a plan: journal, agent, journal. Nodes run beside each other, the steps of one node one after the
//! other.
//!
//! Every step looks before it acts, so going on after a crash is the same road as the first run. A step that
//! failed keeps what builds on it from running; a step that *restores* (leave maintenance mode, start a VM)
//! runs all the same. A reboot is done when the boot id differs from the recorded one and what it was for is
//! met: never a second one. `budget` says which hosts may be touched now, `agents` holds connections and
//! claims, `task` does one step.

use crate::error::{Error, Kind};
use crate::hold::Hold;
use crate::journal::{EndReason, Record, Status, StepState, Store, outstanding};
use crate::node::NodeId;
use crate::plan::{Plan, Step, Work};
use crate::run::agents::Agents;
use crate::run::event::Event;
use crate::run::rollout_budget::{Admission, RolloutBudget};
use crate::run::step::{ChangedBy, Message, StepResult, StepRunner};
use crate::run::{apply, reboot};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use vsgpu_core::failpoint;
use vsgpu_core::text::piece;
use vsgpu_core::words::names_task;
use vsgpu_wire::client::Connector;

const AT_ONCE: usize = 1024;

/// How a run ended.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    pub done: usize,
    pub skipped: usize,
    /// Steps that failed, with why.
    pub failed: Vec<(usize, Error)>,
    /// Whether any step changed anything.
    pub changed: bool,
    /// Stopped before the end, on the operator's word: the run can be gone on with.
    pub stopped: Option<Stopped>,
    /// Hosts of which nothing was begun, and why not; VMs that were not started again.
    pub untouched: BTreeMap<String, String>,
}

/// Why a run stopped before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// Ctrl-C, or `vsgpu abort`: what ran was finished.
    Interrupted,
    /// `--pause`: a wave is settled.
    Paused,
    /// Ctrl-C twice: the agents finish what they are doing.
    Detached,
}

impl std::fmt::Display for Stopped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Interrupted => "stopped: what ran was finished, nothing new was begun",
            Self::Paused => "paused: a wave is settled",
            Self::Detached => "detached: what the agents are doing now, they finish",
        })
    }
}

/// What the operator asks of a run that goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    Continue,
    /// Finish what runs, begin nothing.
    Stop,
    Detach,
}

/// How a plan is executed.
pub struct RunOptions<'a> {
    pub connector: &'a Connector,
    /// Who we are, to the agents.
    pub holder: String,
    /// Stop when a wave is settled.
    pub pause: bool,
    /// Only restore what the run changed temporarily, then end.
    pub restore: bool,
    pub control: watch::Receiver<Control>,
    /// Seconds since 1970, for records.
    pub now: fn() -> u64,
}

/// Tasks of one step that are noted: an agent cannot fill the disk.
const MOST_TASKS: usize = 20;

/// What is known to be on disk.
enum Committed {
    Starting {
        step: usize,
        recorded: oneshot::Sender<()>,
    },
    Ended {
        id: usize,
        ended: StepResult,
    },
    /// A name to find something by.
    Noted,
}

/// Executes the plan from where the status is.
///
/// # Errors
/// Where the journal cannot be written: then nothing more is done.
pub async fn run(
    status: Status,
    store: &mut dyn Store,
    options: RunOptions<'_>,
    say: &mut dyn FnMut(&Event),
) -> Result<Summary, Error> {
    let plan = Arc::new(status.plan.clone());
    let once = Duration::from_secs(plan.deadlines.connect_secs.into());
    let agents = Arc::new(Agents::new(options.connector.clone(), options.holder.clone(), once));
    let mut control = options.control.clone();
    let mut run = Run::new(&plan, status, store, &options, agents.clone());
    let done = |(at, state): (usize, &StepState)| matches!(state, StepState::Done { .. }).then_some(at + 1);
    let before = run.status.steps.iter().enumerate().filter_map(done).collect();
    say(&Event::Begun { steps: plan.steps.len(), done_before: run.summary.done, before });
    let executed = tokio::select! {
        biased;
        executed = run.execute(say) => executed,
        _ = control.wait_for(|w| *w == Control::Detach) => {
            run.summary.stopped = Some(Stopped::Detached);
            Ok(())
        }
    };
    let summary = run.summary;
    // Also where the journal fails us: the nodes must not wait for the leases to end.
    agents.release().await;
    executed.map(|()| summary)
}

struct Run<'a> {
    plan: &'a Arc<Plan>,
    status: Status,
    store: &'a mut dyn Store,
    options: &'a RunOptions<'a>,
    agents: Arc<Agents>,
    catalogue: &'static vsgpu_core::Catalogue,
    places: Arc<Semaphore>,
    budget: RolloutBudget<'a>,
    state: Vec<State>,
    /// Steps of each node, in their order.
    of_node: BTreeMap<&'a NodeId, Vec<usize>>,
    /// Predecessors without an end, per step.
    open: Vec<usize>,
    dependents: Vec<Vec<usize>>,
    /// Steps that change what is not ours yet, and that another one restores.
    not_ours_yet: BTreeSet<usize>,
    /// Steps whose change another one restores.
    temporary: BTreeSet<usize>,
    ready: Vec<usize>,
    /// Something has begun or ended since what may begin was last looked at.
    moved: bool,
    work: JoinSet<(usize, StepResult)>,
    commits: JoinSet<(Committed, Result<(), Error>)>,
    /// Tasks that were noted of each step.
    tasks: BTreeMap<usize, usize>,
    summary: Summary,
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

impl<'a> Run<'a> {
    fn new(
        plan: &'a Arc<Plan>,
        status: Status,
        store: &'a mut dyn Store,
        options: &'a RunOptions<'a>,
        agents: Arc<Agents>,
    ) -> Self {
        let state: Vec<State> = status
            .steps
            .iter()
            .map(|s| if matches!(s, StepState::Done { .. }) { State::Done } else { State::Waiting })
            .collect();
        let open: Vec<usize> = plan
            .steps
            .iter()
            .map(|s| s.after.iter().filter(|a| state[**a - 1] != State::Done).count())
            .collect();
        let mut dependents: Vec<Vec<usize>> = vec![vec![]; plan.steps.len()];
        for step in &plan.steps {
            step.after.iter().for_each(|a| dependents[a - 1].push(step.id));
        }
        let ready = plan
            .steps
            .iter()
            .filter(|s| open[s.id - 1] == 0 && state[s.id - 1] != State::Done)
            .map(|s| s.id)
            .collect();
        // What an earlier run of ours changed temporarily is ours already.
        let left = outstanding(&status);
        let ours = |s: &Step| {
            let of = if s.enters_maintenance() { &left.in_maintenance } else { &left.stopped };
            of.contains(&s.node.name)
        };
        let not_ours_yet =
            plan.steps.iter().filter_map(|s| s.restores).filter(|id| !ours(&plan.steps[id - 1])).collect();
        let temporary = plan.steps.iter().filter_map(|s| s.restores).collect();
        let summary =
            Summary { done: state.iter().filter(|s| **s == State::Done).count(), ..Summary::default() };
        let budget = RolloutBudget::new(plan, &status, options.pause);
        let mut of_node: BTreeMap<&NodeId, Vec<usize>> = BTreeMap::new();
        plan.steps.iter().for_each(|s| of_node.entry(&s.node).or_default().push(s.id));
        Self {
            plan,
            status,
            store,
            options,
            agents,
            catalogue: crate::catalogue::catalogue(),
            places: Arc::new(Semaphore::new(AT_ONCE)),
            budget,
            state,
            of_node,
            open,
            dependents,
            not_ours_yet,
            temporary,
            ready,
            moved: true,
            work: JoinSet::new(),
            commits: JoinSet::new(),
            tasks: BTreeMap::new(),
            summary,
        }
    }

    async fn execute(&mut self, say: &mut dyn FnMut(&Event)) -> Result<(), Error> {
        let (tx, mut messages) = mpsc::channel::<Message>(256);
        let mut control = self.options.control.clone();
        loop {
            let stopping = *control.borrow() != Control::Continue;
            // What a step says changes nothing about what may begin: of a large fleet that is asked seldom.
            while !stopping && std::mem::take(&mut self.moved) {
                self.begin(&tx, say);
            }
            if self.work.is_empty() && self.commits.is_empty() {
                if stopping && self.state.iter().any(|s| matches!(s, State::Waiting)) {
                    self.summary.stopped = Some(Stopped::Interrupted);
                    return Ok(());
                }
                if self.budget.paused() {
                    self.summary.stopped = Some(Stopped::Paused);
                    return Ok(());
                }
                // Hosts that wait for each other: said, never an end that looks like success.
                let Some(id) = self.ready.pop() else { break };
                let why = "it would have to wait for hosts that wait for it".to_string();
                self.summary
                    .untouched
                    .entry(self.plan.steps[id - 1].host.clone())
                    .or_insert_with(|| why.clone());
                self.skip(id, Some(why), None, say);
                continue;
            }
            tokio::select! {
                // Messages first: an event of a step is said before its end.
                biased;
                Some(message) = messages.recv() => match message {
                    Message::Event(event) => {
                        self.note(&event)?;
                        say(&event);
                    }
                    Message::Starting { step, boot_id, recorded } => {
                        self.record(Record::Started { at: (self.options.now)(), step, boot_id }, Committed::Starting { step, recorded })?;
                        failpoint!(ResultBeforeIntent, self.record_early(step).await?);
                    }
                },
                Some(committed) = self.commits.join_next() => {
                    let (committed, written) = committed.map_err(|e| Error::new(Kind::Internal, e.to_string()))?;
                    written?;
                    self.committed(committed, say);
                }
                Some(ended) = self.work.join_next() => match ended {
                    Err(panic) => return Err(Error::new(Kind::Internal, format!("a step ended without an outcome: {panic}"))),
                    Ok((id, ended)) => self.ended(id, ended)?,
                },
                _ = control.changed() => {}
            }
        }
        let how = if self.options.restore { EndReason::Aborted } else { EndReason::Finished };
        let record = Record::Ended { at: (self.options.now)(), how };
        self.status.next(&record).map_err(|why| Error::new(Kind::Internal, why))?;
        self.store.append(&record).await?;
        say(&Event::Ended {
            done: self.summary.done,
            failed: self.summary.failed.len(),
            skipped: self.summary.skipped,
        });
        Ok(())
    }

    /// Begins every step that may begin.
    fn begin(&mut self, tx: &mpsc::Sender<Message>, say: &mut dyn FnMut(&Event)) {
        let plan = self.plan;
        let mut waiting = vec![];
        self.ready.sort_by_key(|id| std::cmp::Reverse(self.budget.order(&plan.steps[id - 1])));
        while let Some(id) = self.ready.pop() {
            let step = &plan.steps[id - 1];
            let tainted = step.after.iter().any(|a| self.state[a - 1].tainted());
            if step.restores.is_some_and(|g| self.status.steps[g - 1].is_theirs()) && !self.options.restore {
                let why =
                    "somebody else stopped it since the plan was made: this run leaves it off".to_string();
                self.summary.untouched.insert(step.node.to_string(), why.clone());
                // Its host is as good as done: nobody has to wait for it.
                self.skip(id, Some(why), Some(true), say);
                continue;
            }
            let must_restore =
                step.restores_earlier || step.restores.is_some_and(|g| self.status.steps[g - 1].begun());
            // What could not be restored keeps what stands on it: no VM starts on a host that is still in
            // maintenance mode.
            let stuck = |a: &usize| self.state[a - 1] == State::Failed && plan.steps[a - 1].is_restore();
            let must_restore =
                failpoint!(NothingGivenBack, false, must_restore && !step.after.iter().any(stuck));
            if !must_restore && (tainted || self.options.restore) {
                self.skip(id, None, None, say);
                continue;
            }
            match self.budget.admit(step) {
                Admission::Start => self.spawn(id, tainted, tx),
                Admission::Wait => waiting.push(id),
                Admission::Refuse(why) => {
                    self.summary.untouched.entry(step.host.clone()).or_insert_with(|| why.clone());
                    self.skip(id, Some(why), None, say);
                }
            }
        }
        self.ready = waiting;
    }

    fn spawn(&mut self, id: usize, tainted: bool, tx: &mpsc::Sender<Message>) {
        let step = &self.plan.steps[id - 1];
        self.moved = true;
        self.budget.began(step);
        self.state[id - 1] = if tainted { State::Rescue } else { State::Running };
        let task = StepRunner {
            plan: self.plan.clone(),
            id,
            was: self.status.steps[id - 1].clone(),
            operation: format!("{}/{id}/{}", self.status.run, self.status.failures(id)),
            trace: crate::journal::trace::parent(&self.status.run, id, self.status.failures(id)),
            run: self.status.run.clone(),
            temporary: self.temporary.contains(&id),
            not_ours_yet: self.not_ours_yet.contains(&id),
            // Restoring is right whatever became of the rest.
            preconditions: if step.is_restore() { vec![] } else { self.preconditions(step) },
            catalogue: self.catalogue,
            agents: self.agents.clone(),
            tx: tx.clone(),
        };
        let places = self.places.clone();
        self.work.spawn(async move {
            let _place = places.acquire_owned().await;
            (id, perform(task).await)
        });
    }

    /// `well`: the outcome as the rollout budget counts it.
    fn skip(&mut self, id: usize, why: Option<String>, well: Option<bool>, say: &mut dyn FnMut(&Event)) {
        self.state[id - 1] = State::Skipped;
        self.summary.skipped += 1;
        self.budget.ended(&self.plan.steps[id - 1], well);
        // What an abort leaves out is everything: nobody wants to read that.
        if !self.options.restore {
            say(&Event::Skipped { step: id, why });
        }
        self.finished(id);
    }

    /// A step has ended: what came of it must be on disk before the next one begins.
    fn ended(&mut self, id: usize, ended: StepResult) -> Result<(), Error> {
        let at = (self.options.now)();
        let record = match &ended {
            Ok((note, by)) => {
                Record::Done { at, step: id, note: note.clone(), theirs: *by == ChangedBy::Another }
            }
            Err(error) => Record::Failed {
                at,
                step: id,
                error: error.message.clone(),
                hold: error.hold.unwrap_or(Hold::Failed),
            },
        };
        failpoint!(ResultBeforeIntent, return self.ended_early(id, ended));
        self.record(record, Committed::Ended { id, ended })
    }

    /// For the failpoint alone: the result is recorded when the step begins.
    async fn record_early(&mut self, step: usize) -> Result<(), Error> {
        let done = Record::Done { at: (self.options.now)(), step, note: String::new(), theirs: false };
        self.status.next(&done).map_err(|why| Error::new(Kind::Internal, why))?;
        self.store.append(&done).await
    }

    /// For the failpoint alone: nothing is left to record when it ends.
    fn ended_early(&mut self, id: usize, ended: StepResult) -> Result<(), Error> {
        self.commits.spawn(async move { (Committed::Ended { id, ended }, Ok(())) });
        Ok(())
    }

    /// A record that could not follow must never reach the disk, where it would make the run unreadable.
    fn record(&mut self, record: Record, then: Committed) -> Result<(), Error> {
        self.status.next(&record).map_err(|why| Error::new(Kind::Internal, why))?;
        let writing = self.store.append(&record);
        self.commits.spawn(async move { (then, writing.await) });
        Ok(())
    }

    /// Tasks of vCenter are kept: whoever looks for one later finds it by its id.
    fn note(&mut self, event: &Event) -> Result<(), Error> {
        let Event::Said { step, text } = event else { return Ok(()) };
        if !names_task(text) {
            return Ok(());
        }
        let noted = self.tasks.entry(*step).or_default();
        *noted += 1;
        if *noted > MOST_TASKS {
            return Ok(());
        }
        let record = Record::Task { at: (self.options.now)(), step: *step, task: piece(text, 200) };
        self.record(record, Committed::Noted)
    }

    fn committed(&mut self, committed: Committed, say: &mut dyn FnMut(&Event)) {
        match committed {
            Committed::Starting { step, recorded } => {
                say(&Event::Started { step });
                let _ = recorded.send(());
            }
            Committed::Noted => {}
            Committed::Ended { id, ended } => {
                let step = &self.plan.steps[id - 1];
                self.budget.ended(step, Some(ended.is_ok()));
                match ended {
                    Ok((note, by)) => {
                        let changed = by == ChangedBy::Us;
                        self.summary.done += 1;
                        self.summary.changed |= changed;
                        // What was restored does not mend what failed before it.
                        self.state[id - 1] =
                            if self.state[id - 1] == State::Rescue { State::Rescued } else { State::Done };
                        say(&Event::Done { step: id, note, changed });
                    }
                    Err(error) => {
                        self.state[id - 1] = State::Failed;
                        say(&Event::Failed { step: id, error: error.clone() });
                        self.summary.failed.push((id, error));
                    }
                }
                self.finished(id);
            }
        }
    }

    /// What this run has made so on the node of a step: the last word on each requirement. It must still be
    /// so when the node is changed again.
    fn preconditions(&self, step: &Step) -> Vec<(String, Value)> {
        let mut made: BTreeMap<&str, &Value> = BTreeMap::new();
        for id in self.of_node.get(&step.node).into_iter().flatten().filter(|id| **id != step.id) {
            if let (Work::Meet { requirement, spec, .. }, StepState::Done { .. }) =
                (&self.plan.steps[id - 1].work, &self.status.steps[id - 1])
            {
                made.insert(requirement, spec);
            }
        }
        if let Work::Meet { requirement, .. } = &step.work {
            made.remove(requirement.as_str());
        }
        made.into_iter().map(|(name, spec)| (name.into(), spec.clone())).collect()
    }

    fn finished(&mut self, id: usize) {
        self.moved = true;
        for next in &self.dependents[id - 1] {
            self.open[next - 1] -= 1;
            if self.open[next - 1] == 0 {
                self.ready.push(*next);
            }
        }
    }
}

/// What is so at the end, and whether anything was changed.
async fn perform(step: StepRunner) -> StepResult {
    match &step.step().work {
        Work::Send { artifact, datastore } => apply::send(&step, artifact, datastore.as_deref()).await,
        Work::Meet { requirement, spec, expect } => {
            apply::meet(&step, requirement, spec, expect.clone()).await
        }
        Work::Activate { restart, proves, once_more } => {
            // The agent is asked with the specs themselves.
            let own = |specs: &[(String, Arc<Value>)]| -> Vec<(String, Value)> {
                specs.iter().map(|(name, spec)| (name.clone(), (**spec).clone())).collect()
            };
            reboot::activate(&step, restart.as_deref(), &own(proves), &own(once_more)).await
        }
    }
}
