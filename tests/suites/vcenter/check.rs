//! What a gateway says of a vCenter: hosts, privileges, counters, the report; and with how few calls.

use super::*;

fn hosts_are_found_and_nothing_is_left_behind() {
    let site = Site::new("found", two_clusters());
    let (status, said) = site.trusted(HOSTS);
    assert_eq!(status, 0, "{said}");
    assert!(said.contains("VMware vCenter Server 8.0.3 build-0 (simulated), API 8.0.3.0"), "{said}");
    assert!(said.contains("esx-07.example.com  GPU-A       2  connected"), "{said}");
    assert!(said.contains("alone.example.com   -           2  connected"), "{said}");
    assert!(!said.contains("esx-11"), "a host of another cluster: {said}");
    assert!(said.starts_with("READY: 8 hosts, the account may do everything that was asked\n"), "{said}");
    assert!(said.lines().all(|line| line.chars().count() <= 80), "{said}");
    let world = site.served.world.lock().unwrap();
    assert!(world.sessions.is_empty() && world.views.is_empty(), "a session or a view is left");
    // Pages were asked for to the end, and nothing for each VM.
    assert!(world.calls.iter().filter(|call| *call == "ContinueRetrievePropertiesEx").count() >= 3);
    assert!(world.calls.len() < 30, "{:?}", world.calls);
}

fn what_is_missing_is_said_by_purpose() {
    let mut world = two_clusters();
    world.lacks = vec![
        ("host-", "Host.Config.PciPassthru"),
        ("host-0", "Host.Config.Image"),
        ("group-d1", "Global.Diagnostics"),
        ("vm-0000001", "VirtualMachine.Interact.PowerOn"),
    ];
    let site = Site::new("missing", world);
    let (status, said) = site.trusted(HOSTS);
    // Looking is allowed: the rest is what this site decides.
    assert_eq!(status, 0, "{said}");
    for line in [
        "READY TO LOOK: 8 hosts, 4 of 14 purposes are not allowed",
        "read packages, modules, logs  no\n    Global.Diagnostics, at the top of the inventory\n    Host.Config.Image, esx-01",
        "set passthrough               no\n    Host.Config.PciPassthru, alone.example.com and 7 more",
        "start and stop VMs            no\n    VirtualMachine.Interact.PowerOn, esx-01.example.com",
        "maintenance and reboot        yes",
        "the role with all of it: vsgpu-host-agent gateway role",
    ] {
        assert!(said.contains(line), "{line}\n{said}");
    }
    // Read-only on the cluster alone: the top, the datastores and the lone host may not even be read.
    site.served.world.lock().unwrap().lacks =
        vec![("group-d1", "System.Read"), ("datastore-", "System.Read"), ("host-8", "System.Read")];
    let (status, said) = site.trusted(HOSTS);
    assert_eq!(status, 1, "{said}");
    for line in [
        "NOT READY: the account may not even look",
        "alone.example.com   -           ?  connected",
        "esx-01.example.com  GPU-A       2  connected",
        "    System.Read, alone.example.com\n",
        "?: this account may not read the hardware",
        "    Datastore.Browse, ",
    ] {
        assert!(said.contains(line), "{line}\n{said}");
    }
    let (status, said) = site.trusted("cluster = GPU-A");
    assert!(status == 0 && said.starts_with("READY TO LOOK: 7 hosts"), "{said}");
    // A VM that went meanwhile takes nothing with it; where there is none, nothing is claimed.
    {
        let mut world = site.served.world.lock().unwrap();
        world.lacks = vec![];
        world.gone = vec!["vm-3-1".into()];
    }
    let (status, said) = site.trusted(HOSTS);
    assert!(status == 0 && said.starts_with("READY: 8 hosts"), "{said}");
    site.served.world.lock().unwrap().hosts.iter_mut().for_each(|host| host.vms = 0);
    let (_, said) = site.trusted(HOSTS);
    assert!(said.contains("start and stop VMs            not known: there are no VMs"), "{said}");
}

