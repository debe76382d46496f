//! Whether time-sliced vGPUs of one GPU have one size or several: ESXi 8.0.3 with vGPU 17 and later. No
//! release that was seen prints the configured mode, so a note in the ramdisk stands for it until the next
//! boot; what is active is what nvidia-smi calls the heterogeneous mode.

use crate::esxcli;
use crate::facts::esx_version::EsxVersion;
use crate::facts::pci_gpus::PciGpus;
use crate::host::graphics_type::{GRAPHICS, PER_DEVICE};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use vsgpu_core::gpu_selector::{Candidate, PerGpu};
use vsgpu_core::readers::esxcli::Record;
use vsgpu_core::readers::nvidia_smi;
use vsgpu_core::requirement::{Implied, Needs, Restart, TakesEffect};
use vsgpu_core::units::DriverVersion;
use vsgpu_core::words::first;
use vsgpu_core::{Command, Effect, Fact, Observation, Probe, Requirement, Subject, Unreadable, Verdict};

const NOTES: &str = "/var/run/vsgpu/vgpu-mode";
const LIST: [&str; 3] = ["graphics", "device", "list"];
const CONFIGURED: [&str; 4] = ["graphics", "device", "list", "--configured-type"];
/// R550 is vGPU 17, the first with mixed sizes (facts: nvidia 2).
const FIRST_BRANCH: u32 = 550;

/// vGPU mode of a host.
pub struct VgpuMode;

/// esxcli's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Mode {
    /// Every time-sliced vGPU of a GPU has the size of the first one.
    SameSize,
    /// Sizes may differ; fewer fit.
    MixedSize,
}

impl Mode {
    fn word(self) -> &'static str {
        match self {
            Self::SameSize => "SameSize",
            Self::MixedSize => "MixedSize",
        }
    }

    fn of_word(word: &str) -> Option<Self> {
        let plain: String = word.chars().filter(char::is_ascii_alphabetic).collect::<String>().to_lowercase();
        match plain.as_str() {
            "samesize" => Some(Self::SameSize),
            "mixedsize" => Some(Self::MixedSize),
            _ => None,
        }
    }
}

/// Modes, configured and active.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct VgpuModeFact {
    /// GPUs that the driver holds.
    pub gpus: Vec<GpuMode>,
    /// Release of ESXi.
    pub esx_version: String,
    /// Running driver.
    pub driver_version: Option<String>,
    /// Why nvidia-smi has no answer.
    pub smi_failure: Option<String>,
    /// Every GPU of the host is given away whole: the driver holds none.
    #[serde(default)]
    pub all_given: bool,
}

/// One GPU.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct GpuMode {
    /// PCI address.
    pub bus_id: String,
    /// Product name.
    pub name: Option<String>,
    /// Active mode; absent where the driver does not say.
    pub active: Option<Mode>,
    /// Configured in this boot.
    pub configured: Option<Mode>,
}

impl GpuMode {
    fn candidate(&self) -> Candidate<'_> {
        Candidate { address: &self.bus_id, device_id: None, subsystem_id: None, name: self.name.as_deref() }
    }
}

fn note(bus_id: &str) -> String {
    format!("{NOTES}-{bus_id}")
}

