//! NVIDIA Container Toolkit: containers see the GPUs. The recommended way for Docker and containerd is a
//! runtime named `nvidia` in the engine's configuration, for Podman a CDI description of the devices (facts:
//! nvidia 7).
//!
//! The CDI description names the driver's libraries with their version: after a driver update it is made
//! again.

use crate::distro::{self, OS_RELEASE, os_release};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use vsgpu_core::artifact::Artifact;
use vsgpu_core::readers::nvidia_smi;
use vsgpu_core::requirement::{Explained, Failure, Implied, Needs, TakesEffect};
use vsgpu_core::words::first;
use vsgpu_core::{Command, Effect, Fact, Observation, Probe, Requirement, Subject, Unreadable, Verdict};

const PACKAGE: &str = "nvidia-container-toolkit";
const CDI: &str = "/etc/cdi/nvidia.yaml";

/// Container toolkit of a guest.
pub struct ContainerToolkit;

/// A container engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// Docker.
    Docker,
    /// containerd, as Kubernetes uses it.
    Containerd,
    /// Podman.
    Podman,
}

impl Engine {
    pub(super) const ALL: [Self; 3] = [Self::Docker, Self::Containerd, Self::Podman];

    pub(super) fn program(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Containerd => "containerd",
            Self::Podman => "podman",
        }
    }

    /// Files of which one holds its setting.
    fn files(self) -> &'static [&'static str] {
        match self {
            Self::Docker => &["/etc/docker/daemon.json"],
            Self::Containerd => &["/etc/containerd/conf.d/99-nvidia.toml", "/etc/containerd/config.toml"],
            Self::Podman => &[CDI],
        }
    }

    pub(super) fn version(self) -> Command {
        Command::new(self.program(), ["--version"])
    }

    /// Whether it answers as itself: `docker` may be Podman under another name.
    pub(super) fn answers(self, seen: &Observation) -> bool {
        let said = seen.stdout_if_ok(&self.version()).unwrap_or_default().to_lowercase();
        !said.is_empty() && (self != Self::Docker || !said.contains("podman"))
    }
}

/// What is wanted.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, expecting = "keys and values")]
pub struct ContainerToolkitSpec {
    /// Engines to be set up. Left out: those that are installed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub engines: Vec<Engine>,
    /// The toolkit's package files, for a guest that reaches no repository with them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<Artifact>,
}

/// What is there.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct ContainerToolkitFact {
    /// Version of nvidia-ctk.
    pub version: Option<String>,
    /// Engines that are installed.
    pub engines: Vec<Engine>,
    /// Engines that know NVIDIA's runtime, or the devices of the running driver.
    pub ready: Vec<Engine>,
    /// os-release, to choose the package tool.
    pub os_release: String,
}

/// What the running Docker daemon knows: its file alone does not say that it was restarted since.
fn docker_runtimes() -> Command {
    Command::new("docker", ["info", "--format", "{{json .Runtimes}}"])
}

fn ctk(args: &[&str]) -> Command {
    Command::new("nvidia-ctk", args.iter().copied())
}

impl Fact for ContainerToolkitFact {
    const NAME: &'static str = "container-toolkit";
    const ABOUT: &'static str = "NVIDIA Container Toolkit, and the container engines that know the GPUs";
    fn probes(_: &Subject, _: &Observation) -> Vec<Probe> {
        let mut probes = vec![
            Probe::Run(ctk(&["--version"])),
            Probe::Read(OS_RELEASE.into()),
            Probe::Run(nvidia_smi::query()),
        ];
        probes.extend(Engine::ALL.map(|e| Probe::Run(e.version())));
        probes.push(Probe::Run(docker_runtimes()));
        probes.extend(Engine::ALL.iter().flat_map(|e| e.files()).map(|f| Probe::Read((*f).into())));
        probes
    }
    fn parse(_: &Subject, seen: &Observation) -> Result<Self, Unreadable> {
        // `NVIDIA Container Toolkit CLI version 1.14.6`
        let version = seen
            .stdout_if_ok(&ctk(&["--version"]))
            .and_then(|t| t.lines().next()?.rsplit(' ').next().map(String::from));
        let driver = nvidia_smi::report(seen).ok().and_then(|r| r.driver_version);
        let ready = |engine: &Engine| {
            engine.files().iter().any(|file| {
                let Some(text) = seen.file(file).ok().flatten() else { return false };
                match engine {
                    // The CDI description of another driver names libraries that are gone.
                    Engine::Podman => driver.as_ref().is_some_and(|d| text.contains(d.as_str())),
                    Engine::Docker => {
                        let configured = serde_json::from_str::<serde_json::Value>(text)
                            .is_ok_and(|v| v["runtimes"]["nvidia"].is_object());
                        configured
                            && seen
                                .stdout_if_ok(&docker_runtimes())
                                .is_none_or(|known| known.contains("\"nvidia\""))
                    }
                    Engine::Containerd => {
                        text.contains("runtimes.nvidia") || text.contains("runtimes.\"nvidia\"")
                    }
                }
            })
        };
        Ok(Self {
            version,
            engines: Engine::ALL.into_iter().filter(|e| e.answers(seen)).collect(),
            ready: Engine::ALL.into_iter().filter(ready).collect(),
            os_release: os_release(seen)?.into(),
        })
    }
    fn sentence(&self) -> Option<String> {
        let engines = first(self.engines.iter().map(|e| e.program().to_string()), 3, "no container engine");
        let toolkit = self.version.as_ref().map_or_else(|| "no toolkit".into(), |v| format!("toolkit {v}"));
        Some(format!("{engines}; {toolkit}"))
    }
}

