//! `vsgpu-host-agent gateway check` against a vCenter. The simulated one is ours; VMware's own simulator is a second
//! peer on demand: `VSGPU_VCSIM=FILE cargo test -p vsgpu-tests --test vcenter` (a program `vcsim` of govmomi; its own
//! certificate is too weak for anybody, so it is given one with `VSGPU_VCSIM_TLS=CERTIFICATE,KEY`).
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout, reason = "test code")]

use sha2::Digest as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};
use vsgpu_core::apply::{self, ApplyOptions};
use vsgpu_core::outcome::Outcome;
use vsgpu_core::requirement::{Needs, Verdict};
use vsgpu_core::{Scope, Subject, System};
use vsgpu_host_agent::gateway;
use vsgpu_tests::fakes::state::Vib;
use vsgpu_tests::harness::captures;
use vsgpu_tests::lab::{Lab, files, programs, wait_until};
use vsgpu_tests::vcenter::{Certificate, Served, SimHost, World, serve};

struct Site {
    folder: PathBuf,
    certificate: Certificate,
    served: Served,
}

impl Site {
    fn new(name: &str, world: World) -> Self {
        let folder = std::env::temp_dir().join(format!("vsgpu-vcenter-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        let certificate = Certificate::new();
        let password = world.password;
        let served = serve(world, &certificate);
        let site = Self { folder, certificate, served };
        site.password(password);
        site
    }

    fn password(&self, text: &str) {
        let file = self.folder.join("pass");
        std::fs::write(&file, format!("{text}\n")).unwrap();
        std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn probe(&self) -> (i32, String) {
        let file = self.folder.join("gateway.conf");
        let output = Command::new(programs().join("vsgpu-host-agent"))
            .args(["gateway", "probe"])
            .arg(&file)
            .output()
            .unwrap();
        (output.status.code().unwrap_or(-1), String::from_utf8(output.stdout).unwrap())
    }

    /// Status and both outputs of a check with these lines beside address, user and password.
    fn check(&self, lines: &str) -> (i32, String) {
        self.check_as("vcenter", lines)
    }

    fn check_as(&self, kind: &str, lines: &str) -> (i32, String) {
        let file = self.folder.join("gateway.conf");
        let pass = self.folder.join("pass");
        let text = format!(
            "{kind} = localhost:{}\nuser = svc@vsphere.local\npassword-file = {}\n{lines}\n",
            self.served.port,
            pass.display()
        );
        std::fs::write(&file, text).unwrap();
        let output = Command::new(programs().join("vsgpu-host-agent"))
            .args(["gateway", "check"])
            .arg(&file)
            .output()
            .unwrap();
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(!said.contains("a<secret>"), "the password is said: {said}");
        (output.status.code().unwrap_or(-1), said)
    }

    fn trusted(&self, lines: &str) -> (i32, String) {
        self.check(&format!("trust = {}\n{lines}", self.certificate.fingerprint()))
    }

    fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.served.world.lock().unwrap().calls)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// A simulated host with two VMs that have a vGPU and a whole GPU, and its vCenter.
fn a_host(name: &str) -> (Lab, Site) {
    let lab = Lab::new(name);
    let mut given = files::a100("0000:af:00.0");
    (given.given, given.given_pending, given.graphics_type) = (true, true, "Direct".into());
    lab.host("esx-01", "8.0.3", vec![files::a100("0000:3b:00.0"), given]);
    for vm in ["vm-01", "vm-02"] {
        lab.vm_without_guest(vm, "esx-01");
    }
    lab.change("esx-01", |m| {
        m.esxi().gpus[0].virtual_functions = 5;
        let manager = Vib {
            name: "NVD-VMware_ESXi_8.0.0_Driver".into(),
            version: "550.127.06-1OEM.800.1.0.20613240".into(),
            vendor: "NVD".into(),
        };
        m.esxi().vibs.push(manager);
        m.esxi().parameters.insert("NVreg_RegistryDwords".into(), "RmPVMRL=0x01".into());
        m.esxi().gpus[0].own_type = Some("Shared".into());
        let uuid = m.esxi().uuid.clone();
        let more = [
            "pciPassthru0.present = \"TRUE\"\npciPassthru0.virtualDev = \"vmiop\"\npciPassthru0.vgpu = \"grid_a100-40c\"\nsched.mem.min = \"8192\"\nsched.mem.minSize = \"8192\"\nsched.mem.pin = \"TRUE\"\npciPassthru.use64bitMMIO = \"TRUE\"\nguestinfo.userdata = \"hunter2\"\n".to_string(),
            format!("pciPassthru0.present = \"TRUE\"\npciPassthru0.id = \"00000:175:00.0\"\npciPassthru0.deviceId = \"0x20f1\"\npciPassthru0.vendorId = \"0x10de\"\npciPassthru0.systemId = \"{uuid}\"\n"),
        ];
        for (vm, more) in ["vm-01", "vm-02"].iter().zip(more) {
            let path = format!("/vmfs/volumes/datastore1/{vm}/{vm}.vmx");
            let text = m.text(&path).unwrap() + &more;
            m.write(&path, &text);
        }
        m.link("nvidia-smi");
        m.write("/vmfs/volumes/datastore1/vm-01/vmware.log", "2026-11-27T10:00:00.000Z In(05) vmx - PCIPassthru: Device 0000:3b:00.0 is not available\n");
        m.write("/var/log/vmkernel.log", "2036-11-27T10:00:00.000Z cpu1:2097)NVRM: Xid (PCI:0000:3b:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.\n");
    });
    vsgpu_tests::fakes::state::boot(&lab.machine("esx-01"));
    lab.change("esx-01", |m| m.esxi().vms[0].on = true);
    let mut world = World::new(vec![SimHost::new("esx-01.example.com", Some(0))]);
    world.machines.insert(0, lab.machine("esx-01"));
    let site = Site::new(name, world);
    (lab, site)
}

/// Facts as JSON, or what was said.
fn facts_of(command: &mut Command) -> serde_json::Value {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    serde_json::from_slice(&output.stdout).unwrap()
}

impl Site {
    /// The gateway's file.
    fn file(&self, lines: &str) -> PathBuf {
        let file = self.folder.join("gateway.conf");
        let text = format!(
            "vcenter = localhost:{}\nuser = svc@vsphere.local\npassword-file = {}\ntrust = {}\n{lines}\n",
            self.served.port,
            self.folder.join("pass").display(),
            self.certificate.fingerprint()
        );
        std::fs::write(&file, text).unwrap();
        file
    }

    fn facts(&self, more: &[&str]) -> serde_json::Value {
        let file = self.file("host = esx-01.example.com");
        facts_of(
            Command::new(programs().join("vsgpu-host-agent"))
                .args(["gateway", "facts"])
                .arg(file)
                .arg("esx-01.example.com")
                .args(more),
        )
    }
}

/// What cannot be had through vCenter, by its path in the facts: NVIDIA's driver, some of esxcli's columns, VMs' logs.
const NOT_BY_API: [&str; 37] = [
    "/ecc/by_api",
    "/ecc/driver_version",
    "/ecc/gpus",
    "/ecc/smi_failure",
    "/esx-version/patch",
    "/esx-version/update",
    "/evacuation/forecast",
    "/gpu-management-daemon/by_api",
    "/gpus/cuda_version",
    "/gpus/driver_version",
    "/gpus/error",
    "/gpus/gpus",
    "/host-graphics/devices/module",
    "/host-summary/boot_time",
    "/mig/by_api",
    "/mig/gpus",
    "/mig/smi_failure",
    "/passthrough/devices/module",
    "/passthrough/devices/reset_method",
    "/pci-gpus/devices/module",
    "/pci-gpus/devices/reset_method",
    "/vcenter/host",
    "/vgpu-manager/by_api",
    "/vgpu-manager/driver_version",
    "/vgpu-manager/held_by_graphics",
    "/vgpu-manager/modes",
    "/vgpu-manager/smi_failure",
    "/vgpu-mode/driver_version",
    "/vgpu-mode/gpus/configured",
    "/vgpu-mode/gpus/name",
    "/vgpu-types/creatable",
    "/vgpu-types/error",
    "/vgpu-types/supported",
    "/vgpus/error",
    "/vgpus/gpus",
    "/vm-devices/gpus/module",
    "/vm-devices/gpus/reset_method",
];

/// Paths at which two documents differ.
fn differences(path: &str, a: &serde_json::Value, b: &serde_json::Value, found: &mut Vec<String>) {
    use serde_json::Value::{Array, Object};
    match (a, b) {
        (Object(a), Object(b)) => {
            let keys: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for key in keys {
                let of = |map: &serde_json::Map<String, serde_json::Value>| {
                    map.get(key).cloned().unwrap_or_default()
                };
                differences(&format!("{path}/{key}"), &of(a), &of(b), found);
            }
        }
        (Array(a), Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).for_each(|(a, b)| differences(path, a, b, found));
        }
        (a, b) if a == b => {}
        _ => found.push(path.to_string()),
    }
}

fn facts_are_those_of_the_hosts_own_tools() {
    let (lab, site) = a_host("same-facts");
    let own = |more: &[&str]| {
        let machine = lab.machine("esx-01");
        facts_of(
            Command::new(programs().join("vsgpu-host-agent"))
                .args(["facts", "--tools"])
                .arg(machine.join("tools"))
                .arg("--root")
                .arg(machine.join("root"))
                .args(more),
        )
    };
    let mut found = vec![];
    for more in [&[][..], &["--vm", "vm-01"], &["--vm", "vm-02"]] {
        differences("", &own(more), &site.facts(more), &mut found);
    }
    found.sort();
    found.dedup();
    assert_eq!(found, NOT_BY_API, "{found:#?}");
    let text = site.facts(&["--vm", "vm-01"]).to_string();
    assert!(!text.contains("hunter2"));
    let world = site.served.world.lock().unwrap();
    assert!(world.sessions.is_empty(), "a session is left");
}

/// A program that serves, until it is dropped.
struct Gateway(std::process::Child);

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Serves these hosts with the lab's certificates on a port of its own, and says which.
fn serve_hosts(lab: &Lab, site: &Site, lines: &str) -> (Gateway, u16) {
    let begun = begin_to_serve(lab, site, lines);
    wait_until("the gateway listens", Duration::from_secs(30), || site.folder.join("ready").exists());
    begun
}

fn begin_to_serve(lab: &Lab, site: &Site, lines: &str) -> (Gateway, u16) {
    let port = vsgpu_tests::lab::free_port();
    let file = site.file(&format!(
        "{lines}\nlisten = 127.0.0.1:{port}\npki = {}\nstate = {}",
        lab.folder.join("pki").display(),
        site.folder.join("state").display()
    ));
    let log = std::fs::OpenOptions::new().create(true).append(true).open(site.folder.join("log")).unwrap();
    let ready = site.folder.join("ready");
    let _ = std::fs::remove_file(&ready);
    let child = Command::new(programs().join("vsgpu-host-agent"))
        .args(["gateway", "serve"])
        .arg(file)
        .arg("--ready-file")
        .arg(&ready)
        .stderr(log)
        .spawn()
        .unwrap();
    (Gateway(child), port)
}

fn hosts_are_served_to_a_controller() {
    let (lab, site) = a_host("served");
    lab.host("esx-02", "8.0.3", vec![files::a100("0000:3b:00.0")]);
    {
        let mut world = site.served.world.lock().unwrap();
        world.hosts.push(SimHost::new("esx-02.example.com", Some(0)));
        world.machines.insert(1, lab.machine("esx-02"));
        // Of the same cluster, without a certificate.
        world.hosts.push(SimHost::new("esx-03.example.com", Some(0)));
    }
    let (gateway_process, port) = serve_hosts(&lab, &site, "cluster = GPU-A");
    lab.write_fleet(&format!(
        "version: 1\nhosts:\n  esx-01: {{ address: \"127.0.0.1:{port}\", graphics-type: SharedPassthru, ecc: off }}\n  esx-02: {{ address: \"127.0.0.1:{port}\", graphics-type: SharedPassthru }}\nvms:\n  vm-01: {{ host: esx-01, firmware: efi }}\n"
    ));
    let said = lab.expect(0, &["facts"]);
    assert!(
        said.contains(
            "  vCenter: in GPU-A (3 hosts), DRS Fully Automated, HA on, image by Lifecycle Manager"
        ),
        "{said}"
    );
    assert!(
        said.contains("0000:af:00.0  A100 PCIe 40GB  64 GiB  1     passthrough  -    -    vm-02"),
        "{said}"
    );
    let plan = lab.vsgpu(&["plan"]);
    let (out, err) = (String::from_utf8_lossy(&plan.stdout), String::from_utf8_lossy(&plan.stderr));
    assert!(out.contains("~ graphics-type     Shared, 0000:3b:00.0 Shared -> SharedPassthru"), "{out}{err}");
    assert!(err.contains("esx-01: ecc: vCenter can neither read nor set `ecc`"), "{out}{err}");
    // What vCenter measures is on the exporter's page, as any agent's.
    let at = format!("127.0.0.1:{}", vsgpu_tests::lab::free_port());
    let mut exporter =
        vsgpu_tests::lab::small_fleet::begin(&lab, &["exporter", "--listen", &at, "--every", "1"]);
    wait_until("the exporter has vCenter's counters", Duration::from_secs(30), || {
        let page = vsgpu_tests::http::get(&at, "/metrics", None).map(|(_, page)| page).unwrap_or_default();
        let mut lines = page.lines().filter(|line| line.starts_with("vsgpu_gpu_utilization_ratio{"));
        lines.any(|line| line.contains("source=\"vsphere\"") && line.contains("esx-01"))
    });
    exporter.kill();
    let log = std::fs::read_to_string(site.folder.join("log")).unwrap();
    assert!(log.contains("without a certificate, not served: esx-03.example.com"), "{log}");
    assert!(!log.contains("a<secret>"), "{log}");
    drop(gateway_process);
}

/// A host with the vGPU manager, two GPUs and two VMs that have none yet.
fn a_bare_host(lab: &Lab) {
    lab.host("esx-01", "8.0.3", vec![files::a100("0000:3b:00.0"), files::a100("0000:af:00.0")]);
    for vm in ["vm-01", "vm-02"] {
        lab.vm_without_guest(vm, "esx-01");
    }
    lab.change("esx-01", |m| {
        let manager = Vib {
            name: "NVD-VMware_ESXi_8.0.0_Driver".into(),
            version: "550.127.06-1OEM.800.1.0.20613240".into(),
            vendor: "NVD".into(),
        };
        m.esxi().vibs.push(manager);
        m.link("nvidia-smi");
    });
    vsgpu_tests::fakes::state::boot(&lab.machine("esx-01"));
    lab.change("esx-01", |m| {
        m.esxi().vms[0].on = true;
        // A boot takes minutes: whoever tells boots apart by their time may count on that.
        m.booted_at_ms -= 3_600_000;
    });
}

fn wishes(address: &str) -> String {
    format!(
        "version: 1\nhosts:\n  esx-01:\n    address: \"{address}\"\n    graphics-type: SharedPassthru\n    assignment-policy: Consolidation\n    acceptance-level: CommunitySupported\n    vgpu-scheduler: equal-share\n    passthrough: [\"0000:af:00.0\"]\nvms:\n  vm-01: {{ host: esx-01, firmware: efi, cpu-reserved: all, vgpu: [{{ profile: grid_a100-10c, params: {{ enable_uvm: 1 }} }}] }}\n  vm-02: {{ host: esx-01, firmware: efi, passthrough: [\"0000:af:00.0\"] }}\n"
    )
}

/// What a host and its VMs have come to, without what differs from run to run.
fn end_state(lab: &Lab) -> serde_json::Value {
    let mut machine = lab.state("esx-01");
    let files: Vec<_> = ["vm-01", "vm-02"]
        .map(|vm| {
            let text = machine.text(&format!("/vmfs/volumes/datastore1/{vm}/{vm}.vmx")).unwrap();
            vsgpu_core::readers::vmx::read(text.as_bytes())
        })
        .into();
    let host = machine.esxi();
    host.uuid.clear();
    serde_json::json!({ "host": host, "vms": files })
}

fn a_bare_host_is_made_ready_as_by_its_own_tools() {
    let by_tools = Lab::new("by-tools");
    a_bare_host(&by_tools);
    by_tools.start();
    by_tools.write_fleet(&wishes(&by_tools.address("esx-01")));
    by_tools.expect(0, &["apply", "--yes"]);

    let lab = Lab::new("by-api");
    a_bare_host(&lab);
    lab.served_by_vcenter("esx-01");
    let mut world = World::new(vec![SimHost::new("esx-01.example.com", Some(0))]);
    world.machines.insert(0, lab.machine("esx-01"));
    let site = Site::new("by-api", world);
    let (_gateway, port) = serve_hosts(&lab, &site, "cluster = GPU-A");
    lab.write_fleet(&wishes(&format!("127.0.0.1:{port}")));
    let plan = lab.expect(3, &["plan", "--commands"]);
    for line in [
        "$ ShutdownGuest, VM 1  (wait up to 300 s)",
        "$ EnterMaintenanceMode_Task timeout=3600 evacuatePoweredOffVms=false",
        "$ UpdatePassthruConfig 0000:af:00.0 passthruEnabled=true applyNow=true",
        "$ UpdateGraphicsConfig hostDefaultGraphicsType=sharedDirect",
        "$ RebootHost_Task force=false",
        "$ PowerOnVM_Task, VM 1",
    ] {
        assert!(plan.contains(line), "{line}\n{plan}");
    }
    // It asks for nothing but what the API has.
    assert!(
        !plan.contains("esxcli") && !plan.contains("vim-cmd") && !plan.contains("not through vCenter"),
        "{plan}"
    );
    let said = lab.expect(0, &["apply", "--yes"]);
    assert!(
        said.contains("RebootHost_Task force=false") && said.contains("(Recent Tasks of esx-01.example.com)"),
        "{said}"
    );
    // The journal has the ids of the tasks: they are found later, too.
    let journals = walk(&lab.folder.join(".vsgpu"));
    let noted = journals.iter().filter_map(|file| std::fs::read_to_string(file).ok()).collect::<String>();
    assert!(noted.contains("\"record\":\"task\"") && noted.contains("(Recent Tasks of esx-01"), "{noted}");
    let mut found = vec![];
    differences("", &end_state(&by_tools), &end_state(&lab), &mut found);
    // The API has one unit.
    assert_eq!(found, ["/vms/sched.cpu.units"]);
    // The second time there is nothing to do, and nothing is called that changes something.
    let changes = site.served.world.lock().unwrap().changes;
    let said = lab.expect(0, &["apply", "--yes"]);
    assert!(said.to_lowercase().contains("nothing to do"), "{said}");
    assert_eq!(site.served.world.lock().unwrap().changes, changes);
    let log = std::fs::read_to_string(site.folder.join("log")).unwrap();
    assert!(!log.contains("a<secret>"), "{log}");
}

/// All files below a folder.
fn walk(folder: &std::path::Path) -> Vec<PathBuf> {
    let entries =
        std::fs::read_dir(folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

/// The door to the bare host of a lab, with its memory in a folder of its own.
fn door(site: &Site, memory: &str) -> std::sync::Arc<dyn System> {
    let file = site.file("host = esx-01.example.com");
    let state = site.folder.join(memory);
    let mut doors = gateway::doors_to(&vsgpu_host_agent::agent(), &file, Some(&state)).unwrap();
    doors.remove("esx-01.example.com").unwrap()
}

/// A bare host and its vCenter.
fn by_api(name: &str) -> (Lab, Site) {
    let lab = Lab::new(name);
    a_bare_host(&lab);
    lab.served_by_vcenter("esx-01");
    let mut world = World::new(vec![SimHost::new("esx-01.example.com", Some(0))]);
    world.machines.insert(0, lab.machine("esx-01"));
    // A task ends with the first look.
    world.tasks_run_for = 0;
    (lab, Site::new(name, world))
}

/// Everything that can be changed through the API, in an order in which it can be.
fn road() -> Vec<(&'static str, Option<&'static str>, serde_json::Value)> {
    use serde_json::json;
    let of_vm = |name, vm, spec| (name, Some(vm), spec);
    vec![
        of_vm("power", "vm-01", json!({ "state": "off" })),
        ("maintenance-mode", None, json!({ "state": "on" })),
        ("acceptance-level", None, json!("VMwareAccepted")),
        ("passthrough", None, json!(["0000:af:00.0"])),
        ("graphics-type", None, json!({ "0000:3b:00.0": "SharedPassthru", "others": "Shared" })),
        ("assignment-policy", None, json!("Consolidation")),
        ("vgpu-scheduler", None, json!("fixed-share")),
        ("maintenance-mode", None, json!({ "state": "off" })),
        of_vm("memory-reserved", "vm-01", json!("all")),
        of_vm("cpu-reserved", "vm-01", json!("all")),
        of_vm("vgpu", "vm-01", json!([{ "profile": "grid_a100-10c", "params": { "enable_uvm": 1 } }])),
        of_vm("memory-reserved", "vm-02", json!("all")),
        of_vm("passthrough", "vm-02", json!(["0000:af:00.0"])),
        of_vm("mmio", "vm-02", json!(256)),
        of_vm("passthrough", "vm-02", json!([])),
        of_vm("vgpu", "vm-01", json!([])),
    ]
}

/// Goes the road; each step is met or waits for its activation. Where it does not end well, and that is tolerated, says
/// how.
fn go(system: &dyn System, tolerant: bool) -> Option<String> {
    let catalogue = vsgpu_host_agent::catalogue();
    for (name, vm, spec) in road() {
        let (scope, on) = match vm {
            Some(vm) => (Scope::Vm, Subject::vm(vm)),
            None => (Scope::Host, Subject::node()),
        };
        let entry = *catalogue.find(scope, name).unwrap();
        let spec = (entry.read_spec)(&spec).unwrap_or_else(|e| panic!("{name}: {}", e.message));
        let outcome = apply::apply(system, &entry, &on, &spec, &ApplyOptions::default(), &mut |_| {});
        let good = matches!(outcome, Outcome::Applied { .. } | Outcome::AlreadyMet { .. });
        assert!(good || tolerant, "{name} {vm:?}: {outcome:?}");
        if !good {
            return Some(format!("{name}: {outcome:?}"));
        }
    }
    None
}

fn every_requirement_that_the_api_has_is_met_by_it() {
    let (lab, site) = by_api("law");
    let system = door(&site, "memory");
    go(system.as_ref(), false);
    let end = end_state(&lab);
    let changes = site.served.world.lock().unwrap().changes;
    // Looked at again, it is as it was asked for, and looking changes nothing.
    let entry = *vsgpu_host_agent::catalogue().find(Scope::Host, "assignment-policy").unwrap();
    let spec = (entry.read_spec)(&serde_json::json!("Consolidation")).unwrap();
    let again = apply::verdict(system.as_ref(), &entry, &Subject::node(), &spec).unwrap();
    assert!(matches!(again, Verdict::Met { .. }), "{again:?}");
    assert_eq!(site.served.world.lock().unwrap().changes, changes, "a look changed something");
    // Every requirement is on the road, or is one that the API has not, or that nobody changes.
    let on_the_road: std::collections::BTreeSet<&str> = road().iter().map(|(name, ..)| *name).collect();
    let left: Vec<&str> = vsgpu_host_agent::catalogue()
        .entries
        .iter()
        .map(|entry| entry.name)
        .filter(|name| !on_the_road.contains(name))
        .collect();
    assert_eq!(
        left,
        [
            "evacuable",
            "vgpu-manager",
            "gpu-management-daemon",
            "ecc",
            "mig",
            "vgpu-mode",
            "drs-options",
            "clone-of",
            "firmware"
        ]
    );
    // The connection is cut at every call, before it is made and behind it: whoever goes on later comes to the same end.
    // Beside each other, as most of it is waiting.
    let cuts: Vec<(usize, bool)> = (0..changes).flat_map(|at| [(at, false), (at, true)]).collect();
    for some in cuts.chunks(10) {
        std::thread::scope(|scope| {
            for cut in some {
                let end = &end;
                scope.spawn(move || cut_once(*cut, end));
            }
        });
    }
}

fn cut_once(cut: (usize, bool), end: &serde_json::Value) {
    let (lab, site) = by_api(&format!("cut-{}-{}", cut.0, cut.1));
    site.served.world.lock().unwrap().cut = Some(cut);
    let first = go(door(&site, "memory").as_ref(), true);
    assert!(cut.1 || first.is_some(), "{cut:?} was cut and nobody noticed");
    go(door(&site, "memory").as_ref(), false);
    let mut found = vec![];
    differences("", end, &end_state(&lab), &mut found);
    assert!(found.is_empty(), "{cut:?}: {found:?} after {first:?}");
}

/// How one requirement ends.
fn apply_one(
    system: &dyn System,
    (name, vm, spec): (&str, Option<&str>, serde_json::Value),
) -> (Outcome, Vec<String>) {
    let (scope, on) = match vm {
        Some(vm) => (Scope::Vm, Subject::vm(vm)),
        None => (Scope::Host, Subject::node()),
    };
    let entry = *vsgpu_host_agent::catalogue().find(scope, name).unwrap();
    let spec = (entry.read_spec)(&spec).unwrap_or_else(|e| panic!("{name}: {}", e.message));
    let mut said = vec![];
    let outcome =
        apply::apply(system, &entry, &on, &spec, &ApplyOptions::default(), &mut |text| said.push(text));
    (outcome, said)
}

fn changes_that_fail_say_why() {
    use serde_json::json;
    let (_lab, site) = by_api("fails");
    let system = door(&site, "memory");
    let failed = |what| match apply_one(system.as_ref(), what) {
        (Outcome::Failed { why, hint }, _) => format!("{why} {}", hint.unwrap_or_default()),
        other => panic!("{other:?}"),
    };
    // Somebody else at the same VM at the same time: nothing is overwritten.
    site.served.world.lock().unwrap().somebody_else = true;
    let why = failed(("memory-reserved", Some("vm-02"), json!("all")));
    assert!(why.contains("somebody else changed this VM at the same time: nothing was changed"), "{why}");
    site.served.world.lock().unwrap().somebody_else = false;
    // A privilege that is missing is named.
    site.served.world.lock().unwrap().lacks = vec![("host-", "Host.Config.Settings")];
    let why = failed(("assignment-policy", None, json!("Consolidation")));
    assert!(why.contains("the account lacks the privilege Host.Config.Settings"), "{why}");
    site.served.world.lock().unwrap().lacks = vec![];
    // vCenter's own words, and what they mean.
    let (outcome, said) =
        apply_one(system.as_ref(), ("vgpu", Some("vm-02"), json!([{ "profile": "grid_a100-10c" }])));
    assert!(matches!(outcome, Outcome::Applied { .. }), "{outcome:?}");
    assert!(said.iter().any(|text| text.starts_with("task-")), "{said:?}");
    let why = failed(("power", Some("vm-02"), json!({ "state": "on", "within-secs": 5 })));
    assert!(why.contains("memory reservation (sched.mem.min) should be equal to memsize(8192)"), "{why}");
    let (outcome, _) = apply_one(system.as_ref(), ("memory-reserved", Some("vm-02"), json!("all")));
    assert!(matches!(outcome, Outcome::Applied { .. }), "{outcome:?}");
    // A task that does not end is cancelled at its deadline.
    site.served.world.lock().unwrap().tasks_run_for = 1_000_000;
    site.calls();
    let stop = vsgpu_core::Command::new("vim-cmd", ["vmsvc/power.off", "1"]).within(1);
    assert_eq!(system.run(&stop).ended, vsgpu_core::ExitKind::TimedOut(1));
    let told = system.told(std::thread::current().id()).join("\n");
    assert!(told.contains("did not end within 1 s: it was cancelled"), "{told}");
    assert!(site.calls().contains(&"CancelTask".to_string()));
}

/// A VM that the account may not read may run: nothing that needs it off goes on.
fn a_vm_that_may_not_be_read_is_not_off() {
    let (_lab, site) = by_api("unread");
    site.served.world.lock().unwrap().lacks = vec![("vm-2", "System.Read")];
    let facts = site.facts(&[]);
    let why = facts["maintenance-mode"]["error"]["message"].as_str().unwrap_or_default();
    assert!(why.contains("may not read whether vm-2 runs"), "{facts:#}");
    let may_change = vsgpu_host_agent::agent().may_change;
    let refused = may_change(door(&site, "memory").as_ref(), &Subject::node(), Needs::VmsOff);
    assert!(matches!(&refused, Err(Outcome::Blocked { why, .. }) if why.contains("vm-2")), "{refused:?}");
}

/// What the API has not is said by the plan, before a VM is shut down for it.
fn what_cannot_be_done_blocks_before_anything_goes_down() {
    use serde_json::json;
    let (_lab, site) = by_api("blocks");
    let system = door(&site, "memory");
    let package = json!({ "package": { "artifact": "files/nvdgpumgmtdaemon_550.127.06-1OEM.700.1.0.15843807.vib", "holds": [{ "name": "nvdgpumgmtdaemon", "version": "550.127.06-1OEM.700.1.0.15843807" }] }, "datastore": "datastore1" });
    let (outcome, _) = apply_one(system.as_ref(), ("gpu-management-daemon", None, package));
    assert!(
        matches!(&outcome, Outcome::Blocked { why, .. } if why.contains("GPU-A has one image for its hosts")),
        "{outcome:?}"
    );
    let (outcome, _) = apply_one(system.as_ref(), ("vgpu-manager", None, json!("absent")));
    assert!(
        matches!(&outcome, Outcome::Blocked { why, .. } if why.contains("GPU-A has one image for its hosts")),
        "{outcome:?}"
    );
    for (name, wish) in [("ecc", json!("off")), ("mig", json!("on"))] {
        let (outcome, _) = apply_one(system.as_ref(), (name, None, wish));
        assert!(
            matches!(&outcome, Outcome::Blocked { why, .. } if why.contains("only nvidia-smi on the host")),
            "{outcome:?}"
        );
    }
    assert_eq!(site.served.world.lock().unwrap().changes, 0);
}

/// Two hosts: on the first VMs that can be copied, on the second a template.
fn with_bases(name: &str) -> (Lab, Site) {
    let (lab, site) = by_api(name);
    lab.host("esx-02", "8.0.3", vec![]);
    let disk = "scsi0:0.present = \"TRUE\"\nscsi0:0.fileName = \"base.vmdk\"\nuuid.bios = \"56 4d\"\nethernet0.generatedAddress = \"00:0c\"\n";
    for (host, vm, end) in
        [("esx-01", "base", "vmx"), ("esx-02", "golden", "vmtx"), ("esx-02", "vm-09", "vmx")]
    {
        lab.vm_without_guest(vm, host);
        lab.change(host, |m| {
            let vm = m.esxi().vms.last_mut().unwrap();
            vm.on = false;
            let old = format!("/vmfs/volumes/datastore1/{}", vm.file);
            vm.file = vm.file.replace("vmx", end);
            let new = format!("/vmfs/volumes/datastore1/{}", vm.file);
            let text = m.text(&old).unwrap() + disk;
            m.write(&new, &text);
        });
    }
    let mut world = site.served.world.lock().unwrap();
    world.hosts.push(SimHost::new("esx-02.example.com", Some(0)));
    world.machines.insert(1, lab.machine("esx-02"));
    drop(world);
    (lab, site)
}

fn vcenter_copies_vms_of_the_host_and_templates_of_any() {
    use serde_json::json;
    let (lab, site) = with_bases("clones");
    let clone = |system: &dyn System, vm, spec| apply_one(system, ("clone-of", Some(vm), spec)).0;
    let system = door(&site, "memory");
    // A plan sees the call.
    let entry = *vsgpu_host_agent::catalogue().find(Scope::Vm, "clone-of").unwrap();
    let spec = (entry.read_spec)(&json!("golden")).unwrap();
    let verdict = apply::verdict(system.as_ref(), &entry, &Subject::vm("vm-21"), &spec).unwrap();
    let Verdict::Unmet { effects, .. } = verdict else { panic!("{verdict:?}") };
    assert_eq!(
        effects.iter().filter_map(vsgpu_host_agent::by_api::shown).collect::<Vec<_>>(),
        [
            "CloneVM_Task golden ([datastore1] golden/golden.vmtx) name=vm-21 datastore=datastore1 powerOn=false"
        ]
    );
    for (vm, base) in [("vm-21", "golden"), ("vm-22", "base")] {
        let outcome = clone(system.as_ref(), vm, json!(base));
        assert!(matches!(outcome, Outcome::Applied { .. }), "{outcome:?}");
        let again = clone(system.as_ref(), vm, json!(base));
        assert!(matches!(again, Outcome::AlreadyMet { .. }), "{again:?}");
        let made = lab.state("esx-01").text(&format!("/vmfs/volumes/datastore1/{vm}/{vm}.vmx")).unwrap();
        assert!(made.contains(&format!("displayName = \"{vm}\"")) && !made.contains("uuid.bios"), "{made}");
    }
    let blocked = |vm, spec| match clone(system.as_ref(), vm, spec) {
        Outcome::Blocked { why, .. } => why,
        other => panic!("{other:?}"),
    };
    // Moved by DRS, or another one: never a second one of its name.
    assert!(blocked("vm-09", json!("base")).contains("there is a VM `vm-09` already, on esx-02.example.com"));
    assert!(
        blocked("vm-23", json!("vm-09"))
            .contains("there is no template `vm-09`, and no such VM on this host")
    );
    assert!(blocked("vm-23", json!("vm-01")).contains("vm-01 "));
    assert!(
        blocked("vm-23", json!({ "base": "base", "datastore": "elsewhere" }))
            .contains("no datastore `elsewhere`")
    );
    site.served.world.lock().unwrap().lacks = vec![("vm-", "VirtualMachine.Provisioning.Clone")];
    match clone(system.as_ref(), "vm-23", json!("base")) {
        Outcome::Failed { why, .. } => assert!(why.contains("VirtualMachine.Provisioning.Clone"), "{why}"),
        other => panic!("{other:?}"),
    }
    // Cut off before and behind the call: gone on with, there is one VM.
    for behind in [false, true] {
        let (lab, site) = with_bases(&format!("clone-cut-{behind}"));
        site.served.world.lock().unwrap().cut = Some((0, behind));
        let first = clone(door(&site, "memory").as_ref(), "vm-21", json!("golden"));
        assert!(matches!(first, Outcome::Failed { .. } | Outcome::Applied { .. }), "{first:?}");
        let second = clone(door(&site, "memory").as_ref(), "vm-21", json!("golden"));
        assert!(matches!(second, Outcome::Applied { .. } | Outcome::AlreadyMet { .. }), "{second:?}");
        let vms = lab.state("esx-01").esxi().vms.clone();
        assert_eq!(vms.iter().filter(|vm| vm.name == "vm-21").count(), 1);
    }
}

/// From a cluster's name to VMs that run with their vGPUs: where each is made is found by what fits.
fn new_vms_of_a_cluster_are_made_where_they_fit() {
    let (lab, site) = with_bases("cluster");
    let vibs = lab.state("esx-01").esxi().vibs.clone();
    lab.change("esx-02", |m| {
        m.esxi().gpus.push(files::a100("0000:3b:00.0"));
        m.esxi().vibs.clone_from(&vibs);
        m.link("nvidia-smi");
    });
    vsgpu_tests::fakes::state::boot(&lab.machine("esx-02"));
    for host in ["esx-01", "esx-02"] {
        lab.change(host, |m| {
            m.booted_at_ms -= 3_600_000;
            m.esxi().vms.iter_mut().for_each(|vm| vm.on = false);
        });
    }
    lab.served_by_vcenter("esx-02");
    let (_gateway, port) = serve_hosts(&lab, &site, "cluster = GPU-A");
    let of = |wish: &str| {
        format!(
            "version: 1\ndefaults:\n  host: {{ address: \"127.0.0.1:{port}\", cluster: GPU-A, graphics-type: SharedPassthru }}\nhosts:\n  esx-01: {{}}\n  esx-02: {{}}\nvms:\n  vm-[21-25]:\n    host: {wish}\n    clone-of: golden\n    power: on\n    vgpu: [grid_a100-20c]\n"
        )
    };
    lab.write_fleet(&of("{ cluster: GPU-B }"));
    let said = lab.expect(2, &["validate"]);
    assert!(said.contains("no host above has `cluster: GPU-B`") && said.contains("`GPU-A`"), "{said}");
    lab.write_fleet(&of("{ cluster: GPU-A }"));
    let plan = lab.expect(3, &["plan", "--commands"]);
    assert!(plan.contains("CloneVM_Task golden ([datastore1] golden/golden.vmtx) name=vm-21"), "{plan}");
    lab.expect(0, &["apply", "--yes"]);
    let mine = |host: &str| {
        let vms = lab.state(host).esxi().vms.clone();
        vms.into_iter()
            .filter(|vm| vm.name.starts_with("vm-2"))
            .map(|vm| (vm.name, vm.on))
            .collect::<Vec<_>>()
    };
    // Two on each GPU: esx-01 has two of them.
    let (first, second) = (mine("esx-01"), mine("esx-02"));
    assert_eq!(first.len() + second.len(), 5, "{first:?} {second:?}");
    assert!(
        !first.is_empty() && !second.is_empty() && first.iter().chain(&second).all(|(_, on)| *on),
        "{first:?} {second:?}"
    );
    // They are found where they are.
    let changes = site.served.world.lock().unwrap().changes;
    let said = lab.expect(0, &["apply", "--yes"]);
    assert!(said.to_lowercase().contains("nothing to do"), "{said}");
    assert_eq!(site.served.world.lock().unwrap().changes, changes);
}

/// Two hosts of a cluster. On the first run a VM with a vGPU, one with a whole GPU, and one that no fleet file has; the
/// second has a GPU for the first of them.
fn a_cluster(name: &str) -> (Lab, Site, Gateway, u16) {
    let (lab, site) = a_host(name);
    lab.host("esx-02", "8.0.3", vec![files::a100("0000:3b:00.0")]);
    lab.vm_without_guest("app-1", "esx-01");
    let vibs = lab.state("esx-01").esxi().vibs.clone();
    lab.change("esx-02", |m| {
        m.esxi().vibs = vibs;
        m.esxi().default_type = "SharedPassthru".into();
        m.link("nvidia-smi");
    });
    vsgpu_tests::fakes::state::boot(&lab.machine("esx-02"));
    for host in ["esx-01", "esx-02"] {
        lab.change(host, |m| m.booted_at_ms -= 3_600_000);
        lab.served_by_vcenter(host);
    }
    lab.change("esx-01", |m| {
        m.esxi().vms.iter_mut().for_each(|vm| vm.on = true);
        let path = "/vmfs/volumes/datastore1/vm-02/vm-02.vmx";
        let text = m.text(path).unwrap()
            + "sched.mem.min = \"8192\"\nsched.mem.minSize = \"8192\"\nsched.mem.pin = \"TRUE\"\npciPassthru.use64bitMMIO = \"TRUE\"\npciPassthru.64bitMMIOSizeGB = \"128\"\n";
        m.write(path, &text);
    });
    {
        let mut world = site.served.world.lock().unwrap();
        world.hosts.push(SimHost::new("esx-02.example.com", Some(0)));
        world.machines.insert(1, lab.machine("esx-02"));
        world.tasks_run_for = 0;
    }
    let (gateway, port) = serve_hosts(&lab, &site, "cluster = GPU-A");
    (lab, site, gateway, port)
}

/// A fleet file for it: a setting of the first host that takes a reboot.
fn with_maintenance(port: u16, wish: &str) -> String {
    format!(
        "version: 1\ndefaults:\n  host: {{ address: \"127.0.0.1:{port}\", cluster: GPU-A }}\nhosts:\n  esx-01: {{ vgpu-scheduler: fixed-share{wish} }}\n  esx-02: {{}}\nvms:\n  vm-01: {{ host: {{ cluster: GPU-A }} }}\n  vm-02: {{ host: esx-01 }}\n"
    )
}

fn running(lab: &Lab, host: &str) -> Vec<String> {
    let mut vms: Vec<String> =
        lab.state(host).esxi().vms.iter().filter(|vm| vm.on).map(|vm| vm.name.clone()).collect();
    vms.sort();
    vms
}

fn drs_moves_vms_out_of_the_way_and_the_rest_is_shut_down() {
    let (lab, site, _gateway, port) = a_cluster("evacuated");
    let wish = |vms: &str| {
        lab.write_fleet(&with_maintenance(port, &format!(", maintenance: {{ vms: {vms}, timeout: 10m }}")))
    };
    // Without a word of it VMs are shut down, and one that is not in the file blocks.
    lab.write_fleet(&with_maintenance(port, ""));
    let said = lab.expect(6, &["plan"]);
    assert!(said.contains("VMs run that are not in the fleet file: app-1"), "{said}");
    // An option of DRS is missing, and says so.
    wish("must-move");
    let said = lab.expect(6, &["plan"]);
    assert!(said.contains("error[cannot-evacuate]") && said.contains("vm-02 (it has a whole GPU)"), "{said}");
    assert!(said.contains("vm-01 (DRS of GPU-A does not move VMs with vGPUs: see `drs-options`"), "{said}");
    // Set where it is wished, before anything else; the other options stay.
    let with_option = with_maintenance(
        port,
        ", maintenance: { vms: must-move }, drs-options: { PassthroughDrsAutomation: 1 }",
    );
    lab.write_fleet(&with_option);
    let said = lab.expect(3, &["plan", "--commands"]);
    assert!(
        said.contains("ReconfigureComputeResource_Task GPU-A drsConfig.option PassthroughDrsAutomation=1"),
        "{said}"
    );
    assert!(!said.contains("EnterMaintenanceMode"), "{said}");
    lab.expect(0, &["apply", "--yes"]);
    let options = site.served.world.lock().unwrap().drs.options.clone();
    assert_eq!(
        (options["PassthroughDrsAutomation"].as_str(), options["LBMaxVmotionPerHost"].as_str()),
        ("1", "1")
    );
    // And taken back as far as it is known how it was.
    lab.expect(0, &["rollback", "--yes"]);
    assert_eq!(site.served.world.lock().unwrap().drs.options["PassthroughDrsAutomation"], "0");
    lab.write_fleet(&with_option);
    lab.expect(0, &["apply", "--yes"]);
    // Switched off for the whole of vCenter.
    wish("must-move");
    site.served.world.lock().unwrap().drs.hot_migrate = Some(false);
    let said = lab.expect(6, &["plan"]);
    assert!(said.contains("vm-01 (vgpu.hotmigrate.enabled is false in vCenter"), "{said}");
    site.served.world.lock().unwrap().drs.hot_migrate = Some(true);
    wish("move");
    let said = lab.expect(6, &["plan"]);
    assert!(said.contains("not every VM can leave it: vm-02 (it has a whole GPU)"), "{said}");
    assert!(said.contains("`maintenance: { vms: move-or-off }`"), "{said}");
    wish("move-or-off");
    let said = lab.expect(3, &["plan"]);
    for line in [
        "VMs off: vm-02",
        "VMs moved by DRS: app-1, vm-01",
        "VMs shut down, as they do not move: vm-02 (it has a whole GPU)",
        "VMs stand still while they move, about: vm-01 31 s",
    ] {
        assert!(said.contains(line), "{line}\n{said}");
    }
    let commands = lab.expect(3, &["plan", "--commands"]);
    assert!(commands.contains("EnterMaintenanceMode_Task timeout=600"), "{commands}");
    // No room any more when its turn comes: nothing moves.
    lab.change("esx-02", |m| m.esxi().gpus[0].given = true);
    let system = door(&site, "memory");
    let evacuate = vsgpu_core::Effect::Evacuate { within_secs: 60, waits_for_people: false };
    let off = vsgpu_core::Command::new("vim-cmd", ["vmsvc/power.off", "2"]);
    assert!(system.run(&off).ok());
    let why = vsgpu_core::effects::act(system.as_ref(), &evacuate).unwrap_err().why;
    assert!(
        why.contains(
            "not every VM can leave the host now: vm-01 (DRS: no other host has such a GPU or vGPU free)"
        ),
        "{why}"
    );
    assert_eq!(running(&lab, "esx-01"), ["app-1", "vm-01"]);
    assert!(!lab.state("esx-01").esxi().maintenance);
    lab.change("esx-01", |m| m.esxi().vms[1].on = true);
    lab.change("esx-02", |m| m.esxi().gpus[0].given = false);
    let said = lab.expect(0, &["apply", "--yes"]);
    assert!(said.contains("EnterMaintenanceMode_Task"), "{said}");
    assert_eq!(
        (running(&lab, "esx-01"), running(&lab, "esx-02")),
        (vec!["vm-02".to_string()], vec!["app-1".into(), "vm-01".into()])
    );
    assert!(!lab.state("esx-01").esxi().maintenance);
    assert_eq!(lab.state("esx-01").esxi().parameters["NVreg_RegistryDwords"], "RmPVMRL=0x11");
    // They stay where they are, and are found there.
    let changes = site.served.world.lock().unwrap().changes;
    let said = lab.expect(0, &["apply", "--yes"]);
    assert!(said.to_lowercase().contains("nothing to do"), "{said}");
    assert_eq!(site.served.world.lock().unwrap().changes, changes);
}

fn what_drs_leaves_people_move_while_it_waits() {
    let (lab, site, _gateway, port) = a_cluster("by-hand");
    lab.change("esx-01", |m| m.esxi().vms[1].on = false);
    site.served.world.lock().unwrap().drs.level = "manual";
    lab.write_fleet(&with_maintenance(port, ", maintenance: { vms: move, timeout: 90s }"));
    let said = lab.expect(3, &["plan"]);
    assert!(said.contains("VMs for you to move while it waits: app-1, vm-01"), "{said}");
    assert!(said.contains("DRS of GPU-A only recommends"), "{said}");
    // Nobody does: given up, and who is left is named.
    let said = lab.expect(5, &["apply", "--yes"]);
    assert!(said.contains("Operation timed out") && said.contains("still on the host: vm-01 (DRS"), "{said}");
    assert!(!lab.state("esx-01").esxi().maintenance);
    assert_eq!(running(&lab, "esx-01"), ["app-1", "vm-01"]);
    site.served.world.lock().unwrap().drs.people_move = true;
    lab.expect(0, &["apply", "--yes"]);
    assert_eq!(running(&lab, "esx-02"), ["app-1", "vm-01"]);
    // A host without vCenter has nobody who moves anything.
    let alone = Lab::new("no-drs");
    a_bare_host(&alone);
    alone.start();
    let file = wishes(&alone.address("esx-01"))
        .replace("    graphics-type", "    maintenance: { vms: move }\n    graphics-type");
    alone.write_fleet(&file);
    let said = alone.expect(6, &["plan"]);
    assert!(said.contains("this host's agent does not reach it by vCenter"), "{said}");
}

/// A host without any package of NVIDIA's, and the wish for them.
fn without_packages(lab: &Lab, release: &str) {
    files::write_sized(&lab.folder.join("files"), |size| size >> 5);
    lab.host("esx-01", release, vec![files::a100("0000:3b:00.0")]);
    for vm in ["vm-01", "vm-02"] {
        lab.vm_without_guest(vm, "esx-01");
    }
    lab.change("esx-01", |m| {
        m.link("nvidia-smi");
        m.esxi().vms.iter_mut().for_each(|vm| vm.on = false);
        m.booted_at_ms -= 3_600_000;
    });
}

fn with_packages(address: &str, manager: &str, more: &str) -> String {
    format!(
        "version: 1\nhosts:\n  esx-01:\n    address: \"{address}\"\n    vgpu-manager: {{ package: files/{manager}, datastore: datastore1{more} }}\n"
    )
}

fn packages_are_installed_through_vcenter() {
    let daemon = format!(
        "    gpu-management-daemon: {{ package: files/{}, datastore: datastore1 }}\n",
        files::DAEMON_17_4
    );
    let by_tools = Lab::new("packages-by-tools");
    without_packages(&by_tools, "8.0.3");
    by_tools.start();
    by_tools.write_fleet(&(with_packages(&by_tools.address("esx-01"), files::MANAGER_17_4, "") + &daemon));
    by_tools.expect(0, &["apply", "--yes"]);

    let lab = Lab::new("packages-by-api");
    without_packages(&lab, "8.0.3");
    lab.served_by_vcenter("esx-01");
    let mut world = World::new(vec![SimHost::new("esx-01.example.com", Some(0))]);
    world.machines.insert(0, lab.machine("esx-01"));
    world.tasks_run_for = 0;
    let site = Site::new("packages-by-api", world);
    let set = |change: &dyn Fn(&mut World)| change(&mut site.served.world.lock().unwrap());
    // Each of them begins with what the server says then.
    let plan = |status: i32, more: &str, manager: &str| {
        let (_gateway, port) = serve_hosts(&lab, &site, "cluster = GPU-A");
        lab.write_fleet(&with_packages(&format!("127.0.0.1:{port}"), manager, more));
        lab.expect(status, &["plan", "--commands"])
    };
    let said = plan(6, "", files::MANAGER_17_4);
    assert!(
        said.contains("GPU-A has one image for its hosts")
            && said.contains("add NVIDIA's component to that image"),
        "{said}"
    );
    let said = plan(3, ", allow-drift: true", files::MANAGER_17_4);
    assert!(
        said.contains("ExecuteSoap esxcli software component apply depot=/vmfs/volumes/datastore1/vsgpu/"),
        "{said}"
    );
    set(&|world| (world.api, world.images) = ("9.0.0.0", false));
    let said = plan(6, ", allow-drift: true", files::MANAGER_17_4);
    assert!(said.contains("from vCenter 9 on every host has an image"), "{said}");
    set(&|world| world.api = "8.0.3.0");
    // Without an administrator's role there is no esxcli: single packages only.
    set(&|world| world.lacks = vec![("host-", "(administrator)")]);
    let said = plan(6, "", files::MANAGER_17_4);
    assert!(
        said.contains("is a bundle: esxcli installs it, which does not answer through vCenter"),
        "{said}"
    );
    set(&|world| world.lacks = vec![]);
    let (_gateway, port) = serve_hosts(&lab, &site, "cluster = GPU-A");
    lab.write_fleet(&(with_packages(&format!("127.0.0.1:{port}"), files::MANAGER_17_4, "") + &daemon));
    // Half a file is no file.
    set(&|world| world.cuts_files = true);
    let said = lab.expect(5, &["apply", "--yes"]);
    assert!(
        said.contains("is another file than the one that was put there: nothing was installed"),
        "{said}"
    );
    let host = lab.state("esx-01").esxi().clone();
    assert!(host.loaded.is_none() && host.staged.is_empty() && !host.maintenance);
    set(&|world| world.cuts_files = false);
    // Cut off before and behind the call that installs: it may go on at the host, so nothing else is begun until it is over.
    // (Minutes: here somebody takes the note away.) Whoever goes on later comes to the same end.
    for behind in [false, true] {
        set(&|world| world.cut = Some((world.changes + 1, behind)));
        let over = std::sync::atomic::AtomicBool::new(false);
        let said = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(std::sync::atomic::Ordering::SeqCst) {
                    let is_call = |file: &PathBuf| {
                        file.file_name().is_some_and(|n| n.to_string_lossy().starts_with("call-"))
                    };
                    for note in walk(&site.folder.join("state")).into_iter().filter(is_call) {
                        std::thread::sleep(Duration::from_secs(2));
                        let _ = std::fs::remove_file(note);
                    }
                    std::thread::sleep(Duration::from_millis(100));
                }
            });
            let output = lab.vsgpu(&["apply", "--yes"]);
            over.store(true, std::sync::atomic::Ordering::SeqCst);
            String::from_utf8_lossy(&output.stderr).into_owned()
        });
        assert!(said.contains("waiting for `esxcli software component apply`"), "{said}");
        assert!(!lab.state("esx-01").esxi().maintenance, "a host is left in maintenance mode");
    }
    set(&|world| world.cut = None);
    lab.expect(0, &["apply", "--yes"]);
    let mut found = vec![];
    differences("", &end_state(&by_tools), &end_state(&lab), &mut found);
    assert!(found.is_empty(), "{found:?}");
    let changes = site.served.world.lock().unwrap().changes;
    let said = lab.expect(0, &["apply", "--yes"]);
    assert!(said.to_lowercase().contains("nothing to do"), "{said}");
    assert_eq!(site.served.world.lock().unwrap().changes, changes);
    // Taken away again, at another time: a boot takes minutes.
    lab.change("esx-01", |m| m.booted_at_ms -= 3_600_000);
    lab.write_fleet(&format!(
        "version: 1\nhosts:\n  esx-01:\n    address: \"127.0.0.1:{port}\"\n    vgpu-manager: absent\n"
    ));
    let said = lab.expect(0, &["apply", "--yes"]);
    assert!(said.contains("ExecuteSoap esxcli software component remove component="), "{said}");
    assert!(lab.state("esx-01").esxi().loaded.is_none());
}

