//! What an agent counts while it lives, and what it saw last.

use prometheus::{CounterVec, GaugeVec, IntCounterVec, Opts, Registry};
use std::time::Duration;
use vsgpu_core::observe::Facts;

/// What was last seen.
#[derive(Default)]
pub struct Snapshot {
    pub(crate) facts: Facts,
    pub(crate) of_vms: Vec<(String, Facts)>,
    pub(crate) at: Option<u64>,
    pub(crate) took: Duration,
    /// Whether a host that is reached over ssh was reached.
    pub(crate) reached: Option<bool>,
}

/// Counters that live as long as the agent.
pub struct Metrics {
    pub(crate) registry: Registry,
    pub(crate) rpcs: IntCounterVec,
    pub(crate) seconds: CounterVec,
    pub(crate) changes: IntCounterVec,
    pub(crate) change_seconds: CounterVec,
}

impl Metrics {
    /// For an agent of this role.
    pub(crate) fn new(role: &str) -> Self {
        let registry = Registry::new();
        let build = GaugeVec::new(
            Opts::new("vsgpu_build_info", "Version of the agent; the value is always 1"),
            &["version", "role"],
        );
        let rpcs = IntCounterVec::new(
            Opts::new("vsgpu_rpcs_total", "RPCs answered, by method and result"),
            &["method", "result"],
        );
        // Sums, not histograms: an agent has at most 200 series.
        let seconds = CounterVec::new(
            Opts::new("vsgpu_rpc_seconds_total", "Time spent in RPCs, by method"),
            &["method"],
        );
        let changes =
            Opts::new("vsgpu_changes_total", "Changes that were asked for, by requirement and result");
        let changes = IntCounterVec::new(changes, &["requirement", "result"]);
        let change_seconds = Opts::new("vsgpu_change_seconds_total", "Time spent in changes, by requirement");
        let change_seconds = CounterVec::new(change_seconds, &["requirement"]);
        // These names are constants: they either always register or never.
        let (Ok(build), Ok(rpcs), Ok(seconds), Ok(changes), Ok(change_seconds)) =
            (build, rpcs, seconds, changes, change_seconds)
        else {
            unreachable!("metric names are valid")
        };
        build.with_label_values(&[env!("CARGO_PKG_VERSION"), role]).set(1.0);
        let collectors: [Box<dyn prometheus::core::Collector>; 5] = [
            Box::new(build),
            Box::new(rpcs.clone()),
            Box::new(seconds.clone()),
            Box::new(changes.clone()),
            Box::new(change_seconds.clone()),
        ];
        for collector in collectors {
            let _ = registry.register(collector);
        }
        Self { registry, rpcs, seconds, changes, change_seconds }
    }

    /// Counts one RPC.
    pub(crate) fn rpc(&self, method: &str, ok: bool, took: Duration) {
        self.rpcs.with_label_values(&[method, if ok { "ok" } else { "error" }]).inc();
        self.seconds.with_label_values(&[method]).inc_by(took.as_secs_f64());
    }

    /// Counts one change: `done`, `nothing` to do, or `failed`.
    pub(crate) fn change(&self, requirement: &str, result: &str, took: Duration) {
        self.changes.with_label_values(&[requirement, result]).inc();
        self.change_seconds.with_label_values(&[requirement]).inc_by(took.as_secs_f64());
    }
}
