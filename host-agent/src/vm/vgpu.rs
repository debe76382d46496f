//! The vGPUs of a VM: one or several profiles, as `pciPassthruN` devices of the kind `vmiop`. Passthrough
//! devices of the same VM keep their slots.

use crate::facts::vm_config::VmConfig;
use crate::pci_slots::{Slot, emptied, filled, free, slots};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::Value;
use std::collections::BTreeMap;
use vsgpu_core::knowledge::vgpu_types::plain;
use vsgpu_core::requirement::{Implied, Needs, TakesEffect};
use vsgpu_core::units::Bdf;
use vsgpu_core::{Requirement, Verdict};

/// vGPUs of a VM.
pub struct Vgpu;

/// A vGPU profile as vSphere spells it: `grid_p100-8q`, `nvidia_a40-8q`. NVIDIA's type name (`GRID P100-8Q`)
/// is understood, and a plan writes the spelling of the host's own list.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
pub struct Profile(String);

impl Profile {
    /// As vSphere spells it.
    pub fn name(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Profile {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let name = text.trim().to_lowercase().replace(' ', "_");
        let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c));
        // Every profile of NVIDIA's tables is `<family>_<gpu>-<size><series>`.
        if plain
            && name.contains('_')
            && name.rsplit_once('-').is_some_and(|(_, size)| size.starts_with(|c: char| c.is_ascii_digit()))
        {
            Ok(Self(name))
        } else {
            use vsgpu_core::knowledge::vgpu_types::{all, plain};
            let known: Vec<String> = all().iter().map(|t| plain(t.profile)).collect();
            let meant = name.split_once('_').and_then(|(family, kind)| {
                let near = vsgpu_core::suggest::nearest(kind, known.iter().map(String::as_str))?;
                Some(format!("; did you mean `{family}_{near}`?"))
            });
            let example = || "; they are written like `grid_p100-8q` or `grid_a100-40c`".into();
            Err(format!("`{text}` is no vGPU profile{}", meant.unwrap_or_else(example)))
        }
    }
}

/// One vGPU of a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VgpuWish {
    pub profile: Profile,
    /// Plug-in parameters, as the `.vmx` holds them. What is not named is left as it is.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub params: BTreeMap<Param, String>,
    /// Filled in by the plan: the VM has another release's spelling of it, with which it would not start.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub exact: bool,
}

/// A parameter of the vGPU plug-in (facts: esxi D1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Param {
    /// Unified memory: off by default, and some CUDA programs need it.
    EnableUvm,
    /// The limit of frames per second.
    FrameRateLimiter,
    /// Debuggers.
    EnableDebugging,
    /// Profilers.
    EnableProfiling,
    /// The GPU to be placed on, `ssss:bb:dd.f`.
    #[serde(rename = "gpu-pci-id")]
    GpuPciId,
}

impl Param {
    const ALL: [Self; 5] = [
        Self::EnableUvm,
        Self::FrameRateLimiter,
        Self::EnableDebugging,
        Self::EnableProfiling,
        Self::GpuPciId,
    ];

    /// A value as the `.vmx` holds it.
    fn value(self, value: &Value) -> Result<String, String> {
        match (self, value) {
            (Self::GpuPciId, Value::String(at)) => Ok(at.parse::<Bdf>()?.to_string()),
            (Self::GpuPciId, _) => {
                Err("gpu-pci-id: a PCI address such as \"0000:3b:00.0\" is expected".into())
            }
            (_, Value::Bool(on)) => Ok(u8::from(*on).to_string()),
            (_, Value::Number(n)) if n.is_u64() && n.as_u64() <= Some(1) => Ok(n.to_string()),
            (_, Value::String(text)) if text == "0" || text == "1" => Ok(text.clone()),
            _ => Err(format!("{}: 0 or 1 is expected", self.key())),
        }
    }

