//! Laws over every requirement of every list, on simulated machines linked into this process: apply then
//! check is Met; applying twice changes nothing; a crash at every command ends in the same state; what a fact
//! exports checks as Met; stored formats still read.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "test code"
)]

use serde_json::{Value, json};
use std::path::PathBuf;
use vsgpu_core::apply::{self, ApplyOptions};
use vsgpu_core::catalogue::Entry;
use vsgpu_core::engine::manifest::Side;
use vsgpu_core::outcome::{self, Outcome};
use vsgpu_core::requirement::{TakesEffect, Verdict};
use vsgpu_core::{Catalogue, Effect, Scope, Subject, effects, observe};
use vsgpu_tests::fakes::bitfusion;
use vsgpu_tests::fakes::in_process::InProcess;
use vsgpu_tests::fakes::state::Machine;
use vsgpu_tests::lab::{self, files};

struct World {
    _lab: lab::Lab,
    host: PathBuf,
    guest: PathBuf,
    fleet: vsgpu::fleet::Fleet,
}

/// A host with a VM whose guest has everything before the driver done; artifacts lie where the agent would
/// have put them.
fn world(name: &str) -> World {
    let lab = lab::Lab::new(name);
    // One GPU for vGPUs, one given away, one divided by MIG.
    lab.host(
        "esx-01",
        "8.0.3",
        vec![files::a100("0000:3b:00.0"), files::a100("0000:af:00.0"), files::a100("0000:d8:00.0")],
    );
    lab.vm("vm-01", "esx-01");
    lab.vm("base", "esx-01");
    lab.change("esx-01", |m| {
        m.esxi().vms[1].on = false;
        let base = "/vmfs/volumes/datastore1/base/base.vmx";
        let text = m.text(base).unwrap()
            + "scsi0:0.present = \"TRUE\"\nscsi0:0.fileName = \"base.vmdk\"\nuuid.bios = \"56 4d\"\nnvram = \"base.nvram\"\n";
        m.write(base, &text);
        m.write("/vmfs/volumes/datastore1/base/base.vmdk", "simulated disk\n");
        m.write("/vmfs/volumes/datastore1/base/base.nvram", "simulated variables\n");
    });
    // The guest has a container engine, and a newer kernel without the driver's module.
    lab.change("vm-01", |m| {
        m.linux().packages.insert("docker".into());
        m.link("docker");
        m.linux().newer_kernel = Some("6.1.0-31-amd64".into());
        m.write("/boot/vmlinuz-6.1.0-31-amd64", "simulated\n");
        m.write("/lib/modules/6.1.0-31-amd64/modules.order", "");
    });
    std::fs::create_dir_all(lab.folder.join("files")).unwrap();
    let put =
        |name: &str, bytes: Vec<u8>| std::fs::write(lab.folder.join("files").join(name), bytes).unwrap();
    put(
        files::MANAGER_17_4,
        files::bundle("NVD-VMware_ESXi_8.0.0_Driver", "550.127.06-1OEM.800.1.0.20613240", true, 1000),
    );
    put(
        files::DAEMON_17_4,
        files::bundle("nvdgpumgmtdaemon", "550.127.06-1OEM.700.1.0.15843807", true, 1000),
    );
    put(files::DRIVER_17_4, files::run_file("nvidia-installer", 1000));
    put(files::CUDA_12_2, files::run_file("cuda-installer", 1000));
    put(files::TOKEN_FILE, lab::TOKEN.as_bytes().to_vec());
    put(files::ENGINE_SERVER, files::engine(Side::Server, "a"));
    put(files::ENGINE_CLIENT, files::engine(Side::Client, "a"));
    put(files::BITFUSION, b"!<arch>\nsimulated\n".to_vec());
    put("tokens.tar", bitfusion::tokens(&[bitfusion::SERVER], bitfusion::GOOD));
    // The lab's power events are not listened to here: a reboot happens at once.
    std::fs::remove_file(lab.folder.join("lab.sock")).unwrap();
    let text = format!(
        "version: 1\nhosts:\n  esx-01:\n    graphics-type: SharedPassthru\n    assignment-policy: Consolidation\n    acceptance-level: VMwareAccepted\n    passthrough: [\"0000:af:00.0\"]\n    ecc: {{ \"0000:3b:00.0\": off }}\n    mig: {{ \"0000:d8:00.0\": on }}\n    vgpu-mode: {{ \"0000:3b:00.0\": MixedSize }}\n    vgpu-scheduler: equal-share\n    vgpu-manager: {{ package: files/{}, datastore: datastore1 }}\n    gpu-management-daemon: {{ package: files/{}, datastore: datastore1 }}\nvms:\n  vm-01:\n    host: esx-01\n    firmware: efi\n    cpu-reserved: all\n    vgpu: [{{ profile: grid_a100-40c, params: {{ enable_uvm: 1 }} }}]\n    passthrough: [A100]\n    guest:\n      package-source: {{ proxy: \"http://proxy:3128\" }}\n      driver: {{ package: files/{} }}\n      persistence: on\n      license: {{ token: files/{} }}\n      cuda-toolkit: {{ package: files/{} }}\n      container-proof: {{}}\n      gpu-server: {{ engine: {{ lupine: files/{} }}, port: {}, teams: {{ own: {{ members: [vm-01], gpus: 1 }} }} }}\n      network-gpu: {{ engine: {{ lupine: files/{} }}, servers: [vm-01] }}\n      address: 127.0.0.1:7443\n  vm-02:\n    host: esx-01\n    clone-of: {{ base: base }}\n  vm-03:\n    host: esx-01\n    guest:\n      address: 127.0.0.1:7443\n      network-gpu: {{ engine: {{ bitfusion: {{ package: files/{}, tokens: files/tokens.tar }} }} }}\n",
        files::MANAGER_17_4,
        files::DAEMON_17_4,
        files::DRIVER_17_4,
        files::TOKEN_FILE,
        files::CUDA_12_2,
        files::ENGINE_SERVER,
        lab::free_port(),
        files::ENGINE_CLIENT,
        files::BITFUSION
    );
    lab.write_fleet(&text);
    let mut fleet = vsgpu::fleet::file::read(&lab.folder.join("fleet.yaml")).unwrap();
    vsgpu::fleet::file::resolve(&mut fleet).unwrap();
    let (host, guest) = (lab.machine("esx-01"), lab.machine("vm-01"));
    for (id, spec) in fleet.specs().iter().flat_map(|(id, specs)| specs.iter().map(move |spec| (id, spec))) {
        let entry = vsgpu::catalogue().find(id.kind.scope(), spec.requirement).unwrap();
        for placed in (entry.files)(&spec.value) {
            let machine = if placed.datastore.is_some() { &host } else { &guest };
            let to = machine
                .join("root")
                .join(placed.artifact.stored(placed.datastore.as_deref()).trim_start_matches('/'));
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            std::fs::copy(lab.folder.join(&placed.artifact.artifact), to).unwrap();
        }
    }
    World { host, guest, fleet, _lab: lab }
}

