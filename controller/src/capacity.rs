//! GPUs of hosts as they were seen, and who wants a part of them: what `fit` is asked.

use crate::compat::{self, GpuClaim, HostGpus};
use crate::fit::{Contents, Gpu, Host, Modes, Part, Placed, Placement, Problem, Want};
use crate::fleet::Fleet;
use crate::inventory::Inventory;
use crate::node::{NodeId, NodeKind};
use std::collections::{BTreeMap, BTreeSet};
use vsgpu_core::knowledge::{gpus, vgpu_types};
use vsgpu_host_agent::facts::{EsxVersion, PciGpus, Vgpus, VmConfig};

/// The question, with how it is now.
pub struct Capacity {
    pub problem: Problem,
    /// VMs that run, each where it is.
    pub now: Placement,
    /// Addresses of the GPUs of each host.
    pub addresses: Vec<Vec<String>>,
    /// What is not known, in words.
    pub unknown: Vec<String>,
}

/// From ESXi 8.0 U2 on vGPUs of one size and several series share a GPU (facts: nvidia 9; one source).
const SERIES_MIX: &str = "8.0.2";

/// Everybody who is to run when all is as the fleet file says, and `more` beside them. `pinned`: each VM stays on its host;
/// else those with vGPUs may move.
pub fn of(fleet: &Fleet, inventory: &Inventory, more: &[Want], pinned: bool) -> Capacity {
    let hosts = compat::gpus_of_hosts(fleet, Some(inventory), &BTreeSet::new());
    let mut unknown: Vec<String> = fleet
        .hosts
        .iter()
        .filter(|host| !hosts.iter().any(|seen| seen.host == host.name))
        .map(|host| format!("{}: its GPUs are not known, it is left out", host.name))
        .collect();
    let mut problem = Problem { series_mix: true, ..Problem::default() };
    let mut addresses = vec![];
    for host in &hosts {
        let (one, of_host) = seen(host, inventory, &mut unknown);
        if let Some(version) = &host.esxi
            && problem.esxi.as_deref().is_none_or(|oldest| !EsxVersion::at_least(version, oldest))
        {
            problem.esxi = Some(version.clone());
        }
        problem.series_mix &= host.esxi.as_deref().is_none_or(|v| EsxVersion::at_least(v, SERIES_MIX));
        problem.hosts.push(one);
        addresses.push(of_host);
    }
    let mut places = vec![];
    for (at, host) in hosts.iter().enumerate() {
        let vgpus = inventory.fact::<Vgpus>(&host.node).ok();
        for claim in host.claims.iter().filter(|claim| claim.runs) {
            let Some(mut want) = want(host, claim, inventory, &mut unknown) else { continue };
            if !pinned && want.parts.iter().all(|part| matches!(part, Part::Vgpu(_))) {
                want.host = None;
            }
            let placed = if claim.running_now {
                place_of(claim, &want, &addresses[at], vgpus.as_ref()).map(|gpus| Placed { host: at, gpus })
            } else {
                None
            };
            places.push(placed);
            problem.wants.push(want);
        }
    }
    problem.wants.extend(more.iter().cloned());
    let mut now = Placement::new(&problem);
    for (at, placed) in places.into_iter().enumerate() {
        if let Some(placed) = placed {
            now.put(&problem, at, placed);
        }
    }
    now.left = (0..problem.wants.len()).filter(|at| now.at[*at].is_none()).collect();
    Capacity { problem, now, addresses, unknown }
}

/// What the VMs of a fleet file wish for, wherever they are.
pub fn of_file(fleet: &Fleet) -> Vec<Want> {
    let none = Inventory::default();
    let hosts = compat::gpus_of_hosts(fleet, None, &BTreeSet::new());
    let mut unknown = vec![];
    let of_host = |host: &HostGpus| {
        let runs = host.claims.iter().filter(|claim| claim.runs);
        runs.filter_map(|claim| want(host, claim, &none, &mut unknown)).collect::<Vec<_>>()
    };
    let all: Vec<Want> = hosts.iter().flat_map(of_host).collect();
    all.into_iter().map(|want| Want { host: None, ..want }).collect()
}

