//! What the simulated vCenter has, and its answers.

use super::changes::{self, CALLS, Made};
use super::drs::{self, Drs};
use super::http::Reply;
use super::{clones, machine, schema, software};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use vsgpu_core::readers::xml::{Element, parse};

/// A host of the inventory.
#[derive(Clone)]
pub struct SimHost {
    pub name: String,
    pub cluster: Option<usize>,
    pub state: &'static str,
    pub gpus: usize,
    pub vms: usize,
    /// When its counters were sampled last; the server's clock is 30 seconds later.
    pub sampled: &'static str,
}

impl SimHost {
    pub fn new(name: &str, cluster: Option<usize>) -> Self {
        Self {
            name: name.into(),
            cluster,
            state: "connected",
            gpus: 2,
            vms: 3,
            sampled: "2026-11-27T14:00:00Z",
        }
    }
}

pub struct World {
    pub hosts: Vec<SimHost>,
    pub clusters: Vec<&'static str>,
    pub is_vcenter: bool,
    pub user: &'static str,
    pub password: &'static str,
    /// Privileges that the account lacks, each on objects whose id begins so.
    pub lacks: Vec<(&'static str, &'static str)>,
    /// Simulated machines behind hosts, by their numbers.
    pub machines: BTreeMap<usize, PathBuf>,
    /// Objects that are gone since they were listed.
    pub gone: Vec<String>,
    /// PCI devices of a host beside its GPUs.
    pub devices: usize,
    /// Most objects of a page.
    pub page: usize,
    /// The session ends behind so many calls.
    pub session_ends_after: Option<usize>,
    /// Most sessions at once.
    pub most_sessions: usize,
    /// Instead of an answer: by the name of the call, or `GET`. Status, headers and body.
    pub instead: BTreeMap<&'static str, (u16, String, Vec<u8>)>,
    /// Calls that came, in their order.
    pub calls: Vec<String>,
    /// Sessions that are open.
    pub sessions: BTreeSet<String>,
    /// Views that are open, each of its session.
    pub views: BTreeSet<String>,
    /// Tasks: looks that they still run for, and how they end.
    pub tasks: BTreeMap<String, (usize, changes::Ended)>,
    /// Looks that each new task runs for.
    pub tasks_run_for: usize,
    /// Somebody else changes a VM right before each change of ours.
    pub somebody_else: bool,
    /// The connection is cut at the n-th call that changes something, counted from zero: before it is made, or after.
    pub cut: Option<(usize, bool)>,
    /// Calls that changed something.
    pub changes: usize,
    pub drs: Drs,
    /// Of a file that is put only half arrives.
    pub cuts_files: bool,
    /// The version of the API that the server says.
    pub api: &'static str,
    /// Clusters have an image.
    pub images: bool,
    /// Lifecycle Manager.
    pub lcm: super::images::Images,
    logins: usize,
    listing: BTreeMap<String, Vec<String>>,
}

impl World {
    pub fn new(hosts: Vec<SimHost>) -> Self {
        Self {
            hosts,
            clusters: vec!["GPU-A", "GPU-B"],
            is_vcenter: true,
            user: "svc@vsphere.local",
            password: "a<secret>&\"'",
            lacks: vec![],
            machines: BTreeMap::new(),
            gone: vec![],
            devices: 1,
            page: 3,
            session_ends_after: None,
            most_sessions: 5,
            instead: BTreeMap::new(),
            calls: vec![],
            sessions: BTreeSet::new(),
            views: BTreeSet::new(),
            tasks: BTreeMap::new(),
            tasks_run_for: 1,
            somebody_else: false,
            cut: None,
            changes: 0,
            drs: Drs::default(),
            cuts_files: false,
            api: "8.0.3.0",
            images: true,
            lcm: super::images::Images::default(),
            logins: 0,
            listing: BTreeMap::new(),
        }
    }

