//! One run from its beginning or from wherever it was left: what is unfinished is found, else everything is
//! looked at and planned; then the plan is executed. The command line and the simulations go this one road.

use crate::error::{Error, Kind};
use crate::fleet::Fleet;
use crate::inventory::{self, Scope};
use crate::journal::{self, Disk, EndReason, Journal, Purpose, Record, Status, Stored};
use crate::node::NodeKind;
use crate::plan::adopt::Adoption;
use crate::plan::{self, Leftovers, Plan, Planned, Problem};
use crate::run::counted;
use crate::run::engine::{self, Control, Summary};
use crate::run::event::Event;
use std::time::Duration;
use tokio::sync::watch;
use vsgpu_wire::client::Connector;

pub struct Request<'a> {
    /// The fleet as it is wished.
    pub fleet: &'a Fleet,
    pub connector: &'a Connector,
    /// Where runs are kept.
    pub disk: &'a dyn Disk,
    /// Whether a thread of its own flushes the journal.
    pub threaded: bool,
    /// Who we are, to the agents and for the names of runs.
    pub holder: String,
    /// What the plan must be.
    pub saved: Option<&'a Plan>,
    /// A plan that is not made from the fleet file: what another run left behind is restored.
    pub adoption: Option<&'a Adoption>,
    pub purpose: Purpose,
    /// From here on the nodes are to be as the fleet file says, and their metrics count that. Not so for
    /// copies of a VM.
    pub counted: bool,
    /// What to do with an unfinished run.
    pub unfinished: Unfinished,
    /// Stop when a wave is settled.
    pub pause: bool,
    /// The operator, while it goes on.
    pub control: watch::Receiver<Control>,
    /// Seconds since 1970, for records.
    pub now: fn() -> u64,
}

/// How long agents that do not answer are waited for, to be told what they count: a later run tells them again.
const TELLING: Duration = Duration::from_secs(10);

/// What to do with an unfinished run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfinished {
    /// It is gone on with, if it was planned from the same; otherwise a person must say what.
    GoOnIfSame,
    /// It is gone on with, and nothing else is begun.
    GoOn,
    /// What it changed temporarily is restored, and it ends.
    Restore,
    /// It is given up as it stands.
    GiveUp,
}

pub trait RunObserver {
    fn note(&mut self, text: &str);
    /// A plan that was just made, before anything is done.
    ///
    /// # Errors
    /// Where it must not be done.
    fn planned(&mut self, planned: &Planned) -> Result<(), Error>;
    /// An unfinished run that a wish is about to go on with; nobody has said `resume`.
    ///
    /// # Errors
    /// Where it must not be gone on with.
    fn going_on(&mut self, run: u32, status: &Status) -> Result<(), Error>;
    /// A plan that is executed from here on.
    fn running(&mut self, plan: &Plan);
    fn on_event(&mut self, event: &Event);
}

pub struct RunOutcome {
    /// What was executed; without steps where nothing was to do.
    pub plan: Plan,
    pub summary: Summary,
    /// What kept nodes out of the plan.
    pub problems: Vec<Problem>,
    /// What earlier runs changed temporarily and could not be restored, where nothing was executed.
    pub left: Leftovers,
    /// Errors of the run that follows a resumed one: why it did not start, or failed.
    pub behind: Vec<Error>,
}

