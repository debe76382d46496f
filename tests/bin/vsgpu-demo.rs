//! `cargo demo`: the whole journey on a lab of simulated machines with real agents, in acts, in front of your eyes: a plan,
//! a plug that is pulled, a VM that does not start and why. With `--keep` the acts are yours.
#![allow(
    clippy::exit,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "test code"
)]

use nix::sys::signal::{SigSet, Signal};
use std::io::IsTerminal as _;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use vsgpu_tests::lab::{Lab, programs, programs_aloud, wait_until};

const USAGE: &str = "usage: cargo demo [-- --keep --large --no-pause]

  --keep      starts the lab, shows the plan, and lets you drive: it stays up until Ctrl-C
  --large     the fleet of packaging/examples/large.yaml: every way vSphere offers a GPU, in one go
  --no-pause  goes on by itself; so it does wherever there is no terminal";

/// What an act is about, before it is played.
const ACTS: [(&str, &str); 6] = [
    ("Look", "Three ESXi hosts and five VMs, as they came. Nothing is changed. Read the table of GPUs."),
    ("Plan", "What would be done. Read the first lines: what goes down, and for how long."),
    (
        "Apply, and pull the plug",
        "The plan runs. While esx-01 reboots, the controller is killed (kill -9): the worst moment there is.",
    ),
    (
        "Resume",
        "`vsgpu` alone says where things stand. `resume` goes on. One VM does not start: read its error and its hint.",
    ),
    ("Mend", "As the hint says: one line into the fleet file, and `apply` does what is left."),
    ("Verify", "Everything as the fleet file says, each GPU proved by a program that ran on it."),
];

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--").collect();
    let has = |name: &str| args.iter().any(|a| a == name);
    if let Some(unknown) = args.iter().find(|a| !["--keep", "--large", "--no-pause"].contains(&a.as_str())) {
        println!("{USAGE}");
        std::process::exit(if unknown == "--help" || unknown == "-h" { 0 } else { 2 });
    }
    // Blocked before any thread starts; one thread waits for them and cleans up.
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    signals.thread_block().unwrap();
    println!("building the programs (once; some minutes) ...");
    programs_aloud();
    let lab = Arc::new(Mutex::new(Some(Lab::new("demo"))));
    let keep = has("--keep");
    let to_clean = lab.clone();
    std::thread::spawn(move || {
        let _ = signals.wait();
        drop(to_clean.lock().ok().and_then(|mut lab| lab.take()));
        println!("\nthe lab is gone; nothing is left behind");
        std::process::exit(if keep { 0 } else { 130 });
    });
    let pause = !has("--no-pause") && std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let demo = Demo { lab: lab.clone(), pause };
    demo.start(has("--large"));
    let status = match (keep, has("--large")) {
        (true, _) => demo.keep(),
        (false, true) => demo.in_one_go(),
        (false, false) => demo.acts(),
    };
    if keep && status == 0 {
        loop {
            std::thread::park();
        }
    }
    drop(lab.lock().unwrap().take());
    println!("\nthe lab is gone; nothing is left behind");
    std::process::exit(status);
}

struct Demo {
    lab: Arc<Mutex<Option<Lab>>>,
    /// Wait for Enter before each act.
    pause: bool,
}

impl Demo {
    fn lab<T>(&self, of: impl FnOnce(&Lab) -> T) -> Option<T> {
        self.lab.lock().unwrap().as_ref().map(of)
    }

    fn start(&self, large: bool) {
        let (hosts, vms) = if large { (4, 8) } else { (3, 5) };
        println!(
            "starting a lab: {hosts} simulated ESXi hosts and {vms} simulated Linux VMs, each with a real agent"
        );
        self.lab(|lab| {
            if large {
                lab.large_fleet();
            } else {
                lab.demo_fleet();
                // A board with a larger BAR1 than the tables say: its VM needs a wider window, and nobody knows yet.
                lab.change("esx-03", |m| m.esxi().gpus[2].bar1_mib = 131_072);
            }
            lab.start();
            println!("fleet file: {}", lab.folder.join("fleet.yaml").display());
        });
    }

    fn act(&self, number: usize) {
        let (title, about) = ACTS[number - 1];
        println!("\n=== Act {number} of {}: {title}\n    {about}", ACTS.len());
        if self.pause {
            println!("    Enter goes on.");
            let _ = std::io::stdin().read_line(&mut String::new());
        }
        println!();
    }

