//! Everything known about a Linux guest with a GPU. The requirements are pure and also linked by the
//! controller; only `boot_id` looks at a machine.

mod boot_id;
mod container_errors;
mod cuda_samples;
mod distro;
pub mod facts;
pub mod guest;
mod known_errors;
mod metrics;
mod package_errors;
mod pool_metrics;
pub mod readers;

use vsgpu_core::{Command, Effect, observe};
use vsgpu_wire::server::Agent;

pub use guest::all as catalogue;

pub fn agent() -> Agent {
    Agent {
        role: "guest",
        program: "vsgpu-guest-agent",
        stranger: |system| {
            let version = Command::new("esxcli", ["--version"]).within(10);
            (system.run(&version).ended != vsgpu_core::ExitKind::Missing).then_some(
                "there is an esxcli here: this looks like an ESXi host, which takes vsgpu-host-agent",
            )
        },
        catalogue,
        state: "/var/lib/vsgpu",
        boot: || Box::new(boot_id::Kernel),
        reboot,
        // A guest has no VMs, and nothing of what it changes needs more than its own order.
        may_change: |_, _, _| Ok(()),
        looks: |_| vec![],
        smi_report: |facts| observe::typed::<facts::Gpus>(facts).map(|gpus| gpus.0),
        samples: metrics::samples,
        verbs: &[],
    }
}

/// What starts a reboot.
pub fn reboot() -> Effect {
    Effect::run(Command::new("systemctl", ["reboot"]))
}
