//! Lifecycle Manager of the simulated vCenter, by its other API: images of clusters and of single hosts, depots that are
//! really fetched, drafts (one of each user), tasks, remediation by the host's own simulated tools. It refuses what the real
//! one refuses: a component of no depot, a second draft, a remediation while VMs run, an older component than the host's.
//! Shapes: the types' own documentation.

use super::http::Reply;
use super::world::World;
use crate::fakes;
use crate::fakes::state::Machine;
use base64::Engine as _;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Cursor, Read as _, Write as _};
use vsgpu_core::units::DriverVersion;

/// Components by name, with their versions.
type Components = BTreeMap<String, String>;

/// All of it.
#[derive(Clone, Default)]
pub struct Images {
    /// What was added to images, by the id of whose they are.
    pub added: BTreeMap<String, Components>,
    /// Nobody made an image yet.
    pub none_yet: bool,
    /// Bundles of depots, by component.
    pub depots: BTreeMap<(String, String), Vec<u8>>,
    /// Drafts: whose image, and what it would hold.
    pub drafts: BTreeMap<String, (String, Components)>,
    /// Who looks after images, as 9.0 says it.
    pub orchestrator: Option<&'static str>,
    /// SDDC Manager is registered with this vCenter.
    pub in_vcf: bool,
    /// What a check of a host says against it.
    pub against: Option<&'static str>,
    /// A remediation succeeds, and leaves its hosts out.
    pub skips: bool,
    /// Somebody else commits right after.
    pub somebody_else: bool,
    /// Somebody else commits while a draft is compared.
    pub meanwhile: bool,
    sessions: BTreeSet<String>,
    fetched: BTreeSet<String>,
    tasks: BTreeMap<String, (usize, Value)>,
    made: usize,
}

const BASE: &str = "8.0.3-0.0.24022510";

fn message(text: &str) -> Value {
    json!({ "id": "com.vmware.simulated", "default_message": "{0}", "args": [text], "localized": text })
}

fn errors(said: &[String]) -> Value {
    let all: Vec<Value> =
        said.iter().map(|text| json!({ "id": "x", "type": "ERROR", "message": message(text) })).collect();
    if all.is_empty() { json!({}) } else { json!({ "errors": all }) }
}

fn reply(status: u16, body: &Value) -> Reply {
    let body = if body.is_null() { vec![] } else { body.to_string().into_bytes() };
    Reply { status, headers: String::new(), body }
}

fn refused(status: u16, kind: &str, words: &str) -> Reply {
    reply(status, &json!({ "error_type": kind, "messages": [message(&format!("{words} (simulated)"))] }))
}

fn not_found() -> Reply {
    refused(404, "NOT_FOUND", "there is no such thing")
}

impl Images {
    /// Every task ends with the next look.
    pub fn end_tasks(&mut self) {
        self.tasks.values_mut().for_each(|(left, _)| *left = 0);
    }
}

/// A request.
pub struct Request<'a> {
    pub method: &'a str,
    pub path: &'a str,
    pub session: Option<String>,
    pub authorization: Option<String>,
    pub body: &'a str,
}

fn percent(text: &str) -> String {
    let mut bytes = text.bytes();
    let mut out = vec![];
    while let Some(byte) = bytes.next() {
        let hex = (byte == b'%').then(|| [bytes.next().unwrap_or(b'0'), bytes.next().unwrap_or(b'0')]);
        out.push(
            hex.map_or(byte, |hex| u8::from_str_radix(&String::from_utf8_lossy(&hex), 16).unwrap_or(b'?')),
        );
    }
    String::from_utf8_lossy(&out).into_owned()
}

