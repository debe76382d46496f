//! `vsgpu plan`: what would be done. Changes nothing.

use crate::cli::global::{
    CliResult, FleetArg, GlobalArgs, block_on, connected, leftovers, now, only_known, worst,
};
use crate::error::{Exit, Kind};
use crate::inventory::{self, Scope, readiness};
use crate::journal::History;
use crate::monitoring::top::Severity;
use crate::node::{NodeId, NodeKind};
use crate::plan::Planned;
use crate::render::{self, Answer, Printer, plan, plan_summary};
use crate::{compat, files, journal, web};
use clap::Args;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::PathBuf;

#[derive(Args)]
#[command(
    after_help = "Examples:\n  vsgpu plan                   what goes down, then what changes\n  vsgpu plan --commands        every command (`-n vm-01`: of one machine)\n  vsgpu plan --html plan.html  for a change ticket\n  vsgpu plan --out tonight.plan && vsgpu apply tonight.plan"
)]
pub(super) struct Plan {
    #[command(flatten)]
    fleet: FleetArg,
    /// Save the plan; `vsgpu apply FILE` runs exactly that
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Write it as a page, too: to mail, or to attach to a change ticket
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Show every step with its commands (so does `-o wide`)
    #[arg(long)]
    commands: bool,
    /// Show only these machines, with commands (repeat the option for more)
    #[arg(short, long, value_name = "NAME")]
    node: Vec<String>,
}

impl Plan {
    pub fn run(self, printer: &Printer, chosen: &GlobalArgs) -> CliResult {
        let mut fleet = self.fleet.read(true, chosen)?;
        only_known(&fleet, &self.node)?;
        let connector = connected(&mut fleet)?;
        // Before looking: what a run restores in between is then only planned once too often, never
        // forgotten.
        let left = leftovers(&fleet)?;
        let inventory = block_on(inventory::gather(&fleet, &connector, Scope::Wished, &|_| true))?;
        let left = crate::plan::still_outstanding(&fleet, &inventory, left);
        let planned = crate::plan::plan(&fleet, &inventory, &left);
        let own =
            journal::latest(&journal::Folder(fleet.state_folder())).ok().flatten().map(|run| run.status.run);
        let by_others = planned.left_by_others(own.as_deref());
        let Planned { plan, problems, warnings, .. } = planned;
        let none = "nothing was planned: see the errors";
        let nothing = plan.steps.is_empty() && !problems.is_empty();
        // What the hosts with steps have, before what is to become of it.
        let stepped: BTreeSet<&NodeId> = plan.steps.iter().map(|s| &s.node).collect();
        let concerned = |id: &&NodeId| id.kind == NodeKind::Host && stepped.contains(*id);
        let hosts = inventory.nodes.keys().filter(concerned);
        let gpus: Vec<_> =
            hosts.filter_map(|id| Some((id, readiness::of_host(inventory.seen(id)?)?))).collect();
        let shown: String = gpus
            .iter()
            .map(|(id, gpus)| format!("{id} has\n{}\n\n", crate::render::readiness::text(gpus, false)))
            .collect();
        let long = match (nothing, self.node.as_slice()) {
            (true, _) => none.into(),
            (false, []) => shown + &plan::commands(&plan),
            (false, names) => {
                let of = |id: usize| names.contains(&plan.steps[id - 1].node.name);
                match plan.steps.iter().any(|s| of(s.id)) {
                    true => plan::steps(&plan, of).trim_end().to_string(),
                    false => format!("nothing is to do on {}", names.join(", ")),
                }
            }
        };
        let history = History::of(&journal::Folder(fleet.state_folder()));
        let text = match nothing {
            true => none.into(),
            false if self.commands || !self.node.is_empty() => long.clone(),
            false if plan.steps.is_empty() => plan::nothing_to_do(&plan),
            false => format!(
                "{}\n{}",
                plan_summary::text(&plan, &history, warnings.len()),
                plan_summary::next(&plan)
            ),
        };
        let gpus: serde_json::Map<_, _> =
            gpus.iter().map(|(id, gpus)| (id.name.clone(), json!(gpus))).collect();
        let touched: BTreeSet<String> = plan.steps.iter().map(|s| s.node.clone().into()).collect();
        // The plan of a large fleet is large: it is not made once more where nobody reads it.
        let document = printer.format().is_document();
        let json = if document {
            json!({ "gpus": gpus, "plan": plan, "problems": problems, "warnings": warnings })
        } else {
            Value::Null
        };
        let wide = Some(long);
        printer.show(Answer { names: touched.into_iter().collect(), wide, ..Answer::new(json, text) });
        printer.warnings(&warnings);
        // A host that only serves what another run changed temporarily is planned as it is; that it left
        // something is said all the same.
        by_others.iter().for_each(|told| printer.warn(&format!("warning: {told}\n")));
        let folder = fleet.state_folder();
        let moving = if journal::at_work(&folder).is_some() {
            Some(
                "`vsgpu apply` is at work on this fleet right now: this is a picture of a moving thing (`vsgpu status` shows how far it is)",
            )
        } else if journal::latest(&journal::Folder(folder))
            .is_ok_and(|run| run.is_some_and(|r| r.status.ended.is_none()))
        {
            Some(
                "an earlier run is not finished: `vsgpu apply` goes on with it, not with this plan (`vsgpu status` shows it)",
            )
        } else {
            None
        };
        moving.into_iter().for_each(|note| printer.note(note));
        let errors: Vec<_> = problems.into_iter().map(|p| p.error).collect();
        printer.errors(&errors);
        if let Some(file) = self.out {
            let saved = json!({ "saved-at": now(), "plan": plan });
            files::write_text(&file, &serde_json::to_string_pretty(&saved).unwrap_or_default())
                .map_err(|e| vec![e])?;
            printer.note(&format!("saved; to run exactly this: vsgpu apply {}", file.display()));
        }
        if let Some(file) = self.html {
            let name = fleet.file.file_name().unwrap_or_default().to_string_lossy();
            let problems = errors.iter().map(|error| (Severity::Bad, render::rendered(error)));
            let doubts =
                warnings.iter().map(compat::warning).chain(by_others).chain(moving.map(String::from));
            let said: Vec<_> = problems.chain(doubts.map(|text| (Severity::Doubt, text))).collect();
            files::write_text(&file, &web::of_plan(&name, &plan, &history, &said, now()))
                .map_err(|e| vec![e])?;
            printer.note(&format!("{} written", file.display()));
        }
        Ok(match (errors.is_empty(), plan.steps.is_empty()) {
            (false, _) => worst(&errors),
            (true, true) => Exit::Done,
            (true, false) => Exit::Not(Kind::Differs),
        })
    }
}
