//! Graphics type of a host's GPUs, by default and GPU by GPU: SharedPassthru (the UI's "Shared Direct") for
//! vGPU. Configured and active are two things: the value changes at once, the GPUs follow after a graphics
//! restart or a reboot (facts: failures F4).

use crate::esxcli;
use crate::facts::esx_version::EsxVersion;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use vsgpu_core::gpu_selector::{Candidate, PerGpu};
use vsgpu_core::requirement::{Implied, Needs, Restart, TakesEffect};
use vsgpu_core::{Command, Effect, Fact, Observation, Probe, Requirement, Subject, Unreadable, Verdict};

/// The default graphics type.
pub struct GraphicsType;

/// esxcli's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Type {
    /// vSGA: the host's own graphics.
    Shared,
    /// vGPU. The API says `sharedDirect`, the UI "Shared Direct".
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
    /// Configured type of each device, where the release says it (8.0.3 and later).
    #[serde(default)]
    pub configured: BTreeMap<String, String>,
    /// Release of ESXi.
    #[serde(default)]
    pub esx_version: String,
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

/// What a release does not have is skipped (facts: esxi F3: Xorg on older, nv-hostengine on newer ones).
pub(super) const GRAPHICS: Restart = Restart { name: "graphics", effects: restart };

fn restart() -> Vec<Effect> {
    let run = |program: &str, args: &[&str]| Effect::run(Command::new(program, args.iter().copied()));
    vec![
        run("/etc/init.d/xorg", &["stop"]),
        run("nv-hostengine", &["-t"]),
        run("nv-hostengine", &["-d"]),
        run("/etc/init.d/xorg", &["start"]),
        // Devices are read again, where the release has that command.
        Effect::Run {
            command: Command::new("esxcli", ["graphics", "host", "refresh"]),
            already: Some("Unknown command".into()),
        },
    ]
}

const GET: [&str; 3] = ["graphics", "host", "get"];
const LIST: [&str; 3] = ["graphics", "device", "list"];
const CONFIGURED: [&str; 4] = ["graphics", "device", "list", "--configured-type"];
/// First release with settings of single devices (facts: esxi C2).
pub(crate) const PER_DEVICE: &str = "8.0.3";

/// Reads `graphics host get`: type and policy.
pub fn host(record: &vsgpu_core::readers::esxcli::Record) -> Result<(String, String), String> {
    Ok((
        record.need("Default Graphics Type")?.into(),
        record.need("Shared Passthru Assignment Policy")?.into(),
    ))
}