/// GPU counters under the names that agents use, with nothing on any host; two calls for sixty hosts.
fn counters_of_gpus_are_printed_and_served() {
    let mut world = World::new((0..60).map(|n| SimHost::new(&format!("esx-{n:02}"), Some(0))).collect());
    world.hosts[7].state = "notResponding";
    // It answers, and its counters stand still.
    world.hosts[8].sampled = "2026-11-27T13:58:00Z";
    let site = Site::new("metrics", world);
    assert_eq!(site.trusted("cluster = GPU-A").0, 1, "one host is away");
    site.calls();
    let file = site.folder.join("gateway.conf");
    let gateway = |more: &[&str]| {
        let mut command = Command::new(programs().join("vsgpu-host-agent"));
        command.args(["gateway", "metrics"]).arg(&file).args(more);
        command
    };
    let output = gateway(&[]).output().unwrap();
    let page = String::from_utf8(output.stdout).unwrap();
    for line in [
        "vsgpu_gpu_utilization_ratio{gpu=\"0000:3b:00.0\",node=\"esx-00\",source=\"vsphere\"} 0.4",
        "vsgpu_gpu_memory_used_bytes{gpu=\"0000:3c:00.0\",node=\"esx-59\",source=\"vsphere\"} 4097024",
        "vsgpu_gpu_power_watts{gpu=\"0000:3b:00.0\",node=\"esx-00\",source=\"vsphere\"} 4000",
        "vsgpu_vcenter_host_connected{node=\"esx-07\"} 0",
        "vsgpu_vcenter_up 1",
    ] {
        assert!(page.contains(line), "{line}\n{page}");
    }
    assert!(
        !page.contains("gpu=\"all\"") && !page.contains("gpu=\"0000:3b:00.0\",node=\"esx-07\""),
        "{page}"
    );
    let calls = site.calls();
    assert_eq!(calls.iter().filter(|call| *call == "QueryPerf").count(), 2, "{calls:?}");

    // Open beyond this machine only to who may.
    let refused = gateway(&["--listen", "0.0.0.0:0"]).output().unwrap();
    assert!(
        !refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("open to everybody")
    );
    let port = vsgpu_tests::lab::free_port();
    let address = format!("127.0.0.1:{port}");
    let mut serving = gateway(&["--listen", &address]).spawn().unwrap();
    let get = |path: &str| {
        use std::io::{Read as _, Write as _};
        let mut stream = std::net::TcpStream::connect(&address).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        Some(text)
    };
    wait_until("it shows what vCenter says", Duration::from_secs(30), || {
        get("/metrics").is_some_and(|page| page.contains("vsgpu_gpu_power_watts{"))
    });
    assert!(get("/readyz").unwrap().contains("200"));
    serving.kill().unwrap();
    serving.wait().unwrap();
    // A refused login is not tried again before the password file changes, and nobody unknown is told more.
    site.password("wrong");
    site.calls();
    let mut serving = gateway(&["--listen", &address]).stderr(Stdio::null()).spawn().unwrap();
    let ready = || get("/readyz").unwrap_or_default();
    wait_until("it says why it is not ready", Duration::from_secs(30), || {
        ready().contains("refuses the login")
    });
    let answer = ready();
    assert!(answer.contains("503") && !answer.contains("svc@") && !answer.contains("pass"), "{answer}");
    assert!(get("/metrics").unwrap().contains("vsgpu_vcenter_up 0"));
    // Three of its pauses.
    let begun = Instant::now();
    wait_until("three pauses", Duration::from_secs(30), || begun.elapsed() > Duration::from_secs(16));
    let logins = |site: &Site| site.calls().iter().filter(|call| *call == "Login").count();
    assert_eq!(logins(&site), 1);
    site.password("a<secret>&\"'");
    wait_until("the new password is taken", Duration::from_secs(30), || {
        get("/metrics").is_some_and(|page| page.contains("vsgpu_gpu_power_watts{"))
    });
    assert_eq!(logins(&site), 1);
    serving.kill().unwrap();
    serving.wait().unwrap();
    // A name that nobody has is seen by an alert.
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{text}host = nosuch\n")).unwrap();
    let page = String::from_utf8(gateway(&[]).output().unwrap().stdout).unwrap();
    assert!(page.contains("vsgpu_vcenter_host_connected{node=\"nosuch\"} 0"), "{page}");
}