/// One package, by an account that may run no esxcli: what waits for the boot is known by what was done.
fn a_single_package_needs_no_administrator() {
    let lab = Lab::new("one-vib");
    without_packages(&lab, "6.7.0");
    lab.served_by_vcenter("esx-01");
    let mut world = World::new(vec![SimHost::new("esx-01.example.com", Some(0))]);
    world.machines.insert(0, lab.machine("esx-01"));
    (world.tasks_run_for, world.images) = (0, false);
    world.lacks = vec![("host-", "(administrator)")];
    let site = Site::new("one-vib", world);
    let (_gateway, port) = serve_hosts(&lab, &site, "cluster = GPU-A");
    lab.write_fleet(&with_packages(&format!("127.0.0.1:{port}"), files::MANAGER_6_0, ""));
    let said = lab.expect(3, &["plan", "--commands"]);
    assert!(said.contains("InstallHostPatchV2_Task [datastore1] vsgpu/"), "{said}");
    lab.expect(0, &["apply", "--yes"]);
    assert!(lab.state("esx-01").esxi().loaded.is_some());
    let said = lab.expect(0, &["apply", "--yes"]);
    assert!(said.to_lowercase().contains("nothing to do"), "{said}");
}

/// vCenter tells modes itself, where the release has them: set, waiting for the restart, active.
fn sizes_of_vgpus_are_set_and_read_without_the_driver() {
    use serde_json::json;
    let (lab, site) = by_api("sizes");
    let system = door(&site, "memory");
    let host = |name, spec| apply_one(system.as_ref(), (name, None, spec)).0;
    let restart = |name: &str| {
        let known = vsgpu_host_agent::catalogue().restarts().into_iter().find(|known| known.name == name);
        for effect in (known.unwrap().effects)() {
            vsgpu_core::effects::act(system.as_ref(), &effect).unwrap();
        }
    };
    let off = vsgpu_core::Command::new("vim-cmd", ["vmsvc/power.off", "1"]);
    assert!(system.run(&off).ok());
    let outcome = host("graphics-type", json!("SharedPassthru"));
    assert!(matches!(outcome, Outcome::Applied { active: false, .. }), "{outcome:?}");
    // One plan sets both: before the type is active, too, the mode is judged.
    let outcome = host("vgpu-mode", json!({ "0000:3b:00.0": "MixedSize", "others": "SameSize" }));
    assert!(matches!(outcome, Outcome::Applied { active: false, .. }), "{outcome:?}");
    restart("graphics");
    let outcome = host("vgpu-mode", json!({ "0000:3b:00.0": "MixedSize", "others": "SameSize" }));
    assert!(matches!(outcome, Outcome::AlreadyMet { .. }), "{outcome:?}");
    let gpus = lab.state("esx-01").esxi().gpus.clone();
    assert_eq!(gpus.iter().map(|gpu| gpu.mixed).collect::<Vec<_>>(), [true, false]);
}

