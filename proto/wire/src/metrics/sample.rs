//! One value of a page of metrics, and the page as Prometheus reads it.

use prometheus::core::Collector as _;
use prometheus::proto::{Bucket, Histogram, Metric, MetricFamily, MetricType};
use prometheus::{CounterVec, Encoder as _, Gauge, GaugeVec, Opts, TextEncoder};
use vsgpu_core::diagnosis::{Confidence, Finding, LogFindings};

/// Name and help of the end of whose certificate is used: of an agent, or of who asks them.
pub const CERTIFICATE_END: (&str, &str) = (
    "certificate_expiry_timestamp_seconds",
    "When its own certificate ends; `vsgpu cert renew` makes another one",
);

/// One value of one agent's own metrics.
#[derive(Clone, Debug)]
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
    /// How many were at most as large as each bound, smallest first, and how many larger: `value` is their sum.
    pub spread: Option<Vec<(f64, u64)>>,
}

impl Sample {
    /// A value that may be left out where there are too many.
    pub fn new(
        name: &'static str,
        help: &'static str,
        labels: Vec<(&'static str, String)>,
        value: f64,
    ) -> Self {
        Self { name, help, labels, value, alerts: false, counts: false, spread: None }
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

    /// Causes that logs tell of for sure; each is a series, so there are few.
    pub fn findings(log: &LogFindings) -> Vec<Self> {
        let sure = log.found.iter().filter(|f| f.confidence == Confidence::High && !f.symptom);
        let one = |finding: &Finding| {
            let labels = vec![("cause", finding.cause.clone()), ("stage", finding.stage.word().to_string())];
            Self::for_alert(
                "finding",
                "1: this machine's logs tell of this cause (`vsgpu explain CAUSE`)",
                labels,
                1.0,
            )
        };
        sure.take(8).map(one).collect()
    }

    /// A histogram: upper bounds, the last one infinite, with how many came to each and no smaller one; and their sum.
    pub fn histogram(name: &'static str, help: &'static str, spread: Vec<(f64, u64)>, sum: f64) -> Self {
        Self { spread: Some(spread), ..Self::new(name, help, vec![], sum) }
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
        if let Some(spread) = sample.spread {
            families.push(histogram(full, sample.help, &spread, sample.value));
            continue;
        }
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

fn histogram(name: String, help: &str, spread: &[(f64, u64)], sum: f64) -> MetricFamily {
    let mut count = 0;
    let mut buckets = vec![];
    for (bound, of) in spread {
        count += of;
        // The one of all is written by the encoder itself.
        if bound.is_finite() {
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(*bound);
            bucket.set_cumulative_count(count);
            buckets.push(bucket);
        }
    }
    let mut of = Histogram::default();
    of.set_bucket(buckets);
    of.set_sample_count(count);
    of.set_sample_sum(sum);
    let (mut metric, mut family) = (Metric::default(), MetricFamily::default());
    metric.set_histogram(of);
    family.set_name(name);
    family.set_help(help.into());
    family.set_field_type(MetricType::HISTOGRAM);
    family.set_metric(vec![metric]);
    family
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_is_cumulative_and_ends_with_all() {
        let page = text(vec![Sample::histogram(
            "wait_seconds",
            "Waits",
            vec![(1.0, 2), (5.0, 0), (f64::INFINITY, 1)],
            12.5,
        )]);
        for line in [
            "# TYPE vsgpu_wait_seconds histogram",
            "vsgpu_wait_seconds_bucket{le=\"1\"} 2",
            "vsgpu_wait_seconds_bucket{le=\"5\"} 2",
            "vsgpu_wait_seconds_bucket{le=\"+Inf\"} 3",
            "vsgpu_wait_seconds_sum 12.5",
            "vsgpu_wait_seconds_count 3",
        ] {
            assert!(page.lines().any(|l| l == line), "{line}: {page}");
        }
        assert_eq!(page.matches("+Inf").count(), 1);
    }
}
