//! The proof: programs ran on the GPUs of this guest, in this boot, with this driver, and computed right.
//! First our own (`vsgpu-cuda-proof`: every result checked, no toolkit needed), then NVIDIA's samples
//! deviceQuery and vectorAdd where they are there, or built here from the operator's copy of their source. Each is a process of its own with a deadline: a wedged
//! driver wedges only that.

use crate::cuda_samples::{self, SourceSpec};
use crate::distro::{self, OS_RELEASE, os_release};
use crate::facts::bandwidth::{Baseline, Judged, Percent, judge};
use crate::facts::pci_gpus::{PciGpu, PciGpus};
use crate::facts::proof_record::{self, DRIVER};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use vsgpu_core::artifact::Artifact;
use vsgpu_core::readers::cuda_report::{self, CudaReport};
use vsgpu_core::readers::cuda_samples::{DeviceQuery, device_query, vector_add_passed};
use vsgpu_core::requirement::{Explained, Failure, Implied, Needs, TakesEffect};
use vsgpu_core::{
    Command, Effect, ExitKind, Fact, Observation, Probe, Requirement, Subject, Unreadable, Verdict, WordOr,
};

const RECORD: &str = "/var/lib/vsgpu/cuda-proof.json";
/// Our own program, beside the agent.
pub(super) const PROGRAM: &str = "vsgpu-cuda-proof";
pub(super) const PROGRAM_FOLDER: &str = "/usr/lib/vsgpu";
/// Where the toolkit keeps both samples ready built.
const DEMO_SUITE: &str = "/usr/local/cuda/extras/demo_suite";
/// Seconds for each sample: the first CUDA call after boot may take long.
const SAMPLE_SECS: u32 = 120;
/// Seconds for our own: a hundred million elements go to each GPU and back.
const PROOF_SECS: u32 = 300;

/// CUDA proof of a guest.
pub struct CudaProof;

/// What is to be proved, and by which programs.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, expecting = "keys and values")]
pub struct CudaProofSpec {
    /// Devices that CUDA must see.
    #[serde(default = "one")]
    pub devices: u32,
    /// Elements of the vector additions. Left out: 50,000, and 100,000,000 or what the memory holds.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "elements")]
    pub elements: Vec<u64>,
    /// Least share of the baseline, or of the model's peak, that memory and copies must reach: `90%`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth_at_least: Option<Percent>,
    /// Figures recorded on bare metal, by the GPU's name: what `vsgpu baseline` prints.
    #[serde(default, skip_serializing_if = "Baseline::is_empty")]
    pub baseline: Baseline,
    /// NVIDIA's samples: `auto` runs them where they are, `required` fails without them, `off` leaves them
    /// out; `{ source: files/cuda-samples-12.5.zip }` builds them with the guest's toolkit.
    #[serde(default = "auto")]
    pub samples: WordOr<Samples, SourceSpec>,
    /// Your own build of NVIDIA's sample deviceQuery.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_query: Option<Artifact>,
    /// Your own build of NVIDIA's sample vectorAdd.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vector_add: Option<Artifact>,
}

/// As many as the program takes; more would not fit any GPU.
const MOST_ELEMENTS: u64 = 4_000_000_000;

fn elements<'de, D: serde::Deserializer<'de>>(input: D) -> Result<Vec<u64>, D::Error> {
    let all = Vec::<u64>::deserialize(input)?;
    match all.iter().find(|n| !(1..=MOST_ELEMENTS).contains(*n)) {
        Some(n) => Err(serde::de::Error::custom(format!("{n}: 1 to {MOST_ELEMENTS} elements are expected"))),
        None if all.len() > 8 => Err(serde::de::Error::custom("at most 8 numbers of elements are expected")),
        None => Ok(all),
    }
}

/// Whether NVIDIA's samples are run as well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Samples {
    /// Where they are.
    #[default]
    Auto,
    /// Always.
    Required,
    /// Never.
    Off,
}

fn one() -> u32 {
    1
}

fn auto() -> WordOr<Samples, SourceSpec> {
    WordOr::Word(Samples::Auto)
}

