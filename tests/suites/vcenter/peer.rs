//! VMware's own simulator (vcsim of govmomi), on demand: `VSGPU_VCSIM` names the program. Its own certificate is too weak
//! for anybody, so `VSGPU_VCSIM_TLS=CERTIFICATE,KEY` gives it one.

use super::*;

/// VMware's own simulator, written by others.
fn vmwares_own_simulator_is_served() {
    let program = std::env::var_os("VSGPU_VCSIM").unwrap();
    let site = Site::new("vcsim", two_clusters());
    let port = vsgpu_tests::lab::free_port();
    let tls = std::env::var("VSGPU_VCSIM_TLS").unwrap();
    let (certificate, key) = tls.split_once(',').unwrap();
    let mut server = Command::new(program);
    server.args([
        "-l",
        &format!("127.0.0.1:{port}"),
        "-username",
        "svc@vsphere.local",
        "-password",
        "secret",
    ]);
    let server = server.args(["-tlscert", certificate, "-tlskey", key]).spawn().unwrap();
    let _server = Gateway(server);
    wait_until("it listens", Duration::from_secs(20), || {
        std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
    });
    site.password("secret");
    let site = Site {
        served: Served { port, world: site.served.world.clone() },
        folder: site.folder.clone(),
        certificate: Certificate::new(),
    };
    let (status, said) = site.check("cluster = DC0_C0");
    assert_eq!(status, 1, "{said}");
    let shown =
        said.split_whitespace().find(|word| word.starts_with("sha256:")).unwrap().trim_end_matches(':');
    let lines = format!("trust = {shown}\nhost = DC0_H0\ncluster = DC0_C0");
    let (status, said) = site.check(&lines);
    assert!(
        status == 0 && said.contains("DC0_C0_H2  DC0_C0      0  connected") && said.contains("DC0_H0     -"),
        "{said}"
    );
    changes_at_vmwares_own_simulator(&site, &lines);
    site.password("wrong");
    let (status, said) = site.check(&lines);
    assert!(status == 1 && said.contains("user or password is wrong"), "{said}");
}

/// Facts, settings of a VM, power, maintenance mode, a task that fails, a log: by the calls of others.
fn changes_at_vmwares_own_simulator(site: &Site, lines: &str) {
    use serde_json::json;
    let file = site.folder.join("gateway.conf");
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains("trust ="), "{lines}");
    let doors =
        gateway::doors_to(&vsgpu_host_agent::agent(), &file, Some(&site.folder.join("memory"))).unwrap();
    let facts = vsgpu_host_agent::catalogue().facts(Scope::Host);
    let (system, vm) = doors
        .values()
        .find_map(|system| {
            let seen = vsgpu_core::observe::observe(system.as_ref(), &Subject::node(), &facts);
            for fact in ["esx-version", "host-graphics", "pci-gpus", "maintenance-mode", "vcenter"] {
                assert!(seen[fact].is_ok(), "{fact}: {:?}", seen[fact]);
            }
            let vms = seen["virtual-machines"].as_ref().unwrap()["vms"].clone();
            let vm = vms.as_array().unwrap().iter().find(|vm| vm["running"] == true)?;
            Some((
                system,
                (
                    vm["name"].as_str().unwrap().to_string(),
                    vm["vmid"].to_string(),
                    vm["vmx"].as_str().unwrap().to_string(),
                ),
            ))
        })
        .expect("a host of vcsim has a running VM");
    let (name, vmid, vmx) = vm;
    let run = |words: &[&str]| system.run(&vsgpu_core::Command::new("vim-cmd", words.iter().copied()));
    // It writes into the log of a VM that starts.
    let log = system.tail(&vmx.replace(&format!("{name}.vmx"), "vmware.log"), 4096);
    println!("vmware.log: {:?}", log.as_ref().map(|bytes| bytes.len()));
    assert!(run(&["vmsvc/power.off", &vmid]).ok());
    let twice = run(&["vmsvc/power.off", &vmid]);
    assert!(twice.stdout.contains("InvalidPowerState"), "{twice:?}");
    let of_vm = |name_of, spec| apply_one(system.as_ref(), (name_of, Some(name.as_str()), spec)).0;
    let outcome = of_vm("memory-reserved", json!("all"));
    assert!(matches!(outcome, Outcome::Applied { .. }), "{outcome:?}");
    let outcome = of_vm("vgpu", json!([{ "profile": "grid_a100-10c", "params": { "enable_uvm": 1 } }]));
    assert!(matches!(outcome, Outcome::Applied { .. }), "{outcome:?}");
    let outcome = of_vm("vgpu", json!([]));
    assert!(matches!(outcome, Outcome::Applied { .. }), "{outcome:?}");
    let outcome = of_vm("mmio", json!(128));
    assert!(matches!(outcome, Outcome::Applied { .. }), "{outcome:?}");
    // A file goes onto a datastore and is read back; what installs packages it does not have.
    let bytes = files::vib("NVIDIA-x", "1-1OEM.700.1.0.1", 100_000);
    let sha256 = vsgpu_core::text::hex(&sha2::Sha256::digest(&bytes));
    let datastore = vmx.split('/').nth(3).unwrap();
    let target = vsgpu_core::artifact::stored_path(Some(datastore), &sha256, "x.vib");
    let partial = format!("{target}.partial");
    let size = bytes.len() as u64;
    let file = vsgpu_core::Incoming {
        name: "x.vib".into(),
        target: target.clone(),
        partial,
        size,
        sha256,
        offset: 0,
    };
    let mut once = Some(bytes);
    assert!(system.is_folder(&format!("/vmfs/volumes/{datastore}")).unwrap());
    system.upload(&file, &mut || once.take()).unwrap();
    let install =
        vsgpu_core::Command::new("esxcli", ["software", "vib", "install", "-v", &target]).within(60);
    let installed = system.run(&install);
    println!("install: {installed:?}");
    assert!(!installed.ok() && !format!("{installed:?}").contains("another file"), "{installed:?}");
    // A copy, and what there is already.
    let clone = |vm: &str| apply_one(system.as_ref(), ("clone-of", Some(vm), json!({ "base": name }))).0;
    let outcome = clone("copied");
    assert!(matches!(outcome, Outcome::Applied { .. }), "{outcome:?}");
    assert!(matches!(clone("copied"), Outcome::AlreadyMet { .. }));
    let elsewhere = clone(if name == "DC0_H0_VM0" { "DC0_C0_RP0_VM0" } else { "DC0_H0_VM0" });
    assert!(matches!(elsewhere, Outcome::Blocked { .. }), "{elsewhere:?}");
    // It enters maintenance mode with VMs that run; ours does not ask it to.
    let host = |state| apply_one(system.as_ref(), ("maintenance-mode", None, json!({ "state": state }))).0;
    println!("maintenance mode: {:?}, {:?}", host("on"), host("off"));
    assert!(run(&["vmsvc/power.on", &vmid]).ok());
}

pub const TESTS: &[vsgpu_tests::harness::Test] = vsgpu_tests::tests![vmwares_own_simulator_is_served[Vcsim]];
