//! NVIDIA's vGPU manager (the host driver): installed from the operator's file, then proven by the package
//! list, the loaded module, nvidia-smi and the virtualization mode together. esxcli's "Reboot Required:
//! false" is not believed (facts: esxi F2): the module is loaded by a reboot.

use crate::facts::host_image::is_daemon;
use crate::facts::packages::{PackageWish, Packages, Vib};
use crate::facts::pci_gpus::PciGpus;
use crate::facts::vcenter::Vcenter;
use crate::host::graphics_type::HostGraphics;
use crate::host::image;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use vsgpu_core::artifact::Artifact;
use vsgpu_core::readers::nvidia_smi;
use vsgpu_core::requirement::{Cost, Implied, Needs, TakesEffect};
use vsgpu_core::units::DriverVersion;
use vsgpu_core::words::first;
use vsgpu_core::{Command, Fact, Observation, Probe, Requirement, Subject, Unreadable, Verdict};

/// The vGPU manager of a host.
pub struct VgpuManager;

/// What is installed, loaded and working.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct VgpuManagerFact {
    /// NVIDIA's packages.
    #[serde(flatten)]
    pub packages: Packages,
    /// Whether VMkernel has the module `nvidia` loaded.
    pub module_loaded: bool,
    /// Version of the running driver.
    pub driver_version: Option<String>,
    /// GPUs it holds with their virtualization mode.
    pub modes: Vec<(String, Option<String>)>,
    /// Why nvidia-smi has no answer.
    pub smi_failure: Option<String>,
    /// Every GPU of the host is given away whole: none is left for the manager.
    #[serde(default)]
    pub all_given: bool,
    /// GPUs that the host's graphics system holds, where vCenter answers for the host: it does not tell what the
    /// driver says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_by_graphics: Option<usize>,
    /// Versions of the drivers that hold the GPUs, where vCenter says them (9.1).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drivers_by_vcenter: Vec<String>,
}

fn by_vcenter(fact: &VgpuManagerFact) -> impl Iterator<Item = &String> {
    fact.drivers_by_vcenter.iter()
}

/// Whether a version that vCenter says is another than the wanted one. How it writes them is not known for sure: what does not
/// look like a version of NVIDIA's says nothing.
fn is_other_driver(running: &str, wanted: &str) -> bool {
    let of_nvidia = |text: &str| text.split('.').next()?.parse::<u32>().ok().filter(|major| *major >= 300);
    of_nvidia(running).is_some()
        && DriverVersion::leading(running)
            .zip(DriverVersion::leading(wanted))
            .is_some_and(|(running, wanted)| running != wanted)
}

fn modules() -> Command {
    Command::new("vmkload_mod", ["-l"])
}

/// Whether a name is a vGPU manager, among NVIDIA's packages: `NVIDIA-VMware_ESXi_8.0_Driver`, `NVD-AIE-800`,
/// ...
fn is_manager(name: &str) -> bool {
    !is_daemon(name)
}

impl Fact for VgpuManagerFact {
    const NAME: &'static str = "vgpu-manager";
    const ABOUT: &'static str = "NVIDIA vGPU manager: installed, staged, loaded, working";
    fn probes(on: &Subject, seen: &Observation) -> Vec<Probe> {
        let mut probes = Packages::probes(seen);
        probes.extend([Probe::Run(modules()), Probe::Run(nvidia_smi::query())]);
        probes.extend(PciGpus::ask(seen));
        if nvidia_smi::is_by_api(seen) {
            probes.extend(HostGraphics::probes(on, seen));
        }
        probes
    }
    fn parse(on: &Subject, seen: &Observation) -> Result<Self, Unreadable> {
        let loaded = modules_loaded(seen.stdout(&modules())?).iter().any(|(name, ..)| name == "nvidia");
        let report = nvidia_smi::report(seen);
        Ok(Self {
            packages: Packages::parse(seen)?,
            module_loaded: loaded,
            driver_version: report.as_ref().ok().and_then(|r| r.driver_version.clone()),
            modes: report
                .as_ref()
                .map(|r| r.gpus.iter().map(|g| (g.bus_id.clone(), g.virtualization_mode.clone())).collect())
                .unwrap_or_default(),
            smi_failure: report.err().map(|e| e.message),
            all_given: PciGpus::all_given(seen),
            held_by_graphics: nvidia_smi::is_by_api(seen)
                .then(|| HostGraphics::parse(on, seen).map_or(0, |graphics| graphics.held())),
            drivers_by_vcenter: Vcenter::parse(on, seen)?
                .host
                .into_iter()
                .flat_map(|host| host.devices)
                .filter_map(|device| device.driver_version)
                .collect(),
        })
    }
    fn sentence(&self) -> Option<String> {
        let managers = self.packages.installed.iter().filter(|vib| is_manager(&vib.name));
        let installed = first(managers.map(|vib| vib.version.clone()), 4, "not installed");
        let loaded = if self.module_loaded { "module loaded" } else { "module not loaded" };
        Some(format!("{installed}, {loaded}"))
    }
}

