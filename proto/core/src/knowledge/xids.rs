//! Xid codes: what the driver writes into the kernel's log when something goes wrong on a GPU.

use crate::knowledge::Basis;
use crate::knowledge::table::rows;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::LazyLock;

const TABLE: &str = "xid_codes.tsv";
/// Codes after which the node needs a person, whatever else is said (facts: nvidia 8).
const NODE: [u32; 12] = [79, 119, 120, 48, 62, 64, 74, 95, 109, 110, 140, 143];
/// vGPU manager and guest driver do not fit (same place).
const PAIR: u32 = 78;

/// How bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Nothing to do.
    Info,
    /// One program is to blame, or one program was hit.
    Application,
    /// To be looked into.
    Warning,
    /// The GPU does not work as it should.
    Critical,
}

/// One code.
#[derive(Clone, Debug)]
pub struct Xid {
    /// Number.
    pub code: u32,
    /// NVIDIA's name for it.
    pub mnemonic: &'static str,
    /// Meaning in words; empty where NVIDIA gives none.
    pub meaning: &'static str,
    /// NVIDIA's immediate action, as its table names it (`RESET_GPU`).
    pub action: &'static str,
    /// How bad.
    pub severity: Severity,
    /// Where this comes from.
    pub basis: Basis,
}

static ALL: LazyLock<Vec<Xid>> = LazyLock::new(|| {
    let of_row = |r: crate::knowledge::table::Row| {
        let code = r.get("xid").parse().ok()?;
        let severity = match r.get("severity_class") {
            _ if NODE.contains(&code) || code == PAIR => Severity::Critical,
            "info" => Severity::Info,
            "app" => Severity::Application,
            "gpu-reset" | "node-reboot" | "vm-restart" | "hardware" | "version-mismatch" => {
                Severity::Critical
            }
            _ => Severity::Warning,
        };
        Some(Xid {
            code,
            mnemonic: r.get("mnemonic"),
            meaning: r.get("meaning"),
            action: r.get("nvidia_immediate_action"),
            severity,
            basis: r.basis(TABLE, r.get("xid")),
        })
    };
    rows("xid_codes.tsv").filter_map(of_row).collect()
});

/// What is known of a code.
pub fn of_code(code: u32) -> Option<&'static Xid> {
    ALL.iter().find(|x| x.code == code)
}

/// NVIDIA's action as a sentence.
pub fn advice(action: &str) -> &'static str {
    match action {
        "RESTART_APP" => "restart the program; if it comes back, look into the program",
        "RESET_GPU" => "power-cycle the VM (a vGPU), or reset the GPU on its host",
        "RESTART_BM" => "power-cycle the VM, then the host; a board that does it again is to be replaced",
        "RESTART_VM" => "restart the VM",
        "UPDATE_SWFW" => "bring the drivers of host and guest to a pair that fits: `vsgpu compat`",
        "CHECK_MECHANICALS" => "look at the board's power cable and seat",
        "IGNORE" => "nothing",
        _ => "look at NVIDIA's Xid catalogue, and ask its support if it comes back",
    }
}

/// One line of the kernel's log: the GPU's address, the code and the rest of the sentence.
/// `NVRM: Xid (PCI:0000:5f:00): 79, text`; older drivers write no `PCI:`.
pub fn read(line: &str) -> Option<(String, u32, &str)> {
    let rest = line.split_once("NVRM: Xid (")?.1;
    let (address, rest) = rest.split_once("): ")?;
    let (code, text) = rest.split_once([',', ' ']).unwrap_or((rest, ""));
    Some((
        address.trim_start_matches("PCI:").to_lowercase(),
        code.trim().parse().ok()?,
        text.trim_start_matches(',').trim(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_read_whole_and_node_level_codes_are_critical() {
        assert_eq!(ALL.len(), 172);
        assert!(NODE.iter().all(|c| of_code(*c).is_some_and(|x| x.severity == Severity::Critical)));
        assert_eq!(of_code(31).map(|x| x.severity), Some(Severity::Application));
        assert_eq!(of_code(154).map(|x| x.severity), Some(Severity::Info));
        assert!(of_code(100_000).is_none());
    }

    #[test]
    fn both_forms_of_a_line_are_read() {
        assert_eq!(
            read("[Sun Mar 29] NVRM: Xid (PCI:0000:5F:00): 79, GPU has fallen off the bus."),
            Some(("0000:5f:00".into(), 79, "GPU has fallen off the bus."))
        );
        assert_eq!(read("NVRM: Xid (0000:05:00): 31, Ch 1").map(|x| x.1), Some(31));
        assert_eq!(read("NVRM: Xid (PCI:x): y"), None);
        assert_eq!(read("NVRM: something else"), None);
    }
}
