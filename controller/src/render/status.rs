//! A run as its journal tells it: its nodes with what became of them, its steps, what it changed and has not
//! restored.

use crate::error::Error;
use crate::fleet::range::folded;
use crate::inventory::acquired::{self, Left};
use crate::journal::outcome::{NodeState, nodes};
use crate::journal::{EndReason, Purpose, StepState, Stored, outstanding};
use crate::node::{NodeId, NodeKind};
use crate::plan::Step;
use crate::render::printer::Answer;
use crate::render::table::columns;
use crate::render::words::{ago, bare, took, wrapped};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use vsgpu_core::text::sentence;

/// What the hosts' agents say.
pub struct Hosts<'a> {
    /// What other runs left.
    pub others: &'a [&'a Left],
    /// Nodes of which they have no record any more that this run changed them.
    pub restored: &'a BTreeSet<NodeId>,
}

/// Where a run is, and what can be done about it.
pub fn state_of(run: &Stored, at_work: bool) -> &'static str {
    let status = &run.status;
    let count = |which: fn(&StepState) -> bool| status.steps.iter().filter(|s| which(s)).count();
    let done = count(|s| matches!(s, StepState::Done { .. }));
    let failed = count(|s| matches!(s, StepState::Failed { .. }));
    match (at_work, status.ended) {
        (true, None) => "running now",
        (_, None) if run.damage.is_some() => "not finished, and damaged: `vsgpu apply --abandon` plans anew",
        (_, None) if status.gave_back_early() && status.purpose == Purpose::Rollback => {
            "not finished, but its hosts have left maintenance mode and its VMs run: `vsgpu rollback` plans the rest anew"
        }
        (_, None) if status.gave_back_early() => {
            "not finished, but its hosts have left maintenance mode and its VMs run: `vsgpu apply` plans the rest anew"
        }
        (_, None) => {
            "not finished: `vsgpu resume` finishes it, `vsgpu abort` ends it and restores maintenance mode and VM power"
        }
        (_, Some((_, EndReason::Aborted))) => "aborted",
        (_, Some((_, EndReason::GivenUp))) => "given up",
        (_, Some(_)) if done < status.steps.len() && status.purpose == Purpose::Rollback => {
            "ended, not all of it done: `vsgpu rollback` tries the rest (`vsgpu apply` would go forward again)"
        }
        (_, Some(_)) if failed > 0 => "ended with failures: `vsgpu apply` plans the rest",
        (_, Some(_)) if done < status.steps.len() => {
            "ended, not all of it done: `vsgpu apply` plans the rest"
        }
        (_, Some(_)) if status.purpose == Purpose::Rollback => "rolled back",
        (_, Some(_)) => "done",
    }
}

