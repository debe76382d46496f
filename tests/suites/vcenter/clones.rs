//! New VMs: copies of VMs and templates, and where in a cluster they are made.

use super::*;

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
    // Also those that are not to run yet.
    lab.write_fleet(&of("{ cluster: GPU-A }").replace("    power: on\n", ""));
    lab.expect(3, &["plan", "--out", "plan.json"]);
    let plan = std::fs::read(lab.folder.join("plan.json")).unwrap();
    let plan: serde_json::Value = serde_json::from_slice(&plan).unwrap();
    let steps = plan["plan"]["steps"].as_array().unwrap().iter();
    let of_vms = steps.filter(|step| step["node"].to_string().contains("vm-2"));
    let hosts: std::collections::BTreeSet<&str> = of_vms.filter_map(|step| step["host"].as_str()).collect();
    assert!(hosts.contains("esx-01") && hosts.contains("esx-02"), "{hosts:?}");
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

pub const TESTS: &[vsgpu_tests::harness::Test] = vsgpu_tests::tests![
    vcenter_copies_vms_of_the_host_and_templates_of_any,
    new_vms_of_a_cluster_are_made_where_they_fit
];
