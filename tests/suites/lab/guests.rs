//! Guests in the lab (simulated machines, real agents and controller): several toolkits, containers, a kernel
//! update, health, figures of a proof and a baseline from them.

use vsgpu_tests::lab::{Lab, files};

/// An A100 host on vGPU 16.6 with one VM; `more` are further wishes of its guest.
fn lab(name: &str, more: &str) -> Lab {
    let lab = Lab::new(name);
    lab.host("esx-01", "8.0.2", vec![files::a100("0000:3b:00.0")]);
    lab.vm("vm-01", "esx-01");
    files::write_all(&lab.folder.join("files"));
    wish(&lab, more);
    lab
}

fn wish(lab: &Lab, more: &str) {
    lab.write_fleet(&format!(
        "version: 1\ndeadlines: {{ host-reboot-secs: 20, guest-boot-secs: 20 }}\nhosts:\n  esx-01:\n    address: {}\n    graphics-type: SharedPassthru\n    vgpu-manager: {{ package: files/{}, datastore: datastore1 }}\nvms:\n  vm-01:\n    host: esx-01\n    vgpu: [grid_a100-40c]\n    guest:\n      address: {}\n      driver: {{ package: files/{} }}\n      license: {{ token: files/{}, wait-secs: 3 }}\n{more}",
        lab.address("esx-01"),
        files::MANAGER_16_6,
        lab.address("vm-01"),
        files::DRIVER_16_6,
        files::TOKEN_FILE
    ));
}

#[test]
fn toolkits_side_by_side_containers_and_figures() {
    let second = "cuda_11.8.0_520.61.05_linux.run";
    let lab = lab(
        "guests-whole",
        &format!(
            "      persistence: on\n      cuda-toolkit: [{{ package: files/{} }}, {{ package: files/{second} }}]\n      cuda-proof: {{ bandwidth-at-least: 80%, samples: required }}\n      container-proof: {{ image: debian }}\n",
            files::CUDA_12_2
        ),
    );
    std::fs::write(lab.folder.join("files").join(second), files::run_file("cuda-installer", 1000)).unwrap();
    lab.change("vm-01", |m| {
        m.linux().packages.insert("docker".into());
        m.link("docker");
    });
    lab.start();
    let said = lab.expect(0, &["apply", "--yes"]);
    assert!(said.contains("84 % of 1555 (peak of A100 PCIe 40GB)"), "{said}");
    assert!(said.contains("docker in debian: 1 x") && said.contains("12.2.2, 11.8.0"), "{said}");
    let machine = lab.state("vm-01");
    assert_eq!(
        std::fs::read_link(machine.root("/usr/local/cuda")).unwrap().to_str(),
        Some("cuda-12.2"),
        "the first wish is the default"
    );
    assert!(machine.text("/etc/profile.d/vsgpu-cuda.sh").unwrap().contains("CUDA_HOME"));
    lab.forget_calls();
    lab.expect(0, &["apply", "--yes"]);
    assert_eq!(lab.changing_calls("vm-01"), Vec::<String>::new(), "the second time changes nothing");

    // The fleet's own figures become the baseline, and what is slower than it is no proof.
    let block = lab.expect(0, &["baseline"]);
    assert!(block.contains("\"GRID A100-40C (simulated)\":") && block.contains("device: 1300"), "{block}");
    let faster: String = block
        .replace("1300", "1600")
        .lines()
        .filter(|l| !l.starts_with('#'))
        .map(|l| format!("        {l}\n"))
        .collect();
    wish(&lab, &format!("      cuda-proof:\n        bandwidth-at-least: 90%\n{faster}"));
    let said = lab.expect(3, &["verify"]);
    assert!(said.contains("81 % of the baseline's 1600.0, 90% wanted"), "{said}");
    wish(&lab, "      cuda-proof: { bandwidth-at-least: 90% }\n");
    let said = lab.expect(5, &["apply", "--yes"]);
    assert!(said.contains("84 % of 1555"), "slower than wished fails: {said}");
}

