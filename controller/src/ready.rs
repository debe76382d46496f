//! What each VM with a GPU can do right now (vMotion, suspend, snapshots), what each host's maintenance mode
//! would take, and which settings are missing. From facts alone; what only vCenter knows is said to be there
//! to look at.
//!
//! Sources: VMware's pages on vMotion, suspend and snapshots of vGPU VMs (6.7, 7.0, 8.0) and on DirectPath
//! I/O; Broadcom KB 313479 and 88271 (maintenance mode and DRS with vGPU).

use crate::capacity::{self, Capacity};
use crate::compat::{self, GpuClaim, HostGpus};
use crate::fit::Part;
use crate::fleet::Fleet;
use crate::inventory::Inventory;
use crate::node::{NodeId, NodeKind};
use schemars::JsonSchema;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use vsgpu_core::knowledge::vgpu_types;
use vsgpu_guest_agent::guest::NetworkGpu;
use vsgpu_host_agent::facts::{EsxVersion, VirtualMachines, VmConfig, VmDevices};
use vsgpu_host_agent::host::MaintenanceModeFact;

/// Frame buffer from which on the pause of a vMotion may pass its limit on 10 GbE.
const LARGE_MIB: u64 = 24 * 1024;

/// Whether something can be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Can {
    pub answer: Answer,
    /// Why not, or what has to be so.
    pub why: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    Yes,
    /// Where a setting is right that a host does not show.
    IfSet,
    No,
    /// The facts do not say.
    Unknown,
}

impl Answer {
    pub fn word(self) -> &'static str {
        match self {
            Self::Yes => "yes",
            Self::IfSet => "if set",
            Self::No => "no",
            Self::Unknown => "not known",
        }
    }
}

fn yes() -> Can {
    Can { answer: Answer::Yes, why: vec![] }
}

fn no(why: impl Into<String>) -> Can {
    Can { answer: Answer::No, why: vec![why.into()] }
}

/// One VM.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct VmReady {
    pub vm: String,
    pub host: String,
    /// What GPU it has.
    pub gpu: String,
    pub running: bool,
    pub vmotion: Can,
    pub suspend: Can,
    /// While it runs.
    pub snapshot: Can,
    /// What happens to it when its host is emptied.
    pub maintenance: Can,
    /// Snapshots that it has.
    pub snapshots: usize,
}

/// One host.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct HostReady {
    pub host: String,
    pub in_maintenance: Option<bool>,
    /// Running VMs that have to be shut down for it.
    pub shut_down: Vec<String>,
    /// Running VMs with a vGPU that move where vCenter's settings allow it, else keep it waiting.
    pub may_move: Vec<String>,
    /// Running VMs without a GPU: DRS or a person moves them.
    pub others: usize,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Ready {
    pub hosts: Vec<HostReady>,
    pub vms: Vec<VmReady>,
    /// What to look at in vCenter, each once.
    pub settings: Vec<String>,
    pub unknown: Vec<String>,
}

const HOT_MIGRATE: &str =
    "vCenter, Advanced Settings: vgpu.hotmigrate.enabled = true (vMotion of VMs with a vGPU)";
const STUN: &str =
    "the VM's stun limit (8.0 U2 and later): 24 GiB and more may pause for over 100 s on 10 GbE";
const EVACUATE: &str = "cluster, Advanced Options: VgpuMMAutomationTimeoutSecs = -1, PassthroughDrsAutomation = 1, LBMaxVmotionPerHost = 1 (maintenance mode moves VMs with a vGPU; KB 313479, 88271)";
const MEMORY_SNAPSHOT: &str = "a snapshot with memory only where the host says memorySnapshotSupported";