/// Reads `vmkload_mod -l`: name, use count, size in KiB.
pub fn modules_loaded(text: &str) -> Vec<(String, u64, u64)> {
    let row = |line: &str| {
        let mut words = line.split_whitespace();
        Some((words.next()?.to_string(), words.next()?.parse().ok()?, words.next()?.parse().ok()?))
    };
    text.lines().filter_map(row).collect()
}

/// What is wrong with a driver that should run, if anything.
fn not_working(fact: &VgpuManagerFact, version: &str) -> Option<String> {
    if !fact.module_loaded {
        return Some("module not loaded".into());
    }
    if let Some(other) = by_vcenter(fact).find(|running| is_other_driver(running, version)) {
        return Some(format!("driver {other} is running"));
    }
    if let Some(held) = fact.held_by_graphics {
        return (held == 0).then(|| "the host's graphics system holds no GPU".into());
    }
    if let Some(why) = &fact.smi_failure {
        return Some(format!("nvidia-smi: {why}"));
    }
    let running = fact.driver_version.as_deref().and_then(DriverVersion::leading);
    if DriverVersion::leading(version).is_some_and(|wanted| running != Some(wanted)) {
        return Some(format!(
            "driver {} is running",
            fact.driver_version.as_deref().unwrap_or("of unknown version")
        ));
    }
    if fact.modes.is_empty() {
        return Some("the driver holds no GPU".into());
    }
    // The default graphics type makes the difference between VGPU and VSGA; both mean that the manager rules
    // the GPU.
    let strange =
        fact.modes.iter().find(|(_, mode)| !matches!(mode.as_deref(), Some("Host VGPU" | "Host VSGA")));
    strange.map(|(gpu, mode)| {
        format!("virtualization mode of {gpu} is {}, not Host VGPU", mode.as_deref().unwrap_or("not known"))
    })
}

/// No manager installed and no module of it loaded.
fn absent(fact: &VgpuManagerFact) -> Verdict {
    match fact.packages.rival(is_manager) {
        Some(vib) if fact.packages.goes(is_manager) => {
            Verdict::pending(format!("{} goes with the next boot", vib.version), "absent")
        }
        Some(vib) => match fact.packages.keeps() {
            Some((why, hint)) => Verdict::blocked(why, hint),
            None => Verdict::unmet(&vib.version, "absent", fact.packages.removal(is_manager)),
        },
        None if fact.module_loaded => Verdict::pending("removed, but its module is still loaded", "absent"),
        None => Verdict::met("absent"),
    }
}

