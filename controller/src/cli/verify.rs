//! `vsgpu verify`: is everything as wished? Changes nothing; the agents remember the wishes for their metrics.

use super::{Ended, FleetArg, block_on, operator, worst};
use crate::error::{Error, Exit, Kind};
use crate::inventory::{self, Scope};
use crate::render::{Printer, report};
use clap::Args;

#[derive(Args)]
pub(super) struct Verify {
    #[command(flatten)]
    fleet: FleetArg,
}

impl Verify {
    pub fn run(self, printer: &Printer) -> Ended {
        let fleet = self.fleet.read(true)?;
        let operator = operator(&fleet)?;
        let inventory = block_on(inventory::gather(&fleet, &operator, Scope::WishedAndRemembered, &|_| true))?;
        let checks = report::checks(&fleet, &inventory);
        let (json, text) = report::verify(&fleet, &checks, &inventory);
        printer.answer(&json, &text);
        let mut errors: Vec<Error> = inventory.nodes.into_values().filter_map(Result::err).collect();
        errors.dedup();
        printer.errors(&errors);
        Ok(match (errors.is_empty(), checks.iter().all(|c| c.met)) {
            (false, _) => worst(&errors),
            (true, true) => Exit::Done,
            (true, false) => Exit::Not(Kind::Differs),
        })
    }
}
