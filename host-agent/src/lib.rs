//! Everything known about an ESXi host and the VMs on it. The requirements are pure and also linked by the controller;
//! only `esxi` touches a machine.

pub mod esxi;
mod gate;
pub mod host;
pub mod vm;

use vsgpu_core::{Catalogue, Command, Effect};
use vsgpu_proto::agent::Agent;

/// The list of everything this agent knows.
pub fn catalogue() -> Catalogue {
    let mut all = host::all();
    let vm = vm::all();
    all.entries.extend(vm.entries);
    all.extra_facts.extend(vm.extra_facts);
    all
}

/// The agent itself.
pub fn agent() -> Agent {
    Agent {
        role: "host",
        program: "vsgpu-host-agent",
        catalogue,
        // What lies below /etc with the sticky bit is kept over a reboot; /var is a ramdisk (facts: esxi A4).
        state: "/etc/opt/vsgpu",
        system: esxi::system,
        restarts,
        reboot,
        gate: gate::gate,
        looks: gate::looks,
        samples: host::metrics::samples,
    }
}

/// Restarts by name. What a release does not have is skipped (facts: esxi F3: Xorg on older, nv-hostengine on newer ones).
pub fn restarts() -> Vec<(&'static str, Vec<Effect>)> {
    let run = |program: &str, args: &[&str]| Effect::run(Command::new(program, args.iter().copied()));
    let graphics = vec![
        run("/etc/init.d/xorg", &["stop"]),
        run("nv-hostengine", &["-t"]),
        run("nv-hostengine", &["-d"]),
        run("/etc/init.d/xorg", &["start"]),
        // Devices are read again, where the release has that command.
        Effect::Run { command: Command::new("esxcli", ["graphics", "host", "refresh"]), already: Some("Unknown command".into()) },
    ];
    vec![("graphics", graphics)]
}

/// What starts a reboot: ten seconds is the least delay esxcli takes.
pub fn reboot() -> Effect {
    Effect::run(Command::new("esxcli", ["system", "shutdown", "reboot", "--delay=10", "--reason=vsgpu: a planned change becomes active"]))
}
