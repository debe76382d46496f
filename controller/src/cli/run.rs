//! Everything that executes a plan at a terminal: `apply`, `resume`, `abort`, `rollback`, `clone`. What it
//! asks, hears and says at the end is the same for all.

use crate::cli::global::{CliResult, block_on, connected, connector, now, worst};
use crate::error::{Error, Exit, Kind};
use crate::fleet::Fleet;
use crate::fleet::range::folded;
use crate::hold::Held;
use crate::journal::{self, Disk as _, Folder, History, Purpose, Status, StepState};
use crate::node::{NodeId, NodeKind};
use crate::plan::adopt::Adoption;
use crate::plan::{Leftovers, Plan, Planned};
use crate::render::plan_summary;
use crate::render::progress::{Progress, Screen};
use crate::render::words::took;
use crate::render::{Format, Printer};
use crate::run::{self, Control, Event, Request, RunObserver, Stopped, Unfinished};
use serde_json::json;
use std::cell::Cell;
use std::collections::BTreeSet;
use tokio::sync::watch;

/// Executes the plan of a fleet.
pub(super) struct RunCommand<'a> {
    pub printer: &'a Printer,
    pub fleet: &'a Fleet,
    /// What the plan must be.
    pub saved: Option<Plan>,
    /// What of another run is taken over.
    pub adoption: Option<Adoption>,
    pub yes: bool,
    pub purpose: Purpose,
    /// See `Request`.
    pub counted: bool,
    pub unfinished: Unfinished,
    /// Stop when a wave is settled.
    pub pause: bool,
    /// Touch no more hosts than this.
    pub max_hosts: Option<usize>,
}

impl<'a> RunCommand<'a> {
    /// Towards a fleet, as `apply` without options does.
    pub(super) fn to(printer: &'a Printer, fleet: &'a Fleet) -> Self {
        let (purpose, unfinished) = (Purpose::Apply, Unfinished::GoOnIfSame);
        Self {
            printer,
            fleet,
            saved: None,
            adoption: None,
            yes: false,
            purpose,
            counted: true,
            unfinished,
            pause: false,
            max_hosts: None,
        }
    }

    pub(super) fn run(self) -> CliResult {
        let folder = self.fleet.state_folder();
        let _lock = journal::lock(&folder).map_err(|e| vec![e])?;
        self.locked()
    }

    /// The same under a lock that is held already.
    pub(super) fn locked(self) -> CliResult {
        let one = |e: Error| vec![e];
        let Self { printer, .. } = &self;
        let mut followed = None;
        let connector = match self.fleet.follows() {
            true => connected(followed.insert(self.fleet.clone()))?,
            false => connector(self.fleet)?,
        };
        let fleet = followed.as_ref().unwrap_or(self.fleet);
        let disk = Folder(fleet.state_folder());
        if self.unfinished == Unfinished::GiveUp
            && let Err(error) = journal::latest(&disk)
        {
            let aside = journal::set_aside(&disk).map_err(one)?.unwrap_or_default();
            printer.note(&format!(
                "{}\nset aside as {aside}; `vsgpu status` shows the hosts it left, `vsgpu abort --adopt HOST` restores them",
                error.message
            ));
        }
        let screen = Screen::default();
        let control = control_from_signals(printer.format(), screen.clone()).map_err(one)?;
        let begun = now();
        let heard = control.clone();
        let request = Request {
            fleet,
            connector: &connector,
            disk: &disk,
            threaded: true,
            holder: crate::cli::global::holder(fleet)?,
            saved: self.saved.as_ref(),
            adoption: self.adoption.as_ref(),
            purpose: self.purpose,
            counted: self.counted,
            unfinished: self.unfinished,
            pause: self.pause,
            control,
            now,
        };
        let mut stage = TerminalObserver {
            printer,
            yes: self.yes,
            max_hosts: self.max_hosts,
            agreed: BTreeSet::new(),
            control: heard,
            fleet: fleet.file.display().to_string(),
            own: journal::latest(&disk).ok().flatten().map(|run| run.status.run),
            question: self.adoption.as_ref().map(Adoption::question),
            history: History::of(&disk),
            progress: None,
            screen,
            declined: Cell::new(false),
        };
        let ended = block_on(request.run(&mut stage))?;
        if let Some(mut progress) = stage.progress.take() {
            progress.finish();
        }
        if let Some(endpoint) = crate::cli::context::trace_endpoint() {
            send_trace(printer, &disk, &endpoint);
        }
        match ended {
            // A person said no: that is no error, and the answer is known already.
            Err(errors) if stage.declined.get() && !printer.format().is_document() => {
                errors.iter().for_each(|e| printer.note(&e.message));
                Ok(Exit::Not(Kind::Usage))
            }
            Err(errors) => Err([errors, still_outstanding(fleet)].concat()),
            Ok(ended) => self.report(ended, now().saturating_sub(begun)),
        }
    }

