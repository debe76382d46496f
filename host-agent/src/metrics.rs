//! Metrics only a host has. What all nodes have (GPUs, requirements) is in the shared page.

use crate::facts::gpu_users::GpuUsers;
use crate::facts::log_findings::HostLog;
use crate::facts::pci_gpus::{PciGpu, is_passthru};
use crate::facts::vcenter::Vcenter;
use crate::facts::vgpu_types::VgpuTypes;
use crate::facts::vgpus::Vgpus;
use crate::facts::xids::Xids;
use crate::host::graphics_type::HostGraphics;
use crate::host::maintenance_mode::MaintenanceModeFact;
use crate::host::passthrough::HostPassthrough;
use std::collections::BTreeSet;
use vsgpu_core::observe::{Facts, typed};
use vsgpu_core::readers::nvidia_smi;
use vsgpu_vsphere::counters::Counter;
use vsgpu_wire::metrics::Sample;

/// Counters of GPUs that vCenter measures, under the names that agents use for the same, and what one of the counter's
/// units is in the metric's.
pub(crate) const COUNTERS: [(Counter, &str, &str, f64); 8] = [
    (Counter::Utilization, "gpu_utilization_ratio", "Share of time in which the GPU worked", 1.0 / 10_000.0),
    (Counter::MemoryUsed, "gpu_memory_used_bytes", "Frame buffer in use", 1024.0),
    (Counter::MemoryReserved, "gpu_memory_reserved_bytes", "Frame buffer that VMs have reserved", 1024.0),
    (Counter::MemoryTotal, "gpu_memory_total_bytes", "Frame buffer of the GPU", 1024.0),
    (Counter::Power, "gpu_power_watts", "Power drawn by the GPU", 1.0),
    (Counter::Temperature, "gpu_temperature_celsius", "Temperature of the GPU", 1.0),
    (Counter::EccCorrected, "gpu_ecc_corrected_errors", "Errors of the memory that were corrected", 1.0),
    (
        Counter::EccUncorrected,
        "gpu_ecc_uncorrected_errors",
        "Errors of the memory that were not corrected",
        1.0,
    ),
];

/// From the last facts; an unreadable fact has no values, and `vsgpu_fact_readable` says so.
pub(crate) fn samples(facts: &Facts) -> Vec<Sample> {
    let mut all = vec![];
    if let Some(fact) = typed::<MaintenanceModeFact>(facts) {
        let help = "1: the host is in maintenance mode";
        all.push(Sample::for_alert("host_maintenance_mode", help, vec![], f64::from(fact.enabled)));
    }
    if let Some(graphics) = typed::<HostGraphics>(facts) {
        let help =
            "Default graphics type (configured) and the active type of each GPU; the value is always 1";
        for device in graphics.devices.iter().take(16) {
            let configured = ("configured", graphics.default_type.clone());
            let labels =
                vec![("gpu", device.bdf.clone()), configured, ("active", device.graphics_type.clone())];
            all.push(Sample::new("host_graphics_info", help, labels, 1.0));
        }
    }
    if let Some(passthrough) = typed::<HostPassthrough>(facts) {
        let text = |owner: &Option<String>| owner.clone().unwrap_or_default();
        for device in passthrough.devices.iter().take(16) {
            let owners =
                [("configured", text(&device.configured_owner)), ("active", text(&device.current_owner))];
            let labels = [vec![("gpu", device.address.clone())], owners.to_vec()].concat();
            let help = "Owner of a GPU on the host's bus, as configured and as active; the value is always 1";
            all.push(Sample::new("host_gpu_owner_info", help, labels, 1.0));
        }
        // Only who owns it counts: some releases say `Unknown` for a device that stays where it is.
        let differs = |d: &PciGpu| {
            let both = d.configured_owner.as_deref().zip(d.current_owner.as_deref());
            both.is_some_and(|(then, now)| {
                then != "Unknown" && is_passthru(Some(then)) != is_passthru(Some(now))
            })
        };
        let pending = passthrough.devices.iter().any(differs);
        let help = "1: a GPU changes its owner with the next reboot of the host";
        all.push(Sample::for_alert("host_reboot_pending", help, vec![], f64::from(pending)));
    }
    vgpus(typed::<Vgpus>(facts), typed::<VgpuTypes>(facts), &mut all);
    for user in typed::<GpuUsers>(facts).into_iter().flat_map(|f| f.vms).filter(|vm| vm.running) {
        let help = "A running VM that has a whole GPU: the GPU's address, or the device (Dynamic DirectPath: vSphere picks one); the value is always 1";
        for gpu in user.fixed.iter().chain(&user.dynamic).take(16) {
            let labels = vec![("gpu", gpu.clone()), ("vm", user.vm.clone())];
            all.push(Sample::new("host_whole_gpu_info", help, labels, 1.0));
        }
    }
    // Where no driver is asked, what vCenter measures stands under the same names.
    for gpu in typed::<Vcenter>(facts).and_then(|fact| fact.host).into_iter().flat_map(|host| host.counters) {
        let labels = vec![("gpu", gpu.gpu.clone()), ("source", "vsphere".to_string())];
        for (name, help) in COUNTERS.iter().map(|(_, name, help, _)| (*name, *help)) {
            let value = gpu.values.get(name);
            all.extend(value.map(|value| Sample::new(name, help, labels.clone(), *value)));
        }
    }
    all.extend(typed::<HostLog>(facts).map(|log| Sample::findings(&log.0)).unwrap_or_default());
    // Last: a broken board can name many codes, and each is a series.
    for xid in typed::<Xids>(facts).into_iter().flat_map(|f| f.xids).take(32) {
        let labels = vec![("gpu", format!("{}.0", xid.gpu)), ("xid", xid.code.to_string())];
        if let Some(last) = xid.last {
            let help = "When the kernel's log last told of the Xid";
            all.push(Sample::for_alert("xid_last_timestamp_seconds", help, labels.clone(), last as f64));
        }
        let help = "Xid events in what is left of the kernel's log";
        all.push(Sample::new("xid_events", help, labels, f64::from(xid.count)));
    }
    all
}