    pub(super) fn answer(&mut self, path: &str, cookie: Option<&str>, body: &str) -> Reply {
        if path == "/sdk/vimServiceVersions.xml" {
            self.calls.push("GET".into());
            if let Some((status, headers, body)) = self.instead.get("GET") {
                return Reply { status: *status, headers: headers.clone(), body: body.clone() };
            }
            let newest = if self.api.starts_with("9.1") { "9.1.0.0" } else { "8.0.3.0" };
            return Reply::xml(
                200,
                format!(
                    "<?xml version=\"1.0\" encoding=\"UTF-8\" ?><namespaces version=\"1.0\"><namespace><name>urn:vim25</name><version>{newest}</version><priorVersions><version>8.0.2.0</version></priorVersions></namespace></namespaces>"
                ),
            );
        }
        let call = parse(body).ok().and_then(|root| root.child("Body")?.children.first().cloned());
        let Some(call) = call.filter(|_| path == "/sdk") else {
            return Reply::xml(404, "nothing there (simulated)".into());
        };
        self.calls.push(call.name.clone());
        if let Some((status, headers, body)) = self.instead.get(call.name.as_str()) {
            return Reply { status: *status, headers: headers.clone(), body: body.clone() };
        }
        if let Some(wrong) = schema::wrong(&call) {
            return fault("InvalidRequest", &wrong, "");
        }
        let session =
            cookie.and_then(|c| c.strip_prefix("vmware_soap_session=")).unwrap_or_default().to_string();
        if self.session_ends_after.is_some_and(|most| self.calls.len() > most) {
            self.sessions.clear();
            self.views.clear();
            self.listing.clear();
            self.session_ends_after = None;
        }
        let known = self.sessions.contains(&session);
        match call.name.as_str() {
            "RetrieveServiceContent" => returned(&call.name, &self.content()),
            "Login" => self.login(&call),
            "RetrievePropertiesEx" | "ContinueRetrievePropertiesEx" => self.properties(&call, known),
            _ if !known => fault("NotAuthenticated", "The session is not authenticated.", ""),
            "Logout" => {
                self.sessions.remove(&session);
                returned(&call.name, "")
            }
            "CreateContainerView" => {
                let view = format!("session[{}]{}", self.calls.len(), text(&call, "type"));
                let given = format!("<returnval type=\"ContainerView\">{view}</returnval>");
                self.views.insert(view);
                plain(&call.name, &given)
            }
            "DestroyView" => {
                if !self.views.remove(text(&call, "_this")) {
                    return fault("ManagedObjectNotFound", "The view is gone (simulated)", "");
                }
                returned(&call.name, "")
            }
            "HasPrivilegeOnEntities" => self.privileges(&call, &session),
            "QueryPerf" => self.counters(&call),
            name if MACHINE_METHODS.iter().any(|(method, ..)| *method == name) => self.of_machine(&call),
            name if CALLS.iter().any(|(of, ..)| *of == name) => self.change(&call),
            "CancelTask" => match self.tasks.get_mut(text(&call, "_this")) {
                Some(task) => {
                    *task = (0, Err(("RequestCanceled", "The task was canceled by a user.".into())));
                    plain(&call.name, "")
                }
                None => fault("ManagedObjectNotFound", "", ""),
            },
            "ClusterEnterMaintenanceMode" => {
                let host = text(&call, "host");
                if self.lacked(host, "Host.Config.Maintenance") {
                    let more = format!(
                        "<object type=\"HostSystem\">{host}</object><privilegeId>Host.Config.Maintenance</privilegeId>"
                    );
                    return fault("NoPermission", "Permission to perform this operation was denied.", &more);
                }
                plain(&call.name, &drs::forecast(self, number(host).unwrap_or(usize::MAX)))
            }
            "QueryOptions" if self.lacked("group-d1", "System.Read") => {
                let more = "<object type=\"Folder\">group-d1</object><privilegeId>System.Read</privilegeId>";
                fault("NoPermission", "Permission to perform this operation was denied.", more)
            }
            "QueryOptions" => match drs::setting(&self.drs, text(&call, "name")) {
                Some(option) => plain(&call.name, &option),
                None => fault("InvalidName", "", ""),
            },
            "ReconfigureComputeResource_Task" => self.reconfigure_cluster(&call),
            "RetrieveManagedMethodExecuter" => {
                let host = number(text(&call, "_this")).unwrap_or_default();
                plain(
                    &call.name,
                    &format!("<returnval type=\"ManagedMethodExecuter\">executer-{host}</returnval>"),
                )
            }
            "ExecuteSoap" => self.esxcli(&call),
            "DirectPathProfileManagerQueryCapacity" => self.capacity(&call),
            "FindExtension" => {
                let is_there = self.lcm.in_vcf && text(&call, "extensionKey") == "com.vmware.sddcManager";
                match is_there {
                    true => returned(&call.name, "<key>com.vmware.sddcManager</key><version>5</version>"),
                    false => plain(&call.name, ""),
                }
            }
            "MakeDirectory" => self.make_folder(&call),
            "CurrentTime" => returned(&call.name, "2026-11-27T14:00:30Z"),
            "QueryAvailablePerfMetric" => {
                let one = |counter: usize, instance: &str| {
                    format!(
                        "<returnval><counterId>{counter}</counterId><instance>{instance}</instance></returnval>"
                    )
                };
                let all = [
                    one(280, "0000:3b:00.0"),
                    one(280, ""),
                    one(99, "naa.6000c29serial"),
                    one(98, "t10.NVMe____SERIAL"),
                ];
                plain(&call.name, &all.concat())
            }
            other => fault("MethodNotFound", &format!("there is no {other} (simulated)"), ""),
        }
    }

    /// A file that is put onto a datastore.
    pub(super) fn put_file(&mut self, path: &str, cookie: Option<&str>, bytes: &[u8]) -> Reply {
        self.calls.push("PUT /folder".into());
        let status = |status: u16| Reply::xml(status, format!("{status} (simulated)"));
        let session = cookie.and_then(|c| c.strip_prefix("vmware_soap_session=")).unwrap_or_default();
        if !self.sessions.contains(session) {
            return status(401);
        }
        if self.lacked("datastore-1", "Datastore.FileManagement") {
            return status(403);
        }
        let Some((file, query)) = path.trim_start_matches("/folder/").split_once('?') else {
            return status(400);
        };
        let datastore = query.rsplit('=').next().unwrap_or_default();
        // Half of it arrives, and nobody says so.
        let bytes = if self.cuts_files { &bytes[..bytes.len() / 2] } else { bytes };
        let put = |folder: &PathBuf| software::put(folder, datastore, &file.replace("%20", " "), bytes);
        if self.machines.values().filter(|folder| put(folder)).count() > 0 {
            status(201)
        } else {
            status(404)
        }
    }

