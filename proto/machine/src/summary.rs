//! What this machine has, and what this process takes of it. Memory, load, uptime and processes come from the
//! library `sysinfo`. Linux only: ESXi's own kernel has no `/proc`, so nothing is said there, and an ESXi
//! host's memory and CPUs are asked of `esxcli`.
//!
//! Deliberately not from `sysinfo`: disks. It stats every mount, and one whose server is away never answers.
//! A few paths are asked here, in a thread of their own, with a deadline.

use nix::sys::statvfs::statvfs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;
use sysinfo::{MemoryRefreshKind, Pid, ProcessRefreshKind, ProcessesToUpdate, RefreshKind, System};
use vsgpu_core::machine::{Disk, Machine, PATHS};

/// The machine now; its paths below this root.
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
        disks: disks(root.into()),
    })
}

/// Counted by their folders: to read all that `sysinfo` knows of each would cost a hundred times as much.
fn processes() -> usize {
    let is_process = |entry: &std::fs::DirEntry| {
        entry.file_name().to_str().is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit()))
    };
    std::fs::read_dir("/proc").map_or(0, |all| all.flatten().filter(is_process).count())
}

/// How long disks may take to answer.
const WITHIN: Duration = Duration::from_secs(3);
/// Questions without an answer yet. Where a disk never answers, no more threads than these wait for it.
static ASKED: AtomicUsize = AtomicUsize::new(0);
const AT_ONCE: usize = 8;

/// None where one of them does not answer.
fn disks(root: PathBuf) -> Vec<Disk> {
    if ASKED.fetch_add(1, Ordering::AcqRel) >= AT_ONCE {
        ASKED.fetch_sub(1, Ordering::AcqRel);
        return vec![];
    }
    let (tx, rx) = mpsc::channel();
    let ask = move || {
        let found = ask(&root);
        ASKED.fetch_sub(1, Ordering::AcqRel);
        let _ = tx.send(found);
    };
    match std::thread::Builder::new().spawn(ask) {
        Ok(_) => rx.recv_timeout(WITHIN).unwrap_or_default(),
        Err(_) => {
            ASKED.fetch_sub(1, Ordering::AcqRel);
            vec![]
        }
    }
}

fn ask(root: &Path) -> Vec<Disk> {
    let mut found: Vec<(u64, Disk)> = vec![];
    for path in PATHS {
        let place = root.join(path.trim_start_matches('/'));
        let (Ok(metadata), Ok(stat)) = (place.metadata(), statvfs(&place)) else { continue };
        // A file system without a size of its own states none (tmpfs without a limit): nothing is known of
        // its room.
        if stat.blocks() == 0 {
            continue;
        }
        let unit = stat.fragment_size();
        let first = found.iter().find(|(device, _)| *device == metadata.dev());
        let disk = first.map_or_else(|| path.to_string(), |(_, disk)| disk.disk.clone());
        let (size_bytes, free_bytes) = (stat.blocks() * unit, stat.blocks_free() * unit);
        found.push((metadata.dev(), Disk { path: path.into(), disk, size_bytes, free_bytes }));
    }
    found.into_iter().map(|(_, disk)| disk).collect()
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
        let total = meminfo.lines().find_map(|l| l.strip_prefix("MemTotal:")).unwrap().trim();
        assert_eq!(here.memory_bytes, total.trim_end_matches(" kB").parse::<u64>().unwrap() * 1024);
        assert!(here.memory_available_bytes <= here.memory_bytes);
        assert!(here.cpus > 0 && here.processes > 0 && here.uptime_secs > 0);
        assert_eq!((here.disks[0].path.as_str(), here.disks[0].disk.as_str()), ("/", "/"));
        let by_itself = std::path::Path::new("/usr").metadata().unwrap().dev()
            == Path::new("/").metadata().unwrap().dev();
        let usr = here.disks.iter().find(|d| d.path == "/usr").unwrap();
        assert_eq!(usr.disk == "/", by_itself);
        assert!(here.disks.iter().all(|d| d.free_bytes <= d.size_bytes));
    }

    #[test]
    fn below_another_root_only_what_is_there_is_told() {
        let root = std::env::temp_dir().join(format!("vsgpu-summary-{}", std::process::id()));
        std::fs::create_dir_all(root.join("usr")).unwrap();
        let paths: Vec<String> = ask(&root).into_iter().map(|disk| disk.path).collect();
        assert_eq!(paths, ["/", "/usr"]);
        std::fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn this_process_has_memory_files_and_a_beginning() {
        let own = own_process().unwrap();
        assert!(own.resident_bytes > 1 << 20 && own.started_secs > 1_600_000_000);
        assert!(own.open_files.is_some_and(|n| n > 2));
    }
}