/// Reads `graphics device list`.
pub fn devices(records: &[vsgpu_core::readers::esxcli::Record]) -> Result<Vec<GraphicsDevice>, String> {
    let device = |r: &vsgpu_core::readers::esxcli::Record| {
        let address = if r.title.is_empty() {
            r.get("Address").or_else(|| r.get("Device ID")).unwrap_or_default()
        } else {
            &r.title
        };
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
    fn probes(_: &Subject, seen: &Observation) -> Vec<Probe> {
        let mut probes =
            [esxcli::probes(&GET, seen), esxcli::probes(&LIST, seen), EsxVersion::ask(seen)].concat();
        if EsxVersion::running(seen).is_some_and(|v| EsxVersion::at_least(&v, PER_DEVICE)) {
            probes.extend(esxcli::probes(&CONFIGURED, seen));
        }
        probes
    }
    fn parse(_: &Subject, seen: &Observation) -> Result<Self, Unreadable> {
        let (default_type, assignment_policy) = esxcli::single(&GET, seen, host)?;
        let mut devices = esxcli::parsed(&LIST, seen, devices)?;
        // The management controller's own graphics chip is no concern of ours.
        devices.retain(|d| d.vendor.as_deref().is_none_or(|v| v.to_ascii_uppercase().contains("NVIDIA")));
        let configured = esxcli::parsed(&CONFIGURED, seen, self::devices).unwrap_or_default();
        let configured = configured.into_iter().map(|d| (d.bdf, d.graphics_type)).collect();
        // Only settings of single GPUs ask for the release: without it they are refused, and all else goes
        // on.
        let esx_version = EsxVersion::running(seen).unwrap_or_default();
        Ok(Self { default_type, assignment_policy, devices, configured, esx_version })
    }
    fn sentence(&self) -> Option<String> {
        Some(format!("{}, VMs placed by {}", self.default_type, self.assignment_policy))
    }
}

impl Requirement for GraphicsType {
    const NAME: &'static str = "graphics-type";
    const ABOUT: &'static str = "Graphics type, of the host or GPU by GPU: SharedPassthru for vGPU";
    const AFTER: &'static [&'static str] = &["vgpu-manager", "passthrough"];
    const NEEDS: Needs = Needs::VmsOff;
    const TAKES_EFFECT: TakesEffect = TakesEffect::AfterRestart(GRAPHICS.name);
    const RESTARTS: &'static [Restart] = &[GRAPHICS];
    const SETTLE_SECS: u32 = 30;
    const IMPLIED_BY: &'static [Implied] = &[];
    const EXAMPLE: &'static str = r#"{"0000:3b:00.0": "Shared", "others": "SharedPassthru"}"#;
    type Spec = PerGpu<Type>;
    type Fact = HostGraphics;

    fn check(spec: &PerGpu<Type>, fact: &HostGraphics) -> Verdict {
        let default = match spec {
            PerGpu::One(default) => Some(*default),
            PerGpu::Each(map) => map.get("others").copied(),
        };
        let candidates: Vec<Candidate<'_>> = fact.devices.iter().map(GraphicsDevice::candidate).collect();
        if let Some(stranger) = spec.strangers(&candidates).first() {
            return Verdict::blocked(
                format!("the host has no GPU `{stranger}`"),
                "correct `graphics-type`; `vsgpu facts` lists the GPUs of the host",
            );
        }
        let single = |device: &GraphicsDevice| spec.of(&device.candidate()).filter(|t| Some(*t) != default);
        if fact.devices.iter().any(|d| single(d).is_some())
            && !EsxVersion::at_least(&fact.esx_version, PER_DEVICE)
        {
            return Verdict::blocked(
                format!(
                    "single GPUs have a graphics type of their own from ESXi {PER_DEVICE} on, this is {}",
                    fact.esx_version
                ),
                "wish for one type for the whole host",
            );
        }
        let (mut is, mut wants, mut effects) = (vec![], vec![], vec![]);
        if let Some(default) = default.filter(|t| fact.default_type != t.word()) {
            is.push(fact.default_type.clone());
            wants.push(default.word().to_string());
            effects.push(Effect::run(Command::new(
                "esxcli",
                ["graphics", "host", "set", "--default-type", default.word()],
            )));
        }
        // A GPU in passthrough (Direct) has no part in it.
        let concerned = fact.devices.iter().filter(|d| d.graphics_type != "Direct");
        let concerned: Vec<(&GraphicsDevice, &str)> =
            concerned.filter_map(|d| Some((d, spec.of(&d.candidate())?.word()))).collect();
        for (device, wanted) in &concerned {
            if let Some(configured) = fact.configured.get(&device.bdf).filter(|c| c != wanted) {
                is.push(format!("{} {configured}", device.bdf));
                wants.push(format!("{} {wanted}", device.bdf));
                effects.push(Effect::run(Command::new(
                    "esxcli",
                    ["graphics", "device", "set", "-d", &device.bdf, "-t", wanted],
                )));
            }
        }
        let all = default.map_or_else(|| "as set".to_string(), |t| t.word().to_string());
        if !effects.is_empty() {
            return Verdict::unmet(is.join(", "), wants.join(", "), effects);
        }
        match concerned.iter().find(|(device, wanted)| device.graphics_type != *wanted) {
            Some((device, wanted)) => Verdict::pending(
                format!("{wanted} configured, {} still {}", device.bdf, device.graphics_type),
                *wanted,
            ),
            None => Verdict::met(all),
        }
    }

    fn gpus_named(spec: &PerGpu<Type>) -> Vec<String> {
        spec.named()
    }

    fn as_spec(fact: &HostGraphics) -> Option<PerGpu<Type>> {
        let of_word =
            |word: &str| [Type::Shared, Type::SharedPassthru].into_iter().find(|t| t.word() == word);
        let default = of_word(&fact.default_type)?;
        let own = |(bdf, word): (&String, &String)| Some((bdf.clone(), of_word(word)?));
        let mut each: BTreeMap<String, Type> =
            fact.configured.iter().filter_map(own).filter(|(_, t)| *t != default).collect();
        if each.is_empty() {
            return Some(PerGpu::One(default));
        }
        each.insert("others".into(), default);
        Some(PerGpu::Each(each))
    }
}

impl HostGraphics {
    /// GPUs that the host's driver drives, as far as the graphics system shows it.
    pub(crate) fn held(&self) -> usize {
        let held = |gpu: &&GraphicsDevice| {
            ["Shared", "SharedPassthru"].contains(&gpu.graphics_type.as_str())
                && gpu.memory_kib.is_some_and(|n| n > 0)
        };
        self.devices.iter().filter(held).count()
    }
}

impl GraphicsDevice {
    fn candidate(&self) -> Candidate<'_> {
        Candidate { address: &self.bdf, device_id: None, subsystem_id: None, name: self.device.as_deref() }
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
        HostGraphics {
            default_type: default.into(),
            assignment_policy: "Performance".into(),
            devices: active.iter().map(device).collect(),
            configured: BTreeMap::new(),
            esx_version: "8.0.3".into(),
        }
    }

    #[test]
    fn configured_and_active_are_two_things() {
        let check = |fact: &HostGraphics| GraphicsType::check(&PerGpu::One(Type::SharedPassthru), fact);
        match check(&fact("Shared", &["Shared"])) {
            Verdict::Unmet { effects, .. } => {
                assert_eq!(effects[0].to_string(), "esxcli graphics host set --default-type SharedPassthru")
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(
            check(&fact("SharedPassthru", &["Shared"])),
            Verdict::pending("SharedPassthru configured, 0000:3b:00.0 still Shared", "SharedPassthru")
        );
        assert!(check(&fact("SharedPassthru", &["SharedPassthru", "Direct"])).is_met());
    }

    #[test]
    fn one_gpu_may_have_another_type_where_the_release_allows_it() {
        let wish: PerGpu<Type> = serde_json::from_value(
            serde_json::json!({ "0000:3b:00.0": "Shared", "others": "SharedPassthru" }),
        )
        .unwrap_or_else(|e| panic!("{e}"));
        let mut host = fact("SharedPassthru", &["SharedPassthru"]);
        host.configured.insert("0000:3b:00.0".into(), "SharedPassthru".into());
        match GraphicsType::check(&wish, &host) {
            Verdict::Unmet { effects, .. } => {
                assert_eq!(effects[0].to_string(), "esxcli graphics device set -d 0000:3b:00.0 -t Shared")
            }
            other => panic!("{other:?}"),
        }
        host.esx_version = "8.0.2".into();
        assert!(matches!(GraphicsType::check(&wish, &host), Verdict::Blocked { .. }));
    }
}
