//! Maintenance mode. The planner enters and leaves it around the changes that need it; it is no key of the
//! fleet file.

use crate::esxcli;
use crate::facts::virtual_machines;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use vsgpu_core::requirement::{Cost, Deadline, Implied, Needs, Outage, TakesEffect};
use vsgpu_core::units::OnOff;
use vsgpu_core::{Command, Effect, Fact, Observation, Probe, Requirement, Subject, Unreadable, Verdict};

/// Seconds esxcli may take to enter (facts: failures 7).
pub const DEADLINE_SECS: u32 = 3600;

/// Maintenance mode of a host.
pub struct MaintenanceMode;

/// What is wanted.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct MaintenanceModeSpec {
    /// On or off.
    pub state: OnOff,
    /// Seconds esxcli may take.
    #[serde(default = "default_within")]
    pub within_secs: u32,
    /// How VMs that run leave it first.
    #[serde(default, skip_serializing_if = "Leave::is_off")]
    pub vms: Leave,
}

/// How VMs leave a host before maintenance mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Leave {
    /// They are off already.
    #[default]
    Off,
    /// DRS moves them all.
    Moved,
    /// DRS moves them, and people do.
    MovedAlsoByHand,
}

impl Leave {
    fn is_off(&self) -> bool {
        *self == Self::Off
    }
}

fn default_within() -> u32 {
    DEADLINE_SECS
}

/// Whether it is on, and what runs.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct MaintenanceModeFact {
    /// In maintenance mode.
    pub enabled: bool,
    /// Names of running VMs.
    pub running: Vec<String>,
}

const GET: [&str; 3] = ["system", "maintenanceMode", "get"];

/// Reads `Enabled` or `Disabled`, in whichever form it came.
pub fn enabled(records: &[vsgpu_core::readers::esxcli::Record]) -> Result<bool, String> {
    let words = records.iter().flat_map(|r| {
        std::iter::once(r.title.as_str()).chain(r.fields.iter().map(|(_, value)| value.as_str()))
    });
    let found = words.map(str::trim).find_map(|word| match word {
        "Enabled" | "true" => Some(true),
        "Disabled" | "false" => Some(false),
        _ => None,
    });
    found.ok_or_else(|| "the answer is neither `Enabled` nor `Disabled`".into())
}

impl Fact for MaintenanceModeFact {
    const NAME: &'static str = "maintenance-mode";
    const ABOUT: &'static str = "Maintenance mode, and the VMs that run";
    fn probes(_: &Subject, seen: &Observation) -> Vec<Probe> {
        [esxcli::probes(&GET, seen), esxcli::probes(&virtual_machines::RUNNING, seen)].concat()
    }
    fn parse(_: &Subject, seen: &Observation) -> Result<Self, Unreadable> {
        let enabled = esxcli::parsed(&GET, seen, enabled)?;
        let running = virtual_machines::running(seen)?.into_iter().map(|(name, _)| name).collect();
        Ok(Self { enabled, running })
    }
    fn sentence(&self) -> Option<String> {
        let vms = vsgpu_core::words::first(self.running.iter().cloned(), 8, "no VM");
        Some(format!("{}; running: {vms}", if self.enabled { "on" } else { "off" }))
    }
}

impl Requirement for MaintenanceMode {
    const NAME: &'static str = "maintenance-mode";
    const ABOUT: &'static str = "Maintenance mode of the host (entered and left by the plan)";
    const AFTER: &'static [&'static str] = &[];
    const NEEDS: Needs = Needs::VmsOff;
    const TAKES_EFFECT: TakesEffect = TakesEffect::AtOnce;
    const SETTLE_SECS: u32 = 10;
    const IMPLIED_BY: &'static [Implied] = &[];
    const EXAMPLE: &'static str = r#"{"state": "on", "within-secs": 3600}"#;
    const IS_KEY: bool = false;
    type Spec = MaintenanceModeSpec;
    type Fact = MaintenanceModeFact;

    // To leave it nothing must be off: some VMs (vCLS, agent VMs) run in it.
    fn cost(spec: &MaintenanceModeSpec, _: &MaintenanceModeFact) -> Cost {
        let moved = spec.vms != Leave::Off;
        let needs = if spec.state == OnOff::Off || moved { Needs::Nothing } else { Self::NEEDS };
        Cost { needs, takes_effect: Self::TAKES_EFFECT, sure: true }
    }

    fn check(spec: &MaintenanceModeSpec, fact: &MaintenanceModeFact) -> Verdict {
        let is = OnOff::from(fact.enabled).to_string();
        let wanted = spec.state;
        if fact.enabled == wanted.on() {
            return Verdict::met(is);
        }
        if wanted.on() && spec.vms != Leave::Off {
            let waits_for_people = spec.vms == Leave::MovedAlsoByHand;
            let effect = Effect::Evacuate { within_secs: spec.within_secs, waits_for_people };
            return Verdict::unmet(is, wanted.to_string(), vec![effect]);
        }
        if wanted.on() && !fact.running.is_empty() {
            let names = fact.running.join(", ");
            return Verdict::blocked(
                format!("maintenance mode cannot be entered while VMs run: {names}"),
                "shut them down or move them to another host",
            );
        }
        let enable = if wanted.on() { "true" } else { "false" };
        let mut args = vec!["system", "maintenanceMode", "set", "--enable", enable];
        let timeout = spec.within_secs.to_string();
        if wanted.on() {
            args.extend(["--timeout", &timeout]);
        }
        // A minute more than esxcli itself takes, so that its own words are heard.
        Verdict::unmet(
            is,
            wanted.to_string(),
            vec![Effect::run(Command::new("esxcli", args).within(spec.within_secs.saturating_add(60)))],
        )
    }

    fn deadline(_: &MaintenanceModeSpec) -> Deadline {
        Deadline::MaintenanceMode
    }

    fn outage(spec: &MaintenanceModeSpec) -> Option<Outage> {
        Some(if spec.state.on() { Outage::Begins } else { Outage::Ends })
    }

    fn as_spec(fact: &MaintenanceModeFact) -> Option<MaintenanceModeSpec> {
        Some(MaintenanceModeSpec { state: fact.enabled.into(), within_secs: DEADLINE_SECS, vms: Leave::Off })
    }
}