fn seen(host: &HostGpus, inventory: &Inventory, unknown: &mut Vec<String>) -> (Host, Vec<String>) {
    let listed = inventory.fact::<PciGpus>(&host.node).ok();
    let numa = |address: &str| {
        listed.as_ref().and_then(|l| l.gpus().into_iter().find(|g| g.address == address)?.numa_node)
    };
    let mut gpus = vec![];
    let mut addresses = vec![];
    for gpu in &host.gpus {
        let Some(model) = gpu.gpu.model() else {
            unknown.push(format!("{}: {} is in no table, it is left out", host.host, gpu.gpu.shown()));
            continue;
        };
        let mut one = Gpu::new(model);
        // As it is or is wished to be: what a GPU is brought into for a plan is the fleet file's to say.
        one.modes = match (gpu.given, gpu.mig) {
            (true, _) => Modes::NONE,
            (false, Some(true)) => Modes { mig: true, ..Modes::NONE },
            (false, _) if gpu.mixed => Modes { mixed_size: true, ..Modes::NONE },
            (false, _) => Modes { same_size: true, ..Modes::NONE },
        };
        one.whole = gpu.given;
        one.numa = numa(&gpu.gpu.address).map(u64::from);
        gpus.push(one);
        addresses.push(gpu.gpu.address.clone());
    }
    (Host { name: host.host.clone(), gpus, memory_mib: None }, addresses)
}

fn want(host: &HostGpus, claim: &GpuClaim, inventory: &Inventory, unknown: &mut Vec<String>) -> Option<Want> {
    let mut parts = vec![];
    for profile in &claim.profiles {
        match vgpu_types::find(profile) {
            Some(vgpu) => parts.push(Part::Vgpu(vgpu)),
            None => unknown.push(format!("{}: profile {profile} is in no table, it is left out", claim.vm)),
        }
    }
    parts.extend(claim.fixed.iter().map(|_| Part::Whole(None)));
    let model = |ids: &String| {
        let id = ids.split(',').next()?.rsplit_once(':')?.1.trim().to_lowercase();
        Some(gpus::by_pci(&id, None)?.name.to_string())
    };
    parts.extend(claim.dynamic.iter().map(|ids| Part::Whole(model(ids))));
    if parts.is_empty() {
        return None;
    }
    let node = claim.node.clone().unwrap_or_else(|| NodeId::new(NodeKind::Vm, &claim.vm));
    let memory_mib = inventory.fact::<VmConfig>(&node).ok().map(|config| config.memory_mib);
    Some(Want { vm: claim.vm.clone(), parts, memory_mib, host: Some(host.host.clone()), apart: vec![] })
}

/// The GPU of each part of a VM that runs; `None` where one of them is not known.
fn place_of(
    claim: &GpuClaim,
    want: &Want,
    addresses: &[String],
    vgpus: Option<&Vgpus>,
) -> Option<Vec<usize>> {
    let at = |address: &str| addresses.iter().position(|a| a == address);
    let mut of_vm: Vec<usize> = vec![];
    for gpu in &vgpus.as_ref().map(|v| v.gpus.as_slice()).unwrap_or_default().to_vec() {
        let mine = gpu.vgpus.iter().filter(|v| v.vm_name.as_deref() == Some(claim.vm.as_str()));
        of_vm.extend(mine.filter_map(|_| at(&gpu.bus_id)));
    }
    let mut vgpus = of_vm.into_iter();
    let mut fixed = claim.fixed.iter();
    want.parts
        .iter()
        .map(|part| match part {
            Part::Vgpu(_) => vgpus.next(),
            Part::Whole(None) => fixed.next().and_then(|address| at(address)),
            Part::Whole(Some(_)) => None,
        })
        .collect()
}

/// How many more of each profile a GPU would take, as it is now; the largest profiles first.
pub fn still_fits(problem: &Problem, now: &Placement, host: usize, gpu: usize) -> Vec<(String, u64)> {
    let there = &problem.hosts[host].gpus[gpu];
    if now.whole[host][gpu] || there.taken || there.modes == Modes::NONE {
        return vec![];
    }
    let mut fits = crate::fit::Fits::new(problem.series_mix);
    let mut all: BTreeMap<(bool, u64), (String, u64)> = BTreeMap::new();
    for vgpu in vgpu_types::of_token(there.model.token).filter(|t| matches!(t.series, "C" | "Q")) {
        let mut holds: Contents = now.contents[host][gpu].clone();
        let mut n = 0;
        while n < 64 && fits.fit(there, &holds.with(vgpu)) {
            holds.add(vgpu);
            n += 1;
        }
        if n > 0 && holds.0.iter().all(|(t, _)| t.mig == vgpu.mig) {
            all.entry((vgpu.mig, u64::MAX - vgpu.size_mib)).or_insert((vgpu_types::plain(vgpu.profile), n));
        }
    }
    all.into_values().collect()
}
