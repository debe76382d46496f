//! What Grafana would make of the dashboards, by its own defaults: a panel without thresholds is green below 80 and red
//! from 80 on, a table shows every label in the order of the alphabet, a 0 or 1 is a number. No Grafana runs here.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "test code")]

use serde_json::{Value, json};
use std::collections::BTreeSet;
use vsgpu_tests::lab::workspace;

fn dashboards() -> Vec<(&'static str, Value)> {
    let read = |name: &'static str| {
        let text = std::fs::read_to_string(workspace().join("packaging/monitoring").join(name)).unwrap();
        (name, serde_json::from_str(&text).unwrap())
    };
    ["dashboard-fleet.json", "dashboard-gpu.json"].map(read).into()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// The colour of a value: Grafana's own thresholds where the panel says none.
fn colour(panel: &Value, value: f64) -> String {
    let own = list(&panel["fieldConfig"]["defaults"]["thresholds"]["steps"]);
    let default = json!([{ "color": "green", "value": null }, { "color": "red", "value": 80 }]);
    let steps = if own.is_empty() { list(&default) } else { own };
    let reached = |step: &&Value| step["value"].as_f64().is_none_or(|from| value >= from);
    steps.iter().rfind(reached).and_then(|step| step["color"].as_str()).unwrap_or("none").into()
}

/// Labels of ours that a query's series have and that a table would show under their raw names.
fn faults(panel: &Value) -> Vec<String> {
    let mut all: Vec<String> = vec![];
    let mut must = |so: bool, what: &str| {
        if !so {
            all.push(what.to_string());
        }
    };
    let defaults = &panel["fieldConfig"]["defaults"];
    let steps = list(&defaults["thresholds"]["steps"]);
    let kind = panel["type"].as_str().unwrap_or_default();
    must(panel["title"].as_str().is_some_and(|t| t.len() > 5), "it has no title");
    must(panel["description"].as_str().is_some_and(|t| t.ends_with('.')), "it does not say what is counted");
    must(defaults["unit"].is_string(), "it has no unit");
    must(
        steps.first().is_some_and(|s| s["value"].is_null()),
        "it has no thresholds of its own: Grafana's are red from 80 on",
    );
    must(
        steps.windows(2).all(|two| {
            two[0]["value"].as_f64().unwrap_or(f64::MIN) < two[1]["value"].as_f64().unwrap_or(f64::MIN)
        }),
        "its thresholds do not rise",
    );
    must(kind != "stat" || steps.len() > 1, "a stat of one colour says nothing");
    must(
        kind != "state-timeline"
            || list(&defaults["mappings"]).iter().any(|m| m["options"]["1"]["text"].is_string()),
        "0 and 1 are numbers without a mapping",
    );
    for target in list(&panel["targets"]) {
        must(target["expr"].as_str().is_some_and(|e| e.contains("vsgpu_")), "a query asks nothing of ours");
        must(
            kind != "table" || (target["format"] == "table" && target["instant"] == true),
            "a table needs instant rows",
        );
        must(
            matches!(kind, "table" | "stat")
                || target["legendFormat"].as_str().is_some_and(|l| !l.is_empty()),
            "a line without a name is named by all its labels",
        );
    }
    if kind == "table" {
        let organize = list(&panel["transformations"]).iter().find(|t| t["id"] == "organize");
        let renamed = organize.map(|t| &t["options"]["renameByName"]).and_then(Value::as_object);
        let hidden = organize.map(|t| &t["options"]["excludeByName"]).and_then(Value::as_object);
        for name in ["Time", "__name__", "instance", "job", "role"] {
            must(
                hidden.is_some_and(|h| h.get(name) == Some(&json!(true))),
                &format!("column `{name}` is shown"),
            );
        }
        must(renamed.is_some_and(|r| r.len() > 1), "columns have the names of labels");
        let columns: BTreeSet<&str> = organize
            .into_iter()
            .flat_map(|t| t["options"]["indexByName"].as_object())
            .flat_map(|o| o.keys().map(String::as_str))
            .collect();
        must(
            renamed.is_some_and(|r| r.keys().all(|k| columns.contains(k.as_str()))),
            "columns stand in the order of the alphabet",
        );
        let value = hidden.is_some_and(|h| h.contains_key("Value"))
            || renamed.is_some_and(|r| r.keys().any(|k| k.starts_with("Value")));
        must(value, "a column `Value` of nothing but 1 is shown");
    }
    all
}

