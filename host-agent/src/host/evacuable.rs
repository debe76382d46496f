//! Whether every VM that runs can leave the host as the plan says. Asked before the first VM is shut down for it: an hour
//! may lie between the plan and its turn. Not a key of the fleet file.

use crate::facts::Evacuation;
use crate::facts::evacuation::Way;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use vsgpu_core::requirement::{Implied, Needs, TakesEffect};
use vsgpu_core::words::first;
use vsgpu_core::{Requirement, Verdict};

/// VMs can leave.
pub struct Evacuable;

/// VMs in a message.
const NAMED: usize = 5;

/// How they are to leave.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct EvacuableSpec {
    /// VMs that will be off by then, by name.
    #[serde(default)]
    pub off: Vec<String>,
    /// Somebody moves what DRS leaves.
    #[serde(default)]
    pub by_hand: bool,
}

impl Requirement for Evacuable {
    const NAME: &'static str = "evacuable";
    const ABOUT: &'static str = "Every VM that runs can leave the host (asked by the plan)";
    const AFTER: &'static [&'static str] = &[];
    const NEEDS: Needs = Needs::Nothing;
    const TAKES_EFFECT: TakesEffect = TakesEffect::AtOnce;
    const SETTLE_SECS: u32 = 0;
    const IMPLIED_BY: &'static [Implied] = &[];
    const EXAMPLE: &'static str = r#"{"off": ["vm-01"], "by-hand": false}"#;
    const IS_KEY: bool = false;
    type Spec = EvacuableSpec;
    type Fact = Evacuation;

    fn check(spec: &EvacuableSpec, fact: &Evacuation) -> Verdict {
        let Some(forecast) = &fact.forecast else {
            return Verdict::blocked(
                "vCenter is not asked here",
                "serve the host by `vsgpu-host-agent gateway serve`",
            );
        };
        let stays = |way: Way| match way {
            Way::Drs => false,
            Way::ByHand => !spec.by_hand,
            Way::Off | Way::Unknown => true,
        };
        let stuck: Vec<String> = forecast
            .vms
            .iter()
            .filter(|vm| !spec.off.contains(&vm.name) && stays(vm.way))
            .map(|vm| format!("{} ({})", vm.name, vm.why))
            .collect();
        match stuck.is_empty() {
            true => Verdict::met(forecast.sentence()),
            false => Verdict::blocked(
                format!("not every VM can leave the host now: {}", first(stuck.into_iter(), NAMED, "")),
                "no VM was moved or shut down for it; `vsgpu plan` shows how it is now",
            ),
        }
    }

    fn as_spec(_: &Evacuation) -> Option<EvacuableSpec> {
        None
    }
}
