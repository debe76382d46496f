//! The NVIDIA driver of a guest, from the operator's `.run`. Installed means: exit status, installer log and nvidia-smi
//! agree (facts: nvidia 6). The installer is silent, with DKMS where DKMS is there.

use super::system::PciGpus;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use vsgpu_core::artifact::{Artifact, Held, Placed};
use vsgpu_core::requirement::{Implied, Needs, TakesEffect};
use vsgpu_core::units::DriverVersion;
use vsgpu_core::{Command, Effect, Evidence, Fact, Probe, Requirement, Subject, Unreadable, Verdict, nvidia_smi};

const LOG: &str = "/var/log/nvidia-installer.log";
/// Seconds for the installer (facts: field default); building the module takes minutes on small machines.
const INSTALL_SECS: u32 = 900;

/// Driver of a guest.
pub struct Driver;

/// What is wanted.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct DriverSpec {
    /// NVIDIA's `.run`; `-grid` for a vGPU.
    pub package: Artifact,
}

/// What is there.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct DriverFact {
    /// Version of the running driver, by nvidia-smi.
    pub version: Option<String>,
    /// Names of the GPUs it drives.
    pub gpus: Vec<String>,
    /// A GPU of the guest is a vGPU, by nvidia-smi.
    #[serde(default)]
    pub vgpu: bool,
    /// Why nvidia-smi has no answer.
    pub smi_failure: Option<String>,
    /// What the installer wrote last.
    pub installer: Option<InstallerLog>,
    /// Whether DKMS answers.
    pub dkms: bool,
    /// Whether an NVIDIA GPU is on the PCI bus; absent where there is no bus to look at.
    pub gpu_on_bus: Option<bool>,
}

/// What nvidia-installer's log says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct InstallerLog {
    /// `success`, `failed` or `unknown`.
    pub outcome: String,
    /// Version it was about.
    pub version: Option<String>,
    /// Its ERROR sentences, the last three.
    pub errors: Vec<String>,
}

/// Reads nvidia-installer.log (also of an uninstallation). An `ERROR` line alone is no failure: some are survived.
pub fn installer_log(text: &str) -> InstallerLog {
    let (mut outcome, mut version, mut errors) = ("unknown", None, vec![]);
    let find = |line: &str| {
        line.split([' ', '(', ')', ',']).map(|w| w.trim_end_matches('.')).find(|w| w.parse::<DriverVersion>().is_ok()).map(String::from)
    };
    let mut lines = text.lines().map(str::trim).peekable();
    while let Some(line) = lines.next() {
        let line = line.trim_start_matches("-> ").trim();
        if line.contains("Installation has failed") {
            outcome = "failed";
        } else if (line.contains("Installation of") && line.contains("is now complete"))
            || (line.contains("Uninstallation of") && line.contains("is complete"))
        {
            outcome = "success";
            version = find(line).or(version);
        } else if line.starts_with("Installing NVIDIA driver version") || line.starts_with("Installing 'NVIDIA Accelerated Graphics Driver")
        {
            version = find(line).or(version);
        }
        if let Some(error) = line.strip_prefix("ERROR:") {
            // The sentence goes on in indented lines; the first continuation is enough to know it by.
            let more =
                lines.peek().filter(|l| !l.is_empty() && !l.starts_with("ERROR") && !l.starts_with("->")).copied().unwrap_or_default();
            errors.push(format!("{} {more}", error.trim()).trim().to_string());
        }
    }
    let from = errors.len().saturating_sub(3);
    InstallerLog { outcome: outcome.into(), version, errors: errors.split_off(from) }
}

fn dkms() -> Command {
    Command::new("dkms", ["--version"])
}

impl Fact for DriverFact {
    const NAME: &'static str = "driver";
    const ABOUT: &'static str = "NVIDIA driver: version, GPUs it drives, what its installer said";
    fn probes(_: &Subject, seen: &Evidence) -> Vec<Probe> {
        let mut probes = PciGpus::ask(seen);
        probes.extend([Probe::Run(nvidia_smi::query()), Probe::Run(dkms()), Probe::Tail(LOG.into())]);
        probes
    }
    fn parse(_: &Subject, seen: &Evidence) -> Result<Self, Unreadable> {
        let report = nvidia_smi::report(seen);
        Ok(Self {
            version: report.as_ref().ok().and_then(|r| r.driver_version.clone()),
            gpus: report.as_ref().map(|r| r.gpus.iter().map(|g| g.name.clone().unwrap_or_default()).collect()).unwrap_or_default(),
            vgpu: report.as_ref().is_ok_and(|r| r.gpus.iter().any(|g| g.virtualization_mode.as_deref() == Some("VGPU"))),
            smi_failure: report.err().map(|e| e.message),
            installer: seen.text(&Probe::Tail(LOG.into()))?.map(installer_log),
            dkms: seen.output(&dkms()).is_ok_and(|o| o.ok()),
            gpu_on_bus: PciGpus::seen(seen)?.map(|gpus| !gpus.is_empty()),
        })
    }
}