/// Every requirement in an order in which it can be met, with what it is about and what it needs first.
fn road(world: &World) -> Vec<(Entry, Subject, PathBuf, Value)> {
    let catalogue = vsgpu::catalogue();
    let mut road = vec![];
    let mut add_to = |vm: &str, scope: Scope, name: &str, spec: Value| {
        let entry = *catalogue.find(scope, name).unwrap();
        let (on, machine) = match scope {
            Scope::Host => (Subject::node(), &world.host),
            Scope::Vm => (Subject::vm(vm), &world.host),
            Scope::Guest => (Subject::node(), &world.guest),
        };
        road.push((entry, on, machine.clone(), (entry.read_spec)(&spec).unwrap()));
    };
    let all_specs = world.fleet.specs();
    let mut add = |scope, name: &str, spec| add_to("vm-01", scope, name, spec);
    add(Scope::Vm, "power", json!({ "state": "off" }));
    add(Scope::Host, "maintenance-mode", json!({ "state": "on" }));
    for (id, specs) in &all_specs {
        if id.kind == vsgpu::node::NodeKind::Host {
            specs.iter().for_each(|s| add(Scope::Host, s.requirement, (*s.value).clone()));
        }
    }
    add(Scope::Host, "maintenance-mode", json!({ "state": "off" }));
    for (id, specs) in &all_specs {
        if id.kind == vsgpu::node::NodeKind::Vm {
            specs.iter().for_each(|s| add_to(&id.name, Scope::Vm, s.requirement, (*s.value).clone()));
        }
    }
    let mut add = |scope, name: &str, spec| add_to("vm-01", scope, name, spec);
    add(Scope::Vm, "power", json!({ "state": "on" }));
    // One guest for all: `network-gpu` is met by our own servers first, then by Bitfusion's.
    for (id, specs) in &all_specs {
        if id.kind == vsgpu::node::NodeKind::Guest {
            specs.iter().for_each(|s| add(Scope::Guest, s.requirement, (*s.value).clone()));
        }
    }
    road
}

