//! From one vGPU release to another on two simulated hosts: real controllers and agents, packages of our own.

use serde_json::Value;
use vsgpu_tests::lab::small_fleet::count;
use vsgpu_tests::lab::{Lab, files};

const OF_16_6: [&str; 2] = [files::MANAGER_16_6, files::DRIVER_16_6];
const INSTALL: &str = "component apply";

/// Two hosts with one GPU, a VM with a vGPU on each; these packages run.
fn two(name: &str, [manager, driver]: [&str; 2]) -> Lab {
    let lab = Lab::new(name);
    for (host, vm) in [("esx-01", "vm-01"), ("esx-02", "vm-02")] {
        lab.host(host, "8.0.2", vec![files::a100("0000:3b:00.0")]);
        lab.vm(vm, host);
    }
    files::write_all(&lab.folder.join("files"));
    let host = |host: &str| format!("  {host}: {{ address: \"{}\" }}\n", lab.address(host));
    let vm = |vm: &str, host: &str| {
        format!(
            "  {vm}:\n    host: {host}\n    vgpu: [grid_a100-40c]\n    guest: {{ address: \"{}\" }}\n",
            lab.address(vm)
        )
    };
    lab.write_fleet(&format!(
        "version: 1\ndeadlines: {{ host-reboot-secs: 60, guest-boot-secs: 60 }}\ndefaults:\n  host:\n    graphics-type: SharedPassthru\n    vgpu-manager: {{ package: files/{}, datastore: datastore1 }} # one for all\n  vm:\n    shutdown-secs: 5\n  guest:\n    driver:\n      package: files/{}\n    license: {{ token: files/{} }}\n    cuda-proof: {{ samples: off }}\nhosts:\n{}{}vms:\n{}{}",
        manager,
        driver,
        files::TOKEN_FILE,
        host("esx-01"),
        host("esx-02"),
        vm("vm-01", "esx-01"),
        vm("vm-02", "esx-02"),
    ));
    lab.start();
    lab.expect(0, &["apply", "--yes"]);
    lab
}

fn fleet_file(lab: &Lab) -> String {
    std::fs::read_to_string(lab.folder.join("fleet.yaml")).unwrap()
}

fn manager(lab: &Lab, host: &str) -> Option<String> {
    lab.state(host).esxi.unwrap().loaded
}

fn driver(lab: &Lab, vm: &str) -> Option<String> {
    lab.state(vm).linux.unwrap().loaded
}

#[test]
fn a_fleet_goes_to_another_release_and_every_vm_is_proven() {
    let lab = two("upgrade", OF_16_6);
    let before = fleet_file(&lab);
    // The way, without a package.
    let said = lab.expect(3, &["upgrade", "--to", "17.4", "--explain"]);
    for part in [
        "To vGPU 17.4: vGPU manager 550.127.06, Linux driver 550.127.05.",
        "1 round, 2 reboots of hosts, 2 guests with new drivers.",
        "esx-[01-02]: 535.183.04 (vGPU 16.6 or 16.7)",
        "vm-[01-02]: computes right, with 90% of today's bandwidth",
        "one host first, alone",
    ] {
        assert!(said.contains(part), "`{part}`: {said}");
    }
    let json: Value =
        serde_json::from_str(&lab.expect(3, &["upgrade", "--to", "17.4", "--explain", "-o", "json"]))
            .unwrap();
    let round = &json["rounds"][0];
    assert_eq!(
        (&round["hosts"], &round["guests"]),
        (&serde_json::json!(["esx-01", "esx-02"]), &serde_json::json!(["vm-01", "vm-02"]))
    );
    assert!(round["between"][0]["guest"].as_str().unwrap().contains("16.6"), "{json}");
    // Nothing is done without packages, and nothing backwards.
    let said = lab.expect(2, &["upgrade", "--to", "17.4", "--yes"]);
    assert!(said.contains("packages are missing") && said.contains("--files DIR"), "{said}");
    assert!(lab.expect(6, &["upgrade", "--to", "15.4", "--explain"]).contains("which is newer than"));
    assert!(lab.expect(2, &["upgrade", "--to", "17.44", "--explain"]).contains("did you mean `17.4`?"));
    assert_eq!(fleet_file(&lab), before);

    let said = lab.expect(0, &["upgrade", "--to", "17.4", "--files", "files", "--yes"]);
    assert!(said.contains("vGPU 17.4 on 2 hosts and 2 guests."), "{said}");
    assert!(said.contains("535.183.01 -> 550.127.05") && said.contains("100 % of before"), "{said}");
    for (host, vm) in [("esx-01", "vm-01"), ("esx-02", "vm-02")] {
        assert_eq!(manager(&lab, host).as_deref(), Some("550.127.06"), "{said}");
        assert_eq!(driver(&lab, vm).as_deref(), Some("550.127.05"), "{said}");
    }
    // The file says what is so, with its comments; the old one is beside it.
    let after = fleet_file(&lab);
    assert_eq!(
        after,
        before
            .replace(files::MANAGER_16_6, files::MANAGER_17_4)
            .replace(files::DRIVER_16_6, files::DRIVER_17_4)
    );
    assert_eq!(std::fs::read_to_string(lab.folder.join("fleet.yaml.before-17.4")).unwrap(), before);
    lab.expect(0, &["verify"]);
    assert!(
        lab.expect(0, &["upgrade", "--to", "17.4", "--files", "files", "--yes"]).contains("Nothing is to do")
    );
    // Saved facts say the same without an agent.
    let saved = lab.folder.join("facts.json");
    std::fs::write(&saved, lab.expect(0, &["facts", "-o", "json"])).unwrap();
    ["esx-01", "esx-02", "vm-01", "vm-02"].iter().for_each(|node| lab.stop_agent(node));
    let saved = saved.display().to_string();
    let said = lab.expect(3, &["upgrade", "--to", "18.5", "--explain", "--facts", &saved]);
    assert!(said.contains("550.127.06 (vGPU 17.4)"), "{said}");
}