    /// A file of a datastore: it wants a session, the datacenter and the datastore.
    pub(super) fn file(&mut self, path: &str, cookie: Option<&str>, range: Option<&str>) -> Reply {
        self.calls.push("GET /folder".into());
        let status = |status: u16| Reply::xml(status, format!("{status} (simulated)"));
        let session = cookie.and_then(|c| c.strip_prefix("vmware_soap_session=")).unwrap_or_default();
        if !self.sessions.contains(session) {
            return status(401);
        }
        let Some((file, query)) = path.trim_start_matches("/folder/").split_once('?') else {
            return status(400);
        };
        if !query.starts_with("dcPath=lab%2FDC%200&dsName=") {
            return status(404);
        }
        let datastore = query.rsplit('=').next().unwrap_or_default();
        if self.lacked("datastore-1", "Datastore.FileManagement") {
            return status(403);
        }
        let at = format!("root/vmfs/volumes/{datastore}/{file}").replace("%20", " ");
        let found = self.machines.values().find_map(|machine| std::fs::read(machine.join(&at)).ok());
        let Some(bytes) = found else { return status(404) };
        let last = range.and_then(|range| range.strip_prefix("bytes=-")?.parse::<usize>().ok());
        match last {
            Some(most) => {
                let from = bytes.len().saturating_sub(most);
                Reply { status: 206, headers: String::new(), body: bytes[from..].to_vec() }
            }
            None => Reply { status: 200, headers: String::new(), body: bytes },
        }
    }

    /// Ids differ between the two kinds of server, as they do.
    fn content(&self) -> String {
        let (root, collector, views, sessions, rights) = match self.is_vcenter {
            true => {
                ("group-d1", "propertyCollector", "ViewManager", "SessionManager", "AuthorizationManager")
            }
            false => {
                ("ha-folder-root", "ha-property-collector", "ViewManager", "ha-sessionmgr", "ha-authmgr")
            }
        };
        let (name, kind) = match self.is_vcenter {
            true => ("VMware vCenter Server 8.0.3 build-0 (simulated)", "VirtualCenter"),
            false => ("VMware ESXi 8.0.3 build-0 (simulated)", "HostAgent"),
        };
        let api = self.api;
        let instance = match self.is_vcenter {
            true => "<instanceUuid>0f0e0d0c-0000-0000-0000-000000000001</instanceUuid>",
            false => "",
        };
        let profiles = match api.starts_with('9') {
            true => {
                "<directPathProfileManager type=\"DirectPathProfileManager\">DirectPathProfileMgr</directPathProfileManager>"
            }
            false => "",
        };
        // A host's stands elsewhere.
        let setting = match self.is_vcenter {
            true => "<setting type=\"OptionManager\">VpxSettings</setting>",
            false => "",
        };
        format!(
            "<rootFolder type=\"Folder\">{root}</rootFolder><propertyCollector type=\"PropertyCollector\">{collector}</propertyCollector><viewManager type=\"ViewManager\">{views}</viewManager><about><fullName>{name}</fullName><apiType>{kind}</apiType><apiVersion>{api}</apiVersion>{instance}</about><sessionManager type=\"SessionManager\">{sessions}</sessionManager><authorizationManager type=\"AuthorizationManager\">{rights}</authorizationManager><perfManager type=\"PerformanceManager\">PerfMgr</perfManager><diagnosticManager type=\"DiagnosticManager\">DiagMgr</diagnosticManager><fileManager type=\"FileManager\">FileManager</fileManager>{setting}<extensionManager type=\"ExtensionManager\">ExtensionManager</extensionManager>{profiles}"
        )
    }

    fn login(&mut self, call: &Element) -> Reply {
        if self.sessions.len() >= self.most_sessions {
            return Reply::xml(503, "503 Service Unavailable (simulated)".into());
        }
        if text(call, "userName") != self.user || text(call, "password") != self.password {
            return fault(
                "InvalidLogin",
                "Cannot complete login due to an incorrect user name or password.",
                "",
            );
        }
        if text(call, "locale") != "en" {
            return fault("InvalidLocale", "Eine andere Sprache (simulated)", "");
        }
        self.logins += 1;
        // As real servers write it: quoted.
        let session = format!("\"{:08x}\"", self.logins);
        self.sessions.insert(session.clone());
        let mut reply = returned(&call.name, &format!("<key>key-{}</key><locale>en</locale>", self.logins));
        reply.headers = format!("Set-Cookie: vmware_soap_session={session}; Path=/; HttpOnly; Secure;\r\n");
        reply
    }

    fn ids(&self, kind: &str) -> Vec<String> {
        match kind {
            "HostSystem" => (0..self.hosts.len()).map(|n| format!("host-{n}")).collect(),
            "ClusterComputeResource" => (0..self.clusters.len()).map(|n| format!("domain-c{n}")).collect(),
            "VirtualMachine" => clones::all_vms(&self.machines),
            _ => vec![],
        }
    }

    fn properties(&mut self, call: &Element, known: bool) -> Reply {
        let key = match call.name.as_str() {
            "RetrievePropertiesEx" => {
                let Some(spec) = call.child("specSet") else {
                    return fault("InvalidArgument", "specSet", "");
                };
                let Some(set) = spec.child("propSet") else { return fault("InvalidArgument", "propSet", "") };
                let kind = text(set, "type");
                let paths: Vec<&str> = set.all("pathSet").map(|path| path.text.as_str()).collect();
                if let Some(path) = self.unknown(kind, &paths) {
                    return fault("InvalidProperty", "", &format!("<name>{path}</name>"));
                }
                let objects: Vec<String> =
                    spec.all("objectSet").map(|o| text(o, "obj").to_string()).collect();
                let of_view = objects.first().filter(|id| id.starts_with("session["));
                if let Some(view) = of_view.filter(|view| known && !self.views.contains(*view)) {
                    return fault("ManagedObjectNotFound", &format!("{view} is gone (simulated)"), "");
                }
                let ids = match objects.first().is_some_and(|id| id.starts_with("session[")) {
                    true => self.ids(kind),
                    false => objects,
                };
                if kind == "Task" && known && ids.iter().any(|id| !self.tasks.contains_key(id)) {
                    return fault("ManagedObjectNotFound", "The task has already been deleted", "");
                }
                let found = ids.iter().map(|id| self.object(kind, id, &paths, known)).collect();
                let token = format!("token-{}", self.calls.len());
                self.listing.insert(token.clone(), found);
                token
            }
            _ if !known => return fault("NotAuthenticated", "The session is not authenticated.", ""),
            _ => text(call, "token").to_string(),
        };
        let Some(mut left) = self.listing.remove(&key) else {
            return fault("InvalidProperty", "the token is not known (simulated)", "");
        };
        let rest = left.split_off(self.page.min(left.len()));
        let mut inside = String::new();
        if !rest.is_empty() {
            inside += &format!("<token>{key}</token>");
            self.listing.insert(key, rest);
        }
        inside += &left.concat();
        if inside.is_empty() { plain(&call.name, "") } else { returned(&call.name, &inside) }
    }