impl Request<'_> {
    /// Finds what is unfinished, or plans, and executes. A run that was gone on with knows only what could be
    /// seen when it was planned: when it is done, everything is looked at once more, and what it had to leave
    /// out is done as well.
    ///
    /// # Errors
    /// Where nothing can be done, or the journal fails.
    pub async fn run(self, observer: &mut dyn RunObserver) -> Result<RunOutcome, Vec<Error>> {
        let (first, went_on) = self.once(observer).await?;
        let complete = first.summary.done == first.plan.steps.len() && first.summary.stopped.is_none();
        let whole_wish = self.unfinished == Unfinished::GoOnIfSame
            && self.purpose == Purpose::Apply
            && self.saved.is_none();
        if !(went_on && complete && whole_wish) {
            return Ok(first);
        }
        let (then, _) = match self.once(observer).await {
            Ok(then) => then,
            // What was done before is said all the same.
            Err(behind) => return Ok(RunOutcome { behind, ..first }),
        };
        if then.plan.steps.is_empty() {
            Ok(RunOutcome { problems: then.problems, left: then.left, ..first })
        } else {
            Ok(then)
        }
    }

    /// One run, and whether it had been begun before.
    async fn once(&self, observer: &mut dyn RunObserver) -> Result<(RunOutcome, bool), Vec<Error>> {
        let one = |e: Error| vec![e];
        let unfinished = journal::latest(self.disk).map_err(one)?.filter(|run| run.status.ended.is_none());
        let goes_on = !matches!(self.unfinished, Unfinished::GiveUp);
        let (status, journal, problems, went_on) = match unfinished {
            Some(mut run) if goes_on && self.may_go_on(&run).map_err(one)? => {
                if self.unfinished == Unfinished::GoOnIfSame {
                    observer.going_on(run.number, &run.status).map_err(one)?;
                }
                let what = if run.status.purpose == Purpose::Rollback { "rollback" } else { "run" };
                let (number, fleet) = (run.number, self.fleet.file.display());
                observer.note(&match self.unfinished {
                    Unfinished::Restore => {
                        format!("restoring maintenance mode and VM power after {what} {number} of {fleet}")
                    }
                    _ => format!("going on with {what} {number} of {fleet}, which was not finished"),
                });
                if self.unfinished != Unfinished::Restore {
                    // Hours may have passed since the plan was made.
                    let inventory = inventory::gather(self.fleet, self.connector, Scope::Room, &|n| {
                        n.kind == NodeKind::Host
                    })
                    .await;
                    plan::look_again(&mut run.status.plan.rollout, &inventory);
                }
                let journal = Journal::open(self.disk, run.number, Some(run.good_bytes)).map_err(one)?;
                (run.status, journal, vec![], true)
            }
            None if matches!(self.unfinished, Unfinished::GoOn | Unfinished::Restore) => {
                let error = Error::new(Kind::Usage, "no run of this fleet is unfinished")
                    .code("no-run")
                    .hint("`vsgpu status` shows the latest one");
                return Err(one(error));
            }
            given_up => {
                let (planned, left) = match self.adoption {
                    Some(Adoption { plan, left, .. }) => (Planned::only(plan.clone()), left.clone()),
                    None => self.fresh().await?,
                };
                if !planned.plan.steps.is_empty() {
                    observer.planned(&planned).map_err(one)?;
                }
                // Only now: where the new plan is not agreed to, the old run can still be gone on with.
                if let Some(run) = given_up {
                    self.give_up(&run).map_err(one)?;
                    let why = if goes_on {
                        "had failed and restored its nodes: everything is planned anew"
                    } else {
                        "was given up"
                    };
                    observer.note(&format!("run {} {why}", run.number));
                }
                if planned.plan.steps.is_empty() {
                    if self.is_counted() {
                        let telling = counted::tell(self.fleet, self.connector);
                        let _ = tokio::time::timeout(TELLING, telling).await;
                    }
                    let summary = Summary::default();
                    return Ok((
                        RunOutcome {
                            plan: planned.plan,
                            summary,
                            problems: planned.problems,
                            left,
                            behind: vec![],
                        },
                        false,
                    ));
                }
                let (status, journal) = self.begin(planned.plan, left).map_err(one)?;
                (status, journal, planned.problems, false)
            }
        };
        let plan = status.plan.clone();
        observer.running(&plan);
        let mut journal = if self.threaded { journal.threaded() } else { journal };
        let options = engine::RunOptions {
            connector: self.connector,
            holder: self.holder.clone(),
            pause: self.pause,
            restore: self.unfinished == Unfinished::Restore,
            control: self.control.clone(),
            now: self.now,
        };
        // Beside the run, as an agent that is away must not keep it waiting; of a run that is gone on with
        // only where the fleet file is still the one that it was planned from.
        let counts = self.is_counted()
            && self.unfinished != Unfinished::Restore
            && plan.fleet == plan::digest(self.fleet);
        let mut tell = std::pin::pin!(async {
            if counts {
                counted::tell(self.fleet, self.connector).await;
            }
        });
        let mut hear = |event: &Event| observer.on_event(event);
        let mut run = std::pin::pin!(engine::run(status, &mut journal, options, &mut hear));
        let mut told = false;
        let summary = loop {
            tokio::select! {
                biased;
                summary = &mut run => break summary,
                () = &mut tell, if !told => told = true,
            }
        };
        let summary = summary.map_err(one)?;
        if !told && summary.stopped.is_none() {
            let _ = tokio::time::timeout(TELLING, &mut tell).await;
        }
        Ok((RunOutcome { plan, summary, problems, left: Leftovers::default(), behind: vec![] }, went_on))
    }

    /// A damaged run is left as it is: what stands behind the damage is still known from it.
    fn give_up(&self, run: &Stored) -> Result<(), Error> {
        if run.damage.is_some() {
            return Ok(());
        }
        let mut journal = Journal::open(self.disk, run.number, Some(run.good_bytes))?;
        journal.record(&Record::Ended { at: (self.now)(), how: EndReason::GivenUp })
    }

    /// What a rollback wishes is not what the fleet is to stay, and what another run left is restored, no more.
    fn is_counted(&self) -> bool {
        self.counted && self.purpose == Purpose::Apply && self.adoption.is_none()
    }

    /// Whether an unfinished run is gone on with; one that restored after a failure is planned anew.
    fn may_go_on(&self, run: &Stored) -> Result<bool, Error> {
        if let Some(damage) = &run.damage {
            return Err(Error::new(Kind::Blocked, damage.clone()).code("journal").hint(
                "what the run had recorded before and behind that is known; give the run up and plan anew: `vsgpu apply --abandon`",
            ));
        }
        if self.unfinished == Unfinished::Restore {
            return Ok(true);
        }
        if self.unfinished == Unfinished::GoOn {
            // What the rest needs (maintenance mode, VMs off) is no longer so.
            let why = format!(
                "run {} had failed and has restored its nodes: its other steps do not fit any more",
                run.number
            );
            let again =
                if run.status.purpose == Purpose::Rollback { "vsgpu rollback" } else { "vsgpu apply" };
            let error = Error::new(Kind::Blocked, why)
                .code("unfinished-run")
                .hint(format!("`{again}` plans anew from how the nodes are now"));
            return if run.status.gave_back_early() { Err(error) } else { Ok(true) };
        }
        let gives_up = "or give it up: `vsgpu apply --abandon` (plans anew from how the nodes are now)";
        if run.status.purpose != self.purpose {
            let error =
                Error::new(Kind::Blocked, format!("rollback {} of this fleet is not finished", run.number))
                    .code("unfinished-run");
            return Err(error.hint(format!("finish it: `vsgpu resume`, {gives_up}")));
        }
        if run.status.gave_back_early() {
            return Ok(false);
        }
        let other_plan = self.saved.is_some_and(|plan| plan.steps != run.status.plan.steps);
        let other_fleet = self.purpose == Purpose::Apply && run.status.plan.fleet != plan::digest(self.fleet);
        if other_plan || other_fleet {
            let why = format!(
                "run {} of this fleet is not finished, and it was planned from something else",
                run.number
            );
            return Err(Error::new(Kind::Blocked, why)
                .code("unfinished-run")
                .hint(format!("finish it as it was planned: `vsgpu resume`, {gives_up}")));
        }
        Ok(true)
    }

    /// Plans from how the world is now; a saved plan must still be the same.
    async fn fresh(&self) -> Result<(Planned, Leftovers), Vec<Error>> {
        let inventory = inventory::gather(self.fleet, self.connector, Scope::Wished, &|_| true).await;
        let left = journal::latest(self.disk)
            .map_err(|e| vec![e])?
            .map(|r| journal::outstanding(&r.status))
            .unwrap_or_default();
        let left = plan::still_outstanding(self.fleet, &inventory, left);
        let planned = plan::plan(self.fleet, &inventory, &left);
        if let Some(saved) = self.saved {
            let fresh = &planned.plan;
            let differing = fresh.steps.iter().zip(&saved.steps).find(|(new, old)| new != old);
            if fresh.fleet != saved.fleet || fresh.steps != saved.steps {
                let what = match differing {
                    Some((new, _)) => format!("step {}: {} {}", new.id, new.node, new.title),
                    None => format!(
                        "{} steps would be needed now, the plan has {}",
                        fresh.steps.len(),
                        saved.steps.len()
                    ),
                };
                let error =
                    Error::new(Kind::Blocked, "the saved plan no longer fits the fleet: nothing was changed")
                        .code("saved-plan");
                return Err(vec![
                    error
                        .detail(format!("first difference: {what}"))
                        .hint("look at the new plan: `vsgpu plan`"),
                ]);
            }
        }
        Ok((planned, left))
    }

    fn begin(&self, plan: Plan, left: Leftovers) -> Result<(Status, Journal), Error> {
        let number = journal::next_number(self.disk);
        let record = Record::Planned {
            at: (self.now)(),
            run: format!("{} run {number}", self.holder),
            purpose: self.purpose,
            plan: Box::new(plan),
            in_maintenance: left.in_maintenance,
            stopped: left.stopped,
            unsettled: left.unsettled,
            rebooted: left.rebooted,
            held: left.held,
        };
        let mut journal = Journal::open(self.disk, number, None)?;
        journal.record(&record)?;
        let status = Status::first(record).map_err(|why| Error::new(Kind::Internal, why))?;
        Ok((status, journal))
    }
}
