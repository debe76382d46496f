//! What a run costs: a step against its raw durable writes, and a whole fleet against its ideal schedule,
//! side by side in one process. `cargo run --release -p vsgpu-deterministic --bin vsgpu-run-bench`; with
//! `--short` less of it, for CI.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark")]

use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use vsgpu::fleet::Deadlines;
use vsgpu::journal::{self, Disk, Folder, Journal, Purpose, Record};
use vsgpu::node::{NodeId, NodeKind, Reach};
use vsgpu::plan::{Plan, Rollout, Step, VERSION, Work};
use vsgpu::run::{self, Control, RunOptions};
use vsgpu_deterministic::disk::MemoryDisk;
use vsgpu_deterministic::real_time_agents::agents;
use vsgpu_deterministic::world::World;

const STEPS: usize = 25;
/// What an answer takes in the scaled run, and what that stands for: a host of 25 steps is busy for about 26
/// minutes in the field (maintenance mode, installation, one reboot of ten minutes; an assumption, no
/// measurement).
const SCALED: Duration = Duration::from_secs(1);
const FIELD: Duration = Duration::from_secs(30);

/// Every host: one setting, changed to and fro.
fn plan(hosts: &[String]) -> Plan {
    let mut steps: Vec<Step> = vec![];
    for host in hosts {
        for n in 0..STEPS {
            let id = steps.len() + 1;
            let policy = if n % 2 == 0 { "Consolidation" } else { "Performance" };
            steps.push(Step {
                id,
                node: NodeId::new(NodeKind::Host, host),
                title: "assignment-policy".into(),
                change: "".into(),
                commands: [].into(),
                work: Work::Meet {
                    requirement: "assignment-policy".into(),
                    spec: std::sync::Arc::new(policy.into()),
                    expect: None,
                },
                after: if n > 0 { vec![id - 1] } else { vec![] },
                restores: None,
                restores_earlier: false,
                connect_secs: 60,
                deadline_secs: 600,
                host: host.clone(),
                disrupts: false,
                moves: None,
                before: None,
            });
        }
    }
    let reach = |h: &String| {
        let reach = Reach { address: h.clone(), node: h.clone(), role: "host".into(), vm: None };
        (NodeId::new(NodeKind::Host, h), reach)
    };
    Plan {
        version: VERSION,
        fleet_file: "/f".into(),
        fleet: String::new(),
        steps,
        reaches: hosts.iter().map(reach).collect(),
        deadlines: Deadlines { connect_secs: 60, ..Deadlines::default() },
        met: 0,
        rollout: Rollout {
            waves: vec![hosts.to_vec()],
            clusters: BTreeMap::new(),
            stop_at_failed: usize::MAX,
        },
        network: None,
    }
}

/// Executes it, with agents that take so long for each answer; gives the time it took.
fn options(hosts: usize, each: Duration, disk: &dyn Disk, threaded: bool) -> Duration {
    let world = World::new(1, hosts);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let begun = Instant::now();
        let connector = agents(&world, each, move || begun.elapsed());
        let record = Record::Planned {
            at: 1,
            run: "bench".into(),
            purpose: Purpose::Apply,
            plan: Box::new(plan(&world.hosts)),
            in_maintenance: Default::default(),
            stopped: Default::default(),
            unsettled: Default::default(),
            rebooted: BTreeMap::new(),
            held: BTreeMap::new(),
        };
        let mut journal = Journal::open(disk, journal::next_number(disk), None).unwrap();
        journal.record(&record).unwrap();
        let mut journal = if threaded { journal.threaded() } else { journal };
        let (_control, control) = watch::channel(Control::Continue);
        let options = RunOptions {
            connector: &connector,
            holder: "bench".into(),
            pause: false,
            restore: false,
            control,
            now: || 1,
        };
        let begun = Instant::now();
        let status = journal::Status::first(record).unwrap();
        let summary = run::run(status, &mut journal, options, &mut |_| {}).await.unwrap();
        assert_eq!((summary.done, summary.failed.len()), (hosts * STEPS, 0), "{:?}", summary.failed.first());
        begun.elapsed()
    })
}

fn main() {
    let short = std::env::args().any(|arg| arg == "--short");
    // Where the journal of an operator would be: a disk, not a memory file system.
    let folder = std::path::absolute("target/vsgpu-run-bench").unwrap();
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    let disk = Folder(folder.clone());
    let mut raw = std::fs::File::create(folder.join("raw")).unwrap();
    let (mut commits, mut with, mut without) = (vec![], vec![], vec![]);
    for _ in 0..if short { 1 } else { 7 } {
        let begun = Instant::now();
        for _ in 0..2 * STEPS {
            raw.write_all(&[b'x'; 110]).unwrap();
            raw.sync_data().unwrap();
        }
        commits.push(begun.elapsed() / STEPS as u32);
        with.push(options(1, Duration::ZERO, &disk, true) / STEPS as u32);
        without.push(options(1, Duration::ZERO, &MemoryDisk::default(), false) / STEPS as u32);
    }
    let median = |mut times: Vec<Duration>| {
        times.sort();
        times[times.len() / 2]
    };
    let (raw, with, without) = (median(commits), median(with), median(without));
    println!("step: two raw commits        {raw:>9.2?}");
    println!(
        "step: whole, with its agent  {with:>9.2?}   ({without:.2?} of it without any disk: engine, RPCs, simulated agent)"
    );
    println!("      target: 1.5 x commits + 1 ms = {:.2?}", raw.mul_f64(1.5) + Duration::from_millis(1));
    // In the short form an answer takes a tenth of that.
    let (fleets, scaled): (&[usize], _) =
        if short { (&[1, 20], SCALED / 10) } else { (&[1, 10, 100, 1000], SCALED) };
    for hosts in fleets.iter().copied() {
        let took = options(hosts, scaled, &disk, true);
        // All nodes beside each other, each asked who it is once, claimed and asked for each step, and given
        // back.
        let answers = 2 + 2 * STEPS as u32;
        let (ideal, field) = (scaled * answers, FIELD * answers);
        let over = took.saturating_sub(ideal);
        let share = |of: Duration| over.as_secs_f64() / of.as_secs_f64() * 100.0;
        // What we cost does not scale with what the machines take: beside the real schedule it is the smaller
        // share.
        println!(
            "fleet of {hosts:>4} x {STEPS} steps      {took:>9.2?}   ideal {ideal:.0?}: {over:.2?} more, {:.1} % of this, {:.2} % of the {} min it stands for   target: 1 %",
            share(ideal),
            share(field),
            field.as_secs() / 60
        );
    }
    let _ = std::fs::remove_dir_all(folder);
}
