//! Room for vGPUs: everybody who is to run must fit. Time-sliced vGPUs of one GPU have one size unless mixed
//! sizes are on; MIG-backed ones need GPUs divided by MIG, and the two never share a GPU.

use crate::compat::combination::{Finding, GpuClaim, HostGpu, HostGpus};
use std::collections::BTreeMap;
use vsgpu_core::knowledge::vgpu_types::{self, VgpuType};
use vsgpu_core::knowledge::{Basis, gpus};

/// Slices of a GPU that is divided by MIG.
const MIG_SLICES: u64 = 7;

/// Profiles of one board type, with who wants each.
struct Wants<'a> {
    all: Vec<(&'a GpuClaim, &'static VgpuType)>,
}

pub(super) fn check(host_gpus: &HostGpus) -> Vec<Finding> {
    let mut by_token: BTreeMap<&'static str, Wants<'_>> = BTreeMap::new();
    for claim in host_gpus.claims.iter().filter(|t| t.runs) {
        for vgpu in claim.profiles.iter().filter_map(|p| vgpu_types::find(p)) {
            by_token.entry(vgpu.token).or_insert_with(|| Wants { all: vec![] }).all.push((claim, vgpu));
        }
    }
    by_token.into_iter().flat_map(|(token, wants)| of_token(host_gpus, token, &wants)).collect()
}

fn of_token(host_gpus: &HostGpus, token: &str, wants: &Wants<'_>) -> Vec<Finding> {
    let gpus: Vec<&HostGpu> = host_gpus
        .gpus
        .iter()
        .filter(|g| !g.given && g.gpu.model().is_some_and(|m| m.token.eq_ignore_ascii_case(token)))
        .collect();
    // No such GPU: other constraints say so.
    if gpus.is_empty() || wants.all.iter().all(|(t, _)| t.node.is_none()) {
        return vec![];
    }
    let of = |mig: bool| wants.all.iter().filter(move |(_, v)| v.mig == mig);
    let count = |mig: bool| gpus.iter().filter(|g| g.mig.unwrap_or(false) == mig).count();
    let claims = |mig: bool| of(mig).map(|(t, _)| *t).collect::<Vec<_>>();
    let mut found = vec![];
    let unknown = gpus.iter().any(|g| g.mig.is_none() && g.gpu.model().is_some_and(|m| m.mig));
    for (mig, lacks, nearest) in [
        (true, "no GPU of that kind is divided by MIG", "set `mig: on` of a GPU"),
        (
            false,
            "every GPU of that kind is divided by MIG",
            "set `mig: off` of a GPU, or use MIG-backed profiles",
        ),
    ] {
        if let Some((_, first)) = of(mig).next().filter(|_| count(mig) == 0) {
            let kind = if mig { "MIG-backed" } else { "time-sliced" };
            let what = format!("{} {kind} vGPUs ({}), but {lacks}", who_wants(&claims(mig)), first.profile);
            let finding = host_gpus.finding(&claims(mig), what, first.basis.clone(), Some(nearest.into()));
            found.push(if unknown { finding.doubtful() } else { finding });
        }
    }
    if !found.is_empty() {
        return found;
    }
    found.extend(time_sliced(host_gpus, &gpus, &of(false).copied().collect::<Vec<_>>()));
    found.extend(divided(host_gpus, &gpus, &of(true).copied().collect::<Vec<_>>()));
    found
}

fn names(claims: &[&GpuClaim]) -> String {
    let mut list: Vec<&str> = claims.iter().map(|t| t.vm.as_str()).collect();
    list.dedup();
    match list.as_slice() {
        [a, b, c, d, rest @ ..] if !rest.is_empty() => format!("{a}, {b}, {c}, {d} and {} more", rest.len()),
        some => some.join(", "),
    }
}

/// Who wants something.
fn who_wants(claims: &[&GpuClaim]) -> String {
    let one = claims.iter().all(|t| t.vm == claims[0].vm);
    format!("{} {}", names(claims), if one { "wants" } else { "want" })
}

/// Most vGPUs of a type on one GPU: as published, else by memory (facts: nvidia 4).
fn most(vgpu: &VgpuType, mixed: bool) -> u64 {
    let memory = gpus::by_token(vgpu.token).map_or(0, |m| m.memory_gib * 1024);
    let by_memory = (memory / vgpu.size_mib.max(1)).clamp(1, 32);
    let published = if mixed { vgpu.max_mixed.or(vgpu.max) } else { vgpu.max };
    published.unwrap_or(by_memory)
}

