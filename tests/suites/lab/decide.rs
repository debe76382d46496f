//! The questions before and behind a change, on what real agents say of simulated hosts: will it fit, what is wrong.

use serde_json::Value;
use vsgpu_tests::lab::{Lab, files};

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|why| panic!("{why}: {text}"))
}

/// Two hosts with two GPUs each, and a VM with a vGPU on one of them.
fn fleet(lab: &Lab) -> String {
    format!(
        "version: 1\nhosts:\n  esx-01:\n    address: {}\n    acceptance-level: VMwareAccepted\n    graphics-type: SharedPassthru\n    vgpu-manager: {{ package: files/{}, datastore: datastore1 }}\n  esx-02:\n    address: {}\nvms:\n  vm-01:\n    host: esx-01\n    vgpu: [grid_a100-10c]\n    power: on\n",
        lab.address("esx-01"),
        files::MANAGER_17_4,
        lab.address("esx-02"),
    )
}

#[test]
fn what_still_fits_is_told_from_agents_and_from_saved_facts_alike() {
    let lab = Lab::new("decide-fit");
    let gpus = ["0000:3b:00.0", "0000:af:00.0"];
    lab.host("esx-01", "8.0.2", gpus.map(files::a100).to_vec());
    lab.host("esx-02", "8.0.2", gpus.map(files::a100).to_vec());
    lab.vm("vm-01", "esx-01");
    files::write_all(&lab.folder.join("files"));
    lab.write_fleet(&fleet(&lab));
    lab.start();
    lab.expect(0, &["apply", "--yes"]);
    let asked = lab.expect(0, &["fit", "--current", "--svg", "now.svg", "-o", "json"]);
    let drawn = std::fs::read_to_string(lab.folder.join("now.svg")).unwrap();
    assert!(drawn.starts_with("<svg") && drawn.contains("esx-01"), "{drawn}");
    let ready = json(&lab.expect(0, &["ready", "-o", "json"]));
    let vm = &ready["vms"][0];
    assert_eq!(
        (&vm["vm"], &vm["vmotion"]["answer"], &vm["suspend"]["answer"]),
        (&"vm-01".into(), &"if-set".into(), &"yes".into()),
        "{ready}"
    );
    assert_eq!(ready["hosts"][0]["may-move"], serde_json::json!(["vm-01"]));
    assert!(
        ready["settings"]
            .as_array()
            .is_some_and(|s| s.iter().any(|s| s.as_str().unwrap().contains("hotmigrate")))
    );
    let saved = lab.folder.join("facts.json");
    std::fs::write(&saved, lab.expect(0, &["facts", "-o", "json"])).unwrap();
    let saved = saved.display().to_string();
    let fleet = lab.folder.join("fleet.yaml").display().to_string();
    // No agent is there any more.
    for host in ["esx-01", "esx-02"] {
        lab.stop_agent(host);
    }
    let offline = lab.expect(0, &["fit", &fleet, "--facts", &saved, "--current", "-o", "json"]);
    assert_eq!(json(&asked), json(&offline));
    // 4 GPUs of 40 GB, one of them with 10 of it in use, all of it in one size.
    let free = &json(&offline)["free"];
    assert_eq!(
        (&free["a100-40c"], &free["a100-10c"], &free["a100-20c"]),
        (&3.into(), &15.into(), &6.into()),
        "{offline}"
    );
    let fits = |code: i32, want: &str| {
        json(&lab.expect(code, &["fit", &fleet, "--facts", &saved, "--want", want, "-o", "json"]))
    };
    let answer = fits(0, "15 x a100-10c");
    assert!(answer["fits"] == true && answer["moves"] == Value::Array(vec![]), "{answer}");
    assert_eq!(answer["placement"][0]["vms"][0]["vm"], "vm-01");
    let answer = fits(6, "16 x a100-10c");
    assert!(answer["proven"] == true && answer["bound"] == 5, "{answer}");
    let said = lab.expect(6, &["fit", &fleet, "--facts", &saved, "--want", "1 x passthrough"]);
    assert!(said.contains("Does not fit"), "{said}");
}

