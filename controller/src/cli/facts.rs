//! `vsgpu facts`: all facts of all nodes, or of some.

use crate::cli::global::{CliResult, FleetArg, GlobalArgs, block_on, connector, worst};
use crate::error::{Error, Exit, Kind};
use crate::fleet::range::nearest;
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
        let fleet = self.fleet.read(false, chosen)?;
        let names: Vec<&str> = fleet
            .hosts
            .iter()
            .map(|h| h.name.as_str())
            .chain(fleet.vms.iter().map(|v| v.name.as_str()))
            .collect();
        if let Some(unknown) = self.node.iter().find(|n| !names.contains(&n.as_str())) {
            let error = Error::new(Kind::Usage, format!("the fleet file has no node `{unknown}`"))
                .code("unknown-node");
            return Err(vec![match nearest(unknown, names) {
                Some(near) => error.hint(format!("did you mean `{near}`?")),
                None => error,
            }]);
        }
        let connector = connector(&fleet)?;
        let inventory = block_on(inventory::gather(&fleet, &connector, Scope::All, &|id| {
            self.node.is_empty() || self.node.contains(&id.name)
        }))?;
        printer.show(report::facts(&inventory));
        let mut errors: Vec<Error> = inventory.nodes.into_values().filter_map(Result::err).collect();
        errors.dedup();
        printer.errors(&errors);
        Ok(if errors.is_empty() { Exit::Done } else { worst(&errors) })
    }
}