/// Every VM with a GPU, and every host.
pub fn of_fleet(fleet: &Fleet, inventory: &Inventory) -> Ready {
    let hosts = compat::gpus_of_hosts(fleet, Some(inventory), &BTreeSet::new());
    let capacity = capacity::of(fleet, inventory, &[], true);
    let mut settings: BTreeSet<String> = BTreeSet::new();
    let mut vms = vec![];
    let mut all_hosts = vec![];
    for host in &hosts {
        let with_gpu: BTreeMap<&str, &GpuClaim> = host.claims.iter().map(|c| (c.vm.as_str(), c)).collect();
        let mut one = HostReady {
            host: host.host.clone(),
            in_maintenance: inventory.fact::<MaintenanceModeFact>(&host.node).ok().map(|m| m.enabled),
            shut_down: vec![],
            may_move: vec![],
            others: 0,
        };
        let names: BTreeMap<&str, &str> =
            fleet.vms.iter().map(|vm| (vm.vm_name.as_str(), vm.name.as_str())).collect();
        if let Ok(listed) = inventory.fact::<VirtualMachines>(&host.node) {
            let of_gpu = |name: &str| {
                with_gpu.contains_key(name) || names.get(name).is_some_and(|n| with_gpu.contains_key(n))
            };
            one.others =
                listed.vms.iter().filter(|vm| vm.running && !vm.infrastructure && !of_gpu(&vm.name)).count();
        }
        for claim in &host.claims {
            let vm = of_vm(host, claim, inventory, &capacity, &mut settings);
            if claim.running_now {
                match vm.maintenance.answer {
                    Answer::No => one.shut_down.push(claim.vm.clone()),
                    _ => one.may_move.push(claim.vm.clone()),
                }
            }
            vms.push(vm);
        }
        all_hosts.push(one);
    }
    for vm in fleet.vms.iter().filter(|vm| vm.guest.as_ref().is_some_and(|g| g.specs.has::<NetworkGpu>())) {
        vms.push(client(vm));
    }
    Ready { hosts: all_hosts, vms, settings: settings.into_iter().collect(), unknown: capacity.unknown }
}

/// A client of a GPU server is a plain VM.
fn client(vm: &crate::fleet::Vm) -> VmReady {
    let pause = |what: &str| Can {
        answer: Answer::Yes,
        why: vec![format!("{what}; a program with a GPU lease survives a pause of 20 s at most")],
    };
    VmReady {
        vm: vm.name.clone(),
        host: vm.host.clone(),
        gpu: "over the network".into(),
        running: true,
        vmotion: pause("as any VM"),
        suspend: pause("between jobs"),
        snapshot: pause("as any VM"),
        maintenance: yes(),
        snapshots: 0,
    }
}

