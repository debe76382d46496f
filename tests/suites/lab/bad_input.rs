//! Bad input, each with its clear error: fleet files, operator's files, certificates, agents and tools that
//! fail.

use serde_json::Value;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};
use vsgpu_tests::fakes::state::Fault;
use vsgpu_tests::lab::{Lab, files, programs, wait_until};

/// What `vsgpu validate` says of a fleet file.
fn validate(text: &str) -> (Option<i32>, String) {
    let folder = std::env::temp_dir().join(
        format!("vsgpu-bad-{}-{:?}", std::process::id(), std::thread::current().id()).replace(['(', ')'], ""),
    );
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("fleet.yaml"), text).unwrap();
    let output = Command::new(programs().join("vsgpu"))
        .args(["validate", "--no-files"])
        .current_dir(&folder)
        .output()
        .unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    (
        output.status.code(),
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr),
    )
}

#[test]
fn fleet_files_are_refused_with_place_allowed_values_and_a_suggestion() {
    for (text, wanted) in [
        (
            "version: 1\nhosts:\n  esx-01:\n    graphics-type: SharedPassthrough\n",
            "error[fleet-file]: esx-01: graphics-type: unknown value `SharedPassthrough`\n  fleet.yaml:4:20\n  expected `Shared` or `SharedPassthru`\n\nhint: did you mean `SharedPassthru`?\n",
        ),
        (
            "version: 1\nhosts:\n  esx-01:\n    graphic-type: Shared\n",
            "error[fleet-file]: esx-01: unknown key `graphic-type`\n  fleet.yaml:4:5\n",
        ),
        (
            "version: 1\nhost:\n  esx-01:\n",
            "error[fleet-file]: fleet file: unknown key `host`\n  fleet.yaml:2:1\n",
        ),
        (
            "version: 1\nhosts:\n  esx-01:\n    vgpu-manager: { package: x.zip }\n",
            "error[fleet-file]: esx-01: vgpu-manager: missing field `datastore`\n  fleet.yaml:4:19\n",
        ),
        (
            "version: 1\nhosts:\n  esx-01:\n    vgpu-manager: { package: x.zip, datastor: ds1 }\n",
            "unknown key `datastor`\n  fleet.yaml:4:37\n",
        ),
        ("version: 1\nhosts:\n  esx-01:\n    ecc: [1]\n", "error[fleet-file]: esx-01: ecc: "),
        (
            "version: 1\nhosts:\n  esx-01:\n  esx-01:\n",
            "error[fleet-file]: `esx-01` appears twice\n  fleet.yaml:4:3\n  first in line 3\n",
        ),
        (
            "version: 1\nhosts:\n  esx-[01-03]:\n  esx-02:\n",
            "error[fleet-file]: host `esx-02` appears twice\n  fleet.yaml:4:3\n",
        ),
        (
            "version: 1\nhosts:\n  esx-01:\nvms:\n  vm-01:\n    host: esx-1\n",
            "error[fleet-file]: vm-01: there is no host `esx-1`\n  fleet.yaml:6:11\n  known hosts: `esx-01`\n\nhint: did you mean `esx-01`?\n",
        ),
        (
            "version: 1\nhosts:\n  esx-01:\nvms:\n  vm-01:\n    vgpu: [grid_p100-8q]\n",
            "error[fleet-file]: vm-01: `host` is missing\n  fleet.yaml:5:3\n",
        ),
        (
            "version: 1\nhosts:\n  esx-01:\nvms:\n  vm-01:\n    host: esx-01\n    vgpu: [P100]\n",
            "error[fleet-file]: vm-01: vgpu: [0]: `P100` is no vGPU profile; they are written like `grid_p100-8q` or `grid_a100-40c`\n  fleet.yaml:7:12\n",
        ),
        (
            "version: 1\nhosts:\n  esx-01:\nvms:\n  vm-01:\n    host: esx-01\n    guest: { license: { server: a, token: b } }\n",
            "either `server` (legacy license server) or `token` (NLS) is needed, not both\n  fleet.yaml:7:23\n",
        ),
        ("version: 2\nhosts:\n  esx-01:\n", "reads fleet files of `version: 1`\n  fleet.yaml:1:10\n"),
        ("hosts:\n  esx-01:\n", "`version: 1` is missing"),
        ("version: 1\nhosts:\n  esx-[3-1]:\n", "must count upwards"),
        ("version: 1\nhosts: [a\n", "this is not YAML"),
        ("", "the file is empty"),
        ("version: 1\nhosts:\n  ../etc:\n", "is no name"),
    ] {
        let (status, said) = validate(text);
        assert_eq!(status, Some(2), "{text}\n{said}");
        assert!(said.contains(wanted), "{text}\n--- said\n{said}\n--- wanted\n{wanted}");
    }
    let (status, said) = validate(
        "version: 1\ndefaults:\n  host: { graphics-type: SharedPassthru, ecc: off }\nhosts:\n  esx-[001-100]:\n    address: \"10.0.0.{n}:7443\"\nvms:\n  vm-[0001-1000]:\n    host: esx-[001-100]\n    vgpu: [grid_p100-8q]\n",
    );
    assert_eq!(
        (status, said.as_str()),
        (
            Some(0),
            "fleet.yaml is valid: 100 hosts, 1000 VMs, 0 guests, 2200 requirements\nnot judged without the hosts: room on their GPUs, their release of ESXi, what their VMs are now\n"
        )
    );
}