impl World {
    /// `/api/..`
    pub(super) fn rest(&mut self, request: &Request<'_>) -> Reply {
        let (path, query) = request.path.split_once('?').unwrap_or((request.path, ""));
        let action = query.split('&').find_map(|part| part.strip_prefix("action=")).unwrap_or_default();
        let as_task = query.split('&').any(|part| part == "vmw-task=true");
        self.calls.push(format!(
            "{} {path}{}",
            request.method,
            if action.is_empty() { String::new() } else { format!("?{action}") }
        ));
        if !self.is_vcenter {
            return Reply::xml(404, "nothing there (simulated)".into());
        }
        let parts: Vec<String> = path.trim_start_matches("/api/").split('/').map(percent).collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        if parts == ["session"] {
            return self.rest_session(request);
        }
        if !request.session.as_ref().is_some_and(|session| self.lcm.sessions.contains(session)) {
            return refused(401, "UNAUTHENTICATED", "the session is not known");
        }
        let body: Value = match request.body {
            "" => Value::Null,
            text => match serde_json::from_str(text) {
                Ok(body) => body,
                Err(_) => return refused(400, "INVALID_REQUEST", "the body is no JSON"),
            },
        };
        let reads = request.method == "GET" || ["validate", "scan", "check"].contains(&action);
        let privilege = match (parts.get(1..3), reads, action) {
            (Some(["tasks", _]), ..) => None,
            (Some(["settings", "depots"]), true, _) => Some("VcIntegrity.lifecycleSettings.Read"),
            (Some(["settings", "depots"]), false, _) => Some("VcIntegrity.lifecycleSettings.Write"),
            (_, _, "check") => Some("VcIntegrity.lifecycleSoftwareRemediation.Read"),
            (_, _, "apply") => Some("VcIntegrity.lifecycleSoftwareRemediation.Write"),
            (_, true, _) => Some("VcIntegrity.lifecycleSoftwareSpecification.Read"),
            (_, false, _) => Some("VcIntegrity.lifecycleSoftwareSpecification.Write"),
        };
        if privilege.is_some_and(|privilege| self.lacks.iter().any(|(_, lacks)| *lacks == privilege)) {
            return refused(403, "UNAUTHORIZED", "Unable to authorize user");
        }
        let nothing = || Reply { status: 0, headers: String::new(), body: vec![] };
        let at = self.changes;
        self.changes += usize::from(!reads);
        if !reads && self.cut == Some((at, false)) {
            return nothing();
        }
        let answer = self.rest_answer((request.method, action, as_task), &parts, &body);
        if !reads && self.cut == Some((at, true)) { nothing() } else { answer }
    }

    fn rest_session(&mut self, request: &Request<'_>) -> Reply {
        match request.method {
            "POST" => {
                let expected = base64::engine::general_purpose::STANDARD
                    .encode(format!("{}:{}", self.user, self.password));
                if request.authorization.as_deref() != Some(&format!("Basic {expected}")) {
                    return refused(401, "UNAUTHENTICATED", "Authentication required.");
                }
                self.lcm.made += 1;
                let session = format!("{:032x}", self.lcm.made);
                self.lcm.sessions.insert(session.clone());
                reply(201, &json!(session))
            }
            "DELETE" => {
                if let Some(session) = &request.session {
                    self.lcm.sessions.remove(session);
                }
                reply(204, &Value::Null)
            }
            _ => not_found(),
        }
    }

    fn rest_task(&mut self, result: Value) -> Reply {
        self.lcm.made += 1;
        let id = format!("52f9f1b0-160a-25fe-fd1e-{:012x}:com.vmware.esx.settings.simulated", self.lcm.made);
        self.lcm.tasks.insert(id.clone(), (self.tasks_run_for, result));
        reply(202, &json!(id))
    }

    fn failed_task(&mut self, kind: &str, words: &str) -> Reply {
        let error = json!({ "error_type": kind, "messages": [message(words)] });
        self.rest_task(json!({ "simulated failure": error }))
    }

    /// The hosts that are made from an image, by number.
    fn hosts_of(&self, of: &str) -> Vec<usize> {
        let number = |id: &str, prefix: &str| id.strip_prefix(prefix)?.parse::<usize>().ok();
        match (number(of, "domain-c"), number(of, "host-")) {
            (Some(cluster), _) => {
                let all = self.hosts.iter().enumerate();
                all.filter(|(_, host)| host.cluster == Some(cluster)).map(|(n, _)| n).collect()
            }
            (_, Some(host)) => vec![host],
            _ => vec![],
        }
    }

