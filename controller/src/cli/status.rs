//! `vsgpu status`: the latest run, from its journal; talks to no node.

use super::{Ended, FleetArg};
use crate::error::Exit;
use crate::journal;
use crate::render::{Printer, report};
use clap::Args;

#[derive(Args)]
pub(super) struct Status {
    #[command(flatten)]
    fleet: FleetArg,
}

impl Status {
    pub fn run(self, printer: &Printer) -> Ended {
        let fleet = self.fleet.read(false)?;
        let folder = fleet.state_folder();
        let run = journal::latest(&folder).map_err(|e| vec![e])?;
        let (json, text) = report::status(run.as_ref(), journal::at_work(&folder));
        printer.answer(&json, &text);
        Ok(Exit::Done)
    }
}