/// Each try counts towards the account's lock: a wrong password is tried once, and the next one when it is there.
fn a_refused_login_is_not_tried_again() {
    let (lab, site) = by_api("refused");
    site.password("wrong");
    let _gateway = begin_to_serve(&lab, &site, "host = esx-01.example.com\nhost = esx-09.example.com");
    let log = || std::fs::read_to_string(site.folder.join("log")).unwrap_or_default();
    wait_until("it says so", Duration::from_secs(30), || {
        log().contains("Not tried again before the password")
    });
    // Unlocked with the same password: somebody touches the file.
    let logins =
        || site.served.world.lock().unwrap().calls.iter().filter(|call| call.as_str() == "Login").count();
    let pass = std::fs::File::options().append(true).open(site.folder.join("pass")).unwrap();
    pass.set_modified(SystemTime::now()).unwrap();
    wait_until("it is tried once more", Duration::from_secs(30), || logins() == 2);
    let right = site.served.world.lock().unwrap().password;
    site.password(right);
    wait_until("it listens", Duration::from_secs(30), || site.folder.join("ready").exists());
    assert_eq!(logins(), 3, "{}", log());
    assert!(log().contains("host esx-09.example.com is not in the inventory"), "{}", log());
}

/// Whoever waits for an hour knows from its beginning where to look.
fn tasks_are_told_while_they_run() {
    let (_lab, site) = by_api("told");
    site.served.world.lock().unwrap().tasks_run_for = 1_000_000;
    let system = door(&site, "memory");
    let said = std::sync::Mutex::new(String::new());
    std::thread::scope(|scope| {
        let applied = scope.spawn(|| {
            let entry = *vsgpu_host_agent::catalogue().find(Scope::Vm, "memory-reserved").unwrap();
            let spec = (entry.read_spec)(&serde_json::json!("all")).unwrap();
            let mut say = |text: String| *said.lock().unwrap() += &format!("{text}\n");
            apply::apply(
                system.as_ref(),
                &entry,
                &Subject::vm("vm-02"),
                &spec,
                &ApplyOptions::default(),
                &mut say,
            )
        });
        wait_until("the task is told", Duration::from_secs(20), || {
            said.lock().unwrap().contains("(Recent Tasks of")
        });
        assert!(!applied.is_finished());
        site.served.world.lock().unwrap().tasks.values_mut().for_each(|task| task.0 = 0);
        let outcome = applied.join().unwrap();
        assert!(matches!(outcome, Outcome::Applied { .. }), "{outcome:?}");
    });
    assert_eq!(said.lock().unwrap().matches("(Recent Tasks of").count(), 1, "told once");
}

