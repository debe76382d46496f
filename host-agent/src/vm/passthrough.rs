//! Whole GPUs of the host in a VM (DirectPath I/O): fixed by address, some of a model, or placed at power-on
//! by vendor and device (Dynamic DirectPath). Mind that a `.vmx` writes addresses in decimal (facts: esxi
//! D1). Only NVIDIA's devices are ours: a network card in another slot is never touched.

use crate::facts::pci_gpus::PciGpu;
use crate::facts::vm_devices::VmDevices;
use crate::pci_slots::{Edit, Slot, emptied, filled, free};
use crate::vm_gpu::VmGpu;
use vsgpu_core::gpu_selector::GpuChoice;
use vsgpu_core::requirement::{Implied, Needs, TakesEffect};
use vsgpu_core::units::Bdf;
use vsgpu_core::{Requirement, Verdict};

/// Whole GPUs of a VM.
pub struct VmPassthrough;

/// First virtual hardware that knows Dynamic DirectPath (facts: esxi D1).
const DYNAMIC_HARDWARE: u32 = 17;
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
    const EXAMPLE: &'static str =
        r#"["0000:3b:00.0", {"model": "A100", "count": 2}, {"dynamic": "10de:1eb8"}]"#;
    const VMX_KEYS: &'static [&'static str] = &["pcipassthru"];
    type Spec = Vec<VmGpu>;
    type Fact = VmDevices;

    fn check(spec: &Vec<VmGpu>, fact: &VmDevices) -> Verdict {
        let (fixed, dynamic) = match fact.chosen(spec) {
            Ok(chosen) => chosen,
            Err(why) => {
                return Verdict::blocked(
                    why,
                    "correct `passthrough` of this VM; `vsgpu facts` lists the host's GPUs",
                );
            }
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
            let allowed =
                |ids: &&str| matches!(slot, Slot::Dynamic(list) if list.len() == 1 && list[0] == **ids);
            if let Some(at) = open_fixed.iter().position(|gpu| fact.is_right(slot, gpu)) {
                open_fixed.remove(at);
            } else if let Some(at) = open_dynamic.iter().position(allowed) {
                open_dynamic.remove(at);
            } else {
                spare.push(*n);
            }
        }
        if fact.system_id.is_empty() && !open_fixed.is_empty() {
            return Verdict::blocked(
                "vCenter does not say this host's id, which a fixed GPU names",
                "it says it once a GPU of the host is in passthrough mode and the account may read it: `vsgpu-host-agent gateway check`",
            );
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
            let values = [
                ("present", "TRUE"),
                ("id", &id),
                ("deviceId", &device),
                ("vendorId", &vendor),
                ("systemId", &fact.system_id),
            ];
            set.extend(filled(n, &values.map(|(key, value)| (key, value as &str))));
        }
        for ids in &open_dynamic {
            let Some((n, (vendor, device))) = numbers.next().zip(ids.split_once(':')) else { continue };
            set.extend(filled(
                n,
                &[("present", "TRUE"), ("allowedDevices", &format!("0x{vendor}:0x{device}"))],
            ));
        }
        // A slot that is filled anew: what it is set to wins over what is dropped.
        let filled: Vec<String> =
            set.iter().filter(|(_, v)| v.is_some()).map(|(k, _)| k.to_lowercase()).collect();
        set.retain(|(key, value)| value.is_some() || !filled.contains(&key.to_lowercase()));
        let is = listed(has.values().map(shown));
        let name = |at: &usize| format!("{} {}", fact.gpus[*at].address, fact.gpus[*at].candidate().shown());
        let wants = listed(fixed.iter().map(name).chain(dynamic.iter().map(|ids| format!("any {ids}"))));
        let effects = if set.is_empty() { vec![] } else { fact.config.edit(set) };
        // Only a GPU that the host has really given away can be used.
        let missing = fixed.iter().map(|at| &fact.gpus[*at]).find(|g| !g.is_passed_through());
        match (missing, effects.is_empty()) {
            (Some(gpu), _) => Verdict::waits_for(
                format!("{}; {} still belongs to the host", is, gpu.address),
                wants,
                effects,
            ),
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
pub(crate) mod tests {
    use super::*;
    use crate::facts::VmDevices;
    use serde_json::json;
    use std::collections::BTreeMap;
    use vsgpu_core::readers::vmx;

    pub(crate) fn devices(text: &str, ids: &[(&str, &str)]) -> VmDevices {
        let gpu = |(address, device): &(&str, &str)| {
            let text = json!({ "address": address, "vendor_id": "10de", "device_id": device, "current_owner": "VM Passthru" });
            serde_json::from_value(text).unwrap_or_else(|e| panic!("{e}"))
        };
        let config = crate::facts::vm_config::tests::with_keys(vmx::read(text.as_bytes()));
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
            "edit /vmfs/volumes/ds1/a/a.vmx; pciPassthru0.present = \"TRUE\"; pciPassthru0.id = \"00000:013:00.0\"; pciPassthru0.deviceId = \"0x20f1\"; pciPassthru0.vendorId = \"0x10de\"; pciPassthru0.systemId = \"5cf50c99-bcb9-376f-cf64-f40343fc506c\"; vim-cmd vmsvc/reload 3"
        );
        assert!(
            edit(json!([{ "dynamic": "0x10DE:0x20F1" }]), &devices("", &TWO))
                .contains("pciPassthru0.allowedDevices = \"0x10de:0x20f1\"")
        );
    }

    #[test]
    fn exchange_and_removal_leave_no_old_key_and_no_foreign_slot_is_touched() {
        let text = "pciPassthru0.present = \"TRUE\"\npciPassthru0.id = \"00000:026:00.1\"\npciPassthru0.vendorId = \"0x15b3\"\npciPassthru1.present = \"TRUE\"\npciPassthru1.id = \"00000:013:00.0\"\npciPassthru1.vendorId = \"0x10de\"\npciPassthru1.deviceId = \"0x20f1\"\npciPassthru1.systemId = \"5cf50c99-bcb9-376f-cf64-f40343fc506c\"\npciPassthru1.pciSlotNumber = \"64\"\n";
        let fact = devices(text, &TWO);
        assert!(
            VmPassthrough::check(&serde_json::from_value(json!(["A100"])).unwrap_or_default(), &fact)
                .is_met(),
            "it keeps what it has"
        );
        let exchanged = edit(json!(["0000:af:00.0"]), &fact);
        assert!(
            exchanged.contains("pciPassthru1.id = \"00000:175:00.0\"")
                && exchanged.contains("drop pcipassthru1.pcislotnumber"),
            "{exchanged}"
        );
        assert!(!exchanged.contains("assthru0"), "{exchanged}");
        let removed = edit(json!([]), &fact);
        assert!(
            removed.contains("drop pcipassthru1.id")
                && !removed.contains("TRUE")
                && !removed.contains("assthru0"),
            "{removed}"
        );
        // Another host's UUID: the device is written again.
        let mut moved = fact.clone();
        moved.system_id = "00000000-0000-0000-0000-000000000001".into();
        assert!(
            edit(json!(["0000:0d:00.0"]), &moved).contains("systemId = \"00000000-"),
            "written for this host"
        );
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
        assert!(
            matches!(VmPassthrough::check(&two, &fact), Verdict::Blocked { why, .. } if why.contains("1 more belong"))
        );
        fact.gpus[1].current_owner = Some("VMkernel".into());
        let one = serde_json::from_value(json!(["0000:af:00.0"])).unwrap_or_default();
        assert!(
            matches!(VmPassthrough::check(&one, &fact), Verdict::Waits { effects, .. } if effects.len() == 2)
        );
    }
}
