//! A run over time: of each machine which step ran when, how it ended, and what was waited for before it.

use crate::journal::record::Record;
use crate::node::NodeId;
use crate::plan::Plan;
use std::collections::{BTreeMap, BTreeSet};

/// A run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeline {
    /// Seconds since 1970.
    pub begun: u64,
    /// Its end, or its last record.
    pub end: u64,
    /// Those on which something was begun, in that order.
    pub machines: Vec<Machine>,
    /// Those on which nothing was.
    pub untouched: Vec<NodeId>,
}

/// A machine of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    pub node: NodeId,
    /// In the order of their beginnings.
    pub spans: Vec<Span>,
}

/// A step while it ran.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Number of the step.
    pub step: usize,
    pub title: String,
    /// What it was to change.
    pub change: String,
    /// Seconds since 1970.
    pub begun: u64,
    /// Absent where its end is not known.
    pub ended: Option<u64>,
    pub outcome: Outcome,
    /// What was noted at its end, or why it failed.
    pub note: String,
    /// Seconds since the machine's step before it, or since the run's beginning.
    pub waited: u64,
    /// What ended last of what it had to wait for, on another machine.
    pub waited_for: Option<String>,
}

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    Done,
    Failed,
    /// It runs, or nobody noted its end.
    Open,
}

impl Outcome {
    pub fn word(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Open => "not ended",
        }
    }
}

/// What is known while the records are read.
struct Reading<'a> {
    plan: &'a Plan,
    begun: u64,
    /// Latest end of each step, for those that waited for it.
    ends: BTreeMap<usize, u64>,
    machines: Vec<Machine>,
    /// Where each stands among them.
    place: BTreeMap<NodeId, usize>,
}

impl Reading<'_> {
    fn step(&mut self, (step, from): (usize, u64), ended: Option<u64>, outcome: Outcome, note: &str) {
        let Some(planned) = step.checked_sub(1).and_then(|at| self.plan.steps.get(at)) else { return };
        let elsewhere =
            planned.after.iter().filter_map(|id| Some((*self.ends.get(id)?, self.plan.steps.get(id - 1)?)));
        let last = elsewhere.max_by_key(|(end, _)| *end).filter(|(_, other)| other.node != planned.node);
        let machines = &mut self.machines;
        let at = *self.place.entry(planned.node.clone()).or_insert_with(|| {
            machines.push(Machine { node: planned.node.clone(), spans: vec![] });
            machines.len() - 1
        });
        let spans = &mut machines[at].spans;
        let before = spans.iter().filter_map(|span| span.ended).max().unwrap_or(self.begun);
        let waited = from.saturating_sub(before);
        spans.push(Span {
            step,
            title: planned.title.clone(),
            change: planned.change.to_string(),
            begun: from,
            ended,
            outcome,
            note: note.into(),
            waited,
            // What had ended before the machine's own last step was not waited for.
            waited_for: last
                .filter(|(end, _)| *end > before && waited > 0)
                .map(|(_, other)| format!("{} of {}", other.title, other.node.name)),
        });
        if let Some(end) = ended {
            self.ends.insert(step, end);
        }
    }
}

