//! What `facts`, `verify` and `status` answer, as JSON and as text.

use crate::fleet::range::folded;
use crate::fleet::{Fleet, Specs};
use crate::inventory::Inventory;
use crate::node::{NodeId, NodeKind};
use crate::plan::verify::Check;
use crate::render::fact_words::told;
use crate::render::printer::Answer;
use crate::render::table::{columns, columns_wrapped};
use crate::render::words::{width, wrapped};
use serde_json::{Map, Value, json};
use std::sync::Arc;
use vsgpu_core::catalogue::Entry;
use vsgpu_core::observe::facts_as_json;
use vsgpu_core::requirement::Verdict;
use vsgpu_core::{Requirement as _, Unreadable, judge};
use vsgpu_guest_agent::guest::{CudaProof, Driver, License, NetworkGpu};

/// What a fact says of itself; else what its requirement says of it, against what is wished or against what is;
/// else its values in words.
fn sentence_of(specs: Option<&Specs>, id: &NodeId, name: &str, fact: &Value) -> String {
    let catalogue = crate::catalogue::catalogue();
    let scope = id.kind.scope();
    let itself = catalogue
        .facts(scope)
        .into_iter()
        .find(|entry| entry.name == name)
        .and_then(|entry| (entry.sentence)(fact));
    let is = |entry: &Entry, spec: &Value| match judge(entry, spec, Some(&Ok(fact))) {
        Verdict::Met { is } | Verdict::Unmet { is, .. } => Some(is),
        Verdict::Blocked { .. } | Verdict::Waits { .. } => None,
    };
    let wished = || {
        specs.into_iter().flat_map(|specs| specs.iter()).find_map(|spec| {
            let entry = catalogue.find(scope, spec.requirement).filter(|entry| entry.fact.name == name)?;
            is(entry, &spec.value)
        })
    };
    let as_it_is = || {
        let of_fact = catalogue.of(scope).filter(|entry| entry.fact.name == name);
        let untouched = |entry: &Entry| serde_json::from_str(entry.untouched?).ok();
        of_fact
            .filter_map(|entry| {
                is(entry, &(entry.as_spec)(fact).ok().flatten().or_else(|| untouched(entry))?)
            })
            .next()
    };
    itself.or_else(wished).or_else(as_it_is).unwrap_or_else(|| told(fact))
}

/// `fleet`: what is wished of the nodes, where there is one.
pub fn facts(inventory: &Inventory, fleet: Option<&Fleet>) -> Answer {
    let specs = fleet.map(Fleet::specs).unwrap_or_default();
    let mut json = Map::new();
    let (mut text, mut wide) = (String::new(), String::new());
    for (id, seen) in &inventory.nodes {
        let Ok(seen) = seen else {
            json.insert(id.clone().into(), json!({ "error": seen.as_ref().err() }));
            continue;
        };
        let mut facts = facts_as_json(&seen.facts);
        let mut head = format!("{id}\n");
        if let Some(readiness) =
            crate::inventory::readiness::of_host(seen).filter(|_| id.kind == NodeKind::Host)
        {
            facts["readiness"] = json!(readiness);
            head += &format!("{}\n", crate::render::readiness::text(&readiness, true));
        }
        head +=
            &crate::render::health::of_guest(seen).iter().map(|line| format!("{line}\n")).collect::<String>();
        json.insert(id.clone().into(), facts);
        let rows = |wide: bool| {
            let row = |(name, fact): (&Arc<str>, &Result<Arc<Value>, Unreadable>)| {
                let value = match fact {
                    Err(why) => format!("NOT READABLE: {why}"),
                    Ok(fact) if wide => fact.to_string(),
                    Ok(fact) => sentence_of(specs.get(id).copied(), id, name, fact),
                };
                if wide {
                    return format!("  {name:<24} {value}\n");
                }
                let margin = " ".repeat(27);
                let lines = wrapped(&value, &margin);
                format!("  {name:<24} {}\n", lines.trim_start())
            };
            seen.facts.iter().map(row).collect::<String>()
        };
        text += &format!("{head}{}", rows(false));
        wide += &format!("{head}{}", rows(true));
    }
    if !text.is_empty() {
        text += "\nValues as they were read: `vsgpu facts -o yaml`.";
    }
    let names = inventory.nodes.keys().map(|id| id.clone().into()).collect();
    Answer {
        json: json.into(),
        text: text.trim_end().into(),
        wide: Some(wide.trim_end().into()),
        names,
        verbatim: false,
    }
}

