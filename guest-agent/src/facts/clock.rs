//! The guest's clock: licenses, certificates and packages all fail strangely where it is wrong.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use vsgpu_core::{Command, Fact, Observation, Probe, Subject, Unreadable};

/// What it says, and who keeps it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Clock {
    /// Seconds since 1970.
    pub now: u64,
    /// Whether NTP keeps it; absent where systemd does not say.
    pub synchronized: Option<bool>,
}

/// What systemd says of NTP.
pub(crate) fn synchronized() -> Command {
    Command::new("timedatectl", ["show", "-p", "NTPSynchronized", "--value"])
}

impl Fact for Clock {
    const NAME: &'static str = "clock";
    const ABOUT: &'static str = "The guest's clock, and whether NTP keeps it";
    fn probes(_: &Subject, _: &Observation) -> Vec<Probe> {
        vec![Probe::Now, Probe::Run(synchronized())]
    }
    fn parse(_: &Subject, seen: &Observation) -> Result<Self, Unreadable> {
        let now = seen
            .text(&Probe::Now)?
            .and_then(|t| t.parse().ok())
            .ok_or_else(|| Unreadable::new("the clock cannot be read"))?;
        Ok(Self { now, synchronized: seen.stdout_if_ok(&synchronized()).map(|t| t.trim() == "yes") })
    }
    fn sentence(&self) -> Option<String> {
        Some(
            match self.synchronized {
                Some(true) => "synchronized",
                Some(false) => "not synchronized",
                None => "runs; nobody tells whether it is synchronized",
            }
            .into(),
        )
    }
}
