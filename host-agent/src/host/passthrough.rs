//! GPUs given to VMs whole (DirectPath I/O). The list is exact: GPUs that it does not choose stay with (or go
//! back to) the host, because a GPU is passed through *or* serves vGPUs. Configured and active are two things
//! (facts: failures F31): from ESXi 7.0 on a change is asked to apply at once, and only where it did not, one
//! reboot makes it active. Where that reboot leaves it configured and not active, as 7.0 and 8.0 are known to
//! do, it is turned off and on again, once.

use crate::esxcli;
use crate::facts::esx_version::EsxVersion;
use crate::facts::gpu_users::{GpuUser, GpuUsers};
use crate::facts::pci_gpus::{PciGpu, PciGpus, is_passthru};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, de};
use std::collections::BTreeMap;
use vsgpu_core::gpu_selector::{Candidate, GpuChoice, pick};
use vsgpu_core::knowledge::vgpu_types;
use vsgpu_core::requirement::{Cost, Implied, Needs, OnceMore, TakesEffect};
use vsgpu_core::units::Bdf;
use vsgpu_core::{Command, Effect, Fact, Observation, Probe, Requirement, Subject, Unreadable, Verdict};

/// Passthrough of a host.
pub struct Passthrough;

/// Which GPUs are given away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PassthroughSpec {
    /// Choices; none at all takes every GPU back.
    pub gpus: Vec<GpuChoice>,
    /// Whether the host may be rebooted for it.
    pub reboot: Reboot,
    /// Filled in by the plan: what is configured and not active is turned off and on.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub again: bool,
}

/// Whether a reboot is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Reboot {
    /// One, in maintenance mode, where the change does not apply at once.
    IfNeeded,
    /// No: VMs go on running, and what does not apply at once is said.
    Never,
}

impl<'de> Deserialize<'de> for PassthroughSpec {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Long {
            gpus: serde_json::Value,
            #[serde(default = "if_needed")]
            reboot: Reboot,
            #[serde(default)]
            again: bool,
        }
        fn if_needed() -> Reboot {
            Reboot::IfNeeded
        }
        let value = serde_json::Value::deserialize(input)?;
        let Long { gpus, reboot, again } = match value {
            map @ serde_json::Value::Object(_) if map.get("gpus").is_some() || map.get("model").is_none() => {
                serde_json::from_value(map).map_err(de::Error::custom)?
            }
            gpus => Long { gpus, reboot: Reboot::IfNeeded, again: false },
        };
        let gpus = match gpus {
            serde_json::Value::String(word) if word == "none" => vec![],
            list @ serde_json::Value::Array(_) => serde_json::from_value(list).map_err(de::Error::custom)?,
            one => vec![serde_json::from_value(one).map_err(de::Error::custom)?],
        };
        Ok(Self { gpus, reboot, again })
    }
}

impl JsonSchema for PassthroughSpec {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Passthrough".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let choice = generator.subschema_for::<GpuChoice>();
        let gpus =
            json_schema!({ "anyOf": [choice, { "const": "none" }, { "type": "array", "items": choice }] });
        let reboot = generator.subschema_for::<Reboot>();
        json_schema!({
            "anyOf": [gpus, { "type": "object", "additionalProperties": false, "required": ["gpus"], "properties": { "gpus": gpus, "reboot": reboot } }]
        })
    }
}

/// NVIDIA's devices with their owners.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct HostPassthrough {
    /// NVIDIA's functions on the bus.
    pub devices: Vec<PciGpu>,
    /// What is configured, by address, as `pcipassthru list` says.
    pub enabled: BTreeMap<String, bool>,
    /// Release of ESXi.
    pub esx_version: String,
    /// This release has no command for it (asked, and answered so).
    #[serde(default)]
    pub unknown_command: bool,
    /// GPUs that running VMs use: address and VM. A vGPU uses every GPU of its kind that is not given away.
    #[serde(default)]
    pub in_use: BTreeMap<String, String>,
}

const LIST: [&str; 4] = ["hardware", "pci", "pcipassthru", "list"];

/// Reads `hardware pci pcipassthru list`.
pub fn enabled(records: &[vsgpu_core::readers::esxcli::Record]) -> Result<BTreeMap<String, bool>, String> {
    let row = |r: &vsgpu_core::readers::esxcli::Record| {
        let at = r.need("Device ID")?.parse::<Bdf>()?.to_string();
        Ok((at, r.flag("Enabled").ok_or("a device has no `Enabled`")?))
    };
    records.iter().map(row).collect()
}

