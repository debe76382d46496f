//! The driver survives a kernel update: every kernel newer than the running one has the driver's module
//! before it is booted. With DKMS its own hooks do that, where the new kernel's headers are there; this looks
//! whether they did.

use crate::distro::{self, OS_RELEASE, os_release};
use crate::facts::dkms::{self, DkmsModule};
use crate::facts::driver_module::module_version;
use crate::facts::os::kernel;
use crate::guest::driver::spec::{PackageSpec, Signing, wanted};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use vsgpu_core::artifact::{Artifact, Kind};
use vsgpu_core::requirement::{Explained, Failure, Implied, Needs, TakesEffect};
use vsgpu_core::{Command, Effect, Fact, Observation, Probe, Requirement, Subject, Unreadable, Verdict};

const MODULES: &str = "/lib/modules";
/// Seconds to build the module for one kernel.
const BUILD_SECS: u32 = 900;

/// Kernel updates of a guest.
pub struct KernelUpdates;

/// Which driver every newer kernel is to have.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, expecting = "keys and values")]
pub struct KernelUpdatesSpec {
    /// The driver's package: where DKMS does not know the driver, its `.run` builds the module.
    pub package: Artifact,
    /// Key and certificate that sign it, where the driver's own modules are signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signing: Option<Signing>,
}

/// What is there.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct KernelUpdatesFact {
    /// Running kernel.
    pub running: String,
    /// Installed kernels that are newer, and the version of the NVIDIA module each has.
    pub newer: BTreeMap<String, Option<String>>,
    /// Newer kernels whose headers are installed.
    pub headers: Vec<String>,
    /// NVIDIA's modules that DKMS knows.
    pub dkms: Vec<DkmsModule>,
    /// os-release, to choose the package tool.
    pub os_release: String,
}

/// Numbers of a kernel release, for its order: `6.1.0-28-amd64` is older than `6.1.0-31-amd64`.
fn order(kernel: &str) -> Vec<u64> {
    kernel.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok()).collect()
}

/// Kernels that can be booted: their folder holds the list of what they carry built in.
fn newer(seen: &Observation) -> Vec<String> {
    kernel(seen)
        .map(|running| newer_than(&running, seen.names(MODULES).unwrap_or_default()))
        .unwrap_or_default()
}

fn newer_than(running: &str, installed: Vec<&str>) -> Vec<String> {
    // `amd64` of `6.1.0-28-amd64`; `5.14.0-427.13.1.el9_4.x86_64` has none.
    let flavour = |k: &str| {
        let last = k.rsplit('-').next().unwrap_or_default();
        if last.starts_with(|c: char| c.is_ascii_alphabetic()) && !last.contains('.') {
            last.to_string()
        } else {
            String::new()
        }
    };
    // Another flavour (`-cloud-amd64` beside `-amd64`) is not what the running one is updated to.
    let same = |k: &&str| flavour(k) == flavour(running) && k.contains("cloud") == running.contains("cloud");
    installed
        .into_iter()
        .filter(same)
        .filter(|k| order(k) > order(running))
        .take(8)
        .map(String::from)
        .collect()
}

fn image(kernel: &str) -> Probe {
    Probe::Hex(format!("/boot/vmlinuz-{kernel}"))
}

fn makefile(kernel: &str) -> Probe {
    Probe::Hex(format!("{MODULES}/{kernel}/build/Makefile"))
}

