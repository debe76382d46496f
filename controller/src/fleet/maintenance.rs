//! What becomes of a host's running VMs in its maintenance window: `maintenance:` of the fleet file.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use std::borrow::Cow;

/// `maintenance:` of a host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Maintenance {
    /// How they leave the host.
    pub vms: WithVms,
    /// Until it is given up: `30m`. Absent, the deadline `maintenance-secs`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Patience>,
}

impl Maintenance {
    /// As without it.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// How running VMs leave a host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum WithVms {
    /// Those of the fleet file are shut down; others must not run.
    #[default]
    Off,
    /// DRS moves them; what DRS does not move, somebody moves while vsgpu waits.
    Move,
    /// DRS moves them; those of the fleet file that it cannot move are shut down.
    MoveOrOff,
    /// DRS moves every one of them, or nothing begins.
    MustMove,
}

/// A time as people write it: `90s`, `30m`, `2h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// Seconds.
    pub secs: u32,
}

/// Longest time that is meant.
const MOST_SECS: u32 = 7 * 24 * 3600;

impl std::str::FromStr for Patience {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no time between 1s and 168h: write 90s, 30m or 2h");
        let (number, unit) = text.split_at(text.len() - text.chars().next_back().map_or(0, char::len_utf8));
        let each = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            _ => return Err(wrong()),
        };
        let secs = number.parse::<u32>().ok().and_then(|n| n.checked_mul(each));
        secs.filter(|secs| (1..=MOST_SECS).contains(secs)).map(|secs| Self { secs }).ok_or_else(wrong)
    }
}

impl std::fmt::Display for Patience {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.secs {
            secs if secs % 3600 == 0 => write!(f, "{}h", secs / 3600),
            secs if secs % 60 == 0 => write!(f, "{}m", secs / 60),
            secs => write!(f, "{secs}s"),
        }
    }
}

impl Serialize for Patience {
    fn serialize<S: serde::Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Patience {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        String::deserialize(input)?.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Patience {
    fn schema_name() -> Cow<'static, str> {
        "Patience".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "pattern": "^[0-9]+[smh]$" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_and_written_as_people_write_them() {
        for (text, secs) in [("90s", 90), ("30m", 1800), ("2h", 7200), ("168h", MOST_SECS)] {
            let read: Patience = text.parse().unwrap();
            assert_eq!((read.secs, read.to_string().as_str()), (secs, text));
        }
        for text in ["", "30", "m", "0s", "-1m", "169h", "4294967295h", "3ü", "1d"] {
            assert!(text.parse::<Patience>().is_err(), "{text}");
        }
    }
}
