//! Where text of machines, files and logs becomes text for people. Whoever is root in one VM chooses what its
//! tools print, so none of it may move a cursor, change a colour, hide itself or begin a line of its own on
//! an operator's screen.
//!
//! What is hostile is shown as `\u001b`: visible, and in JSON and YAML an escape that reads back as the same
//! character.

use std::borrow::Cow;

/// Characters of one sentence from a machine. The longest of ours (a tool's own words with its command) have
/// some hundreds.
pub const SENTENCE: usize = 2_000;

/// Characters beyond a bound that are not worth a cut.
const SLACK: usize = 48;

/// Whether a terminal does something else with a character than showing it: controls (C0, C1), direction
/// (bidi), and what has neither width nor ink.
fn is_hostile(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
        || matches!(c, '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

fn escape(c: char, out: &mut String) {
    let mut units = [0; 2];
    for unit in c.encode_utf16(&mut units) {
        out.push_str(&format!("\\u{unit:04x}"));
    }
}

/// The same with everything visible. Line ends and tabs stay: they are the layout of whoever made the text.
pub fn visible(text: &str) -> Cow<'_, str> {
    let stays = |c: char| matches!(c, '\n' | '\t') || !is_hostile(c);
    if text.chars().all(stays) {
        return text.into();
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if stays(c) { out.push(c) } else { escape(c, &mut out) }
    }
    out.into()
}

/// A piece of text that came from elsewhere, as part of a line: no line ends either, no passwords of
/// addresses, and of bounded length.
pub fn piece(text: &str, most: usize) -> String {
    let text = without_passwords(text);
    let text = text.trim_end_matches(['\n', '\r']);
    // What was cut once already, with the words that say so, stays as it is.
    let most = if text.chars().nth(most + SLACK).is_none() { most + SLACK } else { most };
    let mut out = String::with_capacity(text.len().min(most));
    let (mut chars, mut shown) = (text.chars(), 0);
    for c in chars.by_ref() {
        let before = out.len();
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push(' '),
            c if is_hostile(c) => escape(c, &mut out),
            c => out.push(c),
        }
        // An escape is plain ASCII.
        shown += if out.len() - before > c.len_utf8() { out.len() - before } else { 1 };
        if shown >= most {
            break;
        }
    }
    let more = chars.count();
    if more > 0 {
        out.push_str(&format!(".. ({more} more characters)"));
    }
    out
}

/// What stands for a name and a password.
const HIDDEN: &str = "...@";

/// `https://proxy:3128` of `https://name:password@proxy:3128`, wherever in a text: tools print the addresses
/// that they were given.
pub fn without_passwords(text: &str) -> Cow<'_, str> {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out.push_str(before);
        let end = after.find(|c: char| c.is_whitespace() || "/\"`<>\\".contains(c)).unwrap_or(after.len());
        // A password may hold an `@` of its own: the last one counts.
        let host = match after[..end].rfind('@') {
            Some(at) => {
                out.push_str(HIDDEN);
                at + 1
            }
            None => 0,
        };
        rest = &after[host..];
    }
    if out.is_empty() { text.into() } else { (out + rest).into() }
}

/// The same for every text of a fact. What an agent makes files of never comes from such a text: `hides`
/// keeps it so.
pub fn without_passwords_in(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::String(text) => {
            if let Cow::Owned(clean) = without_passwords(text) {
                *text = clean;
            }
        }
        serde_json::Value::Array(items) => items.iter_mut().for_each(without_passwords_in),
        serde_json::Value::Object(map) => map.values_mut().for_each(without_passwords_in),
        _ => {}
    }
}

/// Whether something was hidden in a text: it must not become a file.
pub fn hides(text: &str) -> bool {
    text.contains(&format!("://{HIDDEN}"))
}

/// One sentence.
pub fn sentence(text: &str) -> String {
    piece(text, SENTENCE)
}

/// Every text of a document as a sentence; keys as well.
pub fn sentences(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::String(text) => *text = sentence(text),
        serde_json::Value::Array(items) => items.iter_mut().for_each(sentences),
        serde_json::Value::Object(map) => map.values_mut().for_each(sentences),
        _ => {}
    }
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_moves_a_cursor_is_left() {
        let hostile = "a\u{1b}]0;title\u{7}\u{1b}[2J\u{9b}1;1H\u{202e}evil\u{2066}\r\u{200b}\u{e0041}\u{7f}b";
        let shown = visible(hostile);
        assert_eq!(
            shown,
            "a\\u001b]0;title\\u0007\\u001b[2J\\u009b1;1H\\u202eevil\\u2066\\u000d\\u200b\\udb40\\udc41\\u007fb"
        );
        assert_eq!(visible("a\n\tb ü 日本 'x'"), "a\n\tb ü 日本 'x'");
        assert_eq!(sentence("a\r\nb\tc\n"), "a\\r\\nb c");
        assert!(sentence(&"x".repeat(5_000)).ends_with("x.. (3000 more characters)"));
        let long = sentence(&"\u{1b}".repeat(5_000));
        assert_eq!(
            (visible(&shown), sentence(&sentence("a\n"))),
            (shown.clone(), sentence("a\n")),
            "once is enough"
        );
        assert!(long.len() < SENTENCE + 2 * SLACK && sentence(&long) == long);
    }

    #[test]
    fn passwords_of_addresses_are_hidden() {
        for (text, shown) in [
            ("deb https://me:ge@heim@mirror/debian x", "deb https://...@mirror/debian x"),
            (
                "Acquire::http::Proxy \"http://u:p@proxy:3128\";",
                "Acquire::http::Proxy \"http://...@proxy:3128\";",
            ),
            ("http://a/b@c and ftp://x:y@z", "http://a/b@c and ftp://...@z"),
            ("me@example.com", "me@example.com"),
            ("://", "://"),
        ] {
            assert_eq!(without_passwords(text), shown);
            assert_eq!(without_passwords(shown), shown, "once is enough");
            assert_eq!(sentence(text), shown);
        }
        assert!(hides(&without_passwords("x://a:b@c")) && !hides("http://proxy"));
    }

    #[test]
    fn escapes_read_back_in_json() {
        let value = serde_json::json!({ "k": "\u{1b}[2J \u{9b} \u{202e} \u{e0041}\n" });
        let text = value.to_string();
        assert_eq!(serde_json::from_str::<serde_json::Value>(&visible(&text)).ok(), Some(value));
    }
}
