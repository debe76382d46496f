//! What a gateway reads of hosts and VMs: the same facts as by the hosts' own tools, but for what is written here.

use super::*;

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

/// What newer releases say beside it: the driver that holds a GPU, how it is used, and how many more of a type fit.
fn newer_releases_say_more() {
    let (lab, site) = a_host("facts-9-1");
    let old = site.facts(&[]);
    let of = |facts: &serde_json::Value| facts["vcenter"]["host"].clone();
    assert!(of(&old).get("devices").is_none() && of(&old)["profiles"][0].get("remaining").is_none(), "{old}");
    site.served.world.lock().unwrap().api = "9.1.0.0";
    let new = site.facts(&[]);
    let running = lab.state("esx-01").esxi().loaded.clone().unwrap();
    assert_eq!(
        of(&new)["devices"],
        serde_json::json!([
            { "gpu": "0000:3b:00.0", "mode": "vGpuSameSize", "driver_version": running },
            { "gpu": "0000:af:00.0", "mode": "directPath", "driver_version": running },
        ])
    );
    // One GPU is left for vGPUs; one vGPU of its four is reserved and not used.
    let profiles = of(&new)["profiles"].as_array().unwrap().clone();
    assert!(!profiles.is_empty() && profiles.iter().all(|of| of["remaining"] == 3), "{profiles:?}");
    assert_eq!(new["vgpu-manager"]["drivers_by_vcenter"], serde_json::json!([running, running]));
}

pub const TESTS: &[vsgpu_tests::harness::Test] = vsgpu_tests::tests![
    facts_are_those_of_the_hosts_own_tools,
    hosts_are_served_to_a_controller,
    newer_releases_say_more
];
