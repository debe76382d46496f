//! The only thing the engine says. Terminal, JSON and tests are listeners.

use crate::error::Error;
use serde::Serialize;

/// Something that happened in a run.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// The run begins, or an unfinished one goes on.
    Begun {
        /// All steps.
        steps: usize,
        /// Done before, in an earlier start of this run.
        done_before: usize,
        /// Which.
        #[serde(skip)]
        before: Vec<usize>,
    },
    /// A step is being done.
    Started {
        /// Its number.
        step: usize,
    },
    /// The agent says what it does.
    Said {
        /// Step.
        step: usize,
        /// Command or condition.
        text: String,
    },
    /// Bytes of a file are there.
    Sent {
        /// Step.
        step: usize,
        /// So many.
        bytes: u64,
        /// Of so many.
        total: u64,
    },
    /// A step is done.
    Done {
        /// Step.
        step: usize,
        /// What is so now.
        note: String,
        /// Whether anything was changed.
        changed: bool,
    },
    /// A step failed.
    Failed {
        /// Step.
        step: usize,
        /// Why.
        #[serde(flatten)]
        error: Error,
    },
    /// A step is left out because an earlier one failed.
    Skipped {
        /// Step.
        step: usize,
        /// Why, where it is not for an earlier step.
        #[serde(skip_serializing_if = "Option::is_none")]
        why: Option<String>,
    },
    /// The run is over.
    Ended {
        /// Steps done.
        done: usize,
        /// Steps failed.
        failed: usize,
        /// Steps left out.
        skipped: usize,
    },
}
