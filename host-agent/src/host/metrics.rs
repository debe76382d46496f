//! Metrics only a host has. What all nodes have (GPUs, requirements) is in the shared page.

use super::esx::is_passthru;
use serde::Deserialize as _;
use serde_json::Value;
use std::collections::BTreeSet;
use vsgpu_core::execute::Facts;
use vsgpu_core::nvidia_smi::{self, TypesOfGpu, VgpuHost};
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
    if let Some(passthrough) = fact("passthrough") {
        for device in passthrough["devices"].as_array().into_iter().flatten().take(16) {
            let text = |key: &str| device[key].as_str().unwrap_or_default().to_string();
            let labels = vec![("gpu", text("address")), ("configured", text("configured_owner")), ("active", text("current_owner"))];
            let help = "Owner of a GPU on the host's bus, as configured and as active; the value is always 1";
            all.push(Sample { name: "host_gpu_owner_info", help, labels, value: 1.0 });
        }
        // Only who owns it counts: some releases say `Unknown` for a device that stays where it is.
        let differs = |d: &Value| {
            d["configured_owner"].is_string()
                && d["current_owner"].is_string()
                && d["configured_owner"] != "Unknown"
                && is_passthru(d["configured_owner"].as_str()) != is_passthru(d["current_owner"].as_str())
        };
        let pending = passthrough["devices"].as_array().is_some_and(|all| all.iter().any(differs));
        all.push(Sample {
            name: "host_reboot_pending",
            help: "1: a GPU changes its owner with the next reboot of the host",
            labels: vec![],
            value: f64::from(pending),
        });
    }
    vgpus(fact("vgpus"), fact("vgpu-types"), &mut all);
    // Last: a broken board can name many codes, and each is a series.
    for xid in fact("xids").and_then(|f| f["xids"].as_array()).into_iter().flatten().take(32) {
        let labels = vec![("gpu", format!("{}.0", xid["gpu"].as_str().unwrap_or_default())), ("xid", xid["code"].to_string())];
        if let Some(last) = xid["last"].as_f64() {
            let help = "When the kernel's log last told of the Xid";
            all.push(Sample { name: "xid_last_timestamp_seconds", help, labels: labels.clone(), value: last });
        }
        let help = "Xid events in what is left of the kernel's log";
        all.push(Sample { name: "xid_events", help, labels, value: xid["count"].as_f64().unwrap_or_default() });
    }
    all
}

/// The view from the host: what each VM's vGPU is and does, and where one more of its kind would fit.
fn vgpus(fact: Option<&Value>, types: Option<&Value>, all: &mut Vec<Sample>) {
    let Some(gpus) = fact.and_then(|f| Vec::<VgpuHost>::deserialize(&f["gpus"]).ok()) else { return };
    let mut in_use = BTreeSet::new();
    for gpu in gpus.iter().take(16) {
        let labels = vec![("gpu", gpu.bus_id.clone())];
        all.push(Sample { name: "host_vgpus", help: "vGPUs in use on the GPU", labels, value: gpu.vgpus.len() as f64 });
    }
    for (gpu, vgpu) in gpus.iter().flat_map(|g| g.vgpus.iter().map(move |v| (g, v))) {
        let vm = vgpu.vm_name.clone().unwrap_or_default();
        let profile = vgpu.profile.clone().unwrap_or_default();
        let id = || vec![("gpu", gpu.bus_id.clone()), ("vm", vm.clone())];
        let driver = vgpu.guest_driver.clone().unwrap_or_default();
        let labels = [id(), vec![("type", profile.clone()), ("guest_driver", driver)]].concat();
        all.push(Sample { name: "host_vgpu_info", help: "A vGPU with its guest's driver; the value is always 1", labels, value: 1.0 });
        let licensed = vgpu.license_status.as_deref().map(|s| f64::from(nvidia_smi::is_licensed(s)));
        let values = [
            ("host_vgpu_licensed", "1: the guest has its license, as it tells its host", licensed),
            ("host_vgpu_utilization_ratio", "Share of time in which the vGPU worked", vgpu.gpu_util_percent.map(|n| f64::from(n) / 100.0)),
            ("host_vgpu_memory_used_bytes", "Frame buffer of the vGPU in use", vgpu.fb_used_mib.map(|n| n as f64 * 1_048_576.0)),
        ];
        all.extend(values.into_iter().filter_map(|(name, help, value)| Some(Sample { name, help, labels: id(), value: value? })));
        in_use.insert(profile);
    }
    let Some(creatable) = types.and_then(|f| Vec::<TypesOfGpu>::deserialize(&f["creatable"]).ok()) else { return };
    // Types that are in use here: of all that a host could make there are more than anybody looks at.
    for profile in in_use.into_iter().take(16) {
        let fits = creatable.iter().filter(|gpu| gpu.names.contains(&profile)).count();
        let help = "GPUs of this host on which one more vGPU of the type could be created";
        all.push(Sample { name: "host_vgpu_type_fits", help, labels: vec![("type", profile)], value: fits as f64 });
    }
}
