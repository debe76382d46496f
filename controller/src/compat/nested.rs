//! Nested virtualization and PCI devices exclude each other.

use crate::compat::combination::{Combination, Finding};
use vsgpu_core::knowledge::Basis;

pub(super) fn check(c: &Combination) -> Vec<Finding> {
    if !c.nested || !(c.passthrough || c.vgpu()) {
        return vec![];
    }
    let basis = Basis::document("Broadcom KB 437651", true);
    let nearest =
        Some("turn off \"expose hardware-assisted virtualization\" for this VM (`vhv.enable`)".into());
    let what = "hardware virtualization is exposed to the VM, which excludes a GPU";
    let finding = c.finding(what, basis, nearest);
    // The article is about passthrough; of vGPU it was only reported.
    vec![if c.passthrough { finding } else { finding.doubtful() }]
}
