//! `vsgpu` alone: where this fleet stands, and the next thing to type. Asks no machine.

use crate::cli::global::{FleetArg, GlobalArgs, now};
use crate::error::Exit;
use crate::fleet::Fleet;
use crate::journal::{self, EndReason, Folder, StepState};
use crate::render::words::ago;
use crate::render::{Answer, Printer};
use crate::setup::certificates;
use serde_json::json;
use vsgpu_core::words::counted;

/// The latest run in one sentence, and what to type.
fn latest(fleet: &Fleet) -> (String, &'static str) {
    let folder = fleet.state_folder();
    let run = match journal::latest(&Folder(folder.clone())) {
        Ok(Some(run)) => run,
        Ok(None) => return ("No run yet.".into(), "vsgpu plan"),
        Err(error) => return (error.message, "vsgpu status"),
    };
    let status = &run.status;
    let done = status.steps.iter().filter(|s| matches!(s, StepState::Done { .. })).count();
    let all = status.steps.len();
    if journal::at_work(&folder).is_some() {
        return (
            format!("Run {} is at work: {done} of {all} steps done.", run.number),
            "vsgpu status --watch",
        );
    }
    let Some((at, how)) = status.ended else {
        return (format!("Run {} is not finished: {done} of {all} steps done.", run.number), "vsgpu resume");
    };
    let when = ago(now().saturating_sub(at));
    let (what, next) = match how {
        EndReason::Aborted => ("aborted", "vsgpu plan"),
        EndReason::GivenUp => ("given up", "vsgpu plan"),
        EndReason::Finished if done == all => ("done", "vsgpu verify"),
        EndReason::Finished => ("ended, not all of it done", "vsgpu status"),
    };
    (format!("Last run: {}, {what} {when}, {done} of {all} steps done.", run.number), next)
}

pub(super) fn show(printer: &Printer, chosen: &GlobalArgs, groups: &str) -> Exit {
    let version = env!("CARGO_PKG_VERSION");
    let named = FleetArg { fleet: None, pki: None };
    let choice = named.choice(chosen);
    let (head, json) = match (choice, named.read(false, chosen)) {
        (Ok(choice), Ok(fleet)) => {
            let (said, mut next) = latest(&fleet);
            let mut lines = vec![said.clone()];
            lines.extend(certificates::warnings(&certificates::ending(&fleet, None, now())));
            if !fleet.pki.join("ca.pem").exists() {
                lines.push(format!("No certificates in {}.", fleet.pki.display()));
                next = "vsgpu ca init";
            }
            lines.push(format!("Next: {next}"));
            let head = format!(
                "vsgpu {version}  {} ({})  {}, {}\n\n{}",
                choice.fleet.value.display(),
                choice.fleet.from,
                counted(fleet.hosts.len(), "host"),
                counted(fleet.vms.len(), "VM"),
                lines.join("\n")
            );
            (head, json!({ "version": version, "fleet": choice, "latest": said, "next": next }))
        }
        (Ok(choice), Err(_)) if choice.fleet.value.exists() => {
            let next = "vsgpu validate";
            let head = format!(
                "vsgpu {version}  {} ({})\n\nThe fleet file is not right.\nNext: {next}",
                choice.fleet.value.display(),
                choice.fleet.from
            );
            (head, json!({ "version": version, "fleet": choice, "next": next }))
        }
        (Ok(choice), Err(_)) => {
            let head = format!(
                "vsgpu {version}\n\nThere is no fleet file here ({}).\nNext: vsgpu advise   which way to use your GPUs, or\n      vsgpu init     a fleet file from what your hosts say",
                choice.fleet.value.display()
            );
            (head, json!({ "version": version, "fleet": null, "next": "vsgpu init" }))
        }
        (Err(error), _) => (format!("vsgpu {version}\n\n{}", error.message), json!({ "version": version })),
    };
    printer.show(Answer::new(json, format!("{head}\n\n{groups}")));
    Exit::Done
}
