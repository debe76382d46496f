//! The pages that follow from the code: every requirement and fact from the catalogue, every key of the fleet
//! file from its schema, every hold and error, every alert, the pictures. `cargo xtask docs` writes them; a
//! test fails while they are old.

mod explained;
mod pictures;

use serde_json::Value;
use std::fmt::Write as _;
use vsgpu::catalogue;
use vsgpu_core::requirement::{Needs, TakesEffect};
use vsgpu_core::{Entry, Scope};
use vsgpu_host_agent::host::{EVACUABLE, IMAGE, MAINTENANCE_MODE};

/// The line that says where a page is edited.
fn made_from(sources: &str) -> String {
    format!("<!-- Written by `cargo xtask docs` from {sources}; edit those. -->\n")
}

/// What the code does not say about keys: one section for each.
const KEYS: &str = include_str!("keys.md");

/// File names below `packaging/docs` and what they hold.
pub fn all() -> Result<Vec<(&'static str, String)>, String> {
    Ok(vec![
        ("requirements.md", requirements()),
        ("fleet-file.md", fleet_file()),
        ("errors.md", explained::errors()),
        ("alerts.md", explained::alerts()?),
        ("causes.md", explained::causes()),
        ("parts.svg", pictures::parts()?),
        ("run.svg", pictures::run()?),
        ("gpus.svg", pictures::gpus()),
    ])
}

/// The sections of a text, by heading.
fn sections(text: &'static str) -> impl Iterator<Item = (&'static str, &'static str)> {
    text.split("\n## ")
        .skip(1)
        .filter_map(|section| section.split_once('\n'))
        .map(|(heading, text)| (heading, text.trim()))
}

/// Sections of `keys.md` of one scope: their keys, and what is said of them.
fn notes(scope: &'static str) -> impl Iterator<Item = (Vec<&'static str>, &'static str)> {
    sections(KEYS).filter_map(move |(heading, text)| {
        Some((heading.strip_prefix(scope)?.trim().split(", ").collect(), text))
    })
}

fn word(scope: Scope) -> &'static str {
    match scope {
        Scope::Host => "host",
        Scope::Vm => "vm",
        Scope::Guest => "guest",
    }
}

fn requirements() -> String {
    let made = made_from(
        "the requirements in `host-agent/src/host`, `host-agent/src/vm` and `guest-agent/src/guest`",
    );
    let mut text = format!(
        "# Requirements\n\n{made}\nWhat a fleet file can ask for, what it brings about, and what a change of it needs. \"Needs\" is the most that a change may \
         need: what it does need is settled when the node has been read, and `vsgpu plan` shows it.\nThe values that a key takes: \
         [fleet-file.md](fleet-file.md).\n"
    );
    let all = catalogue();
    for (scope, heading) in [(Scope::Host, "ESXi host"), (Scope::Vm, "VM"), (Scope::Guest, "Guest")] {
        let _ = write!(text, "\n## {heading}\n");
        for entry in all.of(scope) {
            let _ = write!(text, "\n### {}\n\n{}.\n\n", entry.name, entry.about.trim_end_matches('.'));
            for (keys, note) in
                notes(word(scope)).filter(|(keys, _)| entry.is_key && keys.contains(&entry.name))
            {
                match keys.split_first() {
                    Some((first, _)) if *first != entry.name => {
                        let _ = write!(text, "See [`{first}`](#{first}).\n\n");
                    }
                    _ => {
                        let _ = write!(text, "{note}\n\n");
                    }
                }
            }
            of_entry(&mut text, entry);
        }
        let _ = write!(text, "\n### Facts only\n\n");
        let facts: Vec<_> = all.extra_facts.iter().filter(|f| f.scope == scope).collect();
        if facts.is_empty() {
            text += "None: every fact belongs to a requirement.\n";
        }
        for fact in facts {
            let _ = writeln!(text, "- `{}`: {}", fact.name, fact.about);
        }
    }
    text
}

fn of_entry(text: &mut String, entry: &Entry) {
    let needs = match entry.needs {
        Needs::Nothing => "nothing",
        Needs::VmsOff if entry.scope == Scope::Vm => "the VM off",
        Needs::VmsOff => "the host's VMs off",
        Needs::MaintenanceMode => "maintenance mode",
    };
    let active = match entry.takes_effect {
        TakesEffect::AtOnce => "at once".to_string(),
        TakesEffect::AfterRestart(what) => format!("after a restart of {what}"),
        TakesEffect::AfterReboot => "after a reboot".into(),
    };
    let mut line = |what: &str, value: &str| {
        let _ = writeln!(text, "- {what}: {value}");
    };
    if entry.is_key {
        line("Example", &format!("`{}: {}`", entry.name, entry.example));
    } else {
        let own = match entry.name {
            MAINTENANCE_MODE => "entered and left by the planner",
            EVACUABLE => "asked by the planner before the first VM goes down",
            IMAGE => "asked by the planner where Lifecycle Manager owns a host's packages",
            _ => "switched by the planner; `power: on` or `off` is a key of the VM",
        };
        line("No key of its own", own);
    }
    line("A change needs", needs);
    line("It is active", &active);
    if !entry.after.is_empty() {
        line("Comes after", &entry.after.iter().map(|a| format!("`{a}`")).collect::<Vec<_>>().join(", "));
    }
    if !entry.implied_by.is_empty() {
        line(
            "Implied by",
            &entry.implied_by.iter().map(|i| format!("`{}`", i.by)).collect::<Vec<_>>().join(", "),
        );
    }
    line("Read from the fact", &format!("`{}`: {}", entry.fact.name, entry.fact.about));
}

