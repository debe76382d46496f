//! Whole GPUs of the host in a VM (DirectPath I/O): fixed by address, some of a model, or placed at power-on by vendor and
//! device (Dynamic DirectPath). Mind that a `.vmx` writes addresses in decimal (facts: esxi D1). Only NVIDIA's devices are
//! ours: a network card in another slot is never touched.

use super::config::{VmConfig, find};
use super::slots::{Edit, Slot, emptied, filled, free, slots};
use crate::host::ask;
use crate::host::esx::{PciGpu, PciGpus};
use crate::host::{VirtualMachine, VirtualMachines};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, de};
use std::collections::BTreeMap;
use vsgpu_core::gpu_choice::{Candidate, GpuChoice, pick};
use vsgpu_core::requirement::{Implied, Needs, TakesEffect};
use vsgpu_core::units::Bdf;
use vsgpu_core::{Evidence, Fact, Probe, Requirement, Subject, Unreadable, Verdict, vmx};

/// Whole GPUs of a VM.
pub struct VmPassthrough;

/// First virtual hardware that knows Dynamic DirectPath (facts: esxi D1).
const DYNAMIC_HARDWARE: u32 = 17;
/// VMs of one host whose `.vmx` is read to see who holds which GPU.
const MOST_VMS: usize = 512;

/// One wish.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum VmGpu {
    /// By vendor and device, `10de:20f1`, placed at power-on.
    Dynamic {
        /// The ids.
        dynamic: String,
    },
    /// By address or model.
    Fixed(GpuChoice),
}

impl<'de> Deserialize<'de> for VmGpu {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(input)?;
        if let Some(ids) = value.get("dynamic") {
            let ids = ids.as_str().filter(|_| value.as_object().is_some_and(|map| map.len() == 1));
            let plain = |id: &str| id.trim().trim_start_matches("0x").to_lowercase();
            let parts = ids.and_then(|ids| ids.split_once(':')).map(|(vendor, device)| (plain(vendor), plain(device)));
            let right = |id: &str| id.len() == 4 && id.chars().all(|c| c.is_ascii_hexdigit());
            return match parts {
                Some((vendor, device)) if vendor == "10de" && right(&device) => Ok(Self::Dynamic { dynamic: format!("{vendor}:{device}") }),
                _ => Err(de::Error::custom("dynamic: vendor and device of an NVIDIA GPU are expected, such as \"10de:20f1\"")),
            };
        }
        match serde_json::from_value(value).map_err(de::Error::custom)? {
            GpuChoice::All => Err(de::Error::custom("`all` is no choice for a VM: name addresses, a model, or so many of a model")),
            // A VM that wishes for a model wants one of it.
            GpuChoice::Model { model, count: None } => Ok(Self::Fixed(GpuChoice::Model { model, count: Some(1) })),
            choice => Ok(Self::Fixed(choice)),
        }
    }
}

impl JsonSchema for VmGpu {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "VmGpu".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let fixed = generator.subschema_for::<GpuChoice>();
        json_schema!({
            "anyOf": [fixed, {
                "type": "object", "additionalProperties": false, "required": ["dynamic"],
                "properties": { "dynamic": { "type": "string", "description": "Vendor and device, `10de:20f1`, placed at power-on" } }
            }]
        })
    }
}

impl VmGpu {
    /// How many GPUs it is.
    pub fn count(&self) -> u32 {
        match self {
            Self::Fixed(GpuChoice::Model { count, .. }) => count.unwrap_or(1),
            Self::Fixed(_) | Self::Dynamic { .. } => 1,
        }
    }
}

impl std::fmt::Display for VmGpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Dynamic { dynamic } => write!(f, "any {dynamic}"),
            Self::Fixed(choice) => write!(f, "{choice}"),
        }
    }
}

/// A VM's configuration beside the GPUs of its host and who holds them.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct VmDevices {
    /// The VM.
    #[serde(flatten)]
    pub config: VmConfig,
    /// NVIDIA's display controllers of the host.
    pub gpus: Vec<PciGpu>,
    /// NVIDIA's other devices (NVSwitches, sound functions), by address: they are none of ours.
    #[serde(default)]
    pub no_gpus: Vec<String>,
    /// The host's UUID, which a fixed device names.
    pub system_id: String,
    /// GPUs by address that other VMs of the host have in their `.vmx`, with the VM's name.
    pub held: BTreeMap<String, String>,
}

const UUID: [&str; 3] = ["system", "uuid", "get"];

