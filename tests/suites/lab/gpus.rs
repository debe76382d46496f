//! Whole GPUs, the host's GPU settings, clones and compatibility checks, on the lab: real processes, real
//! gRPC, simulated tools.

use vsgpu_tests::fakes::state::Gpu;
use vsgpu_tests::lab::{Lab, files};

fn count(calls: &[String], what: &str) -> usize {
    calls.iter().filter(|c| c.contains(what)).count()
}

fn vmx(lab: &Lab, host: &str, vm: &str) -> String {
    lab.state(host).text(&format!("/vmfs/volumes/datastore1/{vm}/{vm}.vmx")).unwrap()
}

/// A host with these GPUs and VMs; `fleet` says what is wished.
fn lab(name: &str, version: &str, gpus: Vec<Gpu>, vms: &[&str]) -> Lab {
    let lab = Lab::new(name);
    lab.host("esx-01", version, gpus);
    vms.iter().for_each(|vm| lab.vm(vm, "esx-01"));
    files::write_all(&lab.folder.join("files"));
    lab
}

fn guest(lab: &Lab, vm: &str) -> String {
    format!(
        "    guest:\n      address: {}\n      driver: {{ package: files/{} }}\n      cuda-toolkit: {{ package: files/{} }}\n",
        lab.address(vm),
        files::DRIVER_DATA_CENTER,
        files::CUDA_12_2
    )
}

fn fleet(lab: &Lab, host: &str, vms: &str) {
    let deadlines = "deadlines: { host-reboot-secs: 20, guest-boot-secs: 20 }";
    lab.write_fleet(&format!(
        "version: 1\n{deadlines}\nhosts:\n  esx-01:\n    address: {}\n{host}vms:\n{vms}",
        lab.address("esx-01")
    ));
}

#[test]
fn whole_gpus_from_the_host_to_the_proof_and_their_exchange() {
    let lab = lab(
        "whole",
        "8.0.3",
        ["0000:0d:00.0", "0000:5e:00.0", "0000:af:00.0"].map(files::a100).into(),
        &["vm-a", "vm-b"],
    );
    let vms = |a: &str, b: &str| {
        format!(
            "  vm-a:\n    host: esx-01\n    passthrough: {a}\n{}  vm-b:\n    host: esx-01\n    passthrough: {b}\n{}",
            guest(&lab, "vm-a"),
            guest(&lab, "vm-b")
        )
    };
    fleet(&lab, "    passthrough: [A100]\n", &vms("[{ model: A100, count: 2 }]", "[A100]"));
    lab.start();
    let plan = lab.expect(3, &["plan", "--commands"]);
    for line in [
        "256 GB (BAR1 64 + 64 GiB)",
        "128 GB (BAR1 64 GiB)",
        "esxcli hardware pci pcipassthru set -d 0000:0d:00.0 -e true -a",
        "pciPassthru0.id = \"00000:013:00.0\"",
        "only if it asks for it",
        "A100 PCIe 40GB",
    ] {
        assert!(plan.contains(line), "{line}\n{plan}");
    }
    lab.expect(0, &["apply", "--yes"]);
    let verified = lab.expect(0, &["verify", "-o", "wide"]);
    assert!(verified.contains("2 x NVIDIA A100") && !verified.contains("NOT:"), "{verified}");
    assert_eq!(count(&lab.calls("esx-01"), "shutdown reboot"), 0, "it applied at once");
    let (a, b) = (vmx(&lab, "esx-01", "vm-a"), vmx(&lab, "esx-01", "vm-b"));
    // Decimal in the .vmx, and what was there before is there still, in its order.
    assert!(
        a.contains("pciPassthru0.id = \"00000:013:00.0\"")
            && a.contains("pciPassthru1.id = \"00000:094:00.0\""),
        "{a}"
    );
    assert!(
        b.contains("pciPassthru0.id = \"00000:175:00.0\"")
            && b.contains("pciPassthru.64bitMMIOSizeGB = \"128\""),
        "{b}"
    );
    assert!(a.starts_with(".encoding = \"UTF-8\"\nconfig.version = \"8\"\n"), "{a}");
    lab.forget_calls();
    lab.expect(0, &["apply", "--yes"]);
    for name in ["esx-01", "vm-a", "vm-b"] {
        assert_eq!(lab.changing_calls(name), Vec::<String>::new(), "{name}");
    }
    // vm-b gives its GPU up, vm-a exchanges one of its two for it.
    let b_without = format!(
        "  vm-a:\n    host: esx-01\n    passthrough: [\"0000:0d:00.0\", \"0000:af:00.0\"]\n{}  vm-b:\n    host: esx-01\n    power: off\n    passthrough: []\n",
        guest(&lab, "vm-a")
    );
    fleet(&lab, "    passthrough: [A100]\n", &b_without);
    lab.expect(0, &["apply", "--yes"]);
    let (a, b) = (vmx(&lab, "esx-01", "vm-a"), vmx(&lab, "esx-01", "vm-b"));
    assert!(
        a.contains("00000:013:00.0") && a.contains("00000:175:00.0") && !a.contains("00000:094:00.0"),
        "{a}"
    );
    assert!(!b.contains("pciPassthru0"), "no key is left: {b}");
    assert!(lab.expect(0, &["verify", "-o", "wide"]).contains("2 x NVIDIA A100"));
}

