//! Compatibility checks: combinations across host, VM and guest that do not work, found before anything is
//! touched. Pure. One file and one line each: a constraint looks at a `Combination` (one VM on its host, or
//! what `vsgpu compat` was asked), at a `HostGpus` (the GPUs of one host and everybody who wants a part of
//! them) or at a `PoolLink` (a client and one of its GPU servers).
//!
//! What is certain is refused; what rests on an uncertain row or on a rule of thumb is a warning and says so.
//! Every answer names both sides, what it rests on, and the nearest combination that works.

mod clock;
mod cuda_driver;
mod driver_kind;
mod driver_pair;
mod ecc_vgpu;
mod esxi_release;
mod gpu_branch;
mod gpu_names;
mod gpu_owner;
mod guest_view;
mod host_serves;
mod inputs;
mod large_bars;
mod license_era;
mod license_product;
mod memory;
mod migration;
mod mixed_sizes;
mod nested;
mod nvswitch;
mod package_role;
mod pool_cuda;
mod pool_engine;
mod pool_latency;
mod pool_link;
mod pool_members;
mod pool_own_gpu;
mod pool_servers;
mod profile_exists;
mod profile_fits;
mod withdrawn;

mod combination;

pub use combination::{
    Combination, Finding, Gpu, GpuClaim, GuestDriver, HostGpus, LicenseWay, Module, Stated,
};
pub(crate) use driver_pair::{
    NAME as DRIVER_PAIR, check as check_pair, guest_of, named, newer_than_host, release_not_in_table,
};
pub(crate) use gpu_names::not_in_table;
pub use inputs::{combinations, gpus_of_hosts};
pub use pool_latency::told as network_cost;
pub use pool_link::PoolLink;

use crate::error::{Error, Kind};
use crate::fleet::Fleet;
use crate::inventory::{Inventory, elsewhere};
use crate::node::{NodeId, NodeKind};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use vsgpu_core::text::sentence;

/// Constraints whose doubt means: not in the vendor's list, or in none of ours. Nobody may read that as a yes.
pub(crate) const OUTSIDE: [&str; 6] =
    [driver_pair::NAME, "profile-exists", "gpu-branch", "esxi-release", "nvswitch", gpu_names::NAME];

/// The constraint on packages and the keys that they stand at.
pub const PACKAGE_ROLE: &str = "package-role";

/// One constraint on a combination.
pub struct Constraint {
    /// Name, as findings show it.
    pub name: &'static str,
    /// One line for people.
    pub about: &'static str,
    /// What is wrong, if anything.
    pub check: fn(&Combination) -> Vec<Finding>,
    /// It is between a guest and its host's vGPU manager: what it refuses stops a change of the manager as
    /// well.
    pub stops_host: bool,
}

impl Constraint {
    const fn of(name: &'static str, about: &'static str, check: fn(&Combination) -> Vec<Finding>) -> Self {
        Self { name, about, check, stops_host: false }
    }

    const fn stopping_host(self) -> Self {
        Self { stops_host: true, ..self }
    }
}

/// One constraint on the GPUs of a host.
pub struct RoomConstraint {
    /// Name, as findings show it.
    pub name: &'static str,
    /// One line for people.
    pub about: &'static str,
    /// What is wrong, if anything.
    pub check: fn(&HostGpus) -> Vec<Finding>,
}

/// One constraint on a client and one of its GPU servers.
pub struct PoolConstraint {
    /// Name, as findings show it.
    pub name: &'static str,
    /// One line for people.
    pub about: &'static str,
    /// What is wrong, if anything.
    pub check: fn(&PoolLink) -> Vec<Finding>,
}

