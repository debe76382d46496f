//! The fleet as its file wants it: plain data, every value already read by its own requirement.

use crate::error::Place;
use crate::fleet::deadlines::Deadlines;
use crate::fleet::driver_catalogue::DriverCatalogue;
use crate::fleet::expectation::Expectation;
use crate::fleet::maintenance::Maintenance;
use crate::fleet::rollout::Strategy;
use crate::fleet::specs::Specs;
use crate::node::{NodeId, NodeKind};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use vsgpu_core::Requirement;
use vsgpu_host_agent::vm::PowerState;

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Host {
    pub name: String,
    /// `host:port` of its agent.
    pub address: String,
    /// The cluster whose budget it shares.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// What becomes of its VMs in its maintenance window.
    #[serde(skip_serializing_if = "Maintenance::is_default")]
    pub maintenance: Maintenance,
    /// What is wanted of it.
    #[serde(rename = "wishes")]
    pub specs: Specs,
}

impl Host {
    /// What is wanted of `R`.
    pub fn spec<R: Requirement>(&self) -> Option<R::Spec> {
        self.specs.get::<R>()
    }
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Vm {
    /// Name in the fleet file.
    pub name: String,
    /// Display name in vSphere.
    pub vm_name: String,
    /// The host that it is on: the fleet file's, or of several the one that it was last seen on.
    pub host: String,
    /// Hosts on any of which it may run; empty where the fleet file names one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub any: Vec<String>,
    /// Power at the end; `None`: as it was found, or on where the guest has wishes.
    pub power: Option<PowerState>,
    /// Seconds for the guest to shut down.
    pub shutdown_secs: u32,
    /// Whether it may be powered off hard after that.
    pub hard_stop: bool,
    /// What people mean to do with it: checked against its GPUs, never set.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub expects: Vec<Expectation>,
    /// Keys that the fleet file sets to nothing.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub taken_away: BTreeSet<String>,
    /// What is wanted of it.
    #[serde(rename = "wishes")]
    pub specs: Specs,
    pub guest: Option<Guest>,
}

impl Vm {
    /// Where the fleet file has it: `esx-01`, or `esx-01 or esx-02`.
    pub fn wished_host(&self) -> String {
        if self.any.is_empty() { self.host.clone() } else { self.any.join(" or ") }
    }

    /// Whether the fleet file lets it be there.
    pub fn may_be_on(&self, host: &str) -> bool {
        self.host == host || self.any.iter().any(|any| any == host)
    }

    /// What is wanted of `R`.
    pub fn spec<R: Requirement>(&self) -> Option<R::Spec> {
        self.specs.get::<R>()
    }

    /// Whether it is to run: as the file says, else where its guest has wishes.
    pub fn is_to_run(&self) -> bool {
        self.power.map_or(self.wants_guest(), |power| power == PowerState::On)
    }

    /// Whether anything is wanted of the Linux inside.
    pub fn wants_guest(&self) -> bool {
        self.guest.as_ref().is_some_and(|g| !g.specs.is_empty())
    }
}

/// The Linux inside a VM.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Guest {
    /// `host:port` of its agent.
    pub address: String,
    /// What is wanted of it.
    #[serde(rename = "wishes")]
    pub specs: Specs,
}

impl Guest {
    /// What is wanted of `R`.
    pub fn spec<R: Requirement>(&self) -> Option<R::Spec> {
        self.specs.get::<R>()
    }
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Fleet {
    #[serde(skip)]
    pub file: PathBuf,
    /// Where the fleet file names each file of the operator.
    #[serde(skip)]
    pub places: BTreeMap<String, Place>,
    /// Folder of certificates. No part of the digest: the same fleet from another working folder is the same
    /// fleet.
    #[serde(skip)]
    pub pki: PathBuf,
    /// NVIDIA's own catalogue of driver pairs, where the operator has it.
    #[serde(skip)]
    pub catalogue: Option<Arc<DriverCatalogue>>,
    pub deadlines: Deadlines,
    /// Order and budget of hosts.
    pub rollout: Strategy,
    /// Hosts, in the order of the file.
    pub hosts: Vec<Host>,
    /// VMs, in the order of the file.
    pub vms: Vec<Vm>,
    /// On the way back from a run: VMs whose guests it did not touch. They stay what they are, and nothing is wished
    /// of them here.
    #[serde(skip)]
    pub stay: BTreeSet<String>,
}

impl Fleet {
    pub fn specs(&self) -> BTreeMap<NodeId, &Specs> {
        let hosts = self.hosts.iter().map(|h| (NodeId::new(NodeKind::Host, &h.name), &h.specs));
        let vms = self.vms.iter().map(|v| (NodeId::new(NodeKind::Vm, &v.name), &v.specs));
        let guests = self
            .vms
            .iter()
            .filter_map(|v| Some((NodeId::new(NodeKind::Guest, &v.name), &v.guest.as_ref()?.specs)));
        hosts.chain(vms).chain(guests).collect()
    }

    /// The specs of all nodes, with the kind of their node.
    pub fn specs_mut(&mut self) -> impl Iterator<Item = (NodeKind, &mut Specs)> {
        fn of_vm(vm: &mut Vm) -> impl Iterator<Item = (NodeKind, &mut Specs)> {
            let guest = vm.guest.as_mut().map(|g| (NodeKind::Guest, &mut g.specs));
            std::iter::once((NodeKind::Vm, &mut vm.specs)).chain(guest)
        }
        self.hosts
            .iter_mut()
            .map(|h| (NodeKind::Host, &mut h.specs))
            .chain(self.vms.iter_mut().flat_map(of_vm))
    }

    /// Whether a VM may run on several hosts: those are looked for before anything else.
    pub fn follows(&self) -> bool {
        self.vms.iter().any(|vm| !vm.any.is_empty())
    }

    pub fn vms_by_host(&self) -> BTreeMap<&str, Vec<&Vm>> {
        let mut all: BTreeMap<&str, Vec<&Vm>> =
            self.hosts.iter().map(|h| (h.name.as_str(), vec![])).collect();
        for vm in &self.vms {
            all.entry(&vm.host).or_default().push(vm);
        }
        all
    }

    /// Folder of the fleet file.
    pub fn folder(&self) -> PathBuf {
        self.file.parent().map(PathBuf::from).unwrap_or_default()
    }

    /// Folder of the journal: `.vsgpu/<name of the fleet file>` beside it.
    pub fn state_folder(&self) -> PathBuf {
        self.folder().join(".vsgpu").join(self.file.file_stem().unwrap_or_default())
    }
}
