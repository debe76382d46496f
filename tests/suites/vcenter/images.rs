//! Hosts whose packages Lifecycle Manager owns: a component into the image, onto the host in its window, and everything that
//! is refused before a VM goes down for it.

use super::packages::{with_packages, without_packages};
use super::*;
use vsgpu_tests::vcenter::Images;

struct OfImage {
    lab: Lab,
    site: Site,
}

impl OfImage {
    fn new(name: &str, cluster: Option<usize>) -> Self {
        let lab = Lab::new(name);
        without_packages(&lab, "8.0.3");
        lab.served_by_vcenter("esx-01");
        let mut world = World::new(vec![SimHost::new("esx-01.example.com", cluster)]);
        world.machines.insert(0, lab.machine("esx-01"));
        (world.tasks_run_for, world.most_sessions) = (1, 100);
        Self { lab, site: Site::new(name, world) }
    }

    fn set(&self, change: impl Fn(&mut World)) {
        change(&mut self.site.served.world.lock().unwrap());
    }

    fn lcm(&self) -> Images {
        self.site.served.world.lock().unwrap().lcm.clone()
    }

    /// Serves with these lines in the gateway's file, and writes a fleet file for it.
    fn serve(&self, lines: &str) -> Gateway {
        let host = match self.site.served.world.lock().unwrap().hosts[0].cluster {
            Some(_) => "cluster = GPU-A",
            None => "host = esx-01.example.com",
        };
        let (gateway, port) = serve_hosts(&self.lab, &self.site, &format!("{host}\n{lines}"));
        self.lab.write_fleet(&with_packages(&format!("127.0.0.1:{port}"), files::MANAGER_17_4, ""));
        gateway
    }

    /// The same with VMs that may be shut down.
    fn serve_with_vms(&self, lines: &str) -> Gateway {
        let gateway = self.serve(lines);
        let fleet = std::fs::read_to_string(self.lab.folder.join("fleet.yaml")).unwrap();
        let vms = "vms:\n  vm-01: { host: esx-01 }\n  vm-02: { host: esx-01 }\n";
        self.lab.write_fleet(&(fleet + vms));
        gateway
    }

    fn depot() -> String {
        format!("depot = 127.0.0.1:{}", vsgpu_tests::lab::free_port())
    }

    /// Nothing of the host was touched.
    fn is_untouched(&self) {
        let host = self.lab.state("esx-01").esxi().clone();
        assert!(host.loaded.is_none() && host.vibs.iter().all(|vib| vib.vendor != "NVIDIA"));
        assert!(!host.maintenance, "the host is left in maintenance mode");
        assert!(host.vms[0].on, "a VM went down for it");
    }
}

/// The whole road: image, window, remediation with its own reboot; once.
fn a_component_goes_into_the_image_and_onto_the_host() {
    let of = OfImage::new("image", Some(0));
    of.lab.change("esx-01", |m| m.esxi().vms[0].on = true);
    let _gateway = of.serve(&format!("images = remediate\n{}", OfImage::depot()));
    let fleet = std::fs::read_to_string(of.lab.folder.join("fleet.yaml")).unwrap();
    let daemon = format!(
        "    gpu-management-daemon: {{ package: files/{}, datastore: datastore1 }}\n",
        files::DAEMON_17_4
    );
    of.lab.write_fleet(&(fleet + &daemon + "vms:\n  vm-01: { host: esx-01 }\n  vm-02: { host: esx-01 }\n"));
    let said = of.lab.expect(3, &["plan", "--commands"]);
    let at = |words: &str| said.find(words).unwrap_or_else(|| panic!("{words}: {said}"));
    assert!(at("into the image of GPU-A, validate, scan, commit") < at("shut down"), "{said}");
    assert!(
        at("enter maintenance mode")
            < at("esx/settings software of GPU-A (ESXi 8.0.3-0.0.24022510): check, apply"),
        "{said}"
    );
    let said = of.lab.expect(0, &["apply", "--yes"]);
    let task = "$ remediation of esx-01.example.com by the image of GPU-A, 52f9f1b0-160a-25fe-fd1e-";
    assert!(said.contains(task), "{said}");
    let host = of.lab.state("esx-01").esxi().clone();
    assert!(host.loaded.is_some() && !host.maintenance && host.vms[0].on);
    let calls = of.site.calls();
    let count = |name: &str| calls.iter().filter(|call| call.ends_with(name)).count();
    // One remediation brings both.
    assert_eq!((count("?apply"), count("?commit"), count("RebootHost_Task")), (1, 2, 0), "{calls:#?}");
    let sessions = calls.iter().filter(|call| *call == "POST /api/session").count();
    assert_eq!(sessions, 1, "one session for all");
    assert!(of.lcm().drafts.is_empty());
    // Again: nothing. And facts say it.
    let said = of.lab.expect(0, &["apply", "--yes"]);
    assert!(said.to_lowercase().contains("nothing to do"), "{said}");
    let said = of.lab.expect(0, &["facts", "-n", "esx-01", "-o", "wide"]);
    assert!(
        said.contains("image by Lifecycle Manager: ESXi 8.0.3-0.0.24022510 with NVD")
            && said.contains("host is compliant"),
        "{said}"
    );
}

