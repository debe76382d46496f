//! The proof inside a container: our own program, mounted into an image of the operator's choice, adds
//! vectors on the GPUs that the engine passes in. Runs where an engine is; a guest without one is proved by
//! `cuda-proof` alone.

use crate::container_errors;
use crate::facts::proof_record::{self, DRIVER};
use crate::guest::container_toolkit::Engine;
use crate::guest::cuda_proof::{PROGRAM, PROGRAM_FOLDER};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use vsgpu_core::artifact::Artifact;
use vsgpu_core::readers::cuda_report::{self, CudaReport};
use vsgpu_core::requirement::{Explained, Failure, Implied, Needs, Stuck, TakesEffect};
use vsgpu_core::{Command, Effect, Fact, Observation, Probe, Requirement, Subject, Unreadable, Verdict};

const RECORD: &str = "/var/lib/vsgpu/container-proof.json";
/// The unit that brings an image to a user: what it says is in the journal.
const LOAD_UNIT: &str = "vsgpu-container-load";
/// Seconds for a container: its image may have to be fetched first.
const RUN_SECS: u32 = 600;
/// Where the program may be on the guest; the one that is there is mounted.
const PROGRAM_PATHS: [&str; 3] =
    ["/usr/bin/vsgpu-cuda-proof", "/usr/lib/vsgpu/vsgpu-cuda-proof", "/usr/local/bin/vsgpu-cuda-proof"];

/// Container proof of a guest.
pub struct ContainerProof;

/// How it is proved.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(
    rename_all = "kebab-case",
    deny_unknown_fields,
    expecting = "keys and values",
    try_from = "Unchecked"
)]
pub struct ContainerProofSpec {
    /// Engine. Left out: the first of Docker and Podman that answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<Engine>,
    /// Image with a C library of its own (glibc); it needs no CUDA.
    pub image: String,
    /// The image as a file (`docker save`), for a guest that reaches no registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<Artifact>,
    /// A user of the guest who runs the container without root (Podman).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, expecting = "keys and values")]
struct Unchecked {
    /// Engine. Left out: the first of Docker and Podman that answers.
    engine: Option<Engine>,
    /// Image with a C library of its own (glibc); it needs no CUDA.
    image: Option<String>,
    /// The image as a file (`docker save`), for a guest that reaches no registry.
    archive: Option<Artifact>,
    /// A user of the guest who runs the container without root (Podman).
    user: Option<String>,
}

impl TryFrom<Unchecked> for ContainerProofSpec {
    type Error = String;
    fn try_from(raw: Unchecked) -> Result<Self, String> {
        if raw.engine == Some(Engine::Containerd) {
            return Err(
                "vsgpu does not prove containerd: use docker or podman here, or a pod of your cluster".into(),
            );
        }
        if let Some(user) = &raw.user {
            let mut letters = user.chars();
            let first = letters.next().is_some_and(|c| c.is_ascii_lowercase() || c == '_');
            let plain = letters.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-".contains(c));
            if !first || !plain || user.len() > 32 || user == "root" {
                return Err(format!("user: `{user}` is no name of an ordinary user"));
            }
            if raw.engine == Some(Engine::Docker) {
                return Err(
                    "user: without root it is Podman that runs the container: `engine: podman`".into()
                );
            }
        }
        let image = raw.image.unwrap_or_else(|| "ubuntu".into());
        let plain = image.chars().all(|c| c.is_ascii_alphanumeric() || "-._/:@".contains(c));
        if !plain || image.is_empty() || image.starts_with('-') || image.len() > 255 {
            return Err(format!("image: `{image}` is no name of an image"));
        }
        Ok(Self { engine: raw.engine, image, archive: raw.archive, user: raw.user })
    }
}

/// The kept record, and what can be used.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct ContainerProofFact {
    /// When it was made, seconds since 1970; absent without a record.
    pub at: Option<u64>,
    /// Whether it was made in the running boot, with the running driver.
    pub this_boot: bool,
    /// What was run.
    pub commands: Vec<String>,
    /// What our own program found in the container.
    pub report: CudaReport,
    /// Why there is no report.
    pub failure: Option<String>,
    /// Engines that answer.
    pub engines: Vec<Engine>,
    /// Where our own program is.
    pub program: Option<String>,
}

