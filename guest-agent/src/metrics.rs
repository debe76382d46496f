//! Metrics only a guest has. What all nodes have (GPUs, licenses, requirements) is in the shared page.

use crate::facts::health::Health;
use crate::facts::{GuestLog, MachineFact};
use crate::guest::cuda_proof::CudaProofFact;
use vsgpu_core::knowledge::xids::Severity;
use vsgpu_core::observe::{Facts, typed};
use vsgpu_wire::metrics::Sample;

/// From the last facts; an unreadable fact has no values, and `vsgpu_fact_readable` says so.
pub(crate) fn samples(facts: &Facts) -> Vec<Sample> {
    let mut all = vec![];
    let mut alert = vec![];
    let mut say = |name, help, labels, value| all.push(Sample::new(name, help, labels, value));
    let mut say_alert = |name, help, labels, value| alert.push(Sample::for_alert(name, help, labels, value));
    if let Some((proof, at)) = typed::<CudaProofFact>(facts).and_then(|p| p.at.map(|at| (p, at))) {
        let right = CudaProofFact { this_boot: true, ..proof.clone() }.passed();
        say_alert(
            "guest_cuda_proof_passed",
            "1: every result of the last CUDA proof was right",
            vec![],
            f64::from(right),
        );
        say(
            "guest_cuda_proof_current",
            "1: it was run in this boot, with this driver",
            vec![],
            f64::from(proof.this_boot),
        );
        say("guest_cuda_proof_timestamp_seconds", "When the CUDA proof was last run", vec![], at as f64);
        for (device, found) in proof.report.devices.iter().enumerate() {
            if let Some(us) = found.launch_us {
                let labels = vec![("device", device.to_string())];
                say(
                    "guest_cuda_launch_seconds",
                    "From launch to end of an empty kernel, by the last CUDA proof",
                    labels,
                    us / 1e6,
                );
            }
            let bytes = [
                ("device", found.device_gb_s),
                ("host_to_device", found.host_to_device_gb_s),
                ("device_to_host", found.device_to_host_gb_s),
            ];
            for (path, gb_s) in bytes.into_iter().filter_map(|(path, value)| Some((path, value?))) {
                let labels = vec![("device", device.to_string()), ("path", path.into())];
                say(
                    "guest_cuda_bandwidth_bytes_per_second",
                    "Measured by the last CUDA proof",
                    labels,
                    gb_s * 1e9,
                );
            }
        }
    }
    if let Some(MachineFact(machine)) = typed::<MachineFact>(facts) {
        say("guest_memory_bytes", "Memory of the guest", vec![], machine.memory_bytes as f64);
        say(
            "guest_memory_available_bytes",
            "Memory that programs can still get",
            vec![],
            machine.memory_available_bytes as f64,
        );
        say("guest_load1", "Load of the guest over one minute", vec![], machine.load[0]);
        say("guest_uptime_seconds", "Seconds since the guest was booted", vec![], machine.uptime_secs as f64);
        for disk in machine.disks.iter().filter(|disk| disk.path == disk.disk) {
            say(
                "guest_disk_free_bytes",
                "Free space where vsgpu writes; paths on one disk are shown once",
                vec![("path", disk.path.clone())],
                disk.free_bytes as f64,
            );
        }
    }
    if let Some(health) = typed::<Health>(facts) {
        let worst = health.worst.map_or(0, |s| s as u32);
        say(
            "guest_health",
            "Worst finding: 0 none or informational, 1 application, 2 warning, 3 critical",
            vec![],
            f64::from(worst),
        );
        for (name, severity) in [("warning", Severity::Warning), ("critical", Severity::Critical)] {
            let count = health.findings.iter().filter(|f| f.severity == severity).count();
            say(
                "guest_health_findings",
                "Findings about the health of this guest's GPUs",
                vec![("severity", name.into())],
                count as f64,
            );
        }
        say("guest_driver_loaded", "1: the NVIDIA kernel module is loaded", vec![], f64::from(health.loaded));
        // At most this many: a broken board can name many codes, and each is a series.
        for xid in health.xids.iter().take(32) {
            let labels = vec![("gpu", format!("{}.0", xid.gpu)), ("xid", xid.code.to_string())];
            say(
                "xid_events",
                "Xid events of this boot in the kernel's log",
                labels.clone(),
                f64::from(xid.count),
            );
            say_alert(
                "xid_last_timestamp_seconds",
                "When the kernel's log last told of the Xid",
                labels,
                xid.last as f64,
            );
        }
        if let Some(end) = health.license_expires {
            say_alert("guest_license_expiry_timestamp_seconds", "When the license ends", vec![], end as f64);
        }
    }
    alert.extend(typed::<GuestLog>(facts).map(|log| Sample::findings(&log.0)).unwrap_or_default());
    alert.extend(crate::pool_metrics::samples(facts));
    alert.extend(all);
    alert
}
