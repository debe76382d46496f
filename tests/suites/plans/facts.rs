//! What was seen of a fleet, from a few lines: every node begins with the facts of its kind
//! (`tests/plans/base`), and a case says what is otherwise. Whatever it says must be read by the real type of
//! the fact, with nothing lost on the way.

use crate::script::{Section, Wrong, wrong};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::{LazyLock, Mutex};
use vsgpu::error::Error;
use vsgpu::fleet::yaml::{self, Data, Key, Node};
use vsgpu::fleet::{Fleet, Vm};
use vsgpu::inventory::{Inventory, Seen};
use vsgpu::node::{NodeId, NodeKind};
use vsgpu_tests::lab::workspace;
use vsgpu_wire::client::{CallError, Holder};

/// When everything was looked at.
pub const NOW: u64 = 1_800_000_000;

/// How two items of a list are told apart.
const NAMES: [&str; 5] = ["name", "vm", "address", "bdf", "bus_id"];

/// One node before and after the case has spoken of it.
struct Draft {
    facts: Facts,
    away: Option<Error>,
    boot_id: String,
    temporary: Value,
    holder: Option<Holder>,
    /// What the case says of it: by fact, the line.
    said: BTreeMap<String, usize>,
}

type Facts = Map<String, Value>;

/// The facts of a kind of node, read once.
fn base(name: &str) -> Option<Facts> {
    static READ: LazyLock<Mutex<BTreeMap<String, Option<Facts>>>> = LazyLock::new(Mutex::default);
    let read = || {
        let path = workspace().join("tests/plans/base").join(format!("{name}.yaml"));
        let text = std::fs::read_to_string(&path).ok()?;
        let node = yaml::parse(&path.display().to_string(), &text)
            .unwrap_or_else(|e| panic!("{name}.yaml: {e} {:?}", e.place));
        node.to_json().as_object().cloned()
    };
    READ.lock().unwrap().entry(name.into()).or_insert_with(read).clone()
}

/// Says of a VM or a guest which one it is.
fn named(value: &mut Value, name: &str, vmid: usize) {
    match value {
        Value::String(text) if text == "{vmid}" => *value = vmid.into(),
        Value::String(text) => *text = text.replace("{name}", name),
        Value::Array(items) => items.iter_mut().for_each(|item| named(item, name, vmid)),
        Value::Object(map) => map.values_mut().for_each(|item| named(item, name, vmid)),
        _ => {}
    }
}

/// Puts what a case says over what is so. A map over a list changes the items of these names; `null` takes
/// one out.
fn put(file: &str, from: usize, into: &mut Value, over: &Node) -> Result<(), Wrong> {
    match (&mut *into, &over.data) {
        (Value::Object(map), Data::Map(pairs)) if !map.contains_key("error") => {
            for (key, node) in pairs {
                put(file, from, map.entry(key.name.clone()).or_insert(Value::Null), node)?;
            }
        }
        (Value::Array(items), Data::Map(pairs)) => {
            for (key, node) in pairs {
                let at = items.iter().position(|item| NAMES.iter().any(|name| item[*name] == key.name));
                let at = at.ok_or_else(|| {
                    wrong(file, from + key.line - 1, format!("there is no `{}` in this list", key.name))
                })?;
                if matches!(node.data, Data::Scalar(Value::Null)) {
                    items.remove(at);
                } else {
                    put(file, from, &mut items[at], node)?;
                }
            }
        }
        (into, _) => *into = over.to_json(),
    }
    Ok(())
}

/// The first field that a type did not know.
fn lost(given: &Value, read: &Value, path: &str) -> Option<String> {
    match (given, read) {
        (Value::Object(given), Value::Object(read)) => {
            given.iter().find_map(|(key, value)| match read.get(key) {
                Some(read) => lost(value, read, &format!("{path}.{key}")),
                None if value.is_null() => None,
                None => Some(format!("{path}.{key}")),
            })
        }
        (Value::Array(given), Value::Array(read)) => {
            given.iter().zip(read).find_map(|(given, read)| lost(given, read, path))
        }
        _ => None,
    }
}