#[test]
fn every_panel_says_what_it_means() {
    for (name, dashboard) in dashboards() {
        let mut ids = BTreeSet::new();
        for panel in list(&dashboard["panels"]) {
            assert_eq!(faults(panel), Vec::<String>::new(), "{name}: {}", panel["title"]);
            assert!(ids.insert(panel["id"].as_u64().unwrap()), "{name}: {}: an id twice", panel["title"]);
        }
        assert!(ids.len() >= 10, "{name}");
        // Nothing lies on top of something else, and every row is full.
        let mut cells = BTreeSet::new();
        for panel in list(&dashboard["panels"]) {
            let at = |key: &str| panel["gridPos"][key].as_u64().unwrap();
            for (x, y) in
                (at("x")..at("x") + at("w")).flat_map(|x| (at("y")..at("y") + at("h")).map(move |y| (x, y)))
            {
                assert!(x < 24 && cells.insert((x, y)), "{name}: {} overlaps", panel["title"]);
            }
        }
    }
}

#[test]
fn what_is_well_is_green_and_what_is_not_is_red() {
    let all = dashboards();
    let panel = |title: &str| {
        let found = all
            .iter()
            .flat_map(|(_, d)| list(&d["panels"]))
            .find(|p| p["title"].as_str().unwrap().starts_with(title));
        found.unwrap_or_else(|| panic!("{title}"))
    };
    const DAY: f64 = 86_400.0;
    for (title, value, wanted) in [
        ("Hosts and guests that do not answer", 0.0, "green"),
        ("Hosts and guests that do not answer", 1.0, "red"),
        ("Requirements that are not met", 0.0, "green"),
        ("Requirements that are not met", 12.0, "red"),
        ("vGPUs without a license", 40.0, "red"),
        ("Hosts and guests that a run holds", 3.0, "red"),
        ("Guests whose CUDA proof", 1.0, "red"),
        ("The first certificate ends in", 300.0 * DAY, "green"),
        ("The first certificate ends in", 10.0 * DAY, "orange"),
        ("The first certificate ends in", 60.0, "red"),
        ("Certificates: time that is left", 300.0 * DAY, "green"),
        ("Certificates: time that is left", 60.0, "red"),
        ("Frame buffer of each GPU that vGPUs have", 1.0, "blue"),
        ("Hosts in maintenance mode", 1.0, "orange"),
        ("Temperature of GPUs", 85.0, "orange"),
        ("Memory errors", 1.0, "red"),
    ] {
        assert_eq!(colour(panel(title), value), wanted, "{title}: {value}");
    }
}

/// A check that cannot fail is none: the dashboards as they were before.
#[test]
fn the_checks_find_what_they_are_for() {
    let bare = json!({
        "title": "Requirements that are not met", "type": "stat",
        "targets": [{ "expr": "count(vsgpu_requirement_met == 0)", "legendFormat": "" }],
        "fieldConfig": { "defaults": {}, "overrides": [] },
    });
    assert_eq!(colour(&bare, 12.0), "green", "twelve that are not met, in green");
    assert_eq!(colour(&bare, 31_000_000.0), "red", "a certificate that is good for a year, in red");
    assert!(faults(&bare).iter().any(|f| f.contains("red from 80 on")), "{:?}", faults(&bare));
    let table = json!({
        "title": "What differs", "type": "table", "description": "Rows.",
        "targets": [{ "expr": "vsgpu_requirement_met == 0", "format": "table", "instant": true }],
        "fieldConfig": { "defaults": { "unit": "none", "thresholds": { "steps": [{ "color": "blue", "value": null }] } } },
    });
    let found = faults(&table).join("; ");
    for fault in ["column `__name__` is shown", "names of labels", "order of the alphabet", "`Value`"] {
        assert!(found.contains(fault), "{fault}: {found}");
    }
}
