//! MIG mode of the host's GPUs. Only the mode: ESXi makes the GPU instances itself when a VM with a
//! MIG-backed profile is powered on (facts: esxi F3). On Ampere the host has to be rebooted; from Hopper on
//! the mode changes at once unless the GPU is in use.

use crate::facts::pci_gpus::PciGpus;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use vsgpu_core::gpu_selector::{Candidate, PerGpu};
use vsgpu_core::readers::nvidia_smi;
use vsgpu_core::requirement::{Cost, Implied, Needs, TakesEffect};
use vsgpu_core::units::OnOff;
use vsgpu_core::words::first;
use vsgpu_core::{Command, Effect, Fact, Observation, Probe, Requirement, Subject, Unreadable, Verdict};

/// MIG of a host.
pub struct Mig;

/// MIG as the driver sees it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct MigFact {
    /// GPUs in nvidia-smi's order.
    pub gpus: Vec<GpuMig>,
    /// Why nvidia-smi has no answer.
    pub smi_failure: Option<String>,
    /// Every GPU of the host is given away whole: the driver holds none.
    #[serde(default)]
    pub all_given: bool,
    /// vCenter answers for the host: it does not tell what the driver says.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_api: bool,
}

/// One GPU; `None` where it cannot be divided.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct GpuMig {
    /// PCI address.
    pub bus_id: String,
    /// Product name.
    pub name: Option<String>,
    /// Architecture, where printed.
    pub architecture: Option<String>,
    /// Active.
    pub current: Option<bool>,
    /// After the next reset or reboot.
    pub pending: Option<bool>,
}

impl GpuMig {
    fn candidate(&self) -> Candidate<'_> {
        Candidate { address: &self.bus_id, device_id: None, subsystem_id: None, name: self.name.as_deref() }
    }

    /// Ampere was the first with MIG: whatever else has it is newer.
    fn changes_at_once(&self) -> bool {
        self.architecture.as_deref().is_some_and(|a| a != "Ampere")
    }
}

impl Fact for MigFact {
    const NAME: &'static str = "mig";
    const ABOUT: &'static str = "MIG mode of each GPU, current and pending";
    fn probes(_: &Subject, seen: &Observation) -> Vec<Probe> {
        [PciGpus::ask(seen), vec![Probe::Run(nvidia_smi::query())]].concat()
    }
    fn parse(_: &Subject, seen: &Observation) -> Result<Self, Unreadable> {
        let all_given = PciGpus::all_given(seen);
        let gpu = |g: nvidia_smi::Gpu| GpuMig {
            bus_id: g.bus_id,
            name: g.name,
            architecture: g.architecture,
            current: g.mig_current,
            pending: g.mig_pending,
        };
        Ok(match nvidia_smi::report(seen) {
            Ok(report) => {
                let gpus = report.gpus.into_iter().map(gpu).collect();
                Self { gpus, smi_failure: None, all_given, by_api: false }
            }
            Err(why) => Self {
                gpus: vec![],
                smi_failure: Some(why.message),
                all_given,
                by_api: nvidia_smi::is_by_api(seen),
            },
        })
    }
    fn sentence(&self) -> Option<String> {
        let one =
            |gpu: &GpuMig| format!("{} {}", gpu.bus_id, crate::facts::now_and_then(gpu.current, gpu.pending));
        let asked = || first(self.gpus.iter().map(one), 8, "no GPU to ask");
        Some(self.smi_failure.clone().unwrap_or_else(asked))
    }
}

/// GPUs for which a mode is wished: index, GPU, wish. What cannot be divided is off for ever.
fn wished<'a>(spec: &PerGpu<OnOff>, fact: &'a MigFact) -> Vec<(usize, &'a GpuMig, OnOff)> {
    let of = |(at, gpu): (usize, &'a GpuMig)| Some((at, gpu, spec.of(&gpu.candidate())?));
    fact.gpus.iter().enumerate().filter_map(of).filter(|(_, gpu, _)| gpu.current.is_some()).collect()
}

fn wrong<'a>(all: &[(usize, &'a GpuMig, OnOff)]) -> Vec<(usize, &'a GpuMig, OnOff)> {
    all.iter().filter(|(_, gpu, wish)| gpu.pending.or(gpu.current) != Some(wish.on())).copied().collect()
}

