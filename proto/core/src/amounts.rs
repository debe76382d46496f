//! Amounts as people write them: times (`8h`, `30m`) and memory (`8GiB`).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A time: `45s`, `30m`, `8h`, `2d`. Whole numbers of one unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct Span {
    /// Seconds.
    pub secs: u64,
}

const SPANS: [(char, u64); 4] = [('d', 86_400), ('h', 3_600), ('m', 60), ('s', 1)];

impl FromStr for Span {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no time such as `45s`, `30m`, `8h` or `2d`");
        let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit = &text[number.len()..];
        let (_, secs) = SPANS.iter().find(|(c, _)| unit.chars().eq([*c])).ok_or_else(wrong)?;
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let secs = number.checked_mul(*secs).filter(|secs| *secs <= 10 * 365 * 86_400).ok_or_else(wrong)?;
        Ok(Self { secs })
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, of) = SPANS
            .into_iter()
            .find(|(_, of)| self.secs >= *of && self.secs.is_multiple_of(*of))
            .unwrap_or(('s', 1));
        write!(f, "{}{unit}", self.secs / of)
    }
}

impl TryFrom<String> for Span {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Span> for String {
    fn from(span: Span) -> Self {
        span.to_string()
    }
}

/// Memory: `512MiB`, `8GiB`. A bare number is MiB, as Bitfusion's option has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct Memory {
    /// MiB.
    pub mib: u64,
}

impl FromStr for Memory {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no memory such as `512MiB` or `8GiB`");
        let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let of = match text[number.len()..].to_ascii_lowercase().as_str() {
            "" | "mib" | "m" => 1,
            "gib" | "g" => 1 << 10,
            "tib" | "t" => 1 << 20,
            _ => return Err(wrong()),
        };
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let mib = number.checked_mul(of).filter(|mib| *mib <= 1 << 30).ok_or_else(wrong)?;
        Ok(Self { mib })
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.mib >= 1 << 10 && self.mib.is_multiple_of(1 << 10) {
            write!(f, "{}GiB", self.mib >> 10)
        } else {
            write!(f, "{}MiB", self.mib)
        }
    }
}

impl TryFrom<String> for Memory {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Memory> for String {
    fn from(memory: Memory) -> Self {
        memory.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_comes_back() {
        for text in ["45s", "90s", "30m", "8h", "36h", "2d"] {
            assert_eq!(text.parse::<Span>().map(|span| span.to_string()), Ok(text.into()));
        }
        assert_eq!("120m".parse::<Span>().map(|span| span.to_string()), Ok("2h".into()));
        for text in ["", "8", "h", "1.5h", "8 h", "8hours", "-1h", "99999999999999999999s", "999999d"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
        for (text, mib) in [("512MiB", 512), ("8GiB", 8192), ("8g", 8192), ("1024", 1024), ("1TiB", 1 << 20)]
        {
            assert_eq!(text.parse::<Memory>(), Ok(Memory { mib }), "{text}");
        }
        assert_eq!(Memory { mib: 8192 }.to_string(), "8GiB");
        for text in ["", "GiB", "8GB", "8.5GiB", "-1", "99999999TiB"] {
            assert!(text.parse::<Memory>().is_err(), "{text}");
        }
    }
}
