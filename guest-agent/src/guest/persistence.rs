//! nvidia-persistenced: keeps the driver's state while no program uses the GPU, so that the first CUDA call
//! does not wait for it to start (facts: nvidia 6: on for compute guests). A `.run` brings the program, and
//! not always a unit for it.

use crate::facts::unit::{self, UnitState};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use vsgpu_core::requirement::{Implied, Needs, TakesEffect};
use vsgpu_core::units::OnOff;
use vsgpu_core::{Command, Effect, Fact, Observation, Probe, Requirement, Subject, Unreadable, Verdict};

const PROGRAM: &str = "/usr/bin/nvidia-persistenced";
const UNIT_FILE: &str = "/etc/systemd/system/nvidia-persistenced.service";
const UNIT: &str = "nvidia-persistenced.service";
/// Ours, for drivers that come without one: the daemon forks and says so by its process file.
const OWN_UNIT: &str = "# Written by vsgpu: this driver came without a unit for its daemon.\n[Unit]\nDescription=NVIDIA Persistence Daemon\n\n[Service]\nType=forking\nPIDFile=/var/run/nvidia-persistenced/nvidia-persistenced.pid\nExecStart=/usr/bin/nvidia-persistenced --persistence-mode --verbose\nExecStopPost=/bin/rm -rf /var/run/nvidia-persistenced\nRestart=on-failure\n\n[Install]\nWantedBy=multi-user.target\n";

/// Persistence of a guest.
pub struct Persistence;

/// What is so.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct PersistenceFact {
    /// `active`, `inactive`, `failed`.
    pub active: String,
    /// `enabled`, `disabled`, `static`; empty without a unit.
    pub enabled: String,
    /// The daemon's program is installed.
    pub program: bool,
}

impl PersistenceFact {
    fn has_unit(&self) -> bool {
        !self.enabled.is_empty() && self.enabled != "not-found"
    }

    fn in_words(&self) -> String {
        match (self.has_unit(), self.program) {
            (false, false) => "not installed".into(),
            (false, true) => "no unit".into(),
            _ => format!("{}, {}", self.active, self.enabled),
        }
    }
}

impl Fact for PersistenceFact {
    const NAME: &'static str = "persistence";
    const ABOUT: &'static str = "nvidia-persistenced: installed, running, started at boot";
    fn probes(_: &Subject, _: &Observation) -> Vec<Probe> {
        let mut probes: Vec<Probe> = unit::probes(UNIT).into();
        probes.push(Probe::Hash(PROGRAM.into()));
        probes
    }
    fn parse(_: &Subject, seen: &Observation) -> Result<Self, Unreadable> {
        let UnitState { active, enabled } = unit::parse(UNIT, seen)?;
        Ok(Self { active, enabled, program: seen.text(&Probe::Hash(PROGRAM.into()))?.is_some() })
    }
    fn sentence(&self) -> Option<String> {
        Some(self.in_words())
    }
}

impl Requirement for Persistence {
    const NAME: &'static str = "persistence";
    const ABOUT: &'static str = "nvidia-persistenced running and started at boot, or not";
    const AFTER: &'static [&'static str] = &["driver"];
    const NEEDS: Needs = Needs::Nothing;
    const TAKES_EFFECT: TakesEffect = TakesEffect::AtOnce;
    const SETTLE_SECS: u32 = 15;
    const IMPLIED_BY: &'static [Implied] = &[];
    const EXAMPLE: &'static str = r#""on""#;
    type Spec = OnOff;
    type Fact = PersistenceFact;

    fn check(spec: &OnOff, fact: &PersistenceFact) -> Verdict {
        let run = |args: &[&str]| Effect::run(Command::new("systemctl", args.iter().copied()));
        let has_unit = fact.has_unit();
        let at_boot = matches!(fact.enabled.as_str(), "enabled" | "enabled-runtime" | "static" | "alias");
        let is = fact.in_words();
        match spec {
            OnOff::On if fact.active == "active" && at_boot => Verdict::met(is),
            OnOff::On if !fact.program && !has_unit => Verdict::waits_for(
                format!("{PROGRAM} is not there: it comes with the driver"),
                "on",
                vec![run(&["enable", "--now", UNIT])],
            ),
            OnOff::On => {
                let mut effects = vec![];
                if !has_unit {
                    effects.push(Effect::Write {
                        path: UNIT_FILE.into(),
                        contents: OWN_UNIT.into(),
                        mode: 0o644,
                    });
                    effects.push(run(&["daemon-reload"]));
                }
                effects.push(run(&["enable", "--now", UNIT]));
                Verdict::unmet(is, "on", effects)
            }
            OnOff::Off
                if fact.active != "active"
                    && !matches!(fact.enabled.as_str(), "enabled" | "enabled-runtime") =>
            {
                Verdict::met(is)
            }
            OnOff::Off => Verdict::unmet(is, "off", vec![run(&["disable", "--now", UNIT])]),
        }
    }

    fn as_spec(fact: &PersistenceFact) -> Option<OnOff> {
        Self::check(&OnOff::On, fact).is_met().then_some(OnOff::On)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_without_a_unit_gets_one() {
        let fact = |active: &str, enabled: &str, program| PersistenceFact {
            active: active.into(),
            enabled: enabled.into(),
            program,
        };
        let effects = |fact: &PersistenceFact| match Persistence::check(&OnOff::On, fact) {
            Verdict::Unmet { effects, .. } => effects.len(),
            Verdict::Met { .. } => 0,
            Verdict::Waits { .. } => 99,
            other => panic!("{other:?}"),
        };
        assert_eq!(effects(&fact("active", "enabled", true)), 0);
        assert_eq!(effects(&fact("inactive", "disabled", true)), 1);
        assert_eq!(effects(&fact("inactive", "", true)), 3);
        assert_eq!(effects(&fact("inactive", "", false)), 99);
        assert!(Persistence::check(&OnOff::Off, &fact("inactive", "", false)).is_met());
    }
}
