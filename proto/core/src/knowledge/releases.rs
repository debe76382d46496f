//! vGPU releases: which versions of host manager and guest driver make one release, and for which vSphere it
//! was packaged. Versions of host and guest differ inside a release, and one host version may serve two: both
//! map to *sets* of releases.

use crate::knowledge::Basis;
use crate::knowledge::table::rows;
use crate::units::{DriverVersion, branch_of};
use std::sync::LazyLock;

const TABLE: &str = "vgpu_releases.tsv";
const PACKAGES: &str = "vgpu_packages_vsphere.tsv";

/// How a release is licensed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Licensing {
    /// Legacy license server only.
    Legacy,
    /// Both.
    Both,
    /// NVIDIA License System (CLS or DLS) only.
    Nls,
}

/// One release.
#[derive(Clone, Debug)]
pub struct Release {
    /// `16.4`.
    pub name: &'static str,
    /// First number: the branch of releases.
    pub major: u32,
    /// Driver branch: 535 of R535.
    pub branch: u32,
    /// Host manager.
    pub host: DriverVersion,
    /// Linux guest driver, where known.
    pub guest: Option<DriverVersion>,
    /// Year and month of its end of life.
    pub eol: &'static str,
    /// vSphere versions, in words: from package lists, or from a note about the branch.
    pub vsphere: &'static str,
    /// How it is licensed.
    pub licensing: Licensing,
    /// Withdrawn by NVIDIA.
    pub withdrawn: bool,
    /// Where this comes from.
    pub basis: Basis,
}

static ALL: LazyLock<Vec<Release>> = LazyLock::new(|| {
    let release = |r: crate::knowledge::table::Row| {
        let name = r.get("vgpu_release");
        Some(Release {
            name,
            major: name.split('.').next()?.parse().ok()?,
            branch: branch_of(r.get("driver_branch"))?,
            host: r.get("host_vgpu_manager").parse().ok()?,
            guest: r.get("guest_linux").parse().ok(),
            eol: r.get("branch_eol"),
            vsphere: r.get("vsphere_versions_with_package"),
            licensing: match r.get("licensing") {
                "legacy server only" => Licensing::Legacy,
                "legacy server or NLS" => Licensing::Both,
                _ => Licensing::Nls,
            },
            withdrawn: r.get("note").contains("withdrawn"),
            basis: r.basis(TABLE, name),
        })
    };
    rows("vgpu_releases.tsv").filter_map(release).collect()
});

struct Package {
    release: &'static str,
    vsphere: &'static str,
    basis: Basis,
}

static PACKAGED: LazyLock<Vec<Package>> = LazyLock::new(|| {
    let package = |r: crate::knowledge::table::Row| {
        let (release, vsphere) = (r.get("vgpu_release"), r.get("vsphere"));
        let mut basis = r.basis(PACKAGES, format!("{release} for vSphere {vsphere}"));
        // The list has no status: it is names of packages that were seen.
        basis.confirmed = true;
        Package { release, vsphere, basis }
    };
    rows("vgpu_packages_vsphere.tsv").map(package).collect()
});

/// Every release, oldest first.
pub fn all() -> &'static [Release] {
    &ALL
}

/// Those that the program brings, without rows of the operator.
pub fn built_in() -> impl Iterator<Item = &'static Release> {
    ALL.iter().filter(|r| !r.basis.is_own())
}

/// The release of this name; `16.x` and `16` have none.
pub fn named(name: &str) -> Option<&'static Release> {
    ALL.iter().find(|r| r.name == name)
}

/// Releases whose host manager has this version.
pub fn of_host(version: &DriverVersion) -> Vec<&'static Release> {
    ALL.iter().filter(|r| r.host == *version).collect()
}

/// Releases whose Linux guest driver has this version.
pub fn of_guest(version: &DriverVersion) -> Vec<&'static Release> {
    ALL.iter().filter(|r| r.guest.as_ref() == Some(version)).collect()
}

/// The major release of a driver branch (16 for R535), and that branch's rows.
pub fn of_branch(branch: u32) -> Option<(u32, Vec<&'static Release>)> {
    let rows: Vec<_> = ALL.iter().filter(|r| r.branch == branch).collect();
    Some((rows.first()?.major, rows))
}

/// The newest release of a major.
pub fn newest(major: u32) -> Option<&'static Release> {
    ALL.iter().rfind(|r| r.major == major && !r.withdrawn)
}

/// vSphere majors (`8.0`) that a release was packaged for, with the basis of one of them; empty where no list
/// was seen.
pub fn packaged_for(release: &str) -> Vec<(&'static str, &'static Basis)> {
    PACKAGED.iter().filter(|p| p.release == release).map(|p| (p.vsphere, &p.basis)).collect()
}

/// Releases packaged for a vSphere major, oldest first.
pub fn packaged_on(vsphere: &str) -> Vec<&'static Release> {
    ALL.iter().filter(|r| PACKAGED.iter().any(|p| p.release == r.name && p.vsphere == vsphere)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_read_whole_and_in_order() {
        assert_eq!(ALL.len(), include_str!("../../data/vgpu_releases.tsv").lines().count() - 1);
        assert!(ALL.windows(2).all(|w| w[0].major <= w[1].major));
        assert!(PACKAGED.iter().all(|p| named(p.release).is_some()), "a package of an unknown release");
        assert!(
            named("7.4").is_some_and(|r| r.withdrawn) && all().iter().filter(|r| r.withdrawn).count() == 1
        );
    }

    #[test]
    fn one_host_version_may_serve_two_releases() {
        let names = |v: &str| v.parse().map(|v| of_host(&v).iter().map(|r| r.name).collect::<Vec<_>>());
        assert_eq!(names("535.161.05"), Ok(vec!["16.4", "16.5"]));
        assert_eq!(names("390.42"), Ok(vec!["6.0"]));
        let guest =
            "570.158.01".parse().map(|v| of_guest(&v).iter().map(|r| r.host.to_string()).collect::<Vec<_>>());
        assert_eq!(guest, Ok(vec!["570.158.02".to_string()]));
        assert_eq!(newest(8).map(|r| r.branch), Some(418));
    }
}
