//! Reads a fleet file. Every value is read by its own requirement; every error says file, line and column,
//! the allowed values and the nearest of them. All errors of a file are reported at once.

use crate::catalogue::catalogue;
use crate::error::{Error, Kind, Place};
use crate::files;
use crate::fleet::deadlines::Deadlines;
use crate::fleet::driver_catalogue::DriverCatalogue;
use crate::fleet::model::{Fleet, Guest, Host, Vm};
use crate::fleet::own_tables::own_tables;
use crate::fleet::package;
use crate::fleet::pool;
use crate::fleet::range::{expand, nearest};
use crate::fleet::rollout::Strategy;
use crate::fleet::specs::{Spec, Specs};
use crate::fleet::yaml::{self, Data, Key, Node};
use crate::node::NodeKind;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use vsgpu_core::{Artifact, Catalogue};
use vsgpu_host_agent::vm::{DEFAULT_GRACE_SECS, POWER, PowerState};

/// Bytes of a fleet file, at most.
pub const MAX_FILE: u64 = 16 << 20;
const DEFAULT_PORT: u16 = 7443;
/// Keys that are no requirements.
const HOST_KEYS: [&str; 3] = ["address", "cluster", "maintenance"];
const VM_KEYS: [&str; 7] = ["host", "vm-name", POWER, "shutdown-secs", "hard-stop", "expects", "guest"];
const GUEST_KEYS: [&str; 1] = ["address"];
const TOP_KEYS: [&str; 9] =
    ["version", "pki", "tables", "driver-catalogue", "deadlines", "rollout", "defaults", "hosts", "vms"];

/// Reads and checks a fleet file, without looking at the files it names.
///
/// # Errors
/// All that is wrong with it.
pub fn read(file: &Path) -> Result<Fleet, Vec<Error>> {
    let text = files::read_text(file, MAX_FILE).map_err(|e| {
        vec![e.hint("name your fleet file, or let `vsgpu init` write one from what your hosts say")]
    })?;
    from_text(file, &text)
}

/// The same of a text. `file`: what it is called, and where relative paths begin.
///
/// # Errors
/// All that is wrong with it.
pub fn from_text(file: &Path, text: &str) -> Result<Fleet, Vec<Error>> {
    read_text(file, text, true)
}

/// The same of a bundle: the operator's tables and the driver catalogue are not in it.
///
/// # Errors
/// All that is wrong with it.
pub fn of_bundle(file: &Path, text: &str) -> Result<Fleet, Vec<Error>> {
    read_text(file, text, false)
}

fn read_text(file: &Path, text: &str, with_files: bool) -> Result<Fleet, Vec<Error>> {
    let shown = file.display().to_string();
    let root = yaml::parse(&shown, text).map_err(|e| vec![e])?;
    let mut reader = Reader {
        file: shown,
        catalogue: catalogue(),
        errors: vec![],
        hosts: BTreeSet::new(),
        vms: BTreeSet::new(),
        places: BTreeMap::new(),
        read: BTreeMap::new(),
        lists: BTreeMap::new(),
        ranges: BTreeMap::new(),
        with_files,
    };
    let mut fleet = reader.fleet(file, &root);
    if let Some(fleet) = &mut fleet {
        pool::fill_in(&mut fleet.vms);
    }
    match fleet {
        Some(fleet) if reader.errors.is_empty() => Ok(fleet),
        _ => Err(reader.errors),
    }
}

struct Reader {
    file: String,
    catalogue: &'static Catalogue,
    errors: Vec<Error>,
    hosts: BTreeSet<String>,
    vms: BTreeSet<String>,
    places: BTreeMap<String, Place>,
    /// Values that were read already: a default is read once, not once for each of 10,000 nodes.
    read: BTreeMap<(usize, usize, NodeKind, String), Option<Spec>>,
    /// Keys whose value is a list.
    lists: BTreeMap<&'static str, bool>,
    /// Ranges of hosts over which VMs are dealt out, by their text.
    ranges: BTreeMap<String, Arc<Vec<(String, String)>>>,
    /// Whether what the file names beside it is there.
    with_files: bool,
}

type Pairs = Vec<(Key, Node)>;
type Refs<'a> = Vec<&'a (Key, Node)>;

impl Reader {
    fn wrong(&mut self, line: usize, column: usize, message: impl Into<String>) -> &mut Error {
        let place = Place { file: self.file.clone(), line, column };
        self.errors.push(Error::new(Kind::Usage, message).code("fleet-file").at(place));
        let last = self.errors.len() - 1;
        &mut self.errors[last]
    }