/// A gateway that is killed leaves its task running; the next one knows of it.
fn a_task_is_found_again_by_its_id() {
    let (_lab, site) = by_api("orphan");
    site.served.world.lock().unwrap().tasks_run_for = 1_000_000;
    let first = door(&site, "memory");
    let begun = std::thread::spawn(move || {
        let stop = vsgpu_core::Command::new("vim-cmd", ["vmsvc/power.off", "1"]).within(60);
        first.run(&stop)
    });
    wait_until("a task runs", Duration::from_secs(20), || {
        !site.served.world.lock().unwrap().tasks.is_empty()
    });
    let second = door(&site, "memory");
    wait_until("it is noted", Duration::from_secs(20), || second.orphan().is_some());
    let found = second.orphan().unwrap();
    assert!(found.starts_with("PowerOffVM_Task, VM 1 (task-"), "{found}");
    // The session ends meanwhile: it is begun again, and the task is the same.
    site.served.world.lock().unwrap().sessions.clear();
    assert!(second.orphan().is_some());
    for task in site.served.world.lock().unwrap().tasks.values_mut() {
        task.0 = 0;
    }
    assert!(begun.join().unwrap().ok());
    assert_eq!(second.orphan(), None);
}

fn two_clusters() -> World {
    let host = |name: &str, cluster| SimHost::new(name, cluster);
    let mut hosts: Vec<SimHost> = (1..=7).map(|n| host(&format!("esx-0{n}.example.com"), Some(0))).collect();
    hosts.extend([host("esx-11.example.com", Some(1)), host("alone.example.com", None)]);
    World::new(hosts)
}