impl Fact for ContainerProofFact {
    const NAME: &'static str = "container-proof";
    const ABOUT: &'static str = "Last CUDA proof inside a container";
    fn probes(_: &Subject, _: &Observation) -> Vec<Probe> {
        let mut probes = proof_record::probes(RECORD);
        probes.extend([Engine::Docker, Engine::Podman].map(|e| Probe::Run(e.version())));
        probes.extend(PROGRAM_PATHS.map(|p| Probe::Hash(p.into())));
        probes
    }
    fn parse(_: &Subject, seen: &Observation) -> Result<Self, Unreadable> {
        let there = |path: &&str| seen.text(&Probe::Hash((**path).into())).is_ok_and(|h| h.is_some());
        let mut fact = Self {
            engines: [Engine::Docker, Engine::Podman].into_iter().filter(|e| e.answers(seen)).collect(),
            program: PROGRAM_PATHS.iter().find(|p| there(p)).map(|p| p.to_string()),
            ..Self::default()
        };
        let Some(record) = proof_record::read(seen, RECORD)? else { return Ok(fact) };
        let run = &record.outputs[0];
        match cuda_report::read(&run.output.stdout) {
            Ok(report) => {
                (fact.failure, fact.report) = (report.failure.as_ref().map(ToString::to_string), report)
            }
            Err(_) => {
                fact.failure = Some(format!(
                    "{}: {}",
                    run.output.ended,
                    vsgpu_core::observation::head(&run.output.both()).replace('\n', " | ")
                ))
            }
        }
        fact.at = Some(record.at);
        fact.this_boot = record.is_of_now(seen)?;
        fact.commands = record.commands();
        Ok(fact)
    }
    fn sentence(&self) -> Option<String> {
        (self.at.is_none()).then(|| "never run".into())
    }
}

/// What the latest unit of that name said.
fn load_log() -> Command {
    Command::new("journalctl", ["-u", LOAD_UNIT, "--since=-15min", "-n", "20", "-o", "cat", "--no-pager"])
}

impl ContainerProofSpec {
    fn command(&self, engine: Engine, program: &str) -> Command {
        let gpus: &[&str] = match engine {
            Engine::Podman => &["--device", "nvidia.com/gpu=all", "--security-opt", "label=disable"],
            _ => &["--runtime=nvidia", "--gpus", "all"],
        };
        let (mount, inside) = (format!("{program}:/{PROGRAM}:ro"), format!("/{PROGRAM}"));
        let args =
            [&["run", "--rm", "--network=none"], gpus, &["-v", &mount, "--entrypoint", &inside, &self.image]]
                .concat();
        self.as_user(engine, &args, &["--pipe"])
    }

    /// The engine by root, or as after a login of the user: with a home and a runtime folder.
    fn as_user(&self, engine: Engine, args: &[&str], unit: &[&str]) -> Command {
        let Some(user) = &self.user else {
            return Command::new(engine.program(), args.iter().copied()).within(RUN_SECS);
        };
        let user = format!("User={user}");
        let (limit, program) = (format!("RuntimeMaxSec={RUN_SECS}"), engine.program());
        let run = ["--quiet", "--wait", "--collect", "-p", &user, "-p", "PAMName=login", "-p", &limit];
        Command::new("systemd-run", [&run[..], unit, &["--", program], args].concat()).within(RUN_SECS + 30)
    }

    /// Brings the image's file into the engine. A user may not read the agent's files: systemd opens it.
    fn load(&self, engine: Engine, archive: &Artifact) -> Command {
        let stored = archive.stored(None);
        match self.user {
            None => self.as_user(engine, &["load", "-i", &stored], &[]),
            Some(_) => {
                let input = format!("StandardInput=file:{stored}");
                self.as_user(engine, &["load"], &["--unit", LOAD_UNIT, "-p", &input])
            }
        }
    }
}

