//! Compiler, make and the headers of the running kernel, without which the driver's kernel module cannot be
//! built.

use crate::distro::{self, OS_RELEASE, os_release};
use crate::facts::os::kernel;
use crate::guest::driver::spec::wanted;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use vsgpu_core::artifact::Artifact;
use vsgpu_core::requirement::{Implied, Needs, TakesEffect};
use vsgpu_core::{
    Command, Effect, Fact, Observation, Probe, Requirement, Subject, Unreadable, Verdict, WordOr,
};

/// Build tools of a guest.
pub struct BuildTools;

/// What is wanted: there, from the guest's own repositories or from package files of yours.
pub type BuildToolsSpec = WordOr<Wish, FilesSpec>;

/// The one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Wish {
    /// Installed.
    Present,
}

/// Package files, with everything they depend on.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, expecting = "keys and values")]
pub struct FilesSpec {
    /// `.deb` or `.rpm` files.
    pub files: Vec<Artifact>,
}

/// What is there.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct BuildToolsFact {
    /// Running kernel.
    pub kernel: String,
    /// Whether its headers are installed.
    pub headers: bool,
    /// Whether gcc and make answer.
    pub compiler: bool,
    /// Whether DKMS answers.
    pub dkms: bool,
    /// os-release, to choose the package tool.
    pub os_release: String,
}

fn version(program: &str) -> Command {
    Command::new(program, ["--version"])
}

impl Fact for BuildToolsFact {
    const NAME: &'static str = "build-tools";
    const ABOUT: &'static str = "Compiler, kernel headers and DKMS";
    fn probes(_: &Subject, seen: &Observation) -> Vec<Probe> {
        let mut probes = vec![Probe::Read(OS_RELEASE.into()), Probe::KernelRelease];
        probes.extend(["gcc", "make", "dkms"].map(|program| Probe::Run(version(program))));
        if let Ok(kernel) = kernel(seen) {
            probes.push(Probe::Read(makefile(&kernel)));
        }
        probes
    }
    fn parse(_: &Subject, seen: &Observation) -> Result<Self, Unreadable> {
        let kernel = kernel(seen)?;
        let runs = |program: &str| seen.output(&version(program)).is_ok_and(|o| o.ok());
        Ok(Self {
            headers: seen.file(&makefile(&kernel))?.is_some(),
            compiler: runs("gcc") && runs("make"),
            dkms: runs("dkms"),
            os_release: os_release(seen)?.into(),
            kernel,
        })
    }
    fn sentence(&self) -> Option<String> {
        let parts = [("compiler", self.compiler), ("headers", self.headers), ("DKMS", self.dkms)];
        let of = |there: bool| {
            parts.iter().filter(move |(_, is)| *is == there).map(|(name, _)| *name).collect::<Vec<_>>()
        };
        Some(match (of(true).join(", "), of(false).join(", ")) {
            (there, missing) if missing.is_empty() => format!("{there} for kernel {}", self.kernel),
            (there, missing) if there.is_empty() => format!("no {missing} for kernel {}", self.kernel),
            (there, missing) => format!("{there}; no {missing} for kernel {}", self.kernel),
        })
    }
}

fn makefile(kernel: &str) -> String {
    format!("/lib/modules/{kernel}/build/Makefile")
}

impl Requirement for BuildTools {
    const NAME: &'static str = "build-tools";
    const ABOUT: &'static str =
        "Compiler, make and headers of the running kernel; DKMS where the distribution has it";
    const AFTER: &'static [&'static str] = &["package-source"];
    const NEEDS: Needs = Needs::Nothing;
    const TAKES_EFFECT: TakesEffect = TakesEffect::AtOnce;
    const SETTLE_SECS: u32 = 0;
    const IMPLIED_BY: &'static [Implied] =
        &[Implied { by: "driver", spec: |driver| wanted(driver).map(|_| serde_json::json!(Wish::Present)) }];
    const EXAMPLE: &'static str = r#""present""#;
    type Spec = BuildToolsSpec;
    type Fact = BuildToolsFact;

    fn check(spec: &BuildToolsSpec, fact: &BuildToolsFact) -> Verdict {
        let wants = format!("gcc, make, headers of {}", fact.kernel);
        let lacks: Vec<&str> = [("compiler", fact.compiler), ("kernel headers", fact.headers)]
            .iter()
            .filter(|(_, there)| !there)
            .map(|(name, _)| *name)
            .collect();
        if lacks.is_empty() {
            return Verdict::met(format!("{wants}{}", if fact.dkms { ", DKMS" } else { "" }));
        }
        let is = format!("no {}", lacks.join(", no "));
        let Some(family) = distro::of(&fact.os_release) else {
            let hint = format!("{}; install {wants} yourself", distro::UNKNOWN);
            return Verdict::blocked(
                format!("{is}, and this distribution's package tool is not known"),
                hint,
            );
        };
        let effects = match spec {
            BuildToolsSpec::Map(FilesSpec { files }) => {
                vec![Effect::run(family.install(&files.iter().map(|f| f.stored(None)).collect::<Vec<_>>()))]
            }
            BuildToolsSpec::Word(Wish::Present) => {
                let packages: Vec<String> = family
                    .build_tools()
                    .iter()
                    .map(|p| p.to_string())
                    .chain([family.headers(&fact.kernel)])
                    .collect();
                family.refresh().into_iter().chain([family.install(&packages)]).map(Effect::run).collect()
            }
        };
        Verdict::unmet(is, wants, effects)
    }

    fn as_spec(fact: &BuildToolsFact) -> Option<BuildToolsSpec> {
        (fact.compiler && fact.headers).then_some(BuildToolsSpec::Word(Wish::Present))
    }

    fn artifacts_mut(spec: &mut BuildToolsSpec) -> Vec<&mut Artifact> {
        match spec {
            BuildToolsSpec::Map(FilesSpec { files }) => files.iter_mut().collect(),
            BuildToolsSpec::Word(_) => vec![],
        }
    }

    fn explain(
        failure: &vsgpu_core::requirement::Failure,
        _: &Subject,
        _: &Observation,
    ) -> Option<vsgpu_core::requirement::Explained> {
        crate::package_errors::explain(failure)
    }
}
