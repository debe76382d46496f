//! Rounds: what runs of one after the other bring a fleet to its release, each as a fleet of its own for `plan` and
//! `apply`, and the way back of a round that failed.

use super::edit::OF_GUEST;
use super::hosts::Upgrade;
use super::path::Stage;
use crate::fleet::{Fleet, Share, Specs};
use crate::inventory::Inventory;
use crate::node::{NodeId, NodeKind};
use std::collections::{BTreeMap, BTreeSet};
use vsgpu_core::Requirement;
use vsgpu_core::WordOr;
use vsgpu_core::knowledge::releases::Release;
use vsgpu_guest_agent::facts::{Figures, Percent};
use vsgpu_guest_agent::guest::{CudaProof, CudaProofFact};
use vsgpu_host_agent::host::VgpuManager;
use vsgpu_host_agent::host::gpu_management_daemon::GpuManagementDaemon;

/// One run: hosts that go to one release.
#[derive(Clone, Debug)]
pub struct Round {
    pub release: &'static Release,
    pub hosts: BTreeMap<String, Stage>,
}

impl Round {
    /// Hosts that change themselves.
    pub fn hosts_that_change(&self) -> impl Iterator<Item = &str> {
        self.hosts.iter().filter(|(_, stage)| stage.host).map(|(host, _)| host.as_str())
    }
}

/// All rounds. They end together: a host with a short way waits, and changes once.
pub fn rounds(upgrade: &Upgrade) -> Vec<Round> {
    let most = upgrade.going().map(|host| host.stages.len()).max().unwrap_or_default();
    let mut all: BTreeMap<(usize, &vsgpu_core::units::DriverVersion), Round> = BTreeMap::new();
    for host in upgrade.going() {
        let first = most - host.stages.len();
        for (at, stage) in host.stages.iter().enumerate() {
            let round = all
                .entry((first + at, &stage.release.host))
                .or_insert_with(|| Round { release: stage.release, hosts: BTreeMap::new() });
            round.hosts.insert(host.host.clone(), stage.clone());
        }
    }
    all.into_values().collect()
}

/// The fleet of one round. `new`: the fleet file with this round's packages. Machines of other hosts are not touched; a
/// proof is judged by what it reached before.
pub fn fleet_of(mut new: Fleet, round: &Round, inventory: &Inventory, at_least: Percent) -> Fleet {
    let guests = |stage: &Stage| stage.guests || stage.host;
    keep_only(&mut new, &|host| round.hosts.get(host).is_some_and(|s| s.host), &|host| {
        round.hosts.get(host).is_some_and(guests)
    });
    if round.hosts.len() > 1 && new.rollout.canary.is_none() {
        new.rollout.canary = Some(Share::Count(1));
    }
    for vm in &mut new.vms {
        let inside = NodeId::new(NodeKind::Guest, &vm.name);
        let Some(guest) = &mut vm.guest else { continue };
        let Some(mut proof) = guest.specs.get::<CudaProof>() else { continue };
        let Ok(before) = inventory.fact::<CudaProofFact>(&inside) else { continue };
        if !before.report.passed() {
            continue;
        }
        for device in &before.report.devices {
            // A baseline of the operator's own says more than one of us.
            proof.baseline.entry(device.name.clone()).or_insert_with(|| Figures::of(device));
        }
        proof.bandwidth_at_least = proof.bandwidth_at_least.or(Some(at_least));
        guest.specs.set::<CudaProof>(&proof);
    }
    new
}

/// Takes the specs of all other machines away.
fn keep_only(fleet: &mut Fleet, host_keeps: &dyn Fn(&str) -> bool, vm_keeps: &dyn Fn(&str) -> bool) {
    for host in fleet.hosts.iter_mut().filter(|host| !host_keeps(&host.name)) {
        host.specs = Specs::default();
    }
    for vm in fleet.vms.iter_mut().filter(|vm| !vm_keeps(&vm.host)) {
        vm.specs = Specs::default();
        if let Some(guest) = &mut vm.guest {
            guest.specs = Specs::default();
            fleet.stay.insert(vm.name.clone());
        }
    }
}

/// The way back of some hosts to the packages that the fleet file named before: first their guests, because
/// no guest may be newer than its host, then everything.
pub fn way_back(old: &Fleet, hosts: &BTreeSet<String>) -> [Fleet; 2] {
    let on = |host: &str| hosts.contains(host);
    let (mut guests, mut all) = (old.clone(), old.clone());
    keep_only(&mut guests, &|_| false, &on);
    for vm in &mut guests.vms {
        if let Some(guest) = &mut vm.guest {
            // The proof comes when the host is back, too.
            guest.specs = guest.specs.iter().filter(|s| s.requirement == OF_GUEST).cloned().collect();
        }
        vm.specs = Specs::default();
    }
    keep_only(&mut all, &on, &on);
    for host in &mut all.hosts {
        older::<VgpuManager>(&mut host.specs);
        older::<GpuManagementDaemon>(&mut host.specs);
    }
    [guests, all]
}

/// Lets an older package replace a newer one.
fn older<R: Requirement<Spec = vsgpu_host_agent::facts::PackageWish>>(specs: &mut Specs) {
    if let Some(WordOr::Map(mut package)) = specs.get::<R>() {
        package.downgrade = true;
        specs.set::<R>(&WordOr::Map(package));
    }
}
