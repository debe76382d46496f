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
        let run = journal::latest(&fleet.state_folder()).map_err(|e| vec![e])?;
        let (json, text) = report::status(run.as_ref());
        printer.answer(&json, &text);
        Ok(Exit::Done)
    }
}
