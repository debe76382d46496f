//! `vsgpu export`: the facts of the fleet turned back into wishes: a fleet file of what is.

use super::{Chosen, Ended, FleetArg, block_on, operator, worst};
use crate::error::{Error, Exit};
use crate::fleet::{Fleet, NodeId, NodeKind};
use crate::inventory::{self, Inventory, Scope};
use crate::render::{Answer, Printer};
use crate::{catalogue, is_key, yaml};
use clap::Args;
use serde_json::{Map, Value, json};

#[derive(Args)]
#[command(after_help = "Example:\n  vsgpu export > what-is.yaml")]
pub(super) struct Export {
    #[command(flatten)]
    fleet: FleetArg,
}

impl Export {
    pub fn run(self, printer: &Printer, chosen: &Chosen) -> Ended {
        let fleet = self.fleet.read(false, chosen)?;
        let operator = operator(&fleet)?;
        let inventory = block_on(inventory::gather(&fleet, &operator, Scope::All, &|_| true))?;
        let document = document(&fleet, &inventory);
        let names = inventory.nodes.keys().map(|id| id.clone().into()).collect();
        printer.show(Answer { names, ..Answer::new(document.clone(), yaml::write(&document).trim_end()) });
        printer.note("names of packages and tokens are guessed from their versions: put your own files there");
        let mut errors: Vec<Error> = inventory.nodes.into_values().filter_map(Result::err).collect();
        errors.dedup();
        printer.errors(&errors);
        Ok(if errors.is_empty() { Exit::Done } else { worst(&errors) })
    }
}

fn document(fleet: &Fleet, inventory: &Inventory) -> Value {
    let catalogue = catalogue();
    let wishes = |kind: NodeKind, name: &str| -> Map<String, Value> {
        let Some(seen) = inventory.seen(&NodeId::new(kind, name)) else { return Map::new() };
        let known = catalogue.of(kind.scope()).filter(|e| is_key(e));
        let specs = known.filter_map(|e| {
            let fact = seen.fact(e.fact.name)?;
            Some((e.name.to_string(), shortened((e.as_spec)(fact).ok()??)))
        });
        specs.collect()
    };
    let mut hosts = Map::new();
    for host in &fleet.hosts {
        let mut map = Map::from_iter([("address".to_string(), json!(host.address))]);
        map.extend(wishes(NodeKind::Host, &host.name));
        hosts.insert(host.name.clone(), map.into());
    }
    let mut vms = Map::new();
    for vm in &fleet.vms {
        let mut map = Map::from_iter([("host".to_string(), json!(vm.host))]);
        map.extend(wishes(NodeKind::Vm, &vm.name));
        if let Some(guest) = &vm.guest {
            let mut inner = Map::from_iter([("address".to_string(), json!(guest.address))]);
            inner.extend(wishes(NodeKind::Guest, &vm.name));
            map.insert("guest".into(), inner.into());
        }
        vms.insert(vm.name.clone(), map.into());
    }
    json!({ "version": 1, "hosts": hosts, "vms": vms })
}

/// What only the controller fills in is no part of a fleet file: an artifact is its file name again.
fn shortened(value: Value) -> Value {
    match value {
        Value::Object(map) => match map.get("artifact") {
            Some(file) => file.clone(),
            None => map.into_iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k, shortened(v))).collect::<Map<_, _>>().into(),
        },
        Value::Array(items) => items.into_iter().map(shortened).collect(),
        other => other,
    }
}
