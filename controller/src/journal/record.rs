//! One line of a journal: written and flushed before each act. Its form is on disks: it is read for ever.

use crate::hold::{Held, Hold};
use crate::node::NodeId;
use crate::plan::{Plan, RebootedFor};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "kebab-case")]
pub enum Record {
    Planned {
        /// Seconds since 1970.
        at: u64,
        /// Name of the run, the same for all who go on with it.
        run: String,
        /// What the run is for.
        purpose: Purpose,
        plan: Box<Plan>,
        /// Hosts that an earlier run left in maintenance mode.
        in_maintenance: BTreeSet<String>,
        /// VMs that an earlier run left stopped.
        stopped: BTreeSet<String>,
        /// Those of them of which it is not known how that ended.
        #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
        unsettled: BTreeSet<NodeId>,
        /// Reboots of earlier runs that did not bring what they were for.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        rebooted: BTreeMap<NodeId, RebootedFor>,
        /// Nodes that earlier runs left held and nobody has released.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        held: BTreeMap<NodeId, Held>,
    },
    /// A step is about to be done.
    Started {
        /// Seconds since 1970.
        at: u64,
        step: usize,
        /// The boot in which it was started.
        boot_id: String,
    },
    /// A step began a task of vCenter, under whose name people find it there.
    Task {
        /// Seconds since 1970.
        at: u64,
        step: usize,
        task: String,
    },
    /// A step is done and its result was seen.
    Done {
        /// Seconds since 1970.
        at: u64,
        step: usize,
        note: String,
        /// Somebody else changed what this step was to change: it is not ours to restore.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        theirs: bool,
    },
    Failed {
        /// Seconds since 1970.
        at: u64,
        step: usize,
        error: String,
        /// Why, in a word.
        hold: Hold,
    },
    /// The run is over.
    Ended {
        /// Seconds since 1970.
        at: u64,
        how: EndReason,
    },
    /// A person has looked at a held node and lets it go. May follow the end.
    Released {
        /// Seconds since 1970.
        at: u64,
        node: NodeId,
    },
}

/// What a run is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    /// Towards the fleet file.
    Apply,
    /// Towards the facts recorded before another run.
    Rollback,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndReason {
    /// All that could be done was done.
    #[serde(rename = "walked")]
    Finished,
    /// The operator aborted it, and what it had changed for a while was restored.
    Aborted,
    /// It was given up as it stood: the next run looks at everything anew.
    GivenUp,
}
