//! Is a GPU as fast as it should be: its measured figures against a baseline from bare metal, or against the
//! peak of its model. Passthrough is within some percent of bare metal; a broken link, a power brake or a
//! wrong slot is not.

use crate::facts::pci_gpus::PciGpu;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use vsgpu_core::knowledge::{gpus, peaks, vgpu_types};
use vsgpu_core::readers::cuda_report::DeviceProof;

/// Figures of one GPU, as `vsgpu baseline` records them. GB/s are 10^9 bytes a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, expecting = "keys and values")]
pub struct Figures {
    /// Device memory, two reads and one write.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "figure")]
    pub device: Option<f64>,
    /// Host to device.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "figure")]
    pub host_to_device: Option<f64>,
    /// Device to host.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "figure")]
    pub device_to_host: Option<f64>,
}

/// A positive number. The fleet file keeps `1310.5` as text, because a version such as `12.10` is no number.
fn figure<'de, D: serde::Deserializer<'de>>(input: D) -> Result<Option<f64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Raw {
        Number(f64),
        Text(String),
        Nothing(()),
    }
    let number = match Raw::deserialize(input)? {
        Raw::Number(number) => Some(number),
        Raw::Text(text) => Some(text.trim().parse().map_err(|_| {
            serde::de::Error::custom(format!("`{text}`: GB/s are expected, such as `1310.5`"))
        })?),
        Raw::Nothing(_) => None,
    };
    match number {
        Some(n) if !(n > 0.0 && n < 1e6) => {
            Err(serde::de::Error::custom(format!("`{n}`: GB/s are expected, such as `1310.5`")))
        }
        number => Ok(number),
    }
}

impl Figures {
    /// What a proof measured.
    pub fn of(proof: &DeviceProof) -> Self {
        Self {
            device: proof.device_gb_s,
            host_to_device: proof.host_to_device_gb_s,
            device_to_host: proof.device_to_host_gb_s,
        }
    }
}

/// Baselines by the GPU's name, as CUDA says it.
pub type Baseline = BTreeMap<String, Figures>;

/// A share in percent: `90%`, or `90`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Unchecked", into = "String")]
pub struct Percent(u8);

#[derive(Deserialize)]
#[serde(untagged)]
enum Unchecked {
    Number(u64),
    Text(String),
}

impl TryFrom<Unchecked> for Percent {
    type Error = String;
    fn try_from(raw: Unchecked) -> Result<Self, String> {
        let number = match &raw {
            Unchecked::Number(n) => u8::try_from(*n).ok(),
            Unchecked::Text(text) => text.trim().trim_end_matches('%').trim_end().parse().ok(),
        };
        number
            .filter(|n| (1..=100).contains(n))
            .map(Self)
            .ok_or_else(|| "a share such as `90%` is expected".into())
    }
}

impl From<Percent> for String {
    fn from(percent: Percent) -> Self {
        format!("{}%", percent.0)
    }
}

impl JsonSchema for Percent {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Percent".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "description": "A share, `90%`", "type": ["string", "integer"] })
    }
}

/// The judgement on one GPU.
#[derive(Debug, PartialEq)]
pub(crate) enum Judged {
    /// As fast as wished, in words.
    Fast(String),
    Slow(String),
    /// There is nothing to compare it with.
    Unknown(String),
}

/// Judges one GPU. A peak that is not confirmed never makes it slow: it is only said.
pub(crate) fn judge(
    proof: &DeviceProof,
    at_least: Percent,
    baseline: &Baseline,
    on_bus: &[PciGpu],
) -> Judged {
    let share = f64::from(at_least.0) / 100.0;
    let is = Figures::of(proof);
    if let Some(base) = baseline.get(&proof.name) {
        let pairs = [
            ("device memory", is.device, base.device),
            ("host to device", is.host_to_device, base.host_to_device),
            ("device to host", is.device_to_host, base.device_to_host),
        ];
        let said = |what: &str, is: f64, base: f64| {
            format!("{what} {is:.1} GB/s, {:.0} % of the baseline's {base:.1}", is / base * 100.0)
        };
        let known: Vec<_> = pairs
            .iter()
            .filter_map(|(what, is, base)| Some((*what, (*is)?, base.filter(|b| *b > 0.0)?)))
            .collect();
        if let Some((what, is, base)) = known.iter().find(|(_, is, base)| is / base < share) {
            return Judged::Slow(format!(
                "{}: {}, {} wanted",
                proof.name,
                said(what, *is, *base),
                String::from(at_least)
            ));
        }
        return match known.first() {
            Some((what, is, base)) => Judged::Fast(said(what, *is, *base)),
            None => Judged::Unknown(format!(
                "the baseline of {} holds no figure that was measured here",
                proof.name
            )),
        };
    }
    let Some(measured) = is.device else {
        return Judged::Unknown(format!("{}: nothing was measured", proof.name));
    };
    let Some((peak, confirmed, of)) = peak(proof, on_bus) else {
        return Judged::Unknown(format!("no peak figure is known for {}", proof.name));
    };
    let said =
        format!("device memory {measured:.1} GB/s, {:.0} % of {peak:.0} ({of})", measured / peak * 100.0);
    match measured / peak < share {
        true if confirmed => {
            Judged::Slow(format!("{}: {said}, {} wanted", proof.name, String::from(at_least)))
        }
        true => Judged::Fast(format!(
            "{said}; less than {} of a figure that is not confirmed: record a baseline",
            String::from(at_least)
        )),
        false => Judged::Fast(said),
    }
}