fn lab(name: &str) -> Lab {
    let lab = Lab::new(name);
    lab.host("esx-01", "8.0.2", vec![files::a100("0000:3b:00.0")]);
    std::fs::create_dir_all(lab.folder.join("files")).unwrap();
    std::fs::write(
        lab.folder.join("files/good.zip"),
        files::bundle("NVD-VMware_ESXi_8.0.0_Driver", "535.183.04-1OEM.800.1.0.20613240", true, 3 << 20),
    )
    .unwrap();
    lab.write_fleet(&fleet(&lab, "files/good.zip"));
    lab
}

fn fleet(lab: &Lab, package: &str) -> String {
    format!(
        "version: 1\ndeadlines: {{ connect-secs: 1 }}\nhosts:\n  esx-01:\n    address: {}\n    vgpu-manager: {{ package: {package}, datastore: datastore1 }}\n",
        lab.address("esx-01")
    )
}

#[test]
fn operators_files_are_judged_by_their_content() {
    let lab = lab("files");
    let good = std::fs::read(lab.folder.join("files/good.zip")).unwrap();
    let download = {
        let mut z = good.clone();
        z.truncate(good.len() / 2);
        z
    };
    for (name, bytes, wanted) in [
        ("a.zip", b"<html>404 Not Found</html>".to_vec(), "a.zip: this is not a zip file"),
        ("a.vib", b"PK not a vib".to_vec(), "a.vib: this is not a VIB"),
        ("cut.zip", download, "cut.zip: this zip file is no offline bundle"),
        ("empty.zip", vec![], "empty.zip: the file is empty"),
        ("cut.vib", b"!<arch>\ndescriptor.xml  0".to_vec(), "cut.vib: the VIB is cut off"),
    ] {
        std::fs::write(lab.folder.join("files").join(name), bytes).unwrap();
        lab.write_fleet(&fleet(&lab, &format!("files/{name}")));
        let said = lab.expect(2, &["validate"]);
        assert!(said.contains(wanted), "{said}");
    }
    lab.write_fleet(&fleet(&lab, "files/missing.zip"));
    let said = lab.expect(2, &["plan"]);
    assert!(said.contains("missing.zip: no such file\n  fleet.yaml:6:30\n"), "{said}");
    lab.write_fleet(&fleet(&lab, &format!("{{ file: files/good.zip, sha256: {} }}", "0".repeat(64))));
    let said = lab.expect(2, &["validate"]);
    assert!(said.contains("SHA-256 is ") && said.contains("the fleet file states 0000"), "{said}");
    assert!(lab.expect(2, &["validate", "nowhere.yaml"]).contains("nowhere.yaml: no such file"));
    // A driver that is no self-extracting installer.
    lab.write_fleet(&fleet(&lab, "files/good.zip").replace(
        "hosts:",
        "vms:\n  vm-01: { host: esx-01, guest: { driver: { package: files/x.run } } }\nhosts:",
    ));
    std::fs::write(lab.folder.join("files/x.run"), b"\x7fELF").unwrap();
    assert!(lab.expect(2, &["validate"]).contains("not a self-extracting installer"));
}

