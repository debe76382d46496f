//! `vsgpu facts`: all facts of all nodes, or of some.

use crate::cli::global::{CliResult, FleetArg, GlobalArgs, block_on, connected, only_known, worst};
use crate::error::{Error, Exit};
use crate::inventory::{self, Scope};
use crate::render::{Printer, report};
use clap::Args;

#[derive(Args)]
#[command(
    after_help = "Examples:\n  vsgpu facts\n  vsgpu facts -n esx-01 -o wide\n  vsgpu facts -o json | jq '.[\"host/esx-01\"].readiness'"
)]
pub(super) struct Facts {
    #[command(flatten)]
    fleet: FleetArg,
    /// Only these nodes (repeat the option for more)
    #[arg(short, long, value_name = "NAME")]
    node: Vec<String>,
}

impl Facts {
    pub fn run(self, printer: &Printer, chosen: &GlobalArgs) -> CliResult {
        let mut fleet = self.fleet.read(false, chosen)?;
        only_known(&fleet, &self.node)?;
        let connector = connected(&mut fleet)?;
        let inventory = block_on(inventory::gather(&fleet, &connector, Scope::All, &|id| {
            self.node.is_empty() || self.node.contains(&id.name)
        }))?;
        printer.show(report::facts(&inventory, Some(&fleet)));
        let mut errors: Vec<Error> = inventory.nodes.into_values().filter_map(Result::err).collect();
        errors.dedup();
        printer.errors(&errors);
        Ok(if errors.is_empty() { Exit::Done } else { worst(&errors) })
    }
}