#[test]
fn one_reboot_where_one_is_needed_and_never_a_second() {
    let lab = lab("stuck", "6.7.0", vec![files::t4("0000:3b:00.0"), files::t4("0000:af:00.0")], &["vm-a"]);
    fleet(&lab, "    passthrough: [T4]\n", "  vm-a:\n    host: esx-01\n");
    lab.change("esx-01", |m| m.esxi().gpus[1].stuck = true);
    lab.start();
    let plan = lab.expect(3, &["plan", "--commands"]);
    assert!(
        plan.contains("-d 0000:3b:00.0 -e true\n") && plan.contains("for passthrough\n"),
        "6.7 knows no apply-now: {plan}"
    );
    let said = lab.expect(5, &["apply", "--yes"]);
    assert!(said.contains("a second reboot would not help"), "{said}");
    assert_eq!(count(&lab.calls("esx-01"), "shutdown reboot"), 1);
    assert!(!lab.state("esx-01").esxi().maintenance, "no host is left in maintenance mode");
    // Again and again: a person must look, and nothing is rebooted.
    for _ in 0..2 {
        let said = lab.expect(6, &["apply", "--yes"]);
        assert!(
            said.contains("although the node was rebooted for it") && said.contains("ConfigStore"),
            "{said}"
        );
    }
    assert_eq!(count(&lab.calls("esx-01"), "shutdown reboot"), 1);
    // Mended and rebooted by hand: all is well.
    lab.change("esx-01", |m| {
        m.esxi().gpus[1].stuck = false;
        m.esxi().gpus[1].given = true;
    });
    lab.expect(0, &["apply", "--yes"]);
    assert_eq!(count(&lab.calls("esx-01"), "shutdown reboot"), 1);
}

/// 7.0 and 8.0 are known to leave passthrough configured and not active, also behind a reboot.
#[test]
fn what_stays_inactive_behind_a_reboot_is_turned_off_and_on_once() {
    let lab = lab("asleep", "8.0.2", vec![files::t4("0000:3b:00.0"), files::t4("0000:af:00.0")], &["vm-a"]);
    fleet(&lab, "    passthrough: [T4]\n", "  vm-a:\n    host: esx-01\n");
    lab.change("esx-01", |m| {
        m.esxi().gpus.iter_mut().for_each(|gpu| gpu.applies_at_once = true);
        m.esxi().gpus[1].asleep = true;
    });
    lab.start();
    let off = "pcipassthru set -d 0000:af:00.0 -e false -a";
    let plan = lab.expect(3, &["plan", "--commands"]);
    assert!(plan.contains(&format!("{off}  (once, if it is still not active)")), "{plan}");
    let said = lab.expect(0, &["apply", "--yes"]);
    assert!(said.contains("passthrough is not active after the reboot"), "{said}");
    let calls = lab.calls("esx-01");
    assert_eq!((count(&calls, "shutdown reboot"), count(&calls, off)), (1, 1), "{calls:?}");
    assert_eq!(count(&calls, "0000:3b:00.0 -e false"), 0, "the other one was active: {calls:?}");
    let host = lab.state("esx-01").esxi().clone();
    assert!(host.gpus.iter().all(|gpu| gpu.given) && !host.maintenance);
    lab.expect(0, &["plan"]);

    // Where that does not help either, it was tried once, and never again.
    lab.change("esx-01", |m| {
        m.esxi().gpus[1].given = false;
        m.esxi().gpus[1].stuck = true;
    });
    let said = lab.expect(5, &["apply", "--yes"]);
    assert!(said.contains("turned off and on once"), "{said}");
    lab.expect(6, &["apply", "--yes"]);
    let calls = lab.calls("esx-01");
    assert_eq!((count(&calls, "shutdown reboot"), count(&calls, off)), (2, 2), "{calls:?}");
    assert!(!lab.state("esx-01").esxi().maintenance, "no host is left in maintenance mode");
}