impl Fact for HostPassthrough {
    const NAME: &'static str = "passthrough";
    const ABOUT: &'static str = "DirectPath I/O of each NVIDIA device: capable, configured, active";
    fn probes(on: &Subject, seen: &Observation) -> Vec<Probe> {
        [PciGpus::ask(seen), esxcli::probes(&LIST, seen), EsxVersion::ask(seen), GpuUsers::probes(on, seen)]
            .concat()
    }
    fn parse(on: &Subject, seen: &Observation) -> Result<Self, Unreadable> {
        let devices = PciGpus::parse(on, seen)?.devices;
        // On 6.7 the namespace may be missing (facts: esxi C2, uncertain): the owners of `pci list` say the
        // same.
        let listed = esxcli::parsed(&LIST, seen, enabled);
        let unknown_command =
            listed.as_ref().is_err_and(|why| why.message.contains("Unknown command or namespace"));
        let mut enabled = listed.unwrap_or_default();
        enabled.retain(|at, _| devices.iter().any(|d| d.address == *at));
        let users = GpuUsers::parse(on, seen).map(|u| u.vms).unwrap_or_default();
        let in_use = devices.iter().filter_map(|d| Some((d.address.clone(), user_of(d, &users)?))).collect();
        Ok(Self {
            devices,
            enabled,
            esx_version: EsxVersion::parse(on, seen)?.version,
            unknown_command,
            in_use,
        })
    }
    fn sentence(&self) -> Option<String> {
        let one = |gpu: &PciGpu| {
            let on = self.enabled.get(&gpu.address).copied();
            format!(
                "{} {}",
                gpu.address,
                match on {
                    Some(true) => "on",
                    Some(false) => "off",
                    None => "not known",
                }
            )
        };
        Some(vsgpu_core::words::first(self.devices.iter().map(one), 8, "no NVIDIA GPU on the PCI bus"))
    }
}

/// A running VM that uses a device.
fn user_of(device: &PciGpu, users: &[GpuUser]) -> Option<String> {
    let token = device.candidate().model().map(|m| m.token);
    let of_kind = |profile: &String| {
        vgpu_types::find(profile)
            .is_none_or(|t| token.is_none_or(|token| token.eq_ignore_ascii_case(t.token)))
    };
    // Which of its kind a VM with Dynamic DirectPath got is not told: it may be this one.
    let id = device.device_id.as_ref().map(|id| format!("{}:{id}", device.vendor_id).to_lowercase());
    let may_get =
        |allowed: &String| id.as_ref().is_none_or(|id| allowed.to_lowercase().contains(id.as_str()));
    let uses = |user: &&GpuUser| match device.is_passed_through() {
        true => user.fixed.contains(&device.address) || user.dynamic.iter().any(may_get),
        false => user.vgpus.iter().any(of_kind),
    };
    users.iter().filter(|user| user.running).find(uses).map(|user| user.vm.clone())
}

impl HostPassthrough {
    fn gpus(&self) -> Vec<&PciGpu> {
        self.devices.iter().filter(|d| d.is_gpu()).collect()
    }

    /// Configured for passthrough: active after the next reboot at the latest.
    pub fn configured(&self, gpu: &PciGpu) -> bool {
        self.enabled
            .get(&gpu.address)
            .copied()
            .unwrap_or_else(|| is_passthru(gpu.configured_owner.as_deref()))
    }

    /// Other functions of the same board: they change hands with the GPU.
    fn companions(&self, gpu: &PciGpu) -> Vec<String> {
        let at = gpu.address.parse::<Bdf>();
        let other = |d: &&PciGpu| matches!((&at, d.address.parse::<Bdf>()), (Ok(a), Ok(b)) if b.same_slot(a));
        let slot = self.devices.iter().filter(other).map(|d| d.address.clone());
        slot.chain(gpu.dependent_device.clone()).collect()
    }

    /// Sets one GPU.
    fn set(&self, gpu: &PciGpu, enable: bool) -> Effect {
        let enable = if enable { "true" } else { "false" };
        let mut args = vec!["hardware", "pci", "pcipassthru", "set", "-d", &gpu.address, "-e", enable];
        if self.applies_at_once() {
            args.push("-a");
        }
        // Exit status 1 with these words is how esxcli says that nothing is to do (facts: esxi C2).
        Effect::Run { command: Command::new("esxcli", args), already: Some("already configured".into()) }
    }

