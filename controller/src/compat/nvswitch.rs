//! GPUs behind NVSwitches (HGX and DGX boards): NVIDIA does not support them whole on vSphere, and of vGPUs the
//! time-sliced ones of a whole GPU only. SXM boards without switches exist: only a switch on the host's bus refuses.

use crate::compat::combination::{Combination, Finding};
use vsgpu_core::knowledge::gpus::{self, Model};
use vsgpu_core::knowledge::{Basis, vgpu_types};
use vsgpu_host_agent::facts::EsxVersion;

const SOURCE: &str = "NVIDIA AI Enterprise, release 8, page NVSwitch";
/// Architectures that NVIDIA builds with NVSwitches, and the first ESXi for their vGPUs.
const FIRST_ESXI: [(&str, &str); 2] = [("Ampere", "8.0.1"), ("Hopper", "8.0.2")];

/// Whether such a board may stand behind a switch.
fn is_sxm(model: &Model) -> bool {
    model.name.contains("SXM") && !matches!(model.architecture, "Pascal" | "Volta")
}

pub(super) fn check(c: &Combination) -> Vec<Finding> {
    let mut found = vec![];
    // The whole bus was seen, and there is none: a board of another kind.
    if c.nvswitches.as_ref().is_some_and(Vec::is_empty) {
        return found;
    }
    let switch = c.nvswitches.as_ref().and_then(|all| all.first());
    let basis = || Basis::document(SOURCE, true);
    let nearest = || {
        let with = "with NVSwitches take a full-size C profile such as `nvidia_h100xm-80c`";
        Some(match switch {
            Some(_) => with.to_string(),
            None => format!(
                "without any (no NVIDIA device of class 0x0680 in `esxcli hardware pci list`) passthrough is fine; {with}"
            ),
        })
    };
    if let Some(gpu) = c.whole.iter().find(|gpu| gpu.model().is_some_and(is_sxm)) {
        match switch {
            Some(switch) => found.push(c.finding(
                format!(
                    "passthrough of {}: the host has NVSwitches ({switch}), and NVIDIA does not support that on vSphere",
                    gpu.shown()
                ),
                basis(),
                nearest(),
            )),
            None => found.push(
                c.finding(
                    format!(
                        "passthrough of {}: NVIDIA does not support it on vSphere behind NVSwitches, and whether there are any is not known here",
                        gpu.shown()
                    ),
                    basis(),
                    nearest(),
                )
                .doubtful(),
            ),
        }
    }
    for (profile, vgpu) in c.types() {
        let Some(model) = gpus::by_token(vgpu.token).filter(|model| is_sxm(model)) else { continue };
        let full = vgpu_types::of_token(vgpu.token).map(|t| t.size_mib).max() == Some(vgpu.size_mib);
        if switch.is_some() && (!full || vgpu.mig || vgpu.series != "C") {
            let what = format!(
                "{} is wished on a host with NVSwitches, where NVIDIA supports full-size time-sliced C profiles only",
                profile.value
            );
            found.push(c.finding(what, basis(), nearest()).doubtful());
        }
        let first = FIRST_ESXI.iter().find(|(arch, _)| model.architecture == *arch).map(|(_, first)| *first);
        if let (Some(first), Some(esxi)) = (first, &c.esxi)
            && !EsxVersion::at_least(&esxi.value, first)
        {
            let what = format!(
                "{} with NVSwitches serves vGPUs from ESXi {first} on; {} has {}",
                model.name, esxi.by, esxi.value
            );
            found.push(c.finding(what, basis(), Some(format!("ESXi {first} or later"))).doubtful());
        }
    }
    found
}