impl Fact for VgpuModeFact {
    const NAME: &'static str = "vgpu-mode";
    const ABOUT: &'static str = "Same-size or mixed-size mode of each GPU, active and configured";
    fn probes(_: &Subject, seen: &Observation) -> Vec<Probe> {
        let mut probes = vec![Probe::Run(nvidia_smi::query())];
        probes.extend(PciGpus::ask(seen));
        probes.extend([esxcli::probes(&LIST, seen), EsxVersion::ask(seen)].concat());
        if let Ok(report) = nvidia_smi::report(seen) {
            probes.extend(report.gpus.iter().map(|g| Probe::Read(note(&g.bus_id))));
        }
        if nvidia_smi::is_by_api(seen) {
            probes.extend(esxcli::probes(&CONFIGURED, seen));
        }
        probes
    }
    fn parse(_: &Subject, seen: &Observation) -> Result<Self, Unreadable> {
        let esx_version = EsxVersion::parse(&Subject::node(), seen)?.version;
        let all_given = PciGpus::all_given(seen);
        let printed = esxcli::answer(&LIST, seen).unwrap_or_default();
        let report = match nvidia_smi::report(seen) {
            Ok(report) => report,
            // vCenter tells the modes itself, where the release has them.
            Err(_) if nvidia_smi::is_by_api(seen) => {
                let configured = esxcli::answer(&CONFIGURED, seen).unwrap_or_default();
                let mode = |records: &[Record], at: &str, name: &str| {
                    let record = records.iter().find(|r| r.get("Address") == Some(at))?;
                    Mode::of_word(record.get(name)?)
                };
                let gpu = |record: &Record| {
                    let at = record.get("Address")?;
                    Some(GpuMode {
                        bus_id: at.into(),
                        name: record.get("Device Name").map(String::from),
                        active: mode(&printed, at, "vGPU Mode"),
                        configured: mode(&configured, at, "Configured vGPU Mode"),
                    })
                };
                // Those that the driver holds, whatever their type is so far.
                let holds = |record: &&Record| {
                    matches!(record.get("Graphics Type"), Some("Shared" | "SharedPassthru"))
                };
                let gpus: Vec<GpuMode> = printed.iter().filter(holds).filter_map(gpu).collect();
                let none = gpus.is_empty() && !all_given;
                return Ok(Self {
                    gpus,
                    esx_version,
                    driver_version: None,
                    smi_failure: none.then(|| "the host's graphics system holds no GPU yet".into()),
                    all_given,
                });
            }
            Err(why) => {
                return Ok(Self {
                    gpus: vec![],
                    esx_version,
                    driver_version: None,
                    smi_failure: Some(why.message),
                    all_given,
                });
            }
        };
        // Should a release print a mode, it is believed before any note.
        let of_list = |bus_id: &str| {
            let record = printed
                .iter()
                .find(|r| [r.title.as_str(), r.get("Address").unwrap_or_default()].contains(&bus_id))?;
            ["vGPU Mode", "Configured vGPU Mode"].iter().find_map(|name| Mode::of_word(record.get(name)?))
        };
        let gpu = |g: &nvidia_smi::Gpu| GpuMode {
            bus_id: g.bus_id.clone(),
            name: g.name.clone(),
            active: g.heterogeneous.map(|on| if on { Mode::MixedSize } else { Mode::SameSize }),
            configured: of_list(&g.bus_id)
                .or_else(|| Mode::of_word(seen.file(&note(&g.bus_id)).ok().flatten()?.trim())),
        };
        Ok(Self {
            gpus: report.gpus.iter().map(gpu).collect(),
            esx_version,
            driver_version: report.driver_version,
            smi_failure: None,
            all_given,
        })
    }
    fn sentence(&self) -> Option<String> {
        let word =
            |mode: Option<Mode>| mode.map_or_else(|| "not known".into(), |mode| mode.word().to_string());
        let one = |gpu: &GpuMode| match gpu.configured {
            wish if wish == gpu.active || wish.is_none() => format!("{} {}", gpu.bus_id, word(gpu.active)),
            wish => format!("{} {}, set to {}", gpu.bus_id, word(gpu.active), word(wish)),
        };
        let asked = || first(self.gpus.iter().map(one), 8, "no GPU to ask");
        Some(self.smi_failure.clone().unwrap_or_else(asked))
    }
}