fn fleet_file() -> String {
    let schema = vsgpu::fleet::schema::schema();
    let made = made_from("the specs of the requirements and `packaging/xtask/src/keys.md`");
    let mut text = format!(
        "# Fleet file\n\n{made}\nEvery key, with what it takes. `vsgpu schema` prints the same for editors.\nWhat a key brings about, \
         and what a change of it needs: [requirements.md](requirements.md). Whole fleet files: [quickstart.md](quickstart.md), \
         [examples](../examples/).\n"
    );
    let general = sections(KEYS)
        .find(|(heading, _)| *heading == "in general")
        .map(|(_, text)| text)
        .unwrap_or_default();
    let _ = write!(text, "\n## In general\n\n{general}\n");
    section(&mut text, "At the top", &schema, &["defaults", "hosts", "vms"]);
    let inside = |path: &[&str]| path.iter().fold(&schema, |at, key| &at[*key]);
    section(
        &mut text,
        "A host (`hosts: { NAME: .. }`, and `defaults: { host: .. }`)",
        inside(&["properties", "hosts", "additionalProperties"]),
        &[],
    );
    let vm = inside(&["properties", "vms", "additionalProperties"]);
    section(&mut text, "A VM (`vms: { NAME: .. }`, and `defaults: { vm: .. }`)", vm, &["guest"]);
    section(
        &mut text,
        "A guest (`guest: ..` of a VM, and `defaults: { guest: .. }`)",
        &vm["properties"]["guest"],
        &[],
    );
    let _ = write!(text, "\n## Keys that are no requirement\n");
    let all = catalogue();
    for (scope, of) in [(Scope::Host, "host"), (Scope::Vm, "VM")] {
        for (keys, note) in
            notes(word(scope)).filter(|(keys, _)| !all.of(scope).any(|e| e.is_key && keys.contains(&e.name)))
        {
            let keys: Vec<String> = keys.iter().map(|key| format!("`{key}`")).collect();
            let _ = write!(text, "\n### {} (of a {of})\n\n{note}\n", keys.join(", "));
        }
    }
    text
}

/// Sections of `keys.md` that no page shows.
#[cfg(test)]
pub fn notes_of_nothing() -> Vec<&'static str> {
    let pages = [requirements(), fleet_file()].concat();
    sections(KEYS).filter(|(_, text)| !pages.contains(text)).map(|(heading, _)| heading).collect()
}

fn section(text: &mut String, heading: &str, schema: &Value, without: &[&str]) {
    let _ = write!(text, "\n## {heading}\n\n| key | takes | |\n|---|---|---|\n");
    rows(text, schema, "", without);
}

/// One row for each key, and for the keys inside it, two levels deep.
fn rows(text: &mut String, schema: &Value, prefix: &str, without: &[&str]) {
    for (key, of_key) in schema["properties"]
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(key, _)| !without.contains(&key.as_str()))
    {
        let about = of_key["description"].as_str().unwrap_or_default();
        let default = of_key
            .get("default")
            .filter(|d| !d.is_null())
            .map(|d| format!(" Default: `{d}`."))
            .unwrap_or_default();
        let cell = |text: &str| text.replace('\n', " ").replace('|', "\\|");
        let _ = writeln!(
            text,
            "| `{prefix}{key}` | {} | {}{} |",
            cell(&takes(of_key)),
            cell(about),
            cell(&default)
        );
        if prefix.matches('.').count() < 2 {
            let nested = std::iter::once(of_key).chain(
                ["oneOf", "anyOf"].iter().flat_map(|all| of_key[*all].as_array().into_iter().flatten()),
            );
            for inner in nested.flat_map(|s| [s, &s["items"]]).filter(|s| s["properties"].is_object()) {
                rows(text, inner, &format!("{prefix}{key}."), &[]);
            }
        }
    }
}

/// What a value may be, in words.
fn takes(schema: &Value) -> String {
    let word = |value: &Value| format!("`{}`", value.as_str().map_or(value.to_string(), String::from));
    if let Some(value) = schema.get("const") {
        return word(value);
    }
    if let Some(values) = schema["enum"].as_array() {
        return values.iter().filter(|v| !v.is_null()).map(word).collect::<Vec<_>>().join(", ");
    }
    for all in ["oneOf", "anyOf"] {
        if let Some(all) = schema[all].as_array() {
            let mut words: Vec<String> =
                all.iter().map(takes).filter(|t| t != "nothing" && !t.is_empty()).collect();
            words.dedup();
            return words.join(", ");
        }
    }
    let of = |kind: &str| match kind {
        "array" => format!("a list of: {}", takes(&schema["items"])),
        "object" if schema["additionalProperties"].is_object() => {
            format!("a map to: {}", takes(&schema["additionalProperties"]))
        }
        "object" => "a map".into(),
        "integer" | "number" => match (schema["minimum"].as_f64(), schema["maximum"].as_f64()) {
            (Some(least), Some(most)) => format!("a number from {least} to {most}"),
            _ => "a number".into(),
        },
        "string" => schema["pattern"]
            .as_str()
            .map_or("a text".into(), |pattern| format!("a text that fits `{pattern}`")),
        "boolean" => "`true`, `false`".into(),
        "null" => "nothing".into(),
        other => other.into(),
    };
    match &schema["type"] {
        Value::String(kind) => of(kind),
        Value::Array(kinds) => kinds
            .iter()
            .filter_map(Value::as_str)
            .filter(|k| *k != "null")
            .map(of)
            .collect::<Vec<_>>()
            .join(", "),
        _ => String::new(),
    }
}