/// What is met, what is not, and one line of proof per VM.
pub fn verify(fleet: &Fleet, checks: &[Check], inventory: &Inventory) -> Answer {
    let unmet: Vec<&Check> = checks.iter().filter(|c| !c.met && c.known).collect();
    let met = checks.iter().filter(|c| c.met).count();
    let mut text = String::new();
    let mut unknown: std::collections::BTreeMap<&NodeId, usize> = std::collections::BTreeMap::new();
    for check in checks.iter().filter(|c| !c.known) {
        *unknown.entry(&check.node).or_default() += 1;
    }
    for (node, count) in unknown {
        text += &format!("{node} could not be asked: {count} requirements unknown\n");
    }
    if !unmet.is_empty() {
        // Machines that lack the same are one line.
        let mut lacks: Vec<((&str, String), Vec<String>)> = vec![];
        let mut places: std::collections::HashMap<(&str, String), usize> = Default::default();
        for c in &unmet {
            let is = format!("{}{}", c.is, c.wants.as_ref().map(|w| format!(" -> {w}")).unwrap_or_default());
            let key = (c.requirement.as_str(), is);
            let at = *places.entry(key.clone()).or_insert_with(|| {
                lacks.push((key, vec![]));
                lacks.len() - 1
            });
            lacks[at].1.push(c.node.to_string());
        }
        let row = |((requirement, is), machines): ((&str, String), Vec<String>)| {
            vec![folded(machines).join(", "), requirement.to_string(), is]
        };
        let head = ["WHERE", "WHAT", "NOW -> WANTED"].map(String::from).to_vec();
        let rows: Vec<Vec<String>> = std::iter::once(head).chain(lacks.into_iter().map(row)).collect();
        text += &format!("not as the fleet file says:\n{}\n\n", columns_wrapped(&rows, width()));
    }
    text += &crate::render::health::of_fleet(inventory);
    let moved = crate::inventory::elsewhere(fleet, inventory);
    // Which GPU a VM has: its address, or the kind of its vGPU where the driver does not place it.
    let readiness: std::collections::BTreeMap<&str, crate::inventory::readiness::Readiness> = fleet
        .hosts
        .iter()
        .filter_map(|h| {
            Some((
                h.name.as_str(),
                crate::inventory::readiness::of_host(inventory.seen(&NodeId::new(NodeKind::Host, &h.name))?)?,
            ))
        })
        .collect();
    let gpus_of = |vm: &crate::fleet::Vm| -> Vec<String> {
        let host = moved.get(&vm.name).unwrap_or(&vm.host);
        let of_host = readiness.get(host.as_str()).map(|r| r.gpus.as_slice()).unwrap_or_default();
        of_host.iter().filter(|gpu| gpu.vms.contains(&vm.vm_name)).map(|gpu| gpu.address.clone()).collect()
    };
    let mut by_guest: std::collections::BTreeMap<&str, Vec<&Check>> = std::collections::BTreeMap::new();
    for check in checks.iter().filter(|c| c.node.kind == NodeKind::Guest) {
        by_guest.entry(&check.node.name).or_default().push(check);
    }
    let proofs: Vec<Value> = fleet
        .vms
        .iter()
        .filter_map(|vm| {
            let of_vm = by_guest.get(vm.name.as_str())?;
            let state = |name: &str| of_vm.iter().find(|c| c.requirement == name).map(|c| json!({ "met": c.met, "is": c.is }));
            // A guest without GPUs proves those of another machine.
            let proof = state(CudaProof::NAME).or_else(|| state(NetworkGpu::NAME));
            Some(json!({ "vm": vm.name, "host": if moved.contains_key(&vm.name) { vm.wished_host() } else { vm.host.clone() }, "is-on": moved.get(&vm.name), "gpus": gpus_of(vm), "driver": state(Driver::NAME), "license": state(License::NAME), "proof": proof }))
        })
        .collect();
    // A line fits a terminal: what is met is said in a word; what is not has its reason above, and here with `-o wide`.
    let word = |value: &Value, cut: &[char], wide: bool| match value["is"].as_str() {
        Some(is) if value["met"] == true => is.split(cut).next().unwrap_or(is).trim().to_string(),
        Some(is) if wide => format!("NOT: {is}"),
        Some(_) => "NOT".into(),
        None => "-".into(),
    };
    let proof = |value: &Value, wide: bool| match value["met"] == true && !wide {
        true => "right".into(),
        false => word(value, &[], wide),
    };
    let name = |value: &Value| value.as_str().unwrap_or_default().to_string();
    let gpus = |value: &Value, wide: bool| {
        let list: Vec<&str> = value.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let alike = list.iter().all(|gpu| *gpu == list[0]);
        match list.len() {
            0 => "-".to_string(),
            1 => list[0].into(),
            n if alike => format!("{n} x {}", list[0]),
            // A line has 80 columns; the long form names them.
            n if n > 2 && !wide => format!("{n} GPUs"),
            _ => list.join(" + "),
        }
    };
    let row = |p: &Value, wide: bool| {
        let host = match p["is-on"].as_str() {
            Some(is) => format!("{is} (file says {})", name(&p["host"])),
            None => name(&p["host"]),
        };
        vec![
            name(&p["vm"]),
            host,
            gpus(&p["gpus"], wide),
            word(&p["driver"], &[','], wide),
            word(&p["license"], &['(', ','], wide),
            proof(&p["proof"], wide),
        ]
    };
    let table = |wide: bool| {
        let head = ["VM", "HOST", "GPU", "DRIVER", "LICENSE", "PROOF"].map(String::from).to_vec();
        let rows: Vec<Vec<String>> =
            std::iter::once(head).chain(proofs.iter().map(|p| row(p, wide))).collect();
        if proofs.is_empty() { String::new() } else { format!("{}\n\n", columns(&rows)) }
    };
    let end = match (checks.is_empty(), inventory.nodes.values().any(Result::is_ok)) {
        (true, false) => "nothing was checked: no node answered".to_string(),
        _ => format!("{} of {} requirements are met", met, checks.len()),
    };
    let before = std::mem::take(&mut text);
    let text = format!("{before}{}{end}", table(false));
    let all = |c: &Check| {
        let wants = c.wants.as_ref().map(|w| format!(" -> {w}")).unwrap_or_default();
        vec![
            c.node.to_string(),
            c.requirement.clone(),
            if c.met { "met" } else { "NOT:" }.into(),
            format!("{}{wants}", c.is),
        ]
    };
    let long = format!("{before}{}{end}", table(true));
    let wide = format!("{}\n\n{long}", columns(&checks.iter().map(all).collect::<Vec<_>>()));
    let unmet: std::collections::BTreeSet<String> =
        checks.iter().filter(|c| !c.met).map(|c| c.node.clone().into()).collect();
    let json = json!({ "met": met, "total": checks.len(), "checks": checks, "vms": proofs });
    Answer { json, text, wide: Some(wide), names: unmet.into_iter().collect(), verbatim: false }
}

/// Figures of GPUs as the block of a fleet file.
pub fn baseline(baseline: &vsgpu_guest_agent::facts::Baseline, from: &[String]) -> String {
    let mut text =
        format!("# Recorded by `vsgpu baseline` from {}; GB/s of 10^9 bytes.\nbaseline:\n", from.join(", "));
    for (name, figures) in baseline {
        // A JSON string is a YAML string, whatever is in the name.
        text += &format!("  {}:\n", serde_json::Value::from(name.as_str()));
        let all = [
            ("device", figures.device),
            ("host-to-device", figures.host_to_device),
            ("device-to-host", figures.device_to_host),
        ];
        for (key, value) in all.into_iter().filter_map(|(key, value)| Some((key, value?))) {
            text += &format!("    {key}: {value}\n");
        }
    }
    text
}
