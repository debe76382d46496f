//! `vsgpu release`: a person has looked at a held node and lets it go.

use crate::cli::global::{CliResult, FleetArg, GlobalArgs, now};
use crate::error::{Error, Exit, Kind};
use crate::journal::{self, Folder, Journal, Record};
use crate::node::NodeId;
use crate::render::Printer;
use clap::Args;
use serde_json::json;

#[derive(Args)]
#[command(after_help = "Example:\n  vsgpu release esx-01")]
pub(super) struct Release {
    /// The node: a name of the fleet file, or `guest/NAME`, `vm/NAME`, `host/NAME`
    node: String,
    #[command(flatten)]
    fleet: FleetArg,
}

impl Release {
    pub fn run(self, printer: &Printer, chosen: &GlobalArgs) -> CliResult {
        let one = |e: Error| vec![e];
        let fleet = self.fleet.read(false, chosen)?;
        let folder = fleet.state_folder();
        let _lock = journal::lock(&folder).map_err(one)?;
        let disk = Folder(folder);
        let run = journal::latest(&disk).map_err(one)?;
        let held = run.as_ref().map(|r| r.status.held()).unwrap_or_default();
        let named = |node: &&NodeId| node.name == self.node || String::from((*node).clone()) == self.node;
        let nodes: Vec<NodeId> = held.keys().filter(named).cloned().collect();
        let (Some(run), false) = (run, nodes.is_empty()) else {
            let known: Vec<String> = held.into_keys().map(String::from).collect();
            let error = Error::new(Kind::Usage, format!("`{}` is not held", self.node)).code("unknown-node");
            let error = if known.is_empty() {
                error.detail("no node is held")
            } else {
                error.detail(format!("held: {}", known.join(", ")))
            };
            return Err(one(error.hint("`vsgpu status` shows the nodes of the latest run")));
        };
        if let Some(damage) = run.damage {
            return Err(one(
                Error::new(Kind::Blocked, damage).hint("give that run up first: `vsgpu apply --abandon`")
            ));
        }
        let mut journal = Journal::open(&disk, run.number, Some(run.good_bytes)).map_err(one)?;
        for node in &nodes {
            journal.record(&Record::Released { at: now(), node: node.clone() }).map_err(one)?;
        }
        let names: Vec<String> = nodes.iter().map(ToString::to_string).collect();
        printer.answer(
            &json!({ "released": nodes }),
            &format!("released: {}; `vsgpu apply` looks at it again", names.join(", ")),
        );
        Ok(Exit::Done)
    }
}