    /// Runs a verb before everybody's eyes; whether it ended as it should.
    fn vsgpu(&self, args: &[&str], fine: i32) -> bool {
        println!("$ vsgpu {}", args.join(" "));
        let Some(mut command) = self.lab(|lab| lab.command(args)) else { return false };
        let status = command.stdin(Stdio::null()).status().unwrap().code();
        println!();
        if status != Some(fine) {
            println!("`vsgpu {}` ended with {status:?}, expected {fine}", args.join(" "));
        }
        status == Some(fine)
    }

    fn acts(&self) -> i32 {
        self.act(1);
        let mut fine = self.vsgpu(&["facts", "-n", "esx-01"], 0);
        self.act(2);
        fine = fine && self.vsgpu(&["plan"], 3);
        self.act(3);
        fine = fine && self.pull_the_plug();
        self.act(4);
        fine = fine && self.vsgpu(&[], 0) && self.vsgpu(&["resume"], 5);
        self.act(5);
        fine = fine && self.mend() && self.vsgpu(&["apply", "--yes"], 0);
        self.act(6);
        fine = fine && self.vsgpu(&["verify"], 0) && self.vsgpu(&["plan"], 0);
        if !fine {
            return 1;
        }
        println!(
            "All of it ran against SIMULATED machines: the proofs above show the software's way, not a GPU.\n"
        );
        println!(
            "What to try next:\n  cargo demo -- --keep      the same lab, and you drive\n  README.md, \"Install\"      the same on your own hosts"
        );
        0
    }

    /// Kills the controller while a host is on its way to its reboot.
    fn pull_the_plug(&self) -> bool {
        println!("$ vsgpu apply --yes");
        let Some(mut command) = self.lab(|lab| lab.command(&["apply", "--yes"])) else { return false };
        let mut child = command.stdin(Stdio::null()).spawn().unwrap();
        wait_until("esx-01 is told to reboot", Duration::from_secs(300), || {
            let told =
                self.lab(|lab| lab.calls("esx-01").iter().any(|call| call.contains("shutdown reboot")));
            told != Some(false) || child.try_wait().is_ok_and(|ended| ended.is_some())
        });
        let killed = child.kill().is_ok() && child.wait().is_ok_and(|status| status.code().is_none());
        // What it had on the screen when it died: the cursor, mostly.
        if std::io::stderr().is_terminal() {
            eprint!("\x1b[?25h");
        }
        println!("\nThe plug is pulled: the controller was killed while esx-01 reboots, with its VMs off.\n");
        killed
    }

    fn mend(&self) -> bool {
        const BEFORE: &str = "  vm-05:\n    host: esx-03\n    passthrough: [A100]\n";
        let mended = self.lab(|lab| {
            let fleet = lab.fleet();
            lab.write_fleet(&fleet.replace(BEFORE, &format!("{BEFORE}    mmio: 256\n")));
            fleet.contains(BEFORE)
        });
        println!("fleet.yaml, at vm-05:  mmio: 256\n");
        mended == Some(true)
    }

    fn in_one_go(&self) -> i32 {
        let verbs: [(&[&str], i32); 4] =
            [(&["plan"], 3), (&["apply", "--yes"], 0), (&["verify"], 0), (&["plan"], 0)];
        println!();
        if !verbs.iter().all(|(args, fine)| self.vsgpu(args, *fine)) {
            return 1;
        }
        println!(
            "All of it ran against SIMULATED machines: the proofs above show the software's way, not a GPU."
        );
        0
    }

    /// The lab stays up, untouched: the acts are the operator's.
    fn keep(&self) -> i32 {
        println!();
        if !self.vsgpu(&["plan"], 3) {
            return 1;
        }
        self.lab(|lab| {
            println!(
                "Now you drive. The lab stays up until Ctrl-C here. In another terminal:\n\n  cd {}\n  export PATH=\"{}:$PATH\"\n",
                lab.folder.display(),
                programs().display()
            );
            println!(
                "  vsgpu                     where the fleet stands, and what to type next\n  vsgpu plan --commands     every command\n  vsgpu apply               asks; then press Ctrl-C while a host reboots\n  vsgpu resume              goes on\n  vsgpu verify\n  vsgpu top                 live; ? lists its keys\n\nThen break something: take a VM out of fleet.yaml, write `esx-2` for a host, pull a plug\n(`pkill vsgpu-host-agent`), and see what is said. All machines are SIMULATED.\n"
            );
            println!("Metrics of a host: curl http://{}/metrics", lab.metrics("esx-01"));
        });
        0
    }
}
