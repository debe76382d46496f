//! What the guest has: CPUs, memory, load, and disks with their free space. Source: its kernel, by `sysinfo`
//! (see `vsgpu-machine`).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use vsgpu_core::disk_room::Room;
use vsgpu_core::machine::Machine;
use vsgpu_core::{Fact, Observation, Probe, Subject, Unreadable};

/// The guest as a machine.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct MachineFact(pub Machine);

impl Fact for MachineFact {
    const NAME: &'static str = "machine";
    const ABOUT: &'static str = "CPUs, memory, load, uptime, processes, and disks with their free space";
    fn probes(_: &Subject, _: &Observation) -> Vec<Probe> {
        vec![Probe::Machine]
    }
    fn parse(_: &Subject, seen: &Observation) -> Result<Self, Unreadable> {
        seen.machine().map(Self)
    }
    fn sentence(&self) -> Option<String> {
        let gib = |bytes: u64| bytes / (1 << 30);
        let of = &self.0;
        Some(format!(
            "{}, {} GiB of memory, {} GiB free",
            vsgpu_core::words::counted(of.cpus, "CPU"),
            gib(of.memory_bytes),
            gib(of.memory_available_bytes)
        ))
    }
}

/// The room on the disks of these paths; a path of which nothing is known is left out. Its fact has to ask
/// for `Probe::Machine`.
pub(crate) fn rooms(seen: &Observation, paths: &[&str]) -> Vec<Room> {
    debug_assert!(seen.has(&Probe::Machine), "a fact that keeps rooms asks for the machine");
    let Ok(machine) = seen.machine() else { return vec![] };
    machine.disks.iter().filter(|disk| paths.contains(&disk.path.as_str())).map(Room::of).collect()
}