fn of_vm(
    host: &HostGpus,
    claim: &GpuClaim,
    inventory: &Inventory,
    capacity: &Capacity,
    settings: &mut BTreeSet<String>,
) -> VmReady {
    let node = claim.node.clone().unwrap_or_else(|| NodeId::new(NodeKind::Vm, &claim.vm));
    let config = inventory.fact::<VmConfig>(&node).ok();
    let whole = claim.fixed.len() + claim.dynamic.len();
    let mut gpu: Vec<String> = claim.profiles.clone();
    if whole > 0 {
        gpu.push(format!("{whole} whole"));
    }
    let of = |vmotion, suspend, snapshot, maintenance| VmReady {
        vm: claim.vm.clone(),
        host: host.host.clone(),
        gpu: gpu.join(", "),
        running: claim.running_now,
        vmotion,
        suspend,
        snapshot,
        maintenance,
        snapshots: config.as_ref().map_or(0, |c| c.snapshots),
    };
    if whole > 0 {
        let dynamic = claim.fixed.is_empty();
        let restart = match dynamic {
            true => "shut down first; then any host with such a GPU can start it (Dynamic DirectPath)",
            false => "shut down first; its GPU is named by address, so it starts on this host only",
        };
        return of(
            no("a VM with a whole GPU is not moved while it runs"),
            no("a VM with a whole GPU cannot be suspended"),
            no("no snapshot while it runs with a whole GPU"),
            no(restart),
        );
    }
    let Some(esxi) = host.esxi.as_deref() else {
        let unknown =
            || Can { answer: Answer::Unknown, why: vec!["the release of ESXi is not known".into()] };
        return of(unknown(), unknown(), unknown(), unknown());
    };
    let at_least = |least| EsxVersion::at_least(esxi, least);
    let types: Vec<_> = claim.profiles.iter().filter_map(|p| vgpu_types::find(p)).collect();
    let large = types.iter().any(|t| t.size_mib >= LARGE_MIB);
    let mig = types.iter().any(|t| t.mig);
    let uvm = inventory.fact::<VmDevices>(&node).is_ok_and(|devices| {
        let on = |(key, value): (&String, &String)| key.ends_with("cfg.enable_uvm") && value == "1";
        devices.config.keys.iter().any(on)
    });
    let vmotion = if uvm {
        no("unified memory is on (enable_uvm): NVIDIA excludes vMotion with it")
    } else if !at_least("6.7.1") {
        no("vMotion of a VM with a vGPU begins with ESXi 6.7 U1")
    } else if large && !at_least("6.7.3") {
        no("profiles of this size move from ESXi 6.7 U3 on")
    } else if let Some(lacks) = no_other_place(host, claim, capacity) {
        no(lacks)
    } else {
        settings.insert(HOT_MIGRATE.into());
        let mut why = vec!["vgpu.hotmigrate.enabled in vCenter".to_string()];
        if large {
            settings.insert(STUN.into());
            why.push("the stun limit".into());
        }
        if mig {
            why.push("no source says it of MIG: ask for migrateSupported".into());
        }
        Can { answer: Answer::IfSet, why }
    };
    let first = if mig { "7.0.2" } else { "6.7" };
    let suspend =
        if at_least(first) { yes() } else { no("suspend of a VM with a vGPU begins with ESXi 6.7") };
    let snapshot = if at_least(first) {
        settings.insert(MEMORY_SNAPSHOT.into());
        Can { answer: Answer::Yes, why: vec!["its disks; memory only where the host supports it".into()] }
    } else {
        no("no release before ESXi 6.7 says that it can")
    };
    let maintenance = match vmotion.answer {
        Answer::IfSet if at_least("7.0.3") => {
            settings.insert(EVACUATE.into());
            Can {
                answer: Answer::IfSet,
                why: vec![
                    "moves by itself with the cluster's options, else it keeps the host waiting".into(),
                ],
            }
        }
        Answer::IfSet => {
            no("move it by hand, or shut it down: maintenance mode moves vGPU VMs from 7.0 U3f on")
        }
        _ => no("shut down first: it cannot be moved"),
    };
    of(vmotion, suspend, snapshot, maintenance)
}

/// Why no other host of these can take it now; `None` where one can, or there is only one host to judge by.
fn no_other_place(host: &HostGpus, claim: &GpuClaim, capacity: &Capacity) -> Option<String> {
    let problem = &capacity.problem;
    if problem.hosts.len() < 2 {
        return None;
    }
    let parts: Vec<Part> =
        claim.profiles.iter().filter_map(|p| vgpu_types::find(p)).map(Part::Vgpu).collect();
    let mut fits = crate::fit::Fits::new(problem.series_mix);
    let takes = |at: usize| {
        let mut holds = capacity.now.contents[at].clone();
        parts.iter().all(|part| {
            let Part::Vgpu(vgpu) = part else { return false };
            let gpus = &problem.hosts[at].gpus;
            let found = (0..gpus.len()).find(|g| {
                !capacity.now.whole[at][*g]
                    && !gpus[*g].taken
                    && part.is_for(gpus[*g].model)
                    && fits.fit(&gpus[*g], &holds[*g].with(vgpu))
            });
            found.is_some_and(|g| {
                holds[g].add(vgpu);
                true
            })
        })
    };
    let mut takes = takes;
    let others: Vec<usize> =
        (0..problem.hosts.len()).filter(|at| problem.hosts[*at].name != host.host).collect();
    (!others.into_iter().any(&mut takes))
        .then(|| format!("no other host of the fleet file has {} free now", claim.profiles.join(" and ")))
}