/// The operator's archive of NVIDIA's samples is built in the guest, with what the build needs installed first; a
/// failed build says what is missing, and a wrong file is refused before anything is touched.
#[test]
fn samples_are_built_from_their_source_and_run() {
    let toolkit = |samples: &str| {
        format!(
            "      cuda-toolkit: [{{ package: files/{} }}]\n      cuda-proof: {{ samples: {samples} }}\n",
            files::CUDA_12_2
        )
    };
    let lab = lab("guests-samples", &toolkit("{ source: files/cuda-samples-12.5.zip }"));
    for release in ["12.5", "13.0"] {
        let file = lab.folder.join(format!("files/cuda-samples-{release}.zip"));
        std::fs::write(file, files::cuda_samples(release)).unwrap();
    }
    lab.start();
    let plan = lab.expect(3, &["plan", "--commands"]);
    assert!(plan.contains("vsgpu-cuda-samples --source /var/lib/vsgpu/artifacts/"), "{plan}");
    let said = lab.expect(0, &["apply", "--yes"]);
    assert!(said.contains("deviceQuery PASS, vectorAdd PASSED"), "{said}");
    let calls = lab.changing_calls("vm-01");
    let at = |words: &str| {
        calls.iter().position(|call| call.contains(words)).unwrap_or_else(|| panic!("{words}: {calls:#?}"))
    };
    assert!(at("install -y --no-install-recommends --allow-downgrades g++") < at("vsgpu-cuda-samples"));
    lab.forget_calls();
    lab.expect(0, &["apply", "--yes"]);
    assert_eq!(lab.changing_calls("vm-01"), Vec::<String>::new(), "the second time changes nothing");

    // Behind a reboot they are run again, and not built again.
    lab.stop_agent("vm-01");
    vsgpu_tests::fakes::state::boot(&lab.machine("vm-01"));
    lab.start_agent("vm-01");
    lab.expect(0, &["apply", "--yes"]);
    let calls = lab.changing_calls("vm-01");
    assert!(!calls.iter().any(|call| call.contains("vsgpu-cuda-samples ")), "{calls:#?}");

    // A compiler that is not there.
    wish(&lab, &toolkit("{ source: files/cuda-samples-12.5.zip, compiler: g++-9 }"));
    let said = lab.expect(5, &["apply", "--yes"]);
    assert!(said.contains("nvcc finds no C++ compiler in the guest"), "{said}");
    // Something else at its key.
    wish(&lab, &toolkit(&format!("{{ source: files/{} }}", files::MANAGER_16_6)));
    let said = lab.expect(6, &["validate"]);
    assert!(
        said.contains("which is the vGPU manager of an ESXi host")
            && said.contains("cuda-samples-VERSION.zip"),
        "{said}"
    );
    wish(&lab, "      cuda-toolkit: [{ package: files/cuda-samples-12.5.zip }]\n");
    let said = lab.expect(6, &["validate"]);
    assert!(said.contains("which is the source of NVIDIA's CUDA samples"), "{said}");
}

#[test]
fn a_new_kernel_has_the_driver_before_it_is_booted_and_says_why_where_not() {
    let lab = lab("guests-kernel", "");
    lab.start();
    lab.expect(0, &["apply", "--yes"]);
    let newer = "6.1.0-31-amd64";
    let install = |m: &mut vsgpu_tests::fakes::state::Machine| {
        m.linux().newer_kernel = Some(newer.into());
        m.write(&format!("/boot/vmlinuz-{newer}"), "simulated\n");
        m.write(&format!("/lib/modules/{newer}/modules.order"), "");
    };
    lab.change("vm-01", install);
    let plan = lab.expect(3, &["plan", "--commands"]);
    assert!(
        plan.contains(&format!("linux-headers-{newer}"))
            && plan.contains(&format!("dkms install nvidia/535.183.01 -k {newer}")),
        "{plan}"
    );

    // Somebody is faster and boots it without: the agent says why there is no driver, and brings it back
    // without an installer.
    lab.stop_agent("vm-01");
    lab.change("vm-01", |m| m.linux().boots_newer = true);
    vsgpu_tests::fakes::state::boot(&lab.machine("vm-01"));
    lab.start_agent("vm-01");
    let said = lab.expect(3, &["verify", "-o", "wide"]);
    assert!(
        said.contains("its module is there for 6.1.0-28-amd64, not for the running kernel 6.1.0-31-amd64"),
        "{said}"
    );
    lab.forget_calls();
    lab.expect(0, &["apply", "--yes"]);
    let calls = lab.changing_calls("vm-01");
    assert!(
        calls.iter().any(|c| c.starts_with("dkms install")) && calls.iter().any(|c| c == "modprobe nvidia"),
        "{calls:#?}"
    );
    assert!(!calls.iter().any(|c| c.contains("--accept-license")), "{calls:#?}");
}

