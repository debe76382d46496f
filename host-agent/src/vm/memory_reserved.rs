//! All memory of the VM reserved: mandatory for vGPU and passthrough (facts: failures F3).

use crate::facts::vm_config::VmConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use vsgpu_core::requirement::{Implied, Needs, TakesEffect};
use vsgpu_core::{Requirement, Verdict};

/// Memory reservation of a VM.
pub struct MemoryReserved;

/// What is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Share {
    /// All of it.
    All,
}

impl Requirement for MemoryReserved {
    const NAME: &'static str = "memory-reserved";
    const ABOUT: &'static str = "Memory reservation of the VM: all of it, as vGPU and passthrough need";
    const AFTER: &'static [&'static str] = &["clone-of"];
    const NEEDS: Needs = Needs::VmsOff;
    const TAKES_EFFECT: TakesEffect = TakesEffect::AtOnce;
    const SETTLE_SECS: u32 = 0;
    const IMPLIED_BY: &'static [Implied] = &[
        Implied { by: "vgpu", spec: |_| Some(serde_json::json!("all")) },
        Implied { by: "passthrough", spec: |_| Some(serde_json::json!("all")) },
    ];
    const EXAMPLE: &'static str = r#""all""#;
    const VMX_KEYS: &'static [&'static str] = &["sched.mem."];
    type Spec = Share;
    type Fact = VmConfig;

    fn check(_: &Share, fact: &VmConfig) -> Verdict {
        let all = fact.memory_mib.to_string();
        let wanted =
            [("sched.mem.min", all.as_str()), ("sched.mem.minSize", &all), ("sched.mem.pin", "TRUE")];
        let so = |key: &str, value: &str| {
            fact.keys.get(&key.to_lowercase()).is_some_and(|v| v.eq_ignore_ascii_case(value))
        };
        let missing: Vec<_> = wanted.iter().filter(|(key, value)| !so(key, value)).collect();
        if missing.is_empty() {
            return Verdict::met(format!("all {all} MiB"));
        }
        let is = fact.keys.get("sched.mem.min").map_or("nothing".into(), |min| format!("{min} MiB"));
        let set = missing.iter().map(|(key, value)| (key.to_string(), Some(value.to_string()))).collect();
        Verdict::unmet(is, format!("all {all} MiB"), fact.edit(set))
    }

    fn as_spec(fact: &VmConfig) -> Option<Share> {
        Self::check(&Share::All, fact).is_met().then_some(Share::All)
    }
}