/// All constraints on combinations.
pub const ALL: [Constraint; 19] = [
    Constraint::of("withdrawn-release", "Releases that NVIDIA took back", withdrawn::check),
    Constraint::of("esxi-release", "ESXi and vGPU manager", esxi_release::check),
    Constraint::of("gpu-branch", "GPU and driver branch", gpu_branch::check).stopping_host(),
    Constraint::of("host-serves", "vGPU and a host that serves vGPUs", host_serves::check).stopping_host(),
    Constraint::of(driver_pair::NAME, "vGPU manager and guest driver", driver_pair::check).stopping_host(),
    Constraint::of("driver-kind", "Kind of guest driver and how the VM gets its GPU", driver_kind::check),
    Constraint::of("profile-exists", "vGPU profile and the host's GPUs", profile_exists::check),
    Constraint::of("mixed-sizes", "Mixed vGPU sizes and the releases that know them", mixed_sizes::check),
    Constraint::of("license-era", "License server and vGPU release", license_era::check).stopping_host(),
    Constraint::of(
        "license-product",
        "Licensed product, vGPU series and passthrough",
        license_product::check,
    ),
    Constraint::of("ecc-vgpu", "ECC and vGPU release", ecc_vgpu::check),
    Constraint::of("cuda-driver", "CUDA toolkit, driver and profile", cuda_driver::check),
    Constraint::of("memory", "Memory reservation and GPUs", memory::check),
    Constraint::of("large-bars", "Firmware, MMIO window and the GPUs' BARs", large_bars::check),
    Constraint::of("nvswitch", "GPUs behind NVSwitches, whole and as vGPUs", nvswitch::check),
    Constraint::of("nested", "Nested virtualization and PCI devices", nested::check),
    Constraint::of(
        "guest-view",
        "What the guest sees of its host, and what the host says",
        guest_view::check,
    ),
    Constraint::of("clock", "The guest's clock and this machine's", clock::check),
    Constraint::of("migration", "vMotion, suspend and snapshots, and GPUs", migration::check),
];

/// All constraints on the GPUs of a host.
pub const ROOMS: [RoomConstraint; 3] = [
    RoomConstraint {
        name: gpu_names::NAME,
        about: "GPUs that keys of a host name, and those it has",
        check: gpu_names::check,
    },
    RoomConstraint {
        name: "gpu-owner",
        about: "A GPU is passed through or serves vGPUs, and belongs to one VM",
        check: gpu_owner::check,
    },
    RoomConstraint {
        name: "profile-fits",
        about: "vGPU profiles and the room on the host's GPUs",
        check: profile_fits::check,
    },
];

/// All constraints on clients and their GPU servers.
pub const POOLS: [PoolConstraint; 6] = [
    PoolConstraint {
        name: "pool-servers",
        about: "Servers that a client names, and VMs with `gpu-server`",
        check: pool_servers::check,
    },
    PoolConstraint {
        name: "pool-engine",
        about: "The engine's build on both sides",
        check: pool_engine::check,
    },
    PoolConstraint {
        name: "pool-members",
        about: "A client and the teams of its GPU servers",
        check: pool_members::check,
    },
    PoolConstraint {
        name: "pool-cuda",
        about: "CUDA of the engine, the server's driver and the client's toolkit",
        check: pool_cuda::check,
    },
    PoolConstraint {
        name: "pool-latency",
        about: "The round trip to a GPU server",
        check: pool_latency::check,
    },
    PoolConstraint {
        name: "pool-own-gpu",
        about: "A client with a GPU of its own",
        check: pool_own_gpu::check,
    },
];

#[derive(Clone, Debug, Default)]
pub struct Judgement {
    /// What must not be done, by node.
    pub refused: BTreeMap<NodeId, Vec<Error>>,
    /// All refusals, each once.
    pub errors: Vec<Error>,
    /// What may go wrong.
    pub warnings: Vec<Finding>,
}

pub fn judge_one(combination: &Combination) -> Vec<Finding> {
    let of = |c: &Constraint, finding: Finding| {
        let mut finding = finding.of(c.name);
        finding.nodes.extend(combination.changing_host.clone().filter(|_| c.stops_host));
        finding
    };
    ALL.iter()
        .flat_map(|c| (c.check)(combination).into_iter().map(|f| of(c, f)).collect::<Vec<_>>())
        .collect()
}

