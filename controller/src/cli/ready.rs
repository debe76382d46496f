//! `vsgpu ready`: what VMs with GPUs can do right now, and what maintenance mode of each host would take. Changes nothing.

use crate::cli::global::{CliResult, FleetArg, GlobalArgs, block_on, connected, worst};
use crate::cli::offline;
use crate::cli::upgrade::explained;
use crate::error::{Error, Exit};
use crate::inventory::{self, Scope};
use crate::node::NodeKind;
use crate::ready::of_fleet;
use crate::render::Printer;
use crate::render::ready::answer;
use clap::Args;
use std::path::PathBuf;

#[derive(Args)]
#[command(
    after_help = "Examples:\n  vsgpu ready                       vMotion, suspend, snapshots, maintenance mode\n  vsgpu ready --to 19.6             and what that release would do to each\n  vsgpu ready fleet.yaml --facts facts.json"
)]
pub(super) struct Ready {
    #[command(flatten)]
    fleet: FleetArg,
    /// Saved facts, or a `vsgpu bundle`; asks no agent
    #[arg(long, value_name = "FILE")]
    facts: Option<PathBuf>,
    /// Also what an upgrade to this vGPU release would do, and in which order
    #[arg(long, value_name = "RELEASE")]
    to: Option<String>,
}

impl Ready {
    pub fn run(self, printer: &Printer, chosen: &GlobalArgs) -> CliResult {
        let mut saved = self.facts.as_deref().map(offline::read).transpose()?;
        let mut fleet = self.fleet.read_beside(saved.as_mut(), chosen)?;
        let inventory = match saved {
            Some(saved) => saved.inventory,
            None => {
                let connector = connected(&mut fleet)?;
                let guests = self.to.is_some();
                block_on(inventory::gather(&fleet, &connector, Scope::All, &|id| {
                    guests || id.kind != NodeKind::Guest
                }))?
            }
        };
        let mut shown = answer(&of_fleet(&fleet, &inventory));
        let mut errors: Vec<Error> = vec![];
        if let Some(to) = &self.to {
            let (upgrade, problems) = explained(fleet, &inventory, to).map_err(|e| vec![e])?;
            shown.json["upgrade"] = upgrade.json;
            shown.text += &format!("\n\n{}", upgrade.text);
            shown.wide = shown.wide.map(|wide| format!("{wide}\n\n{}", upgrade.text));
            errors.extend(problems);
        }
        printer.show(shown);
        errors.extend(inventory.nodes.into_values().filter_map(Result::err));
        errors.dedup();
        printer.errors(&errors);
        Ok(if errors.is_empty() { Exit::Done } else { worst(&errors) })
    }
}
