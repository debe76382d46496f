//! `vsgpu ready`: what VMs with GPUs can do right now, and what maintenance mode of each host would take. Changes nothing.

use crate::cli::global::{CliResult, FleetArg, GlobalArgs, block_on, connector, worst};
use crate::error::{Error, Exit};
use crate::inventory::{self, Scope, saved};
use crate::node::NodeKind;
use crate::ready::of_fleet;
use crate::render::Printer;
use crate::render::ready::answer;
use clap::Args;
use std::path::PathBuf;

#[derive(Args)]
#[command(
    after_help = "Examples:\n  vsgpu ready                       vMotion, suspend, snapshots, maintenance mode\n  vsgpu ready fleet.yaml --facts facts.json"
)]
pub(super) struct Ready {
    #[command(flatten)]
    fleet: FleetArg,
    /// Saved facts (`vsgpu facts -o json`); asks no agent
    #[arg(long, value_name = "FILE")]
    facts: Option<PathBuf>,
}

impl Ready {
    pub fn run(self, printer: &Printer, chosen: &GlobalArgs) -> CliResult {
        let fleet = self.fleet.read(false, chosen)?;
        let inventory = match &self.facts {
            Some(file) => saved::read(file).map_err(|e| vec![e])?,
            None => {
                let connector = connector(&fleet)?;
                block_on(inventory::gather(&fleet, &connector, Scope::All, &|id| id.kind != NodeKind::Guest))?
            }
        };
        printer.show(answer(&of_fleet(&fleet, &inventory)));
        let mut errors: Vec<Error> = inventory.nodes.into_values().filter_map(Result::err).collect();
        errors.dedup();
        printer.errors(&errors);
        Ok(if errors.is_empty() { Exit::Done } else { worst(&errors) })
    }
}