/// What is sent to whoever builds vsgpu: answers as they are, a refused property as such, nothing of the site.
fn a_report_says_what_the_server_says_and_nothing_of_the_site() {
    let mut world = two_clusters();
    world.lacks = vec![("host-8", "System.Read")];
    let site = Site::new("probe", world);
    // It is written by a check, which says that one host may not even be looked at.
    assert_eq!(site.trusted(HOSTS).0, 1);
    let (status, report) = site.probe();
    assert_eq!(status, 0, "{report}");
    let value: serde_json::Value = serde_json::from_str(&report).unwrap();
    let hosts = value["hosts"].as_array().unwrap();
    let info = &hosts[1]["config.graphicsInfo"]["HostGraphicsInfo"][1];
    assert_eq!(
        (info["pciId"].as_str(), info["graphicsType"].as_str()),
        (Some("0000:3c:00.0"), Some("sharedDirect"))
    );
    assert_eq!(hosts[0]["capability"]["fault"], "InvalidProperty", "one of another version");
    assert_eq!(hosts[0]["hardware.pciDevice"]["fault"], "NoPermission");
    assert_eq!(hosts[0]["config.graphicsConfig"], serde_json::Value::Null, "unset");
    assert_eq!(hosts[1]["hardware.biosInfo"]["biosVersion"], "2.21.2");
    assert_eq!(hosts[1]["config.lockdownMode"], "lockdownNormal");
    assert_eq!(
        hosts[1]["config.sharedGpuCapabilities"]["HostSharedGpuCapabilities"]["vgpu"],
        "grid_a100-40c"
    );
    assert_eq!(hosts[1]["gpu counters"][0]["instance"], "0000:3b:00.0");
    assert_eq!(value["vms with GPUs"][0][0]["backing"]["vgpu"], "grid_a100-40c");
    let options = &value["clusters"][0]["configurationEx.drsConfig.option"]["OptionValue"];
    assert_eq!(
        (options[0]["key"].as_str(), options[0]["value"].as_str()),
        (Some("LBMaxVmotionPerHost"), Some("1"))
    );
    let secrets = [
        "vm-0",
        "payroll agent",
        "of payroll",
        "payroll disk",
        "payroll-",
        "naa.",
        "t10.",
        "20231107",
        "host-",
    ];
    for secret in secrets {
        assert!(!report.contains(secret), "{secret}: {report}");
    }
    let world = site.served.world.lock().unwrap();
    assert!(world.sessions.is_empty() && world.views.is_empty());
}

fn names_that_do_not_fit_the_inventory_are_named() {
    let mut world = two_clusters();
    world.hosts.push(SimHost::new("alone.example.com", Some(1)));
    world.hosts[1].state = "notResponding";
    let site = Site::new("names", world);
    let (status, said) = site.trusted(&format!("{HOSTS}\nhost = esx-99\ncluster = GPU-C"));
    assert_eq!(status, 1, "{said}");
    for line in [
        "WRONG  host alone.example.com: there are 2 of this name",
        "WRONG  host esx-99: not in the inventory",
        "WRONG  cluster GPU-C: not in the inventory",
        "WRONG  host esx-02.example.com: vCenter says it is notResponding",
        "NOT READY: 3 names do not fit the inventory, 1 host is not connected; ",
    ] {
        assert!(said.contains(line), "{line}\n{said}");
    }
}

/// What real servers said, as it was recorded, in the place of ours.
fn recorded_answers_of_real_servers_are_read() {
    let folder = captures().unwrap().join("vsphere-api");
    let recorded = |name: &str| std::fs::read(folder.join(name)).unwrap();
    for (content, words) in [
        (
            "pyvmomi_RetrieveServiceContent_vcenter-8.0.3-line.xml",
            "VMware vCenter Server 8.0.3 build-69507950, API 8.0.2.0",
        ),
        (
            "manageiq_RetrieveServiceContent_vcenter-9.0.1.xml",
            "VMware vCenter Server 9.0.1 build-24957454, API 9.0.0.0",
        ),
    ] {
        let site = Site::new("recorded", two_clusters());
        site.served.world.lock().unwrap().instead = [
            ("GET", (200, String::new(), recorded("pyvmomi_vimServiceVersions_vcenter-8.0.3-line.xml"))),
            ("RetrieveServiceContent", (200, String::new(), recorded(content))),
        ]
        .into();
        let (status, said) = site.trusted(HOSTS);
        assert!(status == 0 && said.contains(words), "{said}");
    }
    let site = Site::new("recorded-login", two_clusters());
    let refused = (500, String::new(), recorded("pyvmomi_fault_InvalidLogin_http500.xml"));
    site.served.world.lock().unwrap().instead = [("Login", refused)].into();
    let (status, said) = site.trusted(HOSTS);
    assert!(status == 1 && said.contains("user or password is wrong"), "{said}");
}

