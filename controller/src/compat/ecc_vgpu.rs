//! ECC and vGPU: supported from release 9.0 (R430) on.

use crate::compat::combination::{Combination, Finding};
use vsgpu_core::knowledge::Basis;

const FIRST_BRANCH: u32 = 430;

pub(super) fn check(c: &Combination) -> Vec<Finding> {
    let (Some(ecc), Some(manager)) = (&c.ecc_on, &c.manager) else { return vec![] };
    let mut found = vec![];
    if c.vgpu() && manager.value.branch() < FIRST_BRANCH {
        let basis = Basis::document("NVIDIA vGPU 9.0 release notes: ECC on vGPU is new in 9.0", true);
        let what = format!(
            "{}: the fleet file turns ECC on, but {} has vGPU manager {}, which needs it off",
            ecc.by, manager.by, manager.value
        );
        found.push(c.finding(
            what,
            basis,
            Some("leave `ecc` out (it is then turned off), or use vGPU 9.0 or later".into()),
        ));
    }
    for (profile, vgpu) in c.types().into_iter().filter(|(_, t)| t.ecc == Some(false)) {
        let what = format!(
            "{}: the fleet file turns ECC on, but the vGPU type {} of {} does not support it",
            ecc.by, vgpu.name, profile.by
        );
        found.push(
            c.finding(what, vgpu.basis.clone(), Some("use a C or Q type, or leave ECC off".into()))
                .doubtful(),
        );
    }
    found
}