    fn unknown_key(&mut self, owner: &str, key: &Key, known: &[&str]) {
        let (line, column) = (key.line, key.column);
        let near = nearest(&key.name, known.iter().copied()).map(String::from);
        let error = self.wrong(line, column, format!("{owner}: unknown key `{}`", key.name));
        error.details.push(format!("expected {}", listed(known)));
        error.hints.extend(near.map(|near| format!("did you mean `{near}`?")));
    }

    fn map<'a>(&mut self, owner: &str, node: &'a Node) -> &'a [(Key, Node)] {
        match &node.data {
            Data::Map(pairs) => pairs,
            Data::Scalar(Value::Null) => &[],
            _ => {
                self.wrong(node.line, node.column, format!("{owner}: keys and values are expected here"));
                &[]
            }
        }
    }

    fn text(&mut self, owner: &str, node: &Node) -> Option<String> {
        match &node.data {
            Data::Scalar(Value::String(text)) if !text.is_empty() => Some(text.clone()),
            Data::Scalar(Value::Number(number)) => Some(number.to_string()),
            _ => {
                self.wrong(node.line, node.column, format!("{owner}: a text is expected here"));
                None
            }
        }
    }

    fn fleet(&mut self, file: &Path, root: &Node) -> Option<Fleet> {
        let pairs = self.map("fleet file", root);
        let find = |name: &str| pairs.iter().find(|(key, _)| key.name == name).map(|(_, node)| node);
        match find("version").map(|n| (n, &n.data)) {
            Some((_, Data::Scalar(v))) if *v == json!(1) => {}
            Some((node, _)) => {
                self.wrong(node.line, node.column, "this version of vsgpu reads fleet files of `version: 1`");
                return None;
            }
            None if find("plan").is_some() => {
                self.wrong(root.line, root.column, "this is a saved plan, not a fleet file")
                    .hints
                    .push("`vsgpu apply FILE` runs it".into());
                return None;
            }
            None => {
                self.wrong(root.line, root.column, "`version: 1` is missing");
                return None;
            }
        }
        for (key, _) in pairs.iter().filter(|(key, _)| !TOP_KEYS.contains(&key.name.as_str())) {
            self.unknown_key("fleet file", key, &TOP_KEYS);
        }
        let folder = file.parent().map(PathBuf::from).unwrap_or_default();
        // Before anything is read that the tables judge.
        if let Some(node) = find("tables").filter(|_| self.with_files) {
            let own = self.text("tables", node).map(|path| own_tables(&folder.join(path)));
            for error in own.and_then(Result::err).unwrap_or_default() {
                self.errors.push(error.at(Place {
                    file: self.file.clone(),
                    line: node.line,
                    column: node.column,
                }));
            }
        }
        let deadlines: Deadlines = self.section("deadlines", find("deadlines"));
        let rollout: Strategy = self.section("rollout", find("rollout"));
        let catalogue = find("driver-catalogue").filter(|_| self.with_files).and_then(|node| {
            let path = folder.join(self.text("driver-catalogue", node)?);
            match DriverCatalogue::read(&path) {
                Ok(catalogue) => Some(Arc::new(catalogue)),
                Err(error) => {
                    self.errors.push(error.at(Place {
                        file: self.file.clone(),
                        line: node.line,
                        column: node.column,
                    }));
                    None
                }
            }
        });
        let pki = find("pki").and_then(|node| self.text("pki", node)).unwrap_or_else(|| "pki".into());
        let defaults = find("defaults").map(|node| self.map("defaults", node).to_vec()).unwrap_or_default();
        for (key, _) in
            defaults.iter().filter(|(key, _)| !["host", "vm", "guest"].contains(&key.name.as_str()))
        {
            self.unknown_key("defaults", key, &["host", "vm", "guest"]);
        }
        let mut of = |name: &str| -> Pairs {
            defaults
                .iter()
                .find(|(key, _)| key.name == name)
                .map(|(_, node)| self.map(name, node).to_vec())
                .unwrap_or_default()
        };
        let (host_defaults, vm_defaults, guest_defaults) = (of("host"), of("vm"), of("guest"));
        let mut hosts: Vec<Host> = vec![];
        for (key, node) in find("hosts").map(|node| self.map("hosts", node)).unwrap_or_default() {
            self.hosts(key, node, &host_defaults, &mut hosts);
        }
        let mut vms: Vec<Vm> = vec![];
        for (key, node) in find("vms").map(|node| self.map("vms", node)).unwrap_or_default() {
            self.vms(key, node, &vm_defaults, &guest_defaults, &hosts, &mut vms);
        }
        if hosts.is_empty() && self.errors.is_empty() {
            self.wrong(root.line, root.column, "there is no host: `hosts:` is missing or empty");
        }
        Some(Fleet {
            file: file.into(),
            places: std::mem::take(&mut self.places),
            pki: folder.join(pki),
            catalogue,
            deadlines,
            rollout,
            hosts,
            vms,
            stay: BTreeSet::new(),
        })
    }

    /// A map that is read as a whole; what is absent has its default.
    fn section<T: Default + serde::de::DeserializeOwned>(&mut self, name: &str, node: Option<&Node>) -> T {
        let Some(node) = node else { return T::default() };
        serde_path_to_error::deserialize(node.to_json()).unwrap_or_else(|e| {
            let path: Vec<String> = e.path().iter().map(ToString::to_string).collect();
            let place = node.place(&self.file, &path, false);
            self.wrong(place.line, place.column, format!("{name}: {}", e.inner()));
            T::default()
        })
    }

    fn names(&mut self, key: &Key) -> Vec<(String, String)> {
        expand(&key.name).unwrap_or_else(|why| {
            self.wrong(key.line, key.column, why);
            vec![]
        })
    }

    fn hosts(&mut self, key: &Key, node: &Node, defaults: &Pairs, hosts: &mut Vec<Host>) {
        let own = self.map(&key.name, node);
        for (name, number) in self.names(key) {
            if !self.hosts.insert(name.clone()) {
                self.wrong(key.line, key.column, format!("host `{name}` appears twice"));
                return;
            }
            let before = self.errors.len();
            let pairs = merged(defaults, own);
            let address = self.address(&name, &number, &pairs, own);
            let specs = self.specs(&name, NodeKind::Host, &pairs, &HOST_KEYS);
            let cluster =
                pairs.iter().find(|(k, _)| k.name == "cluster").and_then(|(_, n)| self.text(&name, n));
            let maintenance = pairs.iter().find(|(k, _)| k.name == "maintenance");
            let maintenance =
                maintenance.and_then(|(_, node)| self.typed(&name, "maintenance", node)).unwrap_or_default();
            hosts.push(Host { name, address, cluster, maintenance, specs });
            // One wrong value of a range is one error, not a hundred.
            if self.errors.len() > before {
                return;
            }
        }
    }

    fn vms(
        &mut self,
        key: &Key,
        node: &Node,
        defaults: &Pairs,
        guest_defaults: &Pairs,
        hosts: &[Host],
        vms: &mut Vec<Vm>,
    ) {
        let own = self.map(&key.name, node);
        for (at, (name, number)) in self.names(key).into_iter().enumerate() {
            if !self.vms.insert(name.clone()) {
                self.wrong(key.line, key.column, format!("VM `{name}` appears twice"));
                return;
            }
            let before = self.errors.len();
            let pairs = merged(defaults, own);
            let find = |key: &str| pairs.iter().find(|(k, _)| k.name == key).map(|(_, node)| node);
            let host = match find("host") {
                Some(node) => self.hosts_of(&name, at, node, hosts),
                None => {
                    self.wrong(key.line, key.column, format!("{name}: `host` is missing"));
                    None
                }
            };
            let vm_name = find("vm-name")
                .and_then(|node| self.text(&name, node))
                .map_or(name.clone(), |text| filled(&text, &name, &number));
            let power = find(POWER).and_then(|node| self.typed::<PowerState>(&name, POWER, node));
            let shutdown_secs = find("shutdown-secs")
                .and_then(|node| self.typed(&name, "shutdown-secs", node))
                .unwrap_or(DEFAULT_GRACE_SECS);
            let hard_stop =
                find("hard-stop").and_then(|node| self.typed(&name, "hard-stop", node)).unwrap_or(false);
            let expects =
                find("expects").and_then(|node| self.typed(&name, "expects", node)).unwrap_or_default();
            let nothing = |(key, node): &&(Key, Node)| {
                matches!(node.data, Data::Scalar(Value::Null)).then(|| key.name.clone())
            };
            let taken_away = pairs.iter().filter_map(nothing).collect();
            let specs = self.specs(&name, NodeKind::Vm, &pairs, &VM_KEYS);
            let guest =
                find("guest").filter(|node| !matches!(node.data, Data::Scalar(Value::Null))).map(|node| {
                    let own = self.map(&format!("{name}: guest"), node);
                    let pairs = merged(guest_defaults, own);
                    let address = self.address(&name, &number, &pairs, own);
                    let mut guest =
                        Guest { address, specs: self.specs(&name, NodeKind::Guest, &pairs, &GUEST_KEYS) };
                    expect_gpus(&mut guest.specs, gpus_given(&specs));
                    guest
                });
            let any = host.unwrap_or_default();
            vms.push(Vm {
                name,
                vm_name,
                host: any.first().cloned().unwrap_or_default(),
                any: if any.len() > 1 { any } else { vec![] },
                power,
                shutdown_secs,
                hard_stop,
                expects,
                taken_away,
                specs,
                guest,
            });
            if self.errors.len() > before {
                return;
            }
        }
    }

    /// One host, or several on each of which the VM may run: those of `any`, or all of a `cluster`.
    fn hosts_of(&mut self, vm: &str, at: usize, node: &Node, hosts: &[Host]) -> Option<Vec<String>> {
        let Data::Map(pairs) = &node.data else {
            return self.host_of(vm, at, node, hosts).map(|one| vec![one]);
        };
        let mut all: Vec<String> = vec![];
        for (key, node) in pairs {
            if key.name == "cluster" {
                let name = self.text(&format!("{vm}: host: cluster"), node)?;
                let of_cluster = hosts.iter().filter(|host| host.cluster.as_deref() == Some(&name));
                let before = all.len();
                let new: Vec<String> =
                    of_cluster.map(|host| host.name.clone()).filter(|host| !all.contains(host)).collect();
                all.extend(new);
                if all.len() == before {
                    let text = format!("{vm}: host: no host above has `cluster: {name}`");
                    let known: BTreeSet<&str> =
                        hosts.iter().filter_map(|host| host.cluster.as_deref()).collect();
                    let known: Vec<&str> = known.into_iter().take(8).collect();
                    let error = self.wrong(node.line, node.column, text);
                    if !known.is_empty() {
                        error.details.push(format!("known clusters: {}", listed(&known)));
                    }
                    return None;
                }
                continue;
            }
            if key.name != "any" {
                self.unknown_key(&format!("{vm}: host"), key, &["any", "cluster"]);
                return None;
            }
            let wishes: Vec<&Node> = match &node.data {
                Data::List(list) => list.iter().collect(),
                _ => vec![node],
            };
            for node in wishes {
                let wish = self.text(&format!("{vm}: host: any"), node)?;
                let names = match expand(&wish) {
                    Ok(names) => names,
                    Err(why) => {
                        self.wrong(node.line, node.column, format!("{vm}: host: any: {why}"));
                        return None;
                    }
                };
                for (name, _) in names {
                    self.known_host(vm, &name, node, hosts)?;
                    if !all.contains(&name) {
                        all.push(name);
                    }
                }
            }
        }
        if all.is_empty() {
            self.wrong(node.line, node.column, format!("{vm}: host: `any` names no host"));
            return None;
        }
        Some(all)
    }

    /// `host: esx-[01-04]` deals the VMs of a range out over the hosts in turn.
    fn host_of(&mut self, vm: &str, at: usize, node: &Node, hosts: &[Host]) -> Option<String> {
        let wish = self.text(&format!("{vm}: host"), node)?;
        let names = match self.ranges.get(&wish) {
            Some(names) => names.clone(),
            None => match expand(&wish) {
                Ok(names) => self.ranges.entry(wish).or_insert(Arc::new(names)).clone(),
                Err(why) => {
                    self.wrong(node.line, node.column, format!("{vm}: host: {why}"));
                    return None;
                }
            },
        };
        let (name, _) = &names[at % names.len()];
        self.known_host(vm, name, node, hosts).map(|()| name.clone())
    }

    fn known_host(&mut self, vm: &str, name: &str, node: &Node, hosts: &[Host]) -> Option<()> {
        if self.hosts.contains(name) {
            return Some(());
        }
        let near = nearest(name, hosts.iter().take(1_000).map(|h| h.name.as_str())).map(String::from);
        let known: Vec<&str> = hosts.iter().take(8).map(|h| h.name.as_str()).collect();
        let error = self.wrong(node.line, node.column, format!("{vm}: there is no host `{name}`"));
        error.details.push(format!("known hosts: {}", listed(&known)));
        error.hints.extend(near.map(|near| format!("did you mean `{near}`?")));
        None
    }

    fn typed<T: serde::de::DeserializeOwned>(&mut self, owner: &str, key: &str, node: &Node) -> Option<T> {
        serde_json::from_value(node.to_json())
            .map_err(|e| self.wrong(node.line, node.column, format!("{owner}: {key}: {e}")))
            .ok()
    }

    /// `host:port`; `{name}` and `{n}` stand for the name and its number in the range.
    fn address(&mut self, name: &str, number: &str, pairs: &Refs<'_>, own: &[(Key, Node)]) -> String {
        let node = own
            .iter()
            .chain(pairs.iter().copied())
            .find(|(key, _)| key.name == "address")
            .map(|(_, node)| node);
        let text = node
            .and_then(|node| self.text(&format!("{name}: address"), node))
            .map_or(name.to_string(), |t| filled(&t, name, number));
        let with_port = if text.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) {
            text
        } else {
            format!("{text}:{DEFAULT_PORT}")
        };
        if let Some(node) = node.filter(|_| with_port.contains([' ', '/', '{', '}'])) {
            self.wrong(node.line, node.column, format!("{name}: address: `{with_port}` is no `host:port`"));
        }
        with_port
    }

    fn specs(&mut self, owner: &str, kind: NodeKind, pairs: &Refs<'_>, other: &[&str]) -> Specs {
        let entries: Vec<_> = self.catalogue.of(kind.scope()).filter(|e| e.is_key).copied().collect();
        let mut found: BTreeMap<&str, Spec> = BTreeMap::new();
        for (key, node) in pairs.iter().filter(|(key, _)| !other.contains(&key.name.as_str())) {
            let Some(entry) = entries.iter().find(|e| e.name == key.name) else {
                let known: Vec<&str> = entries.iter().map(|e| e.name).chain(other.iter().copied()).collect();
                self.unknown_key(owner, key, &known);
                continue;
            };
            // `ecc: null` takes a default away.
            if matches!(node.data, Data::Scalar(Value::Null)) {
                continue;
            }
            let known = (node.line, node.column, kind, key.name.clone());
            let spec = match self.read.get(&known) {
                Some(spec) => spec.clone(),
                None => {
                    let spec = self.spec(owner, entry, node);
                    self.read.insert(known, spec.clone());
                    spec
                }
            };
            found.extend(spec.map(|spec| (entry.name, spec)));
        }
        // What a spec implies may imply something itself, before it in the list or behind: twice through is
        // enough for both.
        for entry in entries.iter().chain(&entries) {
            // `mmio: auto` says no more than the key left out, and the other key knows what it is for.
            let open = match pairs.iter().find(|(key, _)| key.name == entry.name) {
                Some((_, node)) => matches!(&node.data, Data::Scalar(word) if word == "auto"),
                None => !found.contains_key(entry.name),
            };
            let implied =
                entry.implied_by.iter().filter(|_| open).find_map(|i| (i.spec)(&found.get(i.by)?.value));
            let spec = implied.and_then(|spec| (entry.read_spec)(&spec).ok());
            found.extend(spec.map(|spec| (entry.name, Spec { requirement: entry.name, value: spec.into() })));
        }
        entries.iter().filter_map(|e| found.remove(e.name)).collect()
    }

    fn spec(&mut self, owner: &str, entry: &vsgpu_core::Entry, node: &Node) -> Option<Spec> {
        let value = node.to_json();
        // One of what a list is expected of is a list of one; what is wrong inside is said as if it stood
        // alone.
        let takes_list = *self.lists.entry(entry.name).or_insert_with(|| (entry.schema)()["type"] == "array");
        let read = match value {
            one @ (Value::Object(_) | Value::String(_)) if takes_list => (entry.read_spec)(&json!([one]))
                .map_err(|mut e| {
                    if e.path.first().is_some_and(|step| step == "0" || step == "[0]") {
                        e.path.remove(0);
                    }
                    e
                }),
            value => (entry.read_spec)(&value),
        };
        match read {
            Ok(spec) => {
                for placed in (entry.files)(&spec) {
                    let name = placed.artifact.artifact;
                    if let Some((line, column)) = node.find(&name) {
                        self.places.entry(name).or_insert(Place { file: self.file.clone(), line, column });
                    }
                }
                Some(Spec { requirement: entry.name, value: spec.into() })
            }
            Err(e) => {
                let place = node.place(&self.file, &e.path, e.at_key);
                let inside: String = e
                    .path
                    .iter()
                    .filter(|step| !e.at_key || e.path.last() != Some(step))
                    .map(|step| format!("{step}: "))
                    .collect();
                let error = self.wrong(
                    place.line,
                    place.column,
                    format!("{owner}: {}: {inside}{}", entry.name, e.message),
                );
                if !e.expected.is_empty() {
                    error.details.push(format!("expected {}", listed(&e.expected)));
                }
                error.hints.extend(e.suggestion.map(|near| format!("did you mean `{near}`?")));
                if e.path.is_empty() && e.message.starts_with("invalid type") {
                    error.hints.push(format!("for example `{}: {}`", entry.name, entry.example));
                }
                None
            }
        }
    }
}