/// The kept record, judged.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct CudaProofFact {
    /// When it was made, seconds since 1970; absent without a record.
    pub at: Option<u64>,
    /// Whether it was made in the running boot, with the running driver.
    pub this_boot: bool,
    /// What was run.
    pub commands: Vec<String>,
    /// What our own program found.
    #[serde(default)]
    pub report: CudaReport,
    /// Whether NVIDIA's samples were found and run.
    #[serde(default)]
    pub samples_ran: bool,
    /// What deviceQuery said.
    pub device_query: DeviceQuery,
    /// Whether vectorAdd computed right.
    pub vector_add_passed: bool,
    /// How a program ended that did not end well.
    pub failure: Option<String>,
    /// GPUs on the bus, to know a device by its ids.
    #[serde(default)]
    pub on_bus: Vec<PciGpu>,
    /// Builds of NVIDIA's samples that are there, by their names.
    #[serde(default)]
    pub builds: Vec<String>,
    /// Which of compiler, make and CMake answer.
    #[serde(default)]
    pub tools: Vec<String>,
    /// os-release, to choose the package tool.
    #[serde(default)]
    pub os_release: String,
}

impl CudaProofFact {
    /// Everything that was run computed right, in this boot.
    pub fn passed(&self) -> bool {
        let samples = !self.samples_ran || (self.device_query.passed() && self.vector_add_passed);
        self.this_boot && self.failure.is_none() && self.report.passed() && samples
    }
}

impl Fact for CudaProofFact {
    const NAME: &'static str = "cuda-proof";
    const ABOUT: &'static str =
        "Last CUDA proof: vector additions checked, bandwidths, and what NVIDIA's samples said";
    fn probes(_: &Subject, seen: &Observation) -> Vec<Probe> {
        let mut builds = vec![Probe::List(cuda_samples::FOLDER.into()), Probe::Read(OS_RELEASE.into())];
        builds.extend(cuda_samples::TOOLS.map(|tool| Probe::Run(answers(tool))));
        [proof_record::probes(RECORD), PciGpus::ask(seen), builds].concat()
    }
    fn parse(_: &Subject, seen: &Observation) -> Result<Self, Unreadable> {
        let on_bus = PciGpus::seen(seen)?.unwrap_or_default();
        let builds: Vec<String> = seen
            .names(cuda_samples::FOLDER)
            .unwrap_or_default()
            .into_iter()
            .filter(|name| !name.starts_with('.'))
            .take(64)
            .map(String::from)
            .collect();
        let tools =
            cuda_samples::TOOLS.into_iter().filter(|tool| seen.stdout_if_ok(&answers(tool)).is_some());
        let there = Self {
            on_bus,
            builds,
            tools: tools.map(String::from).collect(),
            os_release: os_release(seen).unwrap_or_default().into(),
            ..Self::default()
        };
        let Some(record) = proof_record::read(seen, RECORD)? else { return Ok(there) };
        let own = &record.outputs[0];
        let samples = record.outputs.get(1..3).unwrap_or_default();
        let samples_ran = samples.len() == 2 && samples.iter().all(|r| r.output.ended != ExitKind::Missing);
        let (report, mut failure) = match cuda_report::read(&own.output.stdout) {
            Ok(report) => {
                let failure = report.failure.as_ref().map(|f| format!("{f}{}", advice(f.code)));
                (report, failure)
            }
            Err(why) => {
                (CudaReport::default(), Some(format!("`{}`: {}: {why}", own.command, own.output.ended)))
            }
        };
        let failed = samples.iter().find(|r| samples_ran && !r.output.ok());
        failure = failure.or_else(|| failed.map(|r| format!("`{}`: {}", r.command, r.output.ended)));
        Ok(Self {
            at: Some(record.at),
            this_boot: record.is_of_now(seen)?,
            commands: record.commands(),
            report,
            samples_ran,
            device_query: samples.first().map(|r| device_query(&r.output.stdout)).unwrap_or_default(),
            vector_add_passed: samples.get(1).is_some_and(|r| vector_add_passed(&r.output.both())),
            failure,
            ..there
        })
    }
}