/// A way that is whole says so; a driver that is gone is the first broken link, with its cause; saved facts
/// say the same.
#[test]
fn the_first_broken_link_is_shown_with_its_cause() {
    let lab = Lab::new("decide-diagnose");
    lab.host("esx-01", "8.0.2", vec![files::a100("0000:3b:00.0")]);
    lab.vm("vm-01", "esx-01");
    files::write_all(&lab.folder.join("files"));
    lab.write_fleet(&format!(
        "version: 1\ndeadlines: {{ host-reboot-secs: 20, guest-boot-secs: 20 }}\nhosts:\n  esx-01:\n    address: {}\n    graphics-type: SharedPassthru\n    vgpu-manager: {{ package: files/{}, datastore: datastore1 }}\nvms:\n  vm-01:\n    host: esx-01\n    vgpu: [grid_a100-40c]\n    guest:\n      address: {}\n      driver: {{ package: files/{} }}\n      license: {{ token: files/{}, wait-secs: 3 }}\n",
        lab.address("esx-01"),
        files::MANAGER_16_6,
        lab.address("vm-01"),
        files::DRIVER_16_6,
        files::TOKEN_FILE
    ));
    lab.start();
    lab.expect(0, &["apply", "--yes"]);
    let said = lab.expect(0, &["diagnose"]);
    assert!(said.starts_with("All good: 1 way"), "{said}");
    lab.change("vm-01", |m| m.linux().loaded = None);
    let said = lab.expect(3, &["diagnose", "-n", "vm-01"]);
    let line = |word: &str| said.lines().find(|l| l.trim().starts_with(word)).unwrap_or_default().to_string();
    assert!(line("host").contains("ok") && line("VM").contains("ok"), "{said}");
    assert!(line("guest driver").contains("BROKEN"), "{said}");
    assert!(said.contains("guest-driver-not-loaded: "), "{said}");
    let answer = json(&lab.expect(3, &["diagnose", "-o", "json"]));
    let first = &answer["findings"][0];
    assert_eq!(
        (&first["cause"], &first["stage"]),
        (&"guest-driver-not-loaded".into(), &"guest".into()),
        "{answer}"
    );
    assert!(first["fix"].as_array().is_some_and(|fix| !fix.is_empty()) && first["source"].is_string());
    let facts = lab.folder.join("facts.json");
    std::fs::write(&facts, lab.expect(0, &["facts", "-o", "json"])).unwrap();
    let fleet = lab.folder.join("fleet.yaml").display().to_string();
    let facts = facts.display().to_string();
    // A bundle holds what that takes, and no secret.
    let bundle = lab.folder.join("b.tar.gz").display().to_string();
    let said = lab.expect(0, &["bundle", "--out", &bundle]);
    assert!(said.contains("No keys, tokens, passwords or logs are in it"), "{said}");
    let mut text = String::new();
    let packed = std::fs::read(&bundle).unwrap();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&packed[..]), &mut text).unwrap();
    assert!(text.contains("latest-run.json") && text.contains("diagnosis.json"));
    assert!(!text.contains(vsgpu_tests::lab::TOKEN) && !text.contains("PRIVATE KEY"));
    // What no key of the file wishes for is seen all the same: by the facts of host, VM and guest together.
    lab.change("vm-01", |m| m.linux().loaded = Some("535.183.06".into()));
    lab.change("esx-01", |m| m.esxi().gpus[0].graphics_type = "Shared".into());
    let bare = lab.folder.join("bare.yaml").display().to_string();
    let text = format!(
        "version: 1\nhosts:\n  esx-01: {{ address: {} }}\nvms:\n  vm-01: {{ host: esx-01, guest: {{ address: {} }} }}\n",
        lab.address("esx-01"),
        lab.address("vm-01")
    );
    std::fs::write(&bare, text).unwrap();
    let said = lab.expect(3, &["diagnose", &bare]);
    assert!(said.contains("host") && said.contains("BROKEN"), "{said}");
    assert!(
        said.contains("graphics-type-shared: ") && said.contains("0000:3b:00.0 is still Shared"),
        "{said}"
    );
    assert!(said.contains("facts of esx-01") && !said.contains("line 0"), "{said}");
    for node in ["esx-01", "vm-01"] {
        lab.stop_agent(node);
    }
    let offline = json(&lab.expect(3, &["diagnose", &fleet, "--facts", &facts, "-o", "json"]));
    assert_eq!(offline["ways"], answer["ways"]);
    let bundled = json(&lab.expect(3, &["diagnose", "--bundle", &bundle, "-o", "json"]));
    assert_eq!(bundled["findings"][0]["cause"], "guest-driver-not-loaded");
    // The other questions take the bundle for facts, with the fleet file that is in it.
    assert!(lab.expect(0, &["ready", "--facts", &bundle]).contains("vm-01"));
    assert!(lab.expect(0, &["fit", "--current", "--facts", &bundle]).contains("esx-01"));
    let other = lab.folder.join("other.gz").display().to_string();
    let mut gzip =
        flate2::write::GzEncoder::new(std::fs::File::create(&other).unwrap(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, b"a log\n").unwrap();
    gzip.finish().unwrap();
    let refused = lab.vsgpu(&["ready", "--facts", &other]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("no `vsgpu bundle`"), "{refused:?}");
}

