//! Where a starting vGPU VM is put: on the GPU with the fewest vGPUs (Performance) or the most
//! (Consolidation).

use crate::host::graphics_type::HostGraphics;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use vsgpu_core::requirement::{Implied, Needs, TakesEffect};
use vsgpu_core::{Command, Effect, Requirement, Verdict};

/// The policy of a host.
pub struct AssignmentPolicy;

/// esxcli's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Policy {
    /// Spread.
    Performance,
    /// Fill one GPU after the other.
    Consolidation,
}

impl Policy {
    fn word(self) -> &'static str {
        match self {
            Self::Performance => "Performance",
            Self::Consolidation => "Consolidation",
        }
    }
}

impl Requirement for AssignmentPolicy {
    const NAME: &'static str = "assignment-policy";
    const ABOUT: &'static str = "How vGPUs are spread over the GPUs of the host";
    const AFTER: &'static [&'static str] = &["vgpu-manager"];
    const NEEDS: Needs = Needs::Nothing;
    const TAKES_EFFECT: TakesEffect = TakesEffect::AtOnce;
    const SETTLE_SECS: u32 = 0;
    const IMPLIED_BY: &'static [Implied] = &[];
    const EXAMPLE: &'static str = r#""Consolidation""#;
    type Spec = Policy;
    type Fact = HostGraphics;

    fn check(spec: &Policy, fact: &HostGraphics) -> Verdict {
        let wants = spec.word();
        if fact.assignment_policy == wants {
            return Verdict::met(wants);
        }
        let set =
            Command::new("esxcli", ["graphics", "host", "set", "--shared-passthru-assignment-policy", wants]);
        Verdict::unmet(&fact.assignment_policy, wants, vec![Effect::run(set)])
    }

    fn as_spec(fact: &HostGraphics) -> Option<Policy> {
        [Policy::Performance, Policy::Consolidation].into_iter().find(|p| p.word() == fact.assignment_policy)
    }
}
