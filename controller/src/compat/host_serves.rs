//! A vGPU needs a host that serves vGPUs: its manager there, the graphics type SharedPassthru.

use crate::compat::combination::{Combination, Finding};
use vsgpu_core::knowledge::Basis;

pub(super) fn check(c: &Combination) -> Vec<Finding> {
    let Some(lack) = c.serves_no_vgpu.filter(|_| c.vgpu()) else { return vec![] };
    let basis = Basis::document(
        "NVIDIA AI Enterprise guide 2.7: vGPU manager and graphics type SharedPassthru",
        true,
    );
    let nearest = Some(
        "set `vgpu-manager: { package: .. }` and `graphics-type: SharedPassthru` of that host, or `vgpu: []` of the VM".into(),
    );
    vec![c.finding(format!("the VM wants a vGPU, and the fleet file has its host {lack}"), basis, nearest)]
}
