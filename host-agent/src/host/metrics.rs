//! Metrics only a host has. What all nodes have (GPUs, requirements) is in the shared page.

use vsgpu_core::execute::Facts;
use vsgpu_proto::metrics::Sample;

/// From the last facts; an unreadable fact has no values, and `vsgpu_fact_readable` says so.
pub(crate) fn samples(facts: &Facts) -> Vec<Sample> {
    let fact = |name: &str| facts.get(name).and_then(|f| f.as_ref().ok());
    let mut all = vec![];
    if let Some(enabled) = fact("maintenance-mode").and_then(|f| f["enabled"].as_bool()) {
        all.push(Sample {
            name: "host_maintenance_mode",
            help: "1: the host is in maintenance mode",
            labels: vec![],
            value: f64::from(enabled),
        });
    }
    if let Some(graphics) = fact("host-graphics") {
        let configured = graphics["default_type"].as_str().unwrap_or_default().to_string();
        let help = "Default graphics type (configured) and the active type of each GPU; the value is always 1";
        for device in graphics["devices"].as_array().into_iter().flatten().take(16) {
            let text = |key: &str| device[key].as_str().unwrap_or_default().to_string();
            let labels = vec![("gpu", text("bdf")), ("configured", configured.clone()), ("active", text("graphics_type"))];
            all.push(Sample { name: "host_graphics_info", help, labels, value: 1.0 });
        }
    }
    for gpu in fact("vgpus").and_then(|f| f["gpus"].as_array()).into_iter().flatten().take(16) {
        let count = gpu["vgpus"].as_array().map_or(0, Vec::len);
        let labels = vec![("gpu", gpu["bus_id"].as_str().unwrap_or_default().to_string())];
        all.push(Sample { name: "host_vgpus", help: "vGPUs in use on the GPU", labels, value: count as f64 });
    }
    all
}
