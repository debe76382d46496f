//! One value of a page of metrics, and the page as Prometheus reads it.

use prometheus::core::Collector as _;
use prometheus::{CounterVec, Encoder as _, Gauge, GaugeVec, Opts, TextEncoder};

/// Name and help of the end of whose certificate is used: of an agent, or of who asks them.
pub const CERTIFICATE_END: (&str, &str) = (
    "certificate_expiry_timestamp_seconds",
    "When its own certificate ends; `vsgpu cert renew` makes another one",
);

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
    /// An alert needs it: it is never left out where there are too many.
    pub alerts: bool,
    /// It only grows, until what counts it starts anew.
    pub counts: bool,
}

impl Sample {
    /// A value that may be left out where there are too many.
    pub fn new(
        name: &'static str,
        help: &'static str,
        labels: Vec<(&'static str, String)>,
        value: f64,
    ) -> Self {
        Self { name, help, labels, value, alerts: false, counts: false }
    }

    /// A value that an alert needs.
    pub fn for_alert(
        name: &'static str,
        help: &'static str,
        labels: Vec<(&'static str, String)>,
        value: f64,
    ) -> Self {
        Self { alerts: true, ..Self::new(name, help, labels, value) }
    }

    /// A value that only grows; its name ends with `_total`.
    pub fn counter(
        name: &'static str,
        help: &'static str,
        labels: Vec<(&'static str, String)>,
        value: f64,
    ) -> Self {
        Self { counts: true, ..Self::new(name, help, labels, value) }
    }
}

/// Samples as Prometheus's text, every name with `vsgpu_` in front.
pub fn text(samples: Vec<Sample>) -> String {
    encoded(vec![], samples)
}

pub(crate) fn encoded(mut families: Vec<prometheus::proto::MetricFamily>, samples: Vec<Sample>) -> String {
    let (mut gauges, mut counters): (Vec<GaugeVec>, Vec<CounterVec>) = (vec![], vec![]);
    for sample in samples {
        let names: Vec<&str> = sample.labels.iter().map(|(name, _)| *name).collect();
        // What a machine says of itself, on pages that people and dashboards show.
        let values: Vec<String> =
            sample.labels.iter().map(|(_, value)| vsgpu_core::text::piece(value, 200)).collect();
        // DCGM's names are whole.
        let full = if sample.name.starts_with("DCGM_") {
            sample.name.into()
        } else {
            format!("vsgpu_{}", sample.name)
        };
        if sample.counts {
            let at = counters.iter().position(|c| c.desc()[0].fq_name == full).or_else(|| {
                counters.push(CounterVec::new(Opts::new(full, sample.help), &names).ok()?);
                Some(counters.len() - 1)
            });
            if let Some(counter) = at.and_then(|at| counters[at].get_metric_with_label_values(&values).ok()) {
                counter.inc_by(sample.value.max(0.0));
            }
            continue;
        }
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
    families.extend(counters.iter().flat_map(prometheus::core::Collector::collect));
    families.sort_by(|a, b| a.name().cmp(b.name()));
    let mut text = vec![];
    let _ = TextEncoder::new().encode(&families, &mut text);
    String::from_utf8(text).unwrap_or_default()
}