impl Requirement for Driver {
    const NAME: &'static str = "driver";
    const ABOUT: &'static str = "NVIDIA driver of the guest, from your .run file";
    const AFTER: &'static [&'static str] = &["build-tools", "nouveau", "display-manager", "gpu-on-bus"];
    const NEEDS: Needs = Needs::Nothing;
    const TAKES_EFFECT: TakesEffect = TakesEffect::AtOnce;
    const SETTLE_SECS: u32 = 60;
    const IMPLIED_BY: &'static [Implied] = &[];
    const EXAMPLE: &'static str = r#"{"package": "files/NVIDIA-Linux-x86_64-535.183.01-grid.run"}"#;
    type Spec = DriverSpec;
    type Fact = DriverFact;

    fn check(spec: &DriverSpec, fact: &DriverFact) -> Verdict {
        let Some(wanted) = spec.package.version() else {
            return Verdict::blocked(
                format!("the driver version of {} is not known", spec.package.file_name()),
                "keep NVIDIA's own file name: NVIDIA-Linux-x86_64-535.183.01-grid.run",
            );
        };
        let of_wanted = fact.installer.as_ref().filter(|log| log.version.as_deref() == Some(wanted));
        let failed = of_wanted.is_some_and(|log| log.outcome == "failed");
        let is = match (&fact.version, &fact.smi_failure) {
            (Some(version), _) if version == wanted && failed => format!("{version} runs, but its installer says it failed"),
            (Some(version), _) if version == wanted && fact.gpus.is_empty() => format!("{version} runs, but drives no GPU"),
            (Some(version), _) if version == wanted => return Verdict::met(format!("{version}, {}", fact.gpus.join(" + "))),
            (Some(version), _) => version.clone(),
            (None, Some(why)) if of_wanted.is_some() => format!("installed, but {why}"),
            (None, _) => "absent".into(),
        };
        let mut args = vec!["--silent", "--accept-license"];
        if fact.dkms {
            args.push("--dkms");
        }
        let install = Command::new(spec.package.stored(None), args).within(INSTALL_SECS);
        let mut effects = vec![];
        if fact.version.is_some() {
            // Another version runs: what holds its device is stopped, then its modules go, in NVIDIA's order (facts: nvidia 6).
            for unit in ["nvidia-gridd", "nvidia-persistenced"] {
                let stop = Command::new("systemctl", ["stop", unit]);
                effects.push(Effect::Run { command: stop, already: Some("not loaded".into()) });
            }
            let modules = ["-r", "nvidia-uvm", "nvidia-drm", "nvidia-modeset", "nvidia"];
            effects.push(Effect::run(Command::new("modprobe", modules)));
        }
        effects.push(Effect::run(install));
        if fact.gpu_on_bus == Some(false) {
            return Verdict::waits_for("there is no NVIDIA GPU on the PCI bus of this VM", wanted, effects);
        }
        Verdict::unmet(is, wanted, effects)
    }

    fn as_spec(fact: &DriverFact) -> Option<DriverSpec> {
        let version = fact.version.clone().filter(|_| !fact.gpus.is_empty())?;
        let held = Held { name: "NVIDIA-Linux-x86_64".into(), version: version.clone(), acceptance: None };
        // A vGPU is only driven by the `-grid` one.
        let grid = if fact.vgpu { "-grid" } else { "" };
        let package = Artifact {
            artifact: format!("NVIDIA-Linux-x86_64-{version}{grid}.run"),
            sha256: None,
            size: None,
            kind: None,
            holds: vec![held],
        };
        Some(DriverSpec { package })
    }

    fn files(spec: &DriverSpec) -> Vec<Placed> {
        vec![Placed { artifact: spec.package.clone(), datastore: None }]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> DriverSpec {
        let held = Held { name: "NVIDIA-Linux-x86_64".into(), version: "535.183.01".into(), acceptance: None };
        DriverSpec {
            package: Artifact {
                artifact: "f/NVIDIA-Linux-x86_64-535.183.01-grid.run".into(),
                sha256: Some("cd".repeat(32)),
                size: Some(1),
                kind: None,
                holds: vec![held],
            },
        }
    }

    fn fact(version: Option<&str>, log: &str) -> DriverFact {
        let gpus = version.map(|_| "GRID P100-8Q".to_string()).into_iter().collect();
        DriverFact {
            version: version.map(Into::into),
            gpus,
            vgpu: true,
            smi_failure: version.is_none().then(|| "no such program".into()),
            installer: Some(installer_log(log)),
            dkms: true,
            gpu_on_bus: Some(true),
        }
    }

    const GOOD: &str = "Installing NVIDIA driver version 535.183.01.\n-> Installation of the NVIDIA Accelerated Graphics Driver for Linux-x86_64 (version: 535.183.01) is now complete.\n";

    #[test]
    fn log_and_nvidia_smi_must_agree() {
        assert!(Driver::check(&spec(), &fact(Some("535.183.01"), GOOD)).is_met());
        let bad = "Installing NVIDIA driver version 535.183.01.\nERROR: Unable to load the kernel module 'nvidia.ko'.\nERROR: Installation has failed.  Please see the file\n";
        assert!(!Driver::check(&spec(), &fact(Some("535.183.01"), bad)).is_met());
        match Driver::check(&spec(), &fact(None, "")) {
            Verdict::Unmet { effects, is, .. } => {
                assert_eq!(is, "absent");
                assert_eq!(
                    effects[0].to_string(),
                    "/var/lib/vsgpu/artifacts/cdcdcdcdcdcdcdcd/NVIDIA-Linux-x86_64-535.183.01-grid.run --silent --accept-license --dkms"
                );
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_vm_without_a_gpu_is_told_so() {
        let mut bare = fact(None, "");
        bare.gpu_on_bus = Some(false);
        assert!(matches!(Driver::check(&spec(), &bare), Verdict::Waits { .. }));
    }
}