impl Requirement for Mig {
    const NAME: &'static str = "mig";
    const ABOUT: &'static str = "MIG mode of the GPUs: on or off";
    const AFTER: &'static [&'static str] = &["vgpu-manager", "passthrough"];
    const NEEDS: Needs = Needs::VmsOff;
    const TAKES_EFFECT: TakesEffect = TakesEffect::AfterReboot;
    const SETTLE_SECS: u32 = 30;
    const IMPLIED_BY: &'static [Implied] = &[];
    const EXAMPLE: &'static str = r#"{"0000:3b:00.0": "on", "others": "off"}"#;
    type Spec = PerGpu<OnOff>;
    type Fact = MigFact;

    fn check(spec: &PerGpu<OnOff>, fact: &MigFact) -> Verdict {
        if fact.all_given {
            return Verdict::met("every GPU of the host is a passthrough device");
        }
        if fact.by_api {
            return crate::facts::not_by_api(Self::NAME);
        }
        if let Some(why) = &fact.smi_failure {
            return Verdict::waits(why, spec.shown(|on| on.to_string()));
        }
        let candidates: Vec<Candidate<'_>> = fact.gpus.iter().map(GpuMig::candidate).collect();
        if let Some(stranger) = spec.strangers(&candidates).first() {
            return Verdict::blocked(
                format!("the driver holds no GPU `{stranger}`"),
                "correct `mig`; `vsgpu facts` lists the GPUs of the host",
            );
        }
        let all = wished(spec, fact);
        // A mode for the whole host is for those that have it; one that is named must have it.
        let lame =
            fact.gpus.iter().find(|g| g.current.is_none() && spec.of(&g.candidate()) == Some(OnOff::On));
        if let Some(gpu) = lame.filter(|_| all.is_empty() || matches!(spec, PerGpu::Each(_))) {
            return Verdict::blocked(
                format!("{} ({}) cannot be divided by MIG", gpu.bus_id, gpu.candidate().shown()),
                "take it out of `mig`; A30, A100, H100, H200 and newer compute GPUs have it",
            );
        }
        let said = |list: &[(usize, &GpuMig, OnOff)], turned: bool| {
            let word = |wish: OnOff| OnOff::from(wish.on() != turned);
            list.iter()
                .map(|(_, gpu, wish)| format!("{} {}", gpu.bus_id, word(*wish)))
                .collect::<Vec<_>>()
                .join(", ")
        };
        let wrong = wrong(&all);
        if !wrong.is_empty() {
            let set = |at: usize, wish: OnOff| {
                Effect::run(Command::new(
                    "nvidia-smi",
                    ["-i", &at.to_string(), "-mig", if wish.on() { "1" } else { "0" }],
                ))
            };
            return Verdict::unmet(
                said(&wrong, true),
                said(&wrong, false),
                wrong.iter().map(|(at, _, wish)| set(*at, *wish)).collect(),
            );
        }
        let pending: Vec<_> =
            all.iter().filter(|(_, gpu, wish)| gpu.current != Some(wish.on())).copied().collect();
        match pending.as_slice() {
            [] if all.is_empty() => Verdict::met("no GPU has MIG"),
            [] => Verdict::met(said(&all, false)),
            some => Verdict::pending(format!("pending: {}", said(some, false)), said(some, false)),
        }
    }

    fn gpus_named(spec: &PerGpu<OnOff>) -> Vec<String> {
        spec.named()
    }

    fn as_spec(fact: &MigFact) -> Option<PerGpu<OnOff>> {
        PerGpu::from_facts(
            fact.gpus.iter().filter_map(|g| Some((g.bus_id.clone(), g.current?.into()))).collect(),
        )
    }

    fn cost(spec: &PerGpu<OnOff>, fact: &MigFact) -> Cost {
        let wrong = wrong(&wished(spec, fact));
        let at_once = !wrong.is_empty() && wrong.iter().all(|(_, gpu, _)| gpu.changes_at_once());
        Cost { needs: Self::NEEDS, takes_effect: Self::TAKES_EFFECT, sure: !at_once }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu(bus_id: &str, architecture: &str, current: Option<bool>, pending: Option<bool>) -> GpuMig {
        let name = if architecture == "Hopper" { "NVIDIA H100 PCIe" } else { "NVIDIA A100-PCIE-40GB" };
        GpuMig {
            bus_id: bus_id.into(),
            name: Some(name.into()),
            architecture: Some(architecture.into()),
            current,
            pending,
        }
    }

    fn fact(gpus: Vec<GpuMig>) -> MigFact {
        MigFact { gpus, smi_failure: None, all_given: false, by_api: false }
    }

    #[test]
    fn only_the_mode_is_set_and_only_where_it_differs() {
        let two = fact(vec![
            gpu("0000:3b:00.0", "Ampere", Some(true), Some(true)),
            gpu("0000:af:00.0", "Ampere", Some(false), Some(false)),
        ]);
        match Mig::check(&PerGpu::One(OnOff::On), &two) {
            Verdict::Unmet { effects, is, wants, .. } => {
                assert_eq!(
                    effects.iter().map(ToString::to_string).collect::<Vec<_>>(),
                    ["nvidia-smi -i 1 -mig 1"]
                );
                assert_eq!((is.as_str(), wants.as_str()), ("0000:af:00.0 off", "0000:af:00.0 on"));
            }
            other => panic!("{other:?}"),
        }
        let pending = fact(vec![gpu("0000:3b:00.0", "Ampere", Some(false), Some(true))]);
        assert!(
            matches!(Mig::check(&PerGpu::One(OnOff::On), &pending), Verdict::Unmet { effects, .. } if effects.is_empty())
        );
    }

    #[test]
    fn hopper_needs_no_sure_reboot_and_what_has_no_mig_is_said() {
        let wish = PerGpu::One(OnOff::On);
        assert!(Mig::cost(&wish, &fact(vec![gpu("0000:3b:00.0", "Ampere", Some(false), Some(false))])).sure);
        assert!(!Mig::cost(&wish, &fact(vec![gpu("0000:3b:00.0", "Hopper", Some(false), Some(false))])).sure);
        assert!(matches!(
            Mig::check(&wish, &fact(vec![gpu("0000:3b:00.0", "Turing", None, None)])),
            Verdict::Blocked { .. }
        ));
        assert!(
            Mig::check(&PerGpu::One(OnOff::Off), &fact(vec![gpu("0000:3b:00.0", "Turing", None, None)]))
                .is_met()
        );
    }
}
