//! `.vmx` files: reading keys, and changing some while every other byte stays as it was.
//! Keys are compared without case, as VMware does. Bytes, not text: the file says its own `.encoding`.

use std::collections::BTreeMap;

/// All keys in lower case with their values, quotes removed. Lines that are no `key = value` are skipped.
pub fn read(bytes: &[u8]) -> BTreeMap<String, String> {
    let text = String::from_utf8_lossy(bytes);
    text.lines().filter_map(pair).map(|(key, value)| (key.to_lowercase(), value)).collect()
}

/// The first key that is there twice, with the numbers of its two lines. hostd does not read such a file: the VM
/// is invalid once it looks at it again.
pub fn twice(bytes: &[u8]) -> Option<(String, usize, usize)> {
    let text = String::from_utf8_lossy(bytes);
    let mut seen = BTreeMap::new();
    for (at, line) in text.lines().enumerate() {
        let Some((key, _)) = pair(line) else { continue };
        if let Some(before) = seen.insert(key.to_lowercase(), at + 1) {
            return Some((key, before, at + 1));
        }
    }
    None
}

fn pair(line: &str) -> Option<(String, String)> {
    let line = line.trim_start_matches('\u{feff}').trim();
    let (key, value) = line.split_once('=')?;
    let key = key.trim();
    if key.is_empty() || key.starts_with('#') || key.contains(char::is_whitespace) {
        return None;
    }
    let value = value.trim();
    let inner = value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).unwrap_or(value);
    Some((key.into(), unescape(inner)))
}

/// VMware writes a quote as `|22`, a bar as `|7C`.
fn unescape(value: &str) -> String {
    let mut out = String::new();
    let mut rest = value;
    while let Some(at) = rest.find('|') {
        out += &rest[..at];
        match rest.get(at + 1..at + 3).and_then(|h| u8::from_str_radix(h, 16).ok()) {
            Some(byte) if byte.is_ascii() => {
                out.push(byte as char);
                rest = &rest[at + 3..];
            }
            _ => {
                out.push('|');
                rest = &rest[at + 1..];
            }
        }
    }
    out + rest
}

fn escape(value: &str) -> String {
    value.replace('|', "|7C").replace('"', "|22").replace(['\n', '\r'], " ")
}

/// The same file with some keys set or (with `None`) dropped: in place where the key is, else at the end.
pub fn edit(bytes: &[u8], set: &[(String, Option<String>)]) -> Vec<u8> {
    let crlf = bytes.windows(2).any(|w| w == b"\r\n");
    let end: &[u8] = if crlf { b"\r\n" } else { b"\n" };
    let mut out = Vec::with_capacity(bytes.len() + 256);
    let mut written = vec![false; set.len()];
    for line in bytes.split_inclusive(|b| *b == b'\n') {
        let key = pair(&String::from_utf8_lossy(line)).map(|(key, _)| key).unwrap_or_default();
        let Some(at) = set.iter().position(|(name, _)| name.eq_ignore_ascii_case(&key)) else {
            out.extend_from_slice(line);
            continue;
        };
        // A key that appears twice is left standing once, or the second would win over ours.
        if let (Some(value), false) = (&set[at].1, written[at]) {
            // A key keeps the spelling that it has in this file.
            out.extend_from_slice(format!("{key} = \"{}\"", escape(value)).as_bytes());
            out.extend_from_slice(end);
        }
        written[at] = true;
    }
    if out.last().is_some_and(|b| *b != b'\n') {
        out.extend_from_slice(end);
    }
    for ((key, value), _) in set.iter().zip(&written).filter(|(_, done)| !**done) {
        if let Some(value) = value {
            out.extend_from_slice(format!("{key} = \"{}\"", escape(value)).as_bytes());
            out.extend_from_slice(end);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(pairs: &[(&str, Option<&str>)]) -> Vec<(String, Option<String>)> {
        pairs.iter().map(|(k, v)| (k.to_string(), v.map(Into::into))).collect()
    }

    #[test]
    fn a_key_twice_is_found_whatever_its_case() {
        let text = b"a = \"1\"\n# a = \"2\"\nmemSize = \"8192\"\nMEMSIZE = \"4096\"\n";
        assert_eq!(twice(text), Some(("MEMSIZE".into(), 3, 4)));
        assert_eq!(twice(b"a = \"1\"\nab = \"1\"\n"), None);
    }

    #[test]
    fn only_our_keys_change() {
        let before = b".encoding = \"windows-1252\"\r\n# caf\xe9\r\nmemSize = \"8192\"\r\nSched.Mem.Min = \"0\"\r\nold = \"x\"\r\n";
        let after =
            edit(before, &set(&[("sched.mem.min", Some("8192")), ("old", None), ("new", Some("a\"b|"))]));
        assert_eq!(
            after,
            b".encoding = \"windows-1252\"\r\n# caf\xe9\r\nmemSize = \"8192\"\r\nSched.Mem.Min = \"8192\"\r\nnew = \"a|22b|7C\"\r\n"
        );
        assert_eq!(read(&after)["new"], "a\"b|");
    }

    #[test]
    fn editing_twice_is_editing_once_and_a_missing_last_newline_is_no_trap() {
        let wish = set(&[("a", Some("1")), ("b", None)]);
        let once = edit(b"b = \"2\"\na = \"0\"\na = \"9\"\nc = \"3\"", &wish);
        assert_eq!(once, b"a = \"1\"\nc = \"3\"\n");
        assert_eq!(edit(&once, &wish), once);
    }
}