/// A VM that was moved behind our back: said where it is, counted where it is, and nothing else is blamed.
#[test]
fn a_vm_on_another_host_is_said_by_its_name() {
    let lab = Lab::new("decide-moved");
    for host in ["esx-01", "esx-02"] {
        lab.host(host, "8.0.2", vec![files::a100("0000:3b:00.0")]);
    }
    lab.vm("vm-01", "esx-01");
    lab.vm("vm-02", "esx-01");
    files::write_all(&lab.folder.join("files"));
    let fleet = fleet(&lab).replace(
        "    power: on\n",
        "    power: on\n  vm-02:\n    host: esx-02\n    vgpu: [grid_a100-20c]\n    power: on\n",
    );
    lab.write_fleet(&fleet);
    lab.start();
    let said = lab.expect(6, &["plan"]);
    assert!(said.contains("error[vm-elsewhere]: vm-02 is on esx-01, the fleet file says esx-02"), "{said}");
    assert!(
        said.contains("hint: if esx-01 is right, write `host: esx-01` for it") && !said.contains("gpu-owner"),
        "{said}"
    );
    let said = lab.expect(3, &["verify"]);
    assert!(said.contains("host") && said.contains("on esx-01 -> esx-02"), "{said}");
    assert!(!said.contains("no VM `vm-02` is registered"), "{said}");
    // As the file should have said it.
    lab.write_fleet(&fleet.replace("host: esx-02", "host: esx-01").replace("a100-20c", "a100-10c"));
    lab.expect(3, &["plan"]);
}

/// What an agent counts in its metrics goes with a run, and the next run takes its place.
#[test]
fn agents_count_what_a_person_agreed_to_and_nothing_else() {
    let lab = Lab::new("decide-counted");
    for host in ["esx-01", "esx-02"] {
        lab.host(host, "8.0.2", vec![files::a100("0000:3b:00.0")]);
    }
    lab.vm("vm-01", "esx-01");
    lab.vm_without_guest("base", "esx-01");
    lab.change("esx-01", |m| {
        let path = "/vmfs/volumes/datastore1/base/base.vmx";
        let text = m.text(path).unwrap() + "scsi0:0.present = \"TRUE\"\nscsi0:0.fileName = \"base.vmdk\"\n";
        m.write(path, &text);
        m.write("/vmfs/volumes/datastore1/base/base.vmdk", "simulated disk\n");
        m.esxi().vms.iter_mut().filter(|vm| vm.name == "base").for_each(|vm| vm.on = false);
    });
    files::write_all(&lab.folder.join("files"));
    let other = format!("    address: {}\n", lab.address("esx-02"));
    let fleet = fleet(&lab).replace(&other, &format!("{other}    acceptance-level: VMwareAccepted\n"));
    lab.write_fleet(&fleet);
    lab.start();
    let counted = |host: &str| -> Vec<String> {
        let kept = lab.machine(host).join("root/etc/opt/vsgpu/wishes.json");
        let kept = std::fs::read_to_string(kept).unwrap_or_else(|_| "{}".into());
        json(&kept).as_object().unwrap().keys().cloned().collect()
    };
    // To look is to send nothing; copies are none of the fleet file's.
    lab.expect(3, &["plan"]);
    lab.expect(3, &["verify"]);
    lab.expect(0, &["clone", "--host", "esx-01", "--base", "base", "--name", "x-01", "--yes"]);
    assert!(counted("esx-01").is_empty() && counted("esx-02").is_empty());
    lab.expect(0, &["apply", "--yes"]);
    let both =
        ["/acceptance-level", "/graphics-type", "/vgpu-manager", "vm-01/memory-reserved", "vm-01/vgpu"];
    assert_eq!(counted("esx-01"), both);
    // The VM leaves the file: it is others' from now on, also where nothing is to do.
    lab.write_fleet(fleet.split("vms:\n").next().unwrap());
    lab.expect(0, &["apply", "--yes"]);
    assert_eq!(counted("esx-01"), both[..3]);
    // A host leaves it, and is away: it is told by the first run that finds it again, and once.
    assert!(!counted("esx-02").is_empty());
    let without = fleet.split("vms:\n").next().unwrap().split("  esx-02:").next().unwrap().to_string();
    lab.write_fleet(&without);
    lab.stop_agent("esx-02");
    lab.expect(0, &["apply", "--yes"]);
    assert!(!counted("esx-02").is_empty());
    lab.start_agent("esx-02");
    lab.expect(0, &["apply", "--yes"]);
    assert!(counted("esx-02").is_empty());
    let told = std::fs::read_to_string(lab.folder.join(".vsgpu/fleet/counted.json")).unwrap();
    assert!(told.contains("esx-01") && !told.contains("esx-02"), "{told}");
}