/// What to do about an answer of the driver API (facts: failures 5.4, F20).
fn advice(code: Option<i32>) -> &'static str {
    match code {
        Some(3 | 999) => {
            ": look at the lines of NVRM in `dmesg`; a stuck driver needs a power cycle of the VM"
        }
        Some(35 | 803) => {
            ": library and module of the driver differ, or the driver is too old: reboot the guest"
        }
        Some(46 | 201 | 205) => ": the GPU is busy, or the vGPU has no license: look at `license`",
        Some(100) => ": vGPU types of the series A and B run no CUDA programs; else look at `driver`",
        Some(222) => ": this driver is older than the proof's kernels (PTX 5.0, CUDA 8.0)",
        Some(801) => ": vGPU types of the series A and B run no CUDA programs; take one of series C or Q",
        Some(802) => {
            ": systems with NVSwitch need nvidia-fabricmanager of exactly the driver's version, running"
        }
        _ => "",
    }
}

fn answers(tool: &str) -> Command {
    Command::new(tool, ["--version"])
}

/// Brings what the build calls and the guest lacks, where its package tool is known.
fn install_tools(source: &SourceSpec, fact: &CudaProofFact) -> Vec<Effect> {
    let Some(family) = distro::of(&fact.os_release) else { return vec![] };
    let lacks = source.tools().into_iter().filter(|tool| !fact.tools.iter().any(|there| there == tool));
    let packages: Vec<String> = lacks.map(|tool| cuda_samples::package(tool, family)).collect();
    if packages.is_empty() {
        return vec![];
    }
    family.refresh().into_iter().chain([family.install(&packages)]).map(Effect::run).collect()
}

impl CudaProofSpec {
    fn commands(&self) -> Vec<Command> {
        let elements = self.elements.iter().flat_map(|n| ["--elements".to_string(), n.to_string()]);
        let own = Command::new(PROGRAM, elements).also_in(PROGRAM_FOLDER).within(PROOF_SECS);
        // A file of the operator's goes before what is built, and that before what is there.
        let sample = |file: &Option<Artifact>, name: &str| {
            let program = match (file, self.source()) {
                (Some(file), _) => file.stored(None),
                (None, Some(source)) => source.program(name),
                (None, None) => name.to_string(),
            };
            let command = Command::new(program, [] as [&str; 0]).within(SAMPLE_SECS);
            if command.program == name { command.also_in(DEMO_SUITE) } else { command }
        };
        let samples = match &self.samples {
            WordOr::Word(Samples::Off) => vec![],
            _ => vec![sample(&self.device_query, "deviceQuery"), sample(&self.vector_add, "vectorAdd")],
        };
        [vec![own], samples].concat()
    }

    /// The source that the samples are built from.
    fn source(&self) -> Option<&SourceSpec> {
        if let WordOr::Map(source) = &self.samples { Some(source) } else { None }
    }

    /// Samples that were asked for by name, or by a file of the operator's.
    fn needs_samples(&self) -> bool {
        let asked = !matches!(self.samples, WordOr::Word(Samples::Auto | Samples::Off));
        asked || self.device_query.is_some() || self.vector_add.is_some()
    }

    /// What is wrong with a proof; or what it shows.
    fn judge(&self, fact: &CudaProofFact) -> Result<String, Shortcoming> {
        let query = &fact.device_query;
        let wrong = |what: String| Err(Shortcoming::Failed(what));
        if let Some(failure) = &fact.failure {
            return wrong(format!(
                "{failure}{}",
                query.error_code.map(|c| format!(" (CUDA error {c})")).unwrap_or_default()
            ));
        }
        if !fact.report.passed() {
            return wrong("not every result was checked".into());
        }
        let devices = &fact.report.devices;
        let count = query.devices.filter(|_| fact.samples_ran).unwrap_or(u32::MAX).min(devices.len() as u32);
        if count < self.devices {
            return wrong(format!("CUDA sees {count} device(s), {} expected", self.devices));
        }
        if fact.samples_ran && !query.passed() {
            return wrong(format!("deviceQuery: {}", query.result.as_deref().unwrap_or("no result")));
        }
        if fact.samples_ran && !fact.vector_add_passed {
            return wrong("vectorAdd: wrong result".into());
        }
        if self.needs_samples() && !fact.samples_ran {
            return wrong("NVIDIA's samples deviceQuery and vectorAdd are not there".into());
        }
        let first = &devices[0];
        let several = if devices.len() > 1 { format!("{} x ", devices.len()) } else { String::new() };
        let largest = first.vector_adds.iter().map(|v| v.elements).max().unwrap_or_default();
        let samples = if fact.samples_ran { ", deviceQuery PASS, vectorAdd PASSED" } else { "" };
        let mut shows = format!("{several}{}, {largest} sums right{samples}", first.name);
        for device in devices {
            match self.bandwidth_at_least.map(|share| judge(device, share, &self.baseline, &fact.on_bus)) {
                None => {}
                Some(Judged::Fast(said)) => shows += &format!(", {said}"),
                Some(Judged::Slow(said)) => return Err(Shortcoming::Slow(said)),
                Some(Judged::Unknown(said)) => return Err(Shortcoming::NoFigure(said)),
            }
        }
        Ok(shows)
    }
}