/// A GPU that came out after this program, by a row of the operator: named, given, with the window it needs,
/// although the host's agent has no such row.
#[test]
fn a_gpu_of_the_operators_own_table_is_one_like_others() {
    let new = |at: &str| Gpu {
        device_id: "0x3fff".into(),
        device_name: "NVX9 [X9000 SXM]".into(),
        ..files::t4(at)
    };
    let lab = lab("own-table", "8.0.3", vec![new("0000:3b:00.0"), files::t4("0000:af:00.0")], &["vm-a"]);
    fleet(
        &lab,
        "    passthrough: [X9000 SXM]\n",
        "  vm-a:\n    host: esx-01\n    passthrough: [X9000 SXM]\n",
    );
    lab.start();
    let said = lab.expect(0, &["validate"]);
    assert!(said.contains("not in our table of GPUs") && said.contains("`tables:`"), "{said}");
    let said = lab.expect(6, &["plan"]);
    assert!(said.contains("BAR1"), "{said}");
    let own = lab.folder.join("own");
    std::fs::create_dir_all(&own).unwrap();
    let row = |bar: &str| {
        format!(
            "name\tpci_device_id\tarch\tbar1_mb\tmem_gb_per_gpu\tstatus\tsource\nX9000 SXM\t3fff\tNext\t{bar}\t384\tconfirmed\tits datasheet\n"
        )
    };
    lab.write_fleet(&lab.fleet().replace("version: 1\n", "version: 1\ntables: own\n"));
    std::fs::write(own.join("gpus.tsv"), row("512 GB")).unwrap();
    let said = lab.expect(2, &["validate"]);
    assert!(
        said.contains("fleet.yaml:2:") && said.contains("gpus.tsv:2: `bar1_mb` is `512 GB`: a whole number"),
        "{said}"
    );
    std::fs::write(own.join("gpus.tsv"), row("524288")).unwrap();
    lab.expect(0, &["apply", "--yes"]);
    let vmx = lab.state("esx-01").text("/vmfs/volumes/datastore1/vm-a/vm-a.vmx").unwrap();
    assert!(vmx.contains("00000:059:00.0") && vmx.contains("64bitMMIOSizeGB = \"1024\""), "{vmx}");
    assert!(!lab.state("esx-01").esxi().gpus[1].given);
    lab.expect(0, &["plan"]);
    let said = lab.expect(0, &["compat", "--list-tables", "--tables", "own"]);
    assert!(said.contains("1 new"), "{said}");
    let said =
        lab.expect(0, &["fit", "--tables", "own", "--hosts", "1 x 2 X9000", "--want", "2 x passthrough"]);
    assert!(said.contains("Fits: 2 VMs"), "{said}");
}

#[test]
fn a_gpu_goes_back_to_serve_vgpus() {
    let lab = lab("back", "8.0.3", vec![files::a100("0000:3b:00.0")], &["vm-a"]);
    lab.change("esx-01", |m| {
        m.esxi().gpus[0].given = true;
        m.esxi().gpus[0].given_pending = true;
        m.esxi().gpus[0].graphics_type = "Direct".into();
    });
    let host = format!(
        "    passthrough: none\n    graphics-type: SharedPassthru\n    vgpu-manager: {{ package: files/{}, datastore: datastore1 }}\n",
        files::MANAGER_16_6
    );
    let vm = format!(
        "  vm-a:\n    host: esx-01\n    vgpu: [grid_a100-20c, grid_a100-20c]\n    guest:\n      address: {}\n      driver: {{ package: files/{} }}\n      license: {{ token: files/{} }}\n      cuda-toolkit: {{ package: files/{} }}\n",
        lab.address("vm-a"),
        files::DRIVER_16_6,
        files::TOKEN_FILE,
        files::CUDA_12_2
    );
    fleet(&lab, &host, &vm);
    lab.start();
    lab.expect(0, &["apply", "--yes"]);
    let verified = lab.expect(0, &["verify", "-o", "wide"]);
    assert!(verified.contains("2 x GRID A100-20C") && verified.contains("Licensed"), "{verified}");
    assert_eq!(count(&lab.calls("esx-01"), "shutdown reboot"), 1, "one reboot for the manager and the GPU");
}