impl Requirement for VgpuManager {
    const NAME: &'static str = "vgpu-manager";
    const ABOUT: &'static str = "NVIDIA vGPU manager package of the host";
    const AFTER: &'static [&'static str] = &["acceptance-level"];
    const NEEDS: Needs = Needs::MaintenanceMode;
    const TAKES_EFFECT: TakesEffect = TakesEffect::AfterReboot;
    const SETTLE_SECS: u32 = 120;
    const IMPLIED_BY: &'static [Implied] = &[];
    const EXAMPLE: &'static str = r#"{"package": "files/NVD-VGPU-800_535.183.04-1OEM.800.1.0.20613240_23867204.zip", "datastore": "datastore1"}"#;
    type Spec = PackageWish;
    type Fact = VgpuManagerFact;

    fn check(wish: &PackageWish, fact: &VgpuManagerFact) -> Verdict {
        let spec = match wish {
            PackageWish::Map(spec) => spec,
            PackageWish::Word(_) => return absent(fact),
        };
        let Some(version) = spec.package.version() else {
            return Verdict::blocked(
                format!("the version of {} is not known", spec.package.file_name()),
                "use NVIDIA's own file with its own name",
            );
        };
        let wants = version.to_string();
        if fact.packages.has(&spec.package) && fact.all_given {
            return Verdict::met(format!("{version}, every GPU of the host is a passthrough device"));
        }
        if fact.packages.has(&spec.package) {
            return match not_working(fact, version) {
                None => Verdict::met(match (fact.held_by_graphics, fact.modes.first()) {
                    (Some(held), _) if by_vcenter(fact).next().is_some() => {
                        format!("{version}, {held} GPU(s), as vCenter says")
                    }
                    (Some(held), _) => format!("{version}, {held} GPU(s); the driver was not asked"),
                    (None, of_first) => format!(
                        "{version}, {} GPU(s) {}",
                        fact.modes.len(),
                        of_first.and_then(|(_, mode)| mode.as_deref()).unwrap_or_default()
                    ),
                }),
                Some(why) => Verdict::pending(format!("{version} installed, {why}"), wants),
            };
        }
        if fact.packages.has_staged(&spec.package) {
            return Verdict::pending(format!("{version} staged for the next boot"), wants);
        }
        let rival = fact.packages.rival(is_manager);
        let newer = rival.filter(|r| DriverVersion::leading(&r.version) > DriverVersion::leading(version));
        if let Some(newer) = newer.filter(|_| !spec.downgrade) {
            return Verdict::blocked(
                format!("{} {} is installed, which is newer than {version}", newer.name, newer.version),
                "name that version, or add `downgrade: true` to `vgpu-manager` if the older one is really wanted",
            );
        }
        let is = rival.map_or("absent".into(), |r| r.version.clone());
        if let Some(image) = fact.packages.image_for(spec) {
            return image::verdict(image, spec, &fact.packages.esx_version, is, &wants);
        }
        if let Some((why, hint)) = fact.packages.refuses(spec) {
            return Verdict::blocked(why, hint);
        }
        Verdict::unmet(is, wants, vec![fact.packages.install(spec)])
    }

    fn cost(wish: &PackageWish, fact: &VgpuManagerFact) -> Cost {
        image::cost_of(&Self::check(wish, fact))
    }

    fn as_spec(fact: &VgpuManagerFact) -> Option<PackageWish> {
        fact.packages.rival(is_manager).map(Vib::as_wish)
    }

    fn artifacts_mut(spec: &mut PackageWish) -> Vec<&mut Artifact> {
        crate::facts::packages::artifacts_mut(spec)
    }

    fn datastore(spec: &PackageWish) -> Option<String> {
        crate::facts::packages::datastore(spec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::packages::PackageSpec;
    use vsgpu_core::artifact::{Kind, PackageContent};

    fn spec(version: &str, kind: Kind) -> PackageSpec {
        let held = PackageContent {
            name: "NVIDIA-vGPU".into(),
            version: format!("{version}-1OEM.800.1.0.20613240"),
            acceptance: Some("accepted".into()),
        };
        let package = Artifact {
            artifact: "f/x.zip".into(),
            sha256: Some("ab".repeat(32)),
            size: Some(1),
            kind: Some(kind),
            holds: vec![held],
        };
        PackageSpec { package, datastore: "ds1".into(), downgrade: false, allow_drift: false }
    }

    fn check(spec: &PackageSpec, fact: &VgpuManagerFact) -> Verdict {
        VgpuManager::check(&PackageWish::Map(spec.clone()), fact)
    }

    fn fact(installed: Option<&str>, loaded: bool, esx: &str) -> VgpuManagerFact {
        let vib = |v: &str| Vib {
            name: "NVIDIA-vGPU".into(),
            version: format!("{v}-1OEM.800.1.0.20613240"),
            vendor: "NVIDIA".into(),
        };
        VgpuManagerFact {
            packages: Packages {
                installed: installed.map(vib).into_iter().collect(),
                staged: vec![],
                esx_version: esx.into(),
                components: vec![],
                acceptance: Some("PartnerSupported".into()),
                image_staged: false,
                image_profile: None,
                by_api: None,
            },
            module_loaded: loaded,
            driver_version: installed.filter(|_| loaded).map(String::from),
            modes: if loaded { vec![("0000:3b:00.0".into(), Some("Host VGPU".into()))] } else { vec![] },
            smi_failure: None,
            all_given: false,
            held_by_graphics: None,
            drivers_by_vcenter: vec![],
        }
    }

    fn commands(verdict: &Verdict) -> Vec<String> {
        match verdict {
            Verdict::Unmet { effects, .. } => effects.iter().map(ToString::to_string).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_bare_host_gets_the_package_by_absolute_path() {
        let path = "/vmfs/volumes/ds1/vsgpu/abababababababab/x.zip";
        for (kind, esx, command) in [
            (Kind::Component, "8.0.2", format!("esxcli software component apply -d {path}")),
            (Kind::Component, "6.7.0", format!("esxcli software vib install -d {path}")),
            (Kind::OfflineBundle, "7.0.3", format!("esxcli software vib install -d {path}")),
            (Kind::Vib, "8.0.2", format!("esxcli software vib install -v {path}")),
        ] {
            assert_eq!(commands(&check(&spec("535.183.04", kind), &fact(None, false, esx))), [command]);
        }
    }

    #[test]
    fn installed_is_not_active() {
        let wish = spec("535.183.04", Kind::Component);
        assert!(
            commands(&check(&wish, &fact(Some("535.183.04"), false, "8.0.2"))).is_empty(),
            "waits for the reboot"
        );
        assert!(check(&wish, &fact(Some("535.183.04"), true, "8.0.2")).is_met());
        let mut no_vgpu = fact(Some("535.183.04"), true, "8.0.2");
        no_vgpu.modes[0].1 = Some("None".into());
        assert!(!check(&wish, &no_vgpu).is_met());
    }

    #[test]
    fn the_driver_that_vcenter_says_counts_where_it_is_one_of_nvidias() {
        let wish = spec("535.183.04", Kind::Component);
        let mut by_api = fact(Some("535.183.04"), true, "9.1.0");
        (by_api.held_by_graphics, by_api.smi_failure) = (Some(1), Some("not through vCenter".into()));
        for (said, met) in [
            ("535.183.04", true),
            ("535.183.04-1OEM", true),
            ("550.90.05", false),
            ("1.0.5", true),
            ("", true),
        ] {
            by_api.drivers_by_vcenter = vec![said.into()];
            assert_eq!(check(&wish, &by_api).is_met(), met, "{said}");
        }
    }

    #[test]
    fn what_the_host_must_not_take_is_refused() {
        let mut wish = spec("535.183.04", Kind::Component);
        let mut bare = fact(None, false, "8.0.2");
        bare.packages.image_profile = Some("(Updated) VMware Lifecycle Manager Generated Image".into());
        assert!(
            matches!(check(&wish, &bare), Verdict::Blocked { hint, .. } if hint.contains("image of the cluster"))
        );
        wish.allow_drift = true;
        assert_eq!(commands(&check(&wish, &bare)).len(), 1);
        wish.package.holds[0].acceptance = Some("community".into());
        assert!(
            matches!(check(&wish, &bare), Verdict::Blocked { hint, .. } if hint.contains("acceptance-level: CommunitySupported"))
        );
    }

    #[test]
    fn it_is_removed_on_request_the_way_it_came() {
        let absent = PackageWish::Word(crate::facts::packages::Absent::Absent);
        let mut has = fact(Some("535.183.04"), true, "8.0.2");
        assert_eq!(
            commands(&VgpuManager::check(&absent, &has)),
            ["esxcli software vib remove -n NVIDIA-vGPU"]
        );
        has.packages.components =
            vec![Vib { name: "NVD-AIE-800".into(), version: "535.183.04".into(), vendor: "NVIDIA".into() }];
        assert_eq!(
            commands(&VgpuManager::check(&absent, &has)),
            ["esxcli software component remove -n NVD-AIE-800"]
        );
        assert!(VgpuManager::check(&absent, &fact(None, false, "8.0.2")).is_met());
    }

    #[test]
    fn a_downgrade_is_only_done_on_request() {
        let mut wish = spec("535.183.04", Kind::Component);
        let newer = fact(Some("550.90.05"), true, "8.0.2");
        assert!(matches!(check(&wish, &newer), Verdict::Blocked { .. }));
        wish.downgrade = true;
        assert_eq!(commands(&check(&wish, &newer)).len(), 1);
    }
}