    /// One answer to Ctrl-C: what is away, and both ways on.
    fn interrupted(&self, done: usize, steps: usize) -> Vec<Error> {
        let run = journal::latest(&Folder(self.fleet.state_folder())).ok().flatten();
        let left = run.map(|run| journal::outstanding(&run.status)).unwrap_or_default();
        let mut error = Error::new(Kind::Failed, format!("interrupted after {done} of {steps} steps"))
            .code("interrupted");
        if !left.in_maintenance.is_empty() {
            let hosts = folded(&left.in_maintenance).join(", ");
            error = error.detail(format!("IS STILL IN MAINTENANCE MODE: {hosts}"));
        }
        if !left.stopped.is_empty() {
            error = error.detail(format!("shut down: {}", folded(&left.stopped).join(", ")));
        }
        let error = error
            .hint("`vsgpu resume` goes on from here; `vsgpu abort` restores maintenance mode and VM power");
        let held = Leftovers { held: left.held, ..Leftovers::default() };
        [vec![error], outstanding_as_errors(held)].concat()
    }

    fn report(&self, ended: run::RunOutcome, seconds: u64) -> CliResult {
        let Self { printer, fleet, .. } = self;
        let run::RunOutcome { plan, summary, problems, left, behind } = ended;
        let mut errors: Vec<Error> = vec![];
        if plan.steps.is_empty() {
            errors.extend(problems.into_iter().map(|p| p.error));
            errors.extend(outstanding_as_errors(left));
            printer.errors(&errors);
            if errors.is_empty() {
                let what = crate::render::plan::nothing_to_do(&plan);
                printer.answer(&json!({ "steps": 0, "done": 0, "changed": false }), &what);
            }
            return Ok(worst(&errors));
        }
        let failed: Vec<_> =
            summary.failed.iter().map(|(step, error)| json!({ "step": step, "error": error })).collect();
        let answer = json!({
            "steps": plan.steps.len(), "done": summary.done, "failed": failed, "skipped": summary.skipped, "changed": summary.changed,
            "untouched": summary.untouched, "stopped": summary.stopped.map(|s| s.to_string()), "seconds": seconds,
        });
        let skipped =
            if summary.skipped > 0 { format!(", {} left out", summary.skipped) } else { String::new() };
        let failed_steps = match summary.failed.len() {
            0 => String::new(),
            n => format!(", {n} FAILED"),
        };
        let (done, all) = (summary.done, plan.steps.len());
        let mut text = format!("{done} of {all} steps done{failed_steps}{skipped}, in {}", took(seconds));
        let whole = done == all;
        if whole {
            text += &run_again(&plan);
        }
        for (host, why) in &summary.untouched {
            text += &format!("\n{host} was left out: {why}");
        }
        if let Some(stopped) = summary.stopped {
            text += &format!("\n{stopped}");
        }
        printer.answer(&answer, &text);
        let failed_any = !summary.failed.is_empty();
        let failed = summary.failed.into_iter().map(|(_, e)| e);
        // One block for what is left: of Ctrl-C, or of a run that went to its end.
        if matches!(summary.stopped, Some(Stopped::Interrupted | Stopped::Detached)) {
            errors.extend(self.interrupted(done, all));
            errors.extend(failed);
        } else {
            errors.extend(failed);
            errors.extend(still_outstanding(fleet));
        }
        errors.extend(problems.into_iter().map(|p| p.error));
        errors.extend(behind);
        if !summary.untouched.is_empty() {
            let hosts: BTreeSet<&str> = summary.untouched.keys().map(String::as_str).collect();
            let error = Error::new(
                Kind::Blocked,
                format!("left out: {}", hosts.into_iter().collect::<Vec<_>>().join(", ")),
            )
            .code("left-out");
            errors.push(
                error.hint("see why above; `vsgpu apply` plans the rest; `rollout:` in the fleet file says how much may fail and be away"),
            );
        }
        // Asked for, and nothing is wrong.
        if summary.stopped == Some(Stopped::Paused) {
            printer.note(if failed_any {
                "a step failed: look at it, then `vsgpu apply` plans the rest anew"
            } else {
                "`vsgpu resume --pause` runs the next wave, `vsgpu resume` all of them, `vsgpu abort` ends here"
            });
        }
        printer.errors(&errors);
        if whole && errors.is_empty() && self.purpose == Purpose::Apply {
            let number = Folder(fleet.state_folder()).numbers().first().copied().unwrap_or_default();
            printer.note(&format!(
                "next: vsgpu verify     receipt: vsgpu report {number} --html run-{number}.html"
            ));
        }
        Ok(worst(&errors))
    }
}

