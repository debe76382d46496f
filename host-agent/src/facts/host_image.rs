//! The image that a host is made from, where vSphere Lifecycle Manager keeps one: what of NVIDIA's it holds, how the host
//! differs from it, and what this gateway may do about it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use vsgpu_core::artifact::Artifact;
use vsgpu_core::package_role::Role;
use vsgpu_core::units::DriverVersion;
use vsgpu_core::words::first;

/// An image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HostImage {
    /// Whose it is: the cluster's name, or the host's own.
    pub of: String,
    /// It is a cluster's.
    #[serde(default)]
    pub is_of_cluster: bool,
    /// Version of ESXi in it; none where nobody has made the image yet.
    #[serde(default)]
    pub base: Option<String>,
    /// NVIDIA's components in it.
    #[serde(default)]
    pub components: Vec<Component>,
    /// `COMPLIANT`, `NON_COMPLIANT`, `INCOMPATIBLE`: as vCenter saw it last.
    #[serde(default)]
    pub status: Option<String>,
    /// What is on the host and in no image, `name(version)`: somebody installed it by hand.
    #[serde(default)]
    pub by_hand: Vec<String>,
    /// What the gateway's file allows.
    #[serde(default)]
    pub may: MayChange,
    /// Who looks after it beside vCenter: SDDC Manager of a VCF domain. None where its changes are allowed all the same.
    #[serde(default)]
    pub orchestrator: Option<String>,
    /// Why nothing of it is known.
    #[serde(default)]
    pub unread: Option<String>,
}

/// What the gateway may change of images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum MayChange {
    /// Nothing.
    #[default]
    Never,
    /// Components are put into the image; people remediate.
    Commit,
    /// Hosts are remediated, too, in their windows.
    Remediate,
}

/// A component.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Component {
    /// `NVD-AIE-800`
    pub name: String,
    /// `550.54.16-1OEM.800.1.0.20613240`
    pub version: String,
}

/// Whether a component is NVIDIA's, by its name.
pub(crate) fn is_nvidias(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    name.starts_with("NVIDIA") || name.starts_with("NVD")
}

/// Whether one of NVIDIA's packages is the management daemon: `nvdgpumgmtdaemon`, `nvd-gpu-mgmt-daemon` and the like. The
/// others are vGPU managers.
pub(crate) fn is_daemon(name: &str) -> bool {
    name.to_ascii_lowercase().contains("mgmt")
}

impl HostImage {
    /// The component of the image that is the same thing as a package, in whatever version.
    pub(crate) fn like(&self, package: &Artifact) -> Option<&Component> {
        let wants_daemon = Role::of(package) == Some(Role::Daemon);
        self.components.iter().find(|component| is_daemon(&component.name) == wants_daemon)
    }

    /// Whether it holds a package in its version. The component's own name stands in the file, which is not read here.
    pub(crate) fn holds(&self, package: &Artifact) -> bool {
        let wanted = package.version().and_then(DriverVersion::leading);
        self.like(package).is_some_and(|is| wanted.is_some() && DriverVersion::leading(&is.version) == wanted)
    }

    /// Whose it is, as a sentence begins.
    pub(crate) fn owned(&self) -> String {
        match self.is_of_cluster {
            true => format!("{} has one image for its hosts", self.of),
            false => "from vCenter 9 on every host has an image".into(),
        }
    }

    /// In a few words.
    pub(crate) fn sentence(&self) -> String {
        if let Some(why) = &self.unread {
            return format!("not read: {why}");
        }
        let base = self.base.as_ref().map_or("no image set up yet".into(), |base| format!("ESXi {base}"));
        let one = |component: &Component| format!("{} {}", component.name, component.version);
        let nvidias = first(self.components.iter().map(one), 3, "no NVIDIA component");
        let status = match self.status.as_deref() {
            Some("COMPLIANT") => ", host is compliant".to_string(),
            Some("NON_COMPLIANT") => ", host is not compliant".into(),
            Some("INCOMPATIBLE") => ", host is incompatible with it".into(),
            Some(_) | None => String::new(),
        };
        let by_hand = match self.by_hand.as_slice() {
            [] => String::new(),
            all => format!(", installed by hand: {}", first(all.iter().cloned(), 3, "")),
        };
        format!("{base} with {nvidias}{status}{by_hand}")
    }
}
