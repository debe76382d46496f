//! `vsgpu bundle`: a file for somebody who helps: fleet file, facts, what is wrong, the latest run; without secrets.

use crate::cli::global::{CliResult, FleetArg, GlobalArgs, block_on, connected, now, only_known};
use crate::diagnose::bundle::{FACTS, FLEET, Part, archive};
use crate::diagnose::of_fleet;
use crate::error::{Error, Exit, Kind};
use crate::files;
use crate::inventory::{self, Scope};
use crate::journal::{self, Folder};
use crate::render::documents::{self, value};
use crate::render::status::{self, Hosts};
use crate::render::{Answer, Printer, report};
use clap::Args;
use serde_json::json;
use std::collections::BTreeSet;
use std::path::PathBuf;
use vsgpu_core::words::counted;

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