    /// NVIDIA's packages of a host.
    fn on_host(&self, host: usize) -> Components {
        let Some(folder) = self.machines.get(&host) else { return Components::new() };
        let mut machine = Machine::read(folder);
        let vibs = machine.esxi().vibs.iter().filter(|vib| vib.vendor.starts_with("NV"));
        vibs.map(|vib| (vib.name.clone(), vib.version.clone())).collect()
    }

    fn compliance(&self, host: usize, image: &Components) -> Value {
        let on_host = self.on_host(host);
        let version = |text: &String| DriverVersion::leading(text);
        let older = |name: &String| {
            on_host.get(name).is_some_and(|is| image.get(name).is_some_and(|to| version(to) < version(is)))
        };
        let conflicts: Vec<String> = image
            .keys()
            .filter(|name| older(name))
            .map(|name| format!("Downgrades of manually added Components {name}({}) in the desired ESXi version are not supported.", on_host[name]))
            .collect();
        let missing = image.iter().any(|(name, to)| on_host.get(name) != Some(to));
        let status = match (conflicts.is_empty(), missing) {
            (false, _) => "INCOMPATIBLE",
            (true, true) => "NON_COMPLIANT",
            (true, false) => "COMPLIANT",
        };
        let names: BTreeSet<&String> = image.keys().chain(on_host.keys()).collect();
        let one = |name: &String| {
            let mut of = json!({ "status": "COMPLIANT", "notifications": {} });
            if let Some(to) = image.get(name) {
                of["target"] = json!({ "version": to });
            }
            if let Some(is) = on_host.get(name) {
                of["current"] = json!({ "version": is });
            }
            of
        };
        let components: BTreeMap<&String, Value> = names.into_iter().map(|name| (name, one(name))).collect();
        json!({
            "status": status,
            "impact": if missing { "REBOOT_REQUIRED" } else { "NO_IMPACT" },
            "commit": "5",
            "components": components,
            "notifications": errors(&conflicts),
        })
    }

    fn all_compliance(&self, of: &str, image: &Components) -> Value {
        let hosts = self.hosts_of(of);
        if of.starts_with("host-") {
            return self.compliance(hosts[0], image);
        }
        let all: BTreeMap<String, Value> =
            hosts.into_iter().map(|n| (format!("host-{n}"), self.compliance(n, image))).collect();
        json!({ "status": "NON_COMPLIANT", "impact": "UNKNOWN", "hosts": all })
    }

    fn rest_answer(
        &mut self,
        (method, action, as_task): (&str, &str, bool),
        parts: &[&str],
        body: &Value,
    ) -> Reply {
        match (method, parts) {
            ("GET", ["cis", "tasks", id]) => self.task_as_it_is(id),
            ("POST", ["cis", "tasks", id]) if action == "cancel" => {
                let Some(task) = self.lcm.tasks.get_mut(*id) else { return not_found() };
                *task = (0, json!({ "simulated failure": { "error_type": "CANCELED", "messages": [] } }));
                reply(204, &Value::Null)
            }
            ("POST", ["esx", "settings", "depots", "offline"]) if as_task => self.fetch(body),
            ("GET", ["esx", "settings", "depot-content", "components", name, "versions", version]) => {
                match self.lcm.depots.contains_key(&(name.to_string(), version.to_string())) {
                    true => reply(200, &json!({ "display_name": name, "vendor": "NVIDIA" })),
                    false => not_found(),
                }
            }
            (_, ["esx", "settings", kind @ ("clusters" | "hosts"), of, rest @ ..]) => {
                let number = of.trim_start_matches(|c: char| !c.is_ascii_digit()).parse::<usize>();
                let known = match (*kind, number) {
                    ("clusters", Ok(n)) => n < self.clusters.len() && of.starts_with("domain-c"),
                    (_, Ok(n)) => self.hosts.get(n).is_some_and(|host| {
                        host.cluster.is_none() && of.starts_with("host-") && self.api.starts_with('9')
                    }),
                    _ => false,
                };
                match known {
                    true => self.of_image((method, action, as_task), of, rest, body),
                    false if *kind == "hosts" => {
                        refused(400, "UNSUPPORTED", "the host is not a vLCM managed standalone host")
                    }
                    false => not_found(),
                }
            }
            _ => not_found(),
        }
    }

