//! What compatibility checks look at: plain values with where each comes from.

use crate::fleet::{DriverCatalogue, Expectation};
use crate::node::NodeId;
use serde::Serialize;
use std::sync::Arc;
use vsgpu_core::gpu_selector::Candidate;
use vsgpu_core::knowledge::Basis;
use vsgpu_core::knowledge::gpus::{self, Model};
use vsgpu_core::knowledge::products::Product;
use vsgpu_core::knowledge::releases::{self, Release};
use vsgpu_core::knowledge::vgpu_types::{self, VgpuType};
use vsgpu_core::units::DriverVersion;

/// A value, and who says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stated<T> {
    pub value: T,
    /// `esx-01`, `vm-01 (guest)`, or the option it came from.
    pub by: String,
}

impl<T> Stated<T> {
    /// A value with its origin.
    pub fn new(value: T, by: impl Into<String>) -> Self {
        Self { value, by: by.into() }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestDriver {
    pub version: DriverVersion,
    /// Whether it is the one for vGPUs and licensed products; `None` where the file's name does not say.
    pub grid: Option<bool>,
}

/// How a guest gets its license.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LicenseWay {
    Legacy,
    Nls,
}

/// A kernel module, where one is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Module {
    /// The open one.
    Open,
    /// The proprietary one.
    Proprietary,
}

/// A GPU as the checks need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// PCI address; empty on the command line.
    pub address: String,
    pub device_id: Option<String>,
    pub subsystem_id: Option<String>,
    /// Name as the bus says it.
    pub name: Option<String>,
}

impl Gpu {
    /// A board of the table, wherever it is.
    pub fn of_model(model: &Model) -> Self {
        Self {
            address: String::new(),
            device_id: Some(model.device_id.clone()),
            subsystem_id: model.subsystem_id.clone(),
            name: Some(model.name.into()),
        }
    }

    /// What the tables know of it.
    pub fn model(&self) -> Option<&'static Model> {
        gpus::by_pci(self.device_id.as_deref()?, self.subsystem_id.as_deref())
    }

    pub fn shown(&self) -> String {
        if self.device_id.is_none() && self.name.is_none() {
            return "a GPU".into();
        }
        let candidate = Candidate {
            address: &self.address,
            device_id: self.device_id.as_deref(),
            subsystem_id: self.subsystem_id.as_deref(),
            name: self.name.as_deref(),
        };
        candidate.shown()
    }

    /// Whether a vGPU type is one of this GPU; `None` where the GPU is not known to the tables.
    pub fn serves(&self, vgpu: &VgpuType) -> Option<bool> {
        // Boards of one chip share a device id; a type belongs to the board by its token.
        self.model().map(|m| m.token.eq_ignore_ascii_case(vgpu.token))
    }
}

/// One VM on its host, as it is to be. Everything may be unknown: then nothing is said about it.
#[derive(Clone, Debug, Default)]
pub struct Combination {
    /// `vm-01 on esx-01`.
    pub about: String,
    /// Nodes on which nothing may be done if this is refused.
    pub nodes: Vec<NodeId>,
    /// The host, where it would be brought to another vGPU manager: a guest that could not use that stops it.
    pub changing_host: Option<NodeId>,
    pub esxi: Option<Stated<String>>,
    /// Its build, `24022510`.
    pub esxi_build: Option<String>,
    pub manager: Option<Stated<DriverVersion>>,
    /// The manager is wished for; else it is what runs.
    pub manager_wished: bool,
    /// The fleet file wants the host without what vGPUs need: the manager absent, or the graphics type
    /// Shared.
    pub serves_no_vgpu: Option<&'static str>,
    /// The host's own graphics type is Shared, and no key of the fleet file changes it: how it is.
    pub stays_shared: Option<String>,
    /// Driver of the guest.
    pub guest: Option<Stated<GuestDriver>>,
    /// vGPU profiles of the VM.
    pub profiles: Vec<Stated<String>>,
    /// Whole GPUs of the VM.
    pub whole: Vec<Gpu>,
    /// NVSwitches on the host's bus; `None` where it was not seen.
    pub nvswitches: Option<Vec<String>>,
    /// Whether the VM gets a whole GPU, known or not.
    pub passthrough: bool,
    /// GPUs of the host that serve vGPUs.
    pub host_gpus: Option<Vec<Gpu>>,
    /// vGPU types that the host itself says it supports.
    pub supported: Option<Vec<String>>,
    pub license: Option<Stated<LicenseWay>>,
    /// FeatureType of `gridd.conf`.
    pub feature_type: Option<Stated<u8>>,
    /// Product that has to be licensed.
    pub product: Option<Product>,
    /// The fleet file turns ECC on.
    pub ecc_on: Option<Stated<()>>,
    /// Mixed vGPU sizes are wished.
    pub mixed: Option<Stated<()>>,
    pub cuda: Option<Stated<String>>,
    /// Whether CUDA programs are to run.
    pub proof: bool,
    /// GPUs on the guest's own bus.
    pub seen_by_guest: Vec<vsgpu_guest_agent::facts::PciGpu>,
    /// Seconds that the guest's clock is ahead of this machine's.
    pub clock_offset: Option<Stated<i64>>,
    /// The fleet file takes the memory reservation away.
    pub memory_unreserved: bool,
    /// Firmware of the VM.
    pub firmware: Option<Stated<String>>,
    /// An MMIO window that is smaller or larger than computed, in GB.
    pub mmio: Option<Stated<u64>>,
    /// Hardware virtualization is exposed to the VM.
    pub nested: bool,
    /// Snapshots that the VM has.
    pub snapshots: usize,
    /// What people mean to do with it.
    pub expects: Vec<Expectation>,
    /// Kernel module asked for.
    pub module: Option<Stated<Module>>,
    /// The very releases that were asked about, where one version serves several.
    pub releases: (Option<&'static Release>, Option<&'static Release>),
    /// NVIDIA's own catalogue, uploaded by the operator.
    pub catalogue: Option<Arc<DriverCatalogue>>,
}