impl Requirement for VgpuMode {
    const NAME: &'static str = "vgpu-mode";
    const ABOUT: &'static str =
        "Sizes of time-sliced vGPUs on a GPU: SameSize or MixedSize (ESXi 8.0.3, vGPU 17)";
    const AFTER: &'static [&'static str] = &["vgpu-manager", "passthrough", "graphics-type"];
    const NEEDS: Needs = Needs::VmsOff;
    const TAKES_EFFECT: TakesEffect = TakesEffect::AfterRestart(GRAPHICS.name);
    const RESTARTS: &'static [Restart] = &[GRAPHICS];
    const SETTLE_SECS: u32 = 30;
    const IMPLIED_BY: &'static [Implied] = &[];
    const EXAMPLE: &'static str = r#"{"A100": "MixedSize", "others": "SameSize"}"#;
    type Spec = PerGpu<Mode>;
    type Fact = VgpuModeFact;

    fn check(spec: &PerGpu<Mode>, fact: &VgpuModeFact) -> Verdict {
        let mixed = spec.values().contains(&Mode::MixedSize);
        if mixed && !EsxVersion::at_least(&fact.esx_version, PER_DEVICE) {
            return Verdict::blocked(
                format!("mixed sizes need ESXi {PER_DEVICE} or later, this is {}", fact.esx_version),
                "set `SameSize`, or upgrade the host",
            );
        }
        if fact.all_given {
            return Verdict::met("every GPU of the host is a passthrough device");
        }
        if let Some(why) = &fact.smi_failure {
            return Verdict::waits(why, spec.shown(|mode| mode.word().to_string()));
        }
        let candidates: Vec<Candidate<'_>> = fact.gpus.iter().map(GpuMode::candidate).collect();
        if let Some(stranger) = spec.strangers(&candidates).first() {
            return Verdict::blocked(
                format!("the driver holds no GPU `{stranger}`"),
                "correct `vgpu-mode`; `vsgpu facts` lists the GPUs",
            );
        }
        let version = fact.driver_version.as_deref().and_then(DriverVersion::leading);
        if let Some(version) = version.filter(|v| mixed && v.branch() < FIRST_BRANCH) {
            return Verdict::blocked(
                format!("mixed sizes need vGPU 17 (R{FIRST_BRANCH}) or later, the host runs {version}"),
                "set `SameSize`, or install a newer vGPU manager",
            );
        }
        // A driver that says nothing of modes knows only one size.
        let active = |gpu: &GpuMode| gpu.active.unwrap_or(Mode::SameSize);
        let wished: Vec<(&GpuMode, Mode)> =
            fact.gpus.iter().filter_map(|g| Some((g, spec.of(&g.candidate())?))).collect();
        let wrong: Vec<_> = wished
            .iter()
            .filter(|(gpu, mode)| gpu.configured.unwrap_or_else(|| active(gpu)) != *mode)
            .collect();
        if !wrong.is_empty() {
            let said = |of: &dyn Fn(&GpuMode, Mode) -> Mode| {
                wrong
                    .iter()
                    .map(|(gpu, mode)| format!("{} {}", gpu.bus_id, of(gpu, *mode).word()))
                    .collect::<Vec<_>>()
                    .join(", ")
            };
            let effects = wrong.iter().flat_map(|(gpu, mode)| {
                let set = Command::new(
                    "esxcli",
                    ["graphics", "device", "set", "-d", &gpu.bus_id, "-m", mode.word()],
                );
                [
                    Effect::run(set),
                    Effect::Write {
                        path: note(&gpu.bus_id),
                        contents: format!("{}\n", mode.word()),
                        mode: 0o600,
                    },
                ]
            });
            return Verdict::unmet(said(&|gpu, _| active(gpu)), said(&|_, mode| mode), effects.collect());
        }
        match wished.iter().find(|(gpu, mode)| active(gpu) != *mode) {
            Some((gpu, mode)) => Verdict::pending(
                format!("{} configured, {} still {}", mode.word(), gpu.bus_id, active(gpu).word()),
                mode.word(),
            ),
            None => {
                let words: std::collections::BTreeSet<&str> =
                    wished.iter().map(|(_, mode)| mode.word()).collect();
                Verdict::met(words.into_iter().collect::<Vec<_>>().join(" / "))
            }
        }
    }

    fn gpus_named(spec: &PerGpu<Mode>) -> Vec<String> {
        spec.named()
    }

    fn as_spec(fact: &VgpuModeFact) -> Option<PerGpu<Mode>> {
        PerGpu::from_facts(fact.gpus.iter().filter_map(|g| Some((g.bus_id.clone(), g.active?))).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fact(esx: &str, driver: &str, active: Mode, configured: Option<Mode>) -> VgpuModeFact {
        let gpu = GpuMode { bus_id: "0000:3b:00.0".into(), name: None, active: Some(active), configured };
        VgpuModeFact {
            gpus: vec![gpu],
            esx_version: esx.into(),
            driver_version: Some(driver.into()),
            smi_failure: None,
            all_given: false,
        }
    }

    #[test]
    fn set_then_noted_then_active() {
        let wish = PerGpu::One(Mode::MixedSize);
        match VgpuMode::check(&wish, &fact("8.0.3", "550.90.05", Mode::SameSize, None)) {
            Verdict::Unmet { effects, .. } => {
                assert_eq!(effects[0].to_string(), "esxcli graphics device set -d 0000:3b:00.0 -m MixedSize");
                assert_eq!(effects.len(), 2);
            }
            other => panic!("{other:?}"),
        }
        let noted = fact("8.0.3", "550.90.05", Mode::SameSize, Some(Mode::MixedSize));
        assert!(
            matches!(VgpuMode::check(&wish, &noted), Verdict::Unmet { effects, .. } if effects.is_empty())
        );
        assert!(VgpuMode::check(&wish, &fact("8.0.3", "550.90.05", Mode::MixedSize, None)).is_met());
    }

    #[test]
    fn old_releases_are_refused() {
        let wish = PerGpu::One(Mode::MixedSize);
        assert!(matches!(
            VgpuMode::check(&wish, &fact("8.0.2", "550.90.05", Mode::SameSize, None)),
            Verdict::Blocked { .. }
        ));
        assert!(matches!(
            VgpuMode::check(&wish, &fact("8.0.3", "535.183.04", Mode::SameSize, None)),
            Verdict::Blocked { .. }
        ));
        assert!(
            VgpuMode::check(&PerGpu::One(Mode::SameSize), &fact("7.0.3", "535.183.04", Mode::SameSize, None))
                .is_met()
        );
    }
}
