//! The NVIDIA driver of a guest, from the operator's `.run`, `.deb` or `.rpm`; or none. Installed means: exit
//! status, installer log and nvidia-smi agree (facts: nvidia 6).
//!
//! Whatever would have to go first is named and only touched where the wish allows it: packages with another
//! driver (`remove-packages`), programs that hold the GPU (`stop-processes`).

mod explain;
mod fact;
mod install;
mod installer_log;
pub mod spec;

pub use fact::DriverFact;
pub use installer_log::{InstallerLog, installer_log};
pub use spec::{Absent, DriverSpec, KernelModule, PackageSpec, Signing};

use crate::guest::driver_package;
use vsgpu_core::artifact::{Artifact, Kind, PackageContent};
use vsgpu_core::requirement::{Deadline, Explained, Failure, Implied, Needs, TakesEffect};
use vsgpu_core::{Effect, Observation, Probe, Requirement, Subject, Verdict};

/// Driver of a guest.
pub struct Driver;

impl Requirement for Driver {
    const NAME: &'static str = "driver";
    const ABOUT: &'static str = "NVIDIA driver of the guest, from your .run, .deb or .rpm; or none";
    const AFTER: &'static [&'static str] =
        &["build-tools", "nouveau", "display-manager", "gpu-on-bus", "driver-package", "driver-held"];
    const NEEDS: Needs = Needs::Nothing;
    const TAKES_EFFECT: TakesEffect = TakesEffect::AtOnce;
    const SETTLE_SECS: u32 = 60;
    const IMPLIED_BY: &'static [Implied] = &[];
    const EXAMPLE: &'static str = r#"{"package": "files/NVIDIA-Linux-x86_64-535.183.01-grid.run"}"#;
    type Spec = DriverSpec;
    type Fact = DriverFact;

    fn check(spec: &DriverSpec, fact: &DriverFact) -> Verdict {
        let spec = match spec {
            DriverSpec::Map(spec) => spec,
            DriverSpec::Word(_) => return absent(fact),
        };
        let Some(wanted) = spec.package.version() else {
            return Verdict::blocked(
                format!("the driver version of {} is not known", spec.package.file_name()),
                "keep NVIDIA's own file name: NVIDIA-Linux-x86_64-535.183.01-grid.run",
            );
        };
        let of_wanted = fact.installer.as_ref().filter(|log| log.version.as_deref() == Some(wanted));
        // The log speaks of a `.run` only; one of an older `.run` says nothing about a package.
        let failed = driver_package::kind(&spec.package) == Kind::Run
            && of_wanted.is_some_and(|log| log.outcome == "failed");
        // One version comes in two kinds, and in two kernel modules: the same number is not enough.
        let other_kind = install::other_kind(spec, fact);
        if let (None, Some(why), Some(hint)) =
            (&fact.version, &fact.smi_failure, install::sick(wanted, spec, fact))
        {
            // Right after an installation it may only need its time; for good, nothing that could be done
            // here helps.
            return Verdict::waits(format!("{wanted} is installed and loaded, but {why}: {hint}"), wanted);
        }
        let is = match (&fact.version, &fact.smi_failure) {
            (Some(version), _) if version == wanted && other_kind.is_some() => {
                format!("{version} runs, but {}", other_kind.unwrap_or_default())
            }
            (Some(version), _) if version == wanted && failed => {
                format!("{version} runs, but its installer says it failed")
            }
            (Some(version), _) if version == wanted && fact.gpus.is_empty() => {
                format!("{version} runs, but drives no GPU")
            }
            (Some(version), _) if version == wanted => {
                return Verdict::met(format!("{version}, {}", fact.gpus.join(" + ")));
            }
            (Some(version), _) => version.clone(),
            (None, Some(why)) if of_wanted.is_some() => {
                format!("installed, but {why}{}", explain::module_of_kernel(fact))
            }
            (None, _) => "absent".into(),
        };
        let effects = match install::effects(spec, wanted, fact) {
            Ok(effects) => effects,
            Err(verdict) => return verdict,
        };
        if fact.gpu_on_bus == Some(false) {
            return Verdict::waits_for("there is no NVIDIA GPU on the PCI bus of this VM", wanted, effects);
        }
        if install::depends_on_options(spec, fact) {
            return Verdict::waits_for("what this installer can do is asked first", wanted, effects);
        }
        Verdict::unmet(is, wanted, effects)
    }

    fn as_spec(fact: &DriverFact) -> Option<DriverSpec> {
        let version = fact.version.clone().filter(|_| !fact.gpus.is_empty())?;
        let held =
            PackageContent { name: "NVIDIA-Linux-x86_64".into(), version: version.clone(), acceptance: None };
        // A vGPU is only driven by the `-grid` one.
        let grid = if fact.vgpu { "-grid" } else { "" };
        let package = Artifact {
            artifact: format!("NVIDIA-Linux-x86_64-{version}{grid}.run"),
            sha256: None,
            size: None,
            kind: None,
            holds: vec![held],
        };
        let spec = PackageSpec {
            package,
            kernel_module: KernelModule::Auto,
            signing: None,
            remove_packages: false,
            stop_processes: false,
        };
        Some(DriverSpec::Map(spec))
    }

    fn artifacts_mut(spec: &mut DriverSpec) -> Vec<&mut Artifact> {
        let DriverSpec::Map(spec) = spec else { return vec![] };
        let signing = spec.signing.iter_mut().flat_map(Signing::artifacts_mut);
        std::iter::once(&mut spec.package).chain(signing).collect()
    }

    fn deadline(_: &DriverSpec) -> Deadline {
        Deadline::DriverInstall
    }

    fn probes_after_failure(on: &Subject, seen: &Observation) -> Vec<Probe> {
        explain::probes(on, seen)
    }

    fn explain(failure: &Failure, _: &Subject, seen: &Observation) -> Option<Explained> {
        explain::explain(failure, seen)
    }
}

fn absent(fact: &DriverFact) -> Verdict {
    if fact.version.is_none() && fact.modules.is_empty() && fact.packages.is_empty() && !fact.from_run {
        return Verdict::met("absent");
    }
    let is = fact.version.clone().unwrap_or_else(|| "installed, not running".into());
    // To remove a driver is to allow that its packages go, but not that programs are ended.
    if let Some(blocked) = install::held(fact, false) {
        return blocked;
    }
    let mut effects = install::unload(fact, false);
    if fact.from_run {
        effects.push(install::uninstall());
    }
    match install::remove_packages(fact) {
        Ok(remove) => effects.extend(remove),
        Err(blocked) => return blocked,
    }
    Verdict::unmet(is, "absent", effects.into_iter().collect::<Vec<Effect>>())
}

#[cfg(test)]
mod tests;
