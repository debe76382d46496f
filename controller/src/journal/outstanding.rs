//! What a run changed temporarily and has not restored. The rules for a host's maintenance mode and a VM's
//! power stand here alone.

use crate::journal::status::{Status, StepState};
use crate::node::NodeKind;
use crate::plan::{Leftovers, RebootedFor, Work};
use std::collections::BTreeSet;

/// What the run changed temporarily and has not restored.
pub fn outstanding(run: &Status) -> Leftovers {
    let mut left = run.inherited.clone();
    let restored: BTreeSet<usize> = run.plan.steps.iter().filter_map(|s| s.restores).collect();
    for (step, state) in run.plan.steps.iter().zip(&run.steps) {
        let begun = state.begun();
        let done = matches!(state, StepState::Done { .. });
        let name = &step.node.name;
        let takes = step.enters_maintenance() || step.stops_vm();
        if takes && state.open_ended() {
            left.unsettled.insert(step.node.clone());
        } else if done && (takes || step.leaves_maintenance()) {
            left.unsettled.remove(&step.node);
        }
        if let Work::Activate { restart: None, proves, .. } = &step.work {
            if let StepState::Failed { begun: true, boot_id, .. } = state {
                let requirements = proves.iter().map(|(name, _)| name.clone()).collect();
                left.rebooted
                    .insert(step.node.clone(), RebootedFor { before: boot_id.clone(), requirements });
            } else if done {
                left.rebooted.remove(&step.node);
            }
        } else if step.enters_maintenance() && begun {
            left.in_maintenance.insert(name.clone());
        } else if step.leaves_maintenance() && done {
            left.in_maintenance.remove(name);
        } else if step.stops_vm() && begun {
            // Only a VM that is to run again: one the fleet file wants off stays off.
            if restored.contains(&step.id) {
                left.stopped.insert(name.clone());
            }
        } else if step.starts_vm() && done {
            // Found running while a shutdown was still under way is not started: the next plan looks again.
            let stop = step.restores.map(|id| &run.steps[id - 1]);
            if stop.is_none_or(|s| !s.begun() || matches!(s, StepState::Done { .. })) {
                left.unsettled.remove(&step.node);
                left.stopped.remove(name);
            }
        }
    }
    left.unsettled.retain(|node| match node.kind {
        NodeKind::Host => left.in_maintenance.contains(&node.name),
        NodeKind::Vm | NodeKind::Guest => left.stopped.contains(&node.name),
    });
    left.held = run.held().into_iter().filter(|(_, held)| held.hold.needs_release()).collect();
    left
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::Deadlines;
    use crate::hold::Hold;
    use crate::journal::record::{Purpose, Record};
    use crate::node::NodeId;
    use crate::plan::{Plan, Rollout, Step, VERSION};
    use serde_json::json;
    use std::collections::BTreeMap;
    use vsgpu_host_agent::vm::POWER;

    fn power(id: usize, to: &str, restores: Option<usize>) -> Step {
        Step {
            id,
            node: NodeId::new(NodeKind::Vm, "vm-01"),
            title: to.into(),
            change: "".into(),
            commands: [].into(),
            work: Work::Meet { requirement: POWER.into(), spec: json!({ "state": to }).into(), expect: None },
            after: (1..id).collect(),
            restores,
            restores_earlier: restores.is_none() && to == "on",
            connect_secs: 1,
            deadline_secs: 1,
            host: "esx-01".into(),
            disrupts: false,
            moves: None,
            before: None,
        }
    }

    fn begun(steps: Vec<Step>, left: Leftovers) -> Status {
        let rollout = Rollout { waves: vec![], clusters: BTreeMap::new(), stop_at_failed: 1 };
        let (fleet_file, fleet, reaches) = (String::new(), String::new(), BTreeMap::new());
        let plan = Plan {
            version: VERSION,
            fleet_file,
            fleet,
            steps,
            reaches,
            deadlines: Deadlines::default(),
            met: 0,
            rollout,
            network: None,
        };
        let Leftovers { in_maintenance, stopped, unsettled, rebooted, held } = left;
        let (run, plan) = ("run".into(), Box::new(plan));
        Status::first(Record::Planned {
            at: 1,
            run,
            purpose: Purpose::Apply,
            plan,
            in_maintenance,
            stopped,
            unsettled,
            rebooted,
            held,
        })
        .unwrap_or_else(|why| panic!("{why}"))
    }

    fn tell(status: &mut Status, records: &[Record]) {
        records.iter().for_each(|record| status.next(record).unwrap_or_else(|why| panic!("{why}")));
    }

    fn started(step: usize) -> Record {
        Record::Started { at: 1, step, boot_id: String::new() }
    }

    fn done(step: usize, theirs: bool) -> Record {
        Record::Done { at: 1, step, note: String::new(), theirs }
    }

    /// A guest that did not go down in time, and was found running, may go down all the same: the next run
    /// starts it again.
    #[test]
    fn a_stop_that_was_not_waited_for_is_ours_until_a_later_start_is_done() {
        let mut status = begun(vec![power(1, "off", None), power(2, "on", Some(1))], Leftovers::default());
        let failed =
            Record::Failed { at: 1, step: 1, error: "it did not go down".into(), hold: Hold::Failed };
        tell(&mut status, &[started(1), failed, started(2), done(2, false)]);
        let left = outstanding(&status);
        assert!(
            left.stopped.contains("vm-01") && left.unsettled.contains(&NodeId::new(NodeKind::Vm, "vm-01")),
            "{left:?}"
        );
        let mut next = begun(vec![power(1, "on", None)], left);
        tell(&mut next, &[started(1), done(1, false)]);
        let left = outstanding(&next);
        assert!(left.stopped.is_empty() && left.unsettled.is_empty(), "{left:?}");
    }

    #[test]
    fn what_somebody_else_stopped_was_never_ours() {
        let mut status = begun(vec![power(1, "off", None), power(2, "on", Some(1))], Leftovers::default());
        tell(&mut status, &[started(1), done(1, true)]);
        assert!(!status.steps[0].begun() && outstanding(&status).stopped.is_empty());
    }

    /// Stale is said before anything is done, but not of an earlier try that had begun.
    #[test]
    fn stale_does_not_undo_an_earlier_beginning() {
        let stale = || Record::Failed { at: 1, step: 1, error: "another".into(), hold: Hold::Stale };
        let mut once = begun(vec![power(1, "off", None)], Leftovers::default());
        tell(&mut once, &[started(1), stale()]);
        assert!(!once.steps[0].begun());
        let mut twice = begun(vec![power(1, "off", None)], Leftovers::default());
        tell(&mut twice, &[started(1), started(1), stale()]);
        assert!(twice.steps[0].begun());
    }
}
