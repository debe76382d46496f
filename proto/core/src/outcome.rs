//! What the plan expects of a change, and how the change ended.

use crate::effect::Effect;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What the plan said about a step. The agent refuses to do anything else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expectation {
    /// What was so when the plan was made.
    pub is: String,
    /// The effects that the plan showed.
    pub effects: Arc<[Effect]>,
    /// Some of them may have run already (the step was started before).
    pub started: bool,
}

/// How an `apply` ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum Outcome {
    /// Nothing was to do.
    AlreadyMet {
        /// What is so.
        is: String,
    },
    /// The effects have run.
    Applied {
        /// What is so.
        is: String,
        /// Whether it is active, or waits for a restart or reboot.
        active: bool,
    },
    /// The machine is neither as planned nor as wanted. Nothing was done.
    Stale {
        /// What the plan said.
        planned: String,
        /// What is so.
        is: String,
    },
    /// Somebody changed on the node what this run had made so or relies on. Nothing was done.
    Drifted {
        /// The requirement that is no longer met.
        requirement: String,
        /// What is so.
        is: String,
        /// What was so.
        was: String,
    },
    /// The time given was over before the end. What was begun has been ended.
    Late {
        /// Seconds that were given.
        secs: u64,
        /// What was being done.
        doing: String,
        /// Why, as far as it can be told; may be empty.
        why: String,
        /// What to do, where the cause is understood.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        hint: Option<String>,
    },
    /// A person must act. Nothing was done.
    Blocked {
        /// Why.
        why: String,
        /// What to do.
        hint: String,
    },
    /// An effect failed, or did not bring what it should.
    Failed {
        /// Why, with the tool's own words.
        why: String,
        /// What to do, where the cause is understood.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        hint: Option<String>,
    },
}

impl Outcome {
    /// `Failed` for a reason that nobody can explain further.
    pub fn failed(why: impl Into<String>) -> Self {
        Self::Failed { why: why.into(), hint: None }
    }
}
