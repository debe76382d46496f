//! A run as its journal tells it: its nodes with what became of them, its steps, what it took and has not given back.

use super::{Answer, columns};
use crate::fleet::{NodeId, NodeKind};
use crate::hold::Held;
use crate::journal::{How, Purpose, StepState, Stored};
use crate::plan::Step;
use crate::planner::left::{self, Left};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use vsgpu_core::text::sentence;

/// What the hosts' agents say.
pub struct Hosts<'a> {
    /// What other runs took and left.
    pub others: &'a [&'a Left],
    /// Nodes of which they have no record any more that this run took them.
    pub given_back: &'a BTreeSet<NodeId>,
}

/// The latest run, and what others took and left.
pub fn status(run: Option<&Stored>, at_work: bool, hosts: &Hosts<'_>, now: u64) -> Answer {
    let Hosts { others, given_back } = hosts;
    let of_others: String = left::told(others.iter().copied(), now).into_iter().map(|told| told + "\n").collect();
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
            "not finished, but what failed has given back what it took: `vsgpu rollback` plans the rest anew"
        }
        (_, None) if status.gave_back_early() => {
            "not finished, but what failed has given back what it took: `vsgpu apply` plans the rest anew"
        }
        (_, None) => "not finished: `vsgpu resume` goes on with it, `vsgpu abort` gives back what it took",
        (_, Some((_, How::Aborted))) => "aborted",
        (_, Some((_, How::GivenUp))) => "given up",
        (_, Some(_)) if done < status.steps.len() && status.purpose == Purpose::Rollback => {
            "ended, not all of it done: `vsgpu rollback` tries the rest (`vsgpu apply` would go forward again)"
        }
        (_, Some(_)) if failed > 0 => "ended with failures: `vsgpu apply` plans the rest",
        (_, Some(_)) if done < status.steps.len() => "ended, not all of it done: `vsgpu apply` plans the rest",
        (_, Some(_)) if status.purpose == Purpose::Rollback => "rolled back",
        (_, Some(_)) => "done",
    };
    let nodes = nodes(run, at_work);
    let left = status.leftovers();
    let steps: Vec<Value> = status
        .plan
        .steps
        .iter()
        .zip(&status.steps)
        .map(|(step, state)| json!({ "step": step.id, "node": step.node, "title": step.title, "state": state }))
        .collect();
    let json = json!({
        "run": run.number, "fleet": status.plan.fleet_file, "trace": crate::trace::id(&status.run), "purpose": status.purpose, "begun": status.begun, "ended": status.ended.map(|(at, _)| at), "state": state,
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
    let mut text = format!("{what} {}: {state}; {done} of {} steps done, {failed} failed\n", run.number, status.steps.len());
    // What an administrator fears comes first: the table may be longer than the screen.
    let is = |kind: NodeKind, name: &str| if left.unsettled.contains(&NodeId::new(kind, name)) { "MAY BE" } else { "IS" };
    for host in &left.in_maintenance {
        text += &match given_back.contains(&NodeId::new(NodeKind::Host, host)) {
            true => format!("{host} was in maintenance mode by this run; its agent says that this is over\n"),
            false => format!("{host} {} IN MAINTENANCE MODE by this run\n", is(NodeKind::Host, host)),
        };
    }
    for vm in &left.stopped {
        text += &match given_back.contains(&NodeId::new(NodeKind::Vm, vm)) {
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

/// What became of a node. Every node of a run that has ended is done, rolled back, held, not begun, or partly done behind another node that is held.
#[derive(serde::Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub(crate) enum NodeState {
    Done,
    RolledBack,
    Running,
    PartlyDone,
    NotBegun,
    Held {
        #[serde(flatten)]
        held: Held,
        advice: String,
    },
}

impl NodeState {
    /// All words.
    pub(crate) const WORDS: [&str; 6] = ["done", "rolled-back", "running", "partly-done", "not-begun", "held"];

    /// As JSON and metrics say it.
    pub(crate) fn word(&self) -> &'static str {
        Self::WORDS[match self {
            Self::Done => 0,
            Self::RolledBack => 1,
            Self::Running => 2,
            Self::PartlyDone => 3,
            Self::NotBegun => 4,
            Self::Held { .. } => 5,
        }]
    }
}

/// What became of each node of a run.
pub(crate) fn nodes(run: &Stored, at_work: bool) -> BTreeMap<String, NodeState> {
    let status = &run.status;
    let mut all: BTreeMap<String, NodeState> = BTreeMap::new();
    let mut by_node: BTreeMap<&NodeId, (bool, bool)> = BTreeMap::new();
    for (step, state) in status.plan.steps.iter().zip(&status.steps) {
        let (all_done, any_begun) = by_node.entry(&step.node).or_insert((true, false));
        *all_done &= matches!(state, StepState::Done { .. });
        *any_begun |= state.begun();
    }
    for (node, (all_done, any_begun)) in by_node {
        let state = match (all_done, any_begun) {
            (true, _) if status.purpose == Purpose::Rollback => NodeState::RolledBack,
            (true, _) => NodeState::Done,
            (false, true) if at_work => NodeState::Running,
            (false, true) => NodeState::PartlyDone,
            (false, false) => NodeState::NotBegun,
        };
        all.insert(node.to_string(), state);
    }
    for (node, held) in status.held() {
        let advice = held.hold.advice_for(&node);
        all.insert(node.to_string(), NodeState::Held { held, advice });
    }
    all
}
