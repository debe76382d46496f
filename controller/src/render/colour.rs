//! Colour: a help for eyes, never needed. Whether it is shown is the streams' business (`anstream`: only on a
//! terminal that can, never with NO_COLOR, always with CLICOLOR_FORCE); here it is said where, and what a
//! dumb terminal is.

use anstyle::{AnsiColor, Style};
use vsgpu_core::text::visible;

const BAD: Style = AnsiColor::Red.on_default().bold();
const DOUBT: Style = AnsiColor::Yellow.on_default().bold();
const HINT: Style = AnsiColor::Cyan.on_default();
const NEW: Style = AnsiColor::Green.on_default();
const CHANGED: Style = AnsiColor::Yellow.on_default();
const SEEN: Style = Style::new().dimmed();

/// Signs of a plan's lines, and what goes down.
const SIGNS: [(&str, Style); 6] =
    [("  ! ", BAD), ("  ~ ", CHANGED), ("  + ", NEW), ("  - ", CHANGED), ("  ? ", SEEN), ("goes down ", BAD)];

/// Words that stand out wherever they are; they are written so nowhere else.
const LOUD: [&str; 6] =
    ["FAILED", "NOT READABLE", "NOT:", "CRITICAL", "STARTED", "IS STILL IN MAINTENANCE MODE"];

/// A terminal that says it cannot, cannot: the streams would give it colour nevertheless where `CI` is set.
/// Said once, before the first word.
pub fn leave_to_terminals_that_can() {
    let forced = std::env::var_os("CLICOLOR_FORCE").is_some_and(|v| !v.is_empty());
    if !forced && std::env::var_os("TERM").is_none_or(|term| term == "dumb") {
        anstream::ColorChoice::Never.write_global();
    }
}

/// The text with styles: ours, and none that came with it.
pub(super) fn paint(text: &str) -> String {
    let text = &*visible(text);
    let mut out = String::with_capacity(text.len() + 64);
    for line in text.split_inclusive('\n') {
        let head =
            |prefix: &str| line.starts_with(prefix).then(|| line.find(':').map_or(line.len(), |at| at + 1));
        if let Some(at) = head("error[") {
            out += &styled(BAD, &line[..at], &line[at..]);
        } else if let Some(at) = head("warning:") {
            out += &styled(DOUBT, &line[..at], &line[at..]);
        } else if let Some(at) = head("hint:") {
            out += &styled(HINT, &line[..at], &line[at..]);
        } else if let Some((sign, style)) = SIGNS.iter().find(|(sign, _)| line.starts_with(sign)) {
            out += &styled(*style, sign, &line[sign.len()..]);
        } else {
            out +=
                &LOUD.iter().fold(line.to_string(), |line, word| line.replace(word, &styled(BAD, word, "")));
        }
    }
    out
}

fn styled(style: Style, text: &str, rest: &str) -> String {
    format!("{}{text}{}{rest}", style.render(), style.render_reset())
}
