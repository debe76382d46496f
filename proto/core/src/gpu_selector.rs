//! Which GPUs of a host are meant: one by its PCI address, all of a model, some of a model, or all. And
//! values per GPU.

use crate::knowledge::gpus;
use crate::units::Bdf;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// A GPU as far as choosing needs it.
#[derive(Clone, Debug)]
pub struct Candidate<'a> {
    /// PCI address, as printed.
    pub address: &'a str,
    /// Device id, four hexadecimal digits, where known.
    pub device_id: Option<&'a str>,
    /// Subsystem id.
    pub subsystem_id: Option<&'a str>,
    /// Marketing name.
    pub name: Option<&'a str>,
}

impl Candidate<'_> {
    /// What the tables know of it.
    pub fn model(&self) -> Option<&'static gpus::Model> {
        gpus::by_pci(self.device_id?, self.subsystem_id)
    }

    /// Model name for people.
    pub fn shown(&self) -> String {
        let named = self.model().map(|m| m.name.to_string());
        named
            .or_else(|| self.name.map(String::from))
            .unwrap_or_else(|| format!("device {}", self.device_id.unwrap_or("unknown")))
    }

    fn is_model(&self, wish: &str) -> bool {
        if let Some(model) = gpus::by_driver_name(wish) {
            // Some tools say no ids: then their own word for the board decides.
            let same = |name: &str| {
                name.trim().eq_ignore_ascii_case(wish.trim())
                    || gpus::by_driver_name(name).is_some_and(|own| std::ptr::eq(own, model))
            };
            return match self.model() {
                Some(own) => std::ptr::eq(own, model),
                None => self.name.is_some_and(same),
            };
        }
        let known = self.model().map(|m| (m.name, m.token));
        let names: Vec<&str> =
            self.name.into_iter().chain(known.into_iter().flat_map(|(name, token)| [name, token])).collect();
        gpus::is_named(wish, &names)
    }
}

/// One choice.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum GpuChoice {
    /// Every GPU.
    All,
    /// The GPU at this address.
    At(Bdf),
    /// GPUs of this model; all of them, or so many.
    Model {
        /// Words of its name: `A100`, `A100 80GB`.
        model: String,
        /// How many.
        count: Option<u32>,
    },
}

impl GpuChoice {
    fn of_text(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text == "all" {
            Ok(Self::All)
        } else if text.contains(':') {
            text.parse().map(Self::At)
        } else if text.is_empty() || text.len() > 64 {
            Err("a PCI address such as `0000:3b:00.0`, a model such as `A100`, or `all` is expected".into())
        } else {
            Ok(Self::Model { model: text.into(), count: None })
        }
    }

    /// Whether this choice may mean that GPU.
    pub fn may_mean(&self, gpu: &Candidate<'_>) -> bool {
        match self {
            Self::All => true,
            Self::At(at) => gpu.address.parse() == Ok(*at),
            Self::Model { model, .. } => gpu.is_model(model),
        }
    }
}

impl std::fmt::Display for GpuChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::At(at) => write!(f, "{at}"),
            Self::Model { model, count: None } => f.write_str(model),
            Self::Model { model, count: Some(count) } => write!(f, "{count} of {model}"),
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Long {
    model: String,
    #[serde(default)]
    count: Option<u32>,
}

impl Serialize for GpuChoice {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Model { model, count: Some(count) } => {
                Long { model: model.clone(), count: Some(*count) }.serialize(out)
            }
            other => out.serialize_str(&other.to_string()),
        }
    }
}

impl<'de> Deserialize<'de> for GpuChoice {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        match serde_json::Value::deserialize(input)? {
            serde_json::Value::String(text) => Self::of_text(&text).map_err(de::Error::custom),
            map @ serde_json::Value::Object(_) => {
                let Long { model, count } = serde_json::from_value(map).map_err(de::Error::custom)?;
                if count.is_some_and(|n| !(1..=64).contains(&n)) || model.trim().is_empty() {
                    return Err(de::Error::custom("`model` must be named and `count` be from 1 to 64"));
                }
                Ok(Self::Model { model, count })
            }
            _ => Err(de::Error::custom(
                "a PCI address such as \"0000:3b:00.0\", a model such as `A100`, `{ model: A100, count: 2 }` or `all` is expected",
            )),
        }
    }
}

