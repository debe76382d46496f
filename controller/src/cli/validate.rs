//! `vsgpu validate`: offline check of a fleet file and of the files that it names.

use crate::cli::global::{CliResult, FleetArg, GlobalArgs};
use crate::compat;
use crate::error::Exit;
use crate::render::{Answer, Printer};
use clap::Args;
use serde_json::json;
use vsgpu_core::words::counted;

#[derive(Args)]
#[command(
    after_help = "Examples:\n  vsgpu validate\n  vsgpu validate --no-files      where NVIDIA's files are not at hand"
)]
pub(super) struct Validate {
    #[command(flatten)]
    fleet: FleetArg,
    /// Do not look at the files that the fleet file names
    #[arg(long)]
    no_files: bool,
}

impl Validate {
    pub fn run(self, printer: &Printer, chosen: &GlobalArgs) -> CliResult {
        let shown = self.fleet.choice(chosen).map_err(|e| vec![e])?.fleet.value.display().to_string();
        let mut fleet = self.fleet.read(!self.no_files, chosen)?;
        if self.no_files {
            crate::fleet::file::versions_from_file_names(&mut fleet);
        }
        // The compatibility check, on what the fleet file states; `plan` judges again with what the hosts
        // say.
        let judgement = compat::judge(&fleet, None, &Default::default());
        printer.warnings(&judgement.warnings);
        if !judgement.errors.is_empty() {
            return Err(judgement.errors);
        }
        let guests = fleet.vms.iter().filter(|vm| vm.guest.is_some()).count();
        let specs: usize = fleet.specs().values().map(|w| w.len()).sum();
        let doubts = match judgement.warnings.len() {
            0 => String::new(),
            n => format!("; {}", counted(n, "warning")),
        };
        let text = format!(
            "{} is valid: {}, {}, {}, {}{doubts}\nnot judged without the hosts: room on their GPUs, their release of ESXi, what their VMs are now",
            shown,
            counted(fleet.hosts.len(), "host"),
            counted(fleet.vms.len(), "VM"),
            counted(guests, "guest"),
            counted(specs, "requirement")
        );
        let nodes = fleet.specs().into_keys().map(String::from).collect();
        let json = json!({ "warnings": judgement.warnings, "valid": true, "hosts": fleet.hosts.len(), "vms": fleet.vms.len(), "guests": guests, "requirements": specs });
        printer.show(Answer { names: nodes, ..Answer::new(json, text) });
        Ok(Exit::Done)
    }
}
