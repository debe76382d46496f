//! What an agent found in the logs of its own machine: causes with the lines that speak for them. The logs
//! themselves stay where they are.

use super::find::{Finding, Input, diagnose};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Causes that are kept of one machine.
const MOST: usize = 16;

/// Causes found in logs, the most likely first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct LogFindings {
    /// Each with its evidence.
    pub found: Vec<Finding>,
}

impl LogFindings {
    /// Looks through these texts; all of them are of one machine.
    pub fn of(inputs: &[Input<'_>]) -> Self {
        let mut found = diagnose(inputs).findings;
        found.truncate(MOST);
        Self { found }
    }

    /// The causes by their titles.
    pub fn in_words(&self) -> String {
        crate::words::first(self.found.iter().map(|f| f.title.clone()), 3, "no known cause of trouble")
    }
}