/// One vCenter with 500 hosts and 10,000 VMs takes a bounded number of calls, and grows no worse than its hosts.
fn a_large_inventory_takes_few_calls() {
    let took = |hosts: usize| {
        let mut world = World::new(
            (0..hosts).map(|n| SimHost { vms: 20, ..SimHost::new(&format!("esx-{n}"), Some(0)) }).collect(),
        );
        (world.page, world.devices) = (500, 250);
        let site = Site::new(&format!("large-{hosts}"), world);
        let begun = Instant::now();
        let (status, said) = site.trusted("cluster = GPU-A");
        assert!(status == 0 && (hosts <= 10 || said.contains(&format!("and {} more", hosts - 10))), "{said}");
        (begun.elapsed(), site.calls().len())
    };
    let (small, few) = took(50);
    let (large, calls) = took(500);
    println!(
        "gateway check: 50 hosts {few} calls {small:?}; 500 hosts with 10,000 VMs {calls} calls {large:?}"
    );
    assert!(calls <= few * 10, "{few} calls for 50 hosts, {calls} for 500");
}

/// Hosts that are asked about at once are read together.
fn a_large_site_is_read_with_few_calls() {
    let looked = |hosts: usize| {
        let mut world = World::new(
            (0..hosts).map(|n| SimHost { vms: 20, ..SimHost::new(&format!("esx-{n}"), Some(0)) }).collect(),
        );
        (world.page, world.devices) = (500, 30);
        let site = Site::new(&format!("site-{hosts}"), world);
        let doors =
            gateway::doors_to(&vsgpu_host_agent::agent(), &site.file("cluster = GPU-A"), None).unwrap();
        let wanted = ["pci-gpus", "virtual-machines", "gpu-users", "maintenance-mode", "host-summary"];
        let facts: Vec<_> = vsgpu_host_agent::catalogue()
            .facts(Scope::Host)
            .into_iter()
            .filter(|fact| wanted.contains(&fact.name))
            .collect();
        site.calls();
        let begun = Instant::now();
        let all: Vec<_> = doors.values().collect();
        std::thread::scope(|scope| {
            for some in all.chunks(hosts.div_ceil(100)) {
                let facts = &facts;
                scope.spawn(move || {
                    for system in some {
                        let seen = vsgpu_core::observe::observe(system.as_ref(), &Subject::node(), facts);
                        assert!(seen["pci-gpus"].is_ok(), "{seen:?}");
                        let vms = seen["virtual-machines"].as_ref().unwrap();
                        assert_eq!(vms["vms"].as_array().unwrap().len(), 20);
                    }
                });
            }
        });
        (begun.elapsed(), site.calls().len())
    };
    let (small, few) = looked(50);
    let (large, calls) = looked(500);
    println!(
        "facts by vCenter: 50 hosts with 1,000 VMs {few} calls {small:?}; 500 hosts with 10,000 VMs {calls} calls {large:?}"
    );
    // Less than one for each host, and nothing for each VM.
    assert!(calls < 500, "{few} calls for 50 hosts, {calls} for 500");
}

pub const TESTS: &[vsgpu_tests::harness::Test] = vsgpu_tests::tests![
    hosts_are_found_and_nothing_is_left_behind,
    what_is_missing_is_said_by_purpose,
    counters_of_gpus_are_printed_and_served,
    a_report_says_what_the_server_says_and_nothing_of_the_site,
    names_that_do_not_fit_the_inventory_are_named,
    recorded_answers_of_real_servers_are_read[Captures],
    a_large_inventory_takes_few_calls,
    a_large_site_is_read_with_few_calls[Quiet]
];
