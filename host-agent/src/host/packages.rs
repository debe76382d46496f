//! NVIDIA packages of a host: what is installed, what waits for a reboot, and how one is installed. Shared by the vGPU
//! manager and its management daemon.

use super::ask;
use super::esx::EsxVersion;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use vsgpu_core::artifact::{Artifact, Held, Kind};
use vsgpu_core::units::DriverVersion;
use vsgpu_core::{Command, Effect, Evidence, Fact as _, Probe, Subject, Unreadable};

/// A package of the operator and the datastore it is put on.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct PackageSpec {
    /// The `.vib`, offline bundle or component zip from NVIDIA.
    pub package: Artifact,
    /// Datastore of the host on which the file is kept, by name.
    pub datastore: String,
    /// Whether an installed newer version may be replaced by this older one.
    #[serde(default)]
    pub downgrade: bool,
}

impl PackageSpec {
    /// Where the file lies on the host.
    pub(crate) fn path(&self) -> String {
        self.package.stored(Some(&self.datastore))
    }
}

/// One installed package.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Vib {
    /// Name.
    pub name: String,
    /// Version.
    pub version: String,
    /// Vendor.
    pub vendor: String,
}

/// NVIDIA's packages on the host.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Packages {
    /// In the running image.
    pub installed: Vec<Vib>,
    /// In the image of the next boot, where one is staged.
    pub staged: Vec<Vib>,
    /// Release of ESXi.
    pub esx_version: String,
}

const LIST: [&str; 3] = ["software", "vib", "list"];
const STAGED: [&str; 4] = ["software", "vib", "list", "--rebooting-image"];

/// Reads `software vib list` (and `component list`, which has the same columns that matter).
pub fn vibs(records: &[vsgpu_core::esxcli::Record]) -> Result<Vec<Vib>, String> {
    let vib = |r: &vsgpu_core::esxcli::Record| {
        Ok(Vib { name: r.need("Name")?.into(), version: r.need("Version")?.into(), vendor: r.get("Vendor").unwrap_or_default().into() })
    };
    records.iter().map(vib).collect()
}

fn of_nvidia(vib: &Vib) -> bool {
    let (name, vendor) = (vib.name.to_ascii_uppercase(), vib.vendor.to_ascii_uppercase());
    vendor.starts_with("NVIDIA") || vendor == "NVD" || name.starts_with("NVIDIA") || name.starts_with("NVD")
}

impl Packages {
    /// What to look at.
    pub(crate) fn probes(seen: &Evidence) -> Vec<Probe> {
        [ask::probes(&LIST, seen), ask::probes(&STAGED, seen), EsxVersion::ask(seen)].concat()
    }

    /// Reads it.
    pub(crate) fn parse(seen: &Evidence) -> Result<Self, Unreadable> {
        let mut installed = ask::parsed(&LIST, seen, vibs)?;
        // What esxcli answers where no image is staged is not known for every release: no usable answer means none.
        let mut staged = ask::answer(&STAGED, seen).ok().and_then(|r| vibs(&r).ok()).unwrap_or_default();
        installed.retain(of_nvidia);
        staged.retain(of_nvidia);
        Ok(Self { installed, staged, esx_version: EsxVersion::parse(&Subject::node(), seen)?.version })
    }

    /// Whether all of the package is in the running image.
    pub(crate) fn has(&self, package: &Artifact) -> bool {
        all_in(package, &self.installed)
    }

    /// Whether all of it is in the image of the next boot.
    pub(crate) fn has_staged(&self, package: &Artifact) -> bool {
        all_in(package, &self.staged)
    }

    /// The installed package that this one would replace: the same name, or the same kind of thing.
    pub(crate) fn rival(&self, alike: impl Fn(&str) -> bool) -> Option<&Vib> {
        self.installed.iter().find(|vib| alike(&vib.name))
    }

    /// How the package is installed on this release, by absolute path.
    pub(crate) fn install(&self, spec: &PackageSpec) -> Effect {
        let path = spec.path();
        let old = EsxVersion::major(&self.esx_version).is_some_and(|major| major < 7);
        let args: Vec<&str> = match spec.package.kind {
            Some(Kind::Vib) => vec!["software", "vib", "install", "-v", &path],
            // Components exist from 7.0 on (facts: esxi C2).
            Some(Kind::Component) if !old => vec!["software", "component", "apply", "-d", &path],
            _ => vec!["software", "vib", "install", "-d", &path],
        };
        Effect::run(Command::new("esxcli", args).within(1800))
    }
}

fn all_in(package: &Artifact, vibs: &[Vib]) -> bool {
    let same = |held: &Held, vib: &Vib| (held.name.is_empty() || held.name == vib.name) && held.version == vib.version;
    !package.holds.is_empty() && package.holds.iter().all(|held| vibs.iter().any(|vib| same(held, vib) || same_driver(held, vib)))
}

/// A package whose file name was its only statement: the driver version alone must do.
fn same_driver(held: &Held, vib: &Vib) -> bool {
    held.name.is_empty() && DriverVersion::leading(&held.version).is_some_and(|v| Some(v) == DriverVersion::leading(&vib.version))
}