impl Requirement for ContainerProof {
    const NAME: &'static str = "container-proof";
    const ABOUT: &'static str =
        "Our own program added vectors on the GPUs inside a container, every result checked";
    const AFTER: &'static [&'static str] = &["driver", "license", "container-toolkit"];
    const NEEDS: Needs = Needs::Nothing;
    const TAKES_EFFECT: TakesEffect = TakesEffect::AtOnce;
    const SETTLE_SECS: u32 = 0;
    const IMPLIED_BY: &'static [Implied] = &[];
    const EXAMPLE: &'static str = r#"{"image": "ubuntu"}"#;
    type Spec = ContainerProofSpec;
    type Fact = ContainerProofFact;

    fn check(spec: &ContainerProofSpec, fact: &ContainerProofFact) -> Verdict {
        let wished = spec.engine.or_else(|| spec.user.as_ref().map(|_| Engine::Podman));
        let Some(engine) = wished
            .filter(|e| fact.engines.contains(e))
            .or_else(|| wished.is_none().then(|| fact.engines.first().copied()).flatten())
        else {
            return Verdict::blocked(
                "the container engine does not answer in this guest",
                "install Docker or Podman; `cuda-proof` needs neither",
            );
        };
        let Some(program) = &fact.program else {
            return Verdict::blocked(
                format!("{PROGRAM} is not installed"),
                format!("it belongs beside the agent: /usr/bin or {PROGRAM_FOLDER}"),
            );
        };
        let command = spec.command(engine, program);
        let is = if fact.at.is_none() {
            "never run".to_string()
        } else if fact.commands != [command.to_string()] || !fact.this_boot {
            "last run in another boot, with another driver or in another way".into()
        } else if let Some(failure) = &fact.failure {
            failure.clone()
        } else if !fact.report.passed() {
            "not every result was checked".into()
        } else {
            let device = &fact.report.devices[0];
            return Verdict::met(format!(
                "{} in {}: {} x {}, every sum right",
                engine.program(),
                spec.image,
                fact.report.devices.len(),
                device.name
            ));
        };
        let mut effects = vec![];
        if let Some(archive) = &spec.archive {
            effects.push(Effect::run(spec.load(engine, archive)));
        }
        effects.push(Effect::Record { commands: vec![command], path: RECORD.into(), beside: DRIVER.into() });
        Verdict::unmet(is, "every sum right in a container", effects)
    }

    fn as_spec(_: &ContainerProofFact) -> Option<ContainerProofSpec> {
        // Which image was meant is in no fact.
        None
    }

    fn stuck(_: &ContainerProofSpec, fact: &ContainerProofFact) -> Option<Stuck> {
        let said = fact.failure.as_deref().filter(|_| fact.this_boot)?;
        let Explained { cause, fix } = container_errors::explain(said)?;
        Some(Stuck { explained: Explained { cause: format!("{cause} ({said})"), fix }, for_good: true })
    }

    fn probes_after_failure(_: &Subject, _: &Observation) -> Vec<Probe> {
        vec![Probe::Run(load_log())]
    }

    fn explain(failure: &Failure, _: &Subject, seen: &Observation) -> Option<Explained> {
        let said = failure.output.as_ref().map(|output| output.both()).unwrap_or_default();
        let log =
            seen.stdout_if_ok(&load_log()).filter(|_| failure.why.contains(LOAD_UNIT)).unwrap_or_default();
        container_errors::explain(&format!("{said}\n{}\n{log}", failure.why))
    }

    fn artifacts_mut(spec: &mut ContainerProofSpec) -> Vec<&mut Artifact> {
        spec.archive.iter_mut().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engine_that_answers_is_used_in_its_own_way() {
        let spec: ContainerProofSpec = serde_json::from_str("{}").unwrap();
        let mut fact = ContainerProofFact {
            engines: vec![Engine::Podman],
            program: Some("/usr/bin/vsgpu-cuda-proof".into()),
            ..Default::default()
        };
        let line = |fact: &ContainerProofFact| match ContainerProof::check(&spec, fact) {
            Verdict::Unmet { effects, .. } => effects[0].to_string(),
            other => panic!("{other:?}"),
        };
        assert!(
            line(&fact).starts_with("podman run --rm --network=none --device nvidia.com/gpu=all"),
            "{}",
            line(&fact)
        );
        fact.engines.insert(0, Engine::Docker);
        assert!(line(&fact).contains(
            "--runtime=nvidia --gpus all -v /usr/bin/vsgpu-cuda-proof:/vsgpu-cuda-proof:ro --entrypoint /vsgpu-cuda-proof ubuntu"
        ));
        fact.engines.clear();
        assert!(matches!(ContainerProof::check(&spec, &fact), Verdict::Blocked { .. }));
        let rootless: ContainerProofSpec = serde_json::from_str(r#"{"user": "ml"}"#).unwrap();
        fact.engines = vec![Engine::Docker, Engine::Podman];
        match ContainerProof::check(&rootless, &fact) {
            Verdict::Unmet { effects, .. } => {
                let line = effects[0].to_string();
                let words = "systemd-run --quiet --wait --collect -p User=ml -p PAMName=login";
                assert!(line.contains(words) && line.contains("-- podman run --rm"), "{line}");
            }
            other => panic!("{other:?}"),
        }
        for bad in [
            r#"{"user": "root"}"#,
            r#"{"user": "-x"}"#,
            r#"{"user": "ml", "engine": "docker"}"#,
            r#"{"image": "-v"}"#,
            r#"{"image": "a b"}"#,
            r#"{"engine": "containerd"}"#,
        ] {
            assert!(serde_json::from_str::<ContainerProofSpec>(bad).is_err(), "{bad}");
        }
    }
}
