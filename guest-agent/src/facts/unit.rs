//! Whether a systemd unit runs, and whether it is started with the machine. The words decide, not the exit status: it
//! is 3 or 4 for a unit that is inactive or unknown.

use vsgpu_core::{Command, Observation, Probe, Unreadable};

/// A unit, as `systemctl` says it.
#[derive(Clone, Debug, Default)]
pub(crate) struct UnitState {
    /// `active`, `inactive`, `failed`.
    pub active: String,
    /// `enabled`, `disabled`, `static`; empty without a unit.
    pub enabled: String,
}

fn ask(verb: &str, unit: &str) -> Command {
    Command::new("systemctl", [verb, unit])
}

pub(crate) fn probes(unit: &str) -> [Probe; 2] {
    ["is-active", "is-enabled"].map(|verb| Probe::Run(ask(verb, unit)))
}

pub(crate) fn parse(unit: &str, seen: &Observation) -> Result<UnitState, Unreadable> {
    let word = |verb: &str| seen.output(&ask(verb, unit)).map(|output| output.stdout.trim().to_string());
    Ok(UnitState { active: word("is-active")?, enabled: word("is-enabled")? })
}

impl UnitState {
    pub(crate) fn is_active(&self) -> bool {
        self.active == "active"
    }

    pub(crate) fn is_enabled(&self) -> bool {
        self.enabled == "enabled"
    }
}