impl JsonSchema for GpuChoice {
    fn schema_name() -> Cow<'static, str> {
        "GpuChoice".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "`all`, a PCI address such as `0000:3b:00.0`, a model such as `A100`, or so many of a model",
            "anyOf": [
                { "type": "string" },
                { "type": "object", "additionalProperties": false, "required": ["model"],
                  "properties": { "model": { "type": "string" }, "count": { "type": "integer", "minimum": 1 } } }
            ]
        })
    }
}

/// Picks GPUs for all choices: those that `prefer` says first, then in the order given. No GPU twice.
///
/// # Errors
/// The first choice that cannot be met, with what there is.
pub fn pick(
    choices: &[GpuChoice],
    gpus: &[Candidate<'_>],
    prefer: impl Fn(usize) -> bool,
) -> Result<Vec<usize>, String> {
    let mut picked: Vec<usize> = vec![];
    let mut take = |choice: &GpuChoice, most: usize| {
        let order = (0..gpus.len()).filter(|at| prefer(*at)).chain((0..gpus.len()).filter(|at| !prefer(*at)));
        let found: Vec<usize> =
            order.filter(|at| choice.may_mean(&gpus[*at]) && !picked.contains(at)).take(most).collect();
        picked.extend(&found);
        (found.len(), picked.iter().filter(|at| choice.may_mean(&gpus[**at])).count())
    };
    let there = || {
        let list: Vec<String> = gpus.iter().map(|g| format!("{} {}", g.address, g.shown())).collect();
        if list.is_empty() { "no NVIDIA GPU".to_string() } else { list.join(", ") }
    };
    // Addresses first: `2 of A100` must not take what another choice names.
    let rank = |c: &GpuChoice| match c {
        GpuChoice::At(_) => 0,
        GpuChoice::Model { count: Some(_), .. } => 1,
        GpuChoice::Model { count: None, .. } => 2,
        GpuChoice::All => 3,
    };
    let mut sorted: Vec<&GpuChoice> = choices.iter().collect();
    sorted.sort_by_key(|c| rank(c));
    for choice in sorted {
        let most = match choice {
            GpuChoice::Model { count: Some(count), .. } => *count as usize,
            _ => gpus.len(),
        };
        let (new, meant) = take(choice, most);
        let enough = match choice {
            GpuChoice::Model { count: Some(_), .. } => new == most,
            _ => meant > 0,
        };
        if !enough {
            return Err(format!("there is no GPU for `{choice}`; this host has {}", there()));
        }
    }
    picked.sort_unstable();
    Ok(picked)
}

/// One value for all GPUs, or a value by PCI address, by model, and for the `others`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PerGpu<T> {
    /// For all.
    One(T),
    /// By address, model or `others`.
    Each(BTreeMap<String, T>),
}

impl<T: Copy> PerGpu<T> {
    /// The value for a GPU: an address says more than a model, a model more than `others`. `None`: nothing is
    /// wished.
    pub fn of(&self, gpu: &Candidate<'_>) -> Option<T> {
        let map = match self {
            Self::One(value) => return Some(*value),
            Self::Each(map) => map,
        };
        let found = |exact: bool| {
            map.iter().find(|(key, _)| match GpuChoice::of_text(key) {
                Ok(choice @ GpuChoice::At(_)) => exact && choice.may_mean(gpu),
                Ok(choice @ GpuChoice::Model { .. }) => !exact && *key != "others" && choice.may_mean(gpu),
                _ => false,
            })
        };
        found(true).or_else(|| found(false)).map(|(_, value)| *value).or_else(|| map.get("others").copied())
    }

    /// Keys that mean none of these GPUs.
    pub fn strangers(&self, gpus: &[Candidate<'_>]) -> Vec<&str> {
        let Self::Each(map) = self else { return vec![] };
        let means = |key: &str| {
            key == "others" || GpuChoice::of_text(key).is_ok_and(|c| gpus.iter().any(|g| c.may_mean(g)))
        };
        map.keys().map(String::as_str).filter(|key| !means(key)).collect()
    }

    /// GPUs that its keys name.
    pub fn named(&self) -> Vec<String> {
        match self {
            Self::One(_) => vec![],
            Self::Each(map) => map.keys().filter(|key| *key != "others").cloned().collect(),
        }
    }

    /// For people: `on`, or `0000:5e:00.0 on, others off`.
    pub fn shown(&self, word: impl Fn(T) -> String) -> String {
        match self {
            Self::One(value) => word(*value),
            Self::Each(map) => map
                .iter()
                .map(|(key, value)| format!("{key} {}", word(*value)))
                .collect::<Vec<_>>()
                .join(", "),
        }
    }

    /// All values.
    pub fn values(&self) -> Vec<T> {
        match self {
            Self::One(value) => vec![*value],
            Self::Each(map) => map.values().copied().collect(),
        }
    }

    /// From facts: one value where all are alike, else one for each address.
    pub fn from_facts(values: Vec<(String, T)>) -> Option<Self>
    where
        T: PartialEq,
    {
        let (_, first) = *values.first().as_ref()?;
        Some(if values.iter().all(|(_, v)| v == first) {
            Self::One(*first)
        } else {
            Self::Each(values.into_iter().collect())
        })
    }
}

impl<T: Serialize> Serialize for PerGpu<T> {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::One(value) => value.serialize(out),
            Self::Each(map) => map.serialize(out),
        }
    }
}

