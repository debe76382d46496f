//! A release that NVIDIA took back (7.4: passthrough error 43) is never installed.

use crate::compat::combination::{Combination, Finding};
use vsgpu_core::knowledge::releases::{self, Release};

pub(super) fn check(c: &Combination) -> Vec<Finding> {
    let sides = [
        (c.manager.as_ref().map(|m| (m.value.to_string(), &m.by)), c.manager_releases()),
        (c.guest.as_ref().map(|g| (g.value.version.to_string(), &g.by)), c.guest_releases()),
    ];
    let find = |(side, found): (Option<(String, &String)>, Vec<&'static Release>)| {
        let (version, by) = side?;
        // A version that also serves a release that was not taken back is fine.
        let release = found.iter().find(|r| r.withdrawn).filter(|_| found.iter().all(|r| r.withdrawn))?;
        let nearest = releases::newest(release.major).map(|r| {
            format!("use {}: host {}, guest {}", r.name, r.host, crate::compat::driver_pair::guest_of(r))
        });
        Some(c.finding(
            format!("{by}: {version} is vGPU {}, which NVIDIA has withdrawn", release.name),
            release.basis.clone(),
            nearest,
        ))
    };
    sides.into_iter().filter_map(find).collect()
}
