//! `vsgpu runs`: the runs of a fleet, the newest first, from their journals.

use crate::cli::global::{CliResult, FleetArg, GlobalArgs, now};
use crate::error::Exit;
use crate::journal::{self, Disk as _, Folder};
use crate::render::{Answer, Printer, status};
use clap::Args;

#[derive(Args)]
#[command(after_help = "Examples:\n  vsgpu runs\n  vsgpu status 3     one of them")]
pub(super) struct Runs {
    #[command(flatten)]
    fleet: FleetArg,
    /// No more than so many
    #[arg(long, value_name = "N", default_value_t = 20)]
    most: usize,
}

impl Runs {
    pub fn run(self, printer: &Printer, chosen: &GlobalArgs) -> CliResult {
        let fleet = self.fleet.read(false, chosen)?;
        let disk = Folder(fleet.state_folder());
        let at_work = journal::at_work(&disk.0).is_some();
        let numbers = disk.numbers();
        let all = numbers.len();
        let mut runs = vec![];
        for (at, number) in numbers.into_iter().take(self.most).enumerate() {
            runs.push((number, journal::numbered(&disk, number), at_work && at == 0));
        }
        let left = all - runs.len();
        let answer: Answer = status::runs(&runs, left, now());
        printer.show(answer);
        Ok(Exit::Done)
    }
}
