//! NVIDIA's GPU management daemon, which comes beside the vGPU manager from vGPU 15 on (facts: nvidia 1).

use crate::facts::host_image::is_daemon;
use crate::facts::packages::{PackageWish, Packages, Vib};
use crate::host::image;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use vsgpu_core::artifact::Artifact;
use vsgpu_core::requirement::{Cost, Implied, Needs, TakesEffect};
use vsgpu_core::{Command, Effect, Fact, Observation, Probe, Requirement, Subject, Unreadable, Verdict};

/// The daemon of a host.
pub struct GpuManagementDaemon;

/// NVIDIA's packages, as the daemon's requirement sees them.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct GpuManagementDaemonFact(pub Packages);

impl Fact for GpuManagementDaemonFact {
    const NAME: &'static str = "gpu-management-daemon";
    const ABOUT: &'static str = "NVIDIA GPU management daemon: installed, staged";
    fn probes(_: &Subject, seen: &Observation) -> Vec<Probe> {
        Packages::probes(seen)
    }
    fn parse(_: &Subject, seen: &Observation) -> Result<Self, Unreadable> {
        Packages::parse(seen).map(Self)
    }
    fn sentence(&self) -> Option<String> {
        let daemons = self.0.installed.iter().filter(|vib| is_daemon(&vib.name));
        Some(vsgpu_core::words::first(daemons.map(|vib| vib.version.clone()), 4, "not installed"))
    }
}

impl Requirement for GpuManagementDaemon {
    const NAME: &'static str = "gpu-management-daemon";
    const ABOUT: &'static str = "NVIDIA GPU management daemon package of the host";
    const AFTER: &'static [&'static str] = &["acceptance-level"];
    const NEEDS: Needs = Needs::MaintenanceMode;
    const TAKES_EFFECT: TakesEffect = TakesEffect::AfterReboot;
    const SETTLE_SECS: u32 = 0;
    const IMPLIED_BY: &'static [Implied] = &[];
    const EXAMPLE: &'static str = r#"{"package": "files/nvd-gpu-mgmt-daemon_535.183.04-1OEM.700.1.0.15843807_23867204.zip", "datastore": "datastore1"}"#;
    type Spec = PackageWish;
    type Fact = GpuManagementDaemonFact;

    fn check(wish: &PackageWish, GpuManagementDaemonFact(packages): &GpuManagementDaemonFact) -> Verdict {
        let installed = packages.rival(is_daemon);
        // A running daemon makes its own update fail (facts: failures F9).
        let stopped = |effects: Vec<Effect>| match installed {
            Some(_) => {
                [vec![Effect::run(Command::new("/etc/init.d/nvdGpuMgmtDaemon", ["stop"]))], effects].concat()
            }
            None => effects,
        };
        let spec = match (wish, installed) {
            (PackageWish::Map(spec), _) => spec,
            (PackageWish::Word(_), Some(vib)) if packages.goes(is_daemon) => {
                return Verdict::pending(format!("{} goes with the next boot", vib.version), "absent");
            }
            (PackageWish::Word(_), Some(vib)) => {
                if let Some((why, hint)) = packages.keeps() {
                    return Verdict::blocked(why, hint);
                }
                return Verdict::unmet(&vib.version, "absent", stopped(packages.removal(is_daemon)));
            }
            (PackageWish::Word(_), None) => return Verdict::met("absent"),
        };
        let Some(version) = spec.package.version() else {
            return Verdict::blocked(
                format!("the version of {} is not known", spec.package.file_name()),
                "use NVIDIA's own file with its own name",
            );
        };
        if packages.has(&spec.package) {
            return Verdict::met(version);
        }
        if packages.has_staged(&spec.package) {
            return Verdict::pending(format!("{version} staged for the next boot"), version);
        }
        let is = installed.map_or("absent".into(), |v| v.version.clone());
        if let Some(image) = packages.image_for(spec) {
            return image::verdict(image, spec, &packages.esx_version, is, version);
        }
        if let Some((why, hint)) = packages.refuses(spec) {
            return Verdict::blocked(why, hint);
        }
        Verdict::unmet(is, version, stopped(vec![packages.install(spec)]))
    }

    fn cost(wish: &PackageWish, fact: &GpuManagementDaemonFact) -> Cost {
        image::cost_of(&Self::check(wish, fact))
    }

    fn as_spec(GpuManagementDaemonFact(packages): &GpuManagementDaemonFact) -> Option<PackageWish> {
        packages.rival(is_daemon).map(Vib::as_wish)
    }

    fn artifacts_mut(spec: &mut PackageWish) -> Vec<&mut Artifact> {
        crate::facts::packages::artifacts_mut(spec)
    }

    fn datastore(spec: &PackageWish) -> Option<String> {
        crate::facts::packages::datastore(spec)
    }
}
