//! Each host with its guests: what runs, what can be changed, and its way; and what stays as it is.

use super::path::{Class, Known, Stage};
use crate::compat::{self, Combination, Finding};
use crate::error::{Error, Kind};
use crate::fleet::{Fleet, Host, Vm};
use crate::inventory::Inventory;
use crate::node::{NodeId, NodeKind};
use std::collections::{BTreeMap, BTreeSet};
use vsgpu_core::WordOr;
use vsgpu_core::knowledge::releases::{self, Release};
use vsgpu_core::units::DriverVersion;
use vsgpu_guest_agent::guest::{CudaProof, CudaProofFact, Driver, DriverFact, DriverSpec, NetworkGpu};
use vsgpu_host_agent::facts::{EsxVersion, Gpus};
use vsgpu_host_agent::host::VgpuManager;
use vsgpu_host_agent::vm::{Vgpu, VmPassthrough};

/// A version, and whether a machine said it or only the fleet file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Runs {
    pub version: DriverVersion,
    pub seen: bool,
}

impl Runs {
    /// `535.161.05 (vGPU 16.4 or 16.5)`.
    pub fn of_host(&self) -> String {
        compat::named(&self.version, &releases::of_host(&self.version))
    }

    pub fn of_guest(&self) -> String {
        compat::named(&self.version, &releases::of_guest(&self.version))
    }
}

/// A guest with a vGPU, whose driver follows its host.
#[derive(Clone, Debug)]
pub struct GuestUpgrade {
    pub vm: String,
    pub runs: Runs,
    /// The fleet file names its driver, so it can be changed.
    pub managed: bool,
    /// A CUDA proof is asked of it.
    pub proof: bool,
    /// A proof that ran has figures to compare with.
    pub figures: bool,
}

/// A host, and its way.
#[derive(Clone, Debug)]
pub struct HostUpgrade {
    pub host: String,
    pub esxi: Option<String>,
    pub runs: Runs,
    pub guests: Vec<GuestUpgrade>,
    /// In their order; empty where nothing is to do.
    pub stages: Vec<Stage>,
}

/// Everything about one upgrade, before anything is done.
#[derive(Debug)]
pub struct Upgrade {
    pub to: &'static Release,
    pub hosts: Vec<HostUpgrade>,
    /// What stays as it is: why, and which.
    pub left: BTreeMap<String, BTreeSet<String>>,
    /// What keeps hosts out.
    pub problems: Vec<Error>,
    /// What is not certain.
    pub warnings: Vec<Finding>,
}

impl Upgrade {
    /// Hosts with something to do.
    pub fn going(&self) -> impl Iterator<Item = &HostUpgrade> {
        self.hosts.iter().filter(|host| !host.stages.is_empty())
    }
}

/// One release by its name: `19.6`, or `19` for its newest.
///
/// # Errors
/// No such release is in the table, or its versions are not all known.
pub fn release(name: &str) -> Result<&'static Release, Error> {
    let name = name.trim().trim_start_matches(['v', 'V']);
    let found = releases::named(name).or_else(|| releases::newest(name.parse().ok()?));
    let wrong = |what: String| Error::new(Kind::Usage, what).code("unknown-release");
    let Some(found) = found else {
        let names: Vec<&str> = releases::all().iter().map(|r| r.name).collect();
        let error = wrong(format!("there is no vGPU release `{name}` in the table"));
        let newest = releases::all().iter().rfind(|r| !r.withdrawn).map_or("", |r| r.name);
        return Err(match vsgpu_core::suggest::nearest(name, names) {
            Some(near) => error.hint(format!("did you mean `{near}`? The newest known is {newest}")),
            None => error
                .hint(format!("the newest known is {newest}; `vsgpu compat --help` lists more ways to ask")),
        });
    };
    if found.withdrawn {
        return Err(wrong(format!("NVIDIA took vGPU {} back", found.name)));
    }
    if found.guest.is_none() {
        return Err(wrong(format!("the Linux driver of vGPU {} is not in the table", found.name)));
    }
    Ok(found)
}

