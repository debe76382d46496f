//! Hosts and VMs through the vSphere API, against a simulated vCenter of ours; VMware's own simulator is a second peer on
//! demand (`peer.rs`). `cargo test -p vsgpu-tests --test vcenter clones::` runs one part.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout, reason = "test code")]

mod changes;
mod check;
mod clones;
mod evacuation;
mod facts;
mod images;
mod packages;
mod peer;
mod sessions;

use sha2::Digest as _;
use std::io::BufRead as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
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

fn two_clusters() -> World {
    let host = |name: &str, cluster| SimHost::new(name, cluster);
    let mut hosts: Vec<SimHost> = (1..=7).map(|n| host(&format!("esx-0{n}.example.com"), Some(0))).collect();
    hosts.extend([host("esx-11.example.com", Some(1)), host("alone.example.com", None)]);
    World::new(hosts)
}

const HOSTS: &str = "host = alone.example.com\ncluster = GPU-A";

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

fn main() -> std::process::ExitCode {
    vsgpu_tests::harness::main(&[
        ("facts", facts::TESTS),
        ("changes", changes::TESTS),
        ("clones", clones::TESTS),
        ("evacuation", evacuation::TESTS),
        ("packages", packages::TESTS),
        ("images", images::TESTS),
        ("sessions", sessions::TESTS),
        ("check", check::TESTS),
        ("peer", peer::TESTS),
    ])
}