    fn task_as_it_is(&mut self, id: &str) -> Reply {
        let Some((left, result)) = self.lcm.tasks.get_mut(id) else { return not_found() };
        let mut answer = json!({ "description": message("a task"), "service": "x", "operation": "x", "cancelable": true, "parent": "" });
        if *left > 0 {
            *left -= 1;
            answer["status"] = json!("RUNNING");
            answer["progress"] = json!({ "total": 100, "completed": 40, "message": message("it goes on") });
        } else if let Some(error) = result.get("simulated failure") {
            answer["status"] = json!("FAILED");
            answer["error"] = error.clone();
        } else {
            answer["status"] = json!("SUCCEEDED");
            answer["result"] = result.clone();
        }
        reply(200, &answer)
    }

    /// Fetches a bundle, over the network.
    fn fetch(&mut self, spec: &Value) -> Reply {
        let url = spec["location"].as_str().unwrap_or_default().to_string();
        if spec["source_type"] != "PULL" || !url.starts_with("http") {
            return refused(400, "INVALID_ARGUMENT", "only http and https can be pulled");
        }
        if !self.lcm.fetched.insert(url.clone()) {
            return refused(400, "ALREADY_EXISTS", "there is a depot of this location");
        }
        let found = got(&url).and_then(|bytes| {
            let component = vsgpu_machine::package::component(&mut Cursor::new(&bytes)).ok()?;
            Some((component, bytes))
        });
        match found {
            Some((component, bytes)) => {
                self.lcm.depots.insert(component, bytes);
                self.rest_task(json!({ "depot": "1" }))
            }
            None => {
                self.lcm.fetched.remove(&url);
                self.failed_task("ERROR", "A depot is inaccessible or has invalid contents.")
            }
        }
    }

    fn of_image(
        &mut self,
        (method, action, as_task): (&str, &str, bool),
        of: &str,
        rest: &[&str],
        body: &Value,
    ) -> Reply {
        let image = self.lcm.added.get(of).cloned().unwrap_or_default();
        match (method, action, rest) {
            ("GET", _, ["software", "base-image"]) => match self.lcm.none_yet {
                true => not_found(),
                false => reply(200, &json!({ "version": BASE, "details": { "display_name": "ESXi" } })),
            },
            ("GET", _, ["software", "effective-components"]) => {
                let mut all = BTreeMap::from([("ESXi".to_string(), BASE.to_string())]);
                all.extend(image);
                let all: BTreeMap<String, Value> =
                    all.into_iter().map(|(name, version)| (name, json!({ "version": version }))).collect();
                reply(200, &json!(all))
            }
            ("GET", _, ["software", "compliance"]) => reply(200, &self.all_compliance(of, &image)),
            ("GET", _, ["software", "software-spec-metadata"]) if self.api.starts_with('9') => {
                reply(200, &json!({ "orchestrator_info": { "owner": self.lcm.orchestrator } }))
            }
            ("GET", _, ["installed-images"]) if of.starts_with("domain-") => {
                let mut orphaned: BTreeMap<String, Vec<String>> = BTreeMap::new();
                for host in self.hosts_of(of) {
                    for (name, version) in
                        self.on_host(host).iter().filter(|(name, _)| !image.contains_key(*name))
                    {
                        orphaned
                            .entry(format!("{name}({version})"))
                            .or_default()
                            .push(format!("host-{host}"));
                    }
                }
                reply(200, &json!({ "status": "SUCCESS", "uniform_image": false, "orphaned_vibs": orphaned }))
            }
            ("POST", "", ["software", "drafts"]) => {
                if !self.lcm.drafts.is_empty() {
                    return refused(400, "ALREADY_EXISTS", "there is already a draft created by this user");
                }
                self.lcm.made += 1;
                let id = format!("draft-{}", self.lcm.made);
                self.lcm.drafts.insert(id.clone(), (of.into(), image));
                reply(201, &json!(id))
            }
            ("GET", _, ["software", "drafts"]) => {
                let of_draft = json!({ "metadata": { "owner": "VSPHERE.LOCAL\\svc", "status": "VALID", "creation_time": "2026-11-27T14:00:30.100Z" } });
                let all: BTreeMap<&String, &Value> =
                    self.lcm.drafts.keys().map(|id| (id, &of_draft)).collect();
                reply(200, &json!(all))
            }
            (_, _, ["software", "drafts", draft, more @ ..]) => {
                if self.lcm.drafts.get(*draft).is_none_or(|(whose, _)| whose != of) {
                    return not_found();
                }
                self.of_draft((method, action, as_task), (of, draft), more, body)
            }
            ("POST", "check" | "apply", ["software"]) if as_task => {
                self.remediation(action, of, &image, body)
            }
            _ => not_found(),
        }
    }

