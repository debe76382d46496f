//! Numbers in sentences.

/// `1 host`, `3 hosts`.
pub fn counted(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}
