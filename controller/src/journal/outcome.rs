//! What became of each node of a run: done, held, partly done. For people, for programs and for metrics
//! alike.

use crate::hold::Held;
use crate::journal::record::Purpose;
use crate::journal::status::StepState;
use crate::journal::store::Stored;
use crate::node::NodeId;
use std::collections::BTreeMap;

/// What became of a node. Every node of a run that has ended is done, rolled back, held, not begun, or partly
/// done behind another node that is held.
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
    pub(crate) const WORDS: [&str; 6] =
        ["done", "rolled-back", "running", "partly-done", "not-begun", "held"];

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