    /// A call that changes a host or a VM.
    fn change(&mut self, call: &Element) -> Reply {
        let object = text(call, "_this").to_string();
        let (_, privilege, of_vm) = CALLS.iter().find(|(of, ..)| *of == call.name).copied().unwrap();
        let of = number(&object).unwrap_or(usize::MAX);
        let host = if of_vm { of / 1_000 } else { of };
        let place = if of_vm { object.clone() } else { format!("host-{host}") };
        if self.lacked(&place, privilege) {
            let more = format!(
                "<object type=\"ManagedEntity\">{place}</object><privilegeId>{privilege}</privilegeId>"
            );
            return fault("NoPermission", "Permission to perform this operation was denied.", &more);
        }
        let Some(folder) = self.machines.get(&host).cloned() else {
            return fault("ManagedObjectNotFound", "there is no machine behind it (simulated)", "");
        };
        if self.somebody_else && call.name == "ReconfigVM_Task" {
            machine::somebody_else(&folder, host, &object);
        }
        let (at, nothing) = (self.changes, Reply { status: 0, headers: String::new(), body: vec![] });
        self.changes += 1;
        if self.cut == Some((at, false)) {
            return nothing;
        }
        let made = match call.name.as_str() {
            "CloneVM_Task" => clones::make(&self.machines, host, call),
            // What cannot leave keeps it waiting, until it gives up.
            "EnterMaintenanceMode_Task" if drs::evacuate(self, host) => {
                Made::Task(Err(("Timedout", "Operation timed out.".into())))
            }
            _ => changes::make(&folder, host, call),
        };
        if self.cut == Some((at, true)) {
            return nothing;
        }
        match made {
            Made::Done => plain(&call.name, ""),
            Made::Refused(kind, words) => fault(kind, &machine::escaped(&words), ""),
            Made::Task(ended) => {
                let id = format!("task-{}", self.calls.len());
                self.tasks.insert(id.clone(), (self.tasks_run_for, ended));
                plain(&call.name, &format!("<returnval type=\"Task\">{id}</returnval>"))
            }
        }
    }

    /// esxcli of a host: for somebody who may nearly everything.
    fn esxcli(&mut self, call: &Element) -> Reply {
        let host = number(text(call, "_this")).unwrap_or(usize::MAX);
        if self.lacked(&format!("host-{host}"), ADMINISTRATOR) {
            let more = format!(
                "<object type=\"HostSystem\">host-{host}</object><privilegeId>Host.Config.Settings</privilegeId>"
            );
            return fault("NoPermission", "Permission to perform this operation was denied.", &more);
        }
        let Some(folder) = self.machines.get(&host).cloned() else {
            return fault("ManagedObjectNotFound", "there is no machine behind it (simulated)", "");
        };
        let changes = !text(call, "method").ends_with(".list");
        let at = self.changes;
        self.changes += usize::from(changes);
        let nothing = || Reply { status: 0, headers: String::new(), body: vec![] };
        if changes && self.cut == Some((at, false)) {
            return nothing();
        }
        let answer = software::execute(&folder, call);
        if changes && self.cut == Some((at, true)) {
            return nothing();
        }
        returned(&call.name, &answer)
    }

    /// How many more of vGPU types fit: of the whole GPUs of a host, as many as its smallest type counts.
    fn capacity(&self, call: &Element) -> Reply {
        let of_host = call
            .child("target")
            .filter(|of| of.attribute("type") == Some("DirectPathProfileManagerTargetHost"));
        let host = of_host.and_then(|of| of.child("host")).and_then(|host| number(&host.text));
        let Some(folder) = host.and_then(|host| self.machines.get(&host)) else {
            return fault("InvalidArgument", "A specified parameter was not correct: target", "");
        };
        let gpus =
            crate::fakes::state::Machine::read(folder).esxi().gpus.iter().filter(|gpu| !gpu.given).count();
        let one = |query: &Element| {
            let config = query.child("deviceConfig");
            let config = config
                .filter(|of| of.attribute("type") == Some("DirectPathProfileManagerVmiopDirectPathConfig"));
            let Some(vgpu) =
                config.map(|of| text(of, "vgpuProfile")).filter(|name| name.starts_with("grid_"))
            else {
                return "<returnval xsi:type=\"DirectPathProfileManagerCapacityUnknown\"><querySpec xsi:type=\"DirectPathProfileManagerCapacityQueryByName\"><name>x</name></querySpec></returnval>".to_string();
            };
            format!(
                "<returnval xsi:type=\"DirectPathProfileManagerCapacityInfo\"><profile><id>1</id><name>unnamed-1</name><vendorName>NVIDIA</vendorName><deviceConfig xsi:type=\"DirectPathProfileManagerVmiopDirectPathConfig\"><vgpuProfile>{vgpu}</vgpuProfile></deviceConfig></profile><consumed>1</consumed><remaining>{}</remaining><max>{}</max><unusedReservation>1</unusedReservation></returnval>",
                gpus * 4,
                gpus * 4 + 2
            )
        };
        plain(&call.name, &call.all("querySpec").map(one).collect::<String>())
    }