impl Fact for KernelUpdatesFact {
    const NAME: &'static str = "kernel-updates";
    const ABOUT: &'static str = "Newer kernels that are installed, and whether they have the driver's module";
    fn probes(_: &Subject, seen: &Observation) -> Vec<Probe> {
        let mut probes = vec![
            Probe::KernelRelease,
            Probe::List(MODULES.into()),
            Probe::Read(OS_RELEASE.into()),
            Probe::Run(dkms::status()),
        ];
        for kernel in newer(seen) {
            probes.extend([Probe::Run(module_version(&kernel)), image(&kernel), makefile(&kernel)]);
        }
        probes
    }
    fn parse(_: &Subject, seen: &Observation) -> Result<Self, Unreadable> {
        let there = |probe: &Probe| seen.has(probe) && seen.text(probe).is_ok_and(|t| t.is_some());
        let module = |k: &String| {
            seen.stdout_if_ok(&module_version(k)).map(|v| v.trim().to_string()).filter(|v| !v.is_empty())
        };
        let newer: Vec<String> = newer(seen).into_iter().filter(|k| there(&image(k))).collect();
        Ok(Self {
            running: kernel(seen)?,
            headers: newer.iter().filter(|k| there(&makefile(k))).cloned().collect(),
            newer: newer
                .into_iter()
                .map(|k| {
                    let v = module(&k);
                    (k, v)
                })
                .collect(),
            dkms: dkms::read(seen.stdout_if_ok(&dkms::status()).unwrap_or_default()),
            os_release: os_release(seen)?.into(),
        })
    }
    fn sentence(&self) -> Option<String> {
        let newer = |(kernel, module): (&String, &Option<String>)| match module {
            Some(module) => format!("{kernel} (with driver {module})"),
            None => format!("{kernel} (WITHOUT the driver)"),
        };
        Some(match self.newer.is_empty() {
            true => format!("kernel {} runs, no newer one is installed", self.running),
            false => format!(
                "kernel {} runs, the next boot may take {}",
                self.running,
                vsgpu_core::words::first(self.newer.iter().map(newer), 3, "")
            ),
        })
    }
}

fn implied(driver: &serde_json::Value) -> Option<serde_json::Value> {
    let PackageSpec { package, signing, .. } = wanted(driver)?;
    Some(serde_json::json!(KernelUpdatesSpec { package, signing }))
}

