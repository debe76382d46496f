//! A plan in long: node by node, every command, and what it costs. The short form is `plan_summary`.

use crate::fleet::range::folded;
use crate::node::NodeKind;
use crate::plan::{Moves, Plan, Step, Work};
use crate::render::table::columns;
use crate::render::words::requirements_met;
use std::collections::{BTreeMap, BTreeSet};
use vsgpu_core::words::counted;

pub fn commands(plan: &Plan) -> String {
    if plan.steps.is_empty() {
        return nothing_to_do(plan);
    }
    format!("{}{} Nothing has been changed.", steps(plan, |_| true), costs(plan))
}

/// Where there is no step.
pub fn nothing_to_do(plan: &Plan) -> String {
    format!("nothing to do: {}", requirements_met(plan.met))
}

/// Those steps of it, node by node, with their commands.
pub fn steps(plan: &Plan, which: impl Fn(usize) -> bool) -> String {
    let mut out = String::new();
    let mut last = None;
    let mut rows: Vec<Vec<String>> = vec![];
    for step in plan.steps.iter().filter(|step| which(step.id)) {
        if last != Some(&step.node) {
            flush(&mut out, &mut rows);
            out += &format!("{}\n", step.node);
            last = Some(&step.node);
        }
        rows.extend(lines(step));
    }
    flush(&mut out, &mut rows);
    out
}

fn flush(out: &mut String, rows: &mut Vec<Vec<String>>) {
    if !rows.is_empty() {
        out.push_str(&columns(rows));
        out.push_str("\n\n");
        rows.clear();
    }
}

/// One row for the step, one for each command.
fn lines(step: &Step) -> Vec<Vec<String>> {
    let next = step.after.len() == 1 && step.after[0] + 1 == step.id;
    let wait = step.after.iter().filter(|_| !next).map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let after = if wait.is_empty() { String::new() } else { format!("  (after {wait})") };
    let mut rows =
        vec![vec![format!("{:>4}", step.id), step.title.clone(), format!("{}{after}", step.change)]];
    rows.extend(step.commands.iter().map(|c| vec![String::new(), String::new(), format!("  $ {c}")]));
    rows
}

/// What the plan costs: a row for each host, the order, and one sentence.
pub fn costs(plan: &Plan) -> String {
    let hosts = by_host(plan);
    let hosts = if hosts.is_empty() { String::new() } else { format!("{}\n\n", columns(&hosts)) };
    format!("{hosts}{}{}", order(plan), sum(plan))
}

/// What it costs in one sentence.
pub fn sum(plan: &Plan) -> String {
    let distinct = |which: &dyn Fn(&Step) -> bool| {
        plan.steps.iter().filter(|s| which(s)).map(|s| &s.node).collect::<BTreeSet<_>>().len()
    };
    let reboots = |sure: bool, kind: NodeKind| {
        let reboot = |s: &&Step| {
            matches!(&s.work, Work::Activate { restart: None, .. })
                && (s.node.kind == NodeKind::Guest) == (kind == NodeKind::Guest)
                && s.change.contains("only if") != sure
        };
        plan.steps.iter().filter(reboot).count()
    };
    let mut parts =
        vec![format!("{} on {}", counted(plan.steps.len(), "step"), counted(distinct(&|_| true), "node"))];
    let mut add = |n: usize, text: String| {
        if n > 0 {
            parts.push(text);
        }
    };
    let maintenance = distinct(&|s| s.enters_maintenance());
    add(maintenance, format!("{} in maintenance mode", counted(maintenance, "host")));
    let (sure, maybe) = (reboots(true, NodeKind::Host), reboots(false, NodeKind::Host));
    add(sure, counted(sure, "host reboot"));
    add(maybe, format!("{} only if needed", counted(maybe, "host reboot")));
    let stopped = distinct(&|s| s.stops_vm());
    add(stopped, format!("{} shut down", counted(stopped, "VM")));
    let (sure, maybe) = (reboots(true, NodeKind::Guest), reboots(false, NodeKind::Guest));
    add(sure, counted(sure, "guest reboot"));
    add(maybe, format!("{} only if needed", counted(maybe, "guest reboot")));
    format!("{}; {} already met.", parts.join(", "), counted(plan.met, "requirement"))
}

/// In which order, and how many at once; with one host there is nothing to say.
pub fn order(plan: &Plan) -> String {
    let rollout = &plan.rollout;
    if rollout.waves.iter().map(Vec::len).sum::<usize>() < 2 {
        return String::new();
    }
    let mut text = String::new();
    for (at, wave) in rollout.waves.iter().enumerate() {
        let names = if wave.len() > 8 { folded(wave) } else { wave.clone() };
        let (first, more) = names.split_at(names.len().min(8));
        let more = if more.is_empty() { String::new() } else { format!(" and {} more", more.len()) };
        text += &format!("wave {}: {}{more}\n", at + 1, first.join(", "));
    }
    for (name, cluster) in &rollout.clusters {
        let of = if name.is_empty() { String::new() } else { format!(" of cluster {name}") };
        let away: Vec<String> = cluster.unavailable.keys().cloned().collect();
        let away = if away.is_empty() { String::new() } else { format!("; away now: {}", away.join(", ")) };
        text += &format!("at most {}{of} away at once{away}\n", counted(cluster.max_unavailable, "host"));
    }
    text + &format!(
        "no further host is begun when {} failed; a failed host counts as away\n\n",
        match rollout.stop_at_failed {
            1 => "a host has".to_string(),
            n => format!("{n} hosts have"),
        }
    )
}

/// One row for each host that is touched: maintenance, reboots, VMs that go down. The question one has at
/// night.
fn by_host(plan: &Plan) -> Vec<Vec<String>> {
    let mut rows = vec![];
    // A VM's agent is its host's.
    let host_of = |step: &Step| match step.node.kind {
        NodeKind::Host => Some(step.node.name.clone()),
        NodeKind::Vm => plan.reaches.get(&step.node).map(|r| r.node.clone()),
        NodeKind::Guest => None,
    };
    let mut hosts: BTreeMap<String, Vec<&Step>> = BTreeMap::new();
    for step in &plan.steps {
        if let Some(host) = host_of(step) {
            hosts.entry(host).or_default().push(step);
        }
    }
    for (host, steps) in hosts {
        let mut says = vec![];
        if steps.iter().any(|s| s.enters_maintenance()) {
            says.push("maintenance mode".to_string());
        }
        let reboots = |maybe: bool| {
            let is = |s: &&&Step| {
                matches!(&s.work, Work::Activate { restart: None, .. })
                    && s.change.contains("only if") == maybe
            };
            steps
                .iter()
                .filter(is)
                .map(|s| s.change.trim_start_matches("for ").trim_end_matches(", only if it asks for it"))
                .collect::<Vec<_>>()
        };
        says.extend(reboots(false).iter().map(|what| format!("reboot ({what})")));
        says.extend(reboots(true).iter().map(|what| format!("reboot only if needed ({what})")));
        let down: Vec<&str> = steps.iter().filter(|s| s.stops_vm()).map(|s| s.node.name.as_str()).collect();
        if !down.is_empty() {
            says.push(format!("VMs down for it: {}", down.join(", ")));
        }
        let moves = steps.iter().filter_map(|s| s.moves.as_deref());
        for (how, vms) in moves.flat_map(Moves::in_words) {
            says.push(format!("VMs {how}: {}", folded(vms).join(", ")));
        }
        if says.is_empty() {
            says.push("nothing goes down".into());
        }
        rows.push(vec![host, says.join("; ")]);
    }
    rows
}
