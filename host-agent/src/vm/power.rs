//! Power of a VM. Off means: shut down by its guest, within a time; the plug is pulled only where the fleet
//! file allows it.

use crate::facts::vm_config::state;
use crate::facts::vm_power::VmPower;
use crate::power_errors;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use vsgpu_core::requirement::{Deadline, Explained, Failure, Implied, Needs, Outage, TakesEffect};
use vsgpu_core::{Command, Effect, Observation, Probe, Requirement, Subject, Verdict};

/// Seconds a guest may take to shut down.
pub const DEFAULT_GRACE_SECS: u32 = 300;
/// Seconds hostd may take to power on (facts: failures 7).
const START_SECS: u32 = 120;

/// Power of a VM.
pub struct Power;

/// What is wanted.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct PowerSpec {
    /// On or off.
    pub state: PowerState,
    /// Seconds for the guest to shut down.
    #[serde(default = "default_grace")]
    pub grace_secs: u32,
    /// Seconds the VM may take to power on, with its GPUs.
    #[serde(default = "default_start")]
    pub within_secs: u32,
    /// Whether the VM may be powered off hard after that time.
    #[serde(default)]
    pub hard_stop: bool,
}

impl PowerSpec {
    /// With the times of every day, and no plug pulled.
    pub fn new(state: PowerState) -> Self {
        Self { state, grace_secs: DEFAULT_GRACE_SECS, within_secs: START_SECS, hard_stop: false }
    }
}

fn default_start() -> u32 {
    START_SECS
}

fn default_grace() -> u32 {
    DEFAULT_GRACE_SECS
}

/// A power state one can wish for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PowerState {
    /// Running.
    On,
    /// Powered off.
    Off,
}

impl Requirement for Power {
    const NAME: &'static str = "power";
    const ABOUT: &'static str = "Power of the VM (stopped and started by the plan)";
    const AFTER: &'static [&'static str] = &[];
    const NEEDS: Needs = Needs::Nothing;
    const TAKES_EFFECT: TakesEffect = TakesEffect::AtOnce;
    const SETTLE_SECS: u32 = 5;
    const IMPLIED_BY: &'static [Implied] = &[];
    const EXAMPLE: &'static str = r#"{"state": "off", "grace-secs": 60}"#;
    const IS_KEY: bool = false;
    type Spec = PowerSpec;
    type Fact = VmPower;

    fn check(spec: &PowerSpec, fact: &VmPower) -> Verdict {
        let id = fact.vmid.to_string();
        let command = |verb: &str| Command::new("vim-cmd", [verb, &id]);
        match (spec.state, fact.state.as_str()) {
            (PowerState::On, "on") => Verdict::met("on"),
            (PowerState::Off, "off") => Verdict::met("off"),
            (PowerState::On, is) => {
                let start = Effect::RunUntil {
                    command: command("vmsvc/power.on").within(spec.within_secs),
                    done: state(fact.vmid),
                    shows: "Powered on".into(),
                    deadline_secs: spec.within_secs,
                    otherwise: None,
                    // A VM that hangs between off and on would hold its GPU; one that is off answers with a
                    // fault, which is fine. A suspended one has its memory to lose, and is left alone.
                    give_up: (is == "off").then(|| Box::new(command("vmsvc/power.off"))),
                };
                Verdict::unmet(is, "on", vec![start])
            }
            (PowerState::Off, "suspended") => Verdict::blocked(
                "the VM is suspended; powering it off would lose its memory",
                "resume it and shut it down, or discard the suspended state",
            ),
            (PowerState::Off, is) => {
                let stop = Effect::RunUntil {
                    command: command("vmsvc/power.shutdown"),
                    done: state(fact.vmid),
                    shows: "Powered off".into(),
                    deadline_secs: spec.grace_secs,
                    otherwise: spec.hard_stop.then(|| command("vmsvc/power.off")),
                    give_up: None,
                };
                Verdict::unmet(is, "off", vec![stop])
            }
        }
    }

    fn deadline(spec: &PowerSpec) -> Deadline {
        if spec.state == PowerState::On { Deadline::PowerOn } else { Deadline::PowerOff }
    }

    fn outage(spec: &PowerSpec) -> Option<Outage> {
        Some(if spec.state == PowerState::Off { Outage::Begins } else { Outage::Ends })
    }

    fn probes_after_failure(on: &Subject, seen: &Observation) -> Vec<Probe> {
        power_errors::probes(on, seen)
    }

    fn explain(failure: &Failure, on: &Subject, seen: &Observation) -> Option<Explained> {
        power_errors::explain(failure, on, seen)
    }

    fn as_spec(fact: &VmPower) -> Option<PowerSpec> {
        let state = match fact.state.as_str() {
            "on" => PowerState::On,
            "off" => PowerState::Off,
            _ => return None,
        };
        Some(PowerSpec::new(state))
    }
}