const HOSTS: &str = "host = alone.example.com\ncluster = GPU-A";

fn hosts_are_found_and_nothing_is_left_behind() {
    let site = Site::new("found", two_clusters());
    let (status, said) = site.trusted(HOSTS);
    assert_eq!(status, 0, "{said}");
    assert!(said.contains("VMware vCenter Server 8.0.3 build-0 (simulated), API 8.0.3.0"), "{said}");
    assert!(said.contains("esx-07.example.com  GPU-A       2  connected"), "{said}");
    assert!(said.contains("alone.example.com   -           2  connected"), "{said}");
    assert!(!said.contains("esx-11"), "a host of another cluster: {said}");
    assert!(said.starts_with("READY: 8 hosts, the account may do everything that was asked\n"), "{said}");
    assert!(said.lines().all(|line| line.chars().count() <= 80), "{said}");
    let world = site.served.world.lock().unwrap();
    assert!(world.sessions.is_empty() && world.views.is_empty(), "a session or a view is left");
    // Pages were asked for to the end, and nothing for each VM.
    assert!(world.calls.iter().filter(|call| *call == "ContinueRetrievePropertiesEx").count() >= 3);
    assert!(world.calls.len() < 30, "{:?}", world.calls);
}

fn what_is_missing_is_said_by_purpose() {
    let mut world = two_clusters();
    world.lacks = vec![
        ("host-", "Host.Config.PciPassthru"),
        ("host-0", "Host.Config.Image"),
        ("group-d1", "Global.Diagnostics"),
        ("vm-0000001", "VirtualMachine.Interact.PowerOn"),
    ];
    let site = Site::new("missing", world);
    let (status, said) = site.trusted(HOSTS);
    // Looking is allowed: the rest is what this site decides.
    assert_eq!(status, 0, "{said}");
    for line in [
        "READY TO LOOK: 8 hosts, 4 of 11 purposes are not allowed",
        "read packages, modules, logs  no\n    Global.Diagnostics, at the top of the inventory\n    Host.Config.Image, esx-01",
        "set passthrough               no\n    Host.Config.PciPassthru, alone.example.com and 7 more",
        "start and stop VMs            no\n    VirtualMachine.Interact.PowerOn, esx-01.example.com",
        "maintenance and reboot        yes",
        "the role with all of it: vsgpu-host-agent gateway role",
    ] {
        assert!(said.contains(line), "{line}\n{said}");
    }
    // Read-only on the cluster alone: the top, the datastores and the lone host may not even be read.
    site.served.world.lock().unwrap().lacks =
        vec![("group-d1", "System.Read"), ("datastore-", "System.Read"), ("host-8", "System.Read")];
    let (status, said) = site.trusted(HOSTS);
    assert_eq!(status, 1, "{said}");
    for line in [
        "NOT READY: the account may not even look",
        "alone.example.com   -           ?  connected",
        "esx-01.example.com  GPU-A       2  connected",
        "    System.Read, alone.example.com\n",
        "?: this account may not read the hardware",
        "    Datastore.Browse, ",
    ] {
        assert!(said.contains(line), "{line}\n{said}");
    }
    let (status, said) = site.trusted("cluster = GPU-A");
    assert!(status == 0 && said.starts_with("READY TO LOOK: 7 hosts"), "{said}");
    // A VM that went meanwhile takes nothing with it; where there is none, nothing is claimed.
    {
        let mut world = site.served.world.lock().unwrap();
        world.lacks = vec![];
        world.gone = vec!["vm-3-1".into()];
    }
    let (status, said) = site.trusted(HOSTS);
    assert!(status == 0 && said.starts_with("READY: 8 hosts"), "{said}");
    site.served.world.lock().unwrap().hosts.iter_mut().for_each(|host| host.vms = 0);
    let (_, said) = site.trusted(HOSTS);
    assert!(said.contains("start and stop VMs            not known: there are no VMs"), "{said}");
}