#[test]
fn certificates_open_only_what_they_are_for() {
    let lab = lab("tls");
    lab.host("esx-02", "8.0.2", vec![]);
    lab.start();
    lab.expect(3, &["plan"]);
    // The address of another host: its certificate does not fit the name.
    lab.write_fleet(&fleet(&lab, "files/good.zip").replace(&lab.address("esx-01"), &lab.address("esx-02")));
    let said = lab.expect(4, &["plan"]);
    assert!(
        said.contains(
            "another node answers there: its certificate is for esx-02.host.vsgpu, not for host `esx-01`"
        ),
        "{said}"
    );
    lab.write_fleet(&fleet(&lab, "files/good.zip"));
    // Another CA.
    let other = lab.folder.join("other");
    vsgpu_wire::pki::init(&other, SystemTime::now()).unwrap();
    let said = lab.expect(4, &["plan", "--pki", "other"]);
    assert!(said.contains("its certificate was issued by another CA than the one in use (for CN="), "{said}");
    // A host's certificate in the place of the operator's: our CA, but no operator.
    let thief = lab.folder.join("thief");
    std::fs::create_dir_all(&thief).unwrap();
    for (from, to) in [
        ("esx-02.host/ca.pem", "ca.pem"),
        ("esx-02.host/node.pem", "controller.pem"),
        ("esx-02.host/node.key", "controller.key"),
    ] {
        std::fs::copy(lab.folder.join("pki").join(from), thief.join(to)).unwrap();
    }
    let said = lab.expect(4, &["plan", "--pki", "thief"]);
    assert!(said.contains("refuses our certificate"), "{said}");
    // No certificate folder at all.
    let said = lab.expect(2, &["plan", "--pki", "nowhere"]);
    assert!(said.contains("nowhere/ca.pem") && said.contains("vsgpu ca init"), "{said}");
    // An expired one.
    let node = lab.folder.join("pki/esx-01.host");
    for file in ["node.pem", "node.key", "ca.pem"] {
        std::fs::remove_file(node.join(file)).unwrap();
    }
    let long_ago = SystemTime::now() - Duration::from_secs(400 * 86_400);
    vsgpu_wire::pki::issue_node(&lab.folder.join("pki"), "esx-01", "host", 1, long_ago).unwrap();
    lab.stop_agent("esx-01");
    lab.start_agent("esx-01");
    let said = lab.expect(4, &["plan"]);
    assert!(
        said.contains("its certificate ended on ") && said.contains("vsgpu cert renew esx-01 --role host"),
        "{said}"
    );

    // A range in which one node has its certificates: which one is said, and none is issued.
    lab.expect(0, &["cert", "issue", "esx-42", "--role", "host"]);
    let said = lab.expect(2, &["cert", "issue", "esx-[41-43]", "--role", "host"]);
    assert!(
        said.contains("there already: ")
            && said.contains("esx-42.host; nothing was issued")
            && said.contains("hint: "),
        "{said}"
    );
    assert!(!lab.folder.join("pki/esx-41.host").exists() && !lab.folder.join("pki/esx-43.host").exists());
    // A second CA over the first would lock everyone out.
    assert!(lab.expect(2, &["ca", "init"]).contains("there is a CA already"));
    let modes = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(lab.folder.join("pki/ca.key")).unwrap().permissions(),
    );
    assert_eq!(modes & 0o777, 0o600);
}

