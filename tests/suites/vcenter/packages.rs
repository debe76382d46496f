//! Packages of hosts: by esxcli through the API, by a narrow role, and what is refused.

use super::*;

/// A host without any package of NVIDIA's, and the wish for them.
pub fn without_packages(lab: &Lab, release: &str) {
    files::write_sized(&lab.folder.join("files"), |size| size >> 5);
    lab.host("esx-01", release, vec![files::a100("0000:3b:00.0")]);
    for vm in ["vm-01", "vm-02"] {
        lab.vm_without_guest(vm, "esx-01");
    }
    lab.change("esx-01", |m| {
        m.link("nvidia-smi");
        m.esxi().vms.iter_mut().for_each(|vm| vm.on = false);
        m.booted_at_ms -= 3_600_000;
    });
}

pub fn with_packages(address: &str, manager: &str, more: &str) -> String {
    format!(
        "version: 1\nhosts:\n  esx-01:\n    address: \"{address}\"\n    vgpu-manager: {{ package: files/{manager}, datastore: datastore1{more} }}\n"
    )
}

fn packages_are_installed_through_vcenter() {
    let daemon = format!(
        "    gpu-management-daemon: {{ package: files/{}, datastore: datastore1 }}\n",
        files::DAEMON_17_4
    );
    let by_tools = Lab::new("packages-by-tools");
    without_packages(&by_tools, "8.0.3");
    by_tools.start();
    by_tools.write_fleet(&(with_packages(&by_tools.address("esx-01"), files::MANAGER_17_4, "") + &daemon));
    by_tools.expect(0, &["apply", "--yes"]);

    let lab = Lab::new("packages-by-api");
    without_packages(&lab, "8.0.3");
    lab.served_by_vcenter("esx-01");
    let mut world = World::new(vec![SimHost::new("esx-01.example.com", Some(0))]);
    world.machines.insert(0, lab.machine("esx-01"));
    world.tasks_run_for = 0;
    let site = Site::new("packages-by-api", world);
    let set = |change: &dyn Fn(&mut World)| change(&mut site.served.world.lock().unwrap());
    // Each of them begins with what the server says then.
    let plan = |status: i32, more: &str, manager: &str| {
        let (_gateway, port) = serve_hosts(&lab, &site, "cluster = GPU-A");
        lab.write_fleet(&with_packages(&format!("127.0.0.1:{port}"), manager, more));
        lab.expect(status, &["plan", "--commands"])
    };
    let said = plan(6, "", files::MANAGER_17_4);
    assert!(
        said.contains("GPU-A has one image for its hosts")
            && said.contains("add NVIDIA's component to that image"),
        "{said}"
    );
    let said = plan(3, ", allow-drift: true", files::MANAGER_17_4);
    assert!(
        said.contains("ExecuteSoap esxcli software component apply depot=/vmfs/volumes/datastore1/vsgpu/"),
        "{said}"
    );
    set(&|world| (world.api, world.images) = ("9.0.0.0", false));
    let said = plan(6, ", allow-drift: true", files::MANAGER_17_4);
    assert!(said.contains("from vCenter 9 on every host has an image"), "{said}");
    set(&|world| world.api = "8.0.3.0");
    // Without an administrator's role there is no esxcli: single packages only.
    set(&|world| world.lacks = vec![("host-", "(administrator)")]);
    let said = plan(6, "", files::MANAGER_17_4);
    assert!(
        said.contains("is a bundle: esxcli installs it, which does not answer through vCenter"),
        "{said}"
    );
    set(&|world| world.lacks = vec![]);
    let (_gateway, port) = serve_hosts(&lab, &site, "cluster = GPU-A");
    lab.write_fleet(&(with_packages(&format!("127.0.0.1:{port}"), files::MANAGER_17_4, "") + &daemon));
    // Half a file is no file.
    set(&|world| world.cuts_files = true);
    let said = lab.expect(5, &["apply", "--yes"]);
    assert!(
        said.contains("is another file than the one that was put there: nothing was installed"),
        "{said}"
    );
    let host = lab.state("esx-01").esxi().clone();
    assert!(host.loaded.is_none() && host.staged.is_empty() && !host.maintenance);
    set(&|world| world.cuts_files = false);
    // Cut off before and behind the call that installs: it may go on at the host, so nothing else is begun until it is over.
    // (Minutes: here somebody takes the note away.) Whoever goes on later comes to the same end.
    for behind in [false, true] {
        set(&|world| world.cut = Some((world.changes + 1, behind)));
        // It gives up by itself after minutes, so this ends.
        let mut run = lab.command(&["apply", "--yes"]);
        let run = run.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut run = run.spawn().unwrap();
        let mut said = String::new();
        for line in std::io::BufReader::new(run.stderr.take().unwrap()).lines().map_while(Result::ok) {
            if line.contains("waiting for `esxcli") {
                let is_call = |file: &PathBuf| {
                    file.file_name().is_some_and(|n| n.to_string_lossy().starts_with("call-"))
                };
                let notes = walk(&site.folder.join("state")).into_iter().filter(is_call);
                notes.for_each(|note| std::fs::remove_file(note).unwrap());
            }
            said += &format!("{line}\n");
        }
        run.wait().unwrap();
        assert!(said.contains("waiting for `esxcli software component apply`"), "{said}");
        assert!(!lab.state("esx-01").esxi().maintenance, "a host is left in maintenance mode");
    }
    set(&|world| world.cut = None);
    lab.expect(0, &["apply", "--yes"]);
    let mut found = vec![];
    differences("", &end_state(&by_tools), &end_state(&lab), &mut found);
    assert!(found.is_empty(), "{found:?}");
    let changes = site.served.world.lock().unwrap().changes;
    let said = lab.expect(0, &["apply", "--yes"]);
    assert!(said.to_lowercase().contains("nothing to do"), "{said}");
    assert_eq!(site.served.world.lock().unwrap().changes, changes);
    // Taken away again, at another time: a boot takes minutes.
    lab.change("esx-01", |m| m.booted_at_ms -= 3_600_000);
    lab.write_fleet(&format!(
        "version: 1\nhosts:\n  esx-01:\n    address: \"127.0.0.1:{port}\"\n    vgpu-manager: absent\n"
    ));
    let said = lab.expect(0, &["apply", "--yes"]);
    assert!(said.contains("ExecuteSoap esxcli software component remove component="), "{said}");
    assert!(lab.state("esx-01").esxi().loaded.is_none());
}

