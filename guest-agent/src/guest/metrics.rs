//! Metrics only a guest has. What all nodes have (GPUs, licenses, requirements) is in the shared page.

use vsgpu_core::execute::Facts;
use vsgpu_proto::metrics::Sample;

/// From the last facts; an unreadable fact has no values, and `vsgpu_fact_readable` says so.
pub(crate) fn samples(facts: &Facts) -> Vec<Sample> {
    let mut all = vec![];
    let proof =
        facts.get("cuda-proof").and_then(|f| f.as_ref().ok()).and_then(|f| serde_json::from_value::<super::CudaProofFact>(f.clone()).ok());
    if let Some((proof, at)) = proof.and_then(|p| p.at.map(|at| (p, at))) {
        let passed = proof.this_boot && proof.device_query.passed() && proof.vector_add_passed;
        all.push(Sample {
            name: "guest_cuda_proof_passed",
            help: "1: deviceQuery and vectorAdd passed in this boot",
            labels: vec![],
            value: f64::from(passed),
        });
        all.push(Sample { name: "guest_cuda_proof_timestamp_seconds", help: "When they were last run", labels: vec![], value: at as f64 });
    }
    all
}