/// Everything that was seen of the fleet.
pub fn inventory(file: &str, fleet: &Fleet, section: Option<&Section>) -> Result<Inventory, Wrong> {
    let mut drafts: BTreeMap<NodeId, Draft> = BTreeMap::new();
    let mut add = |kind: NodeKind, name: &str, vmid: usize| {
        let mut facts = base(kind.word()).unwrap_or_else(|| panic!("there is no base of a {}", kind.word()));
        facts.values_mut().for_each(|fact| named(fact, name, vmid));
        let boot_id = format!("boot-of-{name}");
        let draft =
            Draft { facts, away: None, boot_id, temporary: json!([]), holder: None, said: BTreeMap::new() };
        drafts.insert(NodeId::new(kind, name), draft);
    };
    fleet.hosts.iter().for_each(|host| add(NodeKind::Host, &host.name, 0));
    for (at, vm) in fleet.vms.iter().enumerate() {
        add(NodeKind::Vm, &vm.name, at + 1);
        vm.guest.iter().for_each(|_| add(NodeKind::Guest, &vm.name, at + 1));
    }
    for host in &fleet.hosts {
        let listed: Vec<(usize, &Vm)> =
            fleet.vms.iter().enumerate().filter(|(_, vm)| vm.host == host.name).collect();
        let vms: Vec<Value> = listed
            .iter()
            .map(|(at, vm)| {
                let vmx = format!("/vmfs/volumes/datastore1/{0}/{0}.vmx", vm.vm_name);
                json!({ "vmid": at + 1, "name": vm.vm_name, "vmx": vmx, "running": true, "infrastructure": false })
            })
            .collect();
        let node = NodeId::new(NodeKind::Host, &host.name);
        drafts
            .entry(node)
            .and_modify(|d| drop(d.facts.insert("virtual-machines".into(), json!({ "vms": vms }))));
    }
    if let Some(section) = section {
        let from = section.line;
        let parsed = yaml::parse(file, &section.text);
        let parsed =
            parsed.map_err(|e| wrong(file, from + e.place.as_ref().map_or(1, |p| p.line) - 1, e.message))?;
        let Data::Map(nodes) = &parsed.data else {
            return Err(wrong(file, from, "facts are `host NAME:`, `vm NAME:`, `guest NAME:`"));
        };
        for (key, node) in nodes {
            speak(file, from, &mut drafts, key, node)?;
        }
    }
    follow(fleet, &mut drafts);
    let mut inventory = Inventory { at: NOW, ..Inventory::default() };
    for (id, draft) in drafts {
        let seen = seen(file, &id, draft)?;
        inventory.nodes.insert(id, seen);
    }
    Ok(inventory)
}

/// One node of the section.
fn speak(
    file: &str,
    from: usize,
    drafts: &mut BTreeMap<NodeId, Draft>,
    key: &Key,
    node: &Node,
) -> Result<(), Wrong> {
    let at = from + key.line - 1;
    let id = NodeId::try_from(key.name.replacen(' ', "/", 1)).ok().filter(|id| drafts.contains_key(id));
    let Some(id) = id else {
        let known: Vec<String> =
            drafts.keys().map(|id| String::from(id.clone()).replacen('/', " ", 1)).collect();
        return Err(wrong(
            file,
            at,
            format!("there is no node `{}` in the fleet; there are: {}", key.name, known.join(", ")),
        ));
    };
    let Some(draft) = drafts.get_mut(&id) else { return Ok(()) };
    let Data::Map(pairs) = &node.data else { return Err(wrong(file, at, "facts by name are expected")) };
    for (key, node) in pairs {
        let at = from + key.line - 1;
        let text = || {
            node.to_json()
                .as_str()
                .map(String::from)
                .ok_or_else(|| wrong(file, at, format!("{}: a text is expected", key.name)))
        };
        match key.name.as_str() {
            "base" => {
                let name = text()?;
                let mut facts =
                    base(&name).ok_or_else(|| wrong(file, at, format!("there is no base `{name}`")))?;
                let vmid = draft.facts.get("vm-power").and_then(|p| p["vmid"].as_u64()).unwrap_or_default();
                facts
                    .values_mut()
                    .for_each(|fact| named(fact, &id.name, usize::try_from(vmid).unwrap_or_default()));
                // Which VMs there are follows from the fleet.
                facts.remove("virtual-machines");
                draft.facts.extend(facts);
            }
            "away" => draft.away = Some(Error::from(CallError::away("", text()?))),
            "boot-id" => draft.boot_id = text()?,
            "taken" => draft.temporary = node.to_json(),
            "holder" => draft.holder = Some(Holder { name: text()?, ends_in_secs: 30, at_work: None }),
            name => {
                if matches!(node.data, Data::Scalar(Value::Null)) {
                    draft.facts.remove(name);
                } else {
                    put(file, from, draft.facts.entry(name).or_insert(Value::Null), node)?;
                }
                draft.said.insert(name.into(), at);
            }
        }
    }
    Ok(())
}

