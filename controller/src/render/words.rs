//! Numbers in sentences.

use std::io::IsTerminal as _;
use std::sync::OnceLock;
use vsgpu_core::words::counted;

/// `1 requirement is met`, `3 requirements are met`.
pub fn requirements_met(n: usize) -> String {
    format!("{} {} met", counted(n, "requirement"), if n == 1 { "is" } else { "are" })
}

/// How long ago: `4 min ago`.
pub fn ago(seconds: u64) -> String {
    match seconds {
        0..=89 => "just now".into(),
        _ => format!("{} ago", took(seconds)),
    }
}

/// How old something is that is shown: `4 s`.
pub fn age(seconds: u64) -> String {
    if seconds == 0 { "0 s".into() } else { took(seconds) }
}

/// How long: `26 min`.
pub fn took(seconds: u64) -> String {
    match seconds {
        0..=89 => format!("{} s", seconds.max(1)),
        90..=5_399 => format!("{} min", (seconds + 30) / 60),
        5_400..=129_599 => format!("{} h", (seconds + 1_800) / 3_600),
        _ => format!("{} days", (seconds + 43_200) / 86_400),
    }
}

/// What is said of a step, where machine and step stand beside it already.
pub fn bare<'a>(text: &'a str, node: &str, title: &str) -> &'a str {
    let text = text.strip_prefix(node).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(text);
    text.strip_prefix(title).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(text)
}

/// Characters of a line: as wide as the terminal that the answer goes to, and no wider than is read with ease; 80
/// where it goes elsewhere.
pub fn width() -> usize {
    static WIDTH: OnceLock<usize> = OnceLock::new();
    *WIDTH.get_or_init(|| {
        let size = std::io::stdout().is_terminal().then(ratatui::crossterm::terminal::size);
        let size = size.and_then(Result::ok).filter(|(columns, _)| *columns > 0);
        size.map_or(80, |(columns, _)| usize::from(columns).clamp(40, 120))
    })
}

/// Broken at blanks, with a margin; long words stay whole.
pub fn wrapped(text: &str, margin: &str) -> String {
    wrapped_at(text, margin, width())
}

/// A line, broken at blanks where it is wider than the terminal.
pub(super) fn broken(line: &str, margin: &str, width: Option<usize>) -> String {
    match width {
        Some(width) if line.chars().count() > width => {
            let indent: String = line.chars().take_while(|c| *c == ' ').collect();
            let text = wrapped_at(line.trim_start(), margin, width);
            format!("{indent}{}\n", text.trim_start())
        }
        _ => format!("{line}\n"),
    }
}

/// All lines of a text for a terminal of this width: what goes on stands deeper than what it goes on from, and where no
/// sign of a plan stands. Commands stay whole: they are copied.
pub(super) fn fitted(text: &str, width: Option<usize>) -> String {
    let line = |line: &str| {
        let deep = line.chars().take_while(|c| *c == ' ').count() + 4;
        let is_command = line.trim_start().starts_with("$ ");
        broken(line, &" ".repeat(deep), width.filter(|_| !is_command))
    };
    text.lines().map(line).collect()
}

/// The same for a terminal of another width.
pub fn wrapped_at(text: &str, margin: &str, columns: usize) -> String {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let last = lines.len() - 1;
        let width = margin.chars().count() + lines[last].chars().count() + 1 + word.chars().count();
        if !lines[last].is_empty() && width > columns {
            lines.push(word.into());
        } else {
            let gap = if lines[last].is_empty() { "" } else { " " };
            lines[last] += &format!("{gap}{word}");
        }
    }
    lines.iter().map(|l| format!("{margin}{l}")).collect::<Vec<_>>().join("\n")
}
