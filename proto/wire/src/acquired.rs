//! What a run changed on a node temporarily and has not restored, as agents keep it and controllers show it.

use serde::{Deserialize, Serialize};

/// One temporary change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TemporaryChange {
    /// Name of the requirement that changed it.
    pub what: String,
    /// Display name of the VM; empty for the node itself.
    #[serde(default)]
    pub vm: String,
    /// Name of the run.
    pub run: String,
    /// Who ran it.
    pub holder: String,
    /// When, seconds since 1970 by the node's clock.
    pub since: u64,
    /// It was seen so.
    #[serde(default)]
    pub seen: bool,
    /// Since when the VM is not listed any more; 0: it is.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub gone: u64,
}

pub(crate) fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// What a look says of one thing: its requirement, the VM, and whether it is so now. Where all VMs were
/// listed there is at least one of that requirement: the one without a name.
pub type Look = (&'static str, String, bool);