fn others<'a>(on: &Subject, all: &'a VirtualMachines) -> impl Iterator<Item = &'a VirtualMachine> {
    let own = on.vm.clone();
    all.vms.iter().filter(move |vm| !vm.infrastructure && Some(&vm.name) != own.as_ref()).take(MOST_VMS)
}

/// A `.vmx` that cannot be read is one VM whose devices are not known: that is no reason to know nothing.
pub(crate) fn slots_of(vmx_file: &str, seen: &Evidence) -> BTreeMap<u32, Slot> {
    seen.file(vmx_file).ok().flatten().map(|text| slots(&vmx::read(text.as_bytes()))).unwrap_or_default()
}

impl Fact for VmDevices {
    const NAME: &'static str = "vm-devices";
    const ABOUT: &'static str = "PCI devices of the VM, beside the GPUs of its host and who holds them";
    fn probes(on: &Subject, seen: &Evidence) -> Vec<Probe> {
        let mut probes = [VmConfig::probes(on, seen), PciGpus::ask(seen), ask::probes(&UUID, seen)].concat();
        if let Ok(all) = VirtualMachines::parse(on, seen) {
            probes.extend(others(on, &all).map(|vm| Probe::Read(vm.vmx.clone())));
        }
        probes
    }
    fn parse(on: &Subject, seen: &Evidence) -> Result<Self, Unreadable> {
        find(on, seen)?;
        let system_id = ask::parsed(&UUID, seen, |records| {
            let word = records.first().map(|r| r.title.trim().to_lowercase()).unwrap_or_default();
            let right = word.len() == 36 && word.chars().all(|c| c.is_ascii_hexdigit() || c == '-');
            if right { Ok(word) } else { Err("the answer is no UUID".into()) }
        })?;
        let mut held = BTreeMap::new();
        for vm in others(on, &VirtualMachines::parse(on, seen)?) {
            for slot in slots_of(&vm.vmx, seen).into_values() {
                if let Slot::Fixed { at: Some(at), .. } = slot {
                    held.insert(at.to_string(), vm.name.clone());
                }
            }
        }
        let bus = PciGpus::parse(on, seen)?;
        let gpus = bus.gpus().into_iter().cloned().collect();
        let no_gpus = bus.devices.iter().filter(|d| !d.is_gpu()).map(|d| d.address.clone()).collect();
        Ok(Self { config: VmConfig::parse(on, seen)?, gpus, no_gpus, system_id, held })
    }
}

impl VmDevices {
    /// Slots with a whole GPU of NVIDIA.
    fn current(&self) -> BTreeMap<u32, Slot> {
        let ours = |slot: &Slot| match slot {
            Slot::Fixed { at: Some(at), .. } => slot.is_nvidia_gpu() && !self.no_gpus.contains(&at.to_string()),
            other => other.is_nvidia_gpu(),
        };
        slots(&self.config.keys).into_iter().filter(|(_, slot)| ours(slot)).collect()
    }

    /// The GPUs that these wishes mean, as indexes of `gpus`, and the dynamic wishes.
    fn chosen<'a>(&self, spec: &'a [VmGpu]) -> Result<(Vec<usize>, Vec<&'a str>), String> {
        let fixed: Vec<GpuChoice> =
            spec.iter().filter_map(|w| if let VmGpu::Fixed(choice) = w { Some(choice.clone()) } else { None }).collect();
        let dynamic = spec.iter().filter_map(|w| if let VmGpu::Dynamic { dynamic } = w { Some(dynamic.as_str()) } else { None }).collect();
        let own: Vec<String> = self
            .current()
            .into_values()
            .filter_map(|s| if let Slot::Fixed { at, .. } = s { at } else { None })
            .map(|at| at.to_string())
            .collect();
        let picked = settle_choices(&fixed, &self.gpus, &own, &self.held.keys().cloned().collect::<Vec<_>>())?;
        Ok((picked, dynamic))
    }

    /// GPUs that these wishes give the VM.
    pub fn wished(&self, spec: &[VmGpu]) -> Result<Vec<Candidate<'_>>, String> {
        let (fixed, dynamic) = self.chosen(spec)?;
        let of_dynamic = |ids: &str| {
            let device = ids.split_once(':')?.1;
            self.gpus.iter().find(|g| g.device_id.as_deref() == Some(device)).map(PciGpu::candidate)
        };
        let mut all: Vec<Candidate<'_>> = fixed.into_iter().map(|at| self.gpus[at].candidate()).collect();
        for ids in dynamic {
            all.push(of_dynamic(ids).ok_or_else(|| format!("this host has no GPU {ids}"))?);
        }
        Ok(all)
    }

    /// GPUs that the VM has now.
    pub fn has(&self) -> Vec<Candidate<'_>> {
        let of = |slot: Slot| match slot {
            Slot::Fixed { at, .. } => self.gpus.iter().find(|g| at.map(|a| a.to_string()).as_deref() == Some(&g.address)),
            Slot::Dynamic(allowed) => {
                self.gpus.iter().find(|g| allowed.iter().any(|ids| ids.split_once(':').map(|p| p.1) == g.device_id.as_deref()))
            }
            Slot::Vgpu(_) | Slot::Other => None,
        };
        self.current().into_values().filter_map(of).map(PciGpu::candidate).collect()
    }

    fn is_right(&self, slot: &Slot, gpu: &PciGpu) -> bool {
        matches!(slot, Slot::Fixed { at: Some(at), vendor, device, system }
            if at.to_string() == gpu.address && *vendor == gpu.vendor_id && Some(device) == gpu.device_id.as_ref() && system.eq_ignore_ascii_case(&self.system_id))
    }
}

