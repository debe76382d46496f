//! Scheduler of time-sliced vGPUs: the registry word RmPVMRL of the host driver, set as a module parameter
//! and read at boot. The parameter line holds other words too: they are kept. A note in the ramdisk remembers
//! what the running boot was started with.

use crate::esxcli;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use vsgpu_core::requirement::{Implied, Needs, TakesEffect};
use vsgpu_core::{Command, Effect, Fact, Observation, Probe, Requirement, Subject, Unreadable, Verdict};

const NOTE: &str = "/var/run/vsgpu/vgpu-scheduler-of-this-boot";
const LIST: [&str; 6] = ["system", "module", "parameters", "list", "-m", "nvidia"];
pub(crate) const WORDS: &str = "NVreg_RegistryDwords";
const KEY: &str = "RmPVMRL";

/// Scheduler of a host.
pub struct VgpuScheduler;

/// Policies (NVIDIA's vGPU guide, "Changing scheduling behavior").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// Whoever has work gets time; the default.
    BestEffort,
    /// Equal time for each running vGPU.
    EqualShare,
    /// Time by the size of the profile, whether others run or not.
    FixedShare,
}

impl Policy {
    fn word(self) -> &'static str {
        match self {
            Self::BestEffort => "best-effort",
            Self::EqualShare => "equal-share",
            Self::FixedShare => "fixed-share",
        }
    }

    fn value(self) -> Option<&'static str> {
        match self {
            Self::BestEffort => None,
            Self::EqualShare => Some("0x01"),
            Self::FixedShare => Some("0x11"),
        }
    }

    /// From the register: bit 0 is on, bits 7:4 are the policy.
    fn of_value(value: Option<&str>) -> Option<Self> {
        let Some(text) = value else { return Some(Self::BestEffort) };
        let number = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
            Some(hex) => u32::from_str_radix(hex, 16).ok()?,
            None => text.parse().ok()?,
        };
        match (number & 1, number >> 4 & 0xf) {
            (0, _) => Some(Self::BestEffort),
            (1, 0) => Some(Self::EqualShare),
            (1, 1) => Some(Self::FixedShare),
            _ => None,
        }
    }
}

/// Parameters of the host driver.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct SchedulerFact {
    /// Parameters that have a value, in order.
    pub parameters: Vec<(String, String)>,
    /// Whether the driver offers registry words.
    pub offered: bool,
    /// The policy word this boot was started with, where it was changed since.
    pub started_with: Option<String>,
    /// Why the parameters cannot be read.
    pub failure: Option<String>,
}

impl Fact for SchedulerFact {
    const NAME: &'static str = "vgpu-scheduler";
    const ABOUT: &'static str = "Scheduler of time-sliced vGPUs, as the host driver's module parameters say";
    fn probes(_: &Subject, seen: &Observation) -> Vec<Probe> {
        let mut probes = esxcli::probes(&LIST, seen);
        probes.push(Probe::Read(NOTE.into()));
        probes
    }
    fn parse(_: &Subject, seen: &Observation) -> Result<Self, Unreadable> {
        let started_with = seen.file(NOTE)?.map(|text| text.trim().to_string());
        Ok(match esxcli::answer(&LIST, seen) {
            Ok(records) => {
                let of = |r: &vsgpu_core::readers::esxcli::Record| {
                    Some((r.get("Name")?.to_string(), r.get("Value")?.to_string()))
                };
                let offered = records.iter().any(|r| r.get("Name") == Some(WORDS));
                Self {
                    parameters: records.iter().filter_map(of).collect(),
                    offered,
                    started_with,
                    failure: None,
                }
            }
            // Before the vGPU manager is installed there is no such module.
            Err(why) => Self { parameters: vec![], offered: false, started_with, failure: Some(why.message) },
        })
    }
    fn sentence(&self) -> Option<String> {
        self.failure.as_ref().map(|why| format!("no module `nvidia` to ask: {why}"))
    }
}

impl SchedulerFact {
    /// `name=value;name=value` of the registry words.
    fn words(&self) -> Vec<(&str, &str)> {
        let text = self.parameters.iter().find(|(name, _)| name == WORDS).map_or("", |(_, value)| value);
        text.split(';').filter_map(|word| word.split_once('=')).map(|(k, v)| (k.trim(), v.trim())).collect()
    }

    fn configured(&self) -> Option<&str> {
        self.words().into_iter().find(|(name, _)| *name == KEY).map(|(_, value)| value)
    }

