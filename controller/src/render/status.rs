//! A run as its journal tells it: its nodes with what became of them, its steps, what it changed and has not
//! restored.

use crate::inventory::acquired::{self, Left};
use crate::journal::outcome::{NodeState, nodes};
use crate::journal::{EndReason, Purpose, StepState, Stored, outstanding};
use crate::node::{NodeId, NodeKind};
use crate::plan::Step;

use crate::render::printer::Answer;
use crate::render::table::columns;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use vsgpu_core::text::sentence;

/// What the hosts' agents say.
pub struct Hosts<'a> {
    /// What other runs left.
    pub others: &'a [&'a Left],
    /// Nodes of which they have no record any more that this run changed them.
    pub restored: &'a BTreeSet<NodeId>,
}

/// The latest run, and what others left.
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
    let state = match (at_work, status.ended) {
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
    };
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
            StepState::Failed { held, .. } => ("FAILED", held.why.clone()),
        };
        vec![format!("{:>4}", step.id), step.node.to_string(), step.title.clone(), word.into(), note]
    };
    let rows: Vec<_> = status.plan.steps.iter().zip(&status.steps).map(row).collect();
    let what = if status.purpose == Purpose::Rollback { "rollback" } else { "run" };
    let mut text = format!(
        "{what} {}: {state}; {done} of {} steps done, {failed} failed\n",
        run.number,
        status.steps.len()
    );
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
            false => format!("{vm} {} SHUT DOWN by this run\n", is(NodeKind::Vm, vm)),
        };
    }
    text += &of_others;
    text += &columns(&rows);
    for (node, state) in &nodes {
        let word = match state {
            NodeState::Held { held, advice } => {
                text += &format!("\n{node}: held ({}): {}\n  {advice}", held.hold, sentence(&held.why));
                continue;
            }
            NodeState::Done => "done",
            NodeState::RolledBack => "rolled back",
            NodeState::Running => "running",
            NodeState::PartlyDone => "partly done",
            NodeState::NotBegun => "not begun",
        };
        text += &format!("\n{node}: {word}");
    }
    if let Some(damage) = &run.damage {
        text += &format!("\n{damage}");
    }
    Answer { json, text, wide: None, names: nodes.into_keys().collect() }
}
