//! What a guest can read of its host without any driver: whether a GPU is a vGPU, and which vGPU manager is
//! behind it.
//!
//! A vGPU of manager 12.0 or later carries a vendor-specific PCI capability (id 09h): its length, the letters
//! `VF`, then records of id, length and data. Record 0 holds the host's driver version and branch, ten bytes
//! each, ended by NUL (facts: nvidia 0.1). No such capability proves nothing on an older host: then the
//! subsystem id names the type.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// PCI id of a vendor-specific capability.
const VENDOR_SPECIFIC: u8 = 0x09;
/// Where the list of capabilities begins in the configuration space (PCI 3.0, 6.1).
const FIRST: usize = 0x34;

/// What the capability says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HostView {
    /// Version of the host's vGPU manager, `580.126.08`.
    pub manager: Option<String>,
    /// Its branch, `r582_12`.
    pub branch: Option<String>,
}

/// Reads a configuration space in hex; `None` where there is no sign of a vGPU, or only the 64 bytes that
/// users see.
pub fn host_view(config_hex: &str) -> Option<HostView> {
    let digits = config_hex.trim();
    let config: Vec<u8> = (0..digits.len() / 2)
        .map(|at| u8::from_str_radix(digits.get(at * 2..at * 2 + 2)?, 16).ok())
        .collect::<Option<_>>()?;
    let mut at = usize::from(*config.get(FIRST)?);
    // 48 capabilities fit at most; a loop in a broken list ends here.
    for _ in 0..48 {
        if at < 0x40 {
            return None;
        }
        let (id, next) = (*config.get(at)?, *config.get(at + 1)?);
        if id == VENDOR_SPECIFIC {
            let len = usize::from(*config.get(at + 2)?);
            if let Some(view) = config.get(at..at + len).and_then(capability) {
                return Some(view);
            }
        }
        at = usize::from(next);
    }
    None
}

/// One vendor-specific capability, from its own first byte on.
fn capability(bytes: &[u8]) -> Option<HostView> {
    if bytes.get(3..5)? != b"VF" {
        return None;
    }
    let mut at = 5;
    while let (Some(id), Some(len)) = (bytes.get(at), bytes.get(at + 1).map(|l| usize::from(*l))) {
        // The length counts the record's own two bytes.
        if len < 2 {
            break;
        }
        if let (0, Some(data)) = (*id, bytes.get(at + 2..at + len)) {
            let text = |range: std::ops::Range<usize>| {
                let bytes = data.get(range.start..range.end.min(data.len()))?;
                let text: String = bytes.iter().take_while(|b| **b != 0).map(|b| char::from(*b)).collect();
                let plain = text.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
                Some(text).filter(|t| plain && !t.is_empty())
            };
            return Some(HostView { manager: text(0..10), branch: text(10..20) });
        }
        at += len;
    }
    Some(HostView { manager: None, branch: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A configuration space with a power management capability and, behind it, one of a vGPU.
    fn config(version: &str, branch: &str) -> Vec<u8> {
        let mut space = vec![0u8; 256];
        space[FIRST] = 0x60;
        space[0x60..0x62].copy_from_slice(&[0x01, 0x70]);
        let mut own = vec![VENDOR_SPECIFIC, 0, 0, b'V', b'F', 0, 22];
        for text in [version, branch] {
            let mut field = text.as_bytes().to_vec();
            field.resize(10, 0);
            own.extend(field);
        }
        own[2] = own.len() as u8;
        space[0x70..0x70 + own.len()].copy_from_slice(&own);
        space
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    #[test]
    fn the_hosts_manager_is_read() {
        let view = host_view(&hex(&config("580.126.08", "r582_12"))).unwrap();
        assert_eq!((view.manager.as_deref(), view.branch.as_deref()), (Some("580.126.08"), Some("r582_12")));
    }

    #[test]
    fn a_whole_gpu_a_cut_space_and_a_loop_say_nothing() {
        let mut whole = config("x", "y");
        whole[0x73] = b'X';
        assert_eq!(host_view(&hex(&whole)), None);
        assert_eq!(
            host_view(&hex(&config("580.126.08", "r582_12")[..64])),
            None,
            "what users other than root see"
        );
        let mut round = config("x", "y");
        round[0x61] = 0x60;
        assert_eq!(host_view(&hex(&round)), None);
        let mut long = config("580.126.08", "r582_12");
        long[0x72] = 0xff;
        assert_eq!(host_view(&hex(&long)), None, "longer than the space");
        assert_eq!(host_view("zz"), None);
        assert_eq!(host_view(""), None);
    }
}
