//! Hosts on which no program of ours may run: the host agent reaches them through OpenSSH. A real sshd, real ssh, busybox as the
//! far shell; only the host's own tools are simulated. Skipped visibly where one of these is not here.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout, reason = "test code")]

use std::time::Duration;
use vsgpu_tests::lab::small::{self, begin, count, fault, small_fleet};
use vsgpu_tests::lab::{Lab, files, sshd, wait_until};
use vsgpu_tests::real::skipped;
use vsgpu_tests::sim::state::Fault;

fn lab(name: &str) -> Option<Lab> {
    if let Some(why) = sshd::why_not() {
        skipped(&why);
        return None;
    }
    let lab = Lab::new(name);
    lab.host("esx-01", "8.0.2", vec![files::a100("0000:3b:00.0")]);
    lab.vm("vm-01", "esx-01");
    files::write_all(&lab.folder.join("files"));
    lab.write_fleet(&small_fleet(&lab, ""));
    lab.without_agent("esx-01");
    lab.start();
    Some(lab)
}

#[test]
fn the_whole_journey_on_a_host_without_an_agent() {
    let Some(lab) = lab("ssh") else { return };
    lab.expect(3, &["plan"]);
    lab.expect(0, &["apply", "--yes"]);
    let said = lab.expect(0, &["verify"]);
    let mut host = lab.state("esx-01");
    assert!(!host.esxi().maintenance && host.esxi().loaded.is_some(), "{said}");
    assert_eq!(host.boots, 2, "one reboot");
    lab.forget_calls();
    lab.expect(0, &["apply", "--yes"]);
    assert_eq!(lab.changing_calls("esx-01"), Vec::<String>::new());
    // Under DCGM's names as well, where that was asked for: the labels and units of NVIDIA's exporter.
    let page = || vsgpu_tests::http::get(&lab.metrics("esx-01"), "/metrics", None).map(|(_, text)| text).unwrap_or_default();
    let dcgm = |page: &str| page.lines().any(|l| l.starts_with("DCGM_FI_DEV_FB_FREE{") && l.contains("modelName=\"NVIDIA A100"));
    wait_until("the GPU is shown under DCGM's names", Duration::from_secs(60), || dcgm(&page()));
    // What is on the host of us: the packages that were sent, and notes on a ramdisk.
    let root = lab.machine("esx-01").join("root");
    assert!(!root.join("etc/opt/vsgpu").exists(), "the agent's memory is not on the host");
    assert_eq!(std::fs::read_dir(root.join("var/run/vsgpu/remote")).unwrap().count(), 0, "no command is left behind");
}

#[test]
fn a_cut_connection_and_a_killed_agent_do_not_start_an_installation_twice() {
    let Some(lab) = lab("ssh-cut") else { return };
    let install = "esxcli software";
    fault(&lab, "esx-01", install, Fault::Slow { ms: 4000 });
    let run = begin(&lab, &["apply", "--yes"]);
    let installs = || count(&lab.calls("esx-01"), "software vib install") + count(&lab.calls("esx-01"), "software component apply");
    wait_until("the installation runs", Duration::from_secs(120), || installs() > 0);
    // The connection is cut under it, and the agent that waits for it is killed.
    lab.restart_agent("esx-01");
    lab.restart_gateway("esx-01");
    let (status, said) = small::end(run);
    if status != Some(0) {
        lab.expect(0, &["apply", "--yes"]);
    }
    assert_eq!(installs(), 1, "{said}\n{:#?}", lab.changing_calls("esx-01"));
    lab.expect(0, &["verify"]);
}

#[test]
fn who_is_not_known_is_not_trusted_and_says_what_to_do() {
    let Some(lab) = lab("ssh-unknown") else { return };
    let facts = |options: &[String]| {
        let mut agent = std::process::Command::new(vsgpu_tests::lab::programs().join("vsgpu-host-agent"));
        let folder = lab.machine("esx-01");
        agent.arg("facts").args(options).arg("--tools").arg(folder.join("tools")).arg("--root").arg(folder.join("root"));
        let output = agent.output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
    };
    let options = lab.sshd("esx-01").options();
    let (status, said) = facts(&options);
    assert!(status == Some(0) && said.contains("Releasebuild"), "{said}");
    // A host key that nobody has seen.
    let empty = lab.folder.join("known_hosts");
    std::fs::write(&empty, "").unwrap();
    let unknown = [&options[..5], &[empty.display().to_string()]].concat();
    let (_, said) = facts(&unknown);
    assert!(said.contains("ssh-keyscan") && !said.contains("Releasebuild"), "{said}");
    let wrong = [&["--ssh=-oProxyCommand=touch@h".to_string()], &options[2..]].concat();
    let (status, said) = facts(&wrong);
    assert!(status == Some(1) && said.contains("user@host"), "{said}");
}

#[test]
fn two_agents_do_not_serve_one_host() {
    let Some(lab) = lab("ssh-two") else { return };
    lab.expect(0, &["facts", "-n", "esx-01"]);
    // A scrape never waits for a host that is away, and says that it is.
    let page = || vsgpu_tests::http::get(&lab.metrics("esx-01"), "/metrics", None).map(|(_, text)| text).unwrap_or_default();
    wait_until("the host is seen", Duration::from_secs(60), || page().contains("vsgpu_host_reachable 1"));
    lab.stop_agent("esx-01");
    wait_until("the host is seen to be away", Duration::from_secs(60), || page().contains("vsgpu_host_reachable 0"));
    let begun = std::time::Instant::now();
    assert!(page().contains("vsgpu_up 1") && begun.elapsed() < Duration::from_secs(5));
    lab.start_agent("esx-01");
    let owner = lab.machine("esx-01").join("root/var/run/vsgpu/gateway");
    std::fs::write(&owner, "other-gateway\n").unwrap();
    lab.forget_calls();
    let said = lab.expect(4, &["facts", "-n", "esx-01"]);
    assert!(said.contains("other-gateway") && said.contains("another agent serves this host"), "{said}");
    assert_eq!(lab.calls("esx-01"), Vec::<String>::new(), "nothing was asked on the other's behalf");
}

