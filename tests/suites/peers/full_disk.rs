//! A GPU server whose disk runs full while GPUs are in use: a small file system of its own, really full.

use nix::sys::signal::Signal;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use vsgpu_tests::lab::gpu_pool::{GpuPool, two_teams};
use vsgpu_tests::lab::{programs, wait_until};

/// Of a page of the kernel: a file takes whole ones.
const PAGE: usize = 4096;

/// A file system that holds 128 KiB, for as long as this lives.
struct Small(PathBuf);

impl Small {
    fn at(path: PathBuf) -> Self {
        std::fs::create_dir_all(&path).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=128k,mode=700", "tmpfs"]).arg(&path);
        assert!(mount.status().unwrap().success(), "{}", path.display());
        Self(path)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// The lease that runs goes on, and ends as any other; nobody gets a new one; what happened meanwhile is written when
/// there is room.
fn a_full_disk_ends_no_gpu_lease_and_begins_none() {
    let pool = GpuPool::set_up("full-disk", 2, two_teams(), &["ml-1", "ci-1"]);
    let disk = Small::at(pool.lab.machine("gpu-srv-1").join("root/var/lib/vsgpu-pool"));
    for client in ["ml-1", "ci-1"] {
        pool.systemctl(client, &["start", "vsgpu-gpu.service"]);
    }
    pool.serve(2);
    let first = pool.run("ml-1", &[], "hold");
    first.wait_for("pong");
    // A program before the disk is full, and one behind that.
    let (stand_in, go_on) = (programs().join("vsgpu-stand-in"), pool.lab.folder.join("go-on"));
    let stand_in = stand_in.display();
    let shell = format!(
        "{stand_in} program echo && until [ -e {} ]; do sleep 0.05; done && {stand_in} program echo && exec sleep 600",
        go_on.display()
    );
    let second = pool.command("ci-1", &["run", "--", "sh", "-c", &shell]);
    second.wait_for("pong");
    // Its audit fills the page that it has begun, everything else the rest.
    let path = disk.0.join("audit.jsonl");
    let mut audit = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
    let left = PAGE - audit.metadata().unwrap().len() as usize % PAGE;
    audit.write_all(format!("{:>1$}\n", "", left - 1).as_bytes()).unwrap();
    let filler = disk.0.join("filler");
    let full = std::fs::write(&filler, vec![1; 256 << 10]).unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    // One lease ends, which cannot be written.
    first.signal(Signal::SIGTERM);
    first.end();
    let said = |words: &str| pool.status()["blocked"].as_str().is_some_and(|why| why.contains(words));
    wait_until("it says that it gives out nothing", Duration::from_secs(20), || said("audit.jsonl"));
    let free = || (0..2).filter(|slot| pool.slot(*slot) == "free").count();
    wait_until("its GPU is free all the same", Duration::from_secs(20), || free() == 1);
    let (status, told) = pool.run("ml-1", &["--wait", "0s"], "echo").end();
    assert!(status == Some(75) && told.contains("gives out no new GPU leases: the audit file"), "{told}");
    // The other one goes on: it gets an engine for one more program.
    std::fs::write(go_on, "").unwrap();
    wait_until("its engine answers", Duration::from_secs(20), || second.said().matches("pong").count() == 2);
    second.signal(Signal::SIGTERM);
    second.end();
    wait_until("both are free", Duration::from_secs(20), || free() == 2);
    std::fs::remove_file(filler).unwrap();
    wait_until("it is written again", Duration::from_secs(20), || pool.status().get("blocked").is_none());
    assert_eq!(pool.run("ml-1", &[], "echo").end().0, Some(0));
    pool.ended(3);
    let events: Vec<String> =
        pool.audit().iter().map(|line| line["event"].as_str().unwrap().to_string()).collect();
    assert_eq!(
        events,
        ["began", "granted", "granted", "ended", "ended", "writable", "granted", "ended"],
        "nothing is lost, and all stands in its order"
    );
}

pub const TESTS: &[vsgpu_tests::harness::Test] =
    vsgpu_tests::tests![a_full_disk_ends_no_gpu_lease_and_begins_none[Namespaces]];
