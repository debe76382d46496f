//! How long each phase may take: `deadlines:` of the fleet file.

use serde::{Deserialize, Serialize};
use vsgpu_core::requirement::Deadline;

/// Seconds after which a phase has failed. Defaults are ours (facts: failures 7).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Deadlines {
    /// Until an agent answers.
    pub connect_secs: u32,
    /// Until the agent of a rebooted host answers.
    pub host_reboot_secs: u32,
    /// Until the agent of a started or rebooted guest answers.
    pub guest_boot_secs: u32,
    /// For one file to be sent.
    pub transfer_secs: u32,
    /// To enter or leave maintenance mode.
    pub maintenance_secs: u32,
    /// For a driver's installation in a guest.
    pub driver_install_secs: u32,
    /// For a VM to start, with its GPUs.
    pub gpu_attach_secs: u32,
    /// For every other step.
    pub step_secs: u32,
    /// For an agent that went away in the middle of a step to answer again; what it was doing goes on
    /// meanwhile.
    pub reconnect_secs: u32,
}

impl Deadlines {
    /// Seconds of one change.
    pub fn of(&self, deadline: Deadline) -> u32 {
        match deadline {
            // A minute more than the tool itself takes, so that its own words are heard.
            Deadline::MaintenanceMode => self.maintenance_secs.saturating_add(60),
            Deadline::PowerOn => self.gpu_attach_secs,
            Deadline::DriverInstall => self.driver_install_secs,
            Deadline::PowerOff | Deadline::Step => self.step_secs,
        }
    }
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            connect_secs: 10,
            host_reboot_secs: 1200,
            guest_boot_secs: 600,
            transfer_secs: 3600,
            maintenance_secs: 3600,
            driver_install_secs: 900,
            gpu_attach_secs: 120,
            step_secs: 3600,
            reconnect_secs: 120,
        }
    }
}