#[test]
fn a_vm_that_does_not_start_is_explained_and_the_others_go_on() {
    let lab = lab(
        "explained",
        "8.0.3",
        vec![files::a100("0000:3b:00.0"), files::a100("0000:af:00.0")],
        &["vm-a", "vm-b"],
    );
    // A board with a larger BAR1 than the table says: the computed window is too small.
    lab.change("esx-01", |m| m.esxi().gpus[0].bar1_mib = 131_072);
    let vms = format!(
        "  vm-a:\n    host: esx-01\n    passthrough: [\"0000:3b:00.0\"]\n{}  vm-b:\n    host: esx-01\n    passthrough: [\"0000:af:00.0\"]\n{}",
        guest(&lab, "vm-a"),
        guest(&lab, "vm-b")
    );
    fleet(&lab, "    passthrough: [A100]\n", &vms);
    lab.start();
    let said = lab.expect(5, &["apply", "--yes"]);
    assert!(
        said.contains("the VM's MMIO window is too small") && said.contains("exceeds limit (33554432)"),
        "{said}"
    );
    assert!(said.contains("hint: 128 GiB are asked for: set `mmio: 256`"), "{said}");
    assert!(lab.calls("esx-01").iter().any(|c| c == "vim-cmd vmsvc/power.off 1"), "it is stopped");
    let mut state = lab.state("esx-01");
    assert!(!state.esxi().vms[0].on && state.esxi().vms[1].on, "and the other one runs");
    assert!(lab.expect(4, &["verify"]).contains("vm-b  esx-01  0000:af:00.0  550.127.05"));
    // As the hint says.
    lab.write_fleet(&lab.fleet().replace("[\"0000:3b:00.0\"]\n", "[\"0000:3b:00.0\"]\n    mmio: 256\n"));
    lab.expect(0, &["apply", "--yes"]);
    lab.expect(0, &["verify"]);
}