/// What is said in one fact holds for the others that see the same.
fn follow(fleet: &Fleet, drafts: &mut BTreeMap<NodeId, Draft>) {
    for host in &fleet.hosts {
        let Some(draft) = drafts.get_mut(&NodeId::new(NodeKind::Host, &host.name)) else { continue };
        let listed = draft.facts.get("virtual-machines").map(|f| f["vms"].clone()).unwrap_or_default();
        let runs = |vm: &Value| vm["running"] == true && vm["infrastructure"] == false;
        let vms: Vec<Value> = listed.as_array().cloned().unwrap_or_default();
        let running: Vec<Value> = vms.iter().filter(|vm| runs(vm)).map(|vm| vm["name"].clone()).collect();
        let bus = draft.facts.get("pci-gpus").map(|f| f["devices"].clone()).unwrap_or_default();
        if let Some(fact) = draft.facts.get_mut("maintenance-mode").filter(|f| f.get("enabled").is_some()) {
            fact["running"] = running.into();
        }
        if let Some(fact) = draft.facts.get_mut("passthrough").filter(|f| f.get("enabled").is_some()) {
            fact["devices"] = bus.clone();
        }
        for vm in fleet.vms.iter().filter(|vm| vm.host == host.name) {
            let Some(draft) = drafts.get_mut(&NodeId::new(NodeKind::Vm, &vm.name)) else { continue };
            let on = vms.iter().any(|v| v["name"] == *vm.vm_name && v["running"] == true);
            if let Some(fact) = draft.facts.get_mut("vm-power").filter(|f| f.get("vmid").is_some()) {
                fact["state"] = if on { "on" } else { "off" }.into();
            }
            if let Some(fact) = draft.facts.get_mut("vm-devices").filter(|f| f.get("vmid").is_some()) {
                fact["gpus"] = bus.clone();
            }
        }
    }
}

/// A node as an inventory has it: every fact read by its own type.
fn seen(file: &str, id: &NodeId, draft: Draft) -> Result<Result<Seen, Error>, Wrong> {
    if let Some(error) = draft.away {
        return Ok(Err(error));
    }
    let known = vsgpu::catalogue().facts(id.kind.scope());
    let mut facts = vsgpu::inventory::shared::Facts::new();
    for (name, value) in draft.facts {
        let line = draft.said.get(&name).copied().unwrap_or(1);
        let Some(entry) = known.iter().find(|fact| fact.name == name) else {
            let near = vsgpu_core::suggest::nearest(&name, known.iter().map(|f| f.name))
                .map(|n| format!("; did you mean `{n}`?"));
            return Err(wrong(
                file,
                line,
                format!("{id}: there is no fact `{name}`{}", near.unwrap_or_default()),
            ));
        };
        let fact = match value.get("error") {
            Some(error) => Err(serde_json::from_value(error.clone())
                .map_err(|e| wrong(file, line, format!("{id}: {name}: {e}")))?),
            None => {
                let read =
                    (entry.reread)(&value).map_err(|e| wrong(file, line, format!("{id}: {name}: {e}")))?;
                if let Some(field) = lost(&value, &read, &name) {
                    return Err(wrong(file, line, format!("{id}: the fact has no field `{field}`")));
                }
                Ok(read.into())
            }
        };
        facts.insert(name.into(), fact);
    }
    let temporary =
        serde_json::from_value(draft.temporary).map_err(|e| wrong(file, 1, format!("{id}: taken: {e}")))?;
    Ok(Ok(Seen { boot_id: draft.boot_id, facts, temporary, holder: draft.holder }))
}
