//! vMotion, suspend and snapshots: not with a whole GPU; with a vGPU under conditions.

use crate::compat::combination::{Combination, Finding};
use crate::fleet::Expectation;
use vsgpu_core::knowledge::Basis;

pub(super) fn check(c: &Combination) -> Vec<Finding> {
    let mut found = vec![];
    for expected in &c.expects {
        let word = match expected {
            Expectation::Vmotion => "vMotion",
            Expectation::Suspend => "suspend",
            Expectation::Snapshots => "snapshots while it runs",
        };
        if c.passthrough {
            let basis = Basis::document(
                "hostd: msg.pciPassthru.noMigration; vSphere documentation, DirectPath I/O",
                true,
            );
            let nearest = Some("use a vGPU, or take the expectation out; Dynamic DirectPath lets another host start the VM, cold".into());
            found.push(c.finding(
                format!("{word} is expected, which a VM with a whole GPU cannot do"),
                basis,
                nearest,
            ));
        } else if c.vgpu() && *expected == Expectation::Vmotion {
            let basis = Basis::document("VMware documentation, vMotion of VMs with a vGPU", false);
            let nearest = Some(
                "set `vgpu.hotmigrate.enabled` in vCenter, and raise the stun limit for large frame buffers"
                    .into(),
            );
            found.push(c.finding(
                "vMotion is expected; with a vGPU it has to be enabled in vCenter",
                basis,
                nearest,
            ));
        }
    }
    if c.passthrough && c.snapshots > 0 {
        let basis =
            Basis::document("vSphere documentation, DirectPath I/O: snapshots are not supported", false);
        let what = format!(
            "the VM has {} snapshot(s); going back to one of them takes the GPU away again or fails",
            c.snapshots
        );
        found.push(c.finding(what, basis, Some("delete the snapshots first".into())));
    }
    found
}
