//! `cargo demo`: the whole journey on a lab of simulated machines with real agents, in front of your eyes.
#![allow(
    clippy::exit,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "test code"
)]

use nix::sys::signal::{SigSet, Signal};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use vsgpu_tests::lab::{Lab, programs};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--").collect();
    let keep = args.iter().any(|a| a == "--keep");
    let large = args.iter().any(|a| a == "--large");
    if let Some(unknown) = args.iter().find(|a| *a != "--keep" && *a != "--large") {
        println!(
            "usage: cargo demo [-- --keep --large]\n\n  --keep   leave the lab up until Ctrl-C, to type vsgpu verbs against it\n  --large  the fleet of packaging/examples/large.yaml: every way vSphere offers a GPU"
        );
        std::process::exit(if unknown == "--help" || unknown == "-h" { 0 } else { 2 });
    }
    // Blocked before any thread starts; one thread waits for them and cleans up.
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    signals.thread_block().unwrap();
    println!("building ...");
    programs();
    let lab = Arc::new(Mutex::new(Some(Lab::new("demo"))));
    let to_clean = lab.clone();
    std::thread::spawn(move || {
        let _ = signals.wait();
        drop(to_clean.lock().ok().and_then(|mut lab| lab.take()));
        println!("\nthe lab is gone; nothing is left behind");
        std::process::exit(if keep { 0 } else { 130 });
    });
    let status = journey(&lab, keep, large);
    if keep && status == 0 {
        loop {
            std::thread::park();
        }
    }
    drop(lab.lock().unwrap().take());
    println!("\nthe lab is gone; nothing is left behind");
    std::process::exit(status);
}

fn journey(lab: &Mutex<Option<Lab>>, keep: bool, large: bool) -> i32 {
    let command = |args: &[&str]| lab.lock().unwrap().as_ref().map(|lab| lab.command(args));
    {
        let lab = lab.lock().unwrap();
        let lab = lab.as_ref().unwrap();
        if large {
            println!(
                "starting a lab: 4 simulated ESXi hosts and 8 simulated Linux VMs, each with a real agent"
            );
            lab.large_fleet();
        } else {
            println!(
                "starting a lab: 3 simulated ESXi hosts and 5 simulated Linux VMs, each with a real agent"
            );
            lab.demo_fleet();
        }
        lab.start();
        println!("fleet file: {}\n", lab.folder.join("fleet.yaml").display());
    }
    for (args, fine) in
        [(vec!["plan"], 3), (vec!["apply", "--yes"], 0), (vec!["verify"], 0), (vec!["plan"], 0)]
    {
        println!("$ vsgpu {}", args.join(" "));
        let Some(mut command) = command(&args) else { return 130 };
        let status = command.stdin(Stdio::null()).status().unwrap().code();
        println!();
        if status != Some(fine) {
            println!("`vsgpu {}` ended with {status:?}, expected {fine}", args.join(" "));
            return 1;
        }
    }
    let lab = lab.lock().unwrap();
    let lab = lab.as_ref().unwrap();
    println!(
        "All of it ran against SIMULATED machines: the proofs above show the software's way, not a GPU.\n"
    );
    if keep {
        println!(
            "The lab stays up until Ctrl-C. In another terminal:\n\n  cd {}\n  export PATH=\"{}:$PATH\"",
            lab.folder.display(),
            programs().display()
        );
        println!(
            "  vsgpu facts -n esx-01\n  vsgpu verify\n  vsgpu status\n  vsgpu export\n  curl http://{}/metrics",
            lab.metrics("esx-01")
        );
        println!("  sed -i 's/Consolidation/Performance/' fleet.yaml; vsgpu plan; vsgpu apply");
    } else {
        println!(
            "What to try next:\n  cargo demo -- --keep      leaves the lab up, and says what to type\n  README.md, \"Install\"      the same on your own hosts"
        );
    }
    0
}