#[test]
fn an_agent_that_is_away_is_said_and_hides_nobody() {
    let lab = lab("away");
    lab.host("esx-02", "8.0.2", vec![files::a100("0000:3b:00.0")]);
    lab.start();
    lab.write_fleet(
        &(fleet(&lab, "files/good.zip")
            + &format!(
                "  esx-02:\n    address: {}\n    assignment-policy: Consolidation\n",
                lab.address("esx-02")
            )),
    );
    lab.stop_agent("esx-01");
    let said = lab.expect(4, &["apply", "--yes"]);
    assert!(
        said.contains("error[unreachable]: esx-01 at 127.0.0.1:")
            && said
                .contains("hint: start the agent, on the ESXi host: `/etc/init.d/vsgpu-host-agent restart`"),
        "{said}"
    );
    // The other host was served all the same.
    assert_eq!(lab.state("esx-02").esxi().policy, "Consolidation");
    let json: Value = serde_json::from_slice(&lab.vsgpu(&["facts", "-o", "json"]).stdout).unwrap();
    assert!(
        json["host/esx-01"]["error"]["message"].is_string()
            && json["host/esx-02"]["esx-version"]["version"] == "8.0.2",
        "{json}"
    );
}

/// The one-shot facts of a host agent.
fn facts(lab: &Lab, tools: &Path) -> (Value, Duration) {
    let start = Instant::now();
    let output = Command::new(programs().join("vsgpu-host-agent"))
        .args(["facts", "-o", "json", "--tools"])
        .arg(tools)
        .arg("--root")
        .arg(lab.machine("esx-01").join("root"))
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(output.status.success());
    (serde_json::from_slice(&output.stdout).unwrap(), start.elapsed())
}

#[test]
fn facts_never_fail_as_a_whole() {
    let lab = lab("facts");
    let tools = lab.machine("esx-01").join("tools");
    let (good, _) = facts(&lab, &tools);
    assert_eq!(good["esx-version"]["version"], "8.0.2");
    assert_eq!(good["host-graphics"]["default_type"], "Shared");
    // A fact that cannot be read says the command, its end and its words.
    let error = &good["gpus"]["error"];
    assert_eq!(
        (error["command"].as_str(), error["status"].as_str()),
        (Some("nvidia-smi -q -x"), Some("no such program")),
        "{good:#}"
    );
    // esxcli is missing.
    let empty = lab.folder.join("empty");
    std::fs::create_dir_all(&empty).unwrap();
    let (bare, _) = facts(&lab, &empty);
    assert_eq!(bare["esx-version"]["error"]["status"], "no such program");
    // Garbage, a refusal, and 100 MB of output.
    for (fault, status) in [
        (Fault::Garbage, "exit status 0"),
        (Fault::Fail { text: "Connect to localhost failed: Connection failure.\n".into() }, "exit status 1"),
        (Fault::Flood, "killed after printing more than 8 MiB"),
    ] {
        lab.change("esx-01", |m| {
            drop(m.faults.insert("esxcli --formatter=xml system version".into(), fault.clone()))
        });
        lab.change("esx-01", |m| drop(m.faults.insert("esxcli system version".into(), fault)));
        let (bad, took) = facts(&lab, &tools);
        assert_eq!(bad["esx-version"]["error"]["status"], status, "{bad:#}");
        assert_eq!(bad["host-graphics"]["default_type"], "Shared", "the others are read");
        assert!(took < Duration::from_secs(30), "{took:?}");
    }
    assert!(lab.changing_calls("esx-01").is_empty());
}

/// Command lines of all processes here.
fn running() -> Vec<String> {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    all.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
        .map(|b| String::from_utf8_lossy(&b).into_owned())
        .collect()
}

/// A tool that hangs costs its own deadline (60 s) and its own facts, nothing else; its processes are gone
/// afterwards.
#[test]
fn a_hanging_esxcli_costs_only_its_own_facts() {
    let lab = lab("hang");
    lab.change("esx-01", |m| {
        drop(m.faults.insert("esxcli --formatter=xml graphics host".into(), Fault::Hang))
    });
    let (seen, _) = facts(&lab, &lab.machine("esx-01").join("tools"));
    assert_eq!(seen["host-graphics"]["error"]["status"], "killed after its deadline of 60 s", "{seen:#}");
    assert_eq!(seen["esx-version"]["version"], "8.0.2");
    // It was waited for once. (How long all of it took says more about this machine than about the agent.)
    let hung = lab.calls("esx-01").iter().filter(|c| c.contains("graphics host get")).count();
    assert_eq!(hung, 1, "{:#?}", lab.calls("esx-01"));
    let at = lab.folder.display().to_string();
    wait_until("nothing that hung is left", Duration::from_secs(10), || {
        !running().iter().any(|c| c.contains(&at))
    });
}

