//! Default graphics type of a host: SharedPassthru (the UI's "Shared Direct") for vGPU. Configured and active are two
//! things: the value changes at once, the GPUs follow after a graphics restart or a reboot (facts: failures F4).

use super::ask;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use vsgpu_core::requirement::{Needs, TakesEffect};
use vsgpu_core::{Command, Effect, Evidence, Fact, Probe, Requirement, Subject, Unreadable, Verdict};

/// The default graphics type.
pub struct GraphicsType;

/// esxcli's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Type {
    /// vSGA: the host's own graphics.
    Shared,
    /// vGPU.
    SharedPassthru,
}

impl Type {
    fn word(self) -> &'static str {
        match self {
            Self::Shared => "Shared",
            Self::SharedPassthru => "SharedPassthru",
        }
    }
}

/// Graphics of a host, configured and active kept apart.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct HostGraphics {
    /// Configured default type.
    pub default_type: String,
    /// Configured policy for placing vGPUs.
    pub assignment_policy: String,
    /// NVIDIA devices.
    pub devices: Vec<GraphicsDevice>,
}

/// One device of `esxcli graphics device list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GraphicsDevice {
    /// PCI address.
    pub bdf: String,
    /// Vendor name.
    pub vendor: Option<String>,
    /// Device name.
    pub device: Option<String>,
    /// VMkernel module, if one drives it.
    pub module: Option<String>,
    /// Active type: Basic, Shared, SharedPassthru, Direct.
    pub graphics_type: String,
    /// Memory in KiB.
    pub memory_kib: Option<u64>,
    /// VMs that use it.
    pub vms: Option<u32>,
}

const GET: [&str; 3] = ["graphics", "host", "get"];
const LIST: [&str; 3] = ["graphics", "device", "list"];

/// Reads `graphics host get`: type and policy.
pub fn host(record: &vsgpu_core::esxcli::Record) -> Result<(String, String), String> {
    Ok((record.need("Default Graphics Type")?.into(), record.need("Shared Passthru Assignment Policy")?.into()))
}

/// Reads `graphics device list`.
pub fn devices(records: &[vsgpu_core::esxcli::Record]) -> Result<Vec<GraphicsDevice>, String> {
    let device = |r: &vsgpu_core::esxcli::Record| {
        let address = if r.title.is_empty() { r.get("Address").or_else(|| r.get("Device ID")).unwrap_or_default() } else { &r.title };
        Ok(GraphicsDevice {
            bdf: address.parse::<vsgpu_core::units::Bdf>()?.to_string(),
            vendor: r.get("Vendor Name").map(String::from),
            device: r.get("Device Name").map(String::from),
            module: r.get("Module Name").filter(|m| *m != "None").map(String::from),
            graphics_type: r.need("Graphics Type")?.into(),
            memory_kib: r.get("Memory Size in KB").and_then(|n| n.parse().ok()),
            vms: r.get("Number of VMs").and_then(|n| n.parse().ok()),
        })
    };
    records.iter().map(device).collect()
}

impl Fact for HostGraphics {
    const NAME: &'static str = "host-graphics";
    const ABOUT: &'static str = "Default graphics type and policy, and the active type of each GPU";
    fn probes(_: &Subject, seen: &Evidence) -> Vec<Probe> {
        [ask::probes(&GET, seen), ask::probes(&LIST, seen)].concat()
    }
    fn parse(_: &Subject, seen: &Evidence) -> Result<Self, Unreadable> {
        let (default_type, assignment_policy) = ask::single(&GET, seen, host)?;
        let mut devices = ask::parsed(&LIST, seen, devices)?;
        // The management controller's own graphics chip is no concern of ours.
        devices.retain(|d| d.vendor.as_deref().is_none_or(|v| v.to_ascii_uppercase().contains("NVIDIA")));
        Ok(Self { default_type, assignment_policy, devices })
    }
}

impl Requirement for GraphicsType {
    const NAME: &'static str = "graphics-type";
    const ABOUT: &'static str = "Default graphics type of the host: SharedPassthru for vGPU";
    const AFTER: &'static [&'static str] = &["vgpu-manager"];
    const NEEDS: Needs = Needs::VmsOff;
    const TAKES_EFFECT: TakesEffect = TakesEffect::AfterRestart("graphics");
    const SETTLE_SECS: u32 = 30;
    const IMPLIED_BY: Option<(&'static str, &'static str)> = None;
    const EXAMPLE: &'static str = r#""SharedPassthru""#;
    type Spec = Type;
    type Fact = HostGraphics;

    fn check(spec: &Type, fact: &HostGraphics) -> Verdict {
        let wants = spec.word();
        if fact.default_type != wants {
            let set = Command::new("esxcli", ["graphics", "host", "set", "--default-type", wants]);
            return Verdict::unmet(&fact.default_type, wants, vec![Effect::run(set)]);
        }
        // A GPU in passthrough (Direct) has no part in it.
        let mut concerned = fact.devices.iter().filter(|d| d.graphics_type != "Direct");
        match concerned.find(|d| d.graphics_type != wants) {
            Some(device) => Verdict::pending(format!("{wants} configured, {} still {}", device.bdf, device.graphics_type), wants),
            None => Verdict::met(wants),
        }
    }

    fn as_spec(fact: &HostGraphics) -> Option<Type> {
        [Type::Shared, Type::SharedPassthru].into_iter().find(|t| t.word() == fact.default_type)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fact(default: &str, active: &[&str]) -> HostGraphics {
        let device = |t: &&str| GraphicsDevice {
            bdf: "0000:3b:00.0".into(),
            vendor: None,
            device: None,
            module: None,
            graphics_type: t.to_string(),
            memory_kib: None,
            vms: None,
        };
        HostGraphics { default_type: default.into(), assignment_policy: "Performance".into(), devices: active.iter().map(device).collect() }
    }

    #[test]
    fn configured_and_active_are_two_things() {
        let check = |fact: &HostGraphics| GraphicsType::check(&Type::SharedPassthru, fact);
        match check(&fact("Shared", &["Shared"])) {
            Verdict::Unmet { effects, .. } => assert_eq!(effects[0].to_string(), "esxcli graphics host set --default-type SharedPassthru"),
            other => panic!("{other:?}"),
        }
        assert_eq!(
            check(&fact("SharedPassthru", &["Shared"])),
            Verdict::pending("SharedPassthru configured, 0000:3b:00.0 still Shared", "SharedPassthru")
        );
        assert!(check(&fact("SharedPassthru", &["SharedPassthru", "Direct"])).is_met());
    }
}
