//! GPUs of a host as people read them: one line each, then what the BIOS cannot be right in.

use crate::inventory::readiness::Readiness;
use crate::render::table::columns;
use vsgpu_core::text::sentence;

/// Lines, indented; without a last newline. With `all`, also what of the BIOS is fine or not known.
pub fn text(readiness: &Readiness, all: bool) -> String {
    let mut rows = vec![
        [
            "GPU",
            "model",
            "BAR1",
            "NUMA",
            "owner",
            "passthrough",
            "graphics type",
            "ECC",
            "MIG",
            "vGPU types",
            "VMs",
        ]
        .map(String::from)
        .to_vec(),
    ];
    let dash = || "-".to_string();
    let yes = |is: bool| if is { "yes" } else { "no" };
    let word = |is: Option<bool>| is.map(|on| if on { "on" } else { "off" });
    // Two states in one cell: what is, and what is configured where that differs.
    let both = |now: Option<&str>, next: Option<&str>| match (now, next) {
        (Some(now), Some(next)) if now != next => format!("{now} (-> {next})"),
        (Some(one), _) | (None, Some(one)) => one.to_string(),
        (None, None) => "-".into(),
    };
    for gpu in &readiness.gpus {
        let bar = gpu.bar1_mib.map_or_else(dash, |mib| {
            if mib < 1024 { format!("{mib} MiB") } else { format!("{} GiB", mib / 1024) }
        });
        let given = |is: bool| if is { "active" } else { "no" };
        let passthrough = both(Some(given(gpu.passthrough_active)), gpu.passthrough_configured.map(given));
        let capable = gpu.passthrough_capable.map(|c| format!(", capable: {}", yes(c))).unwrap_or_default();
        let graphics = if gpu.passthrough_active {
            dash()
        } else {
            both(gpu.graphics_active.as_deref(), gpu.graphics_configured.as_deref())
        };
        let types = match (&gpu.vgpu_types, &gpu.creatable) {
            (Some(all), Some(free)) => format!("{}, {} creatable", all.len(), free.len()),
            (Some(all), None) => all.len().to_string(),
            _ => dash(),
        };
        rows.push(vec![
            gpu.address.clone(),
            gpu.model.clone(),
            bar,
            gpu.numa_node.map_or_else(dash, |n| n.to_string()),
            gpu.owner.clone().unwrap_or_else(dash),
            format!("{passthrough}{capable}"),
            graphics,
            both(word(gpu.ecc.0), word(gpu.ecc.1)),
            both(word(gpu.mig.0), word(gpu.mig.1)),
            types,
            if gpu.vms.is_empty() { dash() } else { gpu.vms.join(", ") },
        ]);
    }
    let mut lines: Vec<String> = columns(&rows).lines().map(|l| format!("  {l}")).collect();
    for bios in readiness.bios.iter().filter(|b| all || b.state == "suspect") {
        lines.push(format!("  BIOS: {} {}: {}", bios.setting, bios.state, sentence(&bios.evidence)));
    }
    lines.join("\n")
}
