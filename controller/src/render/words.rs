//! Numbers in sentences.

use vsgpu_core::words::counted;

/// `1 requirement is met`, `3 requirements are met`.
pub fn requirements_met(n: usize) -> String {
    format!("{} {} met", counted(n, "requirement"), if n == 1 { "is" } else { "are" })
}

/// Characters of a line.
pub const WIDTH: usize = 80;

/// Broken at blanks, with a margin; long words stay whole.
pub fn wrapped(text: &str, margin: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let last = lines.len() - 1;
        let width = margin.chars().count() + lines[last].chars().count() + 1 + word.chars().count();
        if !lines[last].is_empty() && width > WIDTH {
            lines.push(word.into());
        } else {
            let gap = if lines[last].is_empty() { "" } else { " " };
            lines[last] += &format!("{gap}{word}");
        }
    }
    lines.iter().map(|l| format!("{margin}{l}")).collect::<Vec<_>>().join("\n")
}
