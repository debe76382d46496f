//! GPUs of a host as people read them: one line each, then what the BIOS cannot be right in.

use crate::inventory::readiness::{GpuReadiness, Readiness};
use crate::render::table::columns;
use vsgpu_core::text::sentence;

/// Characters that the names of VMs may take: the line stays within a terminal.
const VMS: usize = 14;

/// What a GPU is used for, in vSphere's words.
fn mode(passthrough: bool, graphics: Option<&str>) -> Option<&str> {
    match graphics {
        _ if passthrough => Some("passthrough"),
        Some("SharedPassthru") => Some("vGPU"),
        other => other,
    }
}

/// What it will be after the next reboot.
fn next_mode(gpu: &GpuReadiness) -> Option<&str> {
    match gpu.passthrough_configured {
        Some(true) => Some("passthrough"),
        // Back from a VM, it is what the host's graphics type says.
        Some(false) => mode(false, gpu.graphics_configured.as_deref()),
        None => mode(gpu.passthrough_active, gpu.graphics_configured.as_deref()),
    }
}

/// As many names as there is room for, at least one.
fn vms(names: &[String]) -> String {
    let mut shown = String::new();
    for (at, name) in names.iter().enumerate() {
        let gap = if at == 0 { "" } else { ", " };
        if at > 0 && shown.chars().count() + gap.len() + name.chars().count() > VMS {
            return format!("{shown} +{}", names.len() - at);
        }
        shown += &format!("{gap}{name}");
    }
    if shown.is_empty() { "-".into() } else { shown }
}

/// Lines, indented; without a last newline. With `all`, also what of the BIOS is fine or not known.
pub fn text(readiness: &Readiness, all: bool) -> String {
    let mut rows =
        vec![["GPU", "MODEL", "BAR1", "NUMA", "MODE", "ECC", "MIG", "VMs"].map(String::from).to_vec()];
    let dash = || "-".to_string();
    let word = |is: Option<bool>| is.map(|on| if on { "on" } else { "off" });
    // Two states in one cell: what is, and what is configured where that differs.
    let both = |now: Option<&str>, next: Option<&str>| match (now, next) {
        (Some(now), Some(next)) if now != next => format!("{now} -> {next}"),
        (Some(one), _) | (None, Some(one)) => one.to_string(),
        (None, None) => "-".into(),
    };
    for gpu in &readiness.gpus {
        let bar = gpu.bar1_mib.map_or_else(dash, |mib| {
            if mib < 1024 { format!("{mib} MiB") } else { format!("{} GiB", mib / 1024) }
        });
        rows.push(vec![
            gpu.address.clone(),
            gpu.model.clone(),
            bar,
            gpu.numa_node.map_or_else(dash, |n| n.to_string()),
            both(mode(gpu.passthrough_active, gpu.graphics_active.as_deref()), next_mode(gpu)),
            both(word(gpu.ecc.0), word(gpu.ecc.1)),
            both(word(gpu.mig.0), word(gpu.mig.1)),
            vms(&gpu.vms),
        ]);
    }
    let mut lines: Vec<String> = columns(&rows).lines().map(|l| format!("  {l}")).collect();
    lines.extend(readiness.vcenter.iter().map(|said| format!("  vCenter: {}", sentence(said))));
    for bios in readiness.bios.iter().filter(|b| all || b.state == "suspect") {
        lines.push(format!("  BIOS: {} {}: {}", bios.setting, bios.state, sentence(&bios.evidence)));
    }
    lines.join("\n")
}
