//! A run as an OpenTelemetry trace: the run is the root span, each step one below it. Pure: the journal's
//! records in, OTLP's JSON out (opentelemetry-proto 1.x, `ExportTraceServiceRequest`). Made from the journal,
//! so that a run that was killed and gone on with is one trace; times are whole seconds, as records are. Ids
//! follow from the run's name: `vsgpu status` knows them without a collector.

use crate::journal::record::{EndReason, Record};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use vsgpu_wire::traceparent::TraceParent;

/// Trace id of a run: 32 hexadecimal digits.
pub fn id(run: &str) -> String {
    digest(&["trace", run], 16)
}

fn digest(words: &[&str], bytes: usize) -> String {
    let mut hash = Sha256::new();
    words.iter().for_each(|word| hash.update(format!("{}:{word}", word.len())));
    vsgpu_core::text::hex(&hash.finalize()[..bytes])
}

/// Where a step belongs that has failed so often before: what the agent is told, and what `document` says
/// about it.
pub fn parent(run: &str, step: usize, failures: u32) -> TraceParent {
    TraceParent { trace: id(run), span: digest(&["step", run, &step.to_string(), &failures.to_string()], 8) }
}

fn nanos(seconds: u64) -> String {
    // OTLP's JSON has 64-bit numbers as text.
    format!("{seconds}000000000")
}

fn attributes(all: &[(&str, String)]) -> Value {
    all.iter().map(|(key, value)| json!({ "key": key, "value": { "stringValue": value } })).collect()
}

/// The trace of a run, as it stands; `None` where there is no plan.
pub fn document(records: &[Record]) -> Option<Value> {
    let Some(Record::Planned { at: begun, run, purpose, plan, .. }) = records.first() else { return None };
    let trace = id(run);
    let root = digest(&["run", run], 8);
    let span = |step: usize, failed_before: u32, from: u64, to: u64, status: Value| {
        let planned = step.checked_sub(1).and_then(|n| plan.steps.get(n))?;
        Some(json!({
            "traceId": trace, "spanId": parent(run, step, failed_before).span, "parentSpanId": root,
            "name": planned.title, "kind": 1, "startTimeUnixNano": nanos(from), "endTimeUnixNano": nanos(to.max(from)),
            "attributes": attributes(&[("vsgpu.node", planned.node.clone().into()), ("vsgpu.step", step.to_string())]),
            "status": status,
        }))
    };
    let mut spans = vec![];
    let mut open: BTreeMap<usize, u64> = BTreeMap::new();
    let mut failures: BTreeMap<usize, u32> = BTreeMap::new();
    let (mut last, mut ended, mut failed) = (*begun, None, 0);
    for record in records {
        let (at, step, error) = match record {
            Record::Started { at, step, .. } => {
                // Begun again by the next process of this run, it is still the same operation at the agent.
                open.entry(*step).or_insert(*at);
                last = last.max(*at);
                continue;
            }
            Record::Done { at, step, .. } => (*at, *step, None),
            Record::Failed { at, step, error, hold } => (*at, *step, Some(format!("{hold}: {error}"))),
            Record::Ended { at, how } => {
                (ended, last) = (Some(*how), last.max(*at));
                continue;
            }
            Record::Planned { .. } | Record::Released { .. } | Record::Task { .. } => continue,
        };
        last = last.max(at);
        let from = open.remove(&step).unwrap_or(at);
        let before = failures.entry(step).or_default();
        let status = error
            .as_ref()
            .map_or_else(|| json!({ "code": 1 }), |message| json!({ "code": 2, "message": message }));
        spans.extend(span(step, *before, from, at, status));
        if error.is_some() {
            *before += 1;
            failed += 1;
        }
    }
    // Begun and never ended: what became of it was not seen (code 0), but the agent was told of it.
    for (step, from) in open {
        spans.extend(span(
            step,
            failures.get(&step).copied().unwrap_or_default(),
            from,
            last,
            json!({ "code": 0 }),
        ));
    }
    let how = match ended {
        Some(EndReason::Finished) => "walked",
        Some(EndReason::Aborted) => "aborted",
        Some(EndReason::GivenUp) => "given-up",
        None => "unfinished",
    };
    let purpose =
        serde_json::to_value(purpose).ok().and_then(|v| v.as_str().map(String::from)).unwrap_or_default();
    spans.insert(
        0,
        json!({
            "traceId": trace, "spanId": root, "name": format!("vsgpu {purpose}"), "kind": 1,
            "startTimeUnixNano": nanos(*begun), "endTimeUnixNano": nanos(last),
            "attributes": attributes(&[("vsgpu.run", run.clone()), ("vsgpu.ended", how.into()), ("vsgpu.steps", plan.steps.len().to_string())]),
            "status": if failed > 0 { json!({ "code": 2, "message": format!("{failed} steps failed") }) } else { json!({ "code": 1 }) },
        }),
    );
    let resource = attributes(&[
        ("service.name", "vsgpu".into()),
        ("service.version", env!("CARGO_PKG_VERSION").into()),
    ]);
    let scope = json!({ "name": "vsgpu", "version": env!("CARGO_PKG_VERSION") });
    Some(
        json!({ "resourceSpans": [{ "resource": { "attributes": resource }, "scopeSpans": [{ "scope": scope, "spans": spans }] }] }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_follow_from_the_run_and_have_their_length() {
        assert_eq!(id("a").len(), 32);
        assert_eq!(id("a"), id("a"));
        assert_ne!(id("a"), id("b"));
        assert_ne!(digest(&["step", "a", "11", "1"], 8), digest(&["step", "a", "1", "11"], 8));
    }
}