    /// Turns each of these off and on again.
    fn off_and_on(&self, gpus: &[&PciGpu]) -> Vec<Effect> {
        gpus.iter().flat_map(|gpu| [self.set(gpu, false), self.set(gpu, true)]).collect()
    }

    fn applies_at_once(&self) -> bool {
        EsxVersion::major(&self.esx_version).is_some_and(|major| major >= 7)
    }

    /// Each GPU, and whether the wish gives it away.
    ///
    /// # Errors
    /// A choice that means no GPU of this host.
    pub fn states(&self, spec: &PassthroughSpec) -> Result<Vec<(&PciGpu, bool)>, String> {
        let gpus = self.gpus();
        let candidates: Vec<Candidate<'_>> = gpus.iter().map(|g| g.candidate()).collect();
        // Of many alike, those that are given away already stay so; then those that can be.
        let chosen = pick(&spec.gpus, &candidates, |at| self.configured(gpus[at]))?;
        Ok(gpus.into_iter().enumerate().map(|(at, gpu)| (gpu, chosen.contains(&at))).collect())
    }
}

/// Addresses in a row.
fn listed(gpus: &[&PciGpu]) -> String {
    let list: Vec<&str> = gpus.iter().map(|g| g.address.as_str()).collect();
    if list.is_empty() { "none".into() } else { list.join(" + ") }
}

