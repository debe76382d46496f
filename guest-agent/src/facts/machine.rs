//! What the guest has: CPUs, memory, load, and disks with their free space. Source: its kernel, by `sysinfo`
//! (see `vsgpu-machine`).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use vsgpu_core::machine::{Disk, Machine, disk_of};
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
}

/// More than any driver or toolkit needs. What is free beyond it is not told, so that a requirement's fact
/// does not change with every file that a guest writes, and is the same on all guests of a kind.
const PLENTY: u64 = 32 << 30;

/// The disks on which these paths lie; none where that is not known.
pub(crate) fn disks_of(seen: &Observation, paths: &[&str]) -> Vec<Disk> {
    let Ok(machine) = seen.machine() else { return vec![] };
    let mut disks: Vec<Disk> =
        paths.iter().filter_map(|path| disk_of(&machine.disks, path)).cloned().collect();
    disks.iter_mut().for_each(|disk| disk.free_bytes = disk.free_bytes.min(PLENTY));
    disks.sort_by(|a, b| a.mount.cmp(&b.mount));
    disks.dedup();
    disks
}
