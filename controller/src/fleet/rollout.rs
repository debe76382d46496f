//! In which order hosts are touched and how many at once: `rollout:` of the fleet file.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// So many, or so many of a hundred: `2`, `25%`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    Count(u32),
    /// Percent.
    Percent(u32),
}

impl Share {
    /// Of a whole, rounded down.
    pub(crate) fn down(self, whole: usize) -> usize {
        match self {
            Self::Count(n) => n as usize,
            Self::Percent(p) => whole * p as usize / 100,
        }
    }

    /// Of a whole, rounded up.
    pub(crate) fn up(self, whole: usize) -> usize {
        match self {
            Self::Count(n) => n as usize,
            Self::Percent(p) => (whole * p as usize).div_ceil(100),
        }
    }
}

impl std::fmt::Display for Share {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Count(n) => write!(f, "{n}"),
            Self::Percent(p) => write!(f, "{p}%"),
        }
    }
}

impl Serialize for Share {
    fn serialize<S: serde::Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Count(n) => out.serialize_u32(*n),
            Self::Percent(_) => out.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let wrong = || serde::de::Error::custom("a number (`2`) or a share (`25%`) above 0 is expected");
        let value = Value::deserialize(input)?;
        let share = match &value {
            Value::Number(n) => n.as_u64().and_then(|n| u32::try_from(n).ok()).map(Self::Count),
            Value::String(text) => match text.strip_suffix('%') {
                Some(percent) => percent.trim().parse().ok().filter(|p| *p <= 100).map(Self::Percent),
                None => text.parse().ok().map(Self::Count),
            },
            _ => None,
        };
        share.filter(|s| !matches!(s, Self::Count(0) | Self::Percent(0))).ok_or_else(wrong)
    }
}

impl JsonSchema for Share {
    fn schema_name() -> Cow<'static, str> {
        "Share".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "anyOf": [{ "type": "integer", "minimum": 1 }, { "type": "string", "pattern": "^[0-9]+%$" }] })
    }
}

/// `rollout:` of the fleet file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Strategy {
    /// Hosts that go first, alone; the others follow only when all is well there. None where it is absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canary: Option<Share>,
    /// Hosts of one wave after that; all where it is absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<Share>,
    /// Hosts of one cluster that may be down, in maintenance or failed at once.
    pub max_unavailable: Share,
    /// The same for single clusters, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub clusters: BTreeMap<String, Share>,
    /// So many failed hosts stop the rollout: what has begun is finished, nothing new is begun.
    pub stop_at_failed: Share,
}

impl Default for Strategy {
    /// One host of a cluster at a time, as lifecycle managers do, and a stop at the first failure of every
    /// five.
    fn default() -> Self {
        Self {
            canary: None,
            batch: None,
            max_unavailable: Share::Count(1),
            clusters: BTreeMap::new(),
            stop_at_failed: Share::Percent(20),
        }
    }
}
