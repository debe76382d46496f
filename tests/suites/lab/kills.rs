//! Kills of real processes on the lab: controller and agents, at random, and a controller that is stopped
//! past its lease. The simulated machines count what was done to them: nothing is lost, nothing is done
//! twice.
//!
//! `VSGPU_KILLS=1000 cargo test -p vsgpu-tests --test lab kills:: -- --nocapture` is the long form;
//! `VSGPU_SEED=N` replays one.

use std::time::{Duration, Instant};
use vsgpu_tests::lab::small_fleet::{begin, clear_faults, count, small, stall};
use vsgpu_tests::lab::wait_until;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// One journey from a bare host to a CUDA proof under fire; gives the kills.
fn journey(seed: u64, most: u64) -> u64 {
    let lab = small(&format!("kills-{seed}"));
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut below = |n: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) % n
    };
    let mut kills = 0;
    let mut child = begin(&lab, &["apply", "--yes"]);
    let last = loop {
        let until = Instant::now() + Duration::from_millis(20 + below(900));
        let mut ended = None;
        while ended.is_none() && Instant::now() < until {
            ended = child.ended();
            std::thread::sleep(Duration::from_millis(2));
        }
        if let Some(status) = ended {
            let (_, said) = child.end();
            if status.success() {
                break said;
            }
            // An agent that was killed three times in one step, or while all were looked at: typed again, it
            // goes on.
            assert!([Some(4), Some(5), Some(6)].contains(&status.code()), "seed {seed}: {said}");
            child = begin(&lab, &["apply", "--yes"]);
            continue;
        }
        if kills >= most {
            std::thread::sleep(Duration::from_millis(50));
            continue;
        }
        kills += 1;
        match below(4) {
            0 => lab.restart_agent("esx-01"),
            1 => lab.restart_agent("vm-01"),
            _ => {
                child.kill();
                child = begin(&lab, &["apply", "--yes"]);
            }
        }
    };
    let verified = lab.vsgpu(&["verify", "-o", "wide"]);
    assert!(
        verified.status.success(),
        "seed {seed}: it said\n{last}\nand then\n{}",
        String::from_utf8_lossy(&verified.stdout)
    );
    assert!(lab.expect(0, &["apply", "--yes"]).contains("nothing to do"), "seed {seed}");
    let (host, guest) = (lab.calls("esx-01"), lab.calls("vm-01"));
    let once = [
        (&host, "software component apply"),
        (&host, "shutdown reboot"),
        (&guest, "-grid.run --silent"),
        (&guest, "cuda_12.2.2_535.104.05_linux.run --silent"),
    ];
    for (calls, what) in once {
        assert_eq!(count(calls, what), 1, "seed {seed}: `{what}`: {calls:#?}");
    }
    assert!(!lab.state("esx-01").esxi.unwrap().maintenance);
    kills
}

#[test]
fn killed_at_random_nothing_is_lost_and_nothing_done_twice() {
    if let Some(seed) = number("VSGPU_SEED") {
        println!("seed {seed}: {} kills", journey(seed, 40));
        return;
    }
    let (wanted, begun) = (number("VSGPU_KILLS").unwrap_or(40), Instant::now());
    let (mut kills, mut journeys) = (0, 0);
    while kills < wanted {
        kills += journey(journeys, 40);
        journeys += 1;
    }
    println!("{kills} kills in {journeys} journeys, {:.0?}: 0 lost, 0 done twice", begun.elapsed());
}

/// Stopped past its lease, overtaken by a controller elsewhere, woken up: it changes nothing any more.
#[test]
fn a_controller_that_wakes_up_behind_its_lease_is_refused() {
    use nix::sys::signal::Signal;
    let lab = small("asleep");
    stall(&lab, "esx-01", "vim-cmd vmsvc/power.shutdown");
    let child = begin(&lab, &["apply", "--yes"]);
    wait_until("it is at work", Duration::from_secs(60), || {
        count(&lab.calls("esx-01"), "power.shutdown") == 1
    });
    child.signal(Signal::SIGSTOP);
    clear_faults(&lab, "esx-01");
    // The same fleet with another wish, from another folder; it waits for the lease to end.
    let text = lab
        .fleet()
        .replace("files/", "../files/")
        .replace("deadlines: {", "pki: ../pki\ndeadlines: { connect-secs: 90,");
    let text = text.replace("graphics-type: SharedPassthru", "assignment-policy: Consolidation");
    std::fs::create_dir_all(lab.folder.join("elsewhere")).unwrap();
    let text: String =
        text.lines().take_while(|l| !l.contains("vgpu-manager")).map(|l| format!("{l}\n")).collect();
    std::fs::write(lab.folder.join("elsewhere/fleet.yaml"), text).unwrap();
    lab.expect(0, &["apply", "--yes", "elsewhere/fleet.yaml"]);
    assert_eq!(lab.state("esx-01").esxi.unwrap().policy, "Consolidation");
    lab.forget_calls();
    child.signal(Signal::SIGCONT);
    let (status, said) = child.end();
    assert_eq!(status, Some(5), "{said}");
    // The agent went on while it slept: what it hears first of the VM depends on how fast.
    let of_vm = ["vm-01 was asked to shut down", "vm-01 was shut down and was not seen to run again"];
    assert!(
        said.contains("the node was taken over by") && of_vm.iter().any(|words| said.contains(words)),
        "{said}"
    );
    assert_eq!(lab.changing_calls("esx-01"), [] as [String; 0], "it changed something when it woke up");
}