/// Finds the way of every host. `at_hand`: releases whose packages the operator has, preferred in between.
pub fn upgrade(
    fleet: &Fleet,
    inventory: &Inventory,
    to: &'static Release,
    at_hand: &[&'static Release],
) -> Upgrade {
    let mut all = Upgrade { to, hosts: vec![], left: BTreeMap::new(), problems: vec![], warnings: vec![] };
    let combinations = combinations(fleet, inventory);
    let by_host = fleet.vms_by_host();
    let mut known = Known::default();
    for host in &fleet.hosts {
        let vms = &by_host[host.name.as_str()];
        of_host(&mut all, &mut known, host, vms, inventory, &combinations, at_hand);
    }
    // What many hosts share is said once.
    let mut said = BTreeSet::new();
    all.warnings.retain(|finding| said.insert(format!("{} {}", finding.constraint, finding.what)));
    let mut said = BTreeSet::new();
    all.problems.retain(|error| said.insert(error.message.clone()));
    all
}

/// What the checks look at, by VM or host.
fn combinations(fleet: &Fleet, inventory: &Inventory) -> BTreeMap<NodeId, Combination> {
    let all = compat::combinations(fleet, Some(inventory));
    all.into_iter().filter_map(|c| Some((c.nodes.first()?.clone(), c))).collect()
}

fn of_host(
    all: &mut Upgrade,
    known: &mut Known,
    host: &Host,
    vms: &[&Vm],
    inventory: &Inventory,
    combinations: &BTreeMap<NodeId, Combination>,
    at_hand: &[&'static Release],
) {
    let node = NodeId::new(NodeKind::Host, &host.name);
    let mut leave = |why: &str, name: &str| {
        all.left.entry(why.into()).or_default().insert(name.into());
    };
    let Some(WordOr::Map(wish)) = host.spec::<VgpuManager>() else {
        leave("no `vgpu-manager:` in the fleet file", &host.name);
        return;
    };
    let seen = inventory.fact::<Gpus>(&node).ok().and_then(|gpus| gpus.0.driver_version);
    let stated = wish.package.version().and_then(DriverVersion::leading);
    let runs = match seen.as_deref().and_then(DriverVersion::leading) {
        Some(version) => Runs { version, seen: true },
        None => match stated {
            Some(version) => Runs { version, seen: false },
            None => {
                leave("its vGPU manager's version is not known", &host.name);
                return;
            }
        },
    };
    let mut guests = vec![];
    let mut classes = vec![];
    for vm in vms {
        let id = NodeId::new(NodeKind::Vm, &vm.name);
        let combination = combinations.get(&id);
        if vm.spec::<VmPassthrough>().is_some_and(|gpus| !gpus.is_empty()) {
            leave("a whole GPU: its driver does not depend on the host's", &vm.name);
            continue;
        }
        let has_vgpu = combination.map_or(vm.specs.has::<Vgpu>(), Combination::vgpu);
        let Some(guest) = vm.guest.as_ref().filter(|_| has_vgpu) else {
            let client = vm.guest.as_ref().is_some_and(|g| g.specs.has::<NetworkGpu>());
            if client {
                leave("a GPU over the network: no driver of this host", &vm.name);
            } else if has_vgpu {
                leave(
                    "no `guest:` in the fleet file: its driver is yours to upgrade, after the host",
                    &vm.name,
                );
            }
            continue;
        };
        let inside = NodeId::new(NodeKind::Guest, &vm.name);
        let seen = inventory.fact::<DriverFact>(&inside).ok().and_then(|fact| fact.version);
        let wish = guest.spec::<Driver>();
        let stated = match &wish {
            Some(DriverSpec::Map(spec)) => spec.package.version().and_then(DriverVersion::leading),
            _ => None,
        };
        let runs = match (seen.as_deref().and_then(DriverVersion::leading), stated) {
            (Some(version), _) => Runs { version, seen: true },
            (None, Some(version)) => Runs { version, seen: false },
            (None, None) => {
                leave("the driver inside is not known", &vm.name);
                continue;
            }
        };
        let managed = matches!(wish, Some(DriverSpec::Map(_)));
        if !managed {
            leave("no `driver:` in the fleet file: it must go with the new host as it is", &vm.name);
        }
        classes.extend(combination.map(|c| Class::new(c, &runs.version, managed)));
        let figures = inventory.fact::<CudaProofFact>(&inside).is_ok_and(|proof| proof.report.passed());
        guests.push(GuestUpgrade {
            vm: vm.name.clone(),
            runs,
            managed,
            proof: guest.specs.has::<CudaProof>(),
            figures,
        });
    }
    let esxi = inventory.fact::<EsxVersion>(&node).ok().map(|esx| esx.version);
    if runs.version > all.to.host {
        all.problems.push(
            Error::new(
                Kind::Blocked,
                format!(
                    "{} runs vGPU manager {}, which is newer than {} of {}",
                    host.name,
                    runs.of_host(),
                    all.to.host,
                    all.to.name
                ),
            )
            .code("upgrade-older")
            .hint("`vsgpu upgrade` goes forward only; `vsgpu rollback` goes back to before the latest run"),
        );
        all.hosts.push(HostUpgrade { host: host.name.clone(), esxi, runs, guests, stages: vec![] });
        return;
    }
    let own = combinations.get(&node);
    let way = known.way(own, &runs.version, &classes, all.to, at_hand);
    let stages = match way {
        Ok(way) => {
            all.warnings.extend(way.warnings.iter().cloned());
            way.stages.clone()
        }
        Err(errors) => {
            all.problems.extend(errors.iter().cloned().map(|mut error| {
                error.message = format!("{}: {}", host.name, error.message);
                error
            }));
            vec![]
        }
    };
    all.hosts.push(HostUpgrade { host: host.name.clone(), esxi, runs, guests, stages });
}