#[test]
fn a_full_disk_while_receiving_keeps_nothing_and_says_so() {
    let lab = lab("full");
    let store = lab.machine("esx-01").join("root/vmfs/volumes/datastore1");
    // A file system of 1 MiB in the place of the datastore.
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"])
        .arg(&store)
        .status()
        .is_ok_and(|s| s.success());
    if !mounted {
        println!("SKIPPED: no file system can be mounted here (not root?)");
        return;
    }
    lab.start();
    let said = lab.expect(5, &["apply", "--yes"]);
    let left = walk(&store);
    Command::new("umount").arg(&store).status().unwrap();
    assert!(said.contains("no space left; the part that was received has been removed"), "{said}");
    assert_eq!(left, 0, "bytes left behind");
    let mut host = lab.state("esx-01");
    assert!(!host.esxi().maintenance);
    // With room again, the same command goes through.
    lab.expect(0, &["apply", "--yes"]);
}

fn walk(folder: &Path) -> u64 {
    std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| if e.path().is_dir() { walk(&e.path()) } else { e.metadata().map_or(0, |m| m.len()) })
        .sum()
}

#[test]
fn an_unknown_datastore_names_the_known_ones() {
    let lab = lab("store");
    lab.start();
    lab.write_fleet(&fleet(&lab, "files/good.zip").replace("datastore: datastore1", "datastore: ds9"));
    let said = lab.expect(5, &["apply", "--yes"]);
    assert!(said.contains("there is no datastore `ds9` on this host; it has: datastore1"), "{said}");
}

#[test]
fn an_unknown_requirement_is_said_by_name() {
    let lab = lab("unknown");
    lab.start();
    let connector = vsgpu_wire::client::Connector::load(&lab.folder.join("pki")).unwrap();
    let target =
        vsgpu_wire::client::Target { address: lab.address("esx-01"), node: "esx-01".into(), role: "host" };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let second = Duration::from_secs(5);
    let said = runtime.block_on(async {
        let connection = vsgpu_wire::client::Connection::open(&connector, &target, second).await.unwrap();
        let unknown = connection
            .apply(
                None,
                "warp-drive",
                &Value::Null,
                None,
                &mut vsgpu_wire::client::Call::default(),
                second,
                &mut |_| {},
            )
            .await
            .unwrap_err();
        let spec = connection
            .apply(
                None,
                "graphics-type",
                &serde_json::json!("Wrong"),
                None,
                &mut vsgpu_wire::client::Call::default(),
                second,
                &mut |_| {},
            )
            .await
            .unwrap_err();
        // What it does know it publishes, as this build's own catalogue has it.
        let known = connection.schemas(second).await.unwrap();
        let own: Vec<_> = vsgpu_host_agent::catalogue().entries.iter().map(|e| (e.schema)()).collect();
        assert!(
            known.len() == own.len() && own.iter().all(|schema| known.values().any(|k| k == schema)),
            "{known:#?}"
        );
        format!("{unknown}\n{spec}")
    });
    assert!(
        said.contains("does not know the requirement `warp-drive`: upgrade the agent")
            && said.contains("unknown value `Wrong`"),
        "{said}"
    );
}