/// Where only the image may be changed, people remediate: no VM goes down, and it is said who is next.
fn with_commit_alone_people_remediate() {
    let of = OfImage::new("image-commit", Some(0));
    of.lab.change("esx-01", |m| m.esxi().vms[0].on = true);
    let gateway = of.serve(&format!("images = commit\n{}", OfImage::depot()));
    let said = of.lab.expect(3, &["plan"]);
    assert!(said.contains("the image is changed first") && !said.contains("maintenance mode"), "{said}");
    let said = of.lab.expect(0, &["apply", "--yes"]);
    assert!(said.contains("the image of GPU-A holds 550.127.06") && !said.contains("maintenance"), "{said}");
    of.is_untouched();
    assert_eq!(of.lcm().added["domain-c0"].len(), 1);
    let said = of.lab.expect(6, &["plan"]);
    assert!(
        said.contains("the host is not remediated") && said.contains("remediate the host in vCenter"),
        "{said}"
    );
    drop(gateway);
    // Somebody does, which shuts the VM down.
    of.lab.change("esx-01", |m| {
        let (name, version) = ("NVD-VMware_ESXi_8.0.0_Driver", "550.127.06-1OEM.800.1.0.20613240");
        m.esxi().vibs.push(Vib { name: name.into(), version: version.into(), vendor: "NVIDIA".into() });
    });
    vsgpu_tests::fakes::state::boot(&of.lab.machine("esx-01"));
    let _gateway = of.serve("images = commit");
    let said = of.lab.expect(0, &["apply", "--yes"]);
    assert!(said.to_lowercase().contains("nothing to do"), "{said}");
}

