//! Prometheus text on its own listener, from a cache: a hanging nvidia-smi makes values old, never a scrape slow.
//! How old they are is a metric of its own.

use crate::service::Node;
use http_body_util::Full;
use prometheus::core::Collector as _;
use prometheus::{Encoder as _, Gauge, GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry, TextEncoder};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use vsgpu_core::execute::{self, Facts};
use vsgpu_core::nvidia_smi::SmiReport;
use vsgpu_core::{Scope, Subject};

/// One value of one agent's own metrics.
pub struct Sample {
    /// Metric name without the `vsgpu_` prefix.
    pub name: &'static str,
    /// HELP text.
    pub help: &'static str,
    /// Label names and values.
    pub labels: Vec<(&'static str, String)>,
    /// Value, in base units.
    pub value: f64,
}

/// What was last seen.
#[derive(Default)]
pub struct Snapshot {
    facts: Facts,
    of_vms: Vec<(String, Facts)>,
    at: Option<u64>,
    took: Duration,
}

/// Counters that live as long as the agent.
pub struct Metrics {
    registry: Registry,
    rpcs: IntCounterVec,
    seconds: HistogramVec,
}

impl Metrics {
    /// For an agent of this role.
    pub(crate) fn new(role: &str) -> Self {
        let registry = Registry::new();
        let build = GaugeVec::new(Opts::new("vsgpu_build_info", "Version of the agent; the value is always 1"), &["version", "role"]);
        let rpcs = IntCounterVec::new(Opts::new("vsgpu_rpcs_total", "RPCs answered, by method and result"), &["method", "result"]);
        let buckets = vec![0.01, 0.1, 1.0, 10.0, 60.0, 600.0];
        let seconds =
            HistogramVec::new(HistogramOpts::new("vsgpu_rpc_duration_seconds", "Time to answer an RPC").buckets(buckets), &["method"]);
        // These names are constants: they either always register or never.
        let (Ok(build), Ok(rpcs), Ok(seconds)) = (build, rpcs, seconds) else { unreachable!("metric names are valid") };
        build.with_label_values(&[env!("CARGO_PKG_VERSION"), role]).set(1.0);
        for collector in [Box::new(build) as Box<dyn prometheus::core::Collector>, Box::new(rpcs.clone()), Box::new(seconds.clone())] {
            let _ = registry.register(collector);
        }
        Self { registry, rpcs, seconds }
    }

    /// Counts one RPC.
    pub(crate) fn rpc(&self, method: &str, ok: bool, took: Duration) {
        self.rpcs.with_label_values(&[method, if ok { "ok" } else { "error" }]).inc();
        self.seconds.with_label_values(&[method]).observe(took.as_secs_f64());
    }
}

/// Looks again and again in a thread of its own, and serves what it saw.
pub(crate) fn listen(node: Arc<Node>, address: SocketAddr, every: Duration) -> Result<(), String> {
    let watched = node.clone();
    std::thread::spawn(move || {
        loop {
            look(&watched);
            watched.system.sleep(every);
        }
    });
    let mut sockets = crate::server::accept(address)?;
    tokio::spawn(async move {
        while let Some(socket) = sockets.recv().await {
            let node = node.clone();
            let answer = hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                let page = match request.uri().path() {
                    "/metrics" => Some(page(&node)),
                    "/livez" => Some("ok\n".into()),
                    _ => None,
                };
                let status = if page.is_some() { 200 } else { 404 };
                let body = Full::new(bytes::Bytes::from(page.unwrap_or_else(|| "see /metrics\n".into())));
                let response = hyper::Response::builder().status(status).header("content-type", "text/plain; version=0.0.4").body(body);
                async move { Ok::<_, Infallible>(response.unwrap_or_default()) }
            });
            tokio::spawn(async move {
                let connection = hyper::server::conn::http1::Builder::new()
                    .keep_alive(false)
                    .serve_connection(hyper_util::rt::TokioIo::new(socket), answer);
                // A client that never asks must not stay for ever.
                let _ = tokio::time::timeout(Duration::from_secs(10), connection).await;
            });
        }
    });
    Ok(())
}