    fn make_folder(&mut self, call: &Element) -> Reply {
        let name = text(call, "name").to_string();
        if self.lacked("datastore-1", "Datastore.FileManagement") {
            let more = "<object type=\"Datastore\">datastore-1</object><privilegeId>Datastore.FileManagement</privilegeId>";
            return fault("NoPermission", "Permission to perform this operation was denied.", more);
        }
        let made: Vec<_> =
            self.machines.values().map(|folder| software::make_folder(folder, &name)).collect();
        match made.iter().find_map(|made| made.as_ref().err()) {
            Some(kind) => fault(kind, "(simulated)", ""),
            None => plain(&call.name, ""),
        }
    }

    /// Options of DRS. What is not sent is gone: whether vCenter keeps it is not known.
    fn reconfigure_cluster(&mut self, call: &Element) -> Reply {
        if self.lacked(text(call, "_this"), "Host.Inventory.EditCluster") {
            let more = "<object type=\"ClusterComputeResource\">domain-c0</object><privilegeId>Host.Inventory.EditCluster</privilegeId>";
            return fault("NoPermission", "Permission to perform this operation was denied.", more);
        }
        let spec = call.child("spec");
        if spec.and_then(|spec| spec.attribute("type")) != Some("ClusterConfigSpecEx")
            || text(call, "modify") != "true"
        {
            return fault("InvalidArgument", "A specified parameter was not correct: spec", "");
        }
        let options =
            spec.and_then(|spec| spec.child("drsConfig")).into_iter().flat_map(|of| of.all("option"));
        self.drs.options =
            options.map(|of| (text(of, "key").to_string(), text(of, "value").to_string())).collect();
        self.changes += 1;
        let id = format!("task-{}", self.calls.len());
        self.tasks.insert(id.clone(), (self.tasks_run_for, Ok(())));
        plain(&call.name, &format!("<returnval type=\"Task\">{id}</returnval>"))
    }

    /// A property of a task; each look at its state brings it forward.
    fn task(&mut self, id: &str, path: &str) -> Option<String> {
        let (left, ended) = self.tasks.get_mut(id)?;
        let runs = *left > 0;
        match (path, ended) {
            ("info.state", ended) => {
                *left = left.saturating_sub(1);
                let word = if runs {
                    "running"
                } else if ended.is_ok() {
                    "success"
                } else {
                    "error"
                };
                Some(format!("<val xsi:type=\"TaskInfoState\">{word}</val>"))
            }
            ("info.progress", _) if runs => Some("<val xsi:type=\"xsd:int\">40</val>".into()),
            ("info.error", Err((kind, words))) if !runs => Some(format!(
                "<val xsi:type=\"LocalizedMethodFault\"><fault xsi:type=\"{kind}\"></fault><localizedMessage>{}</localizedMessage></val>",
                machine::escaped(words)
            )),
            _ => None,
        }
    }

    /// A method of a host, or of one of its managers.
    fn of_machine(&self, call: &Element) -> Reply {
        let argument = |name: &str| text(call, name).to_string();
        let object = if call.child("host").is_some() { argument("host") } else { argument("_this") };
        let number = number(&object).unwrap_or(usize::MAX);
        let (_, privilege, on_root) =
            MACHINE_METHODS.iter().find(|(method, ..)| *method == call.name).copied().unwrap_or_default();
        let of = if on_root { "group-d1".to_string() } else { format!("host-{number}") };
        if self.lacked(&of, privilege) {
            let more =
                format!("<object type=\"HostSystem\">{of}</object><privilegeId>{privilege}</privilegeId>");
            return fault("NoPermission", "Permission to perform this operation was denied.", &more);
        }
        let Some(folder) = self.machines.get(&number) else {
            return fault("ManagedObjectNotFound", "there is no machine behind it (simulated)", "");
        };
        if call.name == "RetrieveVgpuProfileInfo" {
            return plain(&call.name, &drs::profiles());
        }
        match machine::method(folder, &call.name, &argument) {
            Some(Ok(answer)) => plain(&call.name, &answer),
            Some(Err((kind, words))) => fault(kind, &words, ""),
            None => fault("MethodNotFound", "(simulated)", ""),
        }
    }

