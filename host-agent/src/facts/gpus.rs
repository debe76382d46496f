//! What nvidia-smi says on the host.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use vsgpu_core::readers::nvidia_smi::{self, SmiReport};
use vsgpu_core::{Fact, Observation, Probe, Subject, Unreadable};

/// The driver's report.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Gpus(pub SmiReport);

impl Fact for Gpus {
    const NAME: &'static str = "gpus";
    const ABOUT: &'static str = "GPUs that the NVIDIA vGPU manager holds, with their modes";
    fn probes(_: &Subject, _: &Observation) -> Vec<Probe> {
        vec![Probe::Run(nvidia_smi::query())]
    }
    fn parse(_: &Subject, seen: &Observation) -> Result<Self, Unreadable> {
        nvidia_smi::report(seen).map(Self)
    }
    fn sentence(&self) -> Option<String> {
        Some(self.0.in_words())
    }
}