impl Requirement for KernelUpdates {
    const NAME: &'static str = "kernel-updates";
    const ABOUT: &'static str =
        "Every newer kernel that is installed has the driver's module before it is booted";
    const AFTER: &'static [&'static str] = &["driver"];
    const NEEDS: Needs = Needs::Nothing;
    const TAKES_EFFECT: TakesEffect = TakesEffect::AtOnce;
    const SETTLE_SECS: u32 = 0;
    const IMPLIED_BY: &'static [Implied] = &[Implied { by: "driver", spec: implied }];
    const EXAMPLE: &'static str = r#"{"package": "files/NVIDIA-Linux-x86_64-535.183.01-grid.run"}"#;
    type Spec = KernelUpdatesSpec;
    type Fact = KernelUpdatesFact;

    fn check(spec: &KernelUpdatesSpec, fact: &KernelUpdatesFact) -> Verdict {
        let wanted = spec.package.version().unwrap_or_default();
        let lacking: Vec<&String> =
            fact.newer.iter().filter(|(_, has)| has.as_deref() != Some(wanted)).map(|(k, _)| k).collect();
        if lacking.is_empty() {
            return Verdict::met(match fact.newer.len() {
                0 => format!("no kernel newer than {}", fact.running),
                _ => format!("{wanted} for {}", fact.newer.keys().cloned().collect::<Vec<_>>().join(", ")),
            });
        }
        let names = lacking.iter().map(|k| k.as_str()).collect::<Vec<_>>().join(", ");
        let is = format!("no module {wanted} for {names}");
        let mut effects = vec![];
        for kernel in lacking {
            if !fact.headers.contains(kernel) {
                let Some(family) = distro::of(&fact.os_release) else {
                    return Verdict::blocked(format!("{is}: its headers are missing"), distro::UNKNOWN);
                };
                effects.push(Effect::run(family.install(&[family.headers(kernel)])));
            }
            effects.push(match fact.dkms.iter().find(|m| m.version == wanted) {
                Some(known) => {
                    let args =
                        ["install", &format!("{}/{wanted}", known.name), "-k", kernel].map(String::from);
                    Effect::run(Command::new("dkms", args).within(BUILD_SECS))
                }
                None if crate::guest::driver_package::kind(&spec.package) == Kind::Run => {
                    let mut args =
                        ["--silent", "--accept-license", "-K", "-k", kernel].map(String::from).to_vec();
                    // A log of its own: the driver's says how the driver was installed.
                    args.push(format!("--log-file-name=/var/log/nvidia-installer-{kernel}.log"));
                    args.extend(spec.signing.iter().flat_map(Signing::options));
                    Effect::run(Command::new(spec.package.stored(None), args).within(BUILD_SECS))
                }
                None => {
                    return Verdict::blocked(
                        format!("{is}, and DKMS does not know this driver"),
                        "keep the running kernel until the driver's package carries a module for the new one",
                    );
                }
            });
        }
        Verdict::unmet(is, format!("module {wanted} for {names}"), effects)
    }

    fn as_spec(_: &KernelUpdatesFact) -> Option<KernelUpdatesSpec> {
        // Follows from the driver.
        None
    }

    fn artifacts_mut(spec: &mut KernelUpdatesSpec) -> Vec<&mut Artifact> {
        let signing = spec.signing.iter_mut().flat_map(Signing::artifacts_mut);
        std::iter::once(&mut spec.package).chain(signing).collect()
    }

    fn explain(failure: &Failure, _: &Subject, _: &Observation) -> Option<Explained> {
        crate::package_errors::explain(failure)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_kernel_gets_headers_and_the_module_before_it_is_booted() {
        let held = vsgpu_core::artifact::PackageContent {
            name: "x".into(),
            version: "535.183.01".into(),
            acceptance: None,
        };
        let package = Artifact {
            artifact: "NVIDIA-Linux-x86_64-535.183.01.run".into(),
            sha256: Some("ab".repeat(32)),
            size: None,
            kind: None,
            holds: vec![held],
        };
        let spec = KernelUpdatesSpec { package, signing: None };
        let module = DkmsModule {
            name: "nvidia".into(),
            version: "535.183.01".into(),
            kernel: None,
            state: "added".into(),
        };
        let mut fact = KernelUpdatesFact {
            running: "6.1.0-28-amd64".into(),
            newer: BTreeMap::new(),
            headers: vec![],
            dkms: vec![module],
            os_release: "ID=debian".into(),
        };
        assert!(KernelUpdates::check(&spec, &fact).is_met());
        fact.newer.insert("6.1.0-31-amd64".into(), None);
        let lines = |fact: &KernelUpdatesFact| match KernelUpdates::check(&spec, fact) {
            Verdict::Unmet { effects, .. } => effects.iter().map(ToString::to_string).collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        };
        let done = lines(&fact);
        assert!(
            done[0].ends_with("linux-headers-6.1.0-31-amd64")
                && done[1] == "dkms install nvidia/535.183.01 -k 6.1.0-31-amd64",
            "{done:?}"
        );
        fact.headers.push("6.1.0-31-amd64".into());
        fact.dkms.clear();
        assert!(
            lines(&fact)[0].contains(
                "-K -k 6.1.0-31-amd64 --log-file-name=/var/log/nvidia-installer-6.1.0-31-amd64.log"
            )
        );
        fact.newer.insert("6.1.0-31-amd64".into(), Some("535.183.01".into()));
        assert!(KernelUpdates::check(&spec, &fact).is_met());
        let newer = |running, all: &[&str]| newer_than(running, all.to_vec());
        assert_eq!(
            newer("6.1.0-9-amd64", &["6.1.0-10-amd64", "6.1.0-8-amd64", "6.1.0-10-cloud-amd64"]),
            ["6.1.0-10-amd64"]
        );
        let el = ["5.14.0-427.13.1.el9_4.x86_64", "5.14.0-503.31.1.el9_5.x86_64"];
        assert_eq!(newer(el[0], &el), [el[1]], "kernels of RHEL have no flavour");
        assert_eq!(newer("5.14.21-150500.55.7-default", &["5.14.21-150500.55.12-default"]).len(), 1);
    }
}
