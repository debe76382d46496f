//! What a guest sees of its host without any driver, against what the host's agent says: they differ where a
//! VM was not power-cycled after its host was changed, or where the fleet file names the wrong VM.

use crate::compat::combination::{Combination, Finding};
use vsgpu_core::knowledge::Basis;
use vsgpu_core::units::DriverVersion;

pub(super) fn check(c: &Combination) -> Vec<Finding> {
    let mut found = vec![];
    let source = "the vGPU's PCI capability in the guest (NVIDIA/gpu-driver-container, vgpu-util.go)";
    let seen = c.seen_by_guest.iter().filter_map(|g| Some((g, g.host.as_ref()?.manager.as_deref()?)));
    for (gpu, manager) in seen {
        let Ok(version) = manager.parse::<DriverVersion>() else { continue };
        // A manager that is wished for is not there yet.
        let differs = c.manager.as_ref().filter(|m| !c.manager_wished && m.value != version);
        if let Some(of_host) = differs {
            let what = format!(
                "{}: the guest sees vGPU manager {manager} behind {}, {} says {}",
                c.about, gpu.address, of_host.by, of_host.value
            );
            let nearest = Some(
                "power-cycle the VM; if they still differ, the fleet file names another VM or host".into(),
            );
            found.push(c.finding(what, Basis::document(source, true), nearest).doubtful());
        }
    }
    // Types of the profiles wished for, against those on the bus: both have the size and series at their end.
    let tail = |name: &str| name.rsplit(['_', ' ']).next().unwrap_or_default().to_lowercase();
    let wished: Vec<String> = c.profiles.iter().map(|p| tail(&p.value)).collect();
    let other = c
        .seen_by_guest
        .iter()
        .find_map(|g| g.vgpu_type.as_deref().filter(|t| !wished.is_empty() && !wished.contains(&tail(t))));
    if let Some(seen) = other {
        let what = format!(
            "{}: the guest sees the vGPU {seen}, the fleet file says {}",
            c.about,
            wished.join(" + ")
        );
        let nearest = Some("the VM gets another vGPU when it is next powered on; if this plan shuts it down, nothing is to be done".into());
        found.push(c.finding(what, Basis::document(source, true), nearest).doubtful());
    }
    let types: Vec<&str> = c.seen_by_guest.iter().filter_map(|g| g.vgpu_type.as_deref()).collect();
    if let Some(seen) = types.first().filter(|_| c.passthrough && !c.vgpu()) {
        let what =
            format!("{}: the guest sees the vGPU {seen}, the fleet file says whole GPUs only", c.about);
        let nearest = Some(
            "look whether the fleet file names the right VM: `vsgpu facts -n NAME -o json`, `pci-gpus`"
                .into(),
        );
        found.push(c.finding(what, Basis::document(source, true), nearest).doubtful());
    }
    found
}
