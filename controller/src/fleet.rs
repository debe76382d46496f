//! The fleet as it is wished: plain data, every value already read by its own requirement.

use crate::constraints::combination::Expectation;
use crate::constraints::driver_catalogue::DriverCatalogue;
use crate::error::Place;
use crate::rollout::Strategy;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use vsgpu_core::requirement::Deadline;
use vsgpu_core::{Requirement, Scope};
use vsgpu_host_agent::vm::PowerState;

/// What is to be addressed: a host, a VM through its host, or the Linux inside a VM.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct NodeId {
    /// `host`, `vm` or `guest`.
    pub kind: NodeKind,
    /// Name in the fleet file.
    pub name: String,
}

/// Kind of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NodeKind {
    /// ESXi host.
    Host,
    /// VM, reached through its host.
    Vm,
    /// Linux in a VM.
    Guest,
}

impl NodeKind {
    const ALL: [(Self, &'static str, Scope); 3] =
        [(Self::Host, "host", Scope::Host), (Self::Vm, "vm", Scope::Vm), (Self::Guest, "guest", Scope::Guest)];

    /// The word for it.
    pub fn word(self) -> &'static str {
        Self::ALL[self as usize].1
    }

    /// The scope of its requirements.
    pub fn scope(self) -> Scope {
        Self::ALL[self as usize].2
    }
}

impl NodeId {
    /// A node.
    pub fn new(kind: NodeKind, name: &str) -> Self {
        Self { kind, name: name.into() }
    }
}

impl std::fmt::Display for NodeId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.kind {
            NodeKind::Guest => write!(f, "{} (guest)", self.name),
            NodeKind::Host | NodeKind::Vm => f.write_str(&self.name),
        }
    }
}

impl From<NodeId> for String {
    fn from(id: NodeId) -> Self {
        format!("{}/{}", id.kind.word(), id.name)
    }
}

impl TryFrom<String> for NodeId {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let (word, name) = text.split_once('/').ok_or("no node")?;
        let (kind, ..) = NodeKind::ALL.into_iter().find(|(_, w, _)| *w == word).ok_or("no node")?;
        Ok(Self::new(kind, name))
    }
}

/// What the fleet file wants of one requirement.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Spec {
    /// The requirement's name.
    #[serde(rename = "name")]
    pub requirement: &'static str,
    /// In full form, as the requirement itself writes it.
    #[serde(rename = "spec")]
    pub value: Arc<Value>,
}

/// The specs of one node, in the order of the catalogue.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Specs(Vec<Spec>);

impl Specs {
    /// What is wanted of `R`; `None` where the fleet file says nothing about it.
    pub fn get<R: Requirement>(&self) -> Option<R::Spec> {
        let spec = R::Spec::deserialize(&*self.iter().find(|s| s.requirement == R::NAME)?.value);
        debug_assert!(spec.is_ok(), "{}: every spec was read by its requirement before it was kept", R::NAME);
        spec.ok()
    }

    /// Whether the fleet file says anything about `R`.
    pub fn has<R: Requirement>(&self) -> bool {
        self.iter().any(|s| s.requirement == R::NAME)
    }

    /// Puts another spec of `R` in the place of the one that is there, or behind the others.
    pub fn set<R: Requirement>(&mut self, spec: &R::Spec) {
        let Ok(value) = serde_json::to_value(spec) else { return };
        let spec = Spec { requirement: R::NAME, value: value.into() };
        match self.iter_mut().find(|s| s.requirement == R::NAME) {
            Some(there) => *there = spec,
            None => self.0.push(spec),
        }
    }
}

impl std::ops::Deref for Specs {
    type Target = [Spec];
    fn deref(&self) -> &[Spec] {
        &self.0
    }
}

impl std::ops::DerefMut for Specs {
    fn deref_mut(&mut self) -> &mut [Spec] {
        &mut self.0
    }
}

impl FromIterator<Spec> for Specs {
    fn from_iter<I: IntoIterator<Item = Spec>>(specs: I) -> Self {
        Self(specs.into_iter().collect())
    }
}

/// One host.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Host {
    /// Name.
    pub name: String,
    /// `host:port` of its agent.
    pub address: String,
    /// The cluster whose budget it shares.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
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