#[test]
fn wrong_combinations_are_refused_before_anything_is_touched() {
    let lab = lab(
        "gate",
        "8.0.2",
        vec![files::a100("0000:3b:00.0"), files::a100("0000:af:00.0")],
        &["vm-a", "vm-b"],
    );
    let host = format!(
        "    graphics-type: SharedPassthru\n    vgpu-manager: {{ package: files/{}, datastore: datastore1 }}\n",
        files::MANAGER_16_6
    );
    let vm = |name: &str, what: &str, driver: &str| {
        let address = lab.address(name);
        format!(
            "  {name}:\n    host: esx-01\n    {what}\n    guest:\n      address: {address}\n      driver: {{ package: files/{driver} }}\n      license: {{ token: files/{} }}\n",
            files::TOKEN_FILE
        )
    };
    lab.start();
    for (a, words) in [
        // A guest newer than its host.
        (
            vm("vm-a", "vgpu: [grid_a100-40c]", files::DRIVER_17_4),
            vec![
                "driver-pair",
                "a guest must never be newer than its host",
                "535.183.01 for this host (vGPU 16.6)",
            ],
        ),
        // The data-center driver on a vGPU.
        (
            vm("vm-a", "vgpu: [grid_a100-40c]", files::DRIVER_DATA_CENTER),
            vec!["driver-kind", "does not drive a vGPU"],
        ),
        // A profile of another board.
        (
            vm("vm-a", "vgpu: [grid_p100-8q]", files::DRIVER_16_6),
            vec!["profile-exists", "A100 PCIe 40GB", "grid_a100-8c"],
        ),
        // More than fits.
        (
            vm("vm-a", "vgpu: [grid_a100-20c, grid_a100-40c]", files::DRIVER_16_6),
            vec!["profile-fits", "same-size mode that takes 3 GPU(s)"],
        ),
        // A whole GPU that the host keeps.
        (
            vm("vm-a", "passthrough: [\"0000:3b:00.0\"]", files::DRIVER_DATA_CENTER),
            vec!["gpu-owner", "passthrough: [\"0000:3b:00.0\"]"],
        ),
        // One GPU at power-on for each of two VMs, and none of that kind given away.
        (
            vm("vm-a", "passthrough: [{ dynamic: \"10de:20f1\" }]", files::DRIVER_DATA_CENTER),
            vec!["gpu-owner", "1 are needed, the host has 0 for passthrough"],
        ),
        // vMotion of a whole GPU.
        (
            vm("vm-a", "{ passthrough: [A100], expects: [vmotion] }", files::DRIVER_DATA_CENTER).replace(
                "{ passthrough: [A100], expects: [vmotion] }",
                "passthrough: [A100]\n    expects: [vmotion]",
            ),
            vec!["migration", "vMotion is expected"],
        ),
        (
            vm("vm-a", "passthrough: [A100]\n    expects: [suspend]", files::DRIVER_DATA_CENTER),
            vec!["migration", "uspend"],
        ),
    ] {
        fleet(&lab, &host, &(a + &vm("vm-b", "vgpu: [grid_a100-40c]", files::DRIVER_16_6)));
        lab.forget_calls();
        let said = lab.expect(6, &["plan", "--commands"]);
        for word in words {
            assert!(said.contains(word), "{word}\n{said}");
        }
        assert_eq!(lab.changing_calls("esx-01"), Vec::<String>::new());
    }
    let right = vm("vm-a", "vgpu: [grid_a100-40c]", files::DRIVER_16_6);
    for (host, a, constraint) in [
        (&*host.replace("SharedPassthru", "Shared"), right.clone(), "host-serves"),
        (&*format!("{host}    vgpu-mode: MixedSize\n"), right.clone(), "mixed-sizes"),
        (&*format!("{host}    mig: {{ \"0000:ff:00.0\": on }}\n"), right.clone(), "gpu-names"),
        (&host, right.replace("    guest:", "    memory-reserved: null\n    guest:"), "memory"),
        (&host, right.replace("license: {", "license: { product: vWS,"), "license-product"),
    ] {
        fleet(&lab, host, &(a + &vm("vm-b", "vgpu: [grid_a100-40c]", files::DRIVER_16_6)));
        let output = lab.vsgpu(&["plan", "--commands"]);
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(said.contains(constraint), "{constraint}\n{said}");
    }
    // The one that is right goes on by itself once the host is there.
    let ok = vm("vm-a", "vgpu: [grid_a100-40c]", files::DRIVER_16_6)
        + &vm("vm-b", "vgpu: [grid_a100-40c]", files::DRIVER_16_6);
    fleet(&lab, &host, &ok);
    lab.expect(0, &["apply", "--yes"]);
    fleet(
        &lab,
        &host,
        &(vm("vm-a", "vgpu: [grid_a100-40c]", files::DRIVER_17_4)
            + &vm("vm-b", "vgpu: [grid_a100-40c]", files::DRIVER_16_6)),
    );
    let said = lab.expect(6, &["plan", "--commands"]);
    assert!(
        said.contains("vm-a (guest) wants driver") && !said.contains("vm-b"),
        "only vm-a is refused: {said}"
    );
    // Applied all the same: vm-a keeps what it has, and vm-b gets what it wants.
    fleet(
        &lab,
        &host,
        &(vm("vm-a", "vgpu: [grid_a100-40c]", files::DRIVER_17_4)
            + &vm("vm-b", "vgpu: [grid_a100-20c]", files::DRIVER_16_6)),
    );
    let before = vmx(&lab, "esx-01", "vm-a");
    lab.forget_calls();
    lab.expect(6, &["apply", "--yes"]);
    assert_eq!(vmx(&lab, "esx-01", "vm-a"), before);
    assert_eq!(lab.changing_calls("vm-a"), Vec::<String>::new());
    assert!(vmx(&lab, "esx-01", "vm-b").contains("grid_a100-20c"), "the others go on");
    fleet(
        &lab,
        &host,
        &(vm("vm-a", "vgpu: [grid_a100-40c]", files::DRIVER_17_4)
            + &vm("vm-b", "vgpu: [grid_a100-40c]", files::DRIVER_16_6)),
    );
    // Offline, on what the file states.
    let said = lab.expect(6, &["validate"]);
    assert!(said.contains("a guest must never be newer than its host"), "{said}");
    // NVIDIA's own catalogue overrides the table.
    std::fs::write(
        lab.folder.join("files/vgpuDriverCatalog.yaml"),
        "branch:\n  - { name: R535, type: host, allow: { branch: [R550] } }\n  - { name: R550, type: guest, allow: { branch: [R535] } }\ndriver:\n  - { version: 535.183.04, branch: R535, type: host }\n  - { version: 550.127.05, branch: R550, type: guest, os: [Linux] }\n",
    )
    .unwrap();
    lab.write_fleet(
        &lab.fleet().replace("version: 1\n", "version: 1\ndriver-catalogue: files/vgpuDriverCatalog.yaml\n"),
    );
    lab.expect(0, &["validate"]);
}

