//! The CUDA toolkit, from the operator's runfile and without the driver inside it: that one would replace the vGPU
//! driver (facts: failures F18).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use vsgpu_core::artifact::{Artifact, Held, Placed};
use vsgpu_core::requirement::{Implied, Needs, TakesEffect};
use vsgpu_core::{Command, Effect, Evidence, Fact, Probe, Requirement, Subject, Unreadable, Verdict};

const FOLDER: &str = "/usr/local";

/// Toolkit of a guest.
pub struct CudaToolkit;

/// What is wanted.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct CudaToolkitSpec {
    /// NVIDIA's runfile, `cuda_12.2.2_535.104.05_linux.run`.
    pub package: Artifact,
}

/// What is there.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct CudaToolkitFact {
    /// Versions found below /usr/local, or said by nvcc.
    pub versions: Vec<String>,
}

fn nvcc() -> Command {
    Command::new("nvcc", ["--version"]).also_in("/usr/local/cuda/bin")
}

/// Version files of one installation: JSON from 11.1 on, text before.
fn version_files(name: &str) -> [String; 2] {
    ["version.json", "version.txt"].map(|file| format!("{FOLDER}/{name}/{file}"))
}

fn installations(seen: &Evidence) -> Vec<&str> {
    seen.names(FOLDER).unwrap_or_default().into_iter().filter(|n| n.starts_with("cuda")).take(16).collect()
}

impl Fact for CudaToolkitFact {
    const NAME: &'static str = "cuda-toolkit";
    const ABOUT: &'static str = "CUDA toolkits that are installed";
    fn probes(_: &Subject, seen: &Evidence) -> Vec<Probe> {
        let mut probes = vec![Probe::List(FOLDER.into()), Probe::Run(nvcc())];
        probes.extend(installations(seen).into_iter().flat_map(version_files).map(Probe::Read));
        probes
    }
    fn parse(_: &Subject, seen: &Evidence) -> Result<Self, Unreadable> {
        let mut versions = vec![];
        for name in installations(seen) {
            let [json, text] = version_files(name).map(|path| seen.file(&path).ok().flatten());
            let from_json = json
                .and_then(|j| serde_json::from_str::<serde_json::Value>(j).ok())
                .and_then(|v| v["cuda"]["version"].as_str().map(String::from));
            let from_text = text.and_then(|t| t.trim().strip_prefix("CUDA Version ").map(String::from));
            versions.extend(from_json.or(from_text));
        }
        // `Cuda compilation tools, release 12.2, V12.2.140`
        let said = seen.stdout_if_ok(&nvcc()).and_then(|t| t.split_once("release ")).and_then(|(_, rest)| rest.split(',').next());
        if let Some(release) = said.filter(|r| versions.iter().all(|v| release_of(v) != **r)) {
            versions.push(release.into());
        }
        versions.sort();
        versions.dedup();
        Ok(Self { versions })
    }
}

/// `12.2` of `12.2.2`: one toolkit folder holds one release.
fn release_of(version: &str) -> String {
    version.split('.').take(2).collect::<Vec<_>>().join(".")
}

impl Requirement for CudaToolkit {
    const NAME: &'static str = "cuda-toolkit";
    const ABOUT: &'static str = "CUDA toolkit of the guest, from your runfile, without its driver";
    const AFTER: &'static [&'static str] = &["driver"];
    const NEEDS: Needs = Needs::Nothing;
    const TAKES_EFFECT: TakesEffect = TakesEffect::AtOnce;
    const SETTLE_SECS: u32 = 0;
    const IMPLIED_BY: &'static [Implied] = &[];
    const EXAMPLE: &'static str = r#"{"package": "files/cuda_12.2.2_535.104.05_linux.run"}"#;
    type Spec = CudaToolkitSpec;
    type Fact = CudaToolkitFact;

    fn check(spec: &CudaToolkitSpec, fact: &CudaToolkitFact) -> Verdict {
        let Some(wanted) = spec.package.version() else {
            return Verdict::blocked(
                format!("the CUDA version of {} is not known", spec.package.file_name()),
                "keep NVIDIA's own file name: cuda_12.2.2_535.104.05_linux.run",
            );
        };
        // nvcc alone states no patch number; where the files state one it must be the same.
        let same = |v: &String| v == wanted || (v.split('.').count() == 2 && *v == release_of(wanted));
        if let Some(version) = fact.versions.iter().find(|v| same(v)) {
            return Verdict::met(version);
        }
        let is = if fact.versions.is_empty() { "absent".into() } else { fact.versions.join(", ") };
        let install = Command::new(spec.package.stored(None), ["--silent", "--toolkit"]).within(1800);
        Verdict::unmet(is, wanted, vec![Effect::run(install)])
    }

    fn as_spec(fact: &CudaToolkitFact) -> Option<CudaToolkitSpec> {
        let version = fact.versions.last()?.clone();
        let held = Held { name: "cuda-toolkit".into(), version: version.clone(), acceptance: None };
        let package = Artifact { artifact: format!("cuda_{version}_linux.run"), sha256: None, size: None, kind: None, holds: vec![held] };
        Some(CudaToolkitSpec { package })
    }

    fn files(spec: &CudaToolkitSpec) -> Vec<Placed> {
        vec![Placed { artifact: spec.package.clone(), datastore: None }]
    }
}