/// A run, and what others left.
pub fn status(run: Option<&Stored>, at_work: bool, hosts: &Hosts<'_>, now: u64) -> Answer {
    let Hosts { others, restored } = hosts;
    let of_others: String =
        acquired::told(others.iter().copied(), now).into_iter().map(|told| told + "\n").collect();
    let Some(run) = run else {
        let text = format!("{of_others}no run yet; `vsgpu plan` shows what would be done");
        return Answer::new(json!({ "run": null, "left-by-others": others }), text);
    };
    let status = &run.status;
    let count = |which: fn(&StepState) -> bool| status.steps.iter().filter(|s| which(s)).count();
    let done = count(|s| matches!(s, StepState::Done { .. }));
    let failed = count(|s| matches!(s, StepState::Failed { .. }));
    let state = state_of(run, at_work);
    let nodes = nodes(run, at_work);
    let left = outstanding(status);
    let steps: Vec<Value> = status
        .plan
        .steps
        .iter()
        .zip(&status.steps)
        .map(|(step, state)| json!({ "step": step.id, "node": step.node, "title": step.title, "state": state }))
        .collect();
    let json = json!({
        "run": run.number, "fleet": status.plan.fleet_file, "trace": crate::journal::trace::id(&status.run), "purpose": status.purpose, "begun": status.begun, "ended": status.ended.map(|(at, _)| at), "state": state,
        "damage": run.damage, "nodes": nodes, "waves": status.plan.rollout.waves, "steps": steps,
        "in-maintenance": left.in_maintenance, "stopped": left.stopped, "left-by-others": others,
    });
    let row = |(step, state): (&Step, &StepState)| {
        let (word, note) = match state {
            StepState::Waiting => ("-", String::new()),
            StepState::Started { .. } => ("STARTED", "outcome not known yet".into()),
            StepState::Done { note, .. } => ("done", note.clone()),
            StepState::Failed { held, .. } => {
                ("FAILED", bare(&held.why, &step.node.to_string(), &step.title).into())
            }
        };
        vec![format!("{:>4}", step.id), step.node.to_string(), step.title.clone(), word.into(), note]
    };
    let rows: Vec<_> = status.plan.steps.iter().zip(&status.steps).map(row).collect();
    let what = if status.purpose == Purpose::Rollback { "rollback" } else { "run" };
    let end = status.ended.map_or(now, |(at, _)| at);
    let took = took(end.saturating_sub(status.begun));
    let when = match status.ended {
        Some(_) => format!("took {took}, ended {}", ago(now.saturating_sub(end))),
        None => format!("begun {took} ago"),
    };
    let head = format!(
        "{what} {}: {state}; {done} of {} steps done, {failed} failed\n{}: {when}\n",
        run.number,
        status.steps.len(),
        status.plan.fleet_file
    );
    let mut text = String::new();
    // What an administrator fears comes first: the table may be longer than the screen.
    let is = |kind: NodeKind, name: &str| {
        if left.unsettled.contains(&NodeId::new(kind, name)) { "MAY BE" } else { "IS" }
    };
    for host in &left.in_maintenance {
        text += &match restored.contains(&NodeId::new(NodeKind::Host, host)) {
            true => format!("{host} was in maintenance mode by this run; its agent says that this is over\n"),
            false => format!("{host} {} IN MAINTENANCE MODE by this run\n", is(NodeKind::Host, host)),
        };
    }
    for vm in &left.stopped {
        text += &match restored.contains(&NodeId::new(NodeKind::Vm, vm)) {
            true => format!("{vm} was shut down by this run; its host's agent says that this is over\n"),
            false if is(NodeKind::Vm, vm) == "IS" => format!("{vm} IS SHUT DOWN by this run\n"),
            false => format!("{vm} MAY BE SHUT DOWN: this run asked for it, and did not see it\n"),
        };
    }
    text += &of_others;
    // In short: what failed or is at work, then machines with the same outcome together.
    let open = |row: &&Vec<String>| matches!(row[3].as_str(), "FAILED" | "STARTED");
    let open: Vec<Vec<String>> = rows.iter().filter(open).cloned().collect();
    let mut short = text.clone();
    if !open.is_empty() {
        short += &format!("{}\n", columns(&open));
    }
    text += &columns(&rows);
    let (mut alike, mut held_nodes) = (BTreeMap::<&str, Vec<String>>::new(), String::new());
    for (node, state) in &nodes {
        let word = match state {
            NodeState::Held { held, advice } => {
                let line = format!("\n{node}: held ({}): {}\n  {advice}", held.hold, sentence(&held.why));
                held_nodes += &line;
                text += &line;
                continue;
            }
            NodeState::Done => "done",
            NodeState::RolledBack => "rolled back",
            NodeState::Running => "running",
            NodeState::PartlyDone => "partly done",
            NodeState::NotBegun => "not begun",
        };
        text += &format!("\n{node}: {word}");
        alike.entry(word).or_default().push(node.to_string());
    }
    for (word, nodes) in alike {
        short += &format!("{}\n", wrapped(&format!("{word}: {}", folded(nodes).join(", ")), ""));
    }
    short += held_nodes.trim_start();
    let (mut text, mut short) = (head.clone() + &text, head + short.trim_end());
    if let Some(damage) = &run.damage {
        text += &format!("\n{damage}");
        short += &format!("\n{damage}");
    }
    Answer { json, text: short, wide: Some(text), names: nodes.into_keys().collect(), verbatim: false }
}

/// A run of a list: its number, what its journal tells, whether somebody is at work on it.
pub type Listed = (u32, Result<Option<Stored>, Error>, bool);

/// Runs with their numbers, newest first; `left`: how many are not shown.
pub fn runs(runs: &[Listed], left: usize, now: u64) -> Answer {
    let mut rows =
        vec![["RUN", "BEGUN", "TOOK", "STEPS", "MACHINES", "HOW IT ENDED"].map(String::from).to_vec()];
    let mut documents = vec![];
    for (number, run, at_work) in runs {
        let run = match run {
            Ok(Some(run)) => run,
            Ok(None) => continue,
            Err(error) => {
                rows.push(vec![
                    number.to_string(),
                    "-".into(),
                    "-".into(),
                    "-".into(),
                    "-".into(),
                    error.message.clone(),
                ]);
                documents.push(json!({ "run": number, "error": error }));
                continue;
            }
        };
        let status = &run.status;
        let done = status.steps.iter().filter(|s| matches!(s, StepState::Done { .. })).count();
        let state = state_of(run, *at_work);
        let end = status.ended.map(|(at, _)| at);
        let machines: BTreeSet<&str> = status.plan.steps.iter().map(|s| s.node.name.as_str()).collect();
        let what = if status.purpose == Purpose::Rollback { "rollback: " } else { "" };
        // Of a list the first words are enough; `status` has the rest.
        let short = state.split([':', ';']).next().unwrap_or(state);
        rows.push(vec![
            number.to_string(),
            ago(now.saturating_sub(status.begun)),
            end.map_or("-".into(), |end| took(end.saturating_sub(status.begun))),
            format!("{done}/{}", status.steps.len()),
            machines.len().to_string(),
            format!("{what}{short}"),
        ]);
        documents.push(json!({
            "run": number, "begun": status.begun, "ended": end, "purpose": status.purpose, "steps": status.steps.len(),
            "done": done, "machines": machines.len(), "state": state,
        }));
    }
    if documents.is_empty() {
        return Answer::new(json!({ "runs": [] }), "no run yet; `vsgpu plan` shows what would be done");
    }
    let names = runs.iter().map(|(number, ..)| number.to_string()).collect();
    let mut text = columns(&rows);
    if left > 0 {
        text += &format!("\nand {left} older ones: `vsgpu runs --most {}`", runs.len() + left);
    }
    text += "\n\n`vsgpu status RUN` shows one of them.";
    Answer { names, ..Answer::new(json!({ "runs": documents, "older": left }), text) }
}
