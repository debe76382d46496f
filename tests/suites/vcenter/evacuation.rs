//! VMs that leave a host before its maintenance mode, as the simulated DRS moves them, or people do.

use super::*;

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

pub const TESTS: &[vsgpu_tests::harness::Test] = vsgpu_tests::tests![
    drs_moves_vms_out_of_the_way_and_the_rest_is_shut_down,
    what_drs_leaves_people_move_while_it_waits
];
