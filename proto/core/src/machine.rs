//! What a machine has: CPUs, memory, load, disks with their free space. Source: the operating system itself,
//! by the library `sysinfo` (`vsgpu-machine`). Not of ESXi's own kernel: it has no `/proc`, and what an ESXi
//! host has is asked of `esxcli`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A machine at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Machine {
    /// CPUs that the operating system uses.
    pub cpus: usize,
    /// Memory, bytes.
    pub memory_bytes: u64,
    /// Memory that programs can still get without swapping, bytes.
    pub memory_available_bytes: u64,
    /// Load over 1, 5 and 15 minutes: processes that run or wait for a CPU or a disk.
    pub load: [f64; 3],
    /// Seconds since the boot.
    pub uptime_secs: u64,
    /// Processes.
    pub processes: usize,
    /// Mounted disks, sorted by where they are mounted.
    pub disks: Vec<Disk>,
}

/// A mounted disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Disk {
    /// Where it is mounted.
    pub mount: String,
    /// `ext4`, `xfs`, ..
    pub file_system: String,
    /// Its size, bytes.
    pub size_bytes: u64,
    /// Free for programs, bytes.
    pub free_bytes: u64,
}

/// The disk on which a path lies.
pub fn disk_of<'a>(disks: &'a [Disk], path: &str) -> Option<&'a Disk> {
    let holds = |disk: &&Disk| {
        let rest = path.strip_prefix(disk.mount.trim_end_matches('/'));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    disks.iter().filter(holds).max_by_key(|disk| disk.mount.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(mount: &str, free_bytes: u64) -> Disk {
        Disk { mount: mount.into(), file_system: "ext4".into(), size_bytes: 100, free_bytes }
    }

    #[test]
    fn a_path_lies_on_the_disk_with_the_longest_mount_above_it() {
        let disks = [disk("/", 1), disk("/usr", 2), disk("/usr/local", 3)];
        let of = |path| disk_of(&disks, path).map(|d| d.free_bytes);
        assert_eq!(
            (of("/usr"), of("/usr/local/cuda"), of("/usrlocal"), of("/tmp")),
            (Some(2), Some(3), Some(1), Some(1))
        );
        assert_eq!(disk_of(&disks[1..], "/tmp"), None);
    }
}