impl Requirement for Passthrough {
    const NAME: &'static str = "passthrough";
    const ABOUT: &'static str = "GPUs given to VMs whole (DirectPath I/O); all others stay with the host";
    const AFTER: &'static [&'static str] = &[];
    const NEEDS: Needs = Needs::MaintenanceMode;
    const TAKES_EFFECT: TakesEffect = TakesEffect::AfterReboot;
    const SETTLE_SECS: u32 = 10;
    const IMPLIED_BY: &'static [Implied] = &[];
    const FILLED_IN: &'static [&'static str] = &["again"];
    const EXAMPLE: &'static str = r#"{"gpus": ["0000:3b:00.0", {"model": "A100", "count": 2}]}"#;
    type Spec = PassthroughSpec;
    type Fact = HostPassthrough;

    fn check(spec: &PassthroughSpec, fact: &HostPassthrough) -> Verdict {
        let states = match fact.states(spec) {
            Ok(states) => states,
            Err(why) => {
                return Verdict::blocked(
                    why,
                    "correct `passthrough` of this host; `vsgpu facts` lists its GPUs",
                );
            }
        };
        let of = |which: &dyn Fn(&PciGpu, bool) -> bool| -> Vec<&PciGpu> {
            states.iter().filter(|(gpu, wanted)| which(gpu, *wanted)).map(|(gpu, _)| *gpu).collect()
        };
        let wanted = of(&|_, wanted| wanted);
        if let Some(gpu) = wanted.iter().find(|g| g.passthru_capable == Some(false) && !fact.configured(g)) {
            let any = fact.devices.iter().any(|d| d.passthru_capable == Some(true));
            let hint = if any {
                "other devices of this host are capable: look at the slot, ACS and ARI in the BIOS, and that no boot device hangs on the same bridge"
            } else {
                "no NVIDIA device of this host is capable: turn on VT-d or AMD-Vi (IOMMU) in the BIOS"
            };
            return Verdict::blocked(
                format!("{} ({}) is not passthrough capable", gpu.address, gpu.candidate().shown()),
                hint,
            );
        }
        let with: Vec<String> = wanted.iter().flat_map(|g| fact.companions(g)).collect();
        let with = if with.is_empty() { String::new() } else { format!(" (with {})", with.join(", ")) };
        let wants = format!("{}{with}", listed(&wanted));
        let wrong = of(&|gpu, wanted| fact.configured(gpu) != wanted);
        let pending = of(&|gpu, wanted| fact.configured(gpu) == wanted && gpu.is_passed_through() != wanted);
        let is = listed(&of(&|gpu, _| gpu.is_passed_through()));
        if let Some((gpu, vm)) = wrong
            .iter()
            .find_map(|g| Some((g, fact.in_use.get(&g.address)?)))
            .filter(|_| spec.reboot == Reboot::Never)
        {
            return Verdict::blocked(
                format!("{} is used by {vm}, which runs", gpu.address),
                "shut that VM down, or say `reboot: if-needed` under `passthrough`: the plan then shuts VMs down",
            );
        }
        if fact.unknown_command && !wrong.is_empty() {
            return Verdict::blocked(
                format!("ESXi {} has no `esxcli hardware pci pcipassthru`", fact.esx_version),
                "toggle passthrough in the host client (Manage > Hardware > PCI devices) and reboot once; vsgpu sees it then",
            );
        }
        if !wrong.is_empty() {
            let set = |gpu: &&PciGpu| fact.set(gpu, wanted.iter().any(|w| w.address == gpu.address));
            return Verdict::unmet(is, wants, wrong.iter().map(set).collect());
        }
        match (pending.as_slice(), spec.reboot) {
            ([], _) => Verdict::met(format!("{is}{with}")),
            // A GPU that goes back to the host is not known to need it.
            (pending, _) if spec.again && pending.iter().any(|gpu| fact.configured(gpu)) => {
                let given: Vec<&PciGpu> =
                    pending.iter().copied().filter(|gpu| fact.configured(gpu)).collect();
                let is = format!("{is}; configured, not yet active: {}", listed(pending));
                Verdict::unmet(is, wants, fact.off_and_on(&given))
            }
            (pending, Reboot::IfNeeded) => {
                Verdict::pending(format!("{is}; configured, not yet active: {}", listed(pending)), wants)
            }
            (pending, Reboot::Never) => Verdict::blocked(
                format!("{} is configured, but did not change hands at once", listed(pending)),
                "reboot the host when it suits, or say `reboot: if-needed` under `passthrough`",
            ),
        }
    }

    fn gpus_named(spec: &PassthroughSpec) -> Vec<String> {
        let name = |choice: &GpuChoice| match choice {
            GpuChoice::All => None,
            GpuChoice::At(at) => Some(at.to_string()),
            GpuChoice::Model { model, .. } => Some(model.clone()),
        };
        spec.gpus.iter().filter_map(name).collect()
    }

    fn as_spec(fact: &HostPassthrough) -> Option<PassthroughSpec> {
        let given = fact.gpus().into_iter().filter(|g| fact.configured(g));
        Some(PassthroughSpec {
            gpus: given.map(|g| g.address.parse().map(GpuChoice::At)).collect::<Result<_, _>>().ok()?,
            reboot: Reboot::IfNeeded,
            again: false,
        })
    }

    fn why_stuck() -> &'static str {
        "a stale record of the device in the host's ConfigStore does that: look there, at VT-d or AMD-Vi and ACS in the BIOS, and reboot by hand once"
    }

    fn once_more(spec: &PassthroughSpec, fact: &HostPassthrough) -> OnceMore<PassthroughSpec> {
        let states = fact.states(spec).ok().filter(|_| fact.applies_at_once())?;
        let given: Vec<&PciGpu> = states
            .iter()
            .filter(|(gpu, wanted)| *wanted && !gpu.is_passed_through())
            .map(|(gpu, _)| *gpu)
            .collect();
        let again = PassthroughSpec { again: true, ..spec.clone() };
        (spec.reboot == Reboot::IfNeeded && !given.is_empty()).then(|| (again, fact.off_and_on(&given)))
    }

    fn cost(spec: &PassthroughSpec, fact: &HostPassthrough) -> Cost {
        if spec.reboot == Reboot::Never {
            return Cost { needs: Needs::Nothing, takes_effect: TakesEffect::AtOnce, sure: true };
        }
        let changes = fact
            .states(spec)
            .is_ok_and(|all| all.iter().any(|(gpu, wanted)| fact.configured(gpu) != *wanted));
        Cost {
            needs: Self::NEEDS,
            takes_effect: Self::TAKES_EFFECT,
            sure: !(changes && fact.applies_at_once()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu(address: &str, configured: &str, current: &str) -> PciGpu {
        PciGpu {
            address: address.into(),
            vendor_id: "10de".into(),
            device_id: Some("20f1".into()),
            device_name: Some("GA100 [A100 PCIe 40GB]".into()),
            configured_owner: Some(configured.into()),
            current_owner: Some(current.into()),
            module: None,
            passthru_capable: Some(true),
            subsystem_id: None,
            class: Some("0x0302".into()),
            numa_node: None,
            dependent_device: None,
            reset_method: None,
            virtual_function: false,
        }
    }

    fn fact(esx: &str, devices: Vec<PciGpu>) -> HostPassthrough {
        HostPassthrough {
            devices,
            enabled: BTreeMap::new(),
            esx_version: esx.into(),
            unknown_command: false,
            in_use: BTreeMap::new(),
        }
    }

    fn spec(value: serde_json::Value) -> PassthroughSpec {
        serde_json::from_value(value).unwrap_or_else(|e| panic!("{e}"))
    }

    const VM: &str = "VM Passthru";
    const HOST: &str = "VMkernel";

    #[test]
    fn gpus_are_given_and_taken_back() {
        let two = || vec![gpu("0000:3b:00.0", HOST, HOST), gpu("0000:af:00.0", VM, VM)];
        let commands =
            |esx: &str, wish: serde_json::Value| match Passthrough::check(&spec(wish), &fact(esx, two())) {
                Verdict::Unmet { effects, .. } => effects.iter().map(ToString::to_string).collect::<Vec<_>>(),
                other => panic!("{other:?}"),
            };
        let set = "esxcli hardware pci pcipassthru set -d 0000:";
        assert_eq!(commands("8.0.3", serde_json::json!("all")), [format!("{set}3b:00.0 -e true -a")]);
        assert_eq!(commands("6.7.0", serde_json::json!("all")), [format!("{set}3b:00.0 -e true")]);
        assert_eq!(commands("8.0.3", serde_json::json!("none")), [format!("{set}af:00.0 -e false -a")]);
        assert_eq!(
            commands("8.0.3", serde_json::json!(["0000:3b:00.0"])),
            [format!("{set}3b:00.0 -e true -a"), format!("{set}af:00.0 -e false -a")]
        );
        // One of a model: the one that is given already.
        assert!(
            Passthrough::check(
                &spec(serde_json::json!([{ "model": "A100", "count": 1 }])),
                &fact("8.0.3", two())
            )
            .is_met()
        );
    }

    #[test]
    fn configured_is_not_active() {
        let pending = fact("8.0.3", vec![gpu("0000:3b:00.0", VM, HOST)]);
        let wish = spec(serde_json::json!("all"));
        assert!(
            matches!(Passthrough::check(&wish, &pending), Verdict::Unmet { effects, .. } if effects.is_empty())
        );
        assert!(Passthrough::cost(&wish, &pending).sure);
        assert!(
            !Passthrough::cost(&wish, &fact("8.0.3", vec![gpu("0000:3b:00.0", HOST, HOST)])).sure,
            "may apply at once"
        );
        assert!(Passthrough::cost(&wish, &fact("6.7.0", vec![gpu("0000:3b:00.0", HOST, HOST)])).sure);
        let never = spec(serde_json::json!({ "gpus": "all", "reboot": "never" }));
        assert!(matches!(Passthrough::check(&never, &pending), Verdict::Blocked { .. }));
        let mut used = fact("8.0.3", vec![gpu("0000:3b:00.0", HOST, HOST)]);
        used.in_use.insert("0000:3b:00.0".into(), "payroll".into());
        assert!(
            matches!(Passthrough::check(&never, &used), Verdict::Blocked { why, .. } if why.contains("payroll"))
        );
        assert!(
            !Passthrough::check(&wish, &used).is_met(),
            "with a reboot allowed the planner shuts VMs down first"
        );
    }

    #[test]
    fn what_cannot_be_given_is_said_with_its_companions() {
        let mut lame = gpu("0000:3b:00.0", HOST, HOST);
        lame.passthru_capable = Some(false);
        match Passthrough::check(&spec(serde_json::json!("all")), &fact("8.0.3", vec![lame])) {
            Verdict::Blocked { why, hint, .. } => {
                assert!(why.contains("A100 PCIe 40GB") && hint.contains("VT-d"), "{why} {hint}")
            }
            other => panic!("{other:?}"),
        }
        let mut sound = gpu("0000:3b:00.1", HOST, HOST);
        sound.class = Some("0x0403".into());
        match Passthrough::check(
            &spec(serde_json::json!("all")),
            &fact("8.0.3", vec![gpu("0000:3b:00.0", HOST, HOST), sound]),
        ) {
            Verdict::Unmet { wants, effects, .. } => {
                assert!(wants.contains("with 0000:3b:00.1") && effects.len() == 1, "{wants}")
            }
            other => panic!("{other:?}"),
        }
    }
}