/// What a VM that was off is now, where all of a run is done.
fn run_again(plan: &Plan) -> String {
    let off: BTreeSet<&str> =
        plan.steps.iter().filter(|s| s.stops_vm()).map(|s| s.node.name.as_str()).collect();
    let on: BTreeSet<&str> =
        plan.steps.iter().filter(|s| s.starts_vm()).map(|s| s.node.name.as_str()).collect();
    let stay: Vec<&str> = off.difference(&on).copied().collect();
    match (off.len(), stay.as_slice()) {
        (0, _) => String::new(),
        (1, []) => format!("\n{} runs again", off.iter().copied().collect::<String>()),
        (n, []) => format!("\nall {n} VMs that were off run again"),
        (_, stay) => format!("\noff, as the fleet file says: {}", folded(stay).join(", ")),
    }
}

/// Hands the latest run to a collector. Whatever becomes of that, the run is what it is.
fn send_trace(printer: &Printer, disk: &Folder, endpoint: &str) {
    let Ok(Some(run)) = journal::latest(disk) else { return };
    let records = journal::records(disk, run.number).unwrap_or_default();
    let Some(document) = crate::journal::trace::document(&records) else { return };
    let trace = crate::journal::trace::id(&run.status.run);
    match block_on(vsgpu_wire::otlp::send(endpoint, document.to_string())) {
        Ok(Ok(())) => printer.note(&format!("trace {trace}")),
        Ok(Err(why)) => printer.note(&format!("trace {trace} was not sent: {why}")),
        Err(_) => {}
    }
}

/// What an operator at a terminal sees.
struct TerminalObserver<'a> {
    printer: &'a Printer,
    yes: bool,
    max_hosts: Option<usize>,
    /// Hosts that were agreed to: an unfinished run and what comes behind it count together.
    agreed: BTreeSet<String>,
    control: watch::Receiver<Control>,
    /// Its file, for questions: of several fleets, the wrong one is the worst mistake.
    fleet: String,
    /// Our own latest run.
    own: Option<String>,
    /// What is asked instead of "go on".
    question: Option<String>,
    /// How long steps took in earlier runs.
    history: History,
    progress: Option<Progress>,
    screen: Screen,
    /// A person said no.
    declined: Cell<bool>,
}