/// GPU counters under the names that agents use, with nothing on any host; two calls for sixty hosts.
fn counters_of_gpus_are_printed_and_served() {
    let mut world = World::new((0..60).map(|n| SimHost::new(&format!("esx-{n:02}"), Some(0))).collect());
    world.hosts[7].state = "notResponding";
    // It answers, and its counters stand still.
    world.hosts[8].sampled = "2026-11-27T13:58:00Z";
    let site = Site::new("metrics", world);
    assert_eq!(site.trusted("cluster = GPU-A").0, 1, "one host is away");
    site.calls();
    let file = site.folder.join("gateway.conf");
    let gateway = |more: &[&str]| {
        let mut command = Command::new(programs().join("vsgpu-host-agent"));
        command.args(["gateway", "metrics"]).arg(&file).args(more);
        command
    };
    let output = gateway(&[]).output().unwrap();
    let page = String::from_utf8(output.stdout).unwrap();
    for line in [
        "vsgpu_gpu_utilization_ratio{gpu=\"0000:3b:00.0\",node=\"esx-00\",source=\"vsphere\"} 0.4",
        "vsgpu_gpu_memory_used_bytes{gpu=\"0000:3c:00.0\",node=\"esx-59\",source=\"vsphere\"} 4097024",
        "vsgpu_gpu_power_watts{gpu=\"0000:3b:00.0\",node=\"esx-00\",source=\"vsphere\"} 4000",
        "vsgpu_vcenter_host_connected{node=\"esx-07\"} 0",
        "vsgpu_vcenter_up 1",
    ] {
        assert!(page.contains(line), "{line}\n{page}");
    }
    assert!(
        !page.contains("gpu=\"all\"") && !page.contains("gpu=\"0000:3b:00.0\",node=\"esx-07\""),
        "{page}"
    );
    let calls = site.calls();
    assert_eq!(calls.iter().filter(|call| *call == "QueryPerf").count(), 2, "{calls:?}");

    // Open beyond this machine only to who may.
    let refused = gateway(&["--listen", "0.0.0.0:0"]).output().unwrap();
    assert!(
        !refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("open to everybody")
    );
    let port = vsgpu_tests::lab::free_port();
    let address = format!("127.0.0.1:{port}");
    let mut serving = gateway(&["--listen", &address]).spawn().unwrap();
    let get = |path: &str| {
        use std::io::{Read as _, Write as _};
        let mut stream = std::net::TcpStream::connect(&address).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        Some(text)
    };
    wait_until("it shows what vCenter says", Duration::from_secs(30), || {
        get("/metrics").is_some_and(|page| page.contains("vsgpu_gpu_power_watts{"))
    });
    assert!(get("/readyz").unwrap().contains("200"));
    serving.kill().unwrap();
    serving.wait().unwrap();
    // A refused login is not tried again before the password file changes, and nobody unknown is told more.
    site.password("wrong");
    site.calls();
    let mut serving = gateway(&["--listen", &address]).stderr(std::process::Stdio::null()).spawn().unwrap();
    let ready = || get("/readyz").unwrap_or_default();
    wait_until("it says why it is not ready", Duration::from_secs(30), || {
        ready().contains("refuses the login")
    });
    let answer = ready();
    assert!(answer.contains("503") && !answer.contains("svc@") && !answer.contains("pass"), "{answer}");
    assert!(get("/metrics").unwrap().contains("vsgpu_vcenter_up 0"));
    // Three of its pauses.
    let begun = Instant::now();
    wait_until("three pauses", Duration::from_secs(30), || begun.elapsed() > Duration::from_secs(16));
    let logins = |site: &Site| site.calls().iter().filter(|call| *call == "Login").count();
    assert_eq!(logins(&site), 1);
    site.password("a<secret>&\"'");
    wait_until("the new password is taken", Duration::from_secs(30), || {
        get("/metrics").is_some_and(|page| page.contains("vsgpu_gpu_power_watts{"))
    });
    assert_eq!(logins(&site), 1);
    serving.kill().unwrap();
    serving.wait().unwrap();
    // A name that nobody has is seen by an alert.
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{text}host = nosuch\n")).unwrap();
    let page = String::from_utf8(gateway(&[]).output().unwrap().stdout).unwrap();
    assert!(page.contains("vsgpu_vcenter_host_connected{node=\"nosuch\"} 0"), "{page}");
}

