//! License server and vGPU release: up to 12.x only the legacy server licenses, from 15.x on only NLS.

use crate::compat::combination::{Combination, Finding, LicenseWay};
use vsgpu_core::knowledge::releases::{self, Licensing, Release};

pub(super) fn check(c: &Combination) -> Vec<Finding> {
    let Some(license) = &c.license else { return vec![] };
    let of_branch = |version: &vsgpu_core::units::DriverVersion| {
        releases::of_branch(version.branch()).map(|(_, rows)| rows).unwrap_or_default()
    };
    let or_branch = |found: Vec<&'static Release>, version: Option<&vsgpu_core::units::DriverVersion>| {
        if found.is_empty() { version.map(of_branch).unwrap_or_default() } else { found }
    };
    let guest = c.guest.as_ref().filter(|g| g.value.grid != Some(false));
    let sides = [
        (c.manager.as_ref().filter(|_| c.vgpu()).map(|m| (&m.value, &m.by)), c.manager_releases()),
        (guest.map(|g| (&g.value.version, &g.by)), c.guest_releases()),
    ];
    for (side, of_version) in sides {
        let Some((version, by)) = side else { continue };
        let all = or_branch(of_version, Some(version));
        let (way, other, against) = match license.value {
            LicenseWay::Nls => ("NLS (a token)", "a legacy license server (`server:`)", Licensing::Legacy),
            LicenseWay::Legacy => ("a legacy license server", "NLS (`token:`)", Licensing::Nls),
        };
        if let Some(release) = all.first().filter(|_| all.iter().all(|r| r.licensing == against)) {
            let what = format!(
                "{} is licensed by {way}, but {by} has {version} (vGPU {}.x), which knows only {other}",
                license.by, release.major
            );
            let nearest = match license.value {
                LicenseWay::Nls => "use a legacy license server, or vGPU 13.x or later on host and guest".to_string(),
                LicenseWay::Legacy => {
                    "use a client configuration token of NLS (CLS or DLS), or vGPU 14.x or older on host and guest".into()
                }
            };
            // One side is enough: the other says the same.
            return vec![c.finding(what, release.basis.clone(), Some(nearest))];
        }
    }
    vec![]
}
