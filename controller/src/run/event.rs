//! The only thing the engine says. Terminal, JSON and tests are listeners.

use crate::error::Error;
use serde::Serialize;

/// Something that happened in a run.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// The run begins, or an unfinished one goes on.
    Begun {
        steps: usize,
        /// Done before, in an earlier start of this run.
        done_before: usize,
        #[serde(skip)]
        before: Vec<usize>,
    },
    /// A step is being done.
    Started { step: usize },
    /// The agent says what it does.
    Said { step: usize, text: String },
    /// Bytes of a file are there.
    Sent { step: usize, bytes: u64, total: u64 },
    /// A step is done.
    Done {
        step: usize,
        /// What is so now.
        note: String,
        /// Whether anything was changed.
        changed: bool,
    },
    Failed {
        step: usize,
        #[serde(flatten)]
        error: Error,
    },
    /// A step is left out because an earlier one failed.
    Skipped {
        step: usize,
        /// Why, where it is not for an earlier step.
        #[serde(skip_serializing_if = "Option::is_none")]
        why: Option<String>,
    },
    /// The run is over.
    Ended { done: usize, failed: usize, skipped: usize },
}