#[test]
fn clones_get_disks_and_identities_of_their_own_and_then_a_gpu_each() {
    let lab =
        lab("clones", "8.0.3", vec![files::a100("0000:3b:00.0"), files::a100("0000:af:00.0")], &["base"]);
    lab.change("esx-01", |m| {
        let path = "/vmfs/volumes/datastore1/base/base.vmx";
        let text = m.text(path).unwrap() + "scsi0:0.present = \"TRUE\"\nscsi0:0.fileName = \"base.vmdk\"\nuuid.bios = \"56 4d 01\"\nethernet0.generatedAddress = \"00:0c:29:00:00:01\"\n";
        m.write(path, &text);
        m.write("/vmfs/volumes/datastore1/base/base.vmdk", "simulated disk\n");
    });
    fleet(&lab, "    passthrough: [A100]\n", "  base:\n    host: esx-01\n");
    lab.start();
    let args = |more: &'static str| {
        vec!["clone", "--host", "esx-01", "--base", "base", "--name", "vm-[01-02]", more]
    };
    let said = lab.expect(6, &args("--yes"));
    assert!(said.contains("base runs: its disks cannot be copied"), "{said}");
    lab.change("esx-01", |m| m.esxi().vms[0].on = false);
    let plan = lab.expect(0, &args("--dry-run"));
    assert!(
        plan.contains("vmkfstools -i /vmfs/volumes/datastore1/base/base.vmdk /vmfs/volumes/datastore1/vm-02/vm-02.vmdk -d thin"),
        "{plan}"
    );
    assert_eq!(lab.state("esx-01").esxi().vms.len(), 1);
    lab.expect(0, &args("--yes"));
    let mut names: Vec<String> = lab.state("esx-01").esxi().vms.iter().map(|v| v.name.clone()).collect();
    names.sort();
    assert_eq!(names, ["base", "vm-01", "vm-02"]);
    let text = vmx(&lab, "esx-01", "vm-02");
    assert!(text.contains("displayName = \"vm-02\"") && text.contains("fileName = \"vm-02.vmdk\""), "{text}");
    assert!(!text.contains("uuid.bios") && !text.contains("generatedAddress"), "{text}");
    lab.forget_calls();
    assert!(lab.expect(0, &args("--yes")).contains("nothing to do"));
    assert_eq!(lab.changing_calls("esx-01"), Vec::<String>::new());
    // The same in a fleet file, and a GPU for each: made, edited and started in one run.
    fleet(
        &lab,
        "    passthrough: [A100]\n",
        "  vm-[01-02]:\n    host: esx-01\n    clone-of: { base: base }\n    passthrough: [A100]\n    power: on\n",
    );
    lab.expect(0, &["apply", "--yes"]);
    let ids: Vec<String> = ["vm-01", "vm-02"]
        .iter()
        .map(|vm| {
            vmx(&lab, "esx-01", vm).lines().find(|l| l.contains("pciPassthru0.id")).unwrap().to_string()
        })
        .collect();
    assert_ne!(ids[0], ids[1]);
    // A base with a PCI device is no base.
    let said = lab.expect(6, &["clone", "--host", "esx-01", "--base", "vm-01", "--name", "vm-03", "--yes"]);
    assert!(said.contains("it holds PCI devices"), "{said}");
}

