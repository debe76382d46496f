//! The JSON Schema of the fleet file, made from the catalogue, for editors.

use crate::catalogue::catalogue;
use crate::fleet::Maintenance;
use crate::fleet::deadlines::Deadlines;
use crate::fleet::rollout::Strategy;
use crate::node::NodeKind;
use serde_json::{Map, Value, json};
use vsgpu_host_agent::vm::POWER;

/// A schema without references: inside another one they would lead nowhere.
fn inline<T: schemars::JsonSchema>() -> Value {
    let settings = schemars::generate::SchemaSettings::draft2020_12().with(|s| s.inline_subschemas = true);
    let mut schema = settings.into_generator().into_root_schema_for::<T>().to_value();
    if let Some(map) = schema.as_object_mut() {
        map.remove("$schema");
        map.remove("title");
    }
    schema
}

/// JSON Schema of the fleet file, from the catalogue.
pub fn schema() -> Value {
    let catalogue = catalogue();
    let text = || json!({ "type": "string" });
    let object = |kind: NodeKind, more: &[(&str, Value)]| {
        let mut properties = Map::new();
        for entry in catalogue.of(kind.scope()).filter(|e| e.is_key) {
            let mut schema = (entry.schema)();
            if let Some(map) = schema.as_object_mut() {
                map.remove("$schema");
                map.insert("description".into(), entry.about.into());
            }
            properties.insert(entry.name.into(), schema);
        }
        properties.extend(more.iter().map(|(key, value)| (key.to_string(), value.clone())));
        json!({ "type": ["object", "null"], "additionalProperties": false, "properties": properties })
    };
    let address = json!({ "type": "string", "description": "host:port of the agent; {name} and {n} stand for the name and its number in the range" });
    let cluster =
        json!({ "type": "string", "description": "Cluster whose budget (`rollout`) the host shares" });
    let maintenance = inline::<Maintenance>();
    let host = object(
        NodeKind::Host,
        &[("address", address.clone()), ("cluster", cluster), ("maintenance", maintenance)],
    );
    let guest = object(NodeKind::Guest, &[("address", address)]);
    let vm = object(
        NodeKind::Vm,
        &[
            (
                "host",
                json!({
                    "description": "Host of the VM; a range deals VMs out in turn; `any`, or all hosts with the same `cluster`: it may run on each of them, and is found where it runs; a new one is made where its GPUs fit",
                    "anyOf": [
                        { "type": "string" },
                        { "type": "object", "required": ["any"], "additionalProperties": false, "properties": { "any": { "anyOf": [{ "type": "string" }, { "type": "array", "minItems": 1, "items": { "type": "string" } }] } } },
                        { "type": "object", "required": ["cluster"], "additionalProperties": false, "properties": { "cluster": { "type": "string" } } },
                    ],
                }),
            ),
            (
                "vm-name",
                json!({ "type": "string", "description": "Display name in vSphere, if it is not the key; {name} and {n} are filled in" }),
            ),
            (POWER, json!({ "enum": ["on", "off"] })),
            (
                "shutdown-secs",
                json!({ "type": "integer", "minimum": 0, "description": "Seconds for the guest to shut down" }),
            ),
            (
                "hard-stop",
                json!({ "type": "boolean", "description": "Whether the VM may be powered off hard after that" }),
            ),
            (
                "expects",
                json!({ "type": "array", "items": { "enum": ["vmotion", "suspend", "snapshots"] }, "description": "What people mean to do with the VM: refused where its GPU does not allow it" }),
            ),
            ("guest", guest.clone()),
        ],
    );
    let deadlines = inline::<Deadlines>();
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "vsgpu fleet file",
        "type": "object",
        "required": ["version", "hosts"],
        "additionalProperties": false,
        "properties": {
            "version": { "const": 1 },
            "pki": text(),
            "tables": { "type": "string", "description": "Folder with your own rows for the built-in tables (GPUs, releases ..), relative to this file" },
            "driver-catalogue": { "type": "string", "description": "NVIDIA's vgpuDriverCatalog.yaml, relative to this file; it overrides the built-in table of driver pairs" },
            "deadlines": deadlines,
            "rollout": inline::<Strategy>(),
            "defaults": { "type": "object", "additionalProperties": false, "properties": { "host": host, "vm": vm, "guest": guest } },
            "hosts": { "type": "object", "description": "Name or range (esx-[01-16]) -> host", "additionalProperties": host },
            "vms": { "type": ["object", "null"], "description": "Name or range -> VM", "additionalProperties": vm },
        }
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn no_reference_leads_nowhere() {
        assert!(!crate::fleet::schema::schema().to_string().contains("$ref"));
    }
}
