//! Mixed vGPU sizes on one GPU: ESXi 8.0.3 and vGPU 17 at least.

use crate::compat::combination::{Combination, Finding};
use vsgpu_core::knowledge::Basis;
use vsgpu_host_agent::facts::EsxVersion;

const FIRST_ESXI: &str = "8.0.3";
const FIRST_BRANCH: u32 = 550;

pub(super) fn check(c: &Combination) -> Vec<Finding> {
    let Some(mixed) = &c.mixed else { return vec![] };
    let basis = || Basis::document("vSphere API 8.0.3: HostGraphicsConfig vgpuMode; vGPU 17 release", true);
    let mut found = vec![];
    if let Some(esxi) = c.esxi.as_ref().filter(|e| !EsxVersion::at_least(&e.value, FIRST_ESXI)) {
        let nearest = Some("set `vgpu-mode: SameSize`, or upgrade the host".into());
        found.push(c.finding(
            format!("{}: mixed vGPU sizes need ESXi {FIRST_ESXI}, {} is {}", mixed.by, esxi.by, esxi.value),
            basis(),
            nearest,
        ));
    }
    if let Some(manager) = c.manager.as_ref().filter(|m| m.value.branch() < FIRST_BRANCH) {
        let nearest = Some("set `vgpu-mode: SameSize`, or install a vGPU manager of 17.x or later".into());
        found.push(c.finding(
            format!(
                "{}: mixed vGPU sizes need vGPU 17 (R{FIRST_BRANCH}), {} has {}",
                mixed.by, manager.by, manager.value
            ),
            basis(),
            nearest,
        ));
    }
    found
}