    fn key(self) -> &'static str {
        match self {
            Self::EnableUvm => "enable_uvm",
            Self::FrameRateLimiter => "frame_rate_limiter",
            Self::EnableDebugging => "enable_debugging",
            Self::EnableProfiling => "enable_profiling",
            Self::GpuPciId => "gpu-pci-id",
        }
    }
}

impl<'de> Deserialize<'de> for VgpuWish {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Long {
            profile: Profile,
            #[serde(default)]
            params: BTreeMap<Param, Value>,
            #[serde(default)]
            exact: bool,
        }
        let value = Value::deserialize(input)?;
        if value.is_string() {
            let profile = serde_json::from_value(value).map_err(de::Error::custom)?;
            return Ok(Self { profile, params: BTreeMap::new(), exact: false });
        }
        let Long { profile, params, exact } = serde_json::from_value(value).map_err(de::Error::custom)?;
        let word = |(param, value): (Param, Value)| {
            param.value(&value).map(|text| (param, text)).map_err(de::Error::custom)
        };
        Ok(Self { profile, params: params.into_iter().map(word).collect::<Result<_, _>>()?, exact })
    }
}

impl JsonSchema for VgpuWish {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "VgpuWish".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let (profile, params) = (generator.subschema_for::<Profile>(), generator.subschema_for::<Param>());
        json_schema!({
            "anyOf": [profile, {
                "type": "object", "additionalProperties": false, "required": ["profile"],
                "properties": { "profile": profile, "params": { "type": "object", "propertyNames": params } }
            }]
        })
    }
}

