//! How fast the questions are answered, and how good the answers of `fit` are: beside first fit, and beside an exact
//! solver of somebody else (whole numbers over every way to fill a GPU).

use crate::fakes::in_process::InProcess;
use crate::lab::{Lab, files};
use microlp::{ComparisonOp, OptimizationDirection};
use std::path::Path;
use std::time::{Duration, Instant};
use vsgpu::advise::{Guest, License, Need, Question, Workload, advise};
use vsgpu::fit::{self, FirstFit, Fits, Mode, Modes, Problem, Want};
use vsgpu::inventory::{Inventory, Seen};
use vsgpu::node::{NodeId, NodeKind};
use vsgpu_core::knowledge::vgpu_types::VgpuType;
use vsgpu_core::observe::observe;
use vsgpu_core::{Scope, Subject};

const SIZES: &str = "A x a100d-4c, B x a100d-8c, C x a100d-10c, D x a100d-16c, E x a100d-20c, F x a100d-40c";
const SLICES: &str =
    "A x a100d-1-10c, B x a100d-1-20c, C x a100d-2-20c, D x a100d-3-40c, E x a100d-4-40c, F x a100d-7-80c";

/// A cluster of so many GPUs, and wishes that take most of it: odd numbers, so that nothing goes up by chance.
fn problem(gpus: usize, mode: Mode) -> Problem {
    let (text, shares) = match mode {
        Mode::Mig => (SLICES, [90, 37, 29, 21, 11, 7]),
        _ => (SIZES, [210, 151, 111, 71, 31, 16]),
    };
    let mut text = text.to_string();
    for (letter, share) in ["A", "B", "C", "D", "E", "F"].iter().zip(shares) {
        let n = (share * gpus).div_ceil(100);
        text = text.replace(&format!("{letter} x"), &format!("{n} x"));
    }
    let wants = fit::wants(&text).unwrap();
    let mut hosts = fit::hosts(&format!("{} x 4 A100-80", gpus.div_ceil(4)), &wants).unwrap();
    hosts.iter_mut().flat_map(|h| &mut h.gpus).for_each(|g| g.modes = Modes::of(&[mode]));
    Problem { hosts, wants, series_mix: true, esxi: None }
}

