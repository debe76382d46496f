//! Facts that somebody saved (`vsgpu facts -o json > FILE`), for verbs that ask no agent.

use crate::error::{Error, Kind};
use crate::files;
use crate::inventory::seen::{Inventory, Seen};
use crate::inventory::shared::SharedFacts;
use crate::node::NodeId;
use serde_json::Value;
use std::path::Path;
use vsgpu_core::Unreadable;

/// A file of 10,000 hosts is about 1 GiB; what is larger is something else.
const MOST_BYTES: u64 = 2 << 30;
/// What stands beside the facts of a node and is none of them.
const BESIDE: [&str; 1] = ["readiness"];

/// Reads the document of `vsgpu facts -o json`.
///
/// # Errors
/// The file cannot be read, or is no such document.
pub fn read(path: &Path) -> Result<Inventory, Error> {
    from_text(path, &files::read_text(path, MOST_BYTES)?)
}

/// The same of a text that was read from there.
///
/// # Errors
/// It is no such document.
pub fn from_text(path: &Path, text: &str) -> Result<Inventory, Error> {
    from_json(text).map_err(|why| {
        Error::new(Kind::Usage, format!("{}: {why}", path.display()))
            .code("facts-file")
            .hint("`vsgpu facts -o json > FILE` writes one")
    })
}

fn from_json(text: &str) -> Result<Inventory, String> {
    let value: Value = serde_json::from_str(text).map_err(|why| format!("no facts: {why}"))?;
    let Value::Object(nodes) = value else { return Err("no facts: one object of nodes is expected".into()) };
    let mut inventory = Inventory::default();
    let mut shared = SharedFacts::default();
    for (name, facts) in nodes {
        let node = NodeId::try_from(name.clone())
            .map_err(|_| format!("no facts: `{name}` is no node such as `host/esx-01`"))?;
        let Value::Object(facts) = facts else { return Err(format!("no facts: `{name}` has none")) };
        // A node that could not be talked to.
        if let (Some(error), 1) = (facts.get("error"), facts.len()) {
            let text = error["message"].as_str().unwrap_or("it could not be asked").to_string();
            inventory.nodes.insert(node, Err(Error::new(Kind::Unreachable, text)));
            continue;
        }
        let fact = |(name, value): (String, Value)| {
            let failed = value.as_object().filter(|map| map.len() == 1).and_then(|map| map.get("error"));
            let read = match failed.map(|error| serde_json::from_value::<Unreadable>(error.clone())) {
                Some(Ok(unreadable)) => Err(unreadable),
                _ => Ok(value),
            };
            (name, read)
        };
        let facts =
            facts.into_iter().filter(|(name, _)| !BESIDE.contains(&name.as_str())).map(fact).collect();
        inventory.nodes.insert(node, Ok(Seen { facts: shared.of(facts), ..Seen::default() }));
    }
    if inventory.nodes.is_empty() {
        return Err("no facts: it names no node".into());
    }
    Ok(inventory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::NodeKind;

    #[test]
    fn what_facts_prints_is_read_again() {
        let text = r#"{"host/esx-01": {"esx": {"version": "8.0.2"}, "gpus": {"error": {"message": "nvidia-smi is not installed"}}, "readiness": {}},
            "guest/vm-1": {"error": {"message": "no answer", "kind": "unreachable"}}}"#;
        let inventory = from_json(text).unwrap();
        let host = inventory.seen(&NodeId::new(NodeKind::Host, "esx-01")).unwrap();
        assert_eq!(host.facts.len(), 2);
        assert!(host.facts["gpus"].is_err() && host.facts["esx"].is_ok());
        assert!(inventory.nodes[&NodeId::new(NodeKind::Guest, "vm-1")].is_err());
        for wrong in ["", "[]", "{}", r#"{"esx-01": {}}"#, r#"{"host/a": 1}"#] {
            assert!(from_json(wrong).is_err(), "{wrong}");
        }
    }
}
