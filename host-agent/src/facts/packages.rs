//! NVIDIA packages of a host: what is installed, what waits for a reboot, and how one is installed. Shared by
//! the vGPU manager and its management daemon.

use crate::esxcli;
use crate::facts::acceptance::{ACCEPTANCE, Level, level};
use crate::facts::esx_version::EsxVersion;
use crate::facts::host_image::{HostImage, is_nvidias};
use crate::facts::vcenter::Vcenter;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use vsgpu_core::artifact::{Artifact, Kind, PackageContent};
use vsgpu_core::units::DriverVersion;
use vsgpu_core::{
    Command, Effect, ExitKind, Fact as _, InVcenter, Observation, Probe, Subject, Unreadable, WordOr,
};

/// A package that is to be there, or none of its kind.
pub type PackageWish = WordOr<Absent, PackageSpec>;

/// The word `absent`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Absent {
    /// No package.
    Absent,
}

/// The file that must be on the host for a wish.
pub(crate) fn artifacts_mut(spec: &mut PackageWish) -> Vec<&mut Artifact> {
    match spec {
        WordOr::Word(_) => vec![],
        WordOr::Map(spec) => vec![&mut spec.package],
    }
}

/// The datastore that a wish names.
pub(crate) fn datastore(spec: &PackageWish) -> Option<String> {
    match spec {
        WordOr::Word(_) => None,
        WordOr::Map(spec) => Some(spec.datastore.clone()),
    }
}

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
    /// Whether it is installed by hand on a host whose image vSphere Lifecycle Manager made, although the
    /// next remediation undoes that.
    #[serde(default)]
    pub allow_drift: bool,
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

impl Vib {
    /// It as a wish. The file itself is not on the host any more under a name that could be known: it is the VIB's.
    pub(crate) fn as_wish(&self) -> PackageWish {
        let held =
            PackageContent { name: self.name.clone(), version: self.version.clone(), acceptance: None };
        let package = Artifact {
            artifact: format!("{}_{}.vib", self.name, self.version),
            sha256: None,
            size: None,
            kind: None,
            holds: vec![held],
        };
        PackageWish::Map(PackageSpec {
            package,
            datastore: "datastore1".into(),
            downgrade: false,
            allow_drift: false,
        })
    }
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
    /// NVIDIA's components, where the release knows components.
    #[serde(default)]
    pub components: Vec<Vib>,
    /// Acceptance level of the host.
    #[serde(default)]
    pub acceptance: Option<String>,
    /// Name of the image profile.
    #[serde(default)]
    pub image_profile: Option<String>,
    /// An image waits for the next boot, with NVIDIA's packages in it or without.
    #[serde(default)]
    pub image_staged: bool,
    /// Where the vSphere API answers for the host: what it does not do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by_api: Option<ByApi>,
}

/// Packages by the vSphere API.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ByApi {
    /// Why nobody installs a single package here: whose image it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_of: Option<String>,
    /// The image itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<HostImage>,
    /// Nobody can install one at all, whatever is allowed: vCenter 9.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub only_images: bool,
    /// Why esxcli does not answer through the API: bundles, and removing, take it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_esxcli: Option<String>,
}

const COMPONENTS: [&str; 3] = ["software", "component", "list"];
const PROFILE: [&str; 3] = ["software", "profile", "get"];
const LIST: [&str; 3] = ["software", "vib", "list"];
const STAGED: [&str; 4] = ["software", "vib", "list", "--rebooting-image"];

/// Reads `software vib list` (and `component list`, which has the same columns that matter).
pub fn vibs(records: &[vsgpu_core::readers::esxcli::Record]) -> Result<Vec<Vib>, String> {
    let vib = |r: &vsgpu_core::readers::esxcli::Record| {
        Ok(Vib {
            name: r.need("Name")?.into(),
            version: r.need("Version")?.into(),
            vendor: r.get("Vendor").unwrap_or_default().into(),
        })
    };
    records.iter().map(vib).collect()
}

fn of_nvidia(vib: &Vib) -> bool {
    let vendor = vib.vendor.to_ascii_uppercase();
    vendor.starts_with("NVIDIA") || vendor == "NVD" || is_nvidias(&vib.name)
}

