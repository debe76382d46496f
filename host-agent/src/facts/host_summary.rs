//! What hostd says of the host as a whole.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use vsgpu_core::readers::vim_cmd;
use vsgpu_core::{Command, Fact, Observation, Probe, Subject, Unreadable};

/// What hostd says of the host as a whole.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct HostSummary {
    /// Whether something waits for a reboot.
    pub reboot_required: Option<bool>,
    /// In maintenance mode.
    pub in_maintenance_mode: Option<bool>,
    /// When the host booted, as hostd prints it.
    pub boot_time: Option<String>,
}

impl HostSummary {
    pub(crate) fn ask() -> Command {
        Command::new("vim-cmd", ["hostsvc/hostsummary"])
    }
}

impl Fact for HostSummary {
    const NAME: &'static str = "host-summary";
    const ABOUT: &'static str = "Reboot pending and maintenance mode, as hostd sees them";
    fn probes(_: &Subject, _: &Observation) -> Vec<Probe> {
        vec![Probe::Run(Self::ask())]
    }
    fn parse(_: &Subject, seen: &Observation) -> Result<Self, Unreadable> {
        let output = seen.output(&Self::ask())?;
        let summary = vim_cmd::dump(seen.stdout(&Self::ask())?)
            .map_err(|why| Unreadable::of(&Self::ask(), output, why))?;
        let boot_time = summary["runtime"]["bootTime"].as_str().map(String::from);
        Ok(Self {
            reboot_required: summary["rebootRequired"].as_bool(),
            in_maintenance_mode: summary["runtime"]["inMaintenanceMode"].as_bool(),
            boot_time,
        })
    }
    fn sentence(&self) -> Option<String> {
        let mode = match self.in_maintenance_mode? {
            true => "in maintenance mode",
            false => "not in maintenance mode",
        };
        let reboot = if self.reboot_required == Some(true) { "; a reboot is pending" } else { "" };
        Some(format!("{mode}{reboot}"))
    }
}