/// The first host's VM computes right and is slow: it goes back, the other host is never touched, and the file is as it
/// was.
#[test]
fn a_vm_that_is_slower_than_before_takes_its_host_back() {
    let lab = two("upgrade-slow", OF_16_6);
    let before = fleet_file(&lab);
    for vm in ["vm-01", "vm-02"] {
        lab.change(vm, |m| m.linux.as_mut().unwrap().slow_with = Some("550.127.05".into()));
    }
    let installs = |host: &str| count(&lab.calls(host), INSTALL);
    let other = installs("esx-02");
    let said = lab.expect(5, &["upgrade", "--to", "17.4", "--files", "files", "--yes"]);
    assert!(said.contains("650") && said.contains("90%"), "what was slow is said: {said}");
    assert!(said.contains("the upgrade failed on esx-01, which runs again as before"), "{said}");
    assert_eq!(
        (manager(&lab, "esx-01").as_deref(), driver(&lab, "vm-01").as_deref()),
        (Some("535.183.04"), Some("535.183.01")),
        "{said}"
    );
    assert_eq!(installs("esx-02"), other, "{said}");
    assert_eq!(fleet_file(&lab), before);
    lab.expect(0, &["verify"]);
    // Asked to stay, it stays.
    let said = lab.expect(5, &["upgrade", "--to", "17.4", "--files", "files", "--yes", "--no-rollback"]);
    assert!(said.contains("esx-01: left as it is"), "{said}");
    assert_eq!(manager(&lab, "esx-01").as_deref(), Some("550.127.06"));
}

/// 19 takes no guest of 17: 18 comes in between, and no pair that does not go together is ever there.
#[test]
fn a_release_in_between_keeps_every_pair_together() {
    let lab = two("upgrade-far", [files::MANAGER_17_4, files::DRIVER_17_4]);
    let write =
        |name: &str, bytes: Vec<u8>| std::fs::write(lab.folder.join("files").join(name), bytes).unwrap();
    for (manager, driver) in [("570.195.02", "570.195.03"), ("580.178.05", "580.178.04")] {
        let version = format!("{manager}-1OEM.800.1.0.20613240");
        let bundle = files::bundle("NVD-VMware_ESXi_8.0.0_Driver", &version, true, 1 << 16);
        write(&format!("NVD-VGPU-800_{version}_1.zip"), bundle);
        let other =
            files::bundle("NVD-VMware_ESXi_9.0.0_Driver", &version.replace("800", "900"), true, 1 << 16);
        write(&format!("NVD-VGPU-900_{}_1.zip", version.replace("800", "900")), other);
        write(
            &format!("NVIDIA-Linux-x86_64-{driver}-grid.run"),
            files::run_file("nvidia-installer", 1 << 16),
        );
        write(&format!("NVIDIA-Linux-x86_64-{driver}.run"), files::run_file("nvidia-installer", 1 << 16));
    }
    let said = lab.expect(0, &["upgrade", "--to", "19.6", "--files", "files", "--yes"]);
    assert!(said.contains("round 1 of 2: vGPU 18.5") && said.contains("round 2 of 2: vGPU 19.6"), "{said}");
    assert!(said.contains("550.127.05 -> 580.178.04"), "{said}");
    assert_eq!(
        (manager(&lab, "esx-02").as_deref(), driver(&lab, "vm-02").as_deref()),
        (Some("580.178.05"), Some("580.178.04"))
    );
    // As many reboots as rounds.
    for host in ["esx-01", "esx-02"] {
        assert_eq!(count(&lab.calls(host), "shutdown reboot"), 1 + 2, "{host}");
        assert!(!lab.calls(host).iter().any(|call| call.contains("VGPU-900")), "a package of another ESXi");
    }
    lab.expect(0, &["verify"]);
    assert!(fleet_file(&lab).contains("580.178.04-grid.run\n"));
}
