//! Small values parsed once at the edge, impossible to get wrong afterwards.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A PCI address, always printed as `0000:3b:00.0`.
///
/// Accepts what the tools print: `0000:3b:00.0`, `00000000:3B:00.0` (nvidia-smi), `3b:00.0` (lspci).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bdf {
    domain: u32,
    bus: u8,
    device: u8,
    function: u8,
}

impl std::str::FromStr for Bdf {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no PCI address like 0000:3b:00.0");
        let hex = |part: &str, max: u32| {
            u32::from_str_radix(part, 16)
                .ok()
                .filter(|n| *n <= max && !part.starts_with('+'))
                .ok_or_else(wrong)
        };
        let parts: Vec<&str> = text.trim().split(':').collect();
        let (domain, bus, rest) = match parts[..] {
            [bus, rest] => ("0", bus, rest),
            [domain, bus, rest] => (domain, bus, rest),
            _ => return Err(wrong()),
        };
        let (device, function) = rest.split_once('.').ok_or_else(wrong)?;
        Ok(Self {
            domain: hex(domain, u32::MAX)?,
            bus: hex(bus, 0xff)? as u8,
            device: hex(device, 0x1f)? as u8,
            function: hex(function, 7)? as u8,
        })
    }
}

impl fmt::Display for Bdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:02x}:{:02x}.{:x}", self.domain, self.bus, self.device, self.function)
    }
}

impl Bdf {
    /// As a `.vmx` writes it: decimal, five digits of segment, three of bus, two of device (facts: esxi D1).
    pub fn vmx_id(&self) -> String {
        format!("{:05}:{:03}:{:02}.{}", self.domain, self.bus, self.device, self.function)
    }

    /// Reads a `.vmx` id: `00000:013:00.0`, `0:66:0.0`, or the old form `12:00.0`; all decimal.
    pub fn from_vmx_id(text: &str) -> Option<Self> {
        let (rest, function) = text.trim().split_once('.')?;
        let numbers: Option<Vec<u32>> = rest.split(':').map(|n| n.parse().ok()).collect();
        let (domain, bus, device) = match numbers?[..] {
            [bus, device] => (0, bus, device),
            [domain, bus, device] => (domain, bus, device),
            _ => return None,
        };
        let in_range = bus <= 0xff && device <= 0x1f;
        in_range.then_some(Self {
            domain,
            bus: bus as u8,
            device: device as u8,
            function: function.parse().ok().filter(|f| *f <= 7)?,
        })
    }

    /// Its function number.
    pub fn function(self) -> u8 {
        self.function
    }

    /// Function 0 of the same slot.
    pub fn first_function(self) -> Self {
        Self { function: 0, ..self }
    }

    /// Function 0 of the first slot of the same bus.
    pub fn first_of_bus(self) -> Self {
        Self { device: 0, function: 0, ..self }
    }

    /// Whether another function of the same device.
    pub fn same_slot(&self, other: &Self) -> bool {
        self != other && (self.domain, self.bus, self.device) == (other.domain, other.bus, other.device)
    }
}

/// 535 of `R535`.
pub fn branch_of(text: &str) -> Option<u32> {
    text.trim().strip_prefix('R')?.parse().ok()
}

/// An NVIDIA driver version such as `535.183.04`; ordered by its numbers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DriverVersion(Vec<u32>);

impl DriverVersion {
    /// First number: the branch (535 of R535).
    pub fn branch(&self) -> u32 {
        self.0[0]
    }

    /// The version in one of NVIDIA's file names: `NVD-VGPU-800_535.183.04-1OEM...zip`.
    pub fn in_name(name: &str) -> Option<Self> {
        let file = name.rsplit('/').next().unwrap_or(name);
        file.split(['_', '-']).find_map(|part| part.trim_end_matches(".vib").parse().ok())
    }

    /// Finds the version in a package version such as `535.183.04-1OEM.800.1.0.20613240`.
    pub fn leading(text: &str) -> Option<Self> {
        text.split(['-', ' ', '_']).next()?.parse().ok()
    }
}

impl std::str::FromStr for DriverVersion {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let numbers: Option<Vec<u32>> = text
            .trim()
            .split('.')
            .map(|n| n.parse().ok().filter(|_| n.chars().all(|c| c.is_ascii_digit())))
            .collect();
        match numbers {
            Some(numbers) if numbers.len() >= 2 && numbers[0] >= 100 => Ok(Self(numbers)),
            _ => Err(format!("`{text}` is no driver version like 535.183.04")),
        }
    }
}

impl fmt::Display for DriverVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // NVIDIA prints the second and third number with at least two digits.
        write!(f, "{}", self.0[0])?;
        self.0[1..].iter().try_for_each(|n| write!(f, ".{n:02}"))
    }
}

/// On or off, as the fleet file says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnOff {
    /// On.
    On,
    /// Off.
    Off,
}

impl OnOff {
    /// `true` for on.
    pub fn on(self) -> bool {
        self == Self::On
    }
}

impl From<bool> for OnOff {
    fn from(on: bool) -> Self {
        if on { Self::On } else { Self::Off }
    }
}

impl fmt::Display for OnOff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.on() { "on" } else { "off" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_every_tool_are_one_address() {
        for text in ["0000:3b:00.0", "00000000:3B:00.0", "3b:00.0"] {
            assert_eq!(text.parse::<Bdf>().map(|b| b.to_string()), Ok("0000:3b:00.0".into()), "{text}");
        }
        for text in ["", "3b", "0000:3b:20.0", "0000:3b:00.8", "0000:3b:00", "x:3b:00.0"] {
            assert!(text.parse::<Bdf>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_vmx_counts_in_decimal() {
        let at = |t: &str| t.parse::<Bdf>().unwrap_or_else(|e| panic!("{e}"));
        for (hex, vmx) in [
            ("0000:0d:00.0", "00000:013:00.0"),
            ("0000:42:00.0", "00000:066:00.0"),
            ("0001:af:1f.7", "00001:175:31.7"),
        ] {
            assert_eq!(at(hex).vmx_id(), vmx);
            assert_eq!(Bdf::from_vmx_id(vmx), Some(at(hex)));
        }
        assert_eq!(Bdf::from_vmx_id("0:66:0.0"), Some(at("0000:42:00.0")));
        assert_eq!(Bdf::from_vmx_id("12:00.0"), Some(at("0000:0c:00.0")));
        for wrong in ["0000:0d:00.0", "0:256:0.0", "0:1:32.0", "1.0", "", "0:1:0.8"] {
            assert_eq!(Bdf::from_vmx_id(wrong), None, "{wrong}");
        }
        assert!(at("3b:00.1").same_slot(&at("3b:00.0")) && !at("3b:00.0").same_slot(&at("3b:00.0")));
    }

    #[test]
    fn driver_versions_order_by_number_and_keep_their_spelling() {
        let v = |t: &str| t.parse::<DriverVersion>().unwrap_or_else(|e| panic!("{e}"));
        assert!(v("390.42") < v("535.54.03") && v("535.54.03") < v("535.183.04"));
        assert_eq!(v("535.54.03").to_string(), "535.54.03");
        assert_eq!(DriverVersion::leading("390.42-1OEM.650.0.0.4598673"), Some(v("390.42")));
        assert!("1.2".parse::<DriverVersion>().is_err() && "535".parse::<DriverVersion>().is_err());
    }
}