#[test]
fn a_hanging_tool_is_ended_on_the_host_and_not_only_here() {
    let Some(lab) = lab("ssh-hang") else { return };
    fault(&lab, "esx-01", "esxcli --formatter=xml system stats uptime", Fault::Hang);
    let asked = || count(&lab.calls("esx-01"), "uptime get");
    lab.expect(0, &["facts", "-n", "esx-01"]);
    assert!(asked() > 0);
    let folder = lab.machine("esx-01").join("tools").display().to_string();
    let hangs = || {
        let processes = std::fs::read_dir("/proc").unwrap().flatten().filter_map(|p| std::fs::read(p.path().join("cmdline")).ok());
        let lines = processes.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
        lines.filter(|line| line.contains(&folder) && line.contains("uptime get")).count()
    };
    lab.change("esx-01", |m| m.faults.clear());
    wait_until("nothing hangs on the host any more", Duration::from_secs(30), || hangs() == 0);
}

#[test]
fn a_fleet_file_is_written_from_what_hosts_say() {
    let Some(lab) = lab("ssh-init") else { return };
    let machine = lab.machine("esx-01");
    let (tools, root) = (machine.join("tools").display().to_string(), machine.join("root").display().to_string());
    let options = lab.sshd("esx-01").options();
    let over = |verb: &str, more: &[&str]| {
        let words: Vec<&str> =
            [verb].into_iter().chain(options.iter().map(String::as_str)).chain(["--tools", &tools, "--root", &root]).collect();
        [&words[..], more].concat().into_iter().map(String::from).collect::<Vec<_>>()
    };
    let run = |status: i32, words: &[String]| lab.expect(status, &words.iter().map(String::as_str).collect::<Vec<_>>());
    lab.forget_calls();
    let said = run(0, &over("discover", &[]));
    assert!(said.contains("ESXi 8.0.2") && said.contains("A100") && said.contains("vm-01"), "{said}");
    let said = run(0, &over("init", &["--out", "new.yaml"]));
    assert!(said.contains("1 host"), "{said}");
    assert_eq!(lab.changing_calls("esx-01"), Vec::<String>::new(), "both only look");
    let text = std::fs::read_to_string(lab.folder.join("new.yaml")).unwrap();
    assert!(text.contains("0000:3b:00.0") && text.contains("# graphics-type: SharedPassthru"), "{text}");
    lab.expect(0, &["validate", "new.yaml"]);
    run(2, &over("init", &["--out", "new.yaml"]));
    // The same through the agent.
    let agent = format!("esx-01={}", lab.address("esx-01"));
    lab.expect(0, &["init", "--agent", &agent, "--out", "other.yaml"]);
    lab.expect(0, &["plan", "other.yaml"]);
}

#[test]
fn bootstrap_brings_an_agent_to_a_bare_host() {
    let Some(lab) = lab("ssh-boot") else { return };
    let machine = lab.machine("esx-01");
    let (tools, root) = (machine.join("tools").display().to_string(), machine.join("root").display().to_string());
    std::fs::write(lab.folder.join("agent.vib"), files::vib("vsgpu-host-agent", "0.1.0-1", 4096)).unwrap();
    // What the lab made for its own agents is not there yet for an operator.
    std::fs::remove_dir_all(lab.folder.join("pki/esx-01.host")).unwrap();
    let options = lab.sshd("esx-01").options();
    let at = lab.address("esx-01");
    let bootstrap = |status: i32, more: &[&str]| {
        let words = [
            "bootstrap",
            "ssh",
            &options[1],
            "--package",
            "agent.vib",
            "--name",
            "esx-01",
            "--address",
            &at,
            "--tools",
            &tools,
            "--root",
            &root,
        ];
        let keys = options[2..].iter().map(String::as_str);
        lab.expect(status, &words.into_iter().chain(keys).chain(more.iter().copied()).collect::<Vec<_>>())
    };
    lab.expect(0, &["facts", "-n", "esx-01"]);
    let said = bootstrap(6, &["--yes"]);
    assert!(said.contains("an agent elsewhere serves this host"), "{said}");
    lab.stop_gateway("esx-01");
    lab.forget_calls();
    let said = bootstrap(6, &["--yes"]);
    assert!(said.contains("acceptance level is PartnerSupported") && said.contains("Secure Boot"), "{said}");
    assert_eq!(lab.changing_calls("esx-01"), Vec::<String>::new());
    let said = bootstrap(2, &["--set-acceptance-level"]);
    assert!(
        said.contains("nobody can be asked here") && said.contains("esxcli software acceptance set"),
        "the plan is shown all the same: {said}"
    );
    assert_eq!(lab.changing_calls("esx-01"), Vec::<String>::new());
    let said = bootstrap(0, &["--yes", "--set-acceptance-level"]);
    assert!(said.contains("esx-01 answers: host agent") && !said.contains("PRIVATE KEY"), "{said}");
    assert!(lab.folder.join("pki/esx-01.host/node.key").exists());
    assert!(std::fs::read_to_string(machine.join("root/etc/opt/vsgpu/node.key")).unwrap().contains("PRIVATE KEY"));
    assert_eq!(std::fs::read_dir(machine.join("root/tmp")).unwrap().count(), 0);
    // And it is one like any other: the way to the same end is the same.
    lab.expect(0, &["facts", "-n", "esx-01"]);
    bootstrap(0, &["--yes"]);
}