/// What is sent to whoever builds vsgpu: answers as they are, a refused property as such, nothing of the site.
fn a_report_says_what_the_server_says_and_nothing_of_the_site() {
    let mut world = two_clusters();
    world.lacks = vec![("host-8", "System.Read")];
    let site = Site::new("probe", world);
    // It is written by a check, which says that one host may not even be looked at.
    assert_eq!(site.trusted(HOSTS).0, 1);
    let (status, report) = site.probe();
    assert_eq!(status, 0, "{report}");
    let value: serde_json::Value = serde_json::from_str(&report).unwrap();
    let hosts = value["hosts"].as_array().unwrap();
    let info = &hosts[1]["config.graphicsInfo"]["HostGraphicsInfo"][1];
    assert_eq!(
        (info["pciId"].as_str(), info["graphicsType"].as_str()),
        (Some("0000:3c:00.0"), Some("sharedDirect"))
    );
    assert_eq!(hosts[0]["capability"]["fault"], "InvalidProperty", "one of another version");
    assert_eq!(hosts[0]["hardware.pciDevice"]["fault"], "NoPermission");
    assert_eq!(hosts[0]["config.graphicsConfig"], serde_json::Value::Null, "unset");
    assert_eq!(hosts[1]["hardware.biosInfo"]["biosVersion"], "2.21.2");
    assert_eq!(hosts[1]["config.lockdownMode"], "lockdownNormal");
    assert_eq!(
        hosts[1]["config.sharedGpuCapabilities"]["HostSharedGpuCapabilities"]["vgpu"],
        "grid_a100-40c"
    );
    assert_eq!(hosts[1]["gpu counters"][0]["instance"], "0000:3b:00.0");
    assert_eq!(value["vms with GPUs"][0][0]["backing"]["vgpu"], "grid_a100-40c");
    let options = &value["clusters"][0]["configurationEx.drsConfig.option"]["OptionValue"];
    assert_eq!(
        (options[0]["key"].as_str(), options[0]["value"].as_str()),
        (Some("LBMaxVmotionPerHost"), Some("1"))
    );
    let secrets = [
        "vm-0",
        "payroll agent",
        "of payroll",
        "payroll disk",
        "payroll-",
        "naa.",
        "t10.",
        "20231107",
        "host-",
    ];
    for secret in secrets {
        assert!(!report.contains(secret), "{secret}: {report}");
    }
    let world = site.served.world.lock().unwrap();
    assert!(world.sessions.is_empty() && world.views.is_empty());
}

fn names_that_do_not_fit_the_inventory_are_named() {
    let mut world = two_clusters();
    world.hosts.push(SimHost::new("alone.example.com", Some(1)));
    world.hosts[1].state = "notResponding";
    let site = Site::new("names", world);
    let (status, said) = site.trusted(&format!("{HOSTS}\nhost = esx-99\ncluster = GPU-C"));
    assert_eq!(status, 1, "{said}");
    for line in [
        "WRONG  host alone.example.com: there are 2 of this name",
        "WRONG  host esx-99: not in the inventory",
        "WRONG  cluster GPU-C: not in the inventory",
        "WRONG  host esx-02.example.com: vCenter says it is notResponding",
        "NOT READY: 3 names do not fit the inventory, 1 host is not connected; ",
    ] {
        assert!(said.contains(line), "{line}\n{said}");
    }
}

/// Before the certificate is believed nothing is sent, no password above all.
fn nobody_is_believed_unseen() {
    let site = Site::new("trust", two_clusters());
    let (status, said) = site.check(HOSTS);
    assert!(status == 1 && said.contains(&format!("  trust = {}", site.certificate.fingerprint())), "{said}");
    let (status, said) = site.check(&format!("trust = sha256:{}\n{HOSTS}", "ab".repeat(32)));
    assert!(
        status == 1
            && said.contains("shows another certificate than the one that is trusted; nothing was sent"),
        "{said}"
    );
    let ca = site.folder.join("ca.pem");
    std::fs::write(&ca, Certificate::new().ca_pem).unwrap();
    let (status, said) = site.check(&format!("ca = {}\n{HOSTS}", ca.display()));
    assert!(status == 1 && said.contains("its certificate is not one of the CA file's"), "{said}");
    assert_eq!(site.calls(), Vec::<String>::new());
    std::fs::write(&ca, &site.certificate.ca_pem).unwrap();
    let (status, said) = site.check(&format!("ca = {}\n{HOSTS}", ca.display()));
    assert_eq!(status, 0, "{said}");
}

fn a_wrong_password_and_a_full_server_are_told_apart() {
    let site = Site::new("login", two_clusters());
    site.password("wrong");
    let (status, said) = site.trusted(HOSTS);
    assert!(status == 1 && said.contains("user or password is wrong, or the account is locked"), "{said}");
    assert_eq!(
        site.calls().iter().filter(|call| *call == "Login").count(),
        1,
        "an account is locked by tries"
    );
    site.password("a<secret>&\"'");
    site.served.world.lock().unwrap().most_sessions = 0;
    let (status, said) = site.trusted(HOSTS);
    assert!(status == 1 && said.contains("it starts, or has too many sessions"), "{said}");
    // A server that stands alone, under the wrong key and under the right one.
    let world = &site.served.world;
    world.lock().unwrap().most_sessions = 5;
    world.lock().unwrap().is_vcenter = false;
    site.calls();
    let (status, said) = site.trusted(HOSTS);
    assert!(status == 1 && said.contains("this is a host: `esxi = localhost:"), "{said}");
    assert!(!site.calls().contains(&"Login".to_string()), "a password went to another than was meant");
    let (status, said) = site.check_as("esxi", &format!("trust = {}", site.certificate.fingerprint()));
    assert!(status == 0 && said.contains("VMware ESXi 8.0.3 build-0 (simulated)"), "{said}");
}

/// A session may end at any call: it is begun again, and every answer is whole.
fn a_session_that_ends_is_begun_again() {
    let hosts = [("esx-01", Some(0)), ("esx-02", Some(0)), ("alone.example.com", None)];
    let mut world = World::new(hosts.map(|(name, cluster)| SimHost::new(name, cluster)).to_vec());
    world.page = 2;
    let site = Site::new("session", world);
    let whole = site.trusted(HOSTS);
    let calls = site.calls().len();
    for at in 4..calls {
        site.served.world.lock().unwrap().session_ends_after = Some(at);
        assert_eq!(site.trusted(HOSTS), whole, "ended behind call {at}");
        assert!(site.served.world.lock().unwrap().session_ends_after.is_none());
        let logins = site.calls().iter().filter(|call| *call == "Login").count();
        assert!(logins <= 2, "ended behind call {at}: {logins} logins");
        site.served.world.lock().unwrap().sessions.clear();
    }
}

fn hostile_answers_are_refused_in_words() {
    let site = Site::new("hostile", two_clusters());
    let deep = format!("{}{}", "<a>".repeat(100_000), "</a>".repeat(100_000));
    let many = format!("<a>{}</a>", "<b/>".repeat(400_000));
    let bomb = "<!DOCTYPE a [<!ENTITY x \"xxxxxxxxxx\">]><a>&x;&x;</a>".to_string();
    for (call, status, headers, body, words) in [
        ("RetrieveServiceContent", 302, "Location: https://elsewhere/sdk\r\n", String::new(), "sends us elsewhere"),
        ("RetrieveServiceContent", 200, "", "<html><body><p>login</p></body></html>".into(), "no answer of the API"),
        ("RetrieveServiceContent", 200, "", deep, "nested deeper than"),
        ("RetrievePropertiesEx", 200, "", many, "more than 300000 elements"),
        ("RetrievePropertiesEx", 200, "", bomb, "is not known"),
        ("Login", 200, "", "x".repeat((64 << 20) + 1), "larger than 64 MiB"),
        ("HasPrivilegeOnEntities", 200, "", "<soap".into(), "cut off or broken"),
        ("CreateContainerView", 500, "", "<e><Body><Fault><faultcode>c</faultcode><faultstring>a\u{1b}[31mred\nline</faultstring></Fault></Body></e>".into(), "a\\u001b[31mred"),
    ] {
        let instead = (status, headers.to_string(), body.into_bytes());
        site.served.world.lock().unwrap().instead = [(call, instead)].into();
        let (status, said) = site.trusted(HOSTS);
        assert!(status == 1 && said.contains(words) && said.len() < 2_000, "{call}: {words}: {}", &said[..said.len().min(2_000)]);
        assert!(!said.contains('\u{1b}'), "{said}");
        site.served.world.lock().unwrap().sessions.clear();
    }
}

/// What real servers said, as it was recorded, in the place of ours.
fn recorded_answers_of_real_servers_are_read() {
    let folder = captures().unwrap().join("vsphere-api");
    let recorded = |name: &str| std::fs::read(folder.join(name)).unwrap();
    for (content, words) in [
        (
            "pyvmomi_RetrieveServiceContent_vcenter-8.0.3-line.xml",
            "VMware vCenter Server 8.0.3 build-69507950, API 8.0.2.0",
        ),
        (
            "manageiq_RetrieveServiceContent_vcenter-9.0.1.xml",
            "VMware vCenter Server 9.0.1 build-24957454, API 9.0.0.0",
        ),
    ] {
        let site = Site::new("recorded", two_clusters());
        site.served.world.lock().unwrap().instead = [
            ("GET", (200, String::new(), recorded("pyvmomi_vimServiceVersions_vcenter-8.0.3-line.xml"))),
            ("RetrieveServiceContent", (200, String::new(), recorded(content))),
        ]
        .into();
        let (status, said) = site.trusted(HOSTS);
        assert!(status == 0 && said.contains(words), "{said}");
    }
    let site = Site::new("recorded-login", two_clusters());
    let refused = (500, String::new(), recorded("pyvmomi_fault_InvalidLogin_http500.xml"));
    site.served.world.lock().unwrap().instead = [("Login", refused)].into();
    let (status, said) = site.trusted(HOSTS);
    assert!(status == 1 && said.contains("user or password is wrong"), "{said}");
}

