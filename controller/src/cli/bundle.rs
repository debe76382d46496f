//! `vsgpu bundle`: a file for somebody who helps: fleet file, facts, what is wrong, the latest run; without secrets.

use crate::cli::global::{CliResult, FleetArg, GlobalArgs, block_on, connected, now, only_known};
use crate::diagnose::bundle::{FACTS, FLEET, Part, archive};
use crate::diagnose::{Diagnosis, of_fleet};
use crate::error::{Error, Exit, Kind};
use crate::files;
use crate::inventory::{self, Inventory, Scope};
use crate::journal::{self, Folder};
use crate::render::documents::{self, value};
use crate::render::status::{self, Hosts};
use crate::render::{Answer, Printer, report};
use clap::Args;
use serde_json::json;
use std::collections::BTreeSet;
use std::path::PathBuf;
use vsgpu_core::words::counted;

/// Bytes of facts, before they are packed.
const MOST_FACTS: usize = 64 << 20;
/// A fleet file.
const MOST_BYTES: u64 = 64 << 20;

#[derive(Args)]
#[command(
    after_help = "Examples:\n  vsgpu bundle                      writes vsgpu-bundle.tar.gz\n  vsgpu bundle -n vm-03 --out vm-03.tar.gz\n  vsgpu diagnose --bundle vm-03.tar.gz"
)]
pub(super) struct Bundle {
    #[command(flatten)]
    fleet: FleetArg,
    /// Facts of these nodes only (repeat the option for more)
    #[arg(short, long, value_name = "NAME")]
    node: Vec<String>,
    /// Where it is written
    #[arg(long, value_name = "FILE", default_value = "vsgpu-bundle.tar.gz", hide_default_value = true)]
    out: PathBuf,
}

/// Facts as they fit: those of ways that are broken first. And how many nodes' facts do not.
fn within(inventory: Inventory, ways: &[Diagnosis]) -> (Inventory, usize) {
    let sick: BTreeSet<&str> = (ways.iter().filter(|way| way.red().is_some()))
        .flat_map(|way| way.links.iter().map(|link| link.node.as_str()))
        .collect();
    let mut order: Vec<_> = inventory.nodes.into_iter().collect();
    order.sort_by_key(|(id, _)| !sick.contains(id.to_string().as_str()));
    let mut kept = Inventory { at: inventory.at, ..Inventory::default() };
    let (mut room, mut not) = (MOST_FACTS, 0);
    for (id, seen) in order {
        let size = seen
            .as_ref()
            .map_or(0, |seen| seen.facts.values().flatten().map(|fact| fact.to_string().len()).sum());
        if size > room {
            not += 1;
            continue;
        }
        room -= size;
        kept.nodes.insert(id, seen);
    }
    (kept, not)
}

impl Bundle {
    pub fn run(self, printer: &Printer, chosen: &GlobalArgs) -> CliResult {
        let mut fleet = self.fleet.read(false, chosen)?;
        only_known(&fleet, &self.node)?;
        let one = |e: Error| vec![e];
        let text = files::read_text(&fleet.file, MOST_BYTES).map_err(one)?;
        let connector = connected(&mut fleet)?;
        let inventory = block_on(inventory::gather(&fleet, &connector, Scope::All, &|id| {
            self.node.is_empty() || self.node.contains(&id.name)
        }))?;
        let silent: Vec<String> = inventory
            .nodes
            .iter()
            .filter_map(|(id, seen)| Some(format!("{id}: {}", seen.as_ref().err()?.message)))
            .collect();
        let mut left_out = silent.clone();
        if !self.node.is_empty() {
            left_out.push(format!("facts of others than {}", self.node.join(", ")));
        }
        let diagnosis = of_fleet(&fleet, &inventory, &self.node);
        let (inventory, not) = within(inventory, &diagnosis);
        if not > 0 {
            left_out.push(format!(
                "facts of {}: a bundle holds {} MiB of facts; `-n NAME` chooses whose",
                counted(not, "node"),
                MOST_FACTS >> 20
            ));
        }
        let run = journal::latest(&Folder(fleet.state_folder())).map_err(one)?;
        let mut parts = vec![
            (FLEET, Part::Text(text)),
            (FACTS, Part::Document(report::facts(&inventory, None).json)),
            ("diagnosis.json", Part::Document(json!(diagnosis))),
        ];
        if run.is_some() {
            let hosts = Hosts { others: &[], restored: &BTreeSet::new() };
            let at_work = journal::at_work(&fleet.state_folder()).is_some();
            parts.push((
                "latest-run.json",
                Part::Document(status::status(run.as_ref(), at_work, &hosts, now()).json),
            ));
        } else {
            left_out.push("a run: there was none".into());
        }
        let about =
            format!("A bundle of vsgpu {} about {}.", env!("CARGO_PKG_VERSION"), fleet.file.display());
        let names: Vec<String> = parts.iter().map(|(name, _)| (*name).to_string()).collect();
        let bytes = archive(parts, &about, &left_out)
            .map_err(|why| one(Error::new(Kind::Internal, why.to_string())))?;
        files::write_bytes(&self.out, &bytes).map_err(one)?;
        let file = self.out.display().to_string();
        let mut said = format!(
            "{file}: {} KiB. In it: {}.\nNo keys, tokens, passwords or logs are in it; its README says what else is not.",
            bytes.len().div_ceil(1024),
            names.join(", ")
        );
        if !silent.is_empty() {
            said += &format!(
                "\n{} did not answer and {} left out.",
                counted(silent.len(), "node"),
                if silent.len() == 1 { "is" } else { "are" }
            );
        }
        let document =
            value(&documents::Bundle { file: file.clone(), bytes: bytes.len(), r#in: names, left_out });
        printer.show(Answer { names: vec![file.clone()], ..Answer::new(document, said) });
        Ok(Exit::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::{Link, State};
    use crate::inventory::Seen;
    use crate::node::{NodeId, NodeKind};
    use vsgpu_core::diagnosis::Stage;

    #[test]
    fn too_much_leaves_healthy_nodes_out_first() {
        let seen = |bytes: usize| {
            let fact = (std::sync::Arc::from("a"), Ok(std::sync::Arc::new(json!("x".repeat(bytes)))));
            Seen { facts: [fact].into_iter().collect(), ..Seen::default() }
        };
        let names = ["esx-01", "esx-02", "esx-03"].map(|name| NodeId::new(NodeKind::Host, name));
        let nodes = names.iter().map(|id| (id.clone(), Ok(seen(MOST_FACTS / 2)))).collect();
        let link =
            Link { stage: Stage::Host, node: names[2].to_string(), state: State::Broken, is: String::new() };
        let way = Diagnosis { about: "esx-03".into(), links: vec![link], findings: vec![], together: vec![] };
        let (kept, not) = within(Inventory { at: 7, nodes }, &[way]);
        assert_eq!((kept.at, not), (7, 2));
        assert_eq!(kept.nodes.keys().collect::<Vec<_>>(), [&names[2]]);
    }
}