/// Which GPUs of a host are meant by a VM's choices: those it has already first, then free ones; GPUs of others only where
/// they are named by address.
///
/// # Errors
/// The first choice that cannot be met.
pub fn settle_choices(choices: &[GpuChoice], gpus: &[PciGpu], own: &[String], taken: &[String]) -> Result<Vec<usize>, String> {
    let named = |gpu: &PciGpu| choices.iter().any(|c| matches!(c, GpuChoice::At(at) if at.to_string() == gpu.address));
    let is_open = |at: &usize| named(&gpus[*at]) || own.contains(&gpus[*at].address) || !taken.contains(&gpus[*at].address);
    let mut open: Vec<usize> = (0..gpus.len()).filter(is_open).collect();
    // What the host has given away (or will have) before what it keeps for itself.
    open.sort_by_key(|at| !gpus[*at].is_given());
    let candidates: Vec<Candidate<'_>> = open.iter().map(|at| gpus[*at].candidate()).collect();
    let ready = |at: usize| own.contains(&gpus[open[at]].address);
    let picked = pick(choices, &candidates, ready).map_err(|why| {
        let held = gpus.len() - open.len();
        if held > 0 { format!("{why}; {held} more belong to other VMs") } else { why }
    })?;
    Ok(picked.into_iter().map(|at| open[at]).collect())
}

fn shown(slot: &Slot) -> String {
    match slot {
        Slot::Fixed { at: Some(at), .. } => at.to_string(),
        Slot::Dynamic(allowed) => format!("any {}", allowed.join(" or ")),
        _ => "a device that is not understood".into(),
    }
}

fn listed(texts: impl IntoIterator<Item = String>) -> String {
    let list: Vec<String> = texts.into_iter().collect();
    if list.is_empty() { "none".into() } else { list.join(" + ") }
}