/// What cannot be is refused while all VMs run, in vCenter's words, and leaves no draft.
fn what_the_image_does_not_take_costs_no_window() {
    let of = OfImage::new("image-refused", Some(0));
    of.lab.change("esx-01", |m| m.esxi().vms[0].on = true);
    let refused = |lines: &str, status: i32, words: &str| {
        let _gateway = of.serve_with_vms(lines);
        let said = of.lab.expect(status, &["apply", "--yes"]);
        assert!(said.contains(words), "{words}: {said}");
        of.is_untouched();
        assert!(of.lcm().drafts.is_empty() || words.contains("draft"), "a draft is left");
        assert!(of.lcm().added.get("domain-c0").is_none_or(std::collections::BTreeMap::is_empty));
    };
    let may = |more: &str| format!("images = remediate\n{more}");
    refused("", 6, "GPU-A has one image for its hosts");
    // Nowhere to fetch it from.
    refused(&may(""), 5, "write `depot = IP:PORT` into the gateway's file");
    of.set(|world| world.lacks = vec![("", "VcIntegrity.lifecycleSoftwareSpecification.Read")]);
    refused(&may(""), 6, "it lacks privileges of \"VMware vSphere Lifecycle Manager\"");
    of.set(|world| world.lacks = vec![("", "VcIntegrity.lifecycleSettings.Write")]);
    refused(&may(&OfImage::depot()), 5, "Unable to authorize user");
    of.set(|world| world.lacks = vec![]);
    of.set(|world| world.lcm.none_yet = true);
    refused(&may(&OfImage::depot()), 6, "GPU-A has no image yet");
    of.set(|world| (world.lcm.none_yet, world.lcm.in_vcf) = (false, true));
    refused(&may(&OfImage::depot()), 6, "the image of GPU-A is looked after by SDDC Manager");
    of.set(|world| (world.lcm.in_vcf, world.lcm.somebody_else) = (false, true));
    refused(&may(&OfImage::depot()), 5, "somebody else changed it");
    // What somebody committed meanwhile is not undone.
    of.set(|world| (world.lcm.somebody_else, world.lcm.meanwhile) = (false, true));
    let image = |of: &OfImage| of.lcm().added.get("domain-c0").cloned().unwrap_or_default();
    {
        let _gateway = of.serve_with_vms(&may(&OfImage::depot()));
        let said = of.lab.expect(5, &["apply", "--yes"]);
        assert!(
            said.contains("somebody else changed the image of GPU-A meanwhile: nothing was committed"),
            "{said}"
        );
    }
    assert_eq!(image(&of).into_keys().collect::<Vec<_>>(), ["patch-of-somebody"]);
    // Two drivers in one image.
    of.set(|world| {
        world.lcm.meanwhile = false;
        world.lcm.added.insert("domain-c0".into(), [("NVD-AIE-800".into(), "535.183.04-1OEM".into())].into());
    });
    {
        let _gateway = of.serve_with_vms(&may(&OfImage::depot()));
        let said = of.lab.expect(5, &["apply", "--yes"]);
        assert!(said.contains("take NVD-AIE-800 out of it in vCenter, or name its own bundle"), "{said}");
    }
    of.is_untouched();
    of.set(|world| world.lcm.added.clear());
    // Somebody's draft stays.
    of.set(|world| {
        world.lcm.somebody_else = false;
        world.lcm.drafts.insert("draft-9".into(), ("domain-c0".into(), Default::default()));
    });
    refused(
        &may(&OfImage::depot()),
        5,
        "has a draft of the image of GPU-A already, which vsgpu did not make",
    );
    assert!(of.lcm().drafts.contains_key("draft-9"));
    of.set(|world| world.lcm.drafts.clear());
    // A newer one that somebody installed by hand.
    of.lab.change("esx-01", |m| {
        let name = "NVD-VMware_ESXi_8.0.0_Driver".to_string();
        m.esxi().vibs.push(Vib { name, version: "999.1.1-1OEM".into(), vendor: "NVD".into() });
    });
    let _gateway = of.serve(&may(&OfImage::depot()));
    let said = of.lab.expect(0, &["facts", "-n", "esx-01", "-o", "wide"]);
    assert!(said.contains("installed by hand: NVD-VMware_ESXi_8.0.0_Driver(999.1.1-1OEM)"), "{said}");
}

/// A host that vCenter would not remediate comes back out of its window, with the reason.
fn what_vcenter_would_not_remediate_is_given_back() {
    let of = OfImage::new("image-check", Some(0));
    let _gateway = of.serve(&format!("images = remediate\n{}", OfImage::depot()));
    of.set(|world| world.lcm.against = Some("The host is low on space for the image."));
    let said = of.lab.expect(5, &["apply", "--yes"]);
    assert!(
        said.contains("vCenter would not remediate esx-01.example.com: The host is low on space"),
        "{said}"
    );
    assert!(!of.lab.state("esx-01").esxi().maintenance);
    of.set(|world| (world.lcm.against, world.lcm.skips) = (None, true));
    // A task that succeeds is not believed.
    let said = of.lab.expect(5, &["apply", "--yes"]);
    assert!(
        said.contains("esx-01.example.com was not remediated: URL: http://vc.example.com:9084"),
        "{said}"
    );
    assert!(!of.lab.state("esx-01").esxi().maintenance);
    of.set(|world| world.lcm.skips = false);
    of.lab.expect(0, &["apply", "--yes"]);
    assert!(of.lab.state("esx-01").esxi().loaded.is_some());
}

/// From vCenter 9 on a host that is in no cluster has an image of its own; its owner is said by the image.
fn a_single_host_has_its_own_image_from_nine_on() {
    let of = OfImage::new("image-host", None);
    of.set(|world| (world.api, world.images) = ("9.0.0.0", false));
    of.set(|world| world.lcm.orchestrator = Some("SDDC-M"));
    let gateway = of.serve(&format!("images = remediate\n{}", OfImage::depot()));
    let said = of.lab.expect(6, &["plan"]);
    assert!(said.contains("the image of esx-01.example.com is looked after by SDDC-M"), "{said}");
    drop(gateway);
    let _gateway = of.serve(&format!("images = remediate\nimages-in-vcf = allow\n{}", OfImage::depot()));
    of.lab.expect(0, &["apply", "--yes"]);
    assert!(of.lab.state("esx-01").esxi().loaded.is_some());
    assert_eq!(of.lcm().added["host-0"].len(), 1);
    let said = of.lab.expect(0, &["apply", "--yes"]);
    assert!(said.to_lowercase().contains("nothing to do"), "{said}");
}