enum Shortcoming {
    Failed(String),
    Slow(String),
    NoFigure(String),
}

impl Requirement for CudaProof {
    const NAME: &'static str = "cuda-proof";
    const ABOUT: &'static str = "Programs ran on every GPU in this boot, every result was checked, and the memory is as fast as the fleet file says";
    const AFTER: &'static [&'static str] = &["driver", "license", "cuda-toolkit", "persistence"];
    const NEEDS: Needs = Needs::Nothing;
    const TAKES_EFFECT: TakesEffect = TakesEffect::AtOnce;
    const SETTLE_SECS: u32 = 0;
    const IMPLIED_BY: &'static [Implied] =
        &[Implied { by: "cuda-toolkit", spec: |_| Some(serde_json::json!({})) }];
    const EXAMPLE: &'static str = r#"{"bandwidth-at-least": "80%"}"#;
    type Spec = CudaProofSpec;
    type Fact = CudaProofFact;

    fn check(spec: &CudaProofSpec, fact: &CudaProofFact) -> Verdict {
        let commands = spec.commands();
        let same = fact.commands == commands.iter().map(ToString::to_string).collect::<Vec<_>>();
        let mut wants = "every result right".to_string();
        let is = if fact.at.is_none() {
            "never run".to_string()
        } else if !fact.this_boot {
            "last run in another boot or with another driver".into()
        } else if !same {
            "last run by other programs than are set now".into()
        } else {
            match spec.judge(fact) {
                Ok(shows) => return Verdict::met(shows),
                Err(Shortcoming::Failed(what)) => what,
                Err(Shortcoming::Slow(what)) => {
                    let share = spec.bandwidth_at_least.map(String::from).unwrap_or_default();
                    wants = format!(
                        "at least {share}: look at throttling (`nvidia-smi -q -d PERFORMANCE`), the PCIe link and other load; a figure that fits this GPU comes from `vsgpu baseline --help`"
                    );
                    what
                }
                Err(Shortcoming::NoFigure(what)) => {
                    return Verdict::blocked(
                        what,
                        "run `vsgpu-cuda-proof > bare.json` on bare metal with such a GPU, and put what `vsgpu baseline --report bare.json` prints under `cuda-proof:`",
                    );
                }
            }
        };
        let mut effects = vec![];
        if let Some(source) = spec.source() {
            if let Some(wrong) = source.wrong() {
                return Verdict::blocked(wrong, "take cuda-samples-VERSION.zip as NVIDIA publishes it");
            }
            // Programs that were built and fail were built for other GPUs, perhaps: they are built again.
            let samples = fact.device_query.passed() && fact.vector_add_passed;
            let failed = fact.this_boot && same && fact.samples_ran && !samples;
            if failed || !fact.builds.contains(&source.id()) {
                effects.extend(install_tools(source, fact));
                effects.push(Effect::run(source.build(PROGRAM_FOLDER)));
            }
        }
        effects.push(Effect::Record { commands, path: RECORD.into(), beside: DRIVER.into() });
        Verdict::unmet(is, wants, effects)
    }

    fn as_spec(fact: &CudaProofFact) -> Option<CudaProofSpec> {
        let spec = CudaProofSpec {
            devices: (fact.report.devices.len() as u32).max(1),
            elements: vec![],
            bandwidth_at_least: None,
            baseline: Baseline::new(),
            samples: auto(),
            device_query: None,
            vector_add: None,
        };
        Self::check(&spec, fact).is_met().then_some(spec)
    }

    fn artifacts_mut(spec: &mut CudaProofSpec) -> Vec<&mut Artifact> {
        let source = if let WordOr::Map(source) = &mut spec.samples { source.source.as_mut() } else { None };
        let built = [spec.device_query.as_mut(), spec.vector_add.as_mut()];
        built.into_iter().chain([source]).flatten().collect()
    }

    fn explain(failure: &Failure, _: &Subject, _: &Observation) -> Option<Explained> {
        let said = failure.output.as_ref().map(|output| output.both()).unwrap_or_default();
        let of_build = failure.why.contains(cuda_samples::PROGRAM);
        if of_build { cuda_samples::explain(&said) } else { crate::package_errors::explain(failure) }
    }

    fn expect_gpus(spec: &mut CudaProofSpec, count: u32) {
        if spec.devices == one() {
            spec.devices = count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vsgpu_core::readers::cuda_report::{CudaFailure, DeviceProof, VERSION, VectorAdd};

    fn spec(json: &str) -> CudaProofSpec {
        serde_json::from_str(json).unwrap_or_else(|e| panic!("{json}: {e}"))
    }

    fn fact(spec: &CudaProofSpec) -> CudaProofFact {
        let add = VectorAdd { elements: 50_000, checked: 50_000, ..VectorAdd::default() };
        let device = DeviceProof {
            name: "GRID A100-40C".into(),
            vector_adds: vec![add],
            device_gb_s: Some(1300.0),
            ..DeviceProof::default()
        };
        CudaProofFact {
            at: Some(1),
            this_boot: true,
            commands: spec.commands().iter().map(ToString::to_string).collect(),
            report: CudaReport { version: VERSION, devices: vec![device], ..CudaReport::default() },
            ..CudaProofFact::default()
        }
    }

    fn is(verdict: Verdict) -> String {
        match verdict {
            Verdict::Met { is } => is,
            Verdict::Unmet { is, .. } => format!("unmet: {is}"),
            Verdict::Blocked { why, .. } => format!("blocked: {why}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn our_own_program_is_enough_and_samples_count_where_they_ran() {
        let wish = spec("{}");
        assert_eq!(is(CudaProof::check(&wish, &fact(&wish))), "GRID A100-40C, 50000 sums right");
        let mut failed = fact(&wish);
        failed.samples_ran = true;
        assert!(is(CudaProof::check(&wish, &failed)).starts_with("unmet: deviceQuery"));
        let required = spec(r#"{"samples": "required"}"#);
        assert!(is(CudaProof::check(&required, &fact(&required))).contains("are not there"));
        assert_eq!(spec(r#"{"samples": "off", "elements": [1000]}"#).commands().len(), 1);
    }

    #[test]
    fn wrong_sums_missing_devices_and_slow_memory_are_no_proof() {
        let wish = spec(r#"{"devices": 2}"#);
        assert!(is(CudaProof::check(&wish, &fact(&wish))).contains("1 device(s), 2 expected"));
        let wish = spec(r#"{"bandwidth-at-least": "90%"}"#);
        assert!(is(CudaProof::check(&wish, &fact(&wish))).contains("84 % of 1555"));
        let wish = spec(r#"{"bandwidth-at-least": "80%"}"#);
        assert!(!is(CudaProof::check(&wish, &fact(&wish))).starts_with("unmet"));
        let wish = spec(r#"{"bandwidth-at-least": "90%", "baseline": {"GRID A100-40C": {"device": 1310}}}"#);
        assert!(is(CudaProof::check(&wish, &fact(&wish))).contains("99 % of the baseline"));
        let wish = spec("{}");
        let mut wrong = fact(&wish);
        wrong.report.devices[0].vector_adds[0].wrong = 1;
        assert!(is(CudaProof::check(&wish, &wrong)).starts_with("unmet"));
        let mut other_boot = fact(&wish);
        other_boot.this_boot = false;
        assert!(is(CudaProof::check(&wish, &other_boot)).contains("another boot"));
    }

    #[test]
    fn a_failure_of_the_driver_is_told_with_what_to_do() {
        let failure = CudaFailure {
            stage: "init".into(),
            code: Some(802),
            name: "CUDA_ERROR_SYSTEM_NOT_READY".into(),
            text: "system not yet initialized".into(),
        };
        let text = format!("{failure}{}", advice(failure.code));
        assert!(
            text.starts_with("init: CUDA_ERROR_SYSTEM_NOT_READY (802)") && text.contains("fabricmanager"),
            "{text}"
        );
    }
}
