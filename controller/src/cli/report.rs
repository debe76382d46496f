//! `vsgpu report`: the fleet or a run as one file, to mail or to attach to a change ticket. Changes nothing.

use crate::cli::global::{CliResult, FleetArg, GlobalArgs, block_on, now, reader};
use crate::error::Exit;
use crate::journal::Folder;
use crate::monitoring::exporter::Collected;
use crate::monitoring::top::seats;
use crate::render::Printer;
use crate::{files, web};
use clap::Args;
use std::path::PathBuf;
use std::time::Duration;
use vsgpu_wire::metrics::listener::Pages as _;

#[derive(Args)]
#[command(
    after_help = "Examples:\n  vsgpu report --html fleet.html        the fleet as it is now\n  vsgpu report 12 --html run-12.html    run 12 over time, with its plan (`vsgpu runs`)\n\nA plan before it is run: `vsgpu plan --html FILE`."
)]
pub(super) struct Report {
    #[command(flatten)]
    fleet: FleetArg,
    /// One run of this fleet, by its number
    #[arg(long, value_name = "RUN")]
    run: Option<u32>,
    /// Where to: one file that loads nothing
    #[arg(long, value_name = "FILE", required = true)]
    html: PathBuf,
}

impl Report {
    pub fn run(mut self, printer: &Printer, chosen: &GlobalArgs) -> CliResult {
        let number = self.fleet.take_run().or(self.run);
        let fleet = self.fleet.read(false, chosen)?;
        let name = fleet.file.file_name().unwrap_or_default().to_string_lossy();
        let text = match number {
            Some(number) => web::of_run(&name, &Folder(fleet.state_folder()), number, now())
                .map_err(|error| vec![error])?,
            None => {
                let connector = reader(&fleet)?;
                let collected = Collected::new(&fleet);
                let within = Duration::from_secs(fleet.deadlines.connect_secs.into());
                block_on(collected.round(&fleet, &connector, within))?;
                let seen = web::Seen::of(&name, &seats(&fleet), &collected.metrics(), now());
                web::of_fleet(&name, &seen, now())
            }
        };
        files::write_text(&self.html, &text).map_err(|e| vec![e])?;
        printer.note(&format!("{} written", self.html.display()));
        Ok(Exit::Done)
    }
}