/// One VM.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Vm {
    /// Name in the fleet file.
    pub name: String,
    /// Display name in vSphere.
    pub vm_name: String,
    /// Its host.
    pub host: String,
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
    /// The Linux inside.
    pub guest: Option<Guest>,
}

impl Vm {
    /// What is wanted of `R`.
    pub fn spec<R: Requirement>(&self) -> Option<R::Spec> {
        self.specs.get::<R>()
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

/// Seconds after which a phase has failed. Defaults from the field (facts: failures).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Deadlines {
    /// Until an agent answers.
    pub connect_secs: u32,
    /// Until the agent of a rebooted host answers.
    pub host_reboot_secs: u32,
    /// Until the agent of a started or rebooted guest answers.
    pub guest_boot_secs: u32,
    /// For one file to be sent.
    pub transfer_secs: u32,
    /// To enter or leave maintenance mode.
    pub maintenance_secs: u32,
    /// For a driver's installation in a guest.
    pub driver_install_secs: u32,
    /// For a VM to start, with its GPUs.
    pub gpu_attach_secs: u32,
    /// For every other step.
    pub step_secs: u32,
    /// For an agent that went away in the middle of a step to answer again; what it was doing goes on meanwhile.
    pub reconnect_secs: u32,
}

impl Deadlines {
    /// Seconds of one change.
    pub fn of(&self, deadline: Deadline) -> u32 {
        match deadline {
            // A minute more than the tool itself takes, so that its own words are heard.
            Deadline::MaintenanceMode => self.maintenance_secs.saturating_add(60),
            Deadline::PowerOn => self.gpu_attach_secs,
            Deadline::DriverInstall => self.driver_install_secs,
            Deadline::PowerOff | Deadline::Step => self.step_secs,
        }
    }
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            connect_secs: 10,
            host_reboot_secs: 1200,
            guest_boot_secs: 600,
            transfer_secs: 3600,
            maintenance_secs: 3600,
            driver_install_secs: 900,
            gpu_attach_secs: 120,
            step_secs: 3600,
            reconnect_secs: 120,
        }
    }
}

/// The whole fleet.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Fleet {
    /// The fleet file.
    #[serde(skip)]
    pub file: PathBuf,
    /// Where the fleet file names each file of the operator.
    #[serde(skip)]
    pub places: BTreeMap<String, Place>,
    /// Folder of certificates. No part of the digest: the same fleet from another working folder is the same fleet.
    #[serde(skip)]
    pub pki: PathBuf,
    /// NVIDIA's own catalogue of driver pairs, where the operator has it.
    #[serde(skip)]
    pub catalogue: Option<Arc<DriverCatalogue>>,
    /// Deadlines.
    pub deadlines: Deadlines,
    /// Order and budget of hosts.
    pub rollout: Strategy,
    /// Hosts, in the order of the file.
    pub hosts: Vec<Host>,
    /// VMs, in the order of the file.
    pub vms: Vec<Vm>,
}

impl Fleet {
    /// Specs by node.
    pub fn specs(&self) -> BTreeMap<NodeId, &Specs> {
        let hosts = self.hosts.iter().map(|h| (NodeId::new(NodeKind::Host, &h.name), &h.specs));
        let vms = self.vms.iter().map(|v| (NodeId::new(NodeKind::Vm, &v.name), &v.specs));
        let guests = self.vms.iter().filter_map(|v| Some((NodeId::new(NodeKind::Guest, &v.name), &v.guest.as_ref()?.specs)));
        hosts.chain(vms).chain(guests).collect()
    }

    /// The specs of all nodes, with the kind of their node.
    pub fn specs_mut(&mut self) -> impl Iterator<Item = (NodeKind, &mut Specs)> {
        fn of_vm(vm: &mut Vm) -> impl Iterator<Item = (NodeKind, &mut Specs)> {
            let guest = vm.guest.as_mut().map(|g| (NodeKind::Guest, &mut g.specs));
            std::iter::once((NodeKind::Vm, &mut vm.specs)).chain(guest)
        }
        self.hosts.iter_mut().map(|h| (NodeKind::Host, &mut h.specs)).chain(self.vms.iter_mut().flat_map(of_vm))
    }

    /// VMs by host.
    pub fn vms_by_host(&self) -> BTreeMap<&str, Vec<&Vm>> {
        let mut all: BTreeMap<&str, Vec<&Vm>> = self.hosts.iter().map(|h| (h.name.as_str(), vec![])).collect();
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
