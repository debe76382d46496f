//! Numbers in sentences.

use vsgpu_core::words::counted;

/// `1 requirement is met`, `3 requirements are met`.
pub fn requirements_met(n: usize) -> String {
    format!("{} {} met", counted(n, "requirement"), if n == 1 { "is" } else { "are" })
}
