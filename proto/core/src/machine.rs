//! What a machine has: CPUs, memory, load, and the disks of the paths that vsgpu writes to. Not of ESXi's own
//! kernel: it has no `/proc`, and what an ESXi host has is asked of `esxcli`.

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
    /// For each of `PATHS` that is there and answered: its disk.
    pub disks: Vec<Disk>,
}

/// The disk on which a path lies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Disk {
    /// The path.
    pub path: String,
    /// The first of `PATHS` that lies on the same disk: two paths with the same one share its room.
    pub disk: String,
    /// Its size, bytes.
    pub size_bytes: u64,
    /// Free for root, who installs, bytes.
    pub free_bytes: u64,
}

/// Where vsgpu and what it starts write: the packages, the driver, CUDA, the initramfs. Only these are asked
/// for: a machine with containers has thousands of mounts, and one of a server that is away does not answer.
pub const PATHS: [&str; 7] = ["/", "/boot", "/tmp", "/usr", "/usr/local", "/var/lib", "/var/tmp"];