/// A node whose certificate has ended comes back by the command that the error names; `verify` and `status`
/// told it weeks before.
#[test]
fn certificates_are_renewed_before_and_after_their_end() {
    let lab = lab("renewal");
    let pki = lab.folder.join("pki");
    let issue = |days: u32, ago: u64| {
        std::fs::remove_dir_all(pki.join("esx-01.host")).unwrap();
        let then = SystemTime::now() - Duration::from_secs(ago * 86_400);
        vsgpu_wire::pki::issue_node(&pki, "esx-01", "host", days, then).unwrap();
        lab.stop_agent("esx-01");
        lab.start_agent("esx-01");
    };
    lab.start();
    // Fresh: nothing is said. Then a month, a week, a day, and one that lives shortly.
    assert!(!lab.expect(3, &["verify"]).contains("certificate"));
    for (days, ago, said) in [
        (365, 340, "ends in 25 days"),
        (365, 360, "ends in 5 days"),
        (365, 364, "ends in 23 hours"),
        (9, 7, "should have been renewed"),
    ] {
        issue(days, ago);
        let output = lab.expect(3, &["verify"]);
        let ends = output
            .lines()
            .find(|l| l.starts_with("warning: the certificate of esx-01 "))
            .unwrap_or_default()
            .to_string();
        // The day of tolerance at its beginning, and the moment between the two.
        assert!(
            ends.contains(said)
                || (said == "ends in 25 days" && ends.contains("ends in 24 days"))
                || (said == "ends in 5 days" && ends.contains("ends in 4 days"))
                || (said == "ends in 23 hours" && ends.contains("ends in 24 hours")),
            "{output}"
        );
        assert!(ends.contains("`vsgpu cert renew esx-01 --role host`"), "{ends}");
        let status = lab.expect(0, &["status"]);
        let of_status = status
            .lines()
            .find(|l| l.starts_with("warning: the certificate of esx-01 ends in"))
            .unwrap_or_default();
        assert!(of_status.contains("`vsgpu cert renew esx-01 --role host`"), "{status}");
    }
    let json: Value =
        serde_json::from_str(&String::from_utf8_lossy(&lab.vsgpu(&["verify", "-o", "json"]).stdout)).unwrap();
    assert_eq!(json["certificates"][0]["of"], "esx-01", "{json}");
    // Ended: the error names the command, and the command helps.
    issue(1, 400);
    let said = lab.expect(4, &["plan"]);
    assert!(said.contains("vsgpu cert renew esx-01 --role host"), "{said}");
    assert!(lab.logs().contains("this agent's certificate has ended"), "{}", lab.logs());
    let before = std::fs::read(pki.join("esx-01.host/node.pem")).unwrap();
    let said = lab.expect(0, &["cert", "renew", "esx-01"]);
    assert!(said.contains("vsgpu-host-agent restart") && said.contains("esx-01.host"), "{said}");
    assert_eq!(
        std::fs::read(pki.join("esx-01.host.old/node.pem")).unwrap(),
        before,
        "the one before is kept"
    );
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(pki.join("esx-01.host/node.key")).unwrap().permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
    lab.stop_agent("esx-01");
    lab.start_agent("esx-01");
    assert!(!lab.expect(3, &["plan"]).contains("certificate"));
    // All or none of a range; a name with two roles is asked about; one without any is said.
    lab.expect(0, &["cert", "issue", "esx-02", "--role", "host"]);
    let said = lab.expect(2, &["cert", "renew", "esx-[01-03]"]);
    assert!(said.contains("no certificate of `esx-03`") && !pki.join("esx-02.host.old").exists(), "{said}");
    lab.expect(0, &["cert", "renew", "esx-[01-02]", "--role", "host"]);
    lab.expect(0, &["cert", "issue", "esx-02", "--role", "monitor"]);
    assert!(lab.expect(2, &["cert", "renew", "esx-02"]).contains("--role host"));
    // The operator's own; the nodes need nothing for it.
    lab.expect(0, &["cert", "renew", "controller"]);
    lab.stop_agent("esx-01");
    lab.start_agent("esx-01");
    lab.expect(3, &["plan"]);
}

#[test]
fn an_agent_on_a_machine_that_is_none_of_its_kind_says_so() {
    let lab = lab("stranger");
    // A plain Linux: no esxcli.
    std::fs::remove_file(lab.machine("esx-01").join("tools/esxcli")).unwrap();
    lab.start();
    wait_until("the agent says what is missing", Duration::from_secs(30), || {
        lab.logs().contains("there is no esxcli here: this is no ESXi host")
    });
    let said = lab.expect(6, &["plan"]);
    assert!(said.contains("esxcli"), "{said}");
}
