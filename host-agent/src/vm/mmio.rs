//! The 64-bit MMIO window of a VM, computed: the sum of the BAR1 sizes of its large GPUs, then the next power
//! of two strictly above (facts: nvidia 5). One window serves the whole VM. A larger one is cheap and is
//! left; a smaller one makes power-on fail (facts: failures F1). No window is needed where all BARs are
//! small. A large vGPU counts with its frame buffer, where `mmio: auto` is asked for.

use crate::facts::vm_devices::VmDevices;
use crate::vm_gpu::VmGpu;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, de};
use vsgpu_core::gpu_selector::Candidate;
use vsgpu_core::knowledge::vgpu_types;
use vsgpu_core::requirement::{Implied, Needs, TakesEffect};
use vsgpu_core::{Requirement, Verdict};

/// The window of a VM.
pub struct Mmio;

/// A BAR up to this size fits into the 32-bit window.
const SMALL_BAR_MIB: u64 = 256;

/// Frame buffers above this need what large BARs need, by public guides (stephenwagner.com 2022-09).
pub const LARGE_VGPU_MIB: u64 = 16 * 1024;

/// Frame buffers, MiB, of those profiles that are large; of others, and of unknown ones, nothing is known to be needed.
pub fn large_vgpus<'a>(profiles: impl IntoIterator<Item = &'a str>) -> Vec<u64> {
    let sizes = profiles.into_iter().filter_map(|profile| Some(vgpu_types::find(profile)?.size_mib));
    sizes.filter(|size| *size > LARGE_VGPU_MIB).collect()
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum MmioSpec {
    /// As large as the VM's GPUs need: these, or the ones it has.
    Auto(Vec<VmGpu>),
    /// So many GB, whatever they need.
    #[serde(untagged)]
    Gib(u32),
}

impl<'de> Deserialize<'de> for MmioSpec {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(input)?;
        match &value {
            serde_json::Value::String(word) if word == "auto" => return Ok(Self::Auto(vec![])),
            serde_json::Value::Number(n) => {
                let gib = n
                    .as_u64()
                    .filter(|n| n.is_power_of_two() && (32..=16_384).contains(n))
                    .and_then(|n| u32::try_from(n).ok());
                return gib.map(Self::Gib).ok_or_else(|| {
                    de::Error::custom(format!("{n} is no power of two from 32 to 16384 (GB)"))
                });
            }
            _ => {}
        }
        match value.get("auto").filter(|_| value.as_object().is_some_and(|map| map.len() == 1)) {
            Some(gpus) => serde_json::from_value(gpus.clone()).map(Self::Auto).map_err(de::Error::custom),
            None => Err(de::Error::custom("`auto` or a power of two from 32 to 16384 (GB) is expected")),
        }
    }
}

impl JsonSchema for MmioSpec {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Mmio".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "const": "auto" }, { "type": "integer", "minimum": 32, "maximum": 16384, "description": "GB, a power of two" }] })
    }
}

/// The window for BARs of these sizes, in GiB: `None` where all are small.
pub fn window_gib(bars_mib: &[u64]) -> Option<u64> {
    let sum: u64 = bars_mib.iter().filter(|bar| **bar > SMALL_BAR_MIB).sum();
    (sum > 0).then(|| (sum / 1024 + 1).next_power_of_two().max(32))
}

/// Profiles of the vGPUs that a VM has.
fn profiles(fact: &VmDevices) -> impl Iterator<Item = &str> {
    let of_vgpu = |key: &str| {
        let rest = key.strip_prefix("pcipassthru").and_then(|rest| rest.strip_suffix(".vgpu"));
        rest.is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
    };
    fact.config.keys.iter().filter(move |(key, _)| of_vgpu(key)).map(|(_, profile)| profile.as_str())
}

