//! Why something does not fit, in words.

use super::exact::{self, Searched};
use super::fits::Fits;
use super::gpu::Gpu;
use super::placement::Placement;
use super::problem::{Host, Part, Problem, Want};
use std::collections::BTreeMap;
use vsgpu_core::knowledge::vgpu_types::VgpuType;
use vsgpu_core::words::counted;
use vsgpu_host_agent::facts::EsxVersion;

/// A wish that no host could meet, were it empty.
pub(super) fn impossible(problem: &Problem, fits: &mut Fits) -> Option<String> {
    let mut seen: Vec<&Want> = vec![];
    for want in &problem.wants {
        if seen.iter().any(|s| s.is_like(want)) {
            continue;
        }
        seen.push(want);
        if let Some(part) = want.parts.iter().find(|part| !problem.gpus().any(|g| part.is_for(g.model))) {
            return Some(wrong_gpu(problem, part));
        }
        if let Some(reason) = wrong_mode(problem, want) {
            return Some(reason);
        }
        if let Some(name) = want.host.as_ref().filter(|name| !problem.hosts.iter().any(|h| h.name == **name))
        {
            return Some(format!("{} is to be on {name}, which is not there", want.vm));
        }
        let alone = |host: &Host| alone(host, want, problem.series_mix, fits);
        let mut hosts =
            problem.hosts.iter().filter(|host| want.host.as_ref().is_none_or(|name| *name == host.name));
        if !hosts.clone().any(|host| want.memory_mib.is_none_or(|m| host.memory_mib.is_none_or(|h| m <= h))) {
            let most = hosts.clone().filter_map(|h| h.memory_mib).max().unwrap_or(0);
            return Some(format!(
                "{} needs {} GiB of memory, all of it reserved; no host has more than {} GiB for VMs",
                want.vm,
                want.memory_mib.unwrap_or(0) / 1024,
                most / 1024
            ));
        }
        if let Some(reason) = own_limits(problem, want) {
            return Some(reason);
        }
        if !hosts.any(alone) {
            let what = want.shown();
            return Some(match want.parts.len() {
                1 => format!("no GPU that is free of others holds {what}"),
                n => format!("a VM is on one host, and none has room for all {n}: {what}"),
            });
        }
    }
    None
}

/// Whether a host that is otherwise empty has room for a VM; yes where that could not be settled.
fn alone(host: &Host, want: &Want, series_mix: bool, fits: &mut Fits) -> bool {
    let free = Want { host: None, ..want.clone() };
    let one = Problem { hosts: vec![host.clone()], wants: vec![free], series_mix, esxi: None };
    !matches!(exact::search(&one, fits, TRIES), Searched::Nothing) || !fits.is_sure()
}

/// Placements that are tried for one VM on one host.
const TRIES: usize = 20_000;

/// What ESXi and NVIDIA allow one VM, whatever is free (facts: nvidia 9).
fn own_limits(problem: &Problem, want: &Want) -> Option<String> {
    let vgpus: Vec<&VgpuType> = want.vgpus().collect();
    let at_least = |least| problem.esxi.as_deref().is_none_or(|v| EsxVersion::at_least(v, least));
    let most = match () {
        () if at_least("8.0.2") => 16,
        () if at_least("8.0") => 8,
        () => 4,
    };
    if vgpus.len() > most {
        return Some(format!("{}: a VM has at most {most} vGPUs", want.shown()));
    }
    let (first, rest) = vgpus.split_first()?;
    if rest.is_empty() {
        return None;
    }
    if vgpus.iter().any(|t| matches!(t.series, "A" | "B")) {
        return Some(format!("{}: of A and B profiles a VM has one", want.shown()));
    }
    if rest.iter().any(|t| t.token != first.token || t.series != first.series) {
        return Some(format!("{}: vGPUs of one VM are of one board and one series", want.shown()));
    }
    let whole = |t: &&VgpuType| !t.mig && vsgpu_core::knowledge::placement::most_of_one_size(t) == 1;
    (!at_least("8.0") && !vgpus.iter().all(whole))
        .then(|| format!("{}: before ESXi 8.0 several vGPUs of a VM must each be a whole GPU", want.shown()))
}