#[test]
fn a_sick_gpu_is_seen_in_facts_and_metrics() {
    let lab = lab("guests-health", "");
    lab.change("vm-01", |m| {
        m.linux().kernel_log = vec![
            "1800000000.100000 vm-01 kernel: NVRM: Xid (PCI:0000:02:01): 31, pid=900, name=train, Ch 00000008 (simulated)".into(),
            "1800000100.100000 vm-01 kernel: NVRM: Xid (PCI:0000:02:01): 79, GPU has fallen off the bus. (simulated)".into(),
        ];
    });
    lab.start();
    lab.expect(0, &["apply", "--yes"]);
    let facts = lab.expect(0, &["facts", "-o", "json", "--node", "vm-01"]);
    let facts: serde_json::Value = serde_json::from_str(&facts).unwrap();
    let health =
        facts.as_object().unwrap().values().map(|node| &node["health"]).find(|h| h.is_object()).unwrap();
    assert_eq!(health["worst"], "critical", "{facts:#}");
    let findings = health["findings"].as_array().unwrap();
    assert!(
        findings.iter().any(|f| f["what"].as_str().unwrap().contains("Xid 79")
            && f["fix"].as_str().unwrap().contains("power-cycle")),
        "{health:#}"
    );
    assert!(
        !findings.iter().any(|f| f["what"].as_str().unwrap().contains("Xid 31")),
        "an application's fault is none of the node's"
    );
    let page = || vsgpu_tests::http::get(&lab.metrics("vm-01"), "/metrics", None).unwrap().1;
    vsgpu_tests::lab::wait_until("the metrics tell", std::time::Duration::from_secs(30), || {
        page().contains("vsgpu_guest_license_expiry_timestamp_seconds")
    });
    let text = page();
    for line in [
        "vsgpu_xid_events{gpu=\"0000:02:01.0\",xid=\"79\"} 1",
        "vsgpu_guest_health_findings{severity=\"critical\"} 1",
        "vsgpu_guest_driver_loaded 1",
        "vsgpu_guest_license_expiry_timestamp_seconds",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}

#[test]
fn what_the_guest_sees_of_its_host_is_judged() {
    // Nobody wishes for a manager here and the host's agent says nothing of one: the guest knows it all the
    // same.
    let lab = lab("guests-view", "");
    lab.start();
    lab.expect(0, &["apply", "--yes"]);
    let facts = lab.expect(0, &["facts", "-o", "json", "--node", "vm-01"]);
    assert!(facts.contains("\"manager\": \"535.183.04\""), "{facts}");
    // Another manager runs on the host than the one that the guest was started with.
    lab.change("esx-01", |m| m.esxi().loaded = Some("535.161.05".into()));
    let text = lab
        .fleet()
        .lines()
        .filter(|l| !l.contains("vgpu-manager"))
        .map(|l| format!("{l}\n"))
        .collect::<String>();
    lab.write_fleet(&text);
    let said = lab.expect(0, &["plan", "--commands"]);
    assert!(said.contains("guest-view") && said.contains("power-cycle the VM"), "{said}");
}

#[test]
fn the_examples_are_right() {
    let folder = vsgpu_tests::lab::workspace().join("packaging/examples");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder)
        .unwrap()
        .flatten()
        .filter(|e| e.path().extension().is_some_and(|e| e == "yaml"))
    {
        let program = vsgpu_tests::lab::programs().join("vsgpu");
        let output = std::process::Command::new(program)
            .arg("validate")
            .arg("--no-files")
            .arg(entry.path())
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}: {}",
            entry.path().display(),
            String::from_utf8_lossy(&output.stderr)
        );
        seen += 1;
    }
    assert!(seen >= 2);
}