/// The spec's own requirement.
fn entry_of(kind: NodeKind, spec: &Spec) -> Option<&'static vsgpu_core::Entry> {
    catalogue().find(kind.scope(), spec.requirement)
}

/// GPUs and vGPUs that a VM is to have.
fn gpus_given(of_vm: &Specs) -> u32 {
    let given = |spec: &Spec| entry_of(NodeKind::Vm, spec).map_or(0, |entry| (entry.gpus_given)(&spec.value));
    u32::try_from(of_vm.iter().map(given).sum::<usize>()).unwrap_or(u32::MAX)
}

/// What the VM is to have its guest must see, unless the guest's own spec says another number.
fn expect_gpus(of_guest: &mut Specs, count: u32) {
    for spec in of_guest.iter_mut().filter(|_| count > 1) {
        let other =
            entry_of(NodeKind::Guest, spec).and_then(|entry| (entry.expecting_gpus)(&spec.value, count));
        if let Some(other) = other {
            spec.value = other.into();
        }
    }
}

/// Own keys win over defaults.
fn merged<'a>(defaults: &'a Pairs, own: &'a [(Key, Node)]) -> Refs<'a> {
    let inherited = defaults.iter().filter(|(key, _)| own.iter().all(|(k, _)| k.name != key.name));
    own.iter().chain(inherited).collect()
}

