//! `vsgpu export`: the facts of the fleet turned back into wishes: a fleet file of what is.

use crate::catalogue::catalogue;
use crate::cli::global::{CliResult, FleetArg, GlobalArgs, block_on, connected, worst};
use crate::error::{Error, Exit};
use crate::fleet::{Fleet, yaml};
use crate::inventory::{self, Inventory, Scope};
use crate::node::{NodeId, NodeKind};
use crate::render::{Answer, Printer};
use clap::Args;
use serde_json::{Map, Value, json};
use vsgpu_core::Artifact;

#[derive(Args)]
#[command(after_help = "Example:\n  vsgpu export > what-is.yaml")]
pub(super) struct Export {
    #[command(flatten)]
    fleet: FleetArg,
}

impl Export {
    pub fn run(self, printer: &Printer, chosen: &GlobalArgs) -> CliResult {
        let mut fleet = self.fleet.read(false, chosen)?;
        let connector = connected(&mut fleet)?;
        let inventory = block_on(inventory::gather(&fleet, &connector, Scope::All, &|_| true))?;
        let document = document(&fleet, &inventory);
        let names = inventory.nodes.keys().map(|id| id.clone().into()).collect();
        printer.show(Answer {
            names,
            verbatim: true,
            ..Answer::new(document.clone(), yaml::write(&document).trim_end())
        });
        printer
            .note("names of packages and tokens are guessed from their versions: put your own files there");
        let mut errors: Vec<Error> = inventory.nodes.into_values().filter_map(Result::err).collect();
        errors.dedup();
        printer.errors(&errors);
        Ok(if errors.is_empty() { Exit::Done } else { worst(&errors) })
    }
}

fn document(fleet: &Fleet, inventory: &Inventory) -> Value {
    let catalogue = catalogue();
    let specs = |kind: NodeKind, name: &str| -> Map<String, Value> {
        let Some(seen) = inventory.seen(&NodeId::new(kind, name)) else { return Map::new() };
        let known = catalogue.of(kind.scope()).filter(|e| e.is_key);
        let specs = known.filter_map(|e| {
            let fact = seen.facts.get(e.fact.name)?.as_deref().ok()?;
            let mut spec = (e.as_spec)(fact).ok()??;
            let untouched = |text: &str| serde_json::from_str::<Value>(text).is_ok_and(|same| same == spec);
            if e.untouched.is_some_and(untouched) {
                return None;
            }
            // What only the controller fills in is no part of a fleet file; of a file its path stays.
            if let Some(map) = spec.as_object_mut() {
                e.filled_in.iter().for_each(|key| drop(map.remove(*key)));
            }
            let plain = (e.with_artifacts)(&spec, &mut |file| Some(Artifact::at(file.artifact.as_str())));
            Some((e.name.to_string(), without_nulls(plain.unwrap_or(spec))))
        });
        specs.collect()
    };
    let mut hosts = Map::new();
    for host in &fleet.hosts {
        let mut map = Map::from_iter([("address".to_string(), json!(host.address))]);
        map.extend(specs(NodeKind::Host, &host.name));
        hosts.insert(host.name.clone(), map.into());
    }
    let mut vms = Map::new();
    for vm in &fleet.vms {
        let mut map = Map::from_iter([("host".to_string(), json!(vm.host))]);
        map.extend(specs(NodeKind::Vm, &vm.name));
        if let Some(guest) = &vm.guest {
            let mut inner = Map::from_iter([("address".to_string(), json!(guest.address))]);
            inner.extend(specs(NodeKind::Guest, &vm.name));
            map.insert("guest".into(), inner.into());
        }
        vms.insert(vm.name.clone(), map.into());
    }
    json!({ "version": 1, "hosts": hosts, "vms": vms })
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(map) => map
            .into_iter()
            .filter(|(_, v)| !v.is_null())
            .map(|(k, v)| (k, without_nulls(v)))
            .collect::<Map<_, _>>()
            .into(),
        Value::Array(items) => items.into_iter().map(without_nulls).collect(),
        other => other,
    }
}