fn counts(problem: &Problem) -> Vec<(&'static VgpuType, u64)> {
    let mut all: Vec<(&'static VgpuType, u64)> = vec![];
    for vgpu in problem.wants.iter().flat_map(Want::vgpus) {
        match all.iter_mut().find(|(known, _)| std::ptr::eq(*known, vgpu)) {
            Some((_, n)) => *n += 1,
            None => all.push((vgpu, 1)),
        }
    }
    all
}

/// The fewest GPUs, by whole numbers over all ways to fill one; `None` where the solver gives up.
fn exact(problem: &Problem) -> Option<usize> {
    let items = counts(problem);
    let mut fits = Fits::new(true);
    let fillings = fit::fillings(&problem.hosts[0].gpus[0], &items, &mut fits)?;
    let mut model = microlp::Problem::new(OptimizationDirection::Minimize);
    let most = i32::try_from(problem.gpus().count()).ok()?;
    let used: Vec<_> = fillings.iter().map(|_| model.add_integer_var(1.0, (0, most))).collect();
    for (at, (_, n)) in items.iter().enumerate() {
        let row: Vec<_> = used
            .iter()
            .zip(&fillings)
            .filter(|(_, filling)| filling[at] > 0)
            .map(|(x, filling)| (*x, filling[at] as f64))
            .collect();
        model.add_constraint(row.as_slice(), ComparisonOp::Ge, *n as f64);
    }
    match model.solve().ok()? {
        microlp::SolveOutcome::Solution(solution) => Some(solution.objective().round() as usize),
        microlp::SolveOutcome::Interrupted(_) => None,
    }
}

fn of_fit(short: bool, missed: &mut Vec<String>) {
    let sizes: &[usize] = if short { &[20, 80] } else { &[20, 100, 1000] };
    for mode in [Mode::SameSize, Mode::MixedSize, Mode::Mig] {
        let mut per_vm = vec![];
        for gpus in sizes {
            let problem = problem(*gpus, mode);
            let begun = Instant::now();
            let answer = fit::solve(&problem);
            let took = begun.elapsed();
            per_vm.push(took.as_secs_f64() / problem.wants.len() as f64);
            let (used, least) =
                (answer.placement.used(&problem), answer.needs.iter().map(|n| n.at_least).sum::<usize>());
            let first = FirstFit::place(&problem);
            let left = if first.left.is_empty() {
                String::new()
            } else {
                format!(", {} VMs left over", first.left.len())
            };
            // The solver is asked where it answers in seconds.
            let best = if *gpus <= 100 { exact(&problem) } else { None };
            println!(
                "fit      {:<10} {gpus:>5} GPUs {:>6} VMs  {used} used, at least {least}   first fit {}{left}   exact {}   {:.0} ms",
                mode.word(),
                problem.wants.len(),
                first.used(&problem),
                best.map_or("-".into(), |n| n.to_string()),
                took.as_secs_f64() * 1000.0
            );
            if !answer.fits || used > first.used(&problem).max(least) && first.left.is_empty() {
                missed.push(format!("fit {} of {gpus} GPUs is worse than first fit", mode.word()));
            }
            // One GPU more is within one in a hundred only where there are a hundred.
            if used > least + (least / 100).max(1) {
                missed
                    .push(format!("fit {} of {gpus} GPUs: {used} used, {least} are the bound", mode.word()));
            }
            if best.is_some_and(|best| best < least) {
                missed.push(format!(
                    "fit {} of {gpus} GPUs: a bound of {least} above the exact {best:?}",
                    mode.word()
                ));
            }
        }
        let (small, large) = (per_vm[0], per_vm[per_vm.len() - 1]);
        println!(
            "fit      {:<10} a VM of the largest cluster costs {:.1} times one of the smallest",
            mode.word(),
            large / small
        );
    }
}

fn of_advise(missed: &mut Vec<String>) {
    let question = Question {
        workload: Workload::Inference,
        users: 4,
        needs: vec![Need::Vmotion],
        max_loss: Some(20.0),
        gpu: Some("A100-80".into()),
        esxi: Some("8.0.3".into()),
        guest: Guest::Linux,
        license: License::default(),
        memory: None,
    };
    drop(advise(&question));
    let begun = Instant::now();
    for _ in 0..100 {
        drop(advise(&question));
    }
    let each = begun.elapsed() / 100;
    println!("advise   {:.2} ms   target 50 ms", each.as_secs_f64() * 1000.0);
    if !cfg!(debug_assertions) && each > Duration::from_millis(50) {
        missed.push(format!("advise takes {each:?}"));
    }
}

/// All facts of one simulated host with a GPU, of its VM, and of the guest inside.
fn facts_of_one() -> [vsgpu_core::observe::Facts; 3] {
    let lab = Lab::new("guide-bench");
    lab.host("esx-0", "8.0.2", vec![files::a100("0000:3b:00.0")]);
    lab.vm("vm-0", "esx-0");
    let catalogue = vsgpu::catalogue();
    let of = |machine: &str, on: Subject, scope: Scope| {
        let system = InProcess::new(lab.machine(machine), None);
        observe(&system, &on, &catalogue.facts(scope))
    };
    [
        of("esx-0", Subject::node(), Scope::Host),
        of("esx-0", Subject::vm("vm-0"), Scope::Vm),
        of("vm-0", Subject::node(), Scope::Guest),
    ]
}

/// Hosts with one VM each, with all the facts of machines.
fn fleet(hosts: usize) -> (vsgpu::fleet::Fleet, Inventory) {
    let mut text = String::from("version: 1\nhosts:\n");
    for n in 0..hosts {
        text += &format!("  esx-{n}: {{ graphics-type: SharedPassthru }}\n");
    }
    text += "vms:\n";
    for n in 0..hosts {
        text +=
            &format!("  vm-{n}: {{ host: esx-{n}, vgpu: [grid_a100-10c], guest: {{ nouveau: blocked }} }}\n");
    }
    let fleet = vsgpu::fleet::file::from_text(Path::new("fleet.yaml"), &text).unwrap();
    let mut inventory = Inventory::default();
    let [host, vm, guest] = facts_of_one();
    let mut shared = vsgpu::inventory::shared::SharedFacts::default();
    for n in 0..hosts {
        let nodes = [
            (NodeKind::Host, format!("esx-{n}"), &host),
            (NodeKind::Vm, format!("vm-{n}"), &vm),
            (NodeKind::Guest, format!("vm-{n}"), &guest),
        ];
        for (kind, name, facts) in nodes {
            let seen = Seen { facts: shared.of(facts.clone()), ..Seen::default() };
            inventory.nodes.insert(NodeId::new(kind, &name), Ok(seen));
        }
    }
    (fleet, inventory)
}

fn of_diagnose(short: bool, missed: &mut Vec<String>) {
    let mut each = vec![];
    for hosts in if short { [34, 340] } else { [334, 3340] } {
        let (fleet, inventory) = fleet(hosts);
        drop(vsgpu::diagnose::of_fleet(&fleet, &inventory, &[]));
        let begun = Instant::now();
        let all = vsgpu::diagnose::of_fleet(&fleet, &inventory, &[]);
        let took = begun.elapsed();
        assert_eq!(all.len(), hosts);
        println!(
            "diagnose {} nodes: {:.1} ms   target 50 ms for 1,000",
            hosts * 3,
            took.as_secs_f64() * 1000.0
        );
        each.push(took.as_secs_f64() / hosts as f64);
        if !cfg!(debug_assertions) && hosts == 334 && took > Duration::from_millis(50) {
            missed.push(format!("diagnose of 1,000 nodes takes {took:?}"));
        }
    }
    let ratio = each[1] / each[0];
    println!(
        "diagnose a node of the large fleet costs {ratio:.2} times one of the small fleet   target at most 2"
    );
    if ratio > 2.0 {
        missed.push(format!("diagnose grows {ratio:.2} times with the fleet"));
    }
}

/// All of it. Fails where a ratio or a bound is missed.
pub fn run(short: bool) {
    let mut missed = vec![];
    of_fit(short, &mut missed);
    of_advise(&mut missed);
    of_diagnose(short, &mut missed);
    missed.iter().for_each(|what| println!("NOT MET  {what}"));
    assert!(missed.is_empty(), "{missed:?}");
}
