//! What is done to a GPU server while it serves: kept free for work, a certificate renewed; and what a user's own
//! program says with its exit status.

use nix::sys::signal::Signal;
use std::io::{BufRead as _, BufReader, Write as _};
use std::time::Duration;
use vsgpu_tests::fakes::units;
use vsgpu_tests::lab::gpu_pool::{GpuPool, two_teams};
use vsgpu_tests::lab::wait_until;

#[test]
fn a_server_is_drained_for_work_and_serves_again_by_itself() {
    let pool = GpuPool::new("upkeep-drain", 1, two_teams(), &["ml-1"]);
    let machine = pool.lab.machine("gpu-srv-1");
    let drained = || pool.status()["drained"] == true;
    let holder = pool.run("ml-1", &[], "hold");
    holder.wait_for("pong");
    // One that does not end in time: nothing is kept back for it.
    let answer = units::program(&machine, "vsgpu-pool", &["drain", "--wait", "1s"]);
    for words in ["1 GPU lease is still there after 1 s, the first of", "on ml-1; new ones are given again"] {
        assert!(answer.status == 1 && answer.stderr.contains(words), "{words}: {answer:?}");
    }
    assert!(!drained());
    // One that ends meanwhile: then nobody is let in, until that lapses.
    let waits = std::thread::spawn({
        let machine = machine.clone();
        move || units::program(&machine, "vsgpu-pool", &["drain", "--wait", "30s"])
    });
    wait_until("no new leases are given", Duration::from_secs(10), drained);
    holder.signal(Signal::SIGTERM);
    assert_eq!(waits.join().unwrap().status, 0);
    let (status, said) = pool.run("ml-1", &[], "echo").end();
    assert!(status == Some(75) && said.contains("it is drained: no new GPU leases"), "{status:?} {said}");
    // As `drain --wait` says it, with a shorter time: nobody needs to be there to take it back.
    let mut socket =
        std::os::unix::net::UnixStream::connect(units::socket(&machine, "vsgpu-pool.service")).unwrap();
    socket.write_all(b"{\"drain\":{\"drained\":true,\"for_secs\":1}}\n").unwrap();
    let mut answer = String::new();
    BufReader::new(socket).read_line(&mut answer).unwrap();
    assert_eq!(answer.trim(), r#""done""#);
    wait_until("it serves again by itself", Duration::from_secs(15), || !drained());
    assert_eq!(pool.run("ml-1", &[], "echo").end().0, Some(0));
    pool.all_free(1);
    // What a person keeps back stays so, whatever lapses.
    assert_eq!(units::program(&machine, "vsgpu-pool", &["drain"]).status, 0);
    let answer = units::program(&machine, "vsgpu-pool", &["drain", "--wait", "0s"]);
    assert!(answer.status == 0 && drained(), "{answer:?}");
    assert_eq!(units::program(&machine, "vsgpu-pool", &["undrain"]).status, 0);
    assert!(!drained());
}

/// The next connection is served with the new certificate; what runs goes on.
#[test]
fn a_renewed_certificate_is_used_at_once_and_ends_nothing() {
    let pool = GpuPool::new("upkeep-cert", 2, two_teams(), &["ml-1", "ci-1"]);
    let holder = pool.run("ml-1", &[], "hold");
    holder.wait_for("pong");
    let said = || pool.logs().contains("the renewed certificate is used");
    assert!(!said());
    pool.lab.expect(0, &["cert", "renew", "gpu-srv-1", "--role", "guest"]);
    let (status, text) = pool.run("ci-1", &[], "echo").end();
    assert!(status == Some(0) && said(), "{text}{}", pool.logs());
    assert!(!holder.said().contains("over"), "{}", holder.said());
    holder.signal(Signal::SIGTERM);
    assert_eq!(holder.end().0, Some(128 + 15));
}

#[test]
fn the_exit_status_is_the_programs() {
    let pool = GpuPool::new("upkeep-exit", 1, two_teams(), &["ml-1"]);
    let plain = pool.lab.folder.join("plain");
    std::fs::write(&plain, "no program").unwrap();
    let plain = plain.display().to_string();
    for (command, status, words) in [
        (vec!["sh", "-c", "exit 3"], 3, "granted:"),
        (vec!["sh", "-c", "kill -9 $$"], 128 + 9, "granted:"),
        (vec!["/nonexistent/program"], 127, "/nonexistent/program"),
        (vec![plain.as_str()], 126, "plain"),
    ] {
        let (ended, said) = pool.command("ml-1", &[vec!["run", "--"], command.clone()].concat()).end();
        assert!(ended == Some(status) && said.contains(words), "{command:?}: {ended:?} {said}");
    }
    pool.all_free(1);
}