/// Slots that hold a vGPU, with its profile.
fn current(fact: &VmConfig) -> BTreeMap<u32, String> {
    let vgpu = |(n, slot)| if let Slot::Vgpu(profile) = slot { Some((n, profile)) } else { None };
    slots(&fact.keys).into_iter().filter_map(vgpu).collect()
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
    const IMPLIED_BY: &'static [Implied] = &[];
    const EXAMPLE: &'static str =
        r#"["grid_p100-8q", {"profile": "grid_a100-40c", "params": {"enable_uvm": 1}}]"#;
    const VMX_KEYS: &'static [&'static str] = &["pcipassthru"];
    type Spec = Vec<VgpuWish>;
    type Fact = VmConfig;

    fn check(spec: &Vec<VgpuWish>, fact: &VmConfig) -> Verdict {
        let has = current(fact);
        // A slot whose profile is wanted keeps it; the others are changed, filled or emptied.
        let mut open: Vec<&VgpuWish> = spec.iter().collect();
        let mut placed: BTreeMap<u32, &VgpuWish> = BTreeMap::new();
        for (n, profile) in &has {
            let same = |wish: &&VgpuWish| match wish.exact {
                true => wish.profile.0.eq_ignore_ascii_case(profile),
                false => plain(&wish.profile.0) == plain(profile),
            };
            if let Some(at) = open.iter().position(same) {
                placed.insert(*n, open.remove(at));
            }
        }
        let rest: Vec<u32> = has
            .keys()
            .copied()
            .filter(|n| !placed.contains_key(n))
            .chain(free(&fact.keys).take(open.len()))
            .collect();
        let mut set = vec![];
        for (n, wish) in rest.iter().zip(&open) {
            set.extend(filled(
                *n,
                &[("present", "TRUE"), ("virtualDev", "vmiop"), ("vgpu", wish.profile.0.as_str())],
            ));
            placed.insert(*n, wish);
        }
        for n in has.keys().filter(|n| !placed.contains_key(n)) {
            set.extend(emptied(&fact.keys, *n));
        }
        let (mut params_are, mut params_want) = (vec![], vec![]);
        for (n, wish) in &placed {
            for (param, value) in &wish.params {
                let key = format!("pciPassthru{n}.cfg.{}", param.key());
                let is = fact.keys.get(&key.to_lowercase());
                let same =
                    |text: &String| param.value(&Value::String(text.clone())).is_ok_and(|v| v == *value);
                if !is.is_some_and(same) {
                    params_are.push(format!("{}={}", param.key(), is.map_or("unset", String::as_str)));
                    params_want.push(format!("{}={value}", param.key()));
                    set.push((key, Some(value.clone())));
                }
            }
        }
        let with = |list: String, params: &[String]| {
            if params.is_empty() { list } else { format!("{list} ({})", params.join(", ")) }
        };
        if set.is_empty() {
            return Verdict::met(listed(has.values()));
        }
        let wants = listed(spec.iter().map(|w| &w.profile.0));
        Verdict::unmet(with(listed(has.values()), &params_are), with(wants, &params_want), fact.edit(set))
    }

    fn gpus_given(spec: &Vec<VgpuWish>) -> usize {
        spec.len()
    }

    fn as_spec(fact: &VmConfig) -> Option<Vec<VgpuWish>> {
        let wish = |(n, profile): (u32, String)| {
            let value = |param: Param| {
                let text = fact.keys.get(&format!("pciPassthru{n}.cfg.{}", param.key()).to_lowercase())?;
                Some((param, param.value(&Value::String(text.clone())).ok()?))
            };
            let params = Param::ALL.into_iter().filter_map(value).collect();
            Some(VgpuWish { profile: Profile::try_from(profile).ok()?, params, exact: false })
        };
        current(fact).into_iter().map(wish).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fact(keys: &[(&str, &str)]) -> VmConfig {
        crate::facts::vm_config::tests::with_keys(
            keys.iter().map(|(k, v)| (k.to_lowercase(), v.to_string())).collect(),
        )
    }

    fn wish(profiles: &[&str]) -> Vec<VgpuWish> {
        serde_json::from_value(serde_json::json!(profiles)).unwrap_or_else(|e| panic!("{e}"))
    }

    #[test]
    fn parameters_follow_their_vgpu() {
        let keys = [("pciPassthru0.present", "TRUE"), ("pciPassthru0.vgpu", "grid_a100-40c")];
        let value = serde_json::json!([{ "profile": "grid_a100-40c", "params": { "enable_uvm": true, "gpu-pci-id": "3b:00.0" } }]);
        let wish: Vec<VgpuWish> = serde_json::from_value(value).unwrap_or_else(|e| panic!("{e}"));
        match Vgpu::check(&wish, &fact(&keys)) {
            Verdict::Unmet { effects, wants, .. } => {
                let text = effects[1].to_string();
                assert!(
                    text.contains("pciPassthru0.cfg.enable_uvm = \"1\"")
                        && text.contains("gpu-pci-id = \"0000:3b:00.0\""),
                    "{text}"
                );
                assert!(!text.contains("vgpu = ") && wants.contains("enable_uvm=1"), "{text} {wants}");
            }
            other => panic!("{other:?}"),
        }
        for wrong in [
            serde_json::json!([{ "profile": "grid_a100-40c", "params": { "enable_uvm": 2 } }]),
            serde_json::json!([{ "profile": "x" }]),
        ] {
            assert!(serde_json::from_value::<Vec<VgpuWish>>(wrong).is_err());
        }
    }

    #[test]
    fn a_passthrough_device_keeps_its_slot() {
        let before = fact(&[("pciPassthru0.present", "TRUE"), ("pciPassthru0.id", "00000:013:00.0")]);
        match Vgpu::check(&wish(&["GRID P100-8Q"]), &before) {
            Verdict::Unmet { effects, .. } => assert_eq!(
                effects[1].to_string(),
                "edit /vmfs/volumes/ds1/a/a.vmx; pciPassthru1.present = \"TRUE\"; pciPassthru1.virtualDev = \"vmiop\"; pciPassthru1.vgpu = \"grid_p100-8q\"; vim-cmd vmsvc/reload 3"
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
                    text.contains("pciPassthru0.vgpu = \"grid_p100-4q\"")
                        && text.contains("drop pcipassthru1.pcislotnumber"),
                    "{text}"
                );
            }
            other => panic!("{other:?}"),
        }
    }
}