#[test]
fn every_setting_of_a_host_in_two_reboots() {
    let gpus = ["0000:3b:00.0", "0000:5e:00.0", "0000:af:00.0"].map(files::a100).into();
    let lab = lab("settings", "8.0.3", gpus, &["vm-a", "vm-b", "vm-c"]);
    let host = format!(
        "    acceptance-level: PartnerSupported\n    vgpu-manager: {{ package: files/{}, datastore: datastore1 }}\n    gpu-management-daemon: {{ package: files/{}, datastore: datastore1 }}\n    passthrough: [\"0000:af:00.0\"]\n    graphics-type: SharedPassthru\n    assignment-policy: Consolidation\n    ecc: {{ \"0000:3b:00.0\": off, others: auto }}\n    mig: {{ \"0000:5e:00.0\": on }}\n    vgpu-mode: {{ \"0000:3b:00.0\": MixedSize }}\n    vgpu-scheduler: equal-share\n",
        files::MANAGER_17_4,
        files::DAEMON_17_4
    );
    let vm = |name: &str, what: &str| {
        let address = lab.address(name);
        format!(
            "  {name}:\n    host: esx-01\n    {what}\n    guest:\n      address: {address}\n      driver: {{ package: files/{} }}\n      license: {{ token: files/{} }}\n      cuda-toolkit: {{ package: files/{} }}\n",
            files::DRIVER_17_4,
            files::TOKEN_FILE,
            files::CUDA_12_2
        )
    };
    let vms = [
        vm("vm-a", "vgpu: [{ profile: grid_a100-20c, params: { enable_uvm: 1 } }]"),
        vm("vm-b", "vgpu: [grid_a100-10c]"),
        vm("vm-c", "vgpu: [grid_a100-3-20c]"),
    ]
    .concat();
    fleet(&lab, &host, &vms);
    lab.start();
    lab.expect(0, &["apply", "--yes"]);
    lab.expect(0, &["verify"]);
    assert_eq!(
        count(&lab.calls("esx-01"), "shutdown reboot"),
        2,
        "one for manager and passthrough, one for what needs a driver to be set"
    );
    let mut state = lab.state("esx-01");
    let host = state.esxi();
    assert!(host.gpus[0].mixed && host.gpus[1].mig && host.gpus[2].given && host.gpus[0].ecc == Some(false));
    assert_eq!(host.parameters["NVreg_RegistryDwords"], "RmPVMRL=0x01");
    assert!(lab.calls("esx-01").iter().all(|c| !c.contains("-cgi")), "ESXi makes GPU instances itself");
    assert!(vmx(&lab, "esx-01", "vm-a").contains("pciPassthru0.cfg.enable_uvm = \"1\""));
    let facts = lab.expect(0, &["facts", "-n", "esx-01"]);
    for word in ["SharedPassthru", "BIOS: above-4G decoding on", "room for", "NUMA", "vm-a, vm-b"] {
        assert!(facts.contains(word), "{word}\n{facts}");
    }
    lab.forget_calls();
    lab.expect(0, &["apply", "--yes"]);
    assert_eq!(lab.changing_calls("esx-01"), Vec::<String>::new());
    // All of it taken away again: the packages too.
    let bare = "    vgpu-manager: absent\n    gpu-management-daemon: absent\n    passthrough: none\n";
    let off = ["vm-a", "vm-b", "vm-c"]
        .map(|vm| format!("  {vm}:\n    host: esx-01\n    power: off\n    vgpu: []\n"))
        .concat();
    fleet(&lab, bare, &off);
    lab.expect(0, &["apply", "--yes"]);
    let mut state = lab.state("esx-01");
    assert!(
        state.esxi().loaded.is_none() && state.esxi().vibs.len() == 1 && !state.esxi().gpus[2].given,
        "{:?}",
        state.esxi().vibs
    );
}

#[test]
fn no_outage_is_begun_for_what_nothing_brings() {
    let lab = lab("nothing", "8.0.3", vec![files::a100("0000:3b:00.0")], &["vm-a"]);
    // ECC without a driver and without a wish for one; a GPU that only a reboot by hand would bring.
    fleet(&lab, "    ecc: off\n", "  vm-a:\n    host: esx-01\n");
    lab.start();
    let said = lab.expect(6, &["apply", "--yes"]);
    assert!(said.contains("esx-01: ecc: off cannot be judged"), "{said}");
    lab.change("esx-01", |m| m.esxi().gpus[0].given_pending = true);
    fleet(&lab, "", "  vm-a:\n    host: esx-01\n    passthrough: [A100]\n");
    let said = lab.expect(6, &["apply", "--yes"]);
    assert!(said.contains("0000:3b:00.0 still belongs to the host"), "{said}");
    assert_eq!(lab.changing_calls("esx-01"), Vec::<String>::new());
}

#[test]
fn a_vm_that_runs_does_not_lose_its_gpu_to_a_wish_of_its_host() {
    let lab = lab(
        "lose",
        "8.0.3",
        vec![files::a100("0000:3b:00.0"), files::a100("0000:af:00.0")],
        &["vm-a", "vm-b"],
    );
    lab.change("esx-01", |m| {
        let path = "/vmfs/volumes/datastore1/vm-a/vm-a.vmx";
        let text = m.text(path).unwrap()
            + "pciPassthru0.present = \"TRUE\"\npciPassthru0.vgpu = \"grid_a100-40c\"\n";
        m.write(path, &text);
    });
    // vm-a runs with a vGPU that the fleet file does not speak of; the host is to give every GPU away.
    fleet(
        &lab,
        "    passthrough: [A100]\n",
        "  vm-a:\n    host: esx-01\n    power: on\n  vm-b:\n    host: esx-01\n    passthrough: [A100]\n",
    );
    lab.start();
    let said = lab.expect(6, &["apply", "--yes"]);
    assert!(said.contains("every A100 PCIe 40GB of the host is a passthrough device"), "{said}");
    // Without downtime, a GPU that runs is not pulled either.
    fleet(
        &lab,
        "    passthrough: { gpus: [\"0000:af:00.0\"], reboot: never }\n",
        "  vm-b:\n    host: esx-01\n",
    );
    let said = lab.expect(6, &["apply", "--yes"]);
    assert!(said.contains("is used by vm-a, which runs"), "{said}");
    assert_eq!(lab.changing_calls("esx-01"), Vec::<String>::new());
}

