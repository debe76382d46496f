//! ECC of the host's GPUs. ECC on vGPU exists from release 9.0 on (facts: nvidia 2): before, it has to be off
//! on GPUs that have it. `auto` does just that and otherwise leaves ECC as it is. Current and pending are
//! kept apart.

use crate::facts::packages::PackageWish;
use crate::facts::pci_gpus::PciGpus;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use vsgpu_core::gpu_selector::{Candidate, PerGpu};
use vsgpu_core::readers::nvidia_smi;
use vsgpu_core::requirement::{Implied, Needs, TakesEffect};
use vsgpu_core::units::{DriverVersion, OnOff};
use vsgpu_core::words::first;
use vsgpu_core::{Command, Effect, Fact, Observation, Probe, Requirement, Subject, Unreadable, Verdict};

/// First driver branch of vGPU 9.0 (facts: nvidia 1: 9 = R430).
const FIRST_BRANCH_WITH_ECC: u32 = 430;

/// ECC of a host.
pub struct Ecc;

/// What is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Wish {
    /// Off where the vGPU release is older than 9.0, else as it is.
    Auto,
    /// On.
    On,
    /// Off.
    Off,
}

/// ECC as the driver sees it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct EccFact {
    /// Running driver; absent where nvidia-smi does not answer.
    pub driver_version: Option<String>,
    /// GPUs in nvidia-smi's order.
    pub gpus: Vec<GpuEcc>,
    /// Why nvidia-smi has no answer.
    pub smi_failure: Option<String>,
    /// Every GPU of the host is given away whole: the driver holds none.
    #[serde(default)]
    pub all_given: bool,
    /// vCenter answers for the host: it does not tell what the driver says.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_api: bool,
}

/// One GPU; `None` where it has no ECC.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct GpuEcc {
    /// PCI address.
    pub bus_id: String,
    /// Product name.
    #[serde(default)]
    pub name: Option<String>,
    /// Active.
    pub current: Option<bool>,
    /// After the next reboot.
    pub pending: Option<bool>,
}

impl Fact for EccFact {
    const NAME: &'static str = "ecc";
    const ABOUT: &'static str = "ECC of each GPU, current and pending";
    fn probes(_: &Subject, seen: &Observation) -> Vec<Probe> {
        [PciGpus::ask(seen), vec![Probe::Run(nvidia_smi::query())]].concat()
    }
    fn parse(_: &Subject, seen: &Observation) -> Result<Self, Unreadable> {
        let all_given = PciGpus::all_given(seen);
        Ok(match nvidia_smi::report(seen) {
            Ok(report) => {
                let gpu = |g: &nvidia_smi::Gpu| GpuEcc {
                    bus_id: g.bus_id.clone(),
                    name: g.name.clone(),
                    current: g.ecc_current,
                    pending: g.ecc_pending,
                };
                Self {
                    gpus: report.gpus.iter().map(gpu).collect(),
                    driver_version: report.driver_version,
                    smi_failure: None,
                    all_given,
                    by_api: false,
                }
            }
            // Before the vGPU manager is loaded this is how a healthy host looks.
            Err(why) => Self {
                driver_version: None,
                gpus: vec![],
                smi_failure: Some(why.message),
                all_given,
                by_api: nvidia_smi::is_by_api(seen),
            },
        })
    }
    fn sentence(&self) -> Option<String> {
        let one =
            |gpu: &GpuEcc| format!("{} {}", gpu.bus_id, crate::facts::now_and_then(gpu.current, gpu.pending));
        let asked = || first(self.gpus.iter().map(one), 8, "no GPU to ask");
        Some(self.smi_failure.clone().unwrap_or_else(asked))
    }
}

/// `auto` has nothing to do from 9.0 on: it is only implied where the package's name does not rule an older
/// release out.
fn auto_for(manager: &serde_json::Value) -> Option<serde_json::Value> {
    let PackageWish::Map(manager) = PackageWish::deserialize(manager).ok()? else { return None };
    let newer = DriverVersion::in_name(&manager.package.artifact)
        .is_some_and(|v| v.branch() >= FIRST_BRANCH_WITH_ECC);
    (!newer).then(|| serde_json::json!("auto"))
}