/// Peak of the GPU behind a device, in GB/s: by its PCI ids, by its vGPU type, or by what its driver states.
fn peak(proof: &DeviceProof, on_bus: &[PciGpu]) -> Option<(f64, bool, String)> {
    // `GRID A100-40C`, `GRID A100-40C`; a MIG-backed type has a part of the memory and its own,
    // unpublished, figure.
    let plain = |name: &str| name.split(' ').skip(1).collect::<Vec<_>>().join(" ");
    if let Some(vgpu) = vgpu_types::all().iter().find(|t| plain(t.name) == plain(&proof.name)) {
        let model = gpus::by_token(vgpu.token).filter(|_| !vgpu.mig)?;
        let peak = peaks::of_model(model.name)?;
        return Some((peak.gb_s, peak.basis.confirmed, format!("peak of {}", peak.model)));
    }
    if proof.name.contains(" MIG ") {
        return None;
    }
    let gpu = proof.pci.as_ref().and_then(|pci| on_bus.iter().find(|g| g.address.eq_ignore_ascii_case(pci)));
    let of_table = gpu.and_then(|g| peaks::by_pci(&g.device_id, g.subsystem_id.as_deref()));
    match (of_table, proof.stated_gb_s) {
        (Some(peak), _) => Some((peak.gb_s, peak.basis.confirmed, format!("peak of {}", peak.model))),
        (None, Some(stated)) => {
            Some((stated, false, "peak by clock and bus width, as the driver states them".into()))
        }
        (None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proof(name: &str, device: f64) -> DeviceProof {
        DeviceProof {
            name: name.into(),
            pci: Some("0000:02:00.0".into()),
            device_gb_s: Some(device),
            host_to_device_gb_s: Some(20.0),
            ..DeviceProof::default()
        }
    }

    fn percent(text: &str) -> Percent {
        serde_json::from_value(serde_json::json!(text)).unwrap()
    }

    #[test]
    fn shares_are_read() {
        for (text, good) in [
            ("\"90%\"", true),
            ("85", true),
            ("\"100 %\"", true),
            ("0", false),
            ("\"101%\"", false),
            ("\"x\"", false),
            ("-5", false),
        ] {
            assert_eq!(serde_json::from_str::<Percent>(text).is_ok(), good, "{text}");
        }
    }

    #[test]
    fn figures_are_numbers_however_they_are_written() {
        let read = |text: &str| serde_json::from_str::<Figures>(text).map(|f| f.device);
        assert_eq!(
            (read(r#"{"device": 1310.5}"#).unwrap(), read(r#"{"device": "1310.5"}"#).unwrap()),
            (Some(1310.5), Some(1310.5))
        );
        assert_eq!(read("{}").unwrap(), None);
        for bad in [r#"{"device": "fast"}"#, r#"{"device": -1}"#, r#"{"device": 0}"#, r#"{"devcie": 1}"#] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_baseline_wins_over_the_table() {
        let baseline: Baseline = [(
            "A".to_string(),
            Figures { device: Some(1000.0), host_to_device: Some(24.0), device_to_host: None },
        )]
        .into();
        assert!(matches!(judge(&proof("A", 950.0), percent("80%"), &baseline, &[]), Judged::Fast(_)));
        assert!(
            matches!(judge(&proof("A", 950.0), percent("90%"), &baseline, &[]), Judged::Slow(s) if s.contains("host to device"))
        );
        assert!(
            matches!(judge(&proof("A", 700.0), percent("80%"), &baseline, &[]), Judged::Slow(s) if s.contains("device memory"))
        );
    }

    #[test]
    fn a_confirmed_peak_fails_an_uncertain_one_only_warns() {
        let a100 = PciGpu { address: "0000:02:00.0".into(), device_id: "20f1".into(), ..PciGpu::default() };
        let none = Baseline::new();
        assert!(
            matches!(judge(&proof("NVIDIA A100-PCIE-40GB", 700.0), percent("80%"), &none, std::slice::from_ref(&a100)), Judged::Slow(s) if s.contains("1555"))
        );
        assert!(matches!(
            judge(&proof("NVIDIA A100-PCIE-40GB", 1400.0), percent("90%"), &none, &[a100]),
            Judged::Fast(_)
        ));
        assert!(
            matches!(judge(&proof("GRID A100-40C", 700.0), percent("80%"), &none, &[]), Judged::Slow(_)),
            "a vGPU by its type"
        );
        let p100 = PciGpu { address: "0000:02:00.0".into(), device_id: "15f8".into(), ..PciGpu::default() };
        assert!(
            matches!(judge(&proof("Tesla P100", 100.0), percent("90%"), &none, &[p100]), Judged::Fast(s) if s.contains("not confirmed"))
        );
        assert!(matches!(judge(&proof("Mystery", 100.0), percent("90%"), &none, &[]), Judged::Unknown(_)));
    }
}