/// Judges a fleet, with what was seen of it (and then with its GPUs dealt, `assign::settled`) or without.
/// `stopped`: VMs that an earlier run shut down and that will be started again.
pub fn judge(fleet: &Fleet, inventory: Option<&Inventory>, stopped: &BTreeSet<String>) -> Judgement {
    let mut judgement = Judgement::default();
    // What several nodes share is said once; of each node once.
    let (mut warned, mut refused, mut of_node) = (HashSet::new(), HashSet::new(), HashSet::new());
    let of_combinations = combinations(fleet, inventory).into_iter().flat_map(|c| judge_one(&c));
    let of_rooms = gpus_of_hosts(fleet, inventory, stopped).into_iter().flat_map(|host_gpus| {
        let found = ROOMS.iter().flat_map(|c| (c.check)(&host_gpus).into_iter().map(|f| f.of(c.name)));
        found.collect::<Vec<_>>()
    });
    let of_pools = pool_link::links(fleet, inventory).into_iter().flat_map(|link| {
        let found = POOLS.iter().flat_map(|c| (c.check)(&link).into_iter().map(|f| f.of(c.name)));
        found.collect::<Vec<_>>()
    });
    for (vm, host) in inventory.map(|seen| elsewhere(fleet, seen)).unwrap_or_default() {
        let Some(wished) = fleet.vms.iter().find(|v| v.name == vm) else { continue };
        let error = moved(wished, &host);
        for kind in [NodeKind::Vm, NodeKind::Guest] {
            judgement.refused.entry(NodeId::new(kind, &vm)).or_default().push(error.clone());
        }
        judgement.errors.push(error);
    }
    let of_packages = package_role::findings(fleet).into_iter().map(|f| f.of(PACKAGE_ROLE));
    for finding in of_packages.chain(of_combinations).chain(of_rooms).chain(of_pools) {
        if !finding.refused() {
            if warned.insert(finding.clone()) {
                judgement.warnings.push(finding);
            }
            continue;
        }
        let error = error(&finding);
        for node in &finding.nodes {
            if of_node.insert((node.clone(), error.clone())) {
                judgement.refused.entry(node.clone()).or_default().push(error.clone());
            }
        }
        if refused.insert(error.clone()) {
            judgement.errors.push(error);
        }
    }
    judgement
}

/// A VM that is on another host than the fleet file says: nothing is done to it there or here.
pub(crate) fn moved(vm: &crate::fleet::Vm, host: &str) -> Error {
    let says = vm.wished_host();
    let error = |what: String| Error::new(Kind::Blocked, what).code("vm-elsewhere");
    if vm.may_be_on(host) {
        return error(format!("{} has just moved from {} to {host}", vm.name, vm.host))
            .hint("nothing is wrong: type the same again");
    }
    let hosts = if vm.any.is_empty() { vm.host.clone() } else { vm.any.join(", ") };
    error(format!("{} is on {host}, the fleet file says {says}", vm.name)).hint(format!(
        "if {host} is right, write `host: {host}` for it; if not, move it in vCenter; if DRS moves it, write `host: {{ any: [{hosts}, {host}] }}`"
    ))
}

/// A refusal as an error.
pub fn error(finding: &Finding) -> Error {
    let error = Error::new(Kind::Blocked, finding.what.clone())
        .code(finding.constraint)
        .detail(format!("{}: {}", finding.constraint, finding.basis));
    match &finding.nearest {
        Some(nearest) => error.hint(nearest.clone()),
        None => error,
    }
}

/// A warning in one paragraph.
pub fn warning(finding: &Finding) -> String {
    let nearest = finding.nearest.as_ref().map(|n| format!("\n  {}", sentence(n))).unwrap_or_default();
    let (what, basis) = (sentence(&finding.what), sentence(&finding.basis.to_string()));
    // What rests on no document is what was seen.
    if finding.basis.source.is_empty() {
        return format!("warning: {what}{nearest}");
    }
    let why = if finding.basis.confirmed { "" } else { "not refused, because this is not certain; " };
    format!("warning: {what}\n  {why}{}: {basis}{nearest}", finding.constraint)
}