    fn of_draft(
        &mut self,
        (method, action, as_task): (&str, &str, bool),
        (of, draft): (&str, &str),
        rest: &[&str],
        body: &Value,
    ) -> Reply {
        let components = self.lcm.drafts[draft].1.clone();
        let unknown = |(name, version): &(&String, &String)| {
            !self.lcm.depots.contains_key(&((*name).clone(), (*version).clone()))
        };
        let invalid: Vec<String> = components
            .iter()
            .filter(unknown)
            .map(|(name, version)| format!("The component {name} {version} is in no depot."))
            .collect();
        match (method, action, rest) {
            ("DELETE", _, []) => {
                self.lcm.drafts.remove(draft);
                reply(204, &Value::Null)
            }
            ("PATCH", _, ["software", "components"]) => {
                let Some(set) = body["components_to_set"].as_object() else {
                    return refused(400, "INVALID_ARGUMENT", "components_to_set");
                };
                let of_draft = &mut self.lcm.drafts.get_mut(draft).unwrap().1;
                for (name, version) in set {
                    of_draft.insert(name.clone(), version.as_str().unwrap_or_default().into());
                }
                reply(204, &Value::Null)
            }
            ("POST", "validate", []) if as_task => {
                self.rest_task(json!({ "notifications": errors(&invalid) }))
            }
            ("POST", "scan", []) if as_task => {
                let compared = self.all_compliance(of, &components);
                if self.lcm.meanwhile {
                    let more = [("patch-of-somebody".to_string(), "1.0".to_string())];
                    self.lcm.added.entry(of.into()).or_default().extend(more);
                }
                self.rest_task(compared)
            }
            ("POST", "commit", []) if as_task => {
                if body["message"].as_str().is_none_or(str::is_empty) || !invalid.is_empty() {
                    return self.failed_task("INVALID_ARGUMENT", "the draft is not valid");
                }
                self.lcm.drafts.remove(draft);
                let after = if self.lcm.somebody_else { Components::new() } else { components };
                self.lcm.added.insert(of.into(), after);
                self.rest_task(json!("5"))
            }
            _ => not_found(),
        }
    }