/// One vCenter with 500 hosts and 10,000 VMs takes a bounded number of calls, and grows no worse than its hosts.
fn a_large_inventory_takes_few_calls() {
    let took = |hosts: usize| {
        let mut world = World::new(
            (0..hosts).map(|n| SimHost { vms: 20, ..SimHost::new(&format!("esx-{n}"), Some(0)) }).collect(),
        );
        (world.page, world.devices) = (500, 250);
        let site = Site::new(&format!("large-{hosts}"), world);
        let begun = Instant::now();
        let (status, said) = site.trusted("cluster = GPU-A");
        assert!(status == 0 && (hosts <= 10 || said.contains(&format!("and {} more", hosts - 10))), "{said}");
        (begun.elapsed(), site.calls().len())
    };
    let (small, few) = took(50);
    let (large, calls) = took(500);
    println!(
        "gateway check: 50 hosts {few} calls {small:?}; 500 hosts with 10,000 VMs {calls} calls {large:?}"
    );
    assert!(calls <= few * 10, "{few} calls for 50 hosts, {calls} for 500");
}

/// Hosts that are asked about at once are read together.
fn a_large_site_is_read_with_few_calls() {
    let looked = |hosts: usize| {
        let mut world = World::new(
            (0..hosts).map(|n| SimHost { vms: 20, ..SimHost::new(&format!("esx-{n}"), Some(0)) }).collect(),
        );
        (world.page, world.devices) = (500, 30);
        let site = Site::new(&format!("site-{hosts}"), world);
        let doors =
            gateway::doors_to(&vsgpu_host_agent::agent(), &site.file("cluster = GPU-A"), None).unwrap();
        let wanted = ["pci-gpus", "virtual-machines", "gpu-users", "maintenance-mode", "host-summary"];
        let facts: Vec<_> = vsgpu_host_agent::catalogue()
            .facts(Scope::Host)
            .into_iter()
            .filter(|fact| wanted.contains(&fact.name))
            .collect();
        site.calls();
        let begun = Instant::now();
        let all: Vec<_> = doors.values().collect();
        std::thread::scope(|scope| {
            for some in all.chunks(hosts.div_ceil(100)) {
                let facts = &facts;
                scope.spawn(move || {
                    for system in some {
                        let seen = vsgpu_core::observe::observe(system.as_ref(), &Subject::node(), facts);
                        assert!(seen["pci-gpus"].is_ok(), "{seen:?}");
                        let vms = seen["virtual-machines"].as_ref().unwrap();
                        assert_eq!(vms["vms"].as_array().unwrap().len(), 20);
                    }
                });
            }
        });
        (begun.elapsed(), site.calls().len())
    };
    let (small, few) = looked(50);
    let (large, calls) = looked(500);
    println!(
        "facts by vCenter: 50 hosts with 1,000 VMs {few} calls {small:?}; 500 hosts with 10,000 VMs {calls} calls {large:?}"
    );
    // Less than one for each host, and nothing for each VM.
    assert!(calls < 500, "{few} calls for 50 hosts, {calls} for 500");
}

/// VMware's own simulator, written by others.
fn vmwares_own_simulator_is_served() {
    let program = std::env::var_os("VSGPU_VCSIM").unwrap();
    let site = Site::new("vcsim", two_clusters());
    let port = vsgpu_tests::lab::free_port();
    let tls = std::env::var("VSGPU_VCSIM_TLS").unwrap();
    let (certificate, key) = tls.split_once(',').unwrap();
    let mut server = Command::new(program);
    server.args([
        "-l",
        &format!("127.0.0.1:{port}"),
        "-username",
        "svc@vsphere.local",
        "-password",
        "secret",
    ]);
    let server = server.args(["-tlscert", certificate, "-tlskey", key]).spawn().unwrap();
    let _server = Gateway(server);
    wait_until("it listens", Duration::from_secs(20), || {
        std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
    });
    site.password("secret");
    let site = Site {
        served: Served { port, world: site.served.world.clone() },
        folder: site.folder.clone(),
        certificate: Certificate::new(),
    };
    let (status, said) = site.check("cluster = DC0_C0");
    assert_eq!(status, 1, "{said}");
    let shown =
        said.split_whitespace().find(|word| word.starts_with("sha256:")).unwrap().trim_end_matches(':');
    let lines = format!("trust = {shown}\nhost = DC0_H0\ncluster = DC0_C0");
    let (status, said) = site.check(&lines);
    assert!(
        status == 0 && said.contains("DC0_C0_H2  DC0_C0      0  connected") && said.contains("DC0_H0     -"),
        "{said}"
    );
    changes_at_vmwares_own_simulator(&site, &lines);
    site.password("wrong");
    let (status, said) = site.check(&lines);
    assert!(status == 1 && said.contains("user or password is wrong"), "{said}");
}

/// Facts, settings of a VM, power, maintenance mode, a task that fails, a log: by the calls of others.
fn changes_at_vmwares_own_simulator(site: &Site, lines: &str) {
    use serde_json::json;
    let file = site.folder.join("gateway.conf");
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains("trust ="), "{lines}");
    let doors =
        gateway::doors_to(&vsgpu_host_agent::agent(), &file, Some(&site.folder.join("memory"))).unwrap();
    let facts = vsgpu_host_agent::catalogue().facts(Scope::Host);
    let (system, vm) = doors
        .values()
        .find_map(|system| {
            let seen = vsgpu_core::observe::observe(system.as_ref(), &Subject::node(), &facts);
            for fact in ["esx-version", "host-graphics", "pci-gpus", "maintenance-mode", "vcenter"] {
                assert!(seen[fact].is_ok(), "{fact}: {:?}", seen[fact]);
            }
            let vms = seen["virtual-machines"].as_ref().unwrap()["vms"].clone();
            let vm = vms.as_array().unwrap().iter().find(|vm| vm["running"] == true)?;
            Some((
                system,
                (
                    vm["name"].as_str().unwrap().to_string(),
                    vm["vmid"].to_string(),
                    vm["vmx"].as_str().unwrap().to_string(),
                ),
            ))
        })
        .expect("a host of vcsim has a running VM");
    let (name, vmid, vmx) = vm;
    let run = |words: &[&str]| system.run(&vsgpu_core::Command::new("vim-cmd", words.iter().copied()));
    // It writes into the log of a VM that starts.
    let log = system.tail(&vmx.replace(&format!("{name}.vmx"), "vmware.log"), 4096);
    println!("vmware.log: {:?}", log.as_ref().map(|bytes| bytes.len()));
    assert!(run(&["vmsvc/power.off", &vmid]).ok());
    let twice = run(&["vmsvc/power.off", &vmid]);
    assert!(twice.stdout.contains("InvalidPowerState"), "{twice:?}");
    let of_vm = |name_of, spec| apply_one(system.as_ref(), (name_of, Some(name.as_str()), spec)).0;
    let outcome = of_vm("memory-reserved", json!("all"));
    assert!(matches!(outcome, Outcome::Applied { .. }), "{outcome:?}");
    let outcome = of_vm("vgpu", json!([{ "profile": "grid_a100-10c", "params": { "enable_uvm": 1 } }]));
    assert!(matches!(outcome, Outcome::Applied { .. }), "{outcome:?}");
    let outcome = of_vm("vgpu", json!([]));
    assert!(matches!(outcome, Outcome::Applied { .. }), "{outcome:?}");
    let outcome = of_vm("mmio", json!(128));
    assert!(matches!(outcome, Outcome::Applied { .. }), "{outcome:?}");
    // A file goes onto a datastore and is read back; what installs packages it does not have.
    let bytes = files::vib("NVIDIA-x", "1-1OEM.700.1.0.1", 100_000);
    let sha256 = vsgpu_core::text::hex(&sha2::Sha256::digest(&bytes));
    let datastore = vmx.split('/').nth(3).unwrap();
    let target = vsgpu_core::artifact::stored_path(Some(datastore), &sha256, "x.vib");
    let partial = format!("{target}.partial");
    let size = bytes.len() as u64;
    let file = vsgpu_core::Incoming {
        name: "x.vib".into(),
        target: target.clone(),
        partial,
        size,
        sha256,
        offset: 0,
    };
    let mut once = Some(bytes);
    assert!(system.is_folder(&format!("/vmfs/volumes/{datastore}")).unwrap());
    system.upload(&file, &mut || once.take()).unwrap();
    let install =
        vsgpu_core::Command::new("esxcli", ["software", "vib", "install", "-v", &target]).within(60);
    let installed = system.run(&install);
    println!("install: {installed:?}");
    assert!(!installed.ok() && !format!("{installed:?}").contains("another file"), "{installed:?}");
    // A copy, and what there is already.
    let clone = |vm: &str| apply_one(system.as_ref(), ("clone-of", Some(vm), json!({ "base": name }))).0;
    let outcome = clone("copied");
    assert!(matches!(outcome, Outcome::Applied { .. }), "{outcome:?}");
    assert!(matches!(clone("copied"), Outcome::AlreadyMet { .. }));
    let elsewhere = clone(if name == "DC0_H0_VM0" { "DC0_C0_RP0_VM0" } else { "DC0_H0_VM0" });
    assert!(matches!(elsewhere, Outcome::Blocked { .. }), "{elsewhere:?}");
    // It enters maintenance mode with VMs that run; ours does not ask it to.
    let host = |state| apply_one(system.as_ref(), ("maintenance-mode", None, json!({ "state": state }))).0;
    println!("maintenance mode: {:?}, {:?}", host("on"), host("off"));
    assert!(run(&["vmsvc/power.on", &vmid]).ok());
}

fn main() -> std::process::ExitCode {
    vsgpu_tests::harness::main(&[("", TESTS)])
}

const TESTS: &[vsgpu_tests::harness::Test] = vsgpu_tests::tests![
    hosts_are_found_and_nothing_is_left_behind,
    what_is_missing_is_said_by_purpose,
    facts_are_those_of_the_hosts_own_tools,
    hosts_are_served_to_a_controller,
    a_bare_host_is_made_ready_as_by_its_own_tools,
    every_requirement_that_the_api_has_is_met_by_it,
    changes_that_fail_say_why,
    a_vm_that_may_not_be_read_is_not_off,
    a_refused_login_is_not_tried_again,
    what_cannot_be_done_blocks_before_anything_goes_down,
    vcenter_copies_vms_of_the_host_and_templates_of_any,
    new_vms_of_a_cluster_are_made_where_they_fit,
    drs_moves_vms_out_of_the_way_and_the_rest_is_shut_down,
    what_drs_leaves_people_move_while_it_waits,
    packages_are_installed_through_vcenter,
    a_single_package_needs_no_administrator,
    sizes_of_vgpus_are_set_and_read_without_the_driver,
    tasks_are_told_while_they_run,
    a_task_is_found_again_by_its_id,
    counters_of_gpus_are_printed_and_served,
    a_report_says_what_the_server_says_and_nothing_of_the_site,
    names_that_do_not_fit_the_inventory_are_named,
    nobody_is_believed_unseen,
    a_wrong_password_and_a_full_server_are_told_apart,
    a_session_that_ends_is_begun_again,
    hostile_answers_are_refused_in_words,
    recorded_answers_of_real_servers_are_read[Captures],
    a_large_inventory_takes_few_calls,
    a_large_site_is_read_with_few_calls,
    vmwares_own_simulator_is_served[Vcsim]
];