impl TerminalObserver<'_> {
    /// As few hosts as `--max-hosts` says.
    fn few_enough(&self, what: &str, next: &str, hosts: &BTreeSet<String>) -> Result<(), Error> {
        let (all, before) = (hosts.union(&self.agreed).count(), self.agreed.len());
        match self.max_hosts {
            Some(most) if all > most => {
                let with = if before > 0 { format!(" (with the {before} of before)") } else { String::new() };
                let why = format!(
                    "{what} touches {all} hosts{with}, `--max-hosts {most}` allows fewer; {}",
                    self.unchanged()
                );
                Err(Error::new(Kind::Usage, why).code("max-hosts").hint(next))
            }
            _ => Ok(()),
        }
    }

    /// What a refusal means.
    fn unchanged(&self) -> &'static str {
        if self.agreed.is_empty() { "nothing was changed" } else { "nothing more was changed" }
    }

    /// A person's yes, where there is one and `--yes` was not said.
    fn ask(&self, text: &str, question: &str) -> Result<(), Error> {
        let go_on = if self.yes {
            Some(true)
        } else {
            self.printer.confirm(text, question, &|| *self.control.borrow() != Control::Continue)
        };
        match go_on {
            Some(true) => Ok(()),
            Some(false) => {
                self.declined.set(true);
                Err(Error::new(Kind::Usage, self.unchanged()).code("not-confirmed"))
            }
            None => Err(Error::new(
                Kind::Usage,
                format!("nobody can be asked, because what is said goes elsewhere; {}", self.unchanged()),
            )
            .code("not-confirmed")
            .hint("look at `vsgpu plan`, then add `--yes`")),
        }
    }
}

impl RunObserver for TerminalObserver<'_> {
    fn note(&mut self, text: &str) {
        self.printer.note(text);
    }

    fn planned(&mut self, planned: &Planned) -> Result<(), Error> {
        self.printer.warnings(&planned.warnings);
        if self.printer.format().is_document() && !planned.warnings.is_empty() {
            self.printer.talk(&json!({ "warnings": planned.warnings }));
        }
        planned
            .left_by_others(self.own.as_deref())
            .iter()
            .for_each(|told| self.printer.warn(&format!("warning: {told}\n")));
        self.printer.errors(&planned.problems.iter().map(|p| p.error.clone()).collect::<Vec<_>>());
        let hosts: BTreeSet<String> = planned.plan.steps.iter().map(|s| s.host.clone()).collect();
        self.few_enough("the plan", "look at `vsgpu plan`", &hosts)?;
        if self.yes || !self.printer.can_ask() {
            // A log shows at least what it costs.
            self.printer.note(&format!("{}\n", crate::render::plan::costs(&planned.plan)));
        }
        self.ask(
            &plan_summary::text(&planned.plan, &self.history, 0),
            &self.question.clone().unwrap_or_else(|| plan_summary::question(&planned.plan, &self.fleet)),
        )?;
        self.agreed.extend(hosts);
        Ok(())
    }

    fn going_on(&mut self, run: u32, status: &Status) -> Result<(), Error> {
        let open = |id: usize| !matches!(status.steps[id - 1], StepState::Done { .. });
        let hosts: BTreeSet<String> =
            status.plan.steps.iter().filter(|s| open(s.id)).map(|s| s.host.clone()).collect();
        self.few_enough(&format!("the rest of run {run}"), "`vsgpu resume` goes on all the same", &hosts)?;
        let left = (1..=status.steps.len()).filter(|id| open(*id)).count();
        let mut rest = status.plan.clone();
        rest.steps.retain(|step| open(step.id));
        rest.rollout.waves.iter_mut().for_each(|wave| wave.retain(|host| hosts.contains(host)));
        rest.rollout.waves.retain(|wave| !wave.is_empty());
        let text = format!(
            "Run {run} was not finished: {left} of its {} steps are left.\n\n{}",
            status.steps.len(),
            plan_summary::rest(&rest, &self.history)
        );
        let question = match plan_summary::disruption(&rest, ["reboot", "shut down", "bring"]) {
            Some(cost) => format!("go on with run {run} of {}: {cost}?", self.fleet),
            None => format!("go on with run {run} of {}? Nothing goes down.", self.fleet),
        };
        self.ask(&text, &question)?;
        self.agreed.extend(hosts);
        Ok(())
    }

    fn running(&mut self, plan: &Plan) {
        self.progress = Some(Progress::new(self.printer, plan, self.history.clone(), self.screen.clone()));
    }

    fn on_event(&mut self, event: &Event) {
        if let Some(progress) = &mut self.progress {
            progress.on_event(event);
        }
    }
}

