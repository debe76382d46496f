//! The answer of `fit`: each GPU a bar to scale, with its VMs.

use crate::fit::{Answer as Solved, Fits, Held, Mode, Move, Part, Placement, PowerOns, Problem, WHOLE};
use crate::picture::{self, characters};
use crate::render::documents::{self, GpuOf, How, LeftOver, MoveOf, PowerOn, Spare, StartOf, Tenant, value};
use crate::render::words::wrapped;
use crate::render::{Answer, columns};
use std::collections::BTreeMap;
use vsgpu_core::knowledge::vgpu_types;
use vsgpu_core::words::counted;

/// Characters of a bar.
const BAR: usize = 32;
/// More GPUs than this are shown by kinds.
const MANY: usize = 16;

/// All that was asked, answered.
pub struct Report<'a> {
    pub problem: &'a Problem,
    pub solved: &'a Solved,
    /// The placement that is shown.
    pub shown: &'a Placement,
    /// How many moves lead to it from now.
    pub moves: Option<&'a [Move]>,
    /// VMs that start after the moves.
    pub starts: &'a [usize],
    /// Whether fewer moves are known to be too few.
    pub fewest: bool,
    /// Running VMs stay where they are: the question was what fits beside them.
    pub beside: bool,
    pub nearest: &'a [String],
    /// Hosts to spare, and the hosts without which it does not fit.
    pub spare: Option<(usize, Option<Vec<String>>)>,
    pub power_on: Option<&'a PowerOns>,
    /// What would let more of them start, where it was tried.
    pub better: Option<String>,
    pub notes: Vec<String>,
}

/// One GPU of the picture.
struct Row {
    host: String,
    gpu: usize,
    model: &'static str,
    how: &'static str,
    /// `(profile, VM, first part of the GPU, size)`; sizes are parts of 1000.
    tenants: Vec<(String, String, usize, usize)>,
}

fn rows(problem: &Problem, shown: &Placement) -> Vec<Row> {
    let mut fits = Fits::new(problem.series_mix);
    let tenants = shown.tenants(problem);
    let mut all = vec![];
    for (h, host) in problem.hosts.iter().enumerate() {
        for (g, gpu) in host.gpus.iter().enumerate() {
            let of_gpu = tenants.get(&(h, g)).cloned().unwrap_or_default();
            let row = |how, tenants| Row {
                host: host.name.clone(),
                gpu: g + 1,
                model: gpu.model.name,
                how,
                tenants,
            };
            if gpu.taken || shown.whole[h][g] {
                let vm = of_gpu.first().map(|(want, _)| problem.wants[*want].vm.clone()).unwrap_or_default();
                all.push(row("whole", vec![(WHOLE.into(), vm, 0, 1000)]));
                continue;
            }
            let contents = &shown.contents[h][g];
            let Some(held) = fits.held(gpu, contents).filter(|_| !contents.is_empty()) else {
                all.push(row("", vec![]));
                continue;
            };
            all.push(row(held.mode.word(), placed(problem, &held, &of_gpu)));
        }
    }
    all
}

fn placed(problem: &Problem, held: &Held, of_gpu: &[(usize, usize)]) -> Vec<(String, String, usize, usize)> {
    let mut waiting: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (want, part) in of_gpu.iter().rev() {
        if let Part::Vgpu(vgpu) = &problem.wants[*want].parts[*part] {
            waiting.entry(vgpu.name).or_default().push(problem.wants[*want].vm.clone());
        }
    }
    let mut next = 0;
    let mut all: Vec<(String, String, usize, usize)> = held
        .spots
        .iter()
        .map(|spot| {
            let vm = waiting.get_mut(spot.vgpu).and_then(Vec::pop).unwrap_or_default();
            let scale = |n: usize| n * 1000 / held.of.max(1);
            let start = spot.start.unwrap_or(next);
            next = start + spot.size;
            let name = vgpu_types::plain(spot.vgpu);
            (name, vm, scale(start), scale(spot.size))
        })
        .collect();
    all.sort_by_key(|(_, _, start, _)| *start);
    all
}

/// `|8c |8c |8c |·······|`
fn bar(row: &Row) -> String {
    characters(&parts(row), BAR)
}

/// Its bar.
fn parts(row: &Row) -> Vec<picture::Part> {
    let part = |(profile, vm, start, size): &(String, String, usize, usize)| picture::Part {
        label: vgpu_types::short(profile).into(),
        kind: profile.clone(),
        title: format!("{vm} {profile}").trim().into(),
        start: *start,
        size: *size,
    };
    row.tenants.iter().map(part).collect()
}

/// The answer as a file with pictures.
pub fn drawn(problem: &Problem, shown: &Placement) -> String {
    /// More GPUs than this make no picture that anybody reads.
    const MOST: usize = 400;
    let rows = rows(problem, shown);
    let line = |row: &Row| (format!("{}  GPU {}  {}", row.host, row.gpu, row.model), parts(row));
    picture::sheet(&rows.iter().take(MOST).map(line).collect::<Vec<_>>(), rows.len().saturating_sub(MOST))
}