/// Applies, activates as the engine would, and returns whether anything was changed.
fn make_so(system: &InProcess, entry: &Entry, on: &Subject, spec: &Value) -> Result<bool, String> {
    match apply::apply(system, entry, on, spec, &ApplyOptions::default(), &mut |_| {}) {
        Outcome::AlreadyMet { .. } => Ok(false),
        Outcome::Applied { active: true, .. } => Ok(true),
        Outcome::Applied { active: false, .. } => {
            let effects = match entry.takes_effect {
                TakesEffect::AfterReboot if entry.scope == Scope::Guest => vec![vsgpu_guest_agent::reboot()],
                TakesEffect::AfterReboot => vec![vsgpu_host_agent::reboot()],
                TakesEffect::AfterRestart(name) => {
                    (vsgpu::catalogue().restarts().iter().find(|r| r.name == name).unwrap().effects)()
                }
                TakesEffect::AtOnce => panic!("{}: at once, but not active", entry.name),
            };
            effects.iter().try_for_each(|e: &Effect| effects::act(system, e)).map_err(|e| e.to_string())?;
            match apply::settle(system, entry, on, spec) {
                Outcome::Applied { active: true, .. } => Ok(true),
                other => Err(format!("{other:?}")),
            }
        }
        other => Err(format!("{other:?}")),
    }
}

#[test]
fn apply_then_check_is_met_twice_changes_nothing_and_exports_itself() {
    let world = world("laws");
    let mut walked = vec![];
    for (entry, on, machine, spec) in road(&world) {
        let system = InProcess::new(machine.clone(), None);
        make_so(&system, &entry, &on, &spec).unwrap_or_else(|e| panic!("{}: {e}", entry.name));
        let verdict = apply::verdict(&system, &entry, &on, &spec).unwrap();
        assert!(verdict.is_met(), "{}: {verdict:?}", entry.name);
        let again = InProcess::new(machine, None);
        assert_eq!(make_so(&again, &entry, &on, &spec), Ok(false), "{}", entry.name);
        assert_eq!(again.changes(), 0, "{}: the second time changed something", entry.name);
        let fact = observe::observe(&system, &on, &[entry.fact]).remove(entry.fact.name).unwrap().unwrap();
        // A fact that was read survives the wire.
        assert_eq!(
            (entry.check)(&spec, &serde_json::from_str(&fact.to_string()).unwrap()),
            Ok(verdict),
            "{}",
            entry.name
        );
        if let Some(exported) = (entry.as_spec)(&fact).unwrap() {
            let verdict = (entry.check)(&(entry.read_spec)(&exported).unwrap(), &fact).unwrap();
            assert!(verdict.is_met(), "{}: {exported} exported, {verdict:?}", entry.name);
        }
        walked.push((entry.scope, entry.name));
    }
    let all: &Catalogue = vsgpu::catalogue();
    // Only vCenter has these: the suite `vcenter` tries them.
    let elsewhere = ["evacuable", "image", "drs-options"];
    let open = all.entries.iter().filter(|e| !walked.contains(&(e.scope, e.name)));
    let missed: Vec<&str> = open.map(|e| e.name).filter(|name| !elsewhere.contains(name)).collect();
    assert!(missed.is_empty(), "no law was tried on: {missed:?}");
}