/// Hears Ctrl-C (and a polite kill) in a thread of its own: once stops, twice leaves. Called before any other
/// thread, so that all have it blocked.
fn control_from_signals(format: Format, screen: Screen) -> Result<watch::Receiver<Control>, Error> {
    use nix::sys::signal::{SigSet, Signal};
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    // A lost ssh session is no reason to leave hosts where they are: what runs is finished, as after a polite
    // kill.
    signals.add(Signal::SIGHUP);
    signals
        .thread_block()
        .map_err(|e| Error::new(Kind::Internal, format!("signals cannot be heard: {e}")))?;
    let (tx, rx) = watch::channel(Control::Continue);
    std::thread::spawn(move || {
        let mut interrupts = 0;
        while let Ok(signal) = signals.wait() {
            // A polite kill asks to stop, however often it comes; only a person at the keyboard leaves.
            interrupts += u32::from(signal == Signal::SIGINT);
            let control = if interrupts > 1 { Control::Detach } else { Control::Stop };
            if *tx.borrow() == Control::Continue {
                let text = "stopping: what runs is finished, nothing new is begun (Ctrl-C again leaves at once; the agents finish what they do)";
                screen.say(&Printer::new(format), text);
            }
            tx.send_replace(control);
        }
    });
    Ok(rx)
}

/// What the latest run changed temporarily and has not restored.
fn still_outstanding(fleet: &Fleet) -> Vec<Error> {
    let run = journal::latest(&Folder(fleet.state_folder())).ok().flatten();
    run.map(|run| outstanding_as_errors(journal::outstanding(&run.status))).unwrap_or_default()
}

/// The one thing administrators fear, said loudly, with the way out.
fn outstanding_as_errors(left: Leftovers) -> Vec<Error> {
    let host = |host| {
        Error::new(Kind::Failed, format!("{host} IS STILL IN MAINTENANCE MODE"))
            .code("still-taken")
            .hint("`vsgpu apply` brings it out when its agent answers")
            .hint("its agent is dead: on the host, after a look at its tasks, `esxcli system maintenanceMode set --enable false`")
    };
    // A VM that was asked, and of which nobody knows whether it went down, was not shut down.
    let (asked, stopped): (BTreeSet<String>, BTreeSet<String>) =
        left.stopped.into_iter().partition(|vm| left.unsettled.contains(&NodeId::new(NodeKind::Vm, vm)));
    let vms = |vms: BTreeSet<String>, what: &dyn Fn(&str) -> String, next: &str| {
        let was = if vms.len() == 1 { "was" } else { "were" };
        let names = folded(&vms).join(", ");
        (!vms.is_empty()).then(|| {
            Error::new(Kind::Failed, format!("{names} {}", what(was))).code("still-taken").hint(next)
        })
    };
    let stopped = vms(
        stopped,
        &|was| format!("{was} shut down and {was} not seen to run again"),
        "mend what failed, then `vsgpu apply`: it looks again, and starts what its host allows",
    );
    let asked = vms(
        asked,
        &|was| format!("{was} asked to shut down, {was} not seen to go down, and may still do so"),
        "look at its console; then `vsgpu apply` looks again, and starts it where it went down",
    );
    let held = |(node, Held { hold, why, .. }): (NodeId, Held)| {
        Error::new(Kind::Blocked, format!("{node} is held ({hold}): {why}"))
            .held(hold)
            .hint(hold.advice_for(&node))
    };
    let taken = left.in_maintenance.into_iter().map(host).chain(stopped).chain(asked);
    taken.chain(left.held.into_iter().map(held)).collect()
}