impl<'de, T: de::DeserializeOwned> Deserialize<'de> for PerGpu<T> {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(input)?;
        if let serde_json::Value::Object(map) = &value {
            for key in map.keys().filter(|key| *key != "others") {
                GpuChoice::of_text(key).map_err(de::Error::custom)?;
            }
            return serde_json::from_value(value).map(Self::Each).map_err(de::Error::custom);
        }
        serde_json::from_value(value).map(Self::One).map_err(de::Error::custom)
    }
}

impl<T: JsonSchema> JsonSchema for PerGpu<T> {
    fn schema_name() -> Cow<'static, str> {
        format!("PerGpu{}", T::schema_name()).into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let one = generator.subschema_for::<T>();
        json_schema!({
            "description": "For all GPUs, or by PCI address, by model, and for the `others`",
            "anyOf": [one, { "type": "object", "additionalProperties": one }]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn gpus() -> Vec<Candidate<'static>> {
        let gpu = |address, device_id| Candidate {
            address,
            device_id: Some(device_id),
            subsystem_id: None,
            name: None,
        };
        vec![gpu("0000:3b:00.0", "20f1"), gpu("0000:5e:00.0", "1eb8"), gpu("0000:af:00.0", "20f1")]
    }

    fn choices(value: serde_json::Value) -> Vec<GpuChoice> {
        serde_json::from_value(value).unwrap_or_else(|e| panic!("{e}"))
    }

    #[test]
    fn gpus_are_chosen_by_address_by_model_and_by_number() {
        for (wish, picked) in [
            (json!(["all"]), Ok(vec![0, 1, 2])),
            (json!(["A100"]), Ok(vec![0, 2])),
            (json!(["0000:AF:00.0"]), Ok(vec![2])),
            (json!([{ "model": "A100", "count": 1 }]), Ok(vec![0])),
            (json!([{ "model": "A100", "count": 1 }, "0000:3b:00.0"]), Ok(vec![0, 2])),
            (json!(["T4", "A100"]), Ok(vec![0, 1, 2])),
            (json!([]), Ok(vec![])),
            (json!([{ "model": "A100", "count": 3 }]), Err("3 of A100")),
            (json!(["L40"]), Err("`L40`")),
            (json!(["0000:04:00.0"]), Err("0000:04:00.0")),
        ] {
            match (pick(&choices(wish.clone()), &gpus(), |_| false), picked) {
                (Ok(is), Ok(should)) => assert_eq!(is, should, "{wish}"),
                (Err(is), Err(word)) => {
                    assert!(is.contains(word) && is.contains("0000:5e:00.0 Tesla T4"), "{wish}: {is}")
                }
                other => panic!("{wish}: {other:?}"),
            }
        }
        assert_eq!(
            pick(&choices(json!([{ "model": "A100", "count": 1 }])), &gpus(), |at| at == 2),
            Ok(vec![2]),
            "what is so stays so"
        );
    }

    #[test]
    fn the_more_exact_key_wins() {
        let wish: PerGpu<bool> = serde_json::from_value(json!({ "A100": true, "0000:af:00.0": false }))
            .unwrap_or_else(|e| panic!("{e}"));
        let of: Vec<Option<bool>> = gpus().iter().map(|g| wish.of(g)).collect();
        assert_eq!(of, [Some(true), None, Some(false)]);
        assert_eq!(wish.strangers(&gpus()), Vec::<&str>::new());
        let other: PerGpu<bool> =
            serde_json::from_value(json!({ "L4": true, "others": false })).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((other.of(&gpus()[0]), other.strangers(&gpus())), (Some(false), vec!["L4"]));
        assert!(serde_json::from_value::<PerGpu<bool>>(json!({ "": true })).is_err());
    }
}