    /// A property that this version does not have refuses the whole call.
    fn unknown<'a>(&self, kind: &str, paths: &[&'a str]) -> Option<&'a str> {
        let of_host = |path: &str| {
            path.starts_with("config.")
                || path.starts_with("configManager.")
                || path.starts_with("hardware.")
                || path.starts_with("runtime.")
                || path.starts_with("summary.")
                || ["name", "parent", "vm", "datastore", "network"].contains(&path)
        };
        paths.iter().copied().find(|path| kind == "HostSystem" && !of_host(path))
    }

    fn object(&mut self, kind: &str, id: &str, paths: &[&str], known: bool) -> String {
        let mut inside = format!("<obj type=\"{kind}\">{id}</obj>");
        for path in paths {
            let lacked =
                self.lacked(id, "System.Read") && (*path == "hardware.pciDevice" || kind == "VirtualMachine");
            if !known || lacked {
                let fault = if known { "NoPermission" } else { "NotAuthenticated" };
                inside += &format!(
                    "<missingSet><path>{path}</path><fault><fault xsi:type=\"{fault}\"><object type=\"Folder\">group-d1</object><privilegeId>System.Read</privilegeId></fault><localizedMessage></localizedMessage></fault></missingSet>"
                );
            } else if let Some(value) =
                if kind == "Task" { self.task(id, path) } else { self.value(kind, id, path) }
            {
                inside += &format!("<propSet><name>{path}</name>{value}</propSet>");
            }
        }
        format!("<objects>{inside}</objects>")
    }

    /// The latest sample of each host that was asked about: of each GPU, and the sum of the host.
    fn counters(&self, call: &Element) -> Reply {
        let of = |spec: &Element| {
            let id = text(spec, "entity");
            let host = id.strip_prefix("host-").and_then(|n| self.hosts.get(n.parse::<usize>().ok()?));
            let gpus = host.map_or(0, |host| host.gpus);
            let one = |metric: &Element, instance: &str, value: usize| {
                format!(
                    "<value xsi:type=\"PerfMetricIntSeries\"><id><counterId>{}</counterId><instance>{instance}</instance></id><value>{value}</value></value>",
                    text(metric, "counterId")
                )
            };
            let of_metric = |metric: &Element| {
                let each: String = (0..gpus)
                    .map(|n| one(metric, &format!("0000:{:02x}:00.0", 0x3b + n), 4000 + n))
                    .collect();
                one(metric, "", 4000) + &each
            };
            let series: String = spec.all("metricId").map(of_metric).collect();
            format!(
                "<returnval xsi:type=\"PerfEntityMetric\"><entity type=\"HostSystem\">{id}</entity><sampleInfo><timestamp>{}</timestamp><interval>20</interval></sampleInfo>{series}</returnval>",
                host.map_or("", |host| host.sampled)
            )
        };
        plain(&call.name, &call.all("querySpec").map(of).collect::<String>())
    }

    fn value(&self, kind: &str, id: &str, path: &str) -> Option<String> {
        if kind == "PerformanceManager" && path == "perfCounter" {
            let one = |key: usize, group: &str, name: &str, rollup: &str| {
                format!(
                    "<PerfCounterInfo><key>{key}</key><nameInfo><label>x</label><summary>x</summary><key>{name}</key></nameInfo><groupInfo><label>x</label><summary>x</summary><key>{group}</key></groupInfo><rollupType>{rollup}</rollupType></PerfCounterInfo>"
                )
            };
            let all = [
                one(2, "cpu", "usage", "average"),
                one(280, "gpu", "utilization", "average"),
                one(281, "gpu", "mem.used", "average"),
                one(283, "gpu", "power.used", "latest"),
                one(459, "gpu", "utilization", "latest"),
            ];
            return Some(format!("<val xsi:type=\"ArrayOfPerfCounterInfo\">{}</val>", all.concat()));
        }
        if let ("VirtualMachine", Some(vm)) = (kind, number(id)) {
            let host = vm / 1_000;
            if let Some(folder) = self.machines.get(&host) {
                return clones::vm_value(folder, host, id, path)
                    .or_else(|| machine::vm_value(folder, host, id, path));
            }
        }
        if let ("Datastore", Some(folder)) = (kind, self.machines.values().next()) {
            return clones::datastore_value(clones::datastores(folder).get(id)?, path);
        }
        let of_machine = number(id).and_then(|host| Some((host, self.machines.get(&host)?)));
        let of_machine = of_machine.filter(|_| kind.starts_with("Host"));
        let value = of_machine.and_then(|(host, folder)| machine::host_value(folder, host, path));
        let value = value.map(|value| match self.api.starts_with("9.1") {
            true => machine::of_9_1(of_machine.unwrap().1, &value),
            false => value,
        });
        if value.is_some() {
            return value;
        }
        if kind == "VirtualMachine" {
            let devices = "<val xsi:type=\"ArrayOfVirtualDevice\"><VirtualDevice xsi:type=\"VirtualDisk\"><key>2000</key><deviceInfo><label>payroll disk</label></deviceInfo></VirtualDevice><VirtualDevice xsi:type=\"VirtualPCIPassthrough\"><key>13000</key><backing xsi:type=\"VirtualPCIPassthroughVmiopBackingInfo\"><vgpu>grid_a100-40c</vgpu></backing></VirtualDevice></val>";
            let word = |text: &str| Some(format!("<val xsi:type=\"xsd:string\">{text}</val>"));
            return match path {
                "config.hardware.device" => Some(devices.to_string()),
                "name" => word(id),
                "runtime.powerState" => word("poweredOff"),
                "runtime.connectionState" => word("connected"),
                "config.files.vmPathName" => word(&format!("[datastore-1] {id}/{id}.vmx")),
                "config.hardware.memoryMB" => Some("<val xsi:type=\"xsd:int\">4096</val>".into()),
                // As many settings as VMs have, of which nothing is kept.
                "config.extraConfig" => Some(format!("<val xsi:type=\"ArrayOfOptionValue\">{}</val>", "<OptionValue><key>payroll.key</key><value xsi:type=\"xsd:string\">of payroll</value></OptionValue>".repeat(50))),
                _ => None,
            };
        }
        // Above the hosts: their folder, the datacenter, the folder it is in, the root.
        let above = [
            ("group-h3", "host", "datacenter-2"),
            (clones::FOLDER, "vm", "datacenter-2"),
            ("datacenter-2", "DC 0", "group-d4"),
            ("group-d4", "lab", "group-d1"),
            ("group-d1", "Datacenters", ""),
        ];
        if let Some((_, name, parent)) = above.iter().find(|(of, ..)| *of == id) {
            let kind = if parent.starts_with("datacenter") { "Datacenter" } else { "Folder" };
            return match path {
                "name" => Some(format!("<val xsi:type=\"xsd:string\">{name}</val>")),
                "vmFolder" => Some(format!(
                    "<val xsi:type=\"ManagedObjectReference\" type=\"Folder\">{}</val>",
                    clones::FOLDER
                )),
                "parent" if !parent.is_empty() => {
                    Some(format!("<val xsi:type=\"ManagedObjectReference\" type=\"{kind}\">{parent}</val>"))
                }
                _ => None,
            };
        }
        let number: usize = id.trim_start_matches(|c: char| !c.is_ascii_digit()).parse().ok()?;
        let word = |text: &str| format!("<val xsi:type=\"xsd:string\">{text}</val>");
        if kind == "ClusterComputeResource" {
            return match path {
                "name" => Some(word(self.clusters[number])),
                "parent" => Some("<val xsi:type=\"ManagedObjectReference\" type=\"Folder\">group-h3</val>".into()),
                "resourcePool" => Some(format!("<val xsi:type=\"ManagedObjectReference\" type=\"ResourcePool\">{}</val>", clones::POOL)),
                "environmentBrowser" => Some("<val xsi:type=\"ManagedObjectReference\" type=\"EnvironmentBrowser\">envbrowser-1</val>".into()),
                "lifecycleManaged" => Some(format!("<val xsi:type=\"xsd:boolean\">{}</val>", self.images)),
                "host" => {
                    let of = self.hosts.iter().enumerate().filter(|(_, host)| host.cluster == Some(number));
                    let each: String = of
                        .map(|(n, _)| format!("<ManagedObjectReference type=\"HostSystem\">host-{n}</ManagedObjectReference>"))
                        .collect();
                    Some(format!("<val xsi:type=\"ArrayOfManagedObjectReference\">{each}</val>"))
                }
                "configurationEx" => Some(format!("<val xsi:type=\"ClusterConfigInfoEx\"><dasConfig><enabled>true</enabled><admissionControlEnabled>false</admissionControlEnabled></dasConfig>{}</val>", self.drs.xml())),
                "summary" => Some("<val xsi:type=\"ClusterComputeResourceSummary\"><currentFailoverLevel>1</currentFailoverLevel></val>".into()),
                "configManagerEnabled" => Some("<val xsi:type=\"xsd:boolean\">false</val>".into()),
                "configurationEx.drsConfig.option" => Some("<val xsi:type=\"ArrayOfOptionValue\"><OptionValue><key>LBMaxVmotionPerHost</key><value xsi:type=\"xsd:string\">1</value></OptionValue><OptionValue><key>payrollKey</key><value xsi:type=\"xsd:string\">of payroll</value></OptionValue></val>".into()),
                _ => None,
            };
        }
        let host = self.hosts.get(number)?;
        let references = |kind: &str, ids: Vec<String>| {
            let each = ids
                .iter()
                .map(|id| format!("<ManagedObjectReference type=\"{kind}\">{id}</ManagedObjectReference>"));
            format!("<val xsi:type=\"ArrayOfManagedObjectReference\">{}</val>", each.collect::<String>())
        };
        Some(match path {
            "name" => word(&host.name),
            "parent" => {
                let (kind, id) = match host.cluster {
                    Some(cluster) => ("ClusterComputeResource", format!("domain-c{cluster}")),
                    None => ("ComputeResource", format!("domain-s{number}")),
                };
                format!("<val xsi:type=\"ManagedObjectReference\" type=\"{kind}\">{id}</val>")
            }
            "runtime.connectionState" => word(host.state),
            "runtime.inMaintenanceMode" => "<val xsi:type=\"xsd:boolean\">false</val>".into(),
            "vm" => references("VirtualMachine", (0..host.vms).map(|n| format!("vm-{:07}", number * 1_000 + n)).collect()),
            "datastore" => {
                let of = self.machines.get(&number).map(|folder| clones::datastores(folder).into_keys().collect());
                references("Datastore", of.unwrap_or_else(|| vec!["datastore-1".into()]))
            }
            "network" => references("Network", vec!["network-1".into()]),
            "hardware.pciDevice" => {
                let gpu = |n: usize| {
                    format!(
                        "<HostPciDevice><id>0000:{:02x}:00.0</id><classId>770</classId><bus>{}</bus><slot>0</slot><function>0</function><vendorId>4318</vendorId></HostPciDevice>",
                        0x3b + n,
                        0x3b + n
                    )
                };
                let bridge = "<HostPciDevice><id>0000:00:00.0</id><classId>1536</classId><bus>0</bus><slot>0</slot><function>0</function><vendorId>-32634</vendorId><subVendorId>0</subVendorId><vendorName>Intel Corporation</vendorName><deviceId>1</deviceId><subDeviceId>0</subDeviceId><deviceName>a bridge</deviceName></HostPciDevice>".repeat(self.devices);
                let all: String = (0..host.gpus).map(gpu).collect();
                format!("<val xsi:type=\"ArrayOfHostPciDevice\">{bridge}{all}</val>")
            }
            "config.graphicsInfo" => {
                let gpu = |n: usize| {
                    format!("<HostGraphicsInfo><deviceName>NVIDIAA100-PCIE-40GB</deviceName><vendorName>NVIDIA Corporation</vendorName><pciId>0000:{:02x}:00.0</pciId><graphicsType>sharedDirect</graphicsType><memorySizeInKB>41943040</memorySizeInKB><vm type=\"VirtualMachine\">vm-{number}-{n}</vm></HostGraphicsInfo>", 0x3b + n)
                };
                let all: String = (0..host.gpus).map(gpu).collect();
                format!("<val xsi:type=\"ArrayOfHostGraphicsInfo\">{all}</val>")
            }
            "config.service" => "<val xsi:type=\"HostServiceInfo\"><service><key>TSM-SSH</key><label>SSH</label><running>false</running></service><service><key>acme-payroll-backup</key><label>payroll agent</label><running>true</running></service></val>".into(),
            "config.lockdownMode" => word("lockdownNormal"),
            "config.sharedGpuCapabilities" => "<val xsi:type=\"ArrayOfHostSharedGpuCapabilities\"><HostSharedGpuCapabilities><vgpu>grid_a100-40c</vgpu><migrateSupported>true</migrateSupported></HostSharedGpuCapabilities></val>".into(),
            "config.pciPassthruInfo" => "<val xsi:type=\"ArrayOfHostPciPassthruInfo\"><HostPciPassthruInfo><id>0000:3b:00.0</id><passthruActive>true</passthruActive><hardwareLabel>20231107</hardwareLabel></HostPciPassthruInfo></val>".into(),
            "hardware.biosInfo" => "<val xsi:type=\"HostBIOSInfo\"><biosVersion>2.21.2</biosVersion><vendor>Dell Inc.</vendor><assetTag>payroll-7</assetTag></val>".into(),
            _ => return None,
        })
    }

    fn lacked(&self, id: &str, privilege: &str) -> bool {
        self.lacks.iter().any(|(of, lacks)| id.starts_with(of) && *lacks == privilege)
    }

    fn privileges(&self, call: &Element, session: &str) -> Reply {
        let number: usize = usize::from_str_radix(session.trim_matches('"'), 16).unwrap_or_default();
        if text(call, "sessionId") != format!("key-{number}") {
            return fault("InvalidArgument", "A specified parameter was not correct: sessionId", "");
        }
        // One object that may not be read refuses the whole question.
        let unread = call.all("entity").find(|entity| self.lacked(&entity.text, "System.Read"));
        if let Some(entity) = unread {
            let more =
                format!("<object type=\"X\">{}</object><privilegeId>System.Read</privilegeId>", entity.text);
            return fault("NoPermission", "Permission to perform this operation was denied.", &more);
        }
        if let Some(gone) = call.all("entity").find(|entity| self.gone.contains(&entity.text)) {
            return fault("ManagedObjectNotFound", &format!("{} has already been deleted", gone.text), "");
        }
        let of = |entity: &Element| {
            let answer = |id: &Element| {
                let granted = !self.lacked(&entity.text, &id.text);
                format!(
                    "<privAvailability><privId>{}</privId><isGranted>{granted}</isGranted></privAvailability>",
                    id.text
                )
            };
            let kind = entity.attribute("type").unwrap_or_default();
            let all: String = call.all("privId").map(answer).collect();
            format!("<returnval><entity type=\"{kind}\">{}</entity>{all}</returnval>", entity.text)
        };
        plain(&call.name, &call.all("entity").map(of).collect::<String>())
    }
}

