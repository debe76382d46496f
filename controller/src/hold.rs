//! Why a node is held, in words that do not change: a run that stopped on a node says one of these, and each
//! has a page of `vsgpu explain`, which ends with the advice that stands here. `vsgpu apply` looks at a held
//! node again by itself, except where going on could do harm: then a person says `vsgpu release` first.

use crate::node::NodeId;
use serde::{Deserialize, Serialize};

/// Why a node is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hold {
    /// Maintenance mode could not be entered or left.
    MaintenanceMode,
    /// It did not come back from its reboot in time.
    RebootTimeout,
    /// It came back, but not with what the reboot was for: the old image, mostly.
    CameBackUnchanged,
    /// It reboots again and again.
    BootLoop,
    /// The driver's installation took too long.
    DriverInstallTimeout,
    /// The VM did not start with its GPU in time.
    GpuAttachTimeout,
    /// Another step took too long.
    StepTimeout,
    /// Its agent does not answer.
    Unreachable,
    /// Somebody changed on it what this run had made so or relies on.
    Drift,
    /// It was no longer as the plan had seen it.
    Stale,
    /// Another controller took it over.
    TakenOver,
    /// A person must act first.
    Blocked,
    Failed,
}

impl Hold {
    pub const ALL: [Self; 13] = [
        Self::MaintenanceMode,
        Self::RebootTimeout,
        Self::CameBackUnchanged,
        Self::BootLoop,
        Self::DriverInstallTimeout,
        Self::GpuAttachTimeout,
        Self::StepTimeout,
        Self::Unreachable,
        Self::Drift,
        Self::Stale,
        Self::TakenOver,
        Self::Blocked,
        Self::Failed,
    ];

    /// The word of it, as records, `-o json` and `vsgpu explain` have it.
    pub fn word(self) -> &'static str {
        match self {
            Self::MaintenanceMode => "maintenance-mode",
            Self::RebootTimeout => "reboot-timeout",
            Self::CameBackUnchanged => "came-back-unchanged",
            Self::BootLoop => "boot-loop",
            Self::DriverInstallTimeout => "driver-install-timeout",
            Self::GpuAttachTimeout => "gpu-attach-timeout",
            Self::StepTimeout => "step-timeout",
            Self::Unreachable => "unreachable",
            Self::Drift => "drift",
            Self::Stale => "stale",
            Self::TakenOver => "taken-over",
            Self::Blocked => "blocked",
            Self::Failed => "failed",
        }
    }

    /// Whether a person must say `vsgpu release` before anything is done there again.
    pub fn needs_release(self) -> bool {
        matches!(self, Self::Drift | Self::BootLoop)
    }

    /// What to do, with the node's name in what is to be typed.
    pub fn advice_for(self, node: &NodeId) -> String {
        self.advice().replace("`vsgpu release`", &format!("`vsgpu release {}`", String::from(node.clone())))
    }

    pub fn advice(self) -> &'static str {
        match self {
            Self::MaintenanceMode => {
                "see what keeps the host from it (running VMs, vSAN, DRS); `deadlines: { maintenance-secs: N }` gives the next plan longer (`vsgpu apply`)"
            }
            Self::RebootTimeout => {
                "look at its console; when its agent answers, `vsgpu apply` goes on without another reboot"
            }
            Self::CameBackUnchanged => {
                "see whether it booted its other image (altbootbank) or the module did not load; mend that, reboot it by hand once, then `vsgpu apply`"
            }
            Self::BootLoop => "look at its console for a purple screen; mend it, then `vsgpu release`",
            Self::DriverInstallTimeout => {
                "read /var/log/nvidia-installer.log in the guest; `deadlines: { driver-install-secs: N }` gives the next plan longer (`vsgpu apply`)"
            }
            Self::GpuAttachTimeout => {
                "read the VM's vmware.log; `deadlines: { gpu-attach-secs: N }` gives the next plan longer (`vsgpu apply`)"
            }
            Self::StepTimeout => {
                "`vsgpu facts` shows how the node is now; `deadlines: { step-secs: N }` gives the next plan longer (`vsgpu apply`)"
            }
            Self::Unreachable => {
                "bring its agent back (power, network, service); `vsgpu apply` goes on from there"
            }
            Self::Drift => {
                "ask who changed it; keep that by changing the fleet file, or undo it; then `vsgpu release`"
            }
            Self::Stale => "look at the new plan: `vsgpu plan`",
            Self::TakenOver => "another controller works on it: `vsgpu plan` when it is done",
            Self::Blocked => "mend what the message says; `vsgpu apply` looks again",
            Self::Failed => "`vsgpu facts` shows how the node is now; `vsgpu apply` goes on from there",
        }
    }
}

impl std::fmt::Display for Hold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.word())
    }
}

/// A node that is held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Why, in a word.
    pub hold: Hold,
    /// Why, in a sentence.
    pub why: String,
    /// Since when, seconds since 1970.
    pub since: u64,
}

#[cfg(test)]
mod tests {
    use super::Hold;

    #[test]
    fn the_word_of_a_hold_is_what_records_say() {
        for hold in Hold::ALL {
            assert_eq!(serde_json::to_value(hold).unwrap_or_default(), hold.word());
            assert!(!hold.advice().is_empty());
        }
    }
}
