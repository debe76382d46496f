//! `vsgpu validate`: offline check of a fleet file and of the files that it names.

use super::{Ended, FleetArg};
use crate::constraints;
use crate::error::Exit;
use crate::render::Printer;
use clap::Args;
use serde_json::json;

#[derive(Args)]
pub(super) struct Validate {
    #[command(flatten)]
    fleet: FleetArg,
    /// Do not look at the files that the fleet file names
    #[arg(long)]
    no_files: bool,
}

impl Validate {
    pub fn run(self, printer: &Printer) -> Ended {
        let shown = self.fleet.fleet.display().to_string();
        let mut fleet = self.fleet.read(!self.no_files)?;
        if self.no_files {
            crate::spec::believe_names(&mut fleet);
        }
        // The gate, on what the fleet file states; `plan` judges again with what the hosts say.
        let judgement = constraints::judge(&fleet, None);
        printer.warnings(&judgement.warnings);
        if !judgement.errors.is_empty() {
            return Err(judgement.errors);
        }
        let guests = fleet.vms.iter().filter(|vm| vm.guest.is_some()).count();
        let wishes: usize = fleet.wishes().values().map(|w| w.len()).sum();
        let doubts = match judgement.warnings.len() {
            0 => String::new(),
            n => format!("; {n} warning{}", if n == 1 { "" } else { "s" }),
        };
        let text = format!(
            "{} is right: {} hosts, {} VMs, {guests} guests, {wishes} requirements{doubts}\nnot judged without the hosts: room on their GPUs, their release of ESXi, what their VMs are now",
            shown,
            fleet.hosts.len(),
            fleet.vms.len()
        );
        printer.answer(
            &json!({ "warnings": judgement.warnings, "valid": true, "hosts": fleet.hosts.len(), "vms": fleet.vms.len(), "guests": guests, "requirements": wishes }),
            &text,
        );
        Ok(Exit::Done)
    }
}
