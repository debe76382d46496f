//! Prometheus text on its own listener, from a cache: a hanging nvidia-smi makes values old, never a scrape
//! slow. How old they are is a metric of its own.

use crate::metrics::listener::{self, Pages, ScrapeAuth};
use crate::metrics::{CERTIFICATE_END, Sample, Snapshot, encoded};
use crate::server::node::Node;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use vsgpu_core::observe::{self, Facts};
use vsgpu_core::readers::nvidia_smi::SmiReport;
use vsgpu_core::{Scope, Subject, judge};
use vsgpu_machine::summary::{OwnProcess, own_process};

/// Series of one agent, at most.
const MAX_SERIES: usize = 200;

/// What the listener of an agent serves.
struct OfAgent(Arc<Node>);

impl Pages for OfAgent {
    fn metrics(&self) -> String {
        page(&self.0, self.0.dcgm_names)
    }

    /// Ready: it has looked at the machine, and not too long ago.
    fn ready(&self) -> Result<String, String> {
        let at = self.0.snapshot.lock().ok().and_then(|s| s.at);
        match at.map(|at| self.0.system.now().saturating_sub(at)) {
            None => Err("the first look at the machine has not ended".into()),
            Some(age) if age > 3 * self.0.observe_every.as_secs().max(1) => {
                Err(format!("the last look is {age} s old"))
            }
            Some(age) => Ok(format!("looked {age} s ago")),
        }
    }
}

/// Looks again and again in a thread of its own, first after so long.
pub(crate) fn watch(node: Arc<Node>, first: Duration) {
    std::thread::spawn(move || {
        node.system.sleep(first);
        loop {
            look(&node);
            node.system.sleep(node.observe_every);
        }
    });
}

/// The same, and serves what it saw.
pub(crate) fn listen(node: Arc<Node>, address: SocketAddr, allowed: ScrapeAuth) -> Result<(), String> {
    watch(node.clone(), Duration::ZERO);
    listener::listen(address, allowed, Arc::new(OfAgent(node)))
}

