//! `vsgpu apply`: walks the plan. An unfinished run is gone on with first, and that is said.

use super::{Ended, FleetArg, block_on, leftovers, now, operator, worst};
use crate::engine::{self, Summary};
use crate::error::{Error, Kind};
use crate::files;
use crate::fleet::Fleet;
use crate::inventory::{self, Scope};
use crate::journal::{self, Journal, Record, Store as _};
use crate::plan::{self, Leftovers, Plan, Problem};
use crate::planner::{self, Planned};
use crate::render::{Printer, progress::Progress};
use clap::Args;
use serde_json::json;
use std::path::PathBuf;

#[derive(Args)]
pub(super) struct Apply {
    /// Fleet file, or a plan saved by `vsgpu plan --out`
    #[arg(value_name = "FLEET or PLAN", default_value = "fleet.yaml")]
    file: PathBuf,
    /// Folder of certificates [default: `pki` in the fleet file, or beside it]
    #[arg(long, value_name = "DIR")]
    pki: Option<PathBuf>,
    /// Do not ask before the first change (asked only at a terminal; a script is never asked)
    #[arg(short, long)]
    yes: bool,
    /// Give up an unfinished run and plan anew from how the nodes are now
    #[arg(long)]
    abandon: bool,
}

impl Apply {
    pub fn run(self, printer: &Printer) -> Ended {
        let saved = self.saved_plan()?;
        let file = saved.as_ref().map_or(self.file.clone(), |plan| plan.fleet_file.clone().into());
        let fleet = FleetArg { fleet: file, pki: self.pki.clone() }.read(true)?;
        Walk { printer, fleet: &fleet, saved, yes: self.yes, abandon: self.abandon }.run()
    }

    /// A plan that was saved, if the file is one.
    fn saved_plan(&self) -> Result<Option<Plan>, Vec<Error>> {
        let text = files::read_text(&self.file, 1 << 30).map_err(|e| vec![e])?;
        // A fleet file is YAML with keys; a saved plan is the JSON object that `plan --out` wrote, whatever its name.
        if !text.trim_start().starts_with('{') {
            return Ok(None);
        }
        let wrong = |why: String| {
            vec![Error::new(Kind::Usage, format!("{}: {why}", self.file.display())).hint("make a new one with `vsgpu plan --out FILE`")]
        };
        let saved: serde_json::Value = serde_json::from_str(&text).map_err(|e| wrong(format!("this is no saved plan: {e}")))?;
        if saved["plan"]["version"] != plan::VERSION {
            return Err(wrong(format!("the plan has format {}, this vsgpu reads {}", saved["plan"]["version"], plan::VERSION)));
        }
        serde_json::from_value(saved["plan"].clone()).map(Some).map_err(|e| wrong(format!("this is no saved plan: {e}")))
    }
}

/// Walks the plan of a fleet: `apply` does, and `clone` with a fleet of its own making.
pub(super) struct Walk<'a> {
    pub printer: &'a Printer,
    pub fleet: &'a Fleet,
    /// What the plan must be.
    pub saved: Option<Plan>,
    /// Nobody is asked.
    pub yes: bool,
    /// An unfinished run is given up.
    pub abandon: bool,
}