/// What does not end in time is not broken off; whoever comes next waits for it, and clears up.
fn what_is_late_goes_on_and_is_waited_for() {
    let of = OfImage::new("image-late", Some(0));
    of.set(|world| world.tasks_run_for = usize::MAX);
    let _gateway = of.serve(&format!("images = remediate\n{}", OfImage::depot()));
    let fleet = std::fs::read_to_string(of.lab.folder.join("fleet.yaml")).unwrap();
    of.lab.write_fleet(&(fleet + "deadlines: { step-secs: 4 }\n"));
    // A bundle that vCenter has already: the first task is the draft's.
    let bundle = std::fs::read(of.lab.folder.join("files").join(files::MANAGER_17_4)).unwrap();
    let component = vsgpu_machine::package::component(&mut std::io::Cursor::new(&bundle)).unwrap();
    of.set(|world| drop(world.lcm.depots.insert(component.clone(), bundle.clone())));
    let said = of.lab.expect(5, &["apply", "--yes"]);
    assert!(said.contains("did not end within"), "{said}");
    assert!(!of.site.calls().iter().any(|call| call.ends_with("?cancel")), "it was broken off");
    assert_eq!(of.lcm().drafts.len(), 1, "its draft was taken away while it goes on");
    of.set(|world| {
        world.tasks_run_for = 0;
        world.lcm.end_tasks();
    });
    of.lab.write_fleet(
        &std::fs::read_to_string(of.lab.folder.join("fleet.yaml"))
            .unwrap()
            .replace("step-secs: 4", "step-secs: 600"),
    );
    of.lab.expect(0, &["apply", "--yes"]);
    assert!(of.lab.state("esx-01").esxi().loaded.is_some() && of.lcm().drafts.is_empty());
}

/// Cut off at every call that changes something, before it or behind it in turns (both of each with `VSGPU_EVERY=1`): whoever
/// goes on comes to the same end, with no draft left.
fn cut_at_every_call_it_comes_to_the_same_end() {
    let every = std::env::var_os("VSGPU_EVERY").is_some();
    for n in 0..20 {
        for behind in [false, true].into_iter().filter(|behind| every || *behind == (n % 2 == 0)) {
            let of = OfImage::new(&format!("image-cut-{n}-{behind}"), Some(0));
            of.set(|world| (world.tasks_run_for, world.cut) = (0, Some((n, behind))));
            let _gateway = of.serve(&format!("images = remediate\n{}", OfImage::depot()));
            of.lab.vsgpu(&["apply", "--yes"]);
            let made = of.site.served.world.lock().unwrap().changes;
            of.set(|world| world.cut = None);
            let said = of.lab.vsgpu(&["apply", "--yes"]);
            let text = String::from_utf8_lossy(&said.stderr).into_owned();
            // A change that was begun and not heard may leave a host for a person to look at: not here.
            assert!(said.status.success(), "cut at {n}, behind: {behind}: {text}");
            let host = of.lab.state("esx-01").esxi().clone();
            assert!(host.loaded.is_some() && !host.maintenance, "cut at {n}, behind: {behind}");
            assert!(of.lcm().drafts.is_empty(), "cut at {n}, behind: {behind}: a draft is left");
            if made <= n {
                return;
            }
        }
    }
    panic!("more than twenty changing calls");
}

pub const TESTS: &[vsgpu_tests::harness::Test] = vsgpu_tests::tests![
    a_component_goes_into_the_image_and_onto_the_host,
    with_commit_alone_people_remediate,
    what_the_image_does_not_take_costs_no_window,
    what_vcenter_would_not_remediate_is_given_back,
    a_single_host_has_its_own_image_from_nine_on,
    what_is_late_goes_on_and_is_waited_for,
    cut_at_every_call_it_comes_to_the_same_end
];