/// The view from the host: what each VM's vGPU is and does, and where one more of its kind would fit.
fn vgpus(fact: Option<Vgpus>, types: Option<VgpuTypes>, all: &mut Vec<Sample>) {
    let Some(Vgpus { gpus }) = fact else { return };
    let mut in_use = BTreeSet::new();
    for gpu in gpus.iter().take(16) {
        let labels = vec![("gpu", gpu.bus_id.clone())];
        all.push(Sample::new("host_vgpus", "vGPUs in use on the GPU", labels, gpu.vgpus.len() as f64));
    }
    for (gpu, vgpu) in gpus.iter().flat_map(|g| g.vgpus.iter().map(move |v| (g, v))) {
        let vm = vgpu.vm_name.clone().unwrap_or_default();
        let profile = vgpu.profile.clone().unwrap_or_default();
        let id = || vec![("gpu", gpu.bus_id.clone()), ("vm", vm.clone())];
        let driver = vgpu.guest_driver.clone().unwrap_or_default();
        let labels = [id(), vec![("type", profile.clone()), ("guest_driver", driver)]].concat();
        all.push(Sample::new(
            "host_vgpu_info",
            "A vGPU with its guest's driver; the value is always 1",
            labels,
            1.0,
        ));
        let licensed = vgpu.license_status.as_deref().map(|s| f64::from(nvidia_smi::is_licensed(s)));
        let help = "1: the guest has its license, as it tells its host";
        all.extend(licensed.map(|licensed| Sample::for_alert("host_vgpu_licensed", help, id(), licensed)));
        let values = [
            (
                "host_vgpu_utilization_ratio",
                "Share of time in which the vGPU worked",
                vgpu.gpu_util_percent.map(|n| f64::from(n) / 100.0),
            ),
            (
                "host_vgpu_memory_used_bytes",
                "Frame buffer of the vGPU in use",
                vgpu.fb_used_mib.map(|n| n as f64 * 1_048_576.0),
            ),
        ];
        all.extend(
            values.into_iter().filter_map(|(name, help, value)| Some(Sample::new(name, help, id(), value?))),
        );
        if let Some(known) = vsgpu_core::knowledge::vgpu_types::find(&profile) {
            let help = "Frame buffer of the vGPU, as its type has it";
            let bytes = known.size_mib as f64 * 1_048_576.0;
            all.push(Sample::new("host_vgpu_memory_total_bytes", help, id(), bytes));
        }
        in_use.insert(profile);
    }
    let Some(VgpuTypes { creatable, .. }) = types else { return };
    // Types that are in use here: of all that a host could make there are more than anybody looks at.
    for profile in in_use.into_iter().take(16) {
        let fits = creatable.iter().filter(|gpu| gpu.names.contains(&profile)).count();
        let help = "GPUs of this host on which one more vGPU of the type could be created";
        all.push(Sample::new("host_vgpu_type_fits", help, vec![("type", profile)], fits as f64));
    }
}
