//! What would fit, where all of it does not: fewer of one wish, the next smaller profile, another mode, more GPUs.

use super::gpu::{Contents, Gpu, Mode};
use super::problem::{Host, Part, Problem, Want};
use super::solve::solve;
use vsgpu_core::knowledge::gpus;
use vsgpu_core::knowledge::vgpu_types::{self, VgpuType};
use vsgpu_core::words::counted;

/// Hosts that are added, at most, to find how many more would do.
const MOST_HOSTS: usize = 64;
/// Clusters of more VMs than this are not solved again and again for it.
const LARGE: usize = 300;

fn fits(problem: &Problem) -> bool {
    solve(problem).fits
}

/// Sentences, the least change first. Each was tried.
pub fn nearest(problem: &Problem) -> Vec<String> {
    if problem.wants.len() > LARGE {
        return vec![];
    }
    if let Some(other) = of_this_board(problem) {
        return vec![other];
    }
    let mut all = vec![];
    all.extend(other_modes(problem));
    all.extend(fewer(problem));
    all.extend(smaller(problem));
    all.extend(more_hosts(problem));
    all
}

/// Different wishes, with how many of each.
fn kinds(problem: &Problem) -> Vec<(&Want, usize)> {
    let mut all: Vec<(&Want, usize)> = vec![];
    for want in &problem.wants {
        match all.iter_mut().find(|(known, _)| known.is_like(want)) {
            Some((_, n)) => *n += 1,
            None => all.push((want, 1)),
        }
    }
    all
}

/// Only so many of one wish, all others as they are.
fn with_only(problem: &Problem, kind: &Want, most: usize) -> Problem {
    let mut less = problem.clone();
    let mut n = 0;
    less.wants.retain(|want| {
        let counts = want.is_like(kind);
        n += usize::from(counts);
        !counts || n <= most
    });
    less
}

/// The largest number of one wish with which all fits; each wish is tried, the least loss counts.
fn fewer(problem: &Problem) -> Vec<String> {
    let mut all: Vec<(usize, String)> = vec![];
    for (want, n) in kinds(problem) {
        let (mut low, mut high) = (0, n);
        // Fits with `low`, does not with `high`.
        if !fits(&with_only(problem, want, 0)) {
            continue;
        }
        while high - low > 1 {
            let middle = usize::midpoint(low, high);
            if fits(&with_only(problem, want, middle)) { low = middle } else { high = middle }
        }
        let others = if kinds(problem).len() > 1 { ", and all the others" } else { "" };
        if low > 0 {
            all.push((n - low, format!("{low} x {} instead of {n}{others}", want.shown())));
        }
    }
    all.sort();
    all.into_iter().take(2).map(|(_, text)| text).collect()
}

/// The same with the next smaller profile of one wish.
fn smaller(problem: &Problem) -> Option<String> {
    let mut found: Vec<(u64, String)> = vec![];
    for (want, n) in kinds(problem) {
        let [Part::Vgpu(vgpu)] = want.parts.as_slice() else { continue };
        let mut types: Vec<&'static VgpuType> = vgpu_types::of_token(vgpu.token)
            .filter(|t| t.series == vgpu.series && t.mig == vgpu.mig && t.size_mib < vgpu.size_mib)
            .filter(|t| t.name.ends_with(vgpu.series))
            .collect();
        types.sort_by_key(|t| std::cmp::Reverse(t.size_mib));
        for less in types {
            let mut other = problem.clone();
            other.wants.iter_mut().filter(|w| w.is_like(want)).for_each(|w| w.parts = vec![Part::Vgpu(less)]);
            if fits(&other) {
                let loss = (vgpu.size_mib - less.size_mib) * n as u64;
                found.push((
                    loss,
                    format!("{n} x {} instead of {}", vgpu_types::plain(less.profile), want.shown()),
                ));
                break;
            }
        }
    }
    found.into_iter().min().map(|(_, text)| text)
}

fn other_modes(problem: &Problem) -> Option<String> {
    let may =
        |mode: Mode| problem.gpus().any(|g| Gpu::new(g.model).modes.allow(mode) && !g.modes.allow(mode));
    for mode in [Mode::SameSize, Mode::MixedSize].into_iter().filter(|mode| may(*mode)) {
        let mut other = problem.clone();
        for gpu in other.hosts.iter_mut().flat_map(|h| &mut h.gpus) {
            let can = Gpu::new(gpu.model).modes;
            gpu.modes.same_size |= mode == Mode::SameSize && can.same_size;
            gpu.modes.mixed_size |= mode == Mode::MixedSize && can.mixed_size;
        }
        if fits(&other) {
            let needs = if mode == Mode::MixedSize { " (ESXi 8.0 U3 and vGPU 17 or newer)" } else { "" };
            return Some(format!("all of it, with {} allowed{needs}", mode.word()));
        }
    }
    None
}

/// More hosts like the last one that has the GPU.
fn more_hosts(problem: &Problem) -> Option<String> {
    let host = problem.hosts.iter().rfind(|host| {
        problem.wants.iter().flat_map(|w| &w.parts).any(|p| host.gpus.iter().any(|g| p.is_for(g.model)))
    })?;
    let mut empty = host.clone();
    for gpu in &mut empty.gpus {
        (gpu.holds, gpu.taken) = (Contents::default(), false);
    }
    let mut more = problem.clone();
    for n in 1..=MOST_HOSTS {
        more.hosts.push(Host { name: format!("more-{n}"), ..empty.clone() });
        if fits(&more) {
            return Some(format!("{} more, with the GPUs of {}", counted(n, "host"), host.name));
        }
    }
    None
}

/// The profile is one of another board: the same size of the board that is there.
fn of_this_board(problem: &Problem) -> Option<String> {
    let wrong = problem
        .wants
        .iter()
        .flat_map(Want::vgpus)
        .find(|vgpu| !problem.gpus().any(|g| g.model.token.eq_ignore_ascii_case(vgpu.token)))?;
    let mut there: Vec<&str> = problem.gpus().map(|g| g.model.token).collect();
    there.sort_unstable();
    there.dedup();
    let same = |token: &&str| {
        vgpu_types::of_token(token).find(|t| {
            t.size_mib == wrong.size_mib && t.series == wrong.series && t.mig_slices == wrong.mig_slices
        })
    };
    let found = there.iter().find_map(same)?;
    let board = gpus::by_token(found.token).map_or(found.token, |m| m.name);
    Some(format!("{} is that size on the {board}", vgpu_types::plain(found.profile)))
}
