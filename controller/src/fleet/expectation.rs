//! What people mean to do with a VM: `expects:` of the fleet file. Checked against its GPUs, never set.

use serde::{Deserialize, Serialize};

/// What people mean to do with a VM that has a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Expectation {
    /// Move it while it runs.
    Vmotion,
    /// Suspend it.
    Suspend,
    /// Take snapshots of it while it runs.
    Snapshots,
}