impl Requirement for ContainerToolkit {
    const NAME: &'static str = "container-toolkit";
    const ABOUT: &'static str = "NVIDIA Container Toolkit for Docker, containerd and Podman";
    const AFTER: &'static [&'static str] = &["driver", "package-source"];
    const NEEDS: Needs = Needs::Nothing;
    const TAKES_EFFECT: TakesEffect = TakesEffect::AtOnce;
    const SETTLE_SECS: u32 = 30;
    const IMPLIED_BY: &'static [Implied] =
        &[Implied { by: "container-proof", spec: |_| Some(serde_json::json!({})) }];
    const EXAMPLE: &'static str = r#"{"engines": ["docker"]}"#;
    type Spec = ContainerToolkitSpec;
    type Fact = ContainerToolkitFact;

    fn check(spec: &ContainerToolkitSpec, fact: &ContainerToolkitFact) -> Verdict {
        let wished = if spec.engines.is_empty() { &fact.engines } else { &spec.engines };
        let names = |engines: &[Engine]| engines.iter().map(|e| e.program()).collect::<Vec<_>>().join(", ");
        // No step of a plan brings an engine: it is said before the first one.
        if wished.is_empty() {
            return Verdict::blocked_for_good(
                "there is no container engine: neither Docker nor containerd nor Podman answers",
                "install one in the guest; programs outside containers need no container toolkit",
            );
        }
        if let Some(missing) = wished.iter().find(|e| !fact.engines.contains(e)) {
            return Verdict::blocked_for_good(
                format!("{} is not installed in this guest", missing.program()),
                "install it, or take it out of `engines`",
            );
        }
        let mut effects = vec![];
        if fact.version.is_none() {
            let Some(family) = distro::of(&fact.os_release) else {
                return Verdict::blocked("this distribution's package tool is not known", distro::UNKNOWN);
            };
            if spec.files.is_empty() {
                effects.extend(family.refresh().into_iter().map(Effect::run));
                effects.push(Effect::run(family.install(&[PACKAGE.into()])));
            } else {
                effects.push(Effect::run(
                    family.install(&spec.files.iter().map(|f| f.stored(None)).collect::<Vec<_>>()),
                ));
            }
        }
        for engine in wished.iter().filter(|e| !fact.ready.contains(e)) {
            match engine {
                Engine::Podman => {
                    effects.push(Effect::run(ctk(&["cdi", "generate", &format!("--output={CDI}")])))
                }
                _ => {
                    effects.push(Effect::run(ctk(&[
                        "runtime",
                        "configure",
                        &format!("--runtime={}", engine.program()),
                    ])));
                    effects.push(Effect::run(
                        Command::new("systemctl", ["restart", engine.program()]).within(120),
                    ));
                }
            }
        }
        let wants = format!("toolkit, set up for {}", names(wished));
        if effects.is_empty() {
            return Verdict::met(format!(
                "{}, set up for {}",
                fact.version.as_deref().unwrap_or_default(),
                names(wished)
            ));
        }
        let is = match &fact.version {
            None => "absent".into(),
            Some(version) => format!(
                "{version}, not set up for {}",
                names(&wished.iter().filter(|e| !fact.ready.contains(e)).copied().collect::<Vec<_>>())
            ),
        };
        Verdict::unmet(is, wants, effects)
    }

    fn as_spec(fact: &ContainerToolkitFact) -> Option<ContainerToolkitSpec> {
        let spec = ContainerToolkitSpec { engines: fact.ready.clone(), files: vec![] };
        (!fact.ready.is_empty() && Self::check(&spec, fact).is_met()).then_some(spec)
    }

    fn artifacts_mut(spec: &mut ContainerToolkitSpec) -> Vec<&mut Artifact> {
        spec.files.iter_mut().collect()
    }

    fn explain(failure: &Failure, _: &Subject, _: &Observation) -> Option<Explained> {
        if failure.why.contains(PACKAGE) && failure.why.contains("Unable to locate package") {
            return Some(Explained {
                cause: format!("{PACKAGE} is in no repository of the guest"),
                fix: "add NVIDIA's repository (libnvidia-container) or a mirror of it with `package-source`, or give its package files with `files:`".into(),
            });
        }
        crate::package_errors::explain(failure)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(engines: &[Engine], fact: &ContainerToolkitFact) -> Verdict {
        ContainerToolkit::check(&ContainerToolkitSpec { engines: engines.to_vec(), files: vec![] }, fact)
    }

    #[test]
    fn each_engine_is_set_up_in_its_own_way() {
        let mut fact = ContainerToolkitFact {
            engines: vec![Engine::Docker, Engine::Podman],
            os_release: "ID=debian".into(),
            ..Default::default()
        };
        let lines = |v: Verdict| match v {
            Verdict::Unmet { effects, .. } => effects.iter().map(ToString::to_string).collect::<Vec<_>>(),
            Verdict::Met { .. } => vec![],
            other => panic!("{other:?}"),
        };
        let all = lines(check(&[], &fact));
        assert_eq!(
            all[3..],
            [
                "nvidia-ctk runtime configure --runtime=docker",
                "systemctl restart docker",
                "nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml"
            ]
        );
        fact.version = Some("1.14.6".into());
        fact.ready = vec![Engine::Docker];
        assert_eq!(
            lines(check(&[], &fact)).len(),
            1,
            "after a driver update only the description is made again"
        );
        assert!(check(&[Engine::Docker], &fact).is_met());
        assert!(matches!(check(&[Engine::Containerd], &fact), Verdict::Blocked { .. }));
        fact.engines.clear();
        assert!(
            matches!(check(&[], &fact), Verdict::Blocked { why, .. } if why.contains("no container engine"))
        );
    }
}
