//! The proof: deviceQuery and vectorAdd run on the GPU of this guest, in this boot, and are judged by what they print.
//! What they printed is kept in a file, so that looking at the proof again runs nothing on the GPU.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use vsgpu_core::artifact::{Artifact, Placed};
use vsgpu_core::cuda_samples::{DeviceQuery, device_query, vector_add_passed};
use vsgpu_core::requirement::{Implied, Needs, TakesEffect};
use vsgpu_core::system::Output;
use vsgpu_core::{Command, Effect, Evidence, Fact, Probe, Requirement, Subject, Unreadable, Verdict};

const RECORD: &str = "/var/lib/vsgpu/cuda-proof.json";
/// Names the running driver; a proof made with another one is none.
const DRIVER: &str = "/proc/driver/nvidia/version";
/// Where the toolkit keeps both programs ready built.
const DEMO_SUITE: &str = "/usr/local/cuda/extras/demo_suite";
/// Seconds for each program: the first CUDA call after boot may take long.
const RUN_SECS: u32 = 120;

/// CUDA proof of a guest.
pub struct CudaProof;

/// Which programs prove it. Left out: the ones named `deviceQuery` and `vectorAdd` on the path or in the toolkit.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct CudaProofSpec {
    /// Devices that CUDA must see.
    #[serde(default = "one")]
    pub devices: u32,
    /// Your own build of NVIDIA's sample deviceQuery.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_query: Option<Artifact>,
    /// Your own build of NVIDIA's sample vectorAdd.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vector_add: Option<Artifact>,
}

fn one() -> u32 {
    1
}

/// The kept record, judged.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct CudaProofFact {
    /// When it was made, seconds since 1970; absent without a record.
    pub at: Option<u64>,
    /// Whether it was made in the running boot, with the running driver.
    pub this_boot: bool,
    /// What was run.
    pub commands: Vec<String>,
    /// What deviceQuery said.
    pub device_query: DeviceQuery,
    /// Whether vectorAdd computed right.
    pub vector_add_passed: bool,
    /// How a program ended that did not end well.
    pub failure: Option<String>,
}

#[derive(Deserialize)]
struct Record {
    version: u32,
    at: u64,
    boot_id: String,
    /// The running driver when the record was made.
    beside: Option<String>,
    outputs: Vec<Run>,
}

#[derive(Deserialize)]
struct Run {
    command: String,
    output: Output,
}

impl Fact for CudaProofFact {
    const NAME: &'static str = "cuda-proof";
    const ABOUT: &'static str = "Last run of deviceQuery and vectorAdd, and how it ended";
    fn probes(_: &Subject, _: &Evidence) -> Vec<Probe> {
        vec![Probe::Read(RECORD.into()), Probe::Read(DRIVER.into()), Probe::BootId]
    }
    fn parse(_: &Subject, seen: &Evidence) -> Result<Self, Unreadable> {
        let none = Self {
            at: None,
            this_boot: false,
            commands: vec![],
            device_query: DeviceQuery::default(),
            vector_add_passed: false,
            failure: None,
        };
        // A record that cannot be read is no proof; the next run replaces it.
        let Some(record) =
            seen.file(RECORD)?.and_then(|t| serde_json::from_str::<Record>(t).ok()).filter(|r| r.version == 1 && r.outputs.len() == 2)
        else {
            return Ok(none);
        };
        let [query, add] = [&record.outputs[0], &record.outputs[1]];
        let failure = record.outputs.iter().find(|r| !r.output.ok()).map(|r| format!("`{}`: {}", r.command, r.output.ended));
        Ok(Self {
            at: Some(record.at),
            this_boot: seen.text(&Probe::BootId)? == Some(&record.boot_id) && seen.file(DRIVER)? == record.beside.as_deref(),
            commands: record.outputs.iter().map(|r| r.command.clone()).collect(),
            device_query: device_query(&query.output.stdout),
            vector_add_passed: vector_add_passed(&add.output.both()),
            failure,
        })
    }
}

impl CudaProofSpec {
    fn commands(&self) -> Vec<Command> {
        let command = |own: &Option<Artifact>, name: &str| match own {
            Some(file) => Command::new(file.stored(None), [] as [&str; 0]).within(RUN_SECS),
            None => Command::new(name, [] as [&str; 0]).also_in(DEMO_SUITE).within(RUN_SECS),
        };
        vec![command(&self.device_query, "deviceQuery"), command(&self.vector_add, "vectorAdd")]
    }
}

impl Requirement for CudaProof {
    const NAME: &'static str = "cuda-proof";
    const ABOUT: &'static str = "deviceQuery and vectorAdd ran on the GPU in this boot and passed";
    const AFTER: &'static [&'static str] = &["driver", "license", "cuda-toolkit"];
    const NEEDS: Needs = Needs::Nothing;
    const TAKES_EFFECT: TakesEffect = TakesEffect::AtOnce;
    const SETTLE_SECS: u32 = 0;
    const IMPLIED_BY: &'static [Implied] = &[Implied { by: "cuda-toolkit", spec: |_| Some(serde_json::json!({})) }];
    const EXAMPLE: &'static str = "{}";
    type Spec = CudaProofSpec;
    type Fact = CudaProofFact;

    fn check(spec: &CudaProofSpec, fact: &CudaProofFact) -> Verdict {
        let commands = spec.commands();
        let query = &fact.device_query;
        let gpu = query.first_device.as_deref().unwrap_or("unknown GPU");
        let same = fact.commands == commands.iter().map(ToString::to_string).collect::<Vec<_>>();
        let is = if fact.at.is_none() {
            "never run".to_string()
        } else if !same || !fact.this_boot {
            "last run in another boot, with another driver or by other programs".into()
        } else if let Some(failure) = &fact.failure {
            format!("{failure}{}", query.error_code.map(|c| format!(" (CUDA error {c})")).unwrap_or_default())
        } else if !query.passed() {
            format!("deviceQuery: {}", query.result.as_deref().unwrap_or("no result"))
        } else if query.devices.is_some_and(|n| n < spec.devices) {
            format!("CUDA sees {} device(s), {} expected", query.devices.unwrap_or_default(), spec.devices)
        } else if !fact.vector_add_passed {
            "vectorAdd: wrong result".into()
        } else {
            let several = query.devices.filter(|n| *n > 1).map(|n| format!("{n} x ")).unwrap_or_default();
            return Verdict::met(format!("{several}{gpu}, deviceQuery PASS, vectorAdd PASSED"));
        };
        Verdict::unmet(
            is,
            "deviceQuery PASS, vectorAdd PASSED",
            vec![Effect::Record { commands, path: RECORD.into(), beside: DRIVER.into() }],
        )
    }

    fn as_spec(fact: &CudaProofFact) -> Option<CudaProofSpec> {
        let spec = CudaProofSpec { devices: fact.device_query.devices.unwrap_or(1).max(1), device_query: None, vector_add: None };
        Self::check(&spec, fact).is_met().then_some(spec)
    }

    fn files(spec: &CudaProofSpec) -> Vec<Placed> {
        [&spec.device_query, &spec.vector_add].into_iter().flatten().map(|a| Placed { artifact: a.clone(), datastore: None }).collect()
    }
}