#[test]
fn a_removal_that_waits_for_the_next_boot_is_not_repeated() {
    let lab = lab("removal", "8.0.3", vec![files::a100("0000:3b:00.0")], &["vm-a"]);
    lab.change("esx-01", |m| {
        let host = m.esxi();
        host.says_no_reboot = false;
        let vib = |name: &str| vsgpu_tests::fakes::state::Vib {
            name: name.into(),
            version: "535.183.04-1OEM".into(),
            vendor: "NVIDIA".into(),
        };
        host.vibs.extend([vib("NVD-VMware_ESXi_8.0.0_Driver"), vib("nvdgpumgmtdaemon")]);
        host.loaded = Some("535.183.04".into());
    });
    fleet(
        &lab,
        "    vgpu-manager: absent\n    gpu-management-daemon: absent\n",
        "  vm-a:\n    host: esx-01\n",
    );
    lab.start();
    lab.expect(0, &["apply", "--yes"]);
    let calls = lab.calls("esx-01");
    assert_eq!((count(&calls, "vib remove"), count(&calls, "shutdown reboot")), (2, 1));
    assert_eq!(lab.state("esx-01").esxi().vibs.len(), 1);
}

#[test]
fn a_package_that_the_host_must_not_take_is_refused_with_the_way_out() {
    let lab = lab("acceptance", "8.0.3", vec![files::a100("0000:3b:00.0")], &["vm-a"]);
    lab.change("esx-01", |m| {
        m.esxi().acceptance = "VMwareCertified".into();
        m.esxi().profile = "(Updated) VMware Lifecycle Manager Generated Image".into();
    });
    let host = |more: &str, package: &str| {
        format!(
            "{more}    graphics-type: SharedPassthru\n    vgpu-manager: {{ package: files/{}, datastore: datastore1{package} }}\n",
            files::MANAGER_16_6
        )
    };
    let vm = "  vm-a:\n    host: esx-01\n";
    fleet(&lab, &host("", ""), vm);
    lab.start();
    let said = lab.expect(6, &["apply", "--yes"]);
    assert!(
        said.contains("made by vSphere Lifecycle Manager") && said.contains("image of the cluster"),
        "{said}"
    );
    fleet(&lab, &host("", ", allow-drift: true"), vm);
    let said = lab.expect(6, &["apply", "--yes"]);
    assert!(said.contains("never lowered silently: set `acceptance-level: VMwareAccepted`"), "{said}");
    assert_eq!(lab.changing_calls("esx-01"), Vec::<String>::new());
    // As the hint says: first the level, then the package.
    fleet(&lab, &host("    acceptance-level: VMwareAccepted\n", ", allow-drift: true"), vm);
    lab.expect(0, &["apply", "--yes"]);
    let calls = lab.changing_calls("esx-01");
    let at = |what: &str| {
        calls.iter().position(|c| c.contains(what)).unwrap_or_else(|| panic!("{what}: {calls:?}"))
    };
    assert!(at("acceptance set --level=VMwareAccepted") < at("component apply"));
}

/// The example that users read is the one that runs: every way vSphere offers a GPU, in one fleet.
#[test]
fn the_large_example_runs() {
    let lab = Lab::new("large");
    lab.large_fleet();
    lab.start();
    lab.expect(0, &["validate"]);
    lab.expect(0, &["apply", "--yes"]);
    let verified = lab.expect(0, &["verify", "-o", "wide"]);
    for vm in ["vm-11", "vm-12", "vm-13", "vm-14", "vm-21", "vm-31", "vm-32"] {
        let line = verified.lines().rfind(|l| l.starts_with(vm)).unwrap_or_else(|| panic!("{verified}"));
        assert!(line.contains("deviceQuery PASS, vectorAdd PASSED"), "{line}");
    }
    let mut state = lab.state("esx-04");
    assert!(
        ["clone-01", "clone-02"].iter().all(|name| state.esxi().vms.iter().any(|v| v.name == *name && v.on))
    );
    assert_eq!(count(&lab.calls("esx-03"), "shutdown reboot"), 0);
    assert_eq!(count(&lab.calls("esx-04"), "shutdown reboot"), 1);
    lab.expect(0, &["plan", "--commands"]);
}