impl Requirement for Ecc {
    const NAME: &'static str = "ecc";
    const ABOUT: &'static str = "ECC memory of the GPUs: auto, on or off";
    const AFTER: &'static [&'static str] = &["vgpu-manager", "passthrough"];
    const NEEDS: Needs = Needs::VmsOff;
    const TAKES_EFFECT: TakesEffect = TakesEffect::AfterReboot;
    const SETTLE_SECS: u32 = 30;
    const IMPLIED_BY: &'static [Implied] = &[Implied { by: "vgpu-manager", spec: auto_for }];
    const EXAMPLE: &'static str = r#"{"A100": "on", "others": "auto"}"#;
    type Spec = PerGpu<Wish>;
    type Fact = EccFact;

    fn check(spec: &PerGpu<Wish>, fact: &EccFact) -> Verdict {
        let wants = |wish: &Wish| match wish {
            Wish::Auto => "off where vGPU is older than 9.0",
            Wish::On => "on",
            Wish::Off => "off",
        };
        let all = spec.shown(|wish| wants(&wish).to_string());
        if fact.all_given {
            return Verdict::met("every GPU of the host is a passthrough device");
        }
        if fact.by_api {
            return match spec.values().iter().all(|wish| *wish == Wish::Auto) {
                // Drivers for which it would be changed are older than any vCenter that is served.
                true => Verdict::met("left as it is"),
                false => crate::facts::not_by_api(Self::NAME),
            };
        }
        let version = fact.driver_version.as_deref().and_then(DriverVersion::leading);
        let Some(version) = version.filter(|_| fact.smi_failure.is_none()) else {
            return Verdict::waits(
                fact.smi_failure.as_deref().unwrap_or("nvidia-smi states no driver version"),
                all,
            );
        };
        let candidates: Vec<Candidate<'_>> = fact.gpus.iter().map(GpuEcc::candidate).collect();
        if let Some(stranger) = spec.strangers(&candidates).first() {
            return Verdict::blocked(
                format!("the driver holds no GPU `{stranger}`"),
                "correct `ecc`; `vsgpu facts` lists the GPUs of the host",
            );
        }
        let too_old = version.branch() < FIRST_BRANCH_WITH_ECC;
        if too_old && spec.values().contains(&Wish::On) {
            return Verdict::blocked(
                format!("ECC on vGPU needs release 9.0 (R430) or later, the host runs {version}"),
                "set `ecc: off`, or install a newer vGPU manager",
            );
        }
        // GPUs that have ECC and for which something is wished.
        let wished = fact.gpus.iter().zip(&candidates).enumerate().filter_map(|(at, (gpu, candidate))| {
            let on = match spec.of(candidate)? {
                Wish::On => true,
                Wish::Off => false,
                Wish::Auto if too_old => false,
                Wish::Auto => return None,
            };
            gpu.current.map(|_| (at, gpu, on))
        });
        let wished: Vec<(usize, &GpuEcc, bool)> = wished.collect();
        if wished.is_empty() && spec.values().contains(&Wish::Auto) && !too_old {
            return Verdict::met(format!("left as it is ({version} supports ECC on vGPU)"));
        }
        let wrong: Vec<_> = wished.iter().filter(|(_, g, on)| g.pending.or(g.current) != Some(*on)).collect();
        if !wrong.is_empty() {
            let set = |at: usize, on: bool| {
                Effect::run(Command::new(
                    "nvidia-smi",
                    ["-i", &at.to_string(), "-e", if on { "1" } else { "0" }],
                ))
            };
            let said = |of: &dyn Fn(bool) -> bool| {
                let words: Vec<String> =
                    wrong.iter().map(|(_, g, on)| format!("{} {}", g.bus_id, OnOff::from(of(*on)))).collect();
                words.join(", ")
            };
            return Verdict::unmet(
                said(&|on| !on),
                said(&|on| on),
                wrong.iter().map(|(at, _, on)| set(*at, *on)).collect(),
            );
        }
        match wished.iter().find(|(_, g, on)| g.current != Some(*on)) {
            Some((_, gpu, on)) => {
                Verdict::pending(format!("{} pending on {}", OnOff::from(*on), gpu.bus_id), all)
            }
            None if wished.is_empty() => Verdict::met("no GPU has ECC"),
            None => Verdict::met(all),
        }
    }

    fn gpus_named(spec: &PerGpu<Wish>) -> Vec<String> {
        spec.named()
    }

    fn as_spec(fact: &EccFact) -> Option<PerGpu<Wish>> {
        let on = |g: &GpuEcc| Some((g.bus_id.clone(), if g.current? { Wish::On } else { Wish::Off }));
        PerGpu::from_facts(fact.gpus.iter().filter_map(on).collect())
    }
}

impl GpuEcc {
    fn candidate(&self) -> Candidate<'_> {
        Candidate { address: &self.bus_id, device_id: None, subsystem_id: None, name: self.name.as_deref() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fact(version: &str, current: Option<bool>, pending: Option<bool>) -> EccFact {
        EccFact {
            driver_version: Some(version.into()),
            gpus: vec![GpuEcc {
                bus_id: "0000:3b:00.0".into(),
                name: Some("Tesla P100-PCIE-16GB".into()),
                current,
                pending,
            }],
            smi_failure: None,
            all_given: false,
            by_api: false,
        }
    }

    #[test]
    fn auto_is_off_only_before_release_9() {
        match Ecc::check(&PerGpu::One(Wish::Auto), &fact("390.42", Some(true), Some(true))) {
            Verdict::Unmet { effects, .. } => assert_eq!(effects[0].to_string(), "nvidia-smi -i 0 -e 0"),
            other => panic!("{other:?}"),
        }
        assert_eq!(
            Ecc::check(&PerGpu::One(Wish::Auto), &fact("390.42", Some(true), Some(false))),
            Verdict::pending("off pending on 0000:3b:00.0", "off where vGPU is older than 9.0")
        );
        assert!(
            Ecc::check(&PerGpu::One(Wish::Auto), &fact("390.42", None, None)).is_met(),
            "a GPU without ECC"
        );
        assert!(Ecc::check(&PerGpu::One(Wish::Auto), &fact("535.183.04", Some(true), Some(true))).is_met());
        assert!(matches!(
            Ecc::check(&PerGpu::One(Wish::On), &fact("390.42", Some(true), Some(true))),
            Verdict::Blocked { .. }
        ));
    }

    #[test]
    fn without_a_driver_it_waits() {
        let bare = EccFact {
            driver_version: None,
            gpus: vec![],
            smi_failure: Some("no such program".into()),
            all_given: false,
            by_api: false,
        };
        assert!(matches!(Ecc::check(&PerGpu::One(Wish::Auto), &bare), Verdict::Waits { .. }));
    }
}
