//! `vsgpu diagnose`: symptom, cause, fix; of a fleet as its agents see it, of saved facts, of an archive, or of a text that
//! somebody pasted. Exit status 0 nothing was found, 3 something was.

use crate::cli::global::{CliResult, FleetArg, GlobalArgs, block_on, connected, only_known};
use crate::cli::offline::{self, Saved};
use crate::diagnose::{Diagnosis, State, Text, of_fleet, read_archive};
use crate::error::{Error, Exit, Kind};
use crate::fleet::Fleet;
use crate::inventory::{self, Inventory, Scope, saved};
use crate::render::Printer;
use crate::render::diagnose::{fleet_answer, text_answer};
use clap::{Args, ValueEnum};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use vsgpu_core::diagnosis::{Source, diagnose};

/// A text on standard input, at most.
const MOST_BYTES: u64 = 64 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Side {
    Host,
    Guest,
}

#[derive(Args)]
#[command(
    after_help = "Examples:\n  vsgpu diagnose -n vm-03\n  journalctl -k | vsgpu diagnose --text -\n  vsgpu diagnose --bundle esx-01-vmsupport.tgz"
)]
pub(super) struct Diagnose {
    #[command(flatten)]
    fleet: FleetArg,
    /// Only these VMs or hosts (repeat for more)
    #[arg(short, long, value_name = "NAME")]
    node: Vec<String>,
    /// A log or a pasted text; `-` reads standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["bundle", "facts"])]
    text: Option<PathBuf>,
    /// host or guest: where the text is from
    #[arg(long, value_enum, value_name = "SIDE", hide_possible_values = true, requires = "text")]
    on: Option<Side>,
    /// A `vsgpu bundle`, a vm-support archive, an nvidia-bug-report.log.gz
    #[arg(long, value_name = "FILE", conflicts_with = "facts")]
    bundle: Option<PathBuf>,
    /// Saved facts (`vsgpu facts -o json`); asks no agent
    #[arg(long, value_name = "FILE")]
    facts: Option<PathBuf>,
}

impl Diagnose {
    pub fn run(self, printer: &Printer, chosen: &GlobalArgs) -> CliResult {
        if let Some(file) = &self.text {
            let texts = self.pasted(file)?;
            return Ok(shown(printer, &texts));
        }
        if let Some(file) = &self.bundle {
            let archive = read_archive(file).map_err(|e| vec![e])?;
            let Some(texts) = archive.bundle else { return Ok(shown(printer, &archive.texts)) };
            let Saved { inventory, fleet } = offline::of_bundle(file, texts)?;
            let fleet = fleet.map_or_else(|| self.fleet.read(false, chosen), Ok)?;
            return self.judged(printer, &fleet, &inventory);
        }
        // Where NVIDIA's files are not at hand, what needs them is not judged.
        let mut fleet = match self.fleet.read(true, chosen) {
            Ok(fleet) => fleet,
            Err(_) => {
                let mut fleet = self.fleet.read(false, chosen)?;
                crate::fleet::file::versions_from_file_names(&mut fleet);
                fleet
            }
        };
        only_known(&fleet, &self.node)?;
        let inventory = match &self.facts {
            Some(file) => saved::read(file).map_err(|e| vec![e])?,
            None => {
                let connector = connected(&mut fleet)?;
                block_on(inventory::gather(&fleet, &connector, Scope::All, &|_| true))?
            }
        };
        self.judged(printer, &fleet, &inventory)
    }

    fn judged(&self, printer: &Printer, fleet: &Fleet, inventory: &Inventory) -> CliResult {
        let all: Vec<Diagnosis> = of_fleet(fleet, inventory, &self.node);
        let good = all.iter().all(|d| d.links.iter().all(|l| l.state != State::Broken) && d.red().is_none());
        printer.show(fleet_answer(&all));
        Ok(if good { Exit::Done } else { Exit::Not(Kind::Differs) })
    }

    fn pasted(&self, file: &Path) -> Result<Vec<Text>, Vec<Error>> {
        let mut texts = if file == Path::new("-") {
            let mut bytes = vec![];
            std::io::stdin()
                .take(MOST_BYTES)
                .read_to_end(&mut bytes)
                .map_err(|e| vec![Error::new(Kind::Usage, format!("standard input: {e}"))])?;
            let text = String::from_utf8_lossy(&bytes).into_owned();
            vec![Text { name: "standard input".into(), text, sources: vec![] }]
        } else {
            read_archive(file).map_err(|e| vec![e])?.texts
        };
        let side: &[Source] = match self.on {
            Some(Side::Host) => &[
                Source::VmwareLog,
                Source::Vmkernel,
                Source::Task,
                Source::HostSmi,
                Source::Esxcli,
                Source::HostAgent,
            ],
            Some(Side::Guest) => {
                &[Source::GuestSmi, Source::GuestKernel, Source::Gridd, Source::Installer, Source::Cuda]
            }
            None => &[],
        };
        if !side.is_empty() {
            texts.iter_mut().for_each(|text| text.sources = side.to_vec());
        }
        Ok(texts)
    }
}

fn shown(printer: &Printer, texts: &[Text]) -> Exit {
    let inputs: Vec<_> = texts.iter().map(Text::input).collect();
    let report = diagnose(&inputs);
    let good = report.findings.is_empty();
    printer.show(text_answer(&report, texts.len()));
    if good { Exit::Done } else { Exit::Not(Kind::Differs) }
}
