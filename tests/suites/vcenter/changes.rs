//! What a gateway changes at hosts and VMs: to the same end as by the hosts' own tools, also where it is cut off, refused
//! or overtaken.

use super::*;

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
            "image",
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

pub const TESTS: &[vsgpu_tests::harness::Test] = vsgpu_tests::tests![
    a_bare_host_is_made_ready_as_by_its_own_tools,
    every_requirement_that_the_api_has_is_met_by_it,
    changes_that_fail_say_why,
    a_vm_that_may_not_be_read_is_not_off,
    what_cannot_be_done_blocks_before_anything_goes_down,
    sizes_of_vgpus_are_set_and_read_without_the_driver,
    tasks_are_told_while_they_run,
    a_task_is_found_again_by_its_id
];