/// A VM of any of several hosts is followed where it runs, from one verb to the next.
#[test]
fn a_vm_of_several_hosts_is_followed() {
    let lab = Lab::new("decide-any");
    for host in ["esx-01", "esx-02", "esx-03"] {
        lab.host(host, "8.0.2", vec![files::a100("0000:3b:00.0")]);
    }
    lab.vm_without_guest("vm-01", "esx-02");
    files::write_all(&lab.folder.join("files"));
    let host = |name: &str| {
        format!(
            "  {name}:\n    address: {}\n    graphics-type: SharedPassthru\n    vgpu-manager: {{ package: files/{}, datastore: datastore1 }}\n",
            lab.address(name),
            files::MANAGER_17_4
        )
    };
    let fleet = |any: &str| {
        format!(
            "version: 1\nrollout: {{ max-unavailable: 3 }}\nhosts:\n{}{}{}vms:\n  vm-01:\n    host: {{ any: {any} }}\n    vgpu: [grid_a100-10c]\n    power: on\n    shutdown-secs: 2\n",
            host("esx-01"),
            host("esx-02"),
            host("esx-03")
        )
    };
    lab.write_fleet(&fleet("[esx-01, esx-02]"));
    lab.start();
    lab.expect(0, &["validate"]);
    lab.expect(0, &["apply", "--yes"]);
    let said = lab.expect(0, &["verify", "-o", "wide"]);
    assert!(said.contains("vgpu") && !said.contains("file says"), "{said}");
    assert!(
        lab.changing_calls("esx-02").iter().any(|c| c.contains("power.on")),
        "{:?}",
        lab.changing_calls("esx-02")
    );
    // It moves to its other host, behind our back: nothing is wrong, and nothing is to do.
    let vm = lab.state("esx-02").esxi().vms[0].clone();
    let vmx = lab.state("esx-02").text("/vmfs/volumes/datastore1/vm-01/vm-01.vmx").unwrap();
    lab.change("esx-02", |m| m.esxi().vms.clear());
    lab.change("esx-01", |m| {
        m.write("/vmfs/volumes/datastore1/vm-01/vm-01.vmx", &vmx);
        m.esxi().vms.push(vm.clone());
    });
    let said = lab.expect(0, &["plan"]);
    assert!(said.contains("nothing to do"), "{said}");
    // And to one that the file does not allow.
    lab.change("esx-01", |m| m.esxi().vms.clear());
    lab.change("esx-03", |m| {
        m.write("/vmfs/volumes/datastore1/vm-01/vm-01.vmx", &vmx);
        m.esxi().vms.push(vm.clone());
    });
    let said = lab.expect(6, &["plan"]);
    assert!(said.contains("vm-01 is on esx-03, the fleet file says esx-01 or esx-02"), "{said}");
    lab.write_fleet(&fleet("\"esx-[01-03]\""));
    lab.expect(0, &["plan"]);
    for (any, word) in [
        ("[esx-09]", "there is no host `esx-09`"),
        ("[]", "`any` names no host"),
        ("{ a: b }", "a text is expected"),
    ] {
        lab.write_fleet(&fleet(any));
        let said = lab.expect(2, &["validate"]);
        assert!(said.contains(word), "{said}");
    }
}
