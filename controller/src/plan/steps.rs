//! A plan: complete and immutable data. Executing it leaves nothing to decide; `planner` makes it.

use crate::error::Error;
use crate::fleet::{Deadlines, Fleet};
use crate::node::{NodeId, Reach};
use crate::plan::evacuation::Moves;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::Digest;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use vsgpu_core::outcome::Expectation;
use vsgpu_core::{Artifact, Requirement};
use vsgpu_host_agent::host::MaintenanceMode;
use vsgpu_host_agent::vm::{Power, PowerState};

/// Version of the plan's format on disk and in the journal.
pub const VERSION: u32 = 2;

/// An ordered list of steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    pub version: u32,
    /// The fleet file it was made from.
    pub fleet_file: String,
    /// SHA-256 of what that file wished.
    pub fleet: String,
    /// Steps; an id is the index plus one.
    pub steps: Vec<Step>,
    /// How nodes are reached.
    pub reaches: BTreeMap<NodeId, Reach>,
    pub deadlines: Deadlines,
    /// Wishes that are met already.
    pub met: usize,
    /// In which order hosts are touched, and how many at once.
    pub rollout: Rollout,
    /// What the network costs clients of GPU servers that it touches, a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
}

/// The order of hosts, settled when the plan is made.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rollout {
    /// Hosts, healthiest first; one wave is settled before the next begins.
    pub waves: Vec<Vec<String>>,
    /// Clusters by name; hosts that name none are one of their own, without a name.
    pub clusters: BTreeMap<String, Cluster>,
    /// So many failed hosts stop the rollout.
    pub stop_at_failed: usize,
}

/// How much of a cluster may be away.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cluster {
    /// Hosts that may be down, in maintenance or failed at once.
    pub max_unavailable: usize,
    /// All its hosts, with steps or without.
    pub hosts: BTreeSet<String>,
    /// Hosts that were away when the plan was made, and why.
    pub unavailable: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Number, from 1.
    pub id: usize,
    pub node: NodeId,
    /// What it is, for people.
    pub title: String,
    /// What is so and what is wanted, or what it is good for.
    pub change: Arc<str>,
    /// The exact commands, as far as they can be known.
    pub commands: Arc<[String]>,
    pub work: Work,
    /// Steps that must be done before.
    pub after: Vec<usize>,
    /// Runs even when an earlier one failed, if this one had been started: it restores what that one changed.
    #[serde(rename = "gives_back", default, skip_serializing_if = "Option::is_none")]
    pub restores: Option<usize>,
    /// Runs whatever failed before it: it restores what an earlier run left behind.
    #[serde(rename = "rescue", default, skip_serializing_if = "std::ops::Not::not")]
    pub restores_earlier: bool,
    /// Seconds to wait for the agent to answer.
    pub connect_secs: u32,
    /// Seconds for all of it, once the agent has begun.
    pub deadline_secs: u32,
    /// The host it concerns: itself, or that of the VM.
    pub host: String,
    /// Its host cannot be used while this is done.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub disrupts: bool,
    /// VMs that leave their host with it, while they run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moves: Option<Box<Moves>>,
    /// What was so before, as a wish: the way back. Absent where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Arc<Value>>,
}

impl Step {
    /// The spec of the requirement that it makes so, where that is `R`.
    pub fn spec<R: Requirement>(&self) -> Option<R::Spec> {
        match &self.work {
            Work::Meet { requirement, spec, .. } if requirement == R::NAME => {
                R::Spec::deserialize(&**spec).ok()
            }
            _ => None,
        }
    }

    /// Whether it restores what another step or an earlier run changed temporarily.
    pub fn is_restore(&self) -> bool {
        self.restores_earlier || self.restores.is_some()
    }

    /// Whether it brings its host into maintenance mode.
    pub fn enters_maintenance(&self) -> bool {
        self.spec::<MaintenanceMode>().is_some_and(|spec| spec.state.on())
    }

    /// Whether it brings its host out of maintenance mode.
    pub fn leaves_maintenance(&self) -> bool {
        self.spec::<MaintenanceMode>().is_some_and(|spec| !spec.state.on())
    }

    /// Whether it shuts its VM down.
    pub fn stops_vm(&self) -> bool {
        self.spec::<Power>().is_some_and(|spec| spec.state == PowerState::Off)
    }

    /// Whether it starts its VM.
    pub fn starts_vm(&self) -> bool {
        self.spec::<Power>().is_some_and(|spec| spec.state == PowerState::On)
    }
}

/// What a step does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Work {
    Send {
        artifact: Box<Artifact>,
        /// Datastore of a host.
        datastore: Option<String>,
    },
    /// Make a requirement so.
    Meet {
        requirement: String,
        spec: Arc<Value>,
        /// What the agent must find; absent where an earlier step changes it.
        expect: Option<Expectation>,
    },
    Activate {
        /// Restart by this name, or reboot.
        restart: Option<String>,
        /// Requirements that must be met afterwards, with their specs. If all are met before, nothing is
        /// done.
        proves: Vec<(String, Arc<Value>)>,
        /// Asked for once where a reboot did not bring what it was for.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        once_more: Vec<(String, Arc<Value>)>,
    },
}

/// Why something is not in the plan.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Problem {
    pub node: NodeId,
    #[serde(flatten)]
    pub error: Error,
}

/// Digest of what a fleet file wishes.
pub fn digest(fleet: &Fleet) -> String {
    // Where a VM of several hosts was last seen is no wish.
    let wished = fleet.follows().then(|| {
        let mut wished = fleet.clone();
        for vm in wished.vms.iter_mut().filter(|vm| !vm.any.is_empty()) {
            vm.host = vm.any[0].clone();
        }
        wished
    });
    let bytes = serde_json::to_vec(wished.as_ref().unwrap_or(fleet)).unwrap_or_default();
    vsgpu_core::text::hex(&sha2::Sha256::digest(bytes))
}
