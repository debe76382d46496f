//! Everything known about a Linux guest with a GPU. The requirements are pure and also linked by the controller; only
//! `linux` touches a machine.

pub mod guest;
pub mod linux;

use vsgpu_core::{Command, Effect};
use vsgpu_proto::agent::Agent;

pub use guest::all as catalogue;

/// The agent itself.
pub fn agent() -> Agent {
    Agent {
        role: "guest",
        program: "vsgpu-guest-agent",
        catalogue,
        state: "/var/lib/vsgpu",
        system: linux::system,
        restarts,
        reboot,
        // A guest has no VMs, and nothing of what it changes needs more than its own order.
        gate: |_, _, _| Ok(()),
        looks: |_| vec![],
        samples: guest::metrics::samples,
    }
}

/// Restarts by name: none yet, services are restarted by their requirements.
pub fn restarts() -> Vec<(&'static str, Vec<Effect>)> {
    vec![]
}

/// What starts a reboot.
pub fn reboot() -> Effect {
    Effect::run(Command::new("systemctl", ["reboot"]))
}
