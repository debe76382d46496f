//! Everything known about an ESXi host and the VMs on it. The requirements are pure and also linked by the
//! controller; only `boot_id` looks at a machine.

mod boot_id;
pub mod by_api;
mod esxcli;
pub mod facts;
pub mod gateway;
pub mod host;
mod may_change;
mod metrics;
pub mod pci_slots;
mod power_errors;
pub mod readers;
pub mod vm;
pub mod vm_gpu;

use vsgpu_core::{Catalogue, Command, Effect, observe};
use vsgpu_wire::server::Agent;

/// The list of everything this agent knows.
pub fn catalogue() -> Catalogue {
    let mut all = host::all();
    let vm = vm::all();
    all.entries.extend(vm.entries);
    all.extra_facts.extend(vm.extra_facts);
    all
}

pub fn agent() -> Agent {
    Agent {
        role: "host",
        program: "vsgpu-host-agent",
        stranger: |system| {
            esxcli::is_missing(system)
                .then_some("there is no esxcli here: this is no ESXi host, and nothing of one can be read; beside a host say `ssh = root@HOST`")
        },
        catalogue,
        // What lies below /etc with the sticky bit is kept over a reboot; /var is a ramdisk (facts: esxi A4).
        state: "/etc/opt/vsgpu",
        boot: || Box::new(boot_id::Marker::default()),
        reboot,
        may_change: may_change::may_change,
        looks: may_change::looks,
        smi_report: |facts| observe::typed::<facts::Gpus>(facts).map(|gpus| gpus.0),
        samples: metrics::samples,
        verbs: &[gateway::VERB],
    }
}

/// What starts a reboot: ten seconds is the least delay esxcli takes.
pub fn reboot() -> Effect {
    Effect::run(Command::new(
        "esxcli",
        ["system", "shutdown", "reboot", "--delay=10", "--reason=vsgpu: a planned change becomes active"],
    ))
}