fn counts(row: &Row) -> String {
    let mut counts: Vec<(&str, usize)> = vec![];
    for (profile, ..) in &row.tenants {
        match counts.iter_mut().find(|(name, _)| name == profile) {
            Some((_, n)) => *n += 1,
            None => counts.push((profile, 1)),
        }
    }
    counts.iter().map(|(name, n)| format!("{n} x {name}")).collect::<Vec<_>>().join(", ")
}

/// What is on it, and how it is shared where that is not the plain way.
fn what(row: &Row) -> String {
    match row.how {
        "whole" => String::new(),
        how if how == Mode::SameSize.word() || how.is_empty() => counts(row),
        how => format!("{} ({how})", counts(row)),
    }
}

fn bars(rows: &[Row], wide: bool) -> String {
    let mut lines: Vec<Vec<String>> = vec![];
    if wide || rows.len() <= MANY {
        let mut last = "";
        for row in rows {
            let host = if row.host == last { String::new() } else { row.host.clone() };
            last = &row.host;
            let mut line = vec![format!("  {host}"), format!("{} {}", row.gpu, row.model), bar(row)];
            line.push(what(row));
            lines.push(line);
            if wide {
                lines.extend(row.tenants.iter().filter(|t| !t.1.is_empty()).map(|(profile, vm, ..)| {
                    vec![String::new(), String::new(), format!("  {vm}  {profile}"), String::new()]
                }));
            }
        }
        return columns(&lines);
    }
    let mut kinds: Vec<(String, &Row, usize)> = vec![];
    for row in rows {
        let key = format!("{} {} {}", row.model, row.how, counts(row));
        match kinds.iter_mut().find(|(known, ..)| *known == key) {
            Some((_, _, n)) => *n += 1,
            None => kinds.push((key, row, 1)),
        }
    }
    // Empty ones last.
    kinds.sort_by_key(|(_, row, n)| (row.tenants.is_empty(), std::cmp::Reverse(*n)));
    for (_, row, n) in kinds {
        lines.push(vec![format!("  {n} x"), row.model.into(), bar(row), what(row)]);
    }
    columns(&lines) + "\n  (`-o wide` shows each GPU)"
}

fn head(report: &Report<'_>) -> String {
    let (problem, solved) = (report.problem, report.solved);
    let there = problem.gpus().count();
    let least: usize = solved.needs.iter().map(|n| n.at_least).sum();
    let vms = counted(problem.wants.len(), "VM");
    if !solved.fits {
        let word = if solved.proven { "Does not fit" } else { "No placement was found" };
        let mut text = wrapped(&format!("{word}: {}.", solved.reason.as_deref().unwrap_or_default()), "");
        let placed = problem.wants.len() - report.shown.left.len();
        if placed > 0 {
            text += &format!("\n{placed} of {vms} fit, shown below.");
        }
        return text;
    }
    let used = report.shown.used(problem);
    let mut text = match report.moves {
        Some(moves) if !moves.is_empty() => {
            format!(
                "Fits after {}: {vms} on {used} of {}.",
                counted(moves.len(), "move"),
                counted(there, "GPU")
            )
        }
        _ if report.beside => {
            format!("Fits, and nobody moves: {vms} on {used} of {}.", counted(there, "GPU"))
        }
        _ => format!("Fits: {vms} on {used} of {}.", counted(there, "GPU")),
    };
    if used <= least {
        text += " Fewer would not do.";
    }
    if let Some((n, Some(hosts))) = &report.spare {
        let away = counted(*n, "host");
        text += &format!("\nBut not with {away} away: without {} not all of it fits.", hosts.join(", "));
    }
    if report.moves.is_some_and(<[Move]>::is_empty) && !report.beside {
        text += "\nNo move is needed.";
    }
    text
}

fn names(problem: &Problem, list: &[usize]) -> String {
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for at in list {
        *kinds.entry(problem.wants[*at].shown()).or_default() += 1;
    }
    kinds.iter().map(|(what, n)| format!("{n} x {what}")).collect::<Vec<_>>().join(", ")
}

fn at(problem: &Problem, placed: &crate::fit::Placed) -> String {
    let gpus: Vec<String> = placed.gpus.iter().map(|g| (g + 1).to_string()).collect();
    let word = if gpus.len() == 1 { "GPU" } else { "GPUs" };
    format!("{} {word} {}", problem.hosts[placed.host].name, gpus.join(", "))
}

/// VMs that start at the end: those that had no place before.
fn starts<'a>(report: &'a Report<'_>) -> impl Iterator<Item = (&'a str, &'a crate::fit::Placed)> {
    let problem = report.problem;
    let placed = report.starts.iter().filter_map(|want| Some((*want, report.shown.place_of(*want)?)));
    placed.map(|(want, at)| (problem.wants[want].vm.as_str(), at))
}