impl Combination {
    /// Releases of the vGPU manager; several where one version serves several.
    pub fn manager_releases(&self) -> Vec<&'static Release> {
        match (self.releases.0, &self.manager) {
            (Some(release), Some(_)) => vec![release],
            (_, manager) => manager.as_ref().map(|m| releases::of_host(&m.value)).unwrap_or_default(),
        }
    }

    /// Releases of the guest's driver.
    pub fn guest_releases(&self) -> Vec<&'static Release> {
        match (self.releases.1, &self.guest) {
            (Some(release), Some(_)) => vec![release],
            (_, guest) => guest.as_ref().map(|g| releases::of_guest(&g.value.version)).unwrap_or_default(),
        }
    }

    /// The VM has vGPUs.
    pub fn vgpu(&self) -> bool {
        !self.profiles.is_empty()
    }

    /// Types of its profiles that the tables know.
    pub fn types(&self) -> Vec<(&Stated<String>, &'static VgpuType)> {
        self.profiles.iter().filter_map(|p| Some((p, vgpu_types::find(&p.value)?))).collect()
    }

    /// A finding about this combination.
    pub fn finding(&self, what: impl Into<String>, basis: Basis, nearest: Option<String>) -> Finding {
        let (certain, what) = (basis.confirmed, what.into());
        // `vm-01 on esx-01` in front, unless the sentence begins with one of them.
        let named = self.about.split(' ').any(|name| !name.is_empty() && what.starts_with(name));
        let what = if named || self.about.is_empty() { what } else { format!("{}: {what}", self.about) };
        Finding { constraint: "", nodes: self.nodes.clone(), what, basis, nearest, certain }
    }
}

/// Something that does not go together.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Finding {
    pub constraint: &'static str,
    pub nodes: Vec<NodeId>,
    /// Both sides, in a sentence.
    pub what: String,
    /// What it rests on.
    pub basis: Basis,
    /// The nearest combination that works.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nearest: Option<String>,
    /// Certain, and so refused.
    pub certain: bool,
}

impl Finding {
    /// Certain: nothing may be done.
    pub fn refused(&self) -> bool {
        self.certain
    }

    /// The same as no more than a warning.
    pub fn doubtful(mut self) -> Self {
        self.certain = false;
        self.basis.confirmed = false;
        self
    }

    pub(super) fn of(mut self, constraint: &'static str) -> Self {
        self.constraint = constraint;
        self
    }
}

/// One GPU of a host in a room.
#[derive(Clone, Debug)]
pub struct HostGpu {
    pub gpu: Gpu,
    /// Given away, when all is as wished.
    pub given: bool,
    /// Divided by MIG, when all is as wished; `None` where not known.
    pub mig: Option<bool>,
    /// Takes vGPUs of several sizes, when all is as wished.
    pub mixed: bool,
}

/// Somebody who wants GPUs of a host.
#[derive(Clone, Debug)]
pub struct GpuClaim {
    pub vm: String,
    /// Its node, if it is in the fleet file.
    pub node: Option<NodeId>,
    /// Runs when all is as wished.
    pub runs: bool,
    /// Runs now.
    pub running_now: bool,
    pub profiles: Vec<String>,
    /// Whole GPUs, by address.
    pub fixed: Vec<String>,
    /// Whole GPUs by vendor and device, placed at power-on.
    pub dynamic: Vec<String>,
}

/// The GPUs of one host and everybody who wants a part of them.
#[derive(Clone, Debug)]
pub struct HostGpus {
    pub host: String,
    pub esxi: Option<String>,
    pub gpus: Vec<HostGpu>,
    /// VMs of the fleet file and others.
    pub claims: Vec<GpuClaim>,
    /// The fleet file wishes for `passthrough` of the host.
    pub passthrough_wished: bool,
    /// GPUs that keys of the host name: the key, and the address or model.
    pub named: Vec<(&'static str, String)>,
    /// The host's GPUs were seen; else they are only what the fleet file names.
    pub seen: bool,
    pub node: NodeId,
}

impl HostGpus {
    /// A finding about some tenants.
    pub fn finding(
        &self,
        claims: &[&GpuClaim],
        what: impl Into<String>,
        basis: Basis,
        nearest: Option<String>,
    ) -> Finding {
        let certain = basis.confirmed;
        let mut nodes: Vec<NodeId> = claims.iter().filter_map(|t| t.node.clone()).collect();
        // A VM that runs now would be shut down for what is wished of its host, for nothing: that is not
        // begun either.
        if certain && claims.iter().any(|t| t.running_now) {
            nodes.push(self.node.clone());
        }
        Finding {
            constraint: "",
            nodes,
            what: format!("{}: {}", self.host, what.into()),
            basis,
            nearest,
            certain,
        }
    }
}
