//! `vsgpu baseline`: what GPUs reached, as the block that `bandwidth-at-least` is judged against. Made from
//! reports of `vsgpu-cuda-proof` on bare metal, or from the last proofs of the fleet's own guests.

use crate::cli::global::{CliResult, FleetArg, GlobalArgs, block_on, connected};
use crate::error::{Error, Exit, Kind};
use crate::files;
use crate::inventory::{self, Scope};
use crate::render::{Answer, Printer, report};
use clap::Args;
use serde_json::json;
use std::path::PathBuf;
use vsgpu_core::readers::cuda_report::{self, CudaReport};
use vsgpu_guest_agent::facts::{Baseline, Figures};
use vsgpu_guest_agent::guest::CudaProofFact;

/// A report is some kilobytes for each GPU.
const MAX_REPORT: u64 = 1 << 20;

#[derive(Args)]
#[command(
    after_help = "Examples:\n  vsgpu-cuda-proof > bare.json      on bare metal, with the same GPU and driver branch\n  vsgpu baseline --report bare.json\n  vsgpu baseline fleet.yaml         from the last proofs of the fleet's guests\n\nPut the block under `cuda-proof:` of a guest, or under `defaults: guest: cuda-proof:`."
)]
pub(super) struct BaselineArgs {
    #[command(flatten)]
    fleet: FleetArg,
    /// Output of `vsgpu-cuda-proof` on bare metal (repeat the option for more); no node is talked to then
    #[arg(long, value_name = "FILE")]
    report: Vec<PathBuf>,
}

impl BaselineArgs {
    pub fn run(self, printer: &Printer, chosen: &GlobalArgs) -> CliResult {
        let (mut baseline, mut sources, mut errors) = (Baseline::new(), vec![], vec![]);
        if self.report.is_empty() {
            let mut fleet = self.fleet.read(false, chosen)?;
            let connector = connected(&mut fleet)?;
            let guests = |id: &crate::node::NodeId| id.kind == crate::node::NodeKind::Guest;
            let inventory = block_on(inventory::gather(&fleet, &connector, Scope::All, &guests))?;
            for (node, seen) in &inventory.nodes {
                let fact = match seen {
                    Ok(seen) => seen.fact::<CudaProofFact>(),
                    Err(error) => {
                        errors.push(error.clone());
                        continue;
                    }
                };
                let proof = fact.ok().filter(CudaProofFact::passed);
                match proof {
                    Some(proof) => {
                        add(&mut baseline, &proof.report);
                        sources.push(node.to_string());
                    }
                    None => errors.push(Error::new(
                        Kind::Blocked,
                        format!("{node}: there is no CUDA proof of this boot to take figures from"),
                    )),
                }
            }
        }
        for path in &self.report {
            let text = files::read_text(path, MAX_REPORT).map_err(|e| vec![e])?;
            let wrong = |why: String| {
                let error = Error::new(Kind::Usage, format!("{}: {why}", path.display()));
                vec![error.hint("run `vsgpu-cuda-proof > FILE` on the machine with the GPU")]
            };
            let report = cuda_report::read(&text).map_err(wrong)?;
            if !report.passed() {
                let why = report
                    .failure
                    .as_ref()
                    .map_or("not every result was checked".into(), ToString::to_string);
                return Err(wrong(format!("this run failed, it is no baseline: {why}")));
            }
            add(&mut baseline, &report);
            sources.push(path.display().to_string());
        }
        if baseline.is_empty() {
            printer.errors(&errors);
            return Err(vec![
                Error::new(Kind::Blocked, "no figures were found")
                    .hint("`vsgpu baseline --help` shows both ways to get them"),
            ]);
        }
        let names = baseline.keys().cloned().collect();
        let json = json!({ "baseline": baseline, "from": sources });
        printer.show(Answer { names, ..Answer::new(json, report::baseline(&baseline, &sources)) });
        printer.errors(&errors);
        Ok(if errors.is_empty() { Exit::Done } else { crate::cli::global::worst(&errors) })
    }
}

/// The best of several GPUs of one name counts: nothing makes a memory faster than it is.
fn add(baseline: &mut Baseline, report: &CudaReport) {
    let better = |old: Option<f64>, new: Option<f64>| match (old, new) {
        (Some(old), Some(new)) => Some(old.max(new)),
        (old, new) => old.or(new),
    };
    for device in &report.devices {
        let (new, old) = (Figures::of(device), baseline.entry(device.name.clone()).or_default());
        old.device = better(old.device, new.device);
        old.host_to_device = better(old.host_to_device, new.host_to_device);
        old.device_to_host = better(old.device_to_host, new.device_to_host);
    }
}