/// What a person does, step by step. vsgpu moves no VM between hosts: only vCenter can.
fn plan_of_moves(report: &Report<'_>) -> String {
    let problem = report.problem;
    let moves = report.moves.unwrap_or_default();
    if moves.is_empty() {
        return String::new();
    }
    let mut steps: Vec<String> = vec![];
    let (mut vmotion, mut cycle) = (false, false);
    for one in moves {
        let (vm, from, to) = (&problem.wants[one.want].vm, at(problem, &one.from), at(problem, &one.to));
        let word = if how(one) == How::Vmotion { "vMotion" } else { "power cycle" };
        vmotion |= how(one) == How::Vmotion;
        cycle |= how(one) == How::PowerCycle;
        steps.push(format!("{word} {vm}: {from} -> {to}"));
    }
    steps.extend(starts(report).map(|(vm, to)| format!("power on {vm}: {}", at(problem, to))));
    let mut text = "\nDo, in this order:".to_string();
    for (number, step) in steps.iter().enumerate() {
        text += &format!("\n  {:>2}. {step}", number + 1);
    }
    let mut say = |line: &str| text += &format!("\n{}", wrapped(line, "  "));
    if cycle {
        say(
            "At a power cycle the host picks the GPU. With `assignment-policy: Consolidation` it takes the fuller one; with Performance the VM may come back to where it was.",
        );
    }
    if vmotion {
        say("`vsgpu ready` says of each VM whether it can move now. The moves are made in vCenter.");
    }
    say(match report.fewest {
        true => "Fewer moves do not make room.",
        false => "Fewer moves may do; these were found.",
    });
    text
}

fn how(one: &Move) -> How {
    if one.from.host == one.to.host { How::PowerCycle } else { How::Vmotion }
}

fn below(report: &Report<'_>) -> String {
    let problem = report.problem;
    let mut text = String::new();
    text += &plan_of_moves(report);
    if let Some((n, None)) = &report.spare {
        text += &format!("\nWith any {} away all of it fits on the rest.", counted(*n, "host"));
    }
    if let Some(order) = report.power_on.filter(|o| report.solved.fits && !o.refused().is_empty()) {
        let said = format!(
            "In this order of power-ons, with the policy `{}`, {} may be refused: a host takes GPUs one by one and moves nobody. {}",
            order.policy.word(),
            names(problem, order.refused()),
            report.better.as_deref().unwrap_or("Power on the larger ones first.")
        );
        text += &format!("\n{}", wrapped(&said, ""));
    }
    if !report.nearest.is_empty() {
        text += "\n\nWould fit:";
        text += &report.nearest.iter().map(|line| format!("\n  {line}")).collect::<String>();
    }
    text + &report.notes.iter().map(|note| format!("\n{}", wrapped(note, ""))).collect::<String>()
}

pub fn answer(report: &Report<'_>) -> Answer {
    let rows = rows(report.problem, report.shown);
    let shown: Vec<&Row> = rows.iter().collect();
    let head = head(report);
    let below = below(report);
    let compose = |wide| {
        let picture = bars(&rows, wide);
        let gap = if picture.is_empty() { "" } else { "\n\n" };
        format!("{head}{gap}{picture}{}{below}", if below.is_empty() { "" } else { "\n" })
            .trim_end()
            .to_string()
    };
    let tenant = |(profile, vm, start, size): &(String, String, usize, usize)| Tenant {
        vm: vm.clone(),
        profile: profile.clone(),
        start_permille: *start,
        size_permille: *size,
    };
    let gpu = |row: &&Row| GpuOf {
        host: row.host.clone(),
        gpu: row.gpu,
        model: row.model.into(),
        mode: row.how.into(),
        vms: row.tenants.iter().map(tenant).collect(),
    };
    let solved = report.solved;
    let want = |at: usize| &report.problem.wants[at];
    let one = |m: &Move| MoveOf {
        vm: want(m.want).vm.clone(),
        how: how(m),
        from: at(report.problem, &m.from),
        to: at(report.problem, &m.to),
    };
    let document = value(&documents::Fit {
        fits: solved.fits,
        proven: solved.proven,
        reason: solved.reason.clone(),
        bound: solved.needs.iter().map(|n| n.at_least).sum(),
        needs: solved.needs.clone(),
        gpus_there: report.problem.gpus().count(),
        gpus_used: report.shown.used(report.problem),
        placement: shown.iter().filter(|row| !row.tenants.is_empty()).map(gpu).collect(),
        left_over: (report.shown.left.iter())
            .map(|at| LeftOver { vm: want(*at).vm.clone(), wants: want(*at).shown() })
            .collect(),
        nearest: report.nearest.to_vec(),
        moves: report.moves.map(|moves| moves.iter().map(one).collect()),
        power_on_after: starts(report)
            .map(|(vm, to)| StartOf { vm: vm.into(), at: at(report.problem, to) })
            .collect(),
        spare: report.spare.as_ref().map(|(hosts, without)| Spare {
            hosts: *hosts,
            fits: without.is_none(),
            without: without.clone(),
        }),
        power_on: report.power_on.map(|order| PowerOn {
            policy: order.policy,
            refused: order.refused().iter().map(|at| want(*at).vm.clone()).collect(),
        }),
        notes: report.notes.clone(),
    });
    let word = if solved.fits { "fits" } else { "does-not-fit" };
    Answer { wide: Some(compose(true)), names: vec![word.into()], ..Answer::new(document, compose(false)) }
}