/// The window for these GPUs and these frame buffers of vGPUs, with the sum it comes from.
///
/// # Errors
/// A GPU whose BAR1 is not known.
fn needed(gpus: &[Candidate<'_>], vgpus: &[u64]) -> Result<(Option<u64>, String), String> {
    let mut bars = vec![];
    for gpu in gpus {
        let bar = gpu.model().and_then(|m| m.bar1_mib);
        bars.push(
            bar.ok_or_else(|| format!("the size of BAR1 of {} ({}) is not known", gpu.address, gpu.shown()))?,
        );
    }
    let shown = |sizes: &[u64]| {
        let large = sizes.iter().filter(|size| **size > SMALL_BAR_MIB);
        large.map(|size| (size / 1024).to_string()).collect::<Vec<_>>().join(" + ")
    };
    let parts = [("BAR1", shown(&bars)), ("vGPU", shown(vgpus))];
    let parts = parts.iter().filter(|(_, sizes)| !sizes.is_empty());
    let sum = parts.map(|(of, sizes)| format!("{of} {sizes} GiB")).collect::<Vec<_>>().join(", ");
    bars.extend(vgpus);
    Ok((window_gib(&bars), sum))
}

impl Requirement for Mmio {
    const NAME: &'static str = "mmio";
    const ABOUT: &'static str =
        "64-bit MMIO window of the VM: auto (the sum of its GPUs' BAR1 and of vGPUs above 16 GB), or GB";
    const AFTER: &'static [&'static str] = &["passthrough"];
    const NEEDS: Needs = Needs::VmsOff;
    const TAKES_EFFECT: TakesEffect = TakesEffect::AtOnce;
    const SETTLE_SECS: u32 = 0;
    const IMPLIED_BY: &'static [Implied] = &[Implied {
        by: "passthrough",
        spec: |gpus| {
            let gpus = Vec::<VmGpu>::deserialize(gpus).ok().filter(|gpus| !gpus.is_empty())?;
            Some(serde_json::json!(MmioSpec::Auto(gpus)))
        },
    }];
    const EXAMPLE: &'static str = "512";
    const VMX_KEYS: &'static [&'static str] = &["pcipassthru"];
    type Spec = MmioSpec;
    type Fact = VmDevices;

    fn check(spec: &MmioSpec, fact: &VmDevices) -> Verdict {
        let keys = &fact.config.keys;
        let on = keys.get("pcipassthru.use64bitmmio").is_some_and(|v| v.eq_ignore_ascii_case("true"));
        let size: Option<u64> =
            keys.get("pcipassthru.64bitmmiosizegb").and_then(|n| n.parse().ok()).filter(|_| on);
        let is = match (on, size) {
            (_, Some(size)) => format!("{size} GB"),
            (true, None) => "64-bit, of its default size".into(),
            (false, None) => "no 64-bit window".into(),
        };
        let (wanted, why, enough) = match spec {
            MmioSpec::Gib(gib) => (u64::from(*gib), "as set".to_string(), size == Some(u64::from(*gib))),
            MmioSpec::Auto(wish) => {
                let gpus = if wish.is_empty() { Ok(fact.has()) } else { fact.wished(wish) };
                let hint =
                    "say how large the window is to be: `mmio: 512` is enough for most VMs, and costs little";
                let gpus = match gpus {
                    Ok(gpus) => gpus,
                    Err(why) => return Verdict::blocked(why, hint),
                };
                // What GPUs are asked for is said with them; without, it is what the VM has.
                let vgpus = if wish.is_empty() { large_vgpus(profiles(fact)) } else { vec![] };
                match needed(&gpus, &vgpus) {
                    // No step of a plan makes it known: it is said before the first one.
                    Err(why) => return Verdict::blocked_for_good(why, hint),
                    Ok((None, _)) => return Verdict::met(format!("{is}; its GPUs' BARs are small")),
                    Ok((Some(gib), why)) => (gib, why, size >= Some(gib)),
                }
            }
        };
        if enough {
            return Verdict::met(format!("{is} ({why})"));
        }
        let set = [
            ("pciPassthru.use64bitMMIO", "TRUE".to_string()),
            ("pciPassthru.64bitMMIOSizeGB", wanted.to_string()),
        ];
        let set = set.into_iter().map(|(key, value)| (key.to_string(), Some(value))).collect();
        Verdict::unmet(is, format!("{wanted} GB ({why})"), fact.config.edit(set))
    }

    fn as_spec(fact: &VmDevices) -> Option<MmioSpec> {
        let size = fact.config.keys.get("pcipassthru.64bitmmiosizegb").and_then(|n| n.parse::<u32>().ok());
        let spec =
            size.filter(|n| n.is_power_of_two() && *n >= 32).map_or(MmioSpec::Auto(vec![]), MmioSpec::Gib);
        Self::check(&spec, fact).is_met().then_some(spec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::passthrough::tests::devices;

    #[test]
    fn the_window_is_the_power_of_two_strictly_above_the_sum() {
        const GIB: u64 = 1024;
        for (bars, window) in [
            (vec![16 * GIB], Some(32)),
            (vec![16 * GIB; 2], Some(64)),
            (vec![32 * GIB], Some(64)),
            (vec![16 * GIB; 4], Some(128)),
            (vec![128 * GIB], Some(256)),
            (vec![128 * GIB; 2], Some(512)),
            (vec![64 * GIB], Some(128)),
            (vec![256], None),
            (vec![256, 16 * GIB], Some(32)),
            (vec![], None),
        ] {
            assert_eq!(window_gib(&bars), window, "{bars:?}");
        }
    }

    #[test]
    fn the_wish_decides_not_what_the_vm_has() {
        let fact =
            devices("", &[("0000:0d:00.0", "20f1"), ("0000:0e:00.0", "20f1"), ("0000:5e:00.0", "1eb8")]);
        let check = |wish: serde_json::Value| {
            Mmio::check(&serde_json::from_value(wish).unwrap_or_else(|e| panic!("{e}")), &fact)
        };
        match check(serde_json::json!({ "auto": [{ "model": "A100", "count": 2 }] })) {
            Verdict::Unmet { wants, effects, .. } => {
                assert_eq!(wants, "256 GB (BAR1 64 + 64 GiB)");
                assert!(
                    effects[1].to_string().ends_with(
                        "pciPassthru.use64bitMMIO = \"TRUE\"; pciPassthru.64bitMMIOSizeGB = \"256\"; vim-cmd vmsvc/reload 3"
                    )
                );
            }
            other => panic!("{other:?}"),
        }
        assert!(check(serde_json::json!({ "auto": ["T4"] })).is_met());
        assert!(
            matches!(check(serde_json::json!(512)), Verdict::Unmet { wants, .. } if wants == "512 GB (as set)")
        );
        let unknown = devices("", &[("0000:0d:00.0", "ffff")]);
        let wish = MmioSpec::Auto(vec![VmGpu::Fixed(vsgpu_core::gpu_selector::GpuChoice::At(
            "0d:00.0".parse().unwrap_or_else(|e| panic!("{e}")),
        ))]);
        assert!(matches!(Mmio::check(&wish, &unknown), Verdict::Blocked { .. }));
        assert!(serde_json::from_value::<MmioSpec>(serde_json::json!(500)).is_err());
    }

    #[test]
    fn a_larger_window_is_left() {
        let fact = devices(
            "pciPassthru.use64bitMMIO = \"TRUE\"\npciPassthru.64bitMMIOSizeGB = \"1024\"\n",
            &[("0000:0d:00.0", "20f1")],
        );
        let wish =
            serde_json::from_value(serde_json::json!({ "auto": ["A100"] })).unwrap_or_else(|e| panic!("{e}"));
        assert!(Mmio::check(&wish, &fact).is_met());
    }
}