    /// Checks hosts, or makes them what the image says.
    fn remediation(&mut self, action: &str, of: &str, image: &Components, body: &Value) -> Reply {
        let named: Vec<String> = body["hosts"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|id| id.as_str())
            .map(String::from)
            .collect();
        let all = self.hosts_of(of);
        let hosts: Vec<usize> = match of.starts_with("host-") {
            true => all,
            false => all.into_iter().filter(|n| named.contains(&format!("host-{n}"))).collect(),
        };
        // Nobody here remediates a whole cluster by leaving its hosts out.
        let [host] = hosts.as_slice() else {
            return refused(400, "INVALID_ARGUMENT", "exactly one host is expected");
        };
        let id = format!("host-{host}");
        let Some(folder) = self.machines.get(host).cloned() else { return not_found() };
        let mut machine = Machine::read(&folder);
        let against = match (self.lcm.against, machine.esxi().maintenance) {
            (Some(text), _) => Some(text.to_string()),
            (None, false) => Some("VMs run on the host, and it is not in maintenance mode.".into()),
            (None, true) => None,
        };
        if action == "check" {
            let issues: Vec<Value> =
                against.iter().map(|text| json!({ "description": message(text) })).collect();
            let status = if issues.is_empty() { "OK" } else { "ERROR" };
            let entity = json!({ "type": "HOST", "host": id, "status": status, "check_statuses": [
                { "check": { "check": "x", "name": message("a check") }, "status": status, "issues": [], "check_issues": issues } ] });
            let key = if of.starts_with("host-") { "entity_result" } else { "entity_results" };
            let entity = if of.starts_with("host-") { entity } else { json!([entity]) };
            return self.rest_task(json!({ "status": status, "commit": "5", key: entity }));
        }
        if body["accept_eula"] != true {
            return self.failed_task("ERROR", "the EULA is not accepted");
        }
        if self.on_host(*host) == *image {
            return refused(400, "ALREADY_IN_DESIRED_STATE", "the host is what the image says");
        }
        let result = |status: &str, said: &[String]| {
            let key = match status {
                "OK" => "successful_hosts",
                "SKIPPED" => "skipped_hosts",
                _ => "failed_hosts",
            };
            let mut result = json!({ "status": { "status": if status == "ERROR" { "ERROR" } else { "OK" } }, "commit": "5",
                "host_status": { id.clone(): { "status": status, "notifications": errors(said) } },
                "successful_hosts": [], "failed_hosts": [], "skipped_hosts": [] });
            result[key] = json!([id]);
            result
        };
        if self.lcm.skips {
            let said = "URL: http://vc.example.com:9084/vum/repository/ Error: Name or service not known"
                .to_string();
            return self.rest_task(result("SKIPPED", &[said]));
        }
        if let Some(text) = against {
            return self.rest_task(result("ERROR", &[text]));
        }
        let esxcli = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|word| (*word).to_string()).collect();
            fakes::run(&folder, "esxcli", &words)
        };
        for (name, version) in
            image.iter().filter(|(name, version)| self.on_host(*host).get(*name) != Some(*version))
        {
            let Some(bytes) = self.lcm.depots.get(&(name.clone(), version.clone())) else {
                return self.rest_task(result("ERROR", &["the depot is gone".into()]));
            };
            let path = "/vmfs/volumes/datastore1/of-lifecycle-manager.zip";
            std::fs::write(folder.join(format!("root{path}")), bytes).unwrap();
            let answer = esxcli(&["software", "component", "apply", "-d", path]);
            std::fs::remove_file(folder.join(format!("root{path}"))).unwrap();
            if answer.status != 0 {
                return self.rest_task(result("ERROR", &[answer.stdout.trim().to_string()]));
            }
        }
        esxcli(&["system", "shutdown", "reboot", "--reason=remediation"]);
        self.rest_task(result("OK", &[]))
    }
}

/// What a URL gives.
fn got(url: &str) -> Option<Vec<u8>> {
    let (address, path) = url.strip_prefix("http://")?.split_once('/')?;
    let mut stream = std::net::TcpStream::connect(address).ok()?;
    write!(stream, "GET /{path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = vec![];
    stream.read_to_end(&mut answer).ok()?;
    let head = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
    let is_there = answer.starts_with(b"HTTP/1.1 200");
    is_there.then(|| answer.split_off(head + 4))
}
