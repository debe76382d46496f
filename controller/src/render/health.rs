//! Health of guests as people read it: one line for each finding that somebody has to act on.

use crate::inventory::{Inventory, Seen};
use crate::node::NodeKind;
use vsgpu_core::knowledge::xids::Severity;
use vsgpu_core::text::sentence;
use vsgpu_guest_agent::facts::Health;

/// Lines of one guest, indented; nothing where all is well.
pub fn of_guest(seen: &Seen) -> Vec<String> {
    let Ok(health) = seen.fact::<Health>() else { return vec![] };
    let word = |severity| if severity == Severity::Critical { "CRITICAL" } else { "warning" };
    let gpu = |gpu: &Option<String>| gpu.as_ref().map(|g| format!("GPU {g}: ")).unwrap_or_default();
    let bad = health.findings.iter().filter(|f| f.severity >= Severity::Warning);
    bad.map(|f| {
        format!(
            "  {}: {}{}\n      {}",
            word(f.severity),
            sentence(&gpu(&f.gpu)),
            sentence(&f.what),
            sentence(&f.fix)
        )
    })
    .collect()
}

/// A block for the whole fleet; empty where all is well.
pub fn of_fleet(inventory: &Inventory) -> String {
    let mut text = String::new();
    for (node, seen) in inventory.nodes.iter().filter(|(id, _)| id.kind == NodeKind::Guest) {
        let lines = seen.as_ref().map(of_guest).unwrap_or_default();
        if !lines.is_empty() {
            text += &format!("{node}\n{}\n", lines.join("\n"));
        }
    }
    if text.is_empty() { text } else { format!("health, which no wish can mend:\n{text}\n") }
}