/// From the records of a run that begun at this time. `at_work`: now, where somebody works on it.
pub fn timeline(plan: &Plan, begun: u64, records: &[Record], at_work: Option<u64>) -> Timeline {
    let mut reading =
        Reading { plan, begun, ends: BTreeMap::new(), machines: vec![], place: BTreeMap::new() };
    let mut open: BTreeMap<usize, u64> = BTreeMap::new();
    let (mut last, mut ended) = (begun, None);
    let mut tasks: BTreeMap<usize, String> = BTreeMap::new();
    for record in records {
        match record {
            Record::Started { at, step, .. } => {
                // Begun once more: what became of it the first time nobody noted.
                if let Some(first) = open.insert(*step, *at) {
                    let tasks = tasks.remove(step).unwrap_or_default();
                    let note = format!("interrupted; begun again later{tasks}");
                    reading.step((*step, first), Some(last), Outcome::Open, &note);
                }
                last = *at;
            }
            Record::Done { at, step, note, .. } => {
                let from = open.remove(step).unwrap_or(*at);
                let note = note.clone() + &tasks.remove(step).unwrap_or_default();
                reading.step((*step, from), Some(*at), Outcome::Done, &note);
                last = *at;
            }
            Record::Failed { at, step, error, .. } => {
                let from = open.remove(step).unwrap_or(*at);
                let error = error.clone() + &tasks.remove(step).unwrap_or_default();
                reading.step((*step, from), Some(*at), Outcome::Failed, &error);
                last = *at;
            }
            Record::Ended { at, .. } => ended = Some(*at),
            Record::Task { step, task, .. } => *tasks.entry(*step).or_default() += &format!("; {task}"),
            Record::Planned { .. } | Record::Released { .. } => {}
        }
    }
    for step in open {
        let tasks = tasks.remove(&step.0).unwrap_or_default();
        reading.step(step, None, Outcome::Open, tasks.trim_start_matches("; "));
    }
    let mut machines = reading.machines;
    for machine in &mut machines {
        machine.spans.sort_by_key(|span| (span.begun, span.step));
    }
    machines.sort_by_key(|machine| machine.spans.first().map(|span| span.begun));
    let touched: BTreeSet<&NodeId> = machines.iter().map(|machine| &machine.node).collect();
    let all: BTreeSet<&NodeId> = plan.steps.iter().map(|step| &step.node).collect();
    let untouched = all.difference(&touched).map(|node| (*node).clone()).collect();
    let end = ended.or(at_work).unwrap_or(last).max(begun);
    Timeline { begun, end, machines, untouched }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::Deadlines;
    use crate::hold::Hold;
    use crate::journal::record::EndReason;
    use crate::node::NodeKind;
    use crate::plan::{Rollout, Step, VERSION, Work};
    use std::sync::Arc;

    fn step(id: usize, node: (NodeKind, &str), title: &str, after: &[usize]) -> Step {
        Step {
            id,
            node: NodeId::new(node.0, node.1),
            title: title.into(),
            change: "a -> b".into(),
            commands: Arc::new([]),
            work: Work::Activate { restart: None, proves: vec![], once_more: vec![] },
            after: after.to_vec(),
            restores: None,
            restores_earlier: false,
            connect_secs: 1,
            deadline_secs: 1,
            host: "esx-01".into(),
            disrupts: false,
            moves: None,
            before: None,
        }
    }

    #[test]
    fn steps_waits_and_machines_that_were_never_touched() {
        let plan = Plan {
            version: VERSION,
            fleet_file: String::new(),
            fleet: String::new(),
            steps: vec![
                step(1, (NodeKind::Host, "esx-01"), "reboot", &[]),
                step(2, (NodeKind::Guest, "vm-01"), "driver", &[1]),
                step(3, (NodeKind::Guest, "vm-02"), "driver", &[1]),
                step(4, (NodeKind::Guest, "vm-01"), "license", &[2]),
            ],
            reaches: BTreeMap::new(),
            deadlines: Deadlines::default(),
            met: 0,
            rollout: Rollout::default(),
            network: None,
        };
        let started = |at, step| Record::Started { at, step, boot_id: String::new() };
        let done = |at, step| Record::Done { at, step, note: "ok".into(), theirs: false };
        let failed = |at, step| Record::Failed { at, step, error: "no".into(), hold: Hold::Failed };
        let records = [
            started(100, 1),
            done(400, 1),
            started(410, 2),
            failed(450, 2),
            started(460, 2),
            done(470, 2),
            started(475, 4),
        ];
        let seen = timeline(&plan, 90, &records, Some(480));
        assert_eq!((seen.begun, seen.end), (90, 480));
        assert_eq!(seen.untouched, [NodeId::new(NodeKind::Guest, "vm-02")]);
        let guest = &seen.machines[1];
        let shown: Vec<_> =
            guest.spans.iter().map(|s| (s.step, s.outcome, s.waited, s.waited_for.as_deref())).collect();
        assert_eq!(
            shown,
            [
                (2, Outcome::Failed, 320, Some("reboot of esx-01")),
                (2, Outcome::Done, 10, None),
                (4, Outcome::Open, 5, None)
            ],
            "{guest:?}"
        );
        // Nobody works on it any more: it grows no further.
        assert_eq!(timeline(&plan, 90, &records, None).end, 475);
        // Begun again after a crash: the first try is not forgotten.
        let again = [&records[..], &[started(900, 4), done(910, 4)]].concat();
        let seen = timeline(&plan, 90, &again, None);
        let license: Vec<_> = seen.machines[1].spans.iter().filter(|s| s.step == 4).collect();
        // A task is told at the try that began it.
        let task = |at, task: &str| Record::Task { at, step: 4, task: task.into() };
        let tried =
            [&records[..], &[task(476, "task-1"), started(900, 4), task(901, "task-2"), done(910, 4)]]
                .concat();
        let of_tasks = timeline(&plan, 90, &tried, None);
        let notes: Vec<_> =
            of_tasks.machines[1].spans.iter().filter(|s| s.step == 4).map(|s| s.note.as_str()).collect();
        assert_eq!(notes, ["interrupted; begun again later; task-1", "ok; task-2"]);
        assert_eq!(
            (license.len(), license[0].outcome, license[1].outcome),
            (2, Outcome::Open, Outcome::Done)
        );
        let ended = [&records[..], &[Record::Ended { at: 900, how: EndReason::Finished }]].concat();
        assert_eq!(timeline(&plan, 90, &ended, None).end, 900);
    }
}