fn look(node: &Node) {
    let start = node.system.elapsed();
    let on = Subject::node();
    // While something is changed the old look stays: nvidia-smi would load, and hold, the very module that is
    // being exchanged.
    if node.acting(&on).try_lock().is_err() {
        return;
    }
    let looking = node.looking();
    let facts = observe::observe(node.system.as_ref(), &on, &node.catalogue.facts(node.scope(&on)));
    node.looked(&facts, looking);
    let wished: Vec<String> = node
        .wishes
        .lock()
        .map(|w| w.keys().filter_map(|k| k.rsplit_once('/')).map(|(vm, _)| vm.into()).collect())
        .unwrap_or_default();
    let mut vms: Vec<String> = wished.into_iter().filter(|vm| !vm.is_empty()).collect();
    vms.dedup();
    // Of a VM only what its wishes need: the facts of every VM together read every VM.
    let wishes = node.wishes.lock().map(|w| w.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
    let of_vms = vms.into_iter().map(|vm| {
        let named = |e: &&vsgpu_core::Entry| {
            wishes.iter().any(|key| key.rsplit_once('/') == Some((vm.as_str(), e.name)))
        };
        let facts: Vec<_> = node.catalogue.of(Scope::Vm).filter(named).map(|e| e.fact).collect();
        let facts = observe::observe(node.system.as_ref(), &Subject::vm(&vm), &facts);
        (vm, facts)
    });
    let of_vms = of_vms.collect();
    let reached = node.system.is_remote().then(|| node.system.boot_id().is_ok());
    let (at, took) = (Some(node.system.now()), node.system.elapsed() - start);
    let seen = Snapshot { of_vms, facts, at, took, reached };
    if let Ok(mut snapshot) = node.snapshot.lock() {
        *snapshot = seen;
    }
}

/// The page of an agent. DCGM's names stand only on the page that is scraped here: the exporter's page is
/// vsgpu's own names, and it would refuse others.
pub(crate) fn page(node: &Node, dcgm_names: bool) -> String {
    let families = node.metrics.registry.gather();
    let counted: usize = families.iter().map(|f| f.get_metric().len()).sum();
    let (mut shown, dropped) = bounded(samples(node, dcgm_names), MAX_SERIES.saturating_sub(counted + 1));
    let help = "Series of this agent beyond its 200, which are not shown: never those that alerts need";
    shown.push(Sample::new("series_left_out", help, vec![], dropped as f64));
    encoded(families, shown)
}

/// At most so many, those first that alerts need.
fn bounded(mut all: Vec<Sample>, most: usize) -> (Vec<Sample>, usize) {
    all.sort_by_key(|s| !s.alerts);
    let dropped = all.len().saturating_sub(most);
    all.truncate(most);
    (all, dropped)
}

fn samples(node: &Node, dcgm_names: bool) -> Vec<Sample> {
    let (sample, alert) = (Sample::new, Sample::for_alert);
    let mut all = vec![alert("up", "1: the agent answers", vec![], 1.0)];
    let Ok(snapshot) = node.snapshot.lock() else { return all };
    let Some(at) = snapshot.at else { return all };
    all.push(sample(
        "last_observation_timestamp_seconds",
        "When the machine was last looked at; everything below is as old",
        vec![],
        at as f64,
    ));
    all.push(alert(
        "last_observation_age_seconds",
        "Age of the last look at the machine",
        vec![],
        node.system.now().saturating_sub(at) as f64,
    ));
    all.push(sample(
        "observation_duration_seconds",
        "How long that look took",
        vec![],
        snapshot.took.as_secs_f64(),
    ));
    // Three looks missed: a tool hangs, or something is being changed for long.
    let stale = node.system.now().saturating_sub(at) > 3 * node.observe_every.as_secs().max(1);
    all.push(alert(
        "observation_stale",
        "1: the last three looks did not end; what is shown is old",
        vec![],
        f64::from(stale),
    ));
    if let Some(end) = node.certificate_end {
        let (name, help) = CERTIFICATE_END;
        all.push(alert(name, help, vec![], end as f64));
    }
    if let Some(reached) = snapshot.reached {
        let help = "1: the host answered its agent, which is elsewhere and asks over ssh";
        all.push(alert("host_reachable", help, vec![], f64::from(reached)));
    }
    let temporary = node.ledger.all();
    if node.agent.role == "host" {
        let (_, lease_left) = node.lease.holder(node.system.as_ref());
        let left = temporary.iter().any(|t| t.seen) && lease_left == 0 && node.operations.running().is_none();
        let help = "1: a run left maintenance mode or stopped VMs on this host, and no vsgpu works here";
        all.push(alert("host_left_taken", help, vec![], f64::from(left)));
    }
    // A guest's page says nothing of hosts: the exporter refuses that.
    for t in temporary.iter().take(50).filter(|_| node.agent.role == "host") {
        let help = "When a run changed this on the host; it has not been restored yet";
        let labels = vec![("what", t.what.clone()), ("vm", t.vm.clone()), ("run", t.run.clone())];
        all.push(sample("host_taken_timestamp_seconds", help, labels, t.since as f64));
    }
    let Ok(wishes) = node.wishes.lock() else { return all };
    for (key, spec) in wishes.iter() {
        let Some((vm, name)) = key.rsplit_once('/') else { continue };
        let on = Subject::named((!vm.is_empty()).then(|| vm.to_string()));
        let facts = if vm.is_empty() {
            Some(&snapshot.facts)
        } else {
            snapshot.of_vms.iter().find(|(n, _)| n == vm).map(|(_, f)| f)
        };
        let Some(entry) = node.catalogue.find(node.scope(&on), name) else { continue };
        // What cannot be read is neither met nor not met: `fact_readable` says so.
        let Some(fact) = facts.and_then(|f: &Facts| f.get(entry.fact.name)).filter(|fact| fact.is_ok())
        else {
            continue;
        };
        let met = judge(entry, spec, Some(fact)).is_met();
        let labels = vec![("vm", vm.to_string()), ("requirement", name.to_string())];
        all.push(sample(
            "requirement_met",
            "1: the node was as the fleet file said when it was last applied or verified",
            labels,
            f64::from(met),
        ));
    }
    drop(wishes);
    for (name, fact) in &snapshot.facts {
        all.push(alert(
            "fact_readable",
            "1: the fact could be read",
            vec![("fact", name.clone())],
            f64::from(fact.is_ok()),
        ));
    }
    let report = (node.agent.smi_report)(&snapshot.facts);
    all.extend(report.iter().flat_map(gpus));
    all.extend((node.agent.samples)(&snapshot.facts));
    if dcgm_names {
        all.extend(report.iter().flat_map(|report| dcgm(report, &node.name)));
    }
    // Last: where there is no room for all series, those of the GPUs come first.
    all.extend(own_process().iter().flat_map(of_process));
    all
}

/// What this agent itself takes. ESXi's own kernel does not say it.
fn of_process(own: &OwnProcess) -> Vec<Sample> {
    let sample = |name, help, value| Sample::new(name, help, vec![], value);
    let files = own.open_files.map(|n| sample("agent_open_files", "Files that the agent has open", n as f64));
    [
        sample(
            "agent_resident_memory_bytes",
            "Memory of the agent that is not swapped out",
            own.resident_bytes as f64,
        ),
        sample(
            "agent_cpu_seconds",
            "CPU time of the agent since it was started",
            own.cpu_millis as f64 / 1000.0,
        ),
        sample("agent_start_time_seconds", "When the agent was started", own.started_secs as f64),
    ]
    .into_iter()
    .chain(files)
    .collect()
}

/// The same GPUs under DCGM's field names, with the labels and units of NVIDIA's exporter (MiB, percent), for
/// dashboards that are there already. Only fields that nvidia-smi answers as well.
fn dcgm(report: &SmiReport, host: &str) -> Vec<Sample> {
    let mut all = vec![];
    for (index, gpu) in report.gpus.iter().take(16).enumerate() {
        let labels = || {
            vec![
                ("gpu", index.to_string()),
                ("UUID", gpu.uuid.clone().unwrap_or_default()),
                ("pci_bus_id", gpu.bus_id.clone()),
                ("device", format!("nvidia{index}")),
                ("modelName", gpu.name.clone().unwrap_or_default()),
                ("Hostname", host.to_string()),
            ]
        };
        let mib = |n: Option<u64>| n.map(|n| n as f64);
        let free =
            gpu.fb_total_mib.zip(gpu.fb_used_mib).map(|(total, used)| total.saturating_sub(used) as f64);
        let fields = [
            ("DCGM_FI_DEV_GPU_UTIL", "GPU utilization (in %).", gpu.gpu_util_percent.map(f64::from)),
            ("DCGM_FI_DEV_FB_USED", "Framebuffer memory used (in MiB).", mib(gpu.fb_used_mib)),
            ("DCGM_FI_DEV_FB_FREE", "Framebuffer memory free (in MiB).", free),
            ("DCGM_FI_DEV_GPU_TEMP", "GPU temperature (in C).", gpu.temperature_c.map(f64::from)),
            ("DCGM_FI_DEV_POWER_USAGE", "Power draw (in W).", gpu.power_watts),
            (
                "DCGM_FI_DEV_ECC_DBE_VOL_TOTAL",
                "Double-bit volatile ECC errors.",
                gpu.ecc_errors.map(|e| e.uncorrected as f64),
            ),
            (
                "DCGM_FI_DEV_ECC_SBE_VOL_TOTAL",
                "Single-bit volatile ECC errors.",
                gpu.ecc_errors.map(|e| e.corrected as f64),
            ),
        ];
        all.extend(
            fields
                .into_iter()
                .filter_map(|(name, help, value)| Some(Sample::new(name, help, labels(), value?))),
        );
    }
    all
}

/// At most 16 GPUs.
fn gpus(report: &SmiReport) -> Vec<Sample> {
    let mut all = vec![];
    for gpu in report.gpus.iter().take(16) {
        let id = || vec![("gpu", gpu.bus_id.clone())];
        let mode =
            |on: Option<bool>| on.map(|on| if on { "on" } else { "off" }.to_string()).unwrap_or_default();
        let labels = vec![
            ("gpu", gpu.bus_id.clone()),
            ("uuid", gpu.uuid.clone().unwrap_or_default()),
            ("name", gpu.name.clone().unwrap_or_default()),
            ("driver", report.driver_version.clone().unwrap_or_default()),
            ("virtualization_mode", gpu.virtualization_mode.clone().unwrap_or_default()),
            ("ecc", mode(gpu.ecc_current)),
            ("ecc_pending", mode(gpu.ecc_pending)),
            ("mig", mode(gpu.mig_current)),
            ("mig_pending", mode(gpu.mig_pending)),
        ];
        all.push(Sample::new("gpu_info", "A GPU with its modes; the value is always 1", labels, 1.0));
        let mib = |n: Option<u64>| n.map(|n| n as f64 * 1024.0 * 1024.0);
        let values = [
            ("gpu_memory_total_bytes", "Frame buffer of the GPU", mib(gpu.fb_total_mib)),
            ("gpu_memory_used_bytes", "Frame buffer in use", mib(gpu.fb_used_mib)),
            (
                "gpu_utilization_ratio",
                "Share of time in which the GPU worked",
                gpu.gpu_util_percent.map(|n| f64::from(n) / 100.0),
            ),
            ("gpu_temperature_celsius", "Temperature of the GPU", gpu.temperature_c.map(f64::from)),
            ("gpu_power_watts", "Power drawn by the GPU", gpu.power_watts),
        ];
        all.extend(
            values.into_iter().filter_map(|(name, help, value)| Some(Sample::new(name, help, id(), value?))),
        );
        let count =
            |make: fn(_, _, _, _) -> Sample, name, help, value: u64| make(name, help, id(), value as f64);
        let (sample, alert): (fn(_, _, _, _) -> _, fn(_, _, _, _) -> _) = (Sample::new, Sample::for_alert);
        if let Some(ecc) = gpu.ecc_errors {
            let help = "Memory errors since the driver was loaded that were not corrected";
            all.push(count(alert, "gpu_ecc_uncorrected_errors", help, ecc.uncorrected));
            let help = "Memory errors since the driver was loaded that were corrected";
            all.push(count(sample, "gpu_ecc_corrected_errors", help, ecc.corrected));
        }
        if let Some(rows) = gpu.remapped_rows {
            let replaced = rows.correctable + rows.uncorrectable;
            all.push(count(sample, "gpu_remapped_rows", "Rows of memory that were replaced", replaced));
            all.push(count(
                sample,
                "gpu_remap_pending",
                "1: a row waits for a reset of the GPU",
                rows.pending.into(),
            ));
            all.push(count(alert, "gpu_remap_failed", "1: no spare row was left", rows.failed.into()));
        }
        let throttled = !gpu.slowdowns.is_empty();
        all.push(count(
            sample,
            "gpu_throttled",
            "1: heat, power or hardware holds the clocks down",
            throttled.into(),
        ));
        let pending = [(gpu.ecc_current, gpu.ecc_pending), (gpu.mig_current, gpu.mig_pending)];
        let pending = pending.iter().any(|(now, then)| now != then);
        all.push(count(
            alert,
            "gpu_mode_pending",
            "1: a mode (ECC, MIG) waits for a reset or reboot",
            pending.into(),
        ));
        if let Some(status) = &gpu.license_status {
            let value = f64::from(vsgpu_core::readers::nvidia_smi::is_licensed(status));
            all.push(Sample::for_alert("license_licensed", "1: the vGPU is licensed", id(), value));
        }
    }
    all
}
