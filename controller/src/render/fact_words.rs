//! A fact's values in words, where neither it nor its requirement has a sentence.

use serde_json::{Map, Value};

/// Parts of one value that are named.
const MOST: usize = 6;

/// `driver_version` as `driver version`.
fn key(name: &str) -> String {
    name.replace(['_', '-'], " ")
}

fn one(name: &str, value: &Value) -> Option<String> {
    Some(match value {
        Value::Null => return None,
        Value::Bool(true) => key(name),
        Value::Bool(false) => format!("not {}", key(name)),
        Value::Number(n) => format!("{} {n}", key(name)),
        Value::String(text) if text.is_empty() => return None,
        // A whole file: it is in the values.
        Value::String(text) if text.contains('\n') => {
            format!("{} of {} lines", key(name), text.lines().count())
        }
        Value::String(text) => format!("{} {text}", key(name)),
        Value::Array(items) if items.is_empty() => format!("no {}", key(name)),
        Value::Array(items) if items.iter().all(|i| i.is_string() || i.is_number()) && items.len() <= 4 => {
            format!("{} {}", key(name), items.iter().map(scalar).collect::<Vec<_>>().join(", "))
        }
        Value::Array(items) => format!("{} {}", items.len(), key(name)),
        Value::Object(map) if map.is_empty() => return None,
        Value::Object(map) => format!("{}: {}", key(name), object(map)),
    })
}

fn scalar(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), String::from)
}

fn object(map: &Map<String, Value>) -> String {
    let parts: Vec<String> = map.iter().filter_map(|(name, value)| one(name, value)).collect();
    let more = if parts.len() > MOST { format!(" and {} more", parts.len() - MOST) } else { String::new() };
    parts.into_iter().take(MOST).collect::<Vec<_>>().join(", ") + &more
}

/// A fact's values in words.
pub(super) fn told(fact: &Value) -> String {
    match fact {
        Value::Object(map) => {
            // A fact of one value is that value.
            let mut filled = map.iter().filter(|(_, value)| !value.is_null());
            match (filled.next(), filled.next()) {
                (Some((_, value @ (Value::String(_) | Value::Number(_)))), None) => scalar(value),
                (None, _) => "nothing".into(),
                _ => object(map),
            }
        }
        Value::Array(items) if items.is_empty() => "none".into(),
        Value::Array(items) => format!("{} of them", items.len()),
        other => scalar(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_are_words() {
        assert_eq!(told(&json!({ "level": "PartnerSupported" })), "PartnerSupported");
        assert_eq!(
            told(&json!({ "reboot_required": false, "in_maintenance_mode": true, "boot_time": null })),
            "not reboot required, in maintenance mode"
        );
        assert_eq!(
            told(&json!({ "vms": [{}, {}], "names": ["a", "b"], "empty": [] })),
            "2 vms, names a, b, no empty"
        );
        assert_eq!(told(&json!({ "gpus": { "0000:3b:00.0": { "on": true } } })), "gpus: 0000:3b:00.0: on");
        assert_eq!(told(&json!([])), "none");
        let file = json!({ "a": 1, "os_release": "NAME=x\nID=y\n" });
        assert_eq!(told(&file), "a 1, os release of 2 lines");
        let many: Value = (0..9).map(|n| (format!("k{n}"), json!(n))).collect::<Map<_, _>>().into();
        assert_eq!(told(&many), "k0 0, k1 1, k2 2, k3 3, k4 4, k5 5 and 3 more");
    }
}
