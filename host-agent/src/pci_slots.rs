//! The `pciPassthruN` slots of a `.vmx`: what is in each, which are free, and how one is filled or emptied.
//! Shared by vGPU and DirectPath I/O; devices of other makers keep their slots.

use std::collections::{BTreeMap, BTreeSet};
use vsgpu_core::units::Bdf;

/// What is in a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Slot {
    /// A vGPU of this profile.
    Vgpu(String),
    /// A device by its address, with vendor and device id as written, lower case and without `0x`.
    Fixed {
        /// Address; `None` where the id is not understood.
        at: Option<Bdf>,
        vendor: String,
        device: String,
        system: String,
    },
    /// Any device of these (`10de:20f1`), placed at power-on.
    Dynamic(Vec<String>),
    Other,
}

impl Slot {
    /// A GPU of NVIDIA, whole.
    pub fn is_nvidia_gpu(&self) -> bool {
        match self {
            Self::Fixed { vendor, .. } => vendor == "10de",
            Self::Dynamic(allowed) => allowed.iter().any(|id| id.starts_with("10de:")),
            Self::Vgpu(_) | Self::Other => false,
        }
    }
}

fn hex(text: &str) -> String {
    text.trim().trim_start_matches("0x").to_lowercase()
}

/// Slots that are present, from keys in lower case.
pub fn slots(keys: &BTreeMap<String, String>) -> BTreeMap<u32, Slot> {
    let present = |n: &u32| {
        keys.get(&format!("pcipassthru{n}.present")).is_some_and(|v| v.eq_ignore_ascii_case("true"))
    };
    let slot = |n: u32| {
        let key = |name: &str| keys.get(&format!("pcipassthru{n}.{name}")).cloned();
        let what = if let Some(profile) = key("vgpu") {
            Slot::Vgpu(profile)
        } else if let Some(id) = key("id") {
            let text = |name: &str| hex(&key(name).unwrap_or_default());
            let system = key("systemid").unwrap_or_default();
            Slot::Fixed {
                at: Bdf::from_vmx_id(&id),
                vendor: text("vendorid"),
                device: text("deviceid"),
                system,
            }
        } else if let Some(allowed) = key("alloweddevices") {
            // `0x10de:0x20f1`, several separated by commas, each possibly followed by further ids.
            let short = |one: &str| one.split(':').take(2).map(hex).collect::<Vec<_>>().join(":");
            Slot::Dynamic(allowed.split(',').map(short).collect())
        } else {
            Slot::Other
        };
        (n, what)
    };
    numbers(keys).into_iter().filter(present).map(slot).collect()
}

fn numbers(keys: &BTreeMap<String, String>) -> BTreeSet<u32> {
    keys.keys().filter_map(|key| key.strip_prefix("pcipassthru")?.split('.').next()?.parse().ok()).collect()
}

/// Numbers that no key names.
pub fn free(keys: &BTreeMap<String, String>) -> impl Iterator<Item = u32> {
    let taken = numbers(keys);
    (0..).filter(move |n| !taken.contains(n))
}

/// A change of `.vmx` keys: a value to set, or nothing to drop the key.
pub type Edit = (String, Option<String>);

/// Drops every key of a slot.
pub fn emptied(keys: &BTreeMap<String, String>, n: u32) -> Vec<Edit> {
    let prefix = format!("pcipassthru{n}.");
    keys.keys().filter(|key| key.starts_with(&prefix)).map(|key| (key.clone(), None)).collect()
}

/// Sets the keys of a slot.
pub fn filled(n: u32, values: &[(&str, &str)]) -> Vec<Edit> {
    values.iter().map(|(key, value)| (format!("pciPassthru{n}.{key}"), Some((*value).to_string()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_slot_is_known() {
        let text = "pciPassthru0.present = \"TRUE\"\npciPassthru0.id = \"0:66:0.0\"\npciPassthru0.deviceId = \"0x1b38\"\npciPassthru0.vendorId = \"0x10DE\"\npciPassthru0.systemId = \"a-b\"\npciPassthru1.present = \"TRUE\"\npciPassthru1.vgpu = \"grid_p100-8q\"\npciPassthru2.present = \"TRUE\"\npciPassthru2.allowedDevices = \"0x10de:0x20f1,0x10de:0x20b5\"\npciPassthru3.present = \"FALSE\"\npciPassthru3.id = \"0:1:0.0\"\npciPassthru28.present = \"TRUE\"\npciPassthru28.id = \"00000:026:00.1\"\npciPassthru28.vendorId = \"0\"\npciPassthru.use64bitMMIO = \"TRUE\"\n";
        let keys = vsgpu_core::readers::vmx::read(text.as_bytes());
        let all = slots(&keys);
        assert_eq!(all.keys().copied().collect::<Vec<_>>(), [0, 1, 2, 28]);
        let Slot::Fixed { at, device, .. } = &all[&0] else { panic!("{all:?}") };
        assert_eq!((at.map(|a| a.to_string()), device.as_str()), (Some("0000:42:00.0".into()), "1b38"));
        assert_eq!(all[&2], Slot::Dynamic(vec!["10de:20f1".into(), "10de:20b5".into()]));
        assert!(
            all[&0].is_nvidia_gpu()
                && all[&2].is_nvidia_gpu()
                && !all[&1].is_nvidia_gpu()
                && !all[&28].is_nvidia_gpu()
        );
        assert_eq!(free(&keys).take(2).collect::<Vec<_>>(), [4, 5]);
        assert_eq!(emptied(&keys, 1).len(), 2);
    }
}
