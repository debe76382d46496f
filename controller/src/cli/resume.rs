//! `vsgpu resume`, `vsgpu abort`, `vsgpu rollback`: what becomes of a run that is under way or was left.

use crate::cli::global::{CliResult, FleetArg, GlobalArgs};
use crate::cli::run::RunCommand;
use crate::error::{Error, Kind};
use crate::journal::{self, Folder, Purpose};
use crate::render::Printer;
use crate::run::{Unfinished, way_back};
use clap::Args;
use std::time::Duration;

#[derive(Args)]
#[command(after_help = "Examples:\n  vsgpu resume\n  vsgpu resume --pause      one wave further")]
pub(super) struct Resume {
    #[command(flatten)]
    fleet: FleetArg,
    /// Stop again after the next wave
    #[arg(long)]
    pause: bool,
}

impl Resume {
    pub fn run(self, printer: &Printer, chosen: &GlobalArgs) -> CliResult {
        let fleet = self.fleet.read(false, chosen)?;
        RunCommand {
            yes: true,
            unfinished: Unfinished::GoOn,
            pause: self.pause,
            ..RunCommand::to(printer, &fleet)
        }
        .run()
    }
}

#[derive(Args)]
#[command(
    after_help = "Examples:\n  vsgpu abort && vsgpu status\n  vsgpu abort --adopt esx-01   the run's controller is gone"
)]
pub(super) struct Abort {
    #[command(flatten)]
    fleet: FleetArg,
    /// Restore what another run left on this host: leave maintenance mode, start the VMs
    #[arg(long, value_name = "HOST")]
    adopt: Option<String>,
    /// Do not ask before that (needed where there is no terminal)
    #[arg(short, long, requires = "adopt")]
    yes: bool,
    /// Seconds to wait for the steps that run now
    #[arg(long, value_name = "SECONDS", default_value_t = 7200)]
    timeout: u64,
}

impl Abort {
    pub fn run(self, printer: &Printer, chosen: &GlobalArgs) -> CliResult {
        let fleet = self.fleet.read(false, chosen)?;
        let folder = fleet.state_folder();
        if let Some(host) = &self.adopt {
            return crate::cli::adopt::run(printer, &fleet, host, self.yes);
        }
        let lock = match journal::at_work(&folder) {
            None => journal::lock(&folder).map_err(|e| vec![e])?,
            Some(process) => {
                printer.note(&format!(
                    "process {process} is asked to stop; what runs on the nodes is finished first"
                ));
                if process > 1 {
                    let asked = nix::sys::signal::kill(
                        nix::unistd::Pid::from_raw(process),
                        nix::sys::signal::Signal::SIGTERM,
                    );
                    asked.map_err(|e| {
                        vec![Error::new(
                            Kind::Failed,
                            format!("process {process} cannot be asked to stop: {e}"),
                        )]
                    })?;
                }
                self.wait(&folder)?
            }
        };
        let command =
            RunCommand { yes: true, unfinished: Unfinished::Restore, ..RunCommand::to(printer, &fleet) };
        let ended = command.locked();
        drop(lock);
        ended
    }

    fn wait(&self, folder: &std::path::Path) -> Result<journal::Lock, Vec<Error>> {
        for _ in 0..self.timeout.saturating_mul(5) {
            match journal::lock(folder) {
                Err(error) if error.kind == Kind::Blocked => std::thread::sleep(Duration::from_millis(200)),
                other => return other.map_err(|e| vec![e]),
            }
        }
        let error = Error::new(Kind::Failed, format!("the run has not stopped within {} s", self.timeout));
        Err(vec![error.hint(
            "`vsgpu status` shows which step it waits for; it stops behind that, then `vsgpu abort` again",
        )])
    }
}

#[derive(Args)]
#[command(after_help = "Example:\n  vsgpu rollback      says first what has no way back")]
pub(super) struct Rollback {
    #[command(flatten)]
    fleet: FleetArg,
    /// Do not ask before the first change (a script is never asked)
    #[arg(short, long)]
    yes: bool,
}

impl Rollback {
    pub fn run(self, printer: &Printer, chosen: &GlobalArgs) -> CliResult {
        let one = |e: Error| vec![e];
        let fleet = self.fleet.read(false, chosen)?;
        let folder = fleet.state_folder();
        let lock = journal::lock(&folder).map_err(one)?;
        let disk = Folder(folder);
        let nothing = || {
            Error::new(Kind::Usage, "there is no run to go back from")
                .code("no-run")
                .hint("`vsgpu status` shows the latest one")
        };
        let run = journal::latest(&disk).map_err(one)?.ok_or_else(|| one(nothing()))?;
        if let Some(damage) = run.damage {
            return Err(one(Error::new(Kind::Blocked, damage)
                .hint("what that run changed is not wholly known: look at `vsgpu plan`")));
        }
        let all_done = run.status.steps.iter().all(|s| matches!(s, journal::StepState::Done { .. }));
        let (back, lost) = match (run.status.purpose, run.status.ended) {
            // Gone on with, or tried again: towards what was before the run that it takes back.
            (Purpose::Rollback, ended) if ended.is_none() || !all_done => {
                let applied = journal::latest_where(&disk, |s| s.purpose == Purpose::Apply)
                    .map_err(one)?
                    .ok_or_else(|| one(nothing()))?;
                way_back(&fleet, &applied.status)
            }
            (Purpose::Rollback, _) => {
                return Err(one(Error::new(
                    Kind::Usage,
                    format!("run {} was a rollback already", run.number),
                )
                .hint("`vsgpu plan` shows what the fleet file would change")));
            }
            (Purpose::Apply, _) => way_back(&fleet, &run.status),
        };
        if !lost.is_empty() {
            printer.note("these have no way back and stay as they are:");
            lost.iter().for_each(|what| printer.note(&format!("  {what}")));
            printer.note("");
        }
        // A run towards the fleet file that is not finished is given up for it.
        let unfinished =
            if run.status.purpose == Purpose::Apply { Unfinished::GiveUp } else { Unfinished::GoOnIfSame };
        let command = RunCommand {
            yes: self.yes,
            purpose: Purpose::Rollback,
            unfinished,
            ..RunCommand::to(printer, &back)
        };
        let ended = command.locked();
        drop(lock);
        ended
    }
}
