//! A vGPU needs a host that serves vGPUs: its manager there, the graphics type SharedPassthru.

use crate::compat::combination::{Combination, Finding};
use vsgpu_core::knowledge::Basis;

pub(super) fn check(c: &Combination) -> Vec<Finding> {
    if !c.vgpu() {
        return vec![];
    }
    let basis = || {
        Basis::document("NVIDIA AI Enterprise guide 2.7: vGPU manager and graphics type SharedPassthru", true)
    };
    if let Some(lack) = c.serves_no_vgpu {
        let nearest = Some(
            "set `vgpu-manager: { package: .. }` and `graphics-type: SharedPassthru` of that host, or `vgpu: []` of the VM".into(),
        );
        return vec![c.finding(
            format!("the VM wants a vGPU, and the fleet file has its host {lack}"),
            basis(),
            nearest,
        )];
    }
    // vSphere says this at power-on, after the outage.
    let shared = c.stays_shared.as_ref().map(|shared| {
        let what = format!(
            "the VM wants a vGPU, {shared}, and no key of the fleet file changes it: it would not start"
        );
        c.finding(what, basis(), Some("write `graphics-type: SharedPassthru` at the host".into()))
    });
    shared.into_iter().collect()
}
