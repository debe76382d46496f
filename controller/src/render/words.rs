//! Numbers in sentences.

/// `1 host`, `3 hosts`.
pub fn counted(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// `1 requirement is met`, `3 requirements are met`.
pub fn requirements_met(n: usize) -> String {
    format!("{} {} met", counted(n, "requirement"), if n == 1 { "is" } else { "are" })
}