#[test]
fn a_full_disk_stops_a_driver_before_anything_is_changed() {
    let world = world("full");
    let (entry, on, machine, spec) =
        road(&world).into_iter().find(|(entry, ..)| entry.name == "driver").unwrap();
    Machine::with(&machine, |state| state.disk_free_bytes = Some(0));
    let system = InProcess::new(machine, None);
    match apply::apply(&system, &entry, &on, &spec, &ApplyOptions::default(), &mut |_| {}) {
        Outcome::Blocked { why, .. } => {
            assert!(why.starts_with("/tmp: 0 bytes are free, the driver needs at least "), "{why}")
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(system.changes(), 0);
}

#[test]
fn a_power_cut_at_every_change_ends_in_the_same_state() {
    let mut tried = 0;
    let clean = world("cut-clean");
    for (at, (entry, _, machine, _)) in road(&clean).iter().enumerate() {
        let before = InProcess::new(machine.clone(), None);
        let (_, on, _, spec) = &road(&clean)[at];
        make_so(&before, entry, on, spec).unwrap_or_else(|e| panic!("{}: {e}", entry.name));
        for cut in 0..2 * before.changes() {
            // A fresh world walked up to here, then the power goes at this change.
            let broken = world("cut");
            let steps = road(&broken);
            for (entry, on, machine, spec) in &steps[..at] {
                make_so(&InProcess::new(machine.clone(), None), entry, on, spec).unwrap();
            }
            let (entry, on, machine, spec) = &steps[at];
            let _ = make_so(&InProcess::new(machine.clone(), Some(cut)), entry, on, spec);
            let after = InProcess::new(machine.clone(), None);
            make_so(&after, entry, on, spec).unwrap_or_else(|e| panic!("{} cut at {cut}: {e}", entry.name));
            assert!(apply::verdict(&after, entry, on, spec).unwrap().is_met(), "{} cut at {cut}", entry.name);
            let calls = std::fs::read_to_string(machine.join("calls.log")).unwrap_or_default();
            let reboots = |needle: &str| calls.lines().filter(|l| l.contains(needle)).count();
            assert!(reboots("systemctl reboot") <= 1, "{} cut at {cut}: rebooted twice", entry.name);
            tried += 1;
        }
    }
    assert!(tried >= 30, "only {tried} cuts");
}

#[test]
fn every_example_is_a_spec_and_every_schema_an_object() {
    for entry in &vsgpu::catalogue().entries {
        let example: Value = serde_json::from_str(entry.example).unwrap();
        let full = (entry.read_spec)(&example).unwrap_or_else(|e| panic!("{}: {e:?}", entry.name));
        assert_eq!((entry.read_spec)(&full), Ok(full.clone()), "{}: the full form reads back", entry.name);
        assert!((entry.schema)().is_object());
        for implied in entry.implied_by {
            let by =
                *vsgpu::catalogue().find(entry.scope, implied.by).unwrap_or_else(|| panic!("{}", entry.name));
            let other = (by.read_spec)(&serde_json::from_str(by.example).unwrap()).unwrap();
            // The example may be one of those from which nothing follows.
            let Some(spec) = (implied.spec)(&other) else { continue };
            (entry.read_spec)(&spec).unwrap_or_else(|e| panic!("{}: {e:?}", entry.name));
        }
    }
}

#[test]
fn a_machine_that_is_neither_as_planned_nor_as_wanted_is_left_alone() {
    let world = world("stale");
    let (entry, on, machine, spec) =
        road(&world).into_iter().find(|(e, ..)| e.name == "assignment-policy").unwrap();
    let system = InProcess::new(machine, None);
    let Ok(Verdict::Unmet { effects, .. }) = apply::verdict(&system, &entry, &on, &spec) else {
        panic!("not unmet")
    };
    let planned =
        outcome::Expectation { is: "something else".into(), effects: effects.into(), started: false };
    let outcome = apply::apply(
        &system,
        &entry,
        &on,
        &spec,
        &ApplyOptions { expected: Some(&planned), ..ApplyOptions::default() },
        &mut |_| {},
    );
    assert!(matches!(outcome, Outcome::Stale { .. }), "{outcome:?}");
    assert_eq!(system.changes(), 0);
}