fn time_sliced(
    host_gpus: &HostGpus,
    gpus: &[&HostGpu],
    wants: &[(&GpuClaim, &'static VgpuType)],
) -> Option<Finding> {
    let free: Vec<&&HostGpu> = gpus.iter().filter(|g| g.mig != Some(true)).collect();
    let mixed = free.iter().filter(|g| g.mixed).count();
    let mut of_size: BTreeMap<u64, Vec<&'static VgpuType>> = BTreeMap::new();
    for (_, vgpu) in wants {
        of_size.entry(vgpu.size_mib).or_default().push(vgpu);
    }
    let shown: Vec<String> =
        of_size.values().map(|list| format!("{} x {}", list.len(), list[0].profile)).collect();
    let claims: Vec<&GpuClaim> = wants.iter().map(|(t, _)| *t).collect();
    let nearest = || {
        let total: u64 = of_size.values().map(|list| list.len() as u64).sum();
        let each = total.div_ceil(free.len().max(1) as u64);
        let first = wants.first().map(|(_, v)| *v)?;
        let fitting = vgpu_types::of_token(first.token)
            .filter(|t| !t.mig && t.series == first.series && most(t, false) >= each);
        let largest = fitting.max_by_key(|t| t.size_mib)?;
        Some(format!(
            "{total} vGPUs of one size fit as {} or smaller; or let some VMs be off, or put them on another host",
            largest.profile
        ))
    };
    if mixed == 0 {
        // Equal sizes on each GPU: whole GPUs per size. With GPUs of one kind this count is exact.
        let needed: u64 = of_size
            .values()
            .map(|list| (list.len() as u64).div_ceil(list.iter().map(|v| most(v, false)).min().unwrap_or(1)))
            .sum();
        if needed <= free.len() as u64 {
            return series_mixed(host_gpus, &of_size, free.len() as u64, &claims);
        }
        let what = format!(
            "{} {}: in same-size mode that takes {needed} GPU(s) of that kind, {} serve vGPUs",
            who_wants(&claims),
            shown.join(" + "),
            free.len()
        );
        let basis = wants.first().map(|(_, v)| v.basis.clone())?;
        let known = of_size.values().flatten().all(|v| v.basis.confirmed && v.max.is_some());
        let finding = host_gpus.finding(&claims, what, basis, nearest());
        return Some(if known { finding } else { finding.doubtful() });
    }
    // Mixed sizes: placement ids make less fit than memory alone says, so this is only the upper bound.
    let memory = |g: &HostGpu| g.gpu.model().map_or(0, |m| m.memory_gib * 1024);
    let total: u64 = free.iter().map(|g| memory(g)).sum();
    let wanted: u64 = wants.iter().map(|(_, v)| v.size_mib).sum();
    (wanted > total).then(|| {
        let what = format!(
            "{} {}: {} GiB of frame buffer, the GPUs have {}",
            who_wants(&claims),
            shown.join(" + "),
            wanted / 1024,
            total / 1024
        );
        host_gpus.finding(
            &claims,
            what,
            Basis::document("sum of the profiles' sizes against the GPUs' memory", true),
            nearest(),
        )
    })
}

/// Types of one size but of several series on one GPU: uncertain before ESXi 8.0.3.
fn series_mixed(
    host_gpus: &HostGpus,
    of_size: &BTreeMap<u64, Vec<&'static VgpuType>>,
    gpus: u64,
    claims: &[&GpuClaim],
) -> Option<Finding> {
    let old =
        host_gpus.esxi.as_deref().is_none_or(|v| !vsgpu_host_agent::facts::EsxVersion::at_least(v, "8.0.3"));
    let mut needed = 0;
    for list in of_size.values() {
        let mut by_series: BTreeMap<&str, u64> = BTreeMap::new();
        for vgpu in list {
            *by_series.entry(vgpu.series).or_default() += 1;
        }
        needed += by_series
            .values()
            .map(|n| n.div_ceil(list.iter().map(|v| most(v, false)).min().unwrap_or(1)))
            .sum::<u64>();
    }
    (old && needed > gpus).then(|| {
        let what =
            format!("{}: vGPUs of one size but of several series would have to share a GPU", names(claims));
        let basis = Basis::document("NVIDIA vGPU user guide; before ESXi 8.0.3 not confirmed", false);
        host_gpus.finding(claims, what, basis, Some("use one series for each size".into()))
    })
}

fn divided(
    host_gpus: &HostGpus,
    gpus: &[&HostGpu],
    wants: &[(&GpuClaim, &'static VgpuType)],
) -> Option<Finding> {
    let parts = gpus.iter().filter(|g| g.mig == Some(true)).count();
    let mut slices: Vec<u64> = wants.iter().filter_map(|(_, v)| v.mig_slices).collect();
    slices.sort_unstable_by(|a, b| b.cmp(a));
    let mut free = vec![MIG_SLICES; parts];
    let all_fit = slices.iter().all(|n| match free.iter_mut().find(|f| **f >= *n) {
        Some(host_gpus) => {
            *host_gpus -= n;
            true
        }
        None => false,
    });
    // Geometry is stricter than the sum of slices, which is therefore sure only where it is too large.
    (!all_fit).then(|| {
        let claims: Vec<&GpuClaim> = wants.iter().map(|(t, _)| *t).collect();
        let total: u64 = slices.iter().sum();
        let what = format!(
            "{} MIG-backed vGPUs of {total} slices; {parts} divided GPU(s) have {}",
            who_wants(&claims),
            parts as u64 * MIG_SLICES
        );
        let basis = Basis {
            table: "vgpu_types.tsv",
            row: wants.first().map(|(_, v)| v.name.to_string()).unwrap_or_default(),
            confirmed: total > parts as u64 * MIG_SLICES,
            source: "MIG geometry: seven slices a GPU".into(),
        };
        host_gpus.finding(
            &claims,
            what,
            basis,
            Some("use smaller MIG profiles, or divide another GPU".into()),
        )
    })
}