fn look(node: &Node) {
    let start = node.system.elapsed();
    let on = Subject::node();
    // While something is changed the old look stays: nvidia-smi would load, and hold, the very module that is being exchanged.
    if node.acting(&on).try_lock().is_err() {
        return;
    }
    let facts = execute::observe(node.system.as_ref(), &on, &node.catalogue.facts(node.scope(&on)));
    let wished: Vec<String> =
        node.wishes.lock().map(|w| w.keys().filter_map(|k| k.rsplit_once('/')).map(|(vm, _)| vm.into()).collect()).unwrap_or_default();
    let mut vms: Vec<String> = wished.into_iter().filter(|vm| !vm.is_empty()).collect();
    vms.dedup();
    // Of a VM only what its wishes need: the facts of every VM together read every VM.
    let wishes = node.wishes.lock().map(|w| w.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
    let of_vms = vms.into_iter().map(|vm| {
        let named = |e: &&vsgpu_core::Entry| wishes.iter().any(|key| key.rsplit_once('/') == Some((vm.as_str(), e.name)));
        let mut facts: Vec<_> = node.catalogue.of(Scope::Vm).filter(named).map(|e| e.fact).collect();
        facts.sort_by_key(|f| f.name);
        facts.dedup_by_key(|f| f.name);
        let facts = execute::observe(node.system.as_ref(), &Subject::vm(&vm), &facts);
        (vm, facts)
    });
    let seen = Snapshot { of_vms: of_vms.collect(), facts, at: Some(node.system.now()), took: node.system.elapsed() - start };
    if let Ok(mut snapshot) = node.snapshot.lock() {
        *snapshot = seen;
    }
}

fn page(node: &Node) -> String {
    let mut families = node.metrics.registry.gather();
    let mut gauges: Vec<GaugeVec> = vec![];
    for sample in samples(node) {
        let names: Vec<&str> = sample.labels.iter().map(|(name, _)| *name).collect();
        let values: Vec<&str> = sample.labels.iter().map(|(_, value)| value.as_str()).collect();
        let full = format!("vsgpu_{}", sample.name);
        let at = gauges.iter().position(|g| g.desc()[0].fq_name == full).or_else(|| {
            gauges.push(GaugeVec::new(Opts::new(full, sample.help), &names).ok()?);
            Some(gauges.len() - 1)
        });
        // A label set that does not fit its metric is a bug of ours; the rest of the page must not suffer.
        if let Some(gauge) = at.and_then(|at| gauges[at].get_metric_with_label_values(&values).ok()) {
            let gauge: Gauge = gauge;
            gauge.set(sample.value);
        }
    }
    families.extend(gauges.iter().flat_map(prometheus::core::Collector::collect));
    families.sort_by(|a, b| a.name().cmp(b.name()));
    let mut text = vec![];
    let _ = TextEncoder::new().encode(&families, &mut text);
    String::from_utf8(text).unwrap_or_default()
}

fn samples(node: &Node) -> Vec<Sample> {
    let sample = |name, help, labels, value| Sample { name, help, labels, value };
    let mut all = vec![sample("up", "1: the agent answers", vec![], 1.0)];
    let Ok(snapshot) = node.snapshot.lock() else { return all };
    let Some(at) = snapshot.at else { return all };
    all.push(sample(
        "last_observation_timestamp_seconds",
        "When the machine was last looked at; everything below is as old",
        vec![],
        at as f64,
    ));
    all.push(sample(
        "last_observation_age_seconds",
        "Age of the last look at the machine",
        vec![],
        node.system.now().saturating_sub(at) as f64,
    ));
    all.push(sample("observation_duration_seconds", "How long that look took", vec![], snapshot.took.as_secs_f64()));
    for (name, fact) in &snapshot.facts {
        all.push(sample("fact_readable", "1: the fact could be read", vec![("fact", name.clone())], f64::from(fact.is_ok())));
    }
    if let Some(Ok(report)) = snapshot.facts.get("gpus").map(|f| f.clone().map(serde_json::from_value::<SmiReport>)) {
        all.extend(report.iter().flat_map(gpus));
    }
    all.extend((node.agent.samples)(&snapshot.facts));
    let Ok(wishes) = node.wishes.lock() else { return all };
    for (key, spec) in wishes.iter() {
        let Some((vm, name)) = key.rsplit_once('/') else { continue };
        let on = Subject { vm: (!vm.is_empty()).then(|| vm.to_string()) };
        let facts = if vm.is_empty() { Some(&snapshot.facts) } else { snapshot.of_vms.iter().find(|(n, _)| n == vm).map(|(_, f)| f) };
        let Some(entry) = node.catalogue.find(node.scope(&on), name) else { continue };
        let fact = facts.and_then(|f| f.get(entry.fact.name)).and_then(|f| f.as_ref().ok());
        let met = fact.and_then(|fact| (entry.check)(spec, fact).ok()).is_some_and(|v| v.is_met());
        let labels = vec![("vm", vm.to_string()), ("requirement", name.to_string())];
        all.push(sample(
            "requirement_met",
            "1: the node is as the fleet file wished when it was last applied or verified",
            labels,
            f64::from(met),
        ));
    }
    all
}

/// At most 16 GPUs: 9 series each.
fn gpus(report: &SmiReport) -> Vec<Sample> {
    let mut all = vec![];
    for gpu in report.gpus.iter().take(16) {
        let id = || vec![("gpu", gpu.bus_id.clone())];
        let mode = |on: Option<bool>| on.map(|on| if on { "on" } else { "off" }.to_string()).unwrap_or_default();
        let labels = vec![
            ("gpu", gpu.bus_id.clone()),
            ("name", gpu.name.clone().unwrap_or_default()),
            ("driver", report.driver_version.clone().unwrap_or_default()),
            ("virtualization_mode", gpu.virtualization_mode.clone().unwrap_or_default()),
            ("ecc", mode(gpu.ecc_current)),
            ("ecc_pending", mode(gpu.ecc_pending)),
            ("mig", mode(gpu.mig_current)),
            ("mig_pending", mode(gpu.mig_pending)),
        ];
        all.push(Sample { name: "gpu_info", help: "A GPU with its modes; the value is always 1", labels, value: 1.0 });
        let mib = |n: Option<u64>| n.map(|n| n as f64 * 1024.0 * 1024.0);
        let values = [
            ("gpu_memory_total_bytes", "Frame buffer of the GPU", mib(gpu.fb_total_mib)),
            ("gpu_memory_used_bytes", "Frame buffer in use", mib(gpu.fb_used_mib)),
            ("gpu_utilization_ratio", "Share of time in which the GPU worked", gpu.gpu_util_percent.map(|n| f64::from(n) / 100.0)),
            ("gpu_temperature_celsius", "Temperature of the GPU", gpu.temperature_c.map(f64::from)),
            ("gpu_power_watts", "Power drawn by the GPU", gpu.power_watts),
        ];
        all.extend(values.into_iter().filter_map(|(name, help, value)| Some(Sample { name, help, labels: id(), value: value? })));
        if let Some(status) = &gpu.license_status {
            let value = f64::from(vsgpu_core::nvidia_smi::is_licensed(status));
            all.push(Sample { name: "license_licensed", help: "1: the vGPU is licensed", labels: id(), value });
        }
    }
    all
}
