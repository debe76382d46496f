//! What this machine has, and what this process takes of it, by the library `sysinfo`. Linux only: ESXi's own
//! kernel has no `/proc`, so nothing is said there, and an ESXi host's memory and CPUs are asked of `esxcli`.

use std::path::Path;
use sysinfo::{
    DiskRefreshKind, Disks, MemoryRefreshKind, Pid, ProcessRefreshKind, ProcessesToUpdate, RefreshKind,
    System,
};
use vsgpu_core::machine::{Disk, Machine};

/// Disks that are told, at most: a machine with containers has hundreds of mounts.
const MOST_DISKS: usize = 64;

/// The machine now. Below another root than `/` (a test's copy of a machine's files) only the disk that holds
/// that root is shown.
///
/// # Errors
/// What the operating system does not tell, in words.
pub(crate) fn machine(root: &Path) -> Result<Machine, String> {
    read(root).map_err(|e| e.to_string())
}

fn read(root: &Path) -> Result<Machine, sysinfo::Error> {
    let memory = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
    let system = System::new_with_specifics(memory)?;
    let load = System::load_average()?;
    Ok(Machine {
        cpus: std::thread::available_parallelism().map_or(0, usize::from),
        memory_bytes: system.total_memory(),
        memory_available_bytes: system.available_memory(),
        load: [load.one, load.five, load.fifteen],
        uptime_secs: System::uptime()?,
        processes: processes(),
        disks: disks(root)?,
    })
}

/// Counted by their folders: to read all that `sysinfo` knows of each would cost a hundred times as much.
fn processes() -> usize {
    let is_process = |entry: &std::fs::DirEntry| {
        entry.file_name().to_str().is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit()))
    };
    std::fs::read_dir("/proc").map_or(0, |all| all.flatten().filter(is_process).count())
}

/// File systems whose server may be away: a question about free space would wait for it without an end.
/// `sysinfo` itself leaves out `nfs`, `cifs` and `autofs`.
const OF_SERVERS: [&str; 9] =
    ["9p", "afs", "beegfs", "ceph", "glusterfs", "lustre", "smb3", "vmhgfs", "gpfs"];

fn disks(root: &Path) -> Result<Vec<Disk>, sysinfo::Error> {
    let disk = |disk: &sysinfo::Disk| Disk {
        mount: disk.mount_point().to_string_lossy().into_owned(),
        file_system: disk.file_system().to_string_lossy().into_owned(),
        size_bytes: disk.total_space(),
        free_bytes: disk.available_space(),
    };
    let mut list = Disks::new_with_refreshed_list_specifics(DiskRefreshKind::nothing())?;
    let has_server = |disk: &sysinfo::Disk| {
        let kind = disk.file_system().to_string_lossy();
        kind.starts_with("fuse") || OF_SERVERS.contains(&kind.as_ref())
    };
    for disk in list.iter_mut().filter(|disk| !has_server(disk)) {
        disk.refresh_specifics(DiskRefreshKind::nothing().with_storage());
    }
    let mut all: Vec<Disk> =
        list.iter().filter(|disk| !has_server(disk)).take(MOST_DISKS).map(disk).collect();
    // The same place may be mounted over: the last one is what programs see.
    all.reverse();
    all.sort_by(|a, b| a.mount.cmp(&b.mount));
    all.dedup_by(|a, b| a.mount == b.mount);
    if root == Path::new("/") {
        return Ok(all);
    }
    let root = root.canonicalize().unwrap_or_else(|_| root.into());
    let of_root = vsgpu_core::machine::disk_of(&all, &root.to_string_lossy()).cloned();
    Ok(of_root.map(|disk| Disk { mount: "/".into(), ..disk }).into_iter().collect())
}

/// What a process takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnProcess {
    /// Memory that is not swapped out, bytes.
    pub resident_bytes: u64,
    /// CPU time since it was started, milliseconds.
    pub cpu_millis: u64,
    /// When it was started, seconds since 1970.
    pub started_secs: u64,
    /// Open files; absent where that cannot be read.
    pub open_files: Option<usize>,
}

/// This process now; `None` where the operating system does not say (ESXi).
pub fn own_process() -> Option<OwnProcess> {
    let own = Pid::from_u32(std::process::id());
    let mut system = System::new().ok()?;
    let what = ProcessRefreshKind::nothing().with_memory().with_cpu();
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[own]), false, what);
    let process = system.process(own)?;
    Some(OwnProcess {
        resident_bytes: process.memory(),
        cpu_millis: process.accumulated_cpu_time(),
        started_secs: process.start_time(),
        open_files: process.open_files(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "test code")]

    use super::*;

    #[test]
    fn memory_and_disks_are_those_that_the_kernel_states() {
        let here = machine(Path::new("/")).unwrap();
        let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap();
        let total =
            meminfo.lines().find_map(|l| l.strip_prefix("MemTotal:")).unwrap().trim().trim_end_matches(" kB");
        assert_eq!(here.memory_bytes, total.parse::<u64>().unwrap() * 1024);
        assert!(
            here.memory_available_bytes <= here.memory_bytes
                && here.cpus > 0
                && here.processes > 0
                && here.uptime_secs > 0
        );
        let folder = std::env::temp_dir();
        let below = machine(&folder).unwrap();
        assert_eq!(below.disks.len(), 1);
        // What others write meanwhile changes it by a little.
        let stat = nix::sys::statvfs::statvfs(&folder).unwrap();
        let free = stat.blocks_available() * stat.fragment_size();
        assert!(below.disks[0].free_bytes.abs_diff(free) < 1 << 30, "{} {free}", below.disks[0].free_bytes);
    }

    #[test]
    fn this_process_has_memory_files_and_a_beginning() {
        let own = own_process().unwrap();
        assert!(
            own.resident_bytes > 1 << 20
                && own.started_secs > 1_600_000_000
                && own.open_files.is_some_and(|n| n > 2)
        );
    }
}