/// One package, by an account that may run no esxcli: what waits for the boot is known by what was done.
fn a_single_package_needs_no_administrator() {
    let lab = Lab::new("one-vib");
    without_packages(&lab, "6.7.0");
    lab.served_by_vcenter("esx-01");
    let mut world = World::new(vec![SimHost::new("esx-01.example.com", Some(0))]);
    world.machines.insert(0, lab.machine("esx-01"));
    (world.tasks_run_for, world.images) = (0, false);
    world.lacks = vec![("host-", "(administrator)")];
    let site = Site::new("one-vib", world);
    let (_gateway, port) = serve_hosts(&lab, &site, "cluster = GPU-A");
    lab.write_fleet(&with_packages(&format!("127.0.0.1:{port}"), files::MANAGER_6_0, ""));
    let said = lab.expect(3, &["plan", "--commands"]);
    assert!(said.contains("InstallHostPatchV2_Task [datastore1] vsgpu/"), "{said}");
    lab.expect(0, &["apply", "--yes"]);
    assert!(lab.state("esx-01").esxi().loaded.is_some());
    let said = lab.expect(0, &["apply", "--yes"]);
    assert!(said.to_lowercase().contains("nothing to do"), "{said}");
}

pub const TESTS: &[vsgpu_tests::harness::Test] =
    vsgpu_tests::tests![packages_are_installed_through_vcenter, a_single_package_needs_no_administrator];
