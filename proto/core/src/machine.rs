//! What a machine has: CPUs, memory, load, disks with their free space. Source: the operating system itself, by the library `sysinfo`
//! (`vsgpu-machine`). Not of ESXi's own kernel: it has no `/proc`, and what an ESXi host has is asked of `esxcli`.

use crate::requirement::Verdict;
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

/// Room that a change needs, at least.
#[derive(Clone, Copy, Debug)]
pub struct DiskNeed<'a> {
    /// Where it is written.
    pub path: &'a str,
    /// Bytes, at least.
    pub bytes: u64,
}

/// The disk on which a path lies.
pub fn disk_of<'a>(disks: &'a [Disk], path: &str) -> Option<&'a Disk> {
    let holds = |disk: &&Disk| {
        let rest = path.strip_prefix(disk.mount.trim_end_matches('/'));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    disks.iter().filter(holds).max_by_key(|disk| disk.mount.len())
}

/// Whether a disk lacks the room that a change needs: needs of one disk are added up. `None` where there is room, and where the
/// disks are not known: nothing is refused on a guess.
pub fn lacks_room(disks: &[Disk], what: &str, needs: &[DiskNeed<'_>]) -> Option<Verdict> {
    let short = |need: &DiskNeed<'_>| {
        let disk = disk_of(disks, need.path)?;
        let same = |other: &&DiskNeed<'_>| disk_of(disks, other.path).is_some_and(|d| d.mount == disk.mount);
        let bytes = needs.iter().filter(same).fold(0u64, |all, n| all.saturating_add(n.bytes));
        (disk.free_bytes < bytes).then_some((disk, bytes))
    };
    let (need, (disk, bytes)) = needs.iter().find_map(|need| short(need).map(|found| (need, found)))?;
    Some(Verdict::blocked(
        format!("{}: {} bytes are free, {what} needs at least {bytes} bytes", need.path, disk.free_bytes),
        format!("make room on the disk of {}: `df -h {}`, `du -xh --max-depth=2 {}`", need.path, need.path, disk.mount),
    ))
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
        assert_eq!((of("/usr"), of("/usr/local/cuda"), of("/usrlocal"), of("/tmp")), (Some(2), Some(3), Some(1), Some(1)));
        assert_eq!(disk_of(&disks[1..], "/tmp"), None);
    }

    #[test]
    fn needs_of_one_disk_are_added_up_and_what_is_not_known_is_not_refused() {
        let needs = [DiskNeed { path: "/tmp", bytes: 60 }, DiskNeed { path: "/usr", bytes: 60 }];
        let why = |disks: &[Disk]| match lacks_room(disks, "the driver", &needs) {
            Some(Verdict::Blocked { why, .. }) => why,
            None => String::new(),
            other => panic!("{other:?}"),
        };
        assert_eq!(why(&[disk("/", 119)]), "/tmp: 119 bytes are free, the driver needs at least 120 bytes");
        assert_eq!(why(&[disk("/", 120)]), "");
        assert_eq!(why(&[disk("/", 60), disk("/usr", 59)]), "/usr: 59 bytes are free, the driver needs at least 60 bytes");
        assert_eq!(why(&[]), "");
    }
}