    /// The whole parameter line with another policy in it.
    fn line(&self, policy: Policy) -> String {
        let mut words: Vec<String> =
            self.words().iter().filter(|(name, _)| *name != KEY).map(|(k, v)| format!("{k}={v}")).collect();
        words.extend(policy.value().map(|value| format!("{KEY}={value}")));
        let others =
            self.parameters.iter().filter(|(name, _)| name != WORDS).map(|(k, v)| format!("{k}={v}"));
        others.chain([format!("{WORDS}={}", words.join(";"))]).collect::<Vec<_>>().join(" ")
    }
}

impl Requirement for VgpuScheduler {
    const NAME: &'static str = "vgpu-scheduler";
    const ABOUT: &'static str = "Scheduler of time-sliced vGPUs: best-effort, equal-share or fixed-share";
    const AFTER: &'static [&'static str] = &["vgpu-manager"];
    const NEEDS: Needs = Needs::MaintenanceMode;
    const TAKES_EFFECT: TakesEffect = TakesEffect::AfterReboot;
    const SETTLE_SECS: u32 = 0;
    const IMPLIED_BY: &'static [Implied] = &[];
    const EXAMPLE: &'static str = r#""equal-share""#;
    type Spec = Policy;
    type Fact = SchedulerFact;

    fn check(spec: &Policy, fact: &SchedulerFact) -> Verdict {
        if let Some(why) = &fact.failure {
            return Verdict::waits(
                format!("the parameters of the host driver cannot be read: {why}"),
                spec.word(),
            );
        }
        if !fact.offered {
            return Verdict::blocked(
                format!("this host driver has no parameter {WORDS}"),
                "leave `vgpu-scheduler` out for this release",
            );
        }
        let configured = Policy::of_value(fact.configured());
        let is = configured.map_or_else(
            || format!("{KEY}={}", fact.configured().unwrap_or_default()),
            |p| p.word().to_string(),
        );
        if configured != Some(*spec) {
            let mut effects = vec![];
            // Before the change: a power cut between the two must not make the new policy look active.
            if fact.started_with.is_none() {
                effects.push(Effect::Write { path: NOTE.into(), contents: format!("{is}\n"), mode: 0o600 });
            }
            let set = Command::new(
                "esxcli",
                ["system", "module", "parameters", "set", "-m", "nvidia", "-p", &fact.line(*spec)],
            );
            effects.push(Effect::run(set));
            return Verdict::unmet(is, spec.word(), effects);
        }
        match &fact.started_with {
            Some(other) if other != spec.word() => {
                Verdict::pending(format!("{} configured, this boot runs {other}", spec.word()), spec.word())
            }
            _ => Verdict::met(spec.word()),
        }
    }

    fn as_spec(fact: &SchedulerFact) -> Option<Policy> {
        Policy::of_value(fact.configured()).filter(|_| fact.offered && fact.started_with.is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fact(words: &str, started_with: Option<&str>) -> SchedulerFact {
        let mut parameters = vec![("NVreg_Other".to_string(), "1".to_string())];
        parameters.extend((!words.is_empty()).then(|| (WORDS.to_string(), words.to_string())));
        SchedulerFact { parameters, offered: true, started_with: started_with.map(Into::into), failure: None }
    }

    #[test]
    fn other_parameters_are_kept() {
        match VgpuScheduler::check(&Policy::FixedShare, &fact("RMx=1;RmPVMRL=0x01", None)) {
            Verdict::Unmet { is, effects, .. } => {
                assert_eq!(is, "equal-share");
                assert_eq!(
                    effects[1].to_string(),
                    "esxcli system module parameters set -m nvidia -p 'NVreg_Other=1 NVreg_RegistryDwords=RMx=1;RmPVMRL=0x11'"
                );
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_was_set_in_this_boot_is_not_active() {
        assert!(VgpuScheduler::check(&Policy::BestEffort, &fact("", None)).is_met());
        assert!(VgpuScheduler::check(&Policy::EqualShare, &fact("RmPVMRL=0x01", None)).is_met());
        let pending = VgpuScheduler::check(&Policy::EqualShare, &fact("RmPVMRL=0x01", Some("best-effort")));
        assert!(matches!(pending, Verdict::Unmet { effects, .. } if effects.is_empty()));
        assert!(
            VgpuScheduler::check(&Policy::BestEffort, &fact("RmPVMRL=0x00", Some("best-effort"))).is_met(),
            "there and back"
        );
        assert_eq!(Policy::of_value(Some("0x00180011")), Some(Policy::FixedShare), "with a time slice");
    }
}