impl Requirement for VmPassthrough {
    const NAME: &'static str = "passthrough";
    const ABOUT: &'static str = "Whole GPUs of the VM (DirectPath I/O)";
    const AFTER: &'static [&'static str] = &["firmware", "memory-reserved", "vgpu"];
    const NEEDS: Needs = Needs::VmsOff;
    const TAKES_EFFECT: TakesEffect = TakesEffect::AtOnce;
    const SETTLE_SECS: u32 = 0;
    const IMPLIED_BY: &'static [Implied] = &[];
    const EXAMPLE: &'static str = r#"["0000:3b:00.0", {"model": "A100", "count": 2}, {"dynamic": "10de:1eb8"}]"#;
    const VMX_KEYS: &'static [&'static str] = &["pcipassthru"];
    type Spec = Vec<VmGpu>;
    type Fact = VmDevices;

    fn check(spec: &Vec<VmGpu>, fact: &VmDevices) -> Verdict {
        let (fixed, dynamic) = match fact.chosen(spec) {
            Ok(chosen) => chosen,
            Err(why) => return Verdict::blocked(why, "correct `passthrough` of this VM; `vsgpu facts` lists the host's GPUs"),
        };
        if !dynamic.is_empty() && fact.config.hardware_version.is_some_and(|v| v < DYNAMIC_HARDWARE) {
            return Verdict::blocked(
                format!(
                    "Dynamic DirectPath needs virtual hardware {DYNAMIC_HARDWARE}, the VM has {}",
                    fact.config.hardware_version.unwrap_or_default()
                ),
                "upgrade the VM's hardware version, or name the GPU by its address",
            );
        }
        let has = fact.current();
        let mut open_fixed: Vec<&PciGpu> = fixed.iter().map(|at| &fact.gpus[*at]).collect();
        let mut open_dynamic = dynamic.clone();
        let mut spare: Vec<u32> = vec![];
        for (n, slot) in &has {
            let allowed = |ids: &&str| matches!(slot, Slot::Dynamic(list) if list.len() == 1 && list[0] == **ids);
            if let Some(at) = open_fixed.iter().position(|gpu| fact.is_right(slot, gpu)) {
                open_fixed.remove(at);
            } else if let Some(at) = open_dynamic.iter().position(allowed) {
                open_dynamic.remove(at);
            } else {
                spare.push(*n);
            }
        }
        let mut set: Vec<Edit> = spare.iter().flat_map(|n| emptied(&fact.config.keys, *n)).collect();
        let mut numbers = spare.iter().copied().chain(free(&fact.config.keys));
        for gpu in &open_fixed {
            let at: Option<Bdf> = gpu.address.parse().ok();
            let (Some(n), Some(at), Some(device)) = (numbers.next(), at, &gpu.device_id) else {
                return Verdict::blocked(
                    format!("the device id of {} is not known", gpu.address),
                    "look at `esxcli hardware pci list` on the host",
                );
            };
            let (id, device, vendor) = (at.vmx_id(), format!("0x{device}"), format!("0x{}", gpu.vendor_id));
            let values = [("present", "TRUE"), ("id", &id), ("deviceId", &device), ("vendorId", &vendor), ("systemId", &fact.system_id)];
            set.extend(filled(n, &values.map(|(key, value)| (key, value as &str))));
        }
        for ids in &open_dynamic {
            let Some((n, (vendor, device))) = numbers.next().zip(ids.split_once(':')) else { continue };
            set.extend(filled(n, &[("present", "TRUE"), ("allowedDevices", &format!("0x{vendor}:0x{device}"))]));
        }
        // A slot that is filled anew: what it is set to wins over what is dropped.
        let filled: Vec<String> = set.iter().filter(|(_, v)| v.is_some()).map(|(k, _)| k.to_lowercase()).collect();
        set.retain(|(key, value)| value.is_some() || !filled.contains(&key.to_lowercase()));
        let is = listed(has.values().map(shown));
        let name = |at: &usize| format!("{} {}", fact.gpus[*at].address, fact.gpus[*at].candidate().shown());
        let wants = listed(fixed.iter().map(name).chain(dynamic.iter().map(|ids| format!("any {ids}"))));
        let effects = if set.is_empty() { vec![] } else { fact.config.edit(set) };
        // Only a GPU that the host has really given away can be used.
        let missing = fixed.iter().map(|at| &fact.gpus[*at]).find(|g| !g.is_passed_through());
        match (missing, effects.is_empty()) {
            (Some(gpu), _) => Verdict::waits_for(format!("{}; {} still belongs to the host", is, gpu.address), wants, effects),
            (None, true) => Verdict::met(wants),
            (None, false) => Verdict::unmet(is, wants, effects),
        }
    }

    fn gpus_given(spec: &Vec<VmGpu>) -> usize {
        spec.iter().map(|gpu| gpu.count() as usize).sum()
    }

    fn as_spec(fact: &VmDevices) -> Option<Vec<VmGpu>> {
        let wish = |slot: Slot| match slot {
            Slot::Fixed { at, .. } => at.map(|at| VmGpu::Fixed(GpuChoice::At(at))),
            Slot::Dynamic(allowed) => allowed.into_iter().next().map(|dynamic| VmGpu::Dynamic { dynamic }),
            Slot::Vgpu(_) | Slot::Other => None,
        };
        fact.current().into_values().map(wish).collect()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use serde_json::json;

    pub(in crate::vm) fn devices(text: &str, ids: &[(&str, &str)]) -> VmDevices {
        let gpu = |(address, device): &(&str, &str)| {
            let text = json!({ "address": address, "vendor_id": "10de", "device_id": device, "current_owner": "VM Passthru" });
            serde_json::from_value(text).unwrap_or_else(|e| panic!("{e}"))
        };
        let config = crate::vm::config::tests::with_keys(vmx::read(text.as_bytes()));
        VmDevices {
            config,
            gpus: ids.iter().map(gpu).collect(),
            system_id: "5cf50c99-bcb9-376f-cf64-f40343fc506c".into(),
            held: BTreeMap::new(),
            no_gpus: vec![],
        }
    }

    fn edit(spec: serde_json::Value, fact: &VmDevices) -> String {
        match VmPassthrough::check(&serde_json::from_value(spec).unwrap_or_else(|e| panic!("{e}")), fact) {
            Verdict::Unmet { effects, .. } => effects[1].to_string(),
            other => panic!("{other:?}"),
        }
    }

    const TWO: [(&str, &str); 2] = [("0000:0d:00.0", "20f1"), ("0000:af:00.0", "20f1")];

    #[test]
    fn an_address_is_hex_everywhere_and_decimal_in_the_vmx() {
        assert_eq!(
            edit(json!(["0000:0d:00.0"]), &devices("", &TWO)),
            "edit /vmfs/volumes/ds1/a/a.vmx; pciPassthru0.present = \"TRUE\"; pciPassthru0.id = \"00000:013:00.0\"; pciPassthru0.deviceId = \"0x20f1\"; pciPassthru0.vendorId = \"0x10de\"; pciPassthru0.systemId = \"5cf50c99-bcb9-376f-cf64-f40343fc506c\""
        );
        assert!(
            edit(json!([{ "dynamic": "0x10DE:0x20F1" }]), &devices("", &TWO)).contains("pciPassthru0.allowedDevices = \"0x10de:0x20f1\"")
        );
    }

    #[test]
    fn exchange_and_removal_leave_no_old_key_and_no_foreign_slot_is_touched() {
        let text = "pciPassthru0.present = \"TRUE\"\npciPassthru0.id = \"00000:026:00.1\"\npciPassthru0.vendorId = \"0x15b3\"\npciPassthru1.present = \"TRUE\"\npciPassthru1.id = \"00000:013:00.0\"\npciPassthru1.vendorId = \"0x10de\"\npciPassthru1.deviceId = \"0x20f1\"\npciPassthru1.systemId = \"5cf50c99-bcb9-376f-cf64-f40343fc506c\"\npciPassthru1.pciSlotNumber = \"64\"\n";
        let fact = devices(text, &TWO);
        assert!(VmPassthrough::check(&serde_json::from_value(json!(["A100"])).unwrap_or_default(), &fact).is_met(), "it keeps what it has");
        let exchanged = edit(json!(["0000:af:00.0"]), &fact);
        assert!(
            exchanged.contains("pciPassthru1.id = \"00000:175:00.0\"") && exchanged.contains("drop pcipassthru1.pcislotnumber"),
            "{exchanged}"
        );
        assert!(!exchanged.contains("assthru0"), "{exchanged}");
        let removed = edit(json!([]), &fact);
        assert!(removed.contains("drop pcipassthru1.id") && !removed.contains("TRUE") && !removed.contains("assthru0"), "{removed}");
        // Another host's UUID: the device is written again.
        let mut moved = fact.clone();
        moved.system_id = "00000000-0000-0000-0000-000000000001".into();
        assert!(edit(json!(["0000:0d:00.0"]), &moved).contains("systemId = \"00000000-"), "written for this host");
    }

    #[test]
    fn an_nvswitch_is_no_gpu_and_stays() {
        let text = "pciPassthru0.present = \"TRUE\"\npciPassthru0.id = \"00000:026:00.0\"\npciPassthru0.vendorId = \"0x10de\"\npciPassthru0.deviceId = \"0x22a3\"\n";
        let mut fact = devices(text, &TWO);
        fact.no_gpus = vec!["0000:1a:00.0".into()];
        let added = edit(json!(["0000:0d:00.0"]), &fact);
        assert!(added.contains("pciPassthru1.id") && !added.contains("assthru0"), "{added}");
    }

    #[test]
    fn a_gpu_of_another_vm_or_of_the_host_is_not_taken() {
        let mut fact = devices("", &TWO);
        fact.held.insert("0000:0d:00.0".into(), "other".into());
        assert!(edit(json!(["A100"]), &fact).contains("00000:175:00.0"));
        let two = serde_json::from_value(json!([{ "model": "A100", "count": 2 }])).unwrap_or_default();
        assert!(matches!(VmPassthrough::check(&two, &fact), Verdict::Blocked { why, .. } if why.contains("1 more belong")));
        fact.gpus[1].current_owner = Some("VMkernel".into());
        let one = serde_json::from_value(json!(["0000:af:00.0"])).unwrap_or_default();
        assert!(matches!(VmPassthrough::check(&one, &fact), Verdict::Waits { effects, .. } if effects.len() == 3));
    }
}
