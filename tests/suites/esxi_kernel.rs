//! ESXi is not Linux: the demo's host journey with the host agent as it is shipped there (static, musl, mio's
//! poll backend and pipe waker), while every system call that VMkernel is known or feared to lack answers
//! ENOSYS. And the calls that it does make are compared with a list that is kept: a new one is a question to
//! VMkernel.
//!
//! Needs strace (Debian's package) and the musl build of `packaging/esxi/build-static`; is not tried without
//! them. `VSGPU_ACCEPT=1` writes the list anew.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout, reason = "test code")]

use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use vsgpu_tests::lab::{Lab, files, programs, workspace};

/// Known to be absent or other on some release, or never seen there (facts: esxi A1).
const MISSING: &str = "epoll_create,epoll_create1,epoll_ctl,epoll_wait,epoll_pwait,epoll_pwait2,eventfd,eventfd2,accept4,pidfd_open,pidfd_send_signal,timerfd_create,timerfd_settime,signalfd,signalfd4,getrandom,clone3,statx,io_uring_setup,io_uring_enter,io_uring_register,membarrier,rseq,openat,openat2,mkdirat,unlinkat,renameat,renameat2,newfstatat,prlimit64,set_robust_list,sched_getaffinity,mremap,madvise,copy_file_range,sendfile";

/// Calls that come with load, not with what the agent does: they are made in one run and not in the next.
const CONTENDED: [(&str, &str); 4] = [
    (
        "sched_yield",
        "the standard library's channels, where two threads meet at one slot; POSIX, and known to VMkernel's libc",
    ),
    ("futex", "any lock for which two threads meet"),
    ("restart_syscall", "a sleep that the tracer interrupted"),
    ("rt_sigreturn", "a signal of the tracer's"),
];

fn the_host_journey_needs_nothing_that_vmkernel_lacks() {
    programs();
    let built = Command::new(workspace().join("packaging/esxi/build-static"))
        .arg("--dev")
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    let last = String::from_utf8_lossy(&built.stdout).lines().last().unwrap_or_default().to_string();
    match built.status.code() {
        Some(0) => {}
        other => panic!("the host agent does not build for ESXi: {other:?} {last}"),
    }
    let agent = workspace().join(last);

    let lab = Lab::new("esxi");
    lab.host("esx-01", "7.0.3", vec![files::a100("0000:3b:00.0")]);
    std::fs::create_dir_all(lab.folder.join("files")).unwrap();
    let package =
        files::bundle("NVD-VMware_ESXi_7.0.2_Driver", "535.183.04-1OEM.702.0.0.17630552", true, 8 << 20);
    std::fs::write(lab.folder.join("files/manager.zip"), package).unwrap();
    lab.write_fleet(&format!(
        "version: 1\nhosts:\n  esx-01:\n    address: {}\n    graphics-type: SharedPassthru\n    assignment-policy: Consolidation\n    ecc: off\n    vgpu-manager: {{ package: files/manager.zip, datastore: datastore1 }}\n",
        lab.address("esx-01")
    ));
    let log = lab.folder.join("strace.log");
    // The agent and its threads; the simulated tools that it starts are ordinary Linux programs and left
    // alone.
    let inject = format!("inject={MISSING}:error=ENOSYS");
    // Appended: the agent of each boot is another process.
    let tracer = [
        "strace",
        "-f",
        "-b",
        "execve",
        "-q",
        "-A",
        "-o",
        log.to_str().unwrap(),
        "-e",
        &inject,
        agent.to_str().unwrap(),
    ];
    lab.host_agent_by(tracer.map(String::from).to_vec());
    lab.start();
    lab.expect(3, &["plan"]);
    lab.expect(0, &["apply", "--yes"]);
    lab.expect(0, &["verify"]);
    let mut host = lab.state("esx-01");
    assert!(
        !host.esxi().maintenance && host.esxi().loaded.is_some() && host.esxi().gpus[0].ecc == Some(false)
    );
    // The proof that calls were really made to fail, and that the forbidden families were not even tried.
    let calls = std::fs::read_to_string(&log).unwrap_or_default();
    assert!(calls.contains("(INJECTED)"), "nothing was injected: {calls}");
    for family in ["epoll_", "eventfd", "accept4", "timerfd", "signalfd", "io_uring"] {
        let tried: Vec<&str> = calls.lines().filter(|l| l.contains(&format!(" {family}"))).take(3).collect();
        assert!(tried.is_empty(), "{family} was tried: {tried:#?}");
    }
    // `1234 call(...) = 0`; a call that another thread interrupted comes as two lines.
    let name = |line: &str| {
        let rest = line.split_once(' ')?.1.trim_start().trim_start_matches("<... ");
        let name: String = rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
        (!name.is_empty() && !rest.starts_with(['+', '-']) && name != "resumed").then_some(name)
    };
    let made: BTreeSet<String> = calls
        .lines()
        .filter_map(name)
        .filter(|call| CONTENDED.iter().all(|(known, _)| known != call))
        .collect();
    let kept = workspace().join("tests/data/expected/esxi_calls.txt");
    if std::env::var_os("VSGPU_ACCEPT").is_some() {
        std::fs::write(&kept, made.iter().map(|c| format!("{c}\n")).collect::<String>()).unwrap();
    }
    let known = std::fs::read_to_string(&kept).unwrap();
    let new: Vec<&String> = made.iter().filter(|call| !known.lines().any(|k| k == *call)).collect();
    assert!(
        new.is_empty(),
        "the host agent makes system calls that it did not make before: {new:?}. Each is a question to VMkernel: is it known there (facts: esxi A1), and what \
         happens where it is not? With that answered: `VSGPU_ACCEPT=1 cargo test -p vsgpu-tests --test esxi_kernel` writes the list anew. One that only a \
         busy machine makes belongs into CONTENDED, with its reason"
    );
}

fn main() -> std::process::ExitCode {
    vsgpu_tests::harness::main(&[("", TESTS)])
}

const TESTS: &[vsgpu_tests::harness::Test] =
    vsgpu_tests::tests![the_host_journey_needs_nothing_that_vmkernel_lacks[Vmkernel]];