impl Packages {
    /// What to look at.
    pub(crate) fn probes(seen: &Observation) -> Vec<Probe> {
        let mut probes =
            [&LIST[..], &STAGED, &ACCEPTANCE, &PROFILE].map(|args| esxcli::probes(args, seen)).concat();
        probes.push(Probe::Inventory(InVcenter::Host));
        probes.extend(EsxVersion::ask(seen));
        if EsxVersion::running(seen).is_some_and(|v| EsxVersion::major(&v) >= Some(7)) {
            probes.extend(esxcli::probes(&COMPONENTS, seen));
        }
        probes
    }

    pub(crate) fn parse(seen: &Observation) -> Result<Self, Unreadable> {
        let mut installed = esxcli::parsed(&LIST, seen, vibs)?;
        // What esxcli answers where no image is staged is not known for every release: no usable answer means
        // none.
        let mut staged = esxcli::answer(&STAGED, seen).ok().and_then(|r| vibs(&r).ok()).unwrap_or_default();
        let mut components =
            esxcli::answer(&COMPONENTS, seen).ok().and_then(|r| vibs(&r).ok()).unwrap_or_default();
        let image_staged = !staged.is_empty();
        for list in [&mut installed, &mut staged, &mut components] {
            list.retain(of_nvidia);
        }
        // Neither is needed to install anything: what cannot be read refuses nothing.
        let acceptance = esxcli::parsed(&ACCEPTANCE, seen, level).ok();
        let image_profile =
            esxcli::single(&PROFILE, seen, |r| Ok(r.get("Name").unwrap_or(&r.title).to_string()))
                .ok()
                .filter(|n| !n.is_empty());
        Ok(Self {
            installed,
            staged,
            components,
            acceptance,
            image_profile,
            image_staged,
            by_api: by_api(seen)?,
            esx_version: EsxVersion::parse(&Subject::node(), seen)?.version,
        })
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

    /// Why no package is removed here, and what to do.
    pub(crate) fn keeps(&self) -> Option<(String, String)> {
        let by_api = self.by_api.as_ref()?;
        let image = by_api.image_of.as_ref().map(|owner| of_image(owner));
        let no_esxcli = by_api.no_esxcli.as_ref().map(|why| {
            (
                format!("packages are removed by esxcli, which does not answer through vCenter: {why}"),
                "give the account an administrator's role on this host for the time, or serve it over ssh"
                    .into(),
            )
        });
        image.or(no_esxcli)
    }

    /// The image by which this package comes onto the host, where that is the way.
    pub(crate) fn image_for(&self, spec: &PackageSpec) -> Option<&HostImage> {
        let by_api = self.by_api.as_ref()?;
        by_api.image.as_ref().filter(|_| by_api.only_images || !spec.allow_drift)
    }

    /// What stands against installing a package on this host, and what to do.
    pub(crate) fn refuses(&self, spec: &PackageSpec) -> Option<(String, String)> {
        if let Some(by_api) = &self.by_api {
            let owner = by_api.image_of.as_ref().filter(|_| by_api.only_images || !spec.allow_drift);
            if let Some(owner) = owner {
                return Some(of_image(owner));
            }
            if let Some(why) = by_api.no_esxcli.as_ref().filter(|_| spec.package.kind != Some(Kind::Vib)) {
                return Some((
                    format!(
                        "{} is a bundle: esxcli installs it, which does not answer through vCenter: {why}",
                        spec.package.file_name()
                    ),
                    "name the single .vib out of it, give the account an administrator's role on this host for the time, or serve it over ssh".into(),
                ));
            }
        }
        let lifecycle =
            self.image_profile.as_deref().filter(|name| name.contains("Lifecycle Manager Generated Image"));
        if let Some(profile) = lifecycle.filter(|_| !spec.allow_drift) {
            return Some((
                format!("the host runs an image made by vSphere Lifecycle Manager (profile `{profile}`): what is installed by hand is drift, and the next remediation removes it"),
                "add NVIDIA's component to the image of the cluster and remediate; where this host is in no image-managed cluster (any more), say `allow-drift: true`".into(),
            ));
        }
        let of_package = spec
            .package
            .holds
            .iter()
            .filter_map(|h| h.acceptance.as_deref())
            .filter_map(Level::of_descriptor)
            .min()?;
        let of_host = self.acceptance.as_deref().and_then(Level::of_word)?;
        (of_package < of_host).then(|| {
            (
                format!("{} is {}, the host accepts nothing below {}", spec.package.file_name(), of_package.word(), of_host.word()),
                format!(
                    "the level is never lowered silently: set `acceptance-level: {}` of this host if that is really wanted",
                    of_package.word()
                ),
            )
        })
    }

    /// Whether the next boot is without any package of a kind.
    pub(crate) fn goes(&self, alike: impl Fn(&str) -> bool) -> bool {
        self.image_staged && !self.staged.iter().any(|v| alike(&v.name))
    }

    /// How packages of a kind are removed.
    pub(crate) fn removal(&self, alike: impl Fn(&str) -> bool) -> Vec<Effect> {
        let names =
            |list: &[Vib]| list.iter().filter(|v| alike(&v.name)).map(|v| v.name.clone()).collect::<Vec<_>>();
        let (components, vibs) = (names(&self.components), names(&self.installed));
        let (kind, names) = if components.is_empty() { ("vib", vibs) } else { ("component", components) };
        let remove = |name: String| {
            Effect::run(Command::new("esxcli", ["software", kind, "remove", "-n", &name]).within(1800))
        };
        names.into_iter().map(remove).collect()
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

/// Of packages that belong to an image.
fn of_image(owner: &str) -> (String, String) {
    (
        format!("{owner}: a package installed by hand is undone by the next remediation, or blocks it"),
        "add NVIDIA's component to that image in vCenter and remediate the host; vsgpu sees what is installed".into(),
    )
}

/// What the API does not do here; none where the host's own tools answer.
fn by_api(seen: &Observation) -> Result<Option<ByApi>, Unreadable> {
    let Some(host) = Vcenter::parse(&Subject::node(), seen)?.host else { return Ok(None) };
    let major = host.api.as_deref().and_then(EsxVersion::major);
    let only_images = host.is_vcenter && major.is_some_and(|major| major >= 9);
    let of_cluster = host.cluster.as_ref().filter(|cluster| cluster.image_managed == Some(true));
    // Before 7.0 there are no images.
    let unread = host
        .cluster
        .as_ref()
        .filter(|cluster| cluster.image_managed.is_none() && major.is_none_or(|major| major >= 7));
    let image_of = match (of_cluster, unread) {
        (Some(cluster), _) => {
            Some(format!("{} has one image for its hosts (vSphere Lifecycle Manager)", cluster.name))
        }
        (None, _) if only_images => {
            Some("from vCenter 9 on every host has an image (vSphere Lifecycle Manager)".into())
        }
        (None, Some(cluster)) => {
            Some(format!("whether {} has one image for its hosts may not be read", cluster.name))
        }
        (None, None) => None,
    };
    let no_esxcli = match seen.output(&esxcli::xml(&COMPONENTS)).map(|output| &output.ended) {
        Ok(ExitKind::ByApi(why)) => Some(why.clone()),
        Ok(_) => None,
        // Before 7.0 nobody asks for components.
        Err(_) => Some("it was not asked on this release".into()),
    };
    Ok(Some(ByApi { image_of, image: host.image, only_images, no_esxcli }))
}

fn all_in(package: &Artifact, vibs: &[Vib]) -> bool {
    let same = |held: &PackageContent, vib: &Vib| {
        (held.name.is_empty() || held.name == vib.name) && held.version == vib.version
    };
    !package.holds.is_empty()
        && package.holds.iter().all(|held| vibs.iter().any(|vib| same(held, vib) || same_driver(held, vib)))
}

/// A package whose file name was its only statement: the driver version alone must do.
fn same_driver(held: &PackageContent, vib: &Vib) -> bool {
    held.name.is_empty()
        && DriverVersion::leading(&held.version)
            .is_some_and(|v| Some(v) == DriverVersion::leading(&vib.version))
}