/// Who may run esxcli through the API: no privilege of its own is known for it.
pub const ADMINISTRATOR: &str = "(administrator)";

/// Methods of hosts and their managers: the privilege that each takes, and whether it is asked for at the top.
const MACHINE_METHODS: [(&str, &str, bool); 9] = [
    ("RetrieveVgpuProfileInfo", "System.Read", false),
    ("QueryConfigTarget", "System.View", false),
    ("RetrieveHardwareUptime", "System.Read", false),
    ("HostImageConfigGetAcceptance", "System.Read", false),
    ("HostImageConfigGetProfile", "System.Read", false),
    ("fetchSoftwarePackages", "Host.Config.Image", false),
    ("QueryModules", "Host.Config.Settings", false),
    ("QueryConfiguredModuleOptionString", "Host.Config.Settings", false),
    ("BrowseDiagnosticLog", "Global.Diagnostics", true),
];

/// The number in an id.
fn number(id: &str) -> Option<usize> {
    let digits = id.trim_start_matches(|c: char| !c.is_ascii_digit());
    digits.split('-').next()?.parse().ok()
}

fn text<'a>(of: &'a Element, name: &str) -> &'a str {
    of.child(name).map(|child| child.text.as_str()).unwrap_or_default()
}

/// The prefix bound to the namespace of instances may have any name: here it is not `xsi` outside.
fn envelope(inside: &str) -> String {
    let inside = inside.replace("xsi:type", "i:type");
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<soapenv:Envelope xmlns:soapenv=\"http://schemas.xmlsoap.org/soap/envelope/\" xmlns:xsd=\"http://www.w3.org/2001/XMLSchema\" xmlns:i=\"http://www.w3.org/2001/XMLSchema-instance\"><soapenv:Body>{inside}</soapenv:Body></soapenv:Envelope>"
    )
}

fn plain(call: &str, inside: &str) -> Reply {
    Reply::xml(200, envelope(&format!("<{call}Response xmlns=\"urn:vim25\">{inside}</{call}Response>")))
}

fn returned(call: &str, inside: &str) -> Reply {
    plain(call, &format!("<returnval>{inside}</returnval>"))
}

fn fault(kind: &str, words: &str, more: &str) -> Reply {
    Reply::xml(
        500,
        envelope(&format!(
            "<soapenv:Fault><faultcode>ServerFaultCode</faultcode><faultstring>{words}</faultstring><detail><{kind}Fault xmlns=\"urn:vim25\" xsi:type=\"{kind}\">{more}</{kind}Fault></detail></soapenv:Fault>"
        )),
    )
}