impl Walk<'_> {
    pub(super) fn run(self) -> Ended {
        let one = |e: Error| vec![e];
        let Self { printer, fleet, saved, .. } = &self;
        let operator = operator(fleet)?;
        let folder = fleet.state_folder();
        let _lock = journal::lock(&folder).map_err(one)?;
        let unfinished = journal::latest(&folder).map_err(one)?.filter(|run| run.status.ended.is_none());
        let (status, mut store, problems) = match unfinished {
            Some(run) if !self.abandon && !run.status.gave_back_early() => {
                let other_plan = saved.as_ref().is_some_and(|plan| plan.steps != run.status.plan.steps);
                if run.status.plan.fleet != plan::digest(fleet) || other_plan {
                    let error = Error::new(
                        Kind::Blocked,
                        format!("run {} of this fleet is not finished, and it was planned from something else", run.number),
                    );
                    return Err(one(error.hint(
                        "finish it with the old fleet file, or give it up: `vsgpu apply --abandon` (plans anew from how the nodes are now)",
                    )));
                }
                printer.note(&format!("going on with run {}, which was not finished", run.number));
                (run.status, Journal::reopen(&run.path, run.good_bytes).map_err(one)?, vec![])
            }
            given_up => {
                if let Some(run) = given_up {
                    let mut store = Journal::reopen(&run.path, run.good_bytes).map_err(one)?;
                    store.append(&Record::Ended { at: now() }).map_err(one)?;
                    let why =
                        if self.abandon { "was given up" } else { "had failed and given back what it took: everything is planned anew" };
                    printer.note(&format!("run {} {why}", run.number));
                }
                let (plan, problems, left) = self.fresh(&operator)?;
                if plan.steps.is_empty() {
                    let mut errors: Vec<Error> = problems.into_iter().map(|p| p.error).collect();
                    errors.extend(said_loudly(left));
                    printer.errors(&errors);
                    if errors.is_empty() {
                        printer.answer(
                            &json!({ "steps": 0, "done": 0, "changed": false }),
                            &format!("nothing to do: {} requirements are met", plan.met),
                        );
                    }
                    return Ok(worst(&errors));
                }
                printer.errors(&problems.iter().map(|p| p.error.clone()).collect::<Vec<_>>());
                let go_on = if self.yes { Some(true) } else { printer.confirm(&crate::render::plan::text(&plan)) };
                let stop = match go_on {
                    Some(true) => None,
                    Some(false) => Some(Error::new(Kind::Usage, "not confirmed; nothing was changed")),
                    None => Some(
                        Error::new(Kind::Usage, "nobody can be asked, because what is said goes elsewhere; nothing was changed")
                            .hint("look at `vsgpu plan`, then add `--yes`"),
                    ),
                };
                if let Some(error) = stop {
                    return Err(one(error));
                }
                let record = Record::Planned {
                    at: now(),
                    plan: Box::new(plan),
                    in_maintenance: left.in_maintenance,
                    stopped: left.stopped,
                    rebooted: left.rebooted,
                };
                let mut store = Journal::create(&folder, journal::next_number(&folder)).map_err(one)?;
                store.append(&record).map_err(one)?;
                let run = journal::latest(&folder)
                    .map_err(one)?
                    .ok_or_else(|| one(Error::new(Kind::Internal, "the run that was just written cannot be read")))?;
                (run.status, store, problems)
            }
        };
        let mut progress = Progress::new(printer, &status.plan);
        let plan = status.plan.clone();
        let interrupted = on_interrupt().map_err(one)?;
        let mut hear = |event: &crate::event::Event| progress.hear(event);
        let ended = block_on(async {
            tokio::select! {
                ended = engine::run(status, &mut store, &operator, now, &mut hear) => ended,
                _ = interrupted => Err(Error::new(Kind::Failed, "interrupted; what the agents are doing now, they finish").hint("`vsgpu apply` goes on from here; `vsgpu status` shows how far it is")),
            }
        })?;
        progress.finish();
        let summary = ended.map_err(|error| [vec![error], still_taken(fleet)].concat())?;
        self.report(&plan, &summary, problems)
    }

    /// Plans from how the world is now; a saved plan must still be the same.
    fn fresh(&self, operator: &vsgpu_proto::client::Operator) -> Result<(Plan, Vec<Problem>, Leftovers), Vec<Error>> {
        let Self { printer, fleet, saved, .. } = self;
        let inventory = block_on(inventory::gather(fleet, operator, Scope::WishedAndRemembered, &|_| true))?;
        let left = planner::still_taken(fleet, &inventory, leftovers(fleet)?);
        let Planned { plan: fresh, problems, warnings } = planner::plan(fleet, &inventory, &left);
        printer.warnings(&warnings);
        if let Some(saved) = saved {
            let differing = fresh
                .steps
                .iter()
                .zip(&saved.steps)
                .find(|(new, old)| new != old)
                .map(|(new, _)| format!("step {}: {} {}", new.id, new.node, new.title));
            if fresh.fleet != saved.fleet || fresh.steps != saved.steps {
                let error = Error::new(Kind::Blocked, "the saved plan no longer fits the fleet: nothing was changed");
                let what = differing
                    .unwrap_or_else(|| format!("{} steps would be needed now, the plan has {}", fresh.steps.len(), saved.steps.len()));
                return Err(vec![error.detail(format!("first difference: {what}")).hint("look at the new plan: `vsgpu plan`")]);
            }
        }
        Ok((fresh, problems, left))
    }

    fn report(&self, plan: &Plan, summary: &Summary, problems: Vec<Problem>) -> Ended {
        let Self { printer, fleet, .. } = self;
        let failed: Vec<_> = summary.failed.iter().map(|(step, error)| json!({ "step": step, "error": error })).collect();
        let answer = json!({ "steps": plan.steps.len(), "done": summary.done, "failed": failed, "skipped": summary.skipped, "changed": summary.changed });
        let text = format!(
            "{} of {} steps done{}",
            summary.done,
            plan.steps.len(),
            if summary.skipped > 0 { format!(", {} left out", summary.skipped) } else { String::new() }
        );
        printer.answer(&answer, &text);
        let mut errors = still_taken(fleet);
        errors.extend(summary.failed.iter().map(|(_, e)| e.clone()));
        errors.extend(problems.into_iter().map(|p| p.error));
        printer.errors(&errors);
        Ok(worst(&errors))
    }
}

/// Hears Ctrl-C (and a polite kill) in a thread of its own. Called before any other thread, so that all have it blocked.
fn on_interrupt() -> Result<tokio::sync::oneshot::Receiver<()>, Error> {
    use nix::sys::signal::{SigSet, Signal};
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    signals.thread_block().map_err(|e| Error::new(Kind::Internal, format!("signals cannot be heard: {e}")))?;
    let (tx, rx) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        if signals.wait().is_ok() {
            let _ = tx.send(());
        }
    });
    Ok(rx)
}

/// What the latest run took and has not given back.
fn still_taken(fleet: &Fleet) -> Vec<Error> {
    journal::latest(&fleet.state_folder()).ok().flatten().map(|run| said_loudly(run.status.leftovers())).unwrap_or_default()
}

/// The one thing administrators fear, said loudly, with the way out.
fn said_loudly(left: Leftovers) -> Vec<Error> {
    let host = |host| {
        Error::new(Kind::Failed, format!("{host} IS STILL IN MAINTENANCE MODE"))
            .hint("`vsgpu apply` brings it out when it answers; by hand: `esxcli system maintenanceMode set --enable false`")
    };
    let vm = |vm| {
        Error::new(Kind::Failed, format!("{vm} was shut down and is not known to run again"))
            .hint("`vsgpu apply` looks again, and starts it when its host allows it")
    };
    left.in_maintenance.into_iter().map(host).chain(left.stopped.into_iter().map(vm)).collect()
}
