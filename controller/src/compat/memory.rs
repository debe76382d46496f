//! Memory reservation and GPUs: a VM with a GPU needs all of its memory reserved.

use crate::compat::combination::{Combination, Finding};
use vsgpu_core::knowledge::Basis;

pub(super) fn check(c: &Combination) -> Vec<Finding> {
    if !c.memory_unreserved || !(c.vgpu() || c.passthrough) {
        return vec![];
    }
    let basis = Basis::document(
        "NVIDIA AI Enterprise guide 2.7.7.2; hostd: \"memory reservation (sched.mem.min) should be equal to memsize\"",
        true,
    );
    vec![c.finding(
        "`memory-reserved: null` takes the reservation away that a VM with a GPU needs",
        basis,
        Some("remove `memory-reserved: null`".into()),
    )]
}
