//! The vGPUs of a VM: one or several profiles, as `pciPassthruN` devices of the kind `vmiop`. Passthrough devices of the
//! same VM keep their slots.

use super::config::VmConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use vsgpu_core::requirement::{Needs, TakesEffect};
use vsgpu_core::{Requirement, Verdict};

/// vGPUs of a VM.
pub struct Vgpu;

/// A vGPU profile as vSphere spells it: `grid_p100-8q`, `nvidia_a100-40c`. NVIDIA's type name (`GRID P100-8Q`) is understood.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
pub struct Profile(String);

impl TryFrom<String> for Profile {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let name = text.trim().to_lowercase().replace(' ', "_");
        let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c));
        // Every profile of NVIDIA's tables is `<family>_<gpu>-<size><series>`.
        if plain && name.contains('_') && name.rsplit_once('-').is_some_and(|(_, size)| size.starts_with(|c: char| c.is_ascii_digit())) {
            Ok(Self(name))
        } else {
            Err(format!("`{text}` is no vGPU profile like `grid_p100-8q` or `nvidia_a100-40c`"))
        }
    }
}

/// Slots that hold a vGPU, with its profile.
fn current(fact: &VmConfig) -> BTreeMap<u32, String> {
    let slot = |key: &str| key.strip_prefix("pcipassthru")?.strip_suffix(".vgpu")?.parse::<u32>().ok();
    let present = |n: u32| fact.keys.get(&format!("pcipassthru{n}.present")).is_some_and(|v| v.eq_ignore_ascii_case("true"));
    fact.keys.iter().filter_map(|(key, profile)| Some((slot(key)?, profile.clone()))).filter(|(n, _)| present(*n)).collect()
}

/// Slots in use by anything.
fn taken(fact: &VmConfig) -> Vec<u32> {
    let slot = |key: &String| key.strip_prefix("pcipassthru")?.split('.').next()?.parse().ok();
    fact.keys.keys().filter_map(slot).collect()
}

fn listed<'a>(profiles: impl IntoIterator<Item = &'a String>) -> String {
    let list: Vec<&str> = profiles.into_iter().map(String::as_str).collect();
    if list.is_empty() { "none".into() } else { list.join(" + ") }
}

impl Requirement for Vgpu {
    const NAME: &'static str = "vgpu";
    const ABOUT: &'static str = "vGPU profiles of the VM, one per vGPU";
    const AFTER: &'static [&'static str] = &["firmware", "memory-reserved"];
    const NEEDS: Needs = Needs::VmsOff;
    const TAKES_EFFECT: TakesEffect = TakesEffect::AtOnce;
    const SETTLE_SECS: u32 = 0;
    const IMPLIED_BY: Option<(&'static str, &'static str)> = None;
    const EXAMPLE: &'static str = r#"["grid_p100-8q"]"#;
    type Spec = Vec<Profile>;
    type Fact = VmConfig;

    fn check(spec: &Vec<Profile>, fact: &VmConfig) -> Verdict {
        let has = current(fact);
        let wanted: Vec<String> = spec.iter().map(|p| p.0.clone()).collect();
        let sorted = |list: Vec<&String>| {
            let mut list: Vec<String> = list.into_iter().map(|p| p.to_lowercase()).collect();
            list.sort();
            list
        };
        if sorted(has.values().collect()) == sorted(wanted.iter().collect()) {
            return Verdict::met(listed(has.values()));
        }
        let taken = taken(fact);
        let free = (0..).filter(|n| !taken.contains(n));
        let slots: Vec<u32> = has.keys().copied().chain(free).take(wanted.len()).collect();
        let mut set = vec![];
        for (n, profile) in slots.iter().zip(&wanted) {
            for (key, value) in [("present", "TRUE"), ("virtualDev", "vmiop"), ("vgpu", profile.as_str())] {
                set.push((format!("pciPassthru{n}.{key}"), Some(value.to_string())));
            }
        }
        for n in has.keys().filter(|n| !slots.contains(n)) {
            let prefix = format!("pcipassthru{n}.");
            set.extend(fact.keys.keys().filter(|key| key.starts_with(&prefix)).map(|key| (key.clone(), None)));
        }
        Verdict::unmet(listed(has.values()), listed(&wanted), fact.edit(set))
    }

    fn as_spec(fact: &VmConfig) -> Option<Vec<Profile>> {
        let has = current(fact);
        has.into_values().map(|p| Profile::try_from(p).ok()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fact(keys: &[(&str, &str)]) -> VmConfig {
        let keys = keys.iter().map(|(k, v)| (k.to_lowercase(), v.to_string())).collect();
        VmConfig { vmid: 3, vmx: "/vmfs/volumes/ds1/a/a.vmx".into(), firmware: "efi".into(), memory_mib: 8192, keys }
    }

    fn wish(profiles: &[&str]) -> Vec<Profile> {
        profiles.iter().map(|p| Profile::try_from(p.to_string()).unwrap()).collect()
    }

    #[test]
    fn a_passthrough_device_keeps_its_slot() {
        let before = fact(&[("pciPassthru0.present", "TRUE"), ("pciPassthru0.id", "00000:013:00.0")]);
        match Vgpu::check(&wish(&["GRID P100-8Q"]), &before) {
            Verdict::Unmet { effects, .. } => assert_eq!(
                effects[1].to_string(),
                "edit /vmfs/volumes/ds1/a/a.vmx; pciPassthru1.present = \"TRUE\"; pciPassthru1.virtualDev = \"vmiop\"; pciPassthru1.vgpu = \"grid_p100-8q\""
            ),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn removed_vgpus_leave_no_key() {
        let before = fact(&[
            ("pciPassthru0.present", "TRUE"),
            ("pciPassthru0.virtualDev", "vmiop"),
            ("pciPassthru0.vgpu", "grid_p100-8q"),
            ("pciPassthru1.present", "TRUE"),
            ("pciPassthru1.vgpu", "grid_p100-8q"),
            ("pciPassthru1.pciSlotNumber", "64"),
        ]);
        assert!(Vgpu::check(&wish(&["grid_p100-8q", "grid_p100-8q"]), &before).is_met());
        match Vgpu::check(&wish(&["grid_p100-4q"]), &before) {
            Verdict::Unmet { effects, is, .. } => {
                assert_eq!(is, "grid_p100-8q + grid_p100-8q");
                let text = effects[1].to_string();
                assert!(
                    text.contains("pciPassthru0.vgpu = \"grid_p100-4q\"") && text.contains("drop pcipassthru1.pcislotnumber"),
                    "{text}"
                );
            }
            other => panic!("{other:?}"),
        }
    }
}