/// The GPU of a wish is not there: that is no matter of room.
fn wrong_gpu(problem: &Problem, part: &Part) -> String {
    let mut there: Vec<&str> = problem.gpus().map(|g| g.model.name).collect();
    there.sort_unstable();
    there.dedup();
    let there = if there.is_empty() { "no GPU at all".into() } else { there.join(", ") };
    match part {
        Part::Vgpu(vgpu) => {
            let board = vsgpu_core::knowledge::gpus::by_token(vgpu.token);
            let board = board.map_or(vgpu.token, |m| m.name);
            format!("{} is a profile of the {board}; the hosts have {there}", part.shown())
        }
        Part::Whole(name) => {
            format!("no GPU is called {}; the hosts have {there}", name.as_deref().unwrap_or("that"))
        }
    }
}

/// The GPUs are there, but none may be brought into the mode that this needs.
fn wrong_mode(problem: &Problem, want: &Want) -> Option<String> {
    want.parts.iter().find_map(|part| {
        let Part::Vgpu(vgpu) = part else { return None };
        let mut of_kind = problem.gpus().filter(|g| part.is_for(g.model) && !g.taken);
        let may = |g: &Gpu| if vgpu.mig { g.modes.mig } else { g.modes.same_size || g.modes.mixed_size };
        if of_kind.any(may) {
            return None;
        }
        let shown = part.shown();
        let board = problem.gpus().find(|g| part.is_for(g.model)).map_or("GPU", |g| g.model.name);
        let can = problem.gpus().filter(|g| part.is_for(g.model)).any(|g| {
            let able = Gpu::new(g.model).modes;
            if vgpu.mig { able.mig } else { able.same_size || able.mixed_size }
        });
        Some(match (vgpu.mig, can) {
            (true, false) => format!("{shown} needs MIG, which the {board} does not have"),
            (true, true) => format!("{shown} needs a GPU in MIG mode, and none is or may be brought into it"),
            (false, _) => format!("{shown} is time-sliced, and no {board} is or may be in a mode for that"),
        })
    })
}

/// What could not be placed, in words.
pub(super) fn left_over(problem: &Problem, placement: &Placement) -> String {
    let mut left: BTreeMap<String, usize> = BTreeMap::new();
    for at in &placement.left {
        *left.entry(problem.wants[*at].shown()).or_default() += 1;
    }
    let list: Vec<String> = left.iter().map(|(what, n)| format!("{n} x {what}")).collect();
    let memory = placement.left.iter().all(|at| {
        let want = &problem.wants[*at];
        let room = |(at, host): (usize, &Host)| {
            host.memory_mib.is_none_or(|h| want.memory_mib.unwrap_or(0) + placement.memory_used[at] <= h)
        };
        want.memory_mib.is_some() && !problem.hosts.iter().enumerate().any(room)
    });
    let why = if memory {
        let there: u64 = problem.hosts.iter().filter_map(|h| h.memory_mib).sum();
        let wanted: u64 = problem.wants.iter().filter_map(|w| w.memory_mib).sum();
        format!(
            ": the memory of VMs with GPUs is reserved whole, {} GiB are wanted, the hosts have {} GiB",
            wanted / 1024,
            there / 1024
        )
    } else if free_but_nowhere(problem, placement) {
        ": there is memory free on GPUs, but at no place where it may lie".into()
    } else {
        String::new()
    };
    format!(
        "{} of {} left over ({}){why}",
        placement.left.len(),
        counted(problem.wants.len(), "VM"),
        list.join(", ")
    )
}

/// A GPU has as much memory free as one that is left needs.
fn free_but_nowhere(problem: &Problem, placement: &Placement) -> bool {
    let free = |host: usize, at: usize| {
        let gpu = &problem.hosts[host].gpus[at];
        let used = placement.contents[host][at].size_mib();
        (!gpu.taken && !placement.whole[host][at]).then(|| (gpu.model.memory_gib * 1024).saturating_sub(used))
    };
    placement.left.iter().all(|at| match problem.wants[*at].parts.as_slice() {
        [part @ Part::Vgpu(vgpu)] => problem.hosts.iter().enumerate().any(|(h, host)| {
            host.gpus.iter().enumerate().any(|(g, gpu)| {
                part.is_for(gpu.model)
                    && free(h, g).is_some_and(|free| free >= vgpu.size_mib)
                    && !placement.contents[h][g].is_empty()
            })
        }),
        _ => false,
    })
}
