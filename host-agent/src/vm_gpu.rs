//! A whole GPU that a VM may ask for, and which of a host's GPUs that means.

use crate::facts::pci_gpus::PciGpu;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, de};
use vsgpu_core::gpu_selector::{Candidate, GpuChoice, pick};

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum VmGpu {
    /// By vendor and device, `10de:20f1`, placed at power-on.
    Dynamic { dynamic: String },
    /// By address or model.
    Fixed(GpuChoice),
}

impl<'de> Deserialize<'de> for VmGpu {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(input)?;
        if let Some(ids) = value.get("dynamic") {
            let ids = ids.as_str().filter(|_| value.as_object().is_some_and(|map| map.len() == 1));
            let plain = |id: &str| id.trim().trim_start_matches("0x").to_lowercase();
            let parts = ids
                .and_then(|ids| ids.split_once(':'))
                .map(|(vendor, device)| (plain(vendor), plain(device)));
            let right = |id: &str| id.len() == 4 && id.chars().all(|c| c.is_ascii_hexdigit());
            return match parts {
                Some((vendor, device)) if vendor == "10de" && right(&device) => {
                    Ok(Self::Dynamic { dynamic: format!("{vendor}:{device}") })
                }
                _ => Err(de::Error::custom(
                    "dynamic: vendor and device of an NVIDIA GPU are expected, such as \"10de:20f1\"",
                )),
            };
        }
        match serde_json::from_value(value).map_err(de::Error::custom)? {
            GpuChoice::All => Err(de::Error::custom(
                "`all` is no choice for a VM: name addresses, a model, or so many of a model",
            )),
            // A VM that wishes for a model wants one of it.
            GpuChoice::Model { model, count: None } => {
                Ok(Self::Fixed(GpuChoice::Model { model, count: Some(1) }))
            }
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

/// Which GPUs of a host are meant by a VM's choices: those it has already first, then free ones; GPUs of
/// others only where they are named by address.
///
/// # Errors
/// The first choice that cannot be met.
pub fn settle_choices(
    choices: &[GpuChoice],
    gpus: &[PciGpu],
    own: &[String],
    taken: &[String],
) -> Result<Vec<usize>, String> {
    let named = |gpu: &PciGpu| {
        choices.iter().any(|c| matches!(c, GpuChoice::At(at) if at.to_string() == gpu.address))
    };
    let is_open = |at: &usize| {
        named(&gpus[*at]) || own.contains(&gpus[*at].address) || !taken.contains(&gpus[*at].address)
    };
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