fn filled(text: &str, name: &str, number: &str) -> String {
    text.replace("{name}", name).replace("{n}", number)
}

fn listed<T: AsRef<str>>(words: &[T]) -> String {
    let words: Vec<String> = words.iter().map(|w| format!("`{}`", w.as_ref())).collect();
    match words.as_slice() {
        [] => "nothing".into(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

/// A spec that many nodes share, before and after its files were looked at; the first is kept so that its
/// place stays its own.
type Done = HashMap<*const Value, (Arc<Value>, Arc<Value>)>;

/// Replaces the files of all specs, once for all nodes that share one.
fn with_artifacts(fleet: &mut Fleet, with: &mut dyn FnMut(&Artifact) -> Option<Artifact>) {
    let mut done = Done::new();
    for (kind, specs) in fleet.specs_mut() {
        for spec in specs.iter_mut() {
            let Some(entry) = entry_of(kind, spec) else { continue };
            let before = spec.value.clone();
            let (_, after) = done.entry(Arc::as_ptr(&before)).or_insert_with(|| {
                let after = (entry.with_artifacts)(&before, with).map_or_else(|| before.clone(), Arc::new);
                (before, after)
            });
            spec.value = after.clone();
        }
    }
}

/// Reads, hashes and inspects every file that the fleet file names; each once.
///
/// # Errors
/// All files that are missing or wrong.
pub fn resolve(fleet: &mut Fleet) -> Result<(), Vec<Error>> {
    let base = fleet.folder();
    let places = std::mem::take(&mut fleet.places);
    let mut known: BTreeMap<String, Result<Artifact, Error>> = BTreeMap::new();
    with_artifacts(fleet, &mut |artifact| {
        let key = format!("{}\0{}", artifact.artifact, artifact.sha256.clone().unwrap_or_default());
        let look = || {
            package::resolve(&base, artifact).map_err(|error| match places.get(&artifact.artifact) {
                Some(place) => error.at(place.clone()),
                None => error,
            })
        };
        known.entry(key).or_insert_with(look).clone().ok()
    });
    let errors: Vec<Error> = known.into_values().filter_map(Result::err).collect();
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

/// Takes the versions from the names of the files, for a compatibility check that looks at no file.
pub fn versions_from_file_names(fleet: &mut Fleet) {
    with_artifacts(fleet, &mut |artifact| {
        Some(Artifact { holds: package::from_name(artifact.file_name()), ..artifact.clone() })
    });
}
