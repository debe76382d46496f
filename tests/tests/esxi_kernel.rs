//! ESXi is not Linux: the demo's host journey with the host agent built for ESXi (mio's poll backend and pipe waker), while
//! every system call that VMkernel is known or feared to lack answers ENOSYS.
//!
//! Needs strace (Debian's package), and is skipped visibly without it. The agent of this test is linked with glibc, so
//! `openat` stays: a static musl build does without it (see packaging).
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout, reason = "test code")]

use std::process::{Command, Stdio};
use vsgpu_tests::lab::{Lab, cargo, files, programs, workspace};

const MISSING: &str = "epoll_create,epoll_create1,epoll_ctl,epoll_wait,epoll_pwait,epoll_pwait2,eventfd,eventfd2,accept4,pidfd_open,pidfd_send_signal,timerfd_create,timerfd_settime,signalfd,signalfd4,getrandom,clone3,statx,io_uring_setup,io_uring_enter,io_uring_register,membarrier,rseq";

#[test]
fn the_host_journey_needs_nothing_that_vmkernel_lacks() {
    let strace = Command::new("strace")
        .args(["-f", "-e", "inject=membarrier:error=ENOSYS", "true"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if !strace.is_ok_and(|s| s.success()) {
        println!("SKIPPED: strace is not here or may not trace");
        return;
    }
    programs();
    let target = workspace().join("target/esxi");
    let mut cargo = cargo();
    cargo.args(["build", "--quiet", "-p", "vsgpu-host-agent", "--target-dir"]).arg(&target).current_dir(workspace());
    cargo.env("RUSTFLAGS", "--cfg mio_unsupported_force_poll_poll --cfg mio_unsupported_force_waker_pipe");
    assert!(cargo.status().unwrap().success(), "the host agent does not build for ESXi");
    let agent = target.join("debug/vsgpu-host-agent");

    let lab = Lab::new("esxi");
    lab.host("esx-01", "7.0.3", vec![files::a100("0000:3b:00.0")]);
    std::fs::create_dir_all(lab.folder.join("files")).unwrap();
    let package = files::bundle("NVD-VMware_ESXi_7.0.2_Driver", "535.183.04-1OEM.702.0.0.17630552", true, 8 << 20);
    std::fs::write(lab.folder.join("files/manager.zip"), package).unwrap();
    lab.write_fleet(&format!(
        "version: 1\nhosts:\n  esx-01:\n    address: {}\n    graphics-type: SharedPassthru\n    assignment-policy: Consolidation\n    ecc: off\n    vgpu-manager: {{ package: files/manager.zip, datastore: datastore1 }}\n",
        lab.address("esx-01")
    ));
    let log = lab.folder.join("strace.log");
    let tracer = [
        "strace",
        "--seccomp-bpf",
        "-f",
        "-q",
        "-o",
        log.to_str().unwrap(),
        "-e",
        &format!("trace={MISSING}"),
        "-e",
        &format!("inject={MISSING}:error=ENOSYS"),
        agent.to_str().unwrap(),
    ];
    lab.host_agent_by(tracer.map(String::from).to_vec());
    lab.start();
    lab.expect(3, &["plan"]);
    lab.expect(0, &["apply", "--yes"]);
    lab.expect(0, &["verify"]);
    let mut host = lab.state("esx-01");
    assert!(!host.esxi().maintenance && host.esxi().loaded.is_some() && host.esxi().gpus[0].ecc == Some(false));
    // The proof that calls were really made to fail, and that the forbidden families were not even tried.
    let calls = std::fs::read_to_string(&log).unwrap_or_default();
    assert!(calls.contains("(INJECTED)"), "nothing was injected: {calls}");
    for family in ["epoll_", "eventfd", "accept4", "timerfd", "signalfd", "io_uring"] {
        let tried = calls.lines().filter(|l| l.contains(&format!(" {family}"))).count();
        assert_eq!(
            tried,
            0,
            "{family} was tried:\n{}",
            calls.lines().filter(|l| l.contains(family)).take(3).collect::<Vec<_>>().join("\n")
        );
    }
}
