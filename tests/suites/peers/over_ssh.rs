//! Hosts on which no program of ours may run: the host agent reaches them through OpenSSH. A real sshd, real
//! ssh, busybox as the far shell; only the host's own tools are simulated.

use std::time::Duration;
use vsgpu_core::{Command, ExitKind, Incoming, System as _, UploadError};
use vsgpu_machine::over_ssh::OverSsh;
use vsgpu_tests::fakes::state::Fault;
use vsgpu_tests::lab::small_fleet::{begin, clear_faults, count, fault, small_fleet, stall};
use vsgpu_tests::lab::{Lab, files, sshd, wait_until};
use vsgpu_wire::client::{Connection, Connector, Target};

fn lab(name: &str) -> Lab {
    let lab = Lab::new(name);
    lab.host("esx-01", "8.0.2", vec![files::a100("0000:3b:00.0")]);
    lab.vm("vm-01", "esx-01");
    files::write_all(&lab.folder.join("files"));
    lab.write_fleet(&small_fleet(&lab, ""));
    lab.without_agent("esx-01");
    lab.start();
    lab
}

fn the_whole_journey_on_a_host_without_an_agent() {
    let lab = lab("ssh");
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
    let page = || {
        vsgpu_tests::http::get(&lab.metrics("esx-01"), "/metrics", None)
            .map(|(_, text)| text)
            .unwrap_or_default()
    };
    let dcgm = |page: &str| {
        page.lines().any(|l| l.starts_with("DCGM_FI_DEV_FB_FREE{") && l.contains("modelName=\"NVIDIA A100"))
    };
    wait_until("the GPU is shown under DCGM's names", Duration::from_secs(60), || dcgm(&page()));
    // Not on the page that the exporter fetches: it would refuse the whole page.
    let for_the_exporter =
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
            let within = Duration::from_secs(30);
            let target = Target { address: lab.address("esx-01"), node: "esx-01".into(), role: "host" };
            let on = Connection::open(&Connector::reading(&lab.folder.join("pki")).unwrap(), &target, within)
                .await
                .unwrap();
            on.metrics(within).await.unwrap()
        });
    assert!(
        for_the_exporter.contains("vsgpu_gpu_") && !for_the_exporter.contains("DCGM_"),
        "{for_the_exporter}"
    );
    // What is on the host of us: the packages that were sent, and notes on a ramdisk.
    let root = lab.machine("esx-01").join("root");
    assert!(!root.join("etc/opt/vsgpu").exists(), "the agent's memory is not on the host");
    assert_eq!(
        std::fs::read_dir(root.join("var/run/vsgpu/remote")).unwrap().count(),
        0,
        "no command is left behind"
    );
}

fn a_cut_connection_and_a_killed_agent_do_not_start_an_installation_twice() {
    let lab = lab("ssh-cut");
    let install = "esxcli software";
    stall(&lab, "esx-01", install);
    let mut run = begin(&lab, &["apply", "--yes"]);
    let installs = || {
        count(&lab.calls("esx-01"), "software vib install")
            + count(&lab.calls("esx-01"), "software component apply")
    };
    wait_until("the installation runs", Duration::from_secs(120), || installs() > 0);
    // The connection is cut under it, and the agent that waits for it is killed.
    lab.restart_agent("esx-01");
    lab.restart_gateway("esx-01");
    run.wait_for("which an earlier agent started");
    clear_faults(&lab, "esx-01");
    let (status, said) = run.end();
    if status != Some(0) {
        lab.expect(0, &["apply", "--yes"]);
    }
    assert_eq!(installs(), 1, "{said}\n{:#?}", lab.changing_calls("esx-01"));
    lab.expect(0, &["verify"]);
}

fn who_is_not_known_is_not_trusted_and_says_what_to_do() {
    let lab = lab("ssh-unknown");
    let facts = |options: &[String]| {
        let mut agent = std::process::Command::new(vsgpu_tests::lab::programs().join("vsgpu-host-agent"));
        let folder = lab.machine("esx-01");
        agent
            .arg("facts")
            .args(options)
            .arg("--tools")
            .arg(folder.join("tools"))
            .arg("--root")
            .arg(folder.join("root"));
        let output = agent.output().unwrap();
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr),
        )
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

fn two_agents_do_not_serve_one_host() {
    let lab = lab("ssh-two");
    lab.expect(0, &["facts", "-n", "esx-01"]);
    // A scrape never waits for a host that is away, and says that it is.
    let page = || {
        vsgpu_tests::http::get(&lab.metrics("esx-01"), "/metrics", None)
            .map(|(_, text)| text)
            .unwrap_or_default()
    };
    wait_until("the host is seen", Duration::from_secs(60), || page().contains("vsgpu_host_reachable 1"));
    lab.stop_agent("esx-01");
    wait_until("the host is seen to be away", Duration::from_secs(60), || {
        page().contains("vsgpu_host_reachable 0")
    });
    let begun = std::time::Instant::now();
    assert!(page().contains("vsgpu_up 1") && begun.elapsed() < Duration::from_secs(5));
    lab.start_agent("esx-01");
    let owner = lab.machine("esx-01").join("root/var/run/vsgpu/gateway");
    std::fs::write(&owner, "other-gateway\n").unwrap();
    lab.forget_calls();
    let said = lab.expect(4, &["facts", "-n", "esx-01"]);
    assert!(said.contains("other-gateway") && said.contains("another agent serves this host"), "{said}");
    assert_eq!(lab.calls("esx-01"), Vec::<String>::new(), "nothing was asked on the other's behalf");
    // A reboot takes the other's name away: who was turned away does not take the host for that, but when it
    // is started anew.
    std::fs::remove_file(&owner).unwrap();
    let said = lab.expect(4, &["facts", "-n", "esx-01"]);
    assert!(said.contains("start this one anew") && !owner.exists(), "{said}");
    lab.restart_gateway("esx-01");
    lab.expect(0, &["facts", "-n", "esx-01"]);
}

fn a_hanging_tool_is_ended_on_the_host_and_not_only_here() {
    let lab = lab("ssh-hang");
    fault(&lab, "esx-01", "esxcli --formatter=xml system stats uptime", Fault::Hang);
    let asked = || count(&lab.calls("esx-01"), "uptime get");
    lab.expect(0, &["facts", "-n", "esx-01"]);
    assert!(asked() > 0);
    let folder = lab.machine("esx-01").join("tools").display().to_string();
    let hangs = || {
        let processes = std::fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .filter_map(|p| std::fs::read(p.path().join("cmdline")).ok());
        let lines = processes.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
        lines.filter(|line| line.contains(&folder) && line.contains("uptime get")).count()
    };
    clear_faults(&lab, "esx-01");
    wait_until("nothing hangs on the host any more", Duration::from_secs(30), || hangs() == 0);
}

fn a_fleet_file_is_written_from_what_hosts_say() {
    let lab = lab("ssh-init");
    let machine = lab.machine("esx-01");
    let (tools, root) =
        (machine.join("tools").display().to_string(), machine.join("root").display().to_string());
    let options = lab.sshd("esx-01").options();
    let over = |verb: &str, more: &[&str]| {
        let words: Vec<&str> = [verb]
            .into_iter()
            .chain(options.iter().map(String::as_str))
            .chain(["--tools", &tools, "--root", &root])
            .collect();
        [&words[..], more].concat().into_iter().map(String::from).collect::<Vec<_>>()
    };
    let run = |status: i32, words: &[String]| {
        lab.expect(status, &words.iter().map(String::as_str).collect::<Vec<_>>())
    };
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

fn bootstrap_brings_an_agent_to_a_bare_host() {
    let lab = lab("ssh-boot");
    let machine = lab.machine("esx-01");
    let (tools, root) =
        (machine.join("tools").display().to_string(), machine.join("root").display().to_string());
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
    assert!(
        std::fs::read_to_string(machine.join("root/etc/opt/vsgpu/node.key")).unwrap().contains("PRIVATE KEY")
    );
    assert_eq!(std::fs::read_dir(machine.join("root/tmp")).unwrap().count(), 0);
    // And it is one like any other: the way to the same end is the same.
    lab.expect(0, &["facts", "-n", "esx-01"]);
    bootstrap(0, &["--yes"]);
}

/// A folder with an sshd in it, and a visit to it; no lab.
fn visit(name: &str) -> (std::path::PathBuf, std::process::Child, OverSsh, sshd::Sshd) {
    let folder = std::env::temp_dir().join(format!("vsgpu-visit-{name}-{}", std::process::id()));
    let sshd = sshd::Sshd::prepare(folder.join("ssh"), std::path::Path::new("/nonexistent"));
    let child = sshd.start();
    let remote = OverSsh::temporary(&sshd.target(), None, std::path::Path::new("/")).unwrap();
    (folder, child, remote, sshd)
}

fn what_is_sent_is_what_arrives_and_what_ends_is_over() {
    let (folder, mut child, remote, sshd) = visit("words");
    // Everything that a shell might take for its own, and the word that frames scripts here.
    let words = [
        "",
        " ",
        "a b",
        "it's",
        "\"",
        "$HOME `id` $(id)",
        "a\nb",
        "\\n",
        "*",
        "-e",
        "~",
        ";",
        "&",
        "vsgpu-0123456789abcdef 0",
        "\u{e9}\u{4e16}",
    ];
    for word in words {
        let output = remote.run(&Command::new("printf", ["%s|%s", word, word]));
        assert_eq!(
            (output.ended, output.stdout),
            (ExitKind::Status(0), format!("{word}|{word}")),
            "{word:?}"
        );
    }
    let run = |script: &str, secs: u32| remote.run(&Command::new("sh", ["-c", script]).within(secs));
    let output = run("printf out; printf err >&2; exit 3", 20);
    assert_eq!(
        (output.ended, output.stdout.as_str(), output.stderr.as_str()),
        (ExitKind::Status(3), "out", "err")
    );
    assert_eq!(
        run("exit 255", 20).ended,
        ExitKind::Status(255),
        "which is ssh's own word for a cut connection"
    );
    assert_eq!(remote.run(&Command::new("no-such-program", [""])).ended, ExitKind::Missing);
    assert!(matches!(run("yes garbage", 60).ended, ExitKind::Flooded(_)));
    // A daemon keeps the pipe: its parent has ended all the same, and it lives on.
    let mark = folder.join("daemon");
    let begun = std::time::Instant::now();
    let output = run(&format!("echo up; (sleep 6; touch {}) & exit 0", mark.display()), 5);
    assert_eq!((output.ended, output.stdout.as_str()), (ExitKind::Status(0), "up\n"));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    wait_until("the daemon has lived on", Duration::from_secs(30), || mark.exists());
    // What hangs is ended there, with its children.
    let mark = folder.join("child");
    assert_eq!(run(&format!("(sleep 4; touch {}) & wait", mark.display()), 1).ended, ExitKind::TimedOut(1));
    let after = folder.join("after");
    // Somebody who began later and sleeps as long is done first only where the child was ended.
    assert_eq!(run(&format!("sleep 5; touch {}", after.display()), 20).ended, ExitKind::Status(0));
    assert!(after.exists() && !mark.exists(), "its child went on");
    // Who only looks changes nothing.
    let looks = OverSsh::read_only(&sshd.target(), None, std::path::Path::new("/")).unwrap();
    let file = folder.join("x").display().to_string();
    assert!(
        looks.write(&file, b"x", 0o600).is_err()
            && looks.copy("/etc/hosts", &file, 0o600).is_err()
            && looks.remove("/etc/hosts").is_err()
    );
    assert!(std::path::Path::new("/etc/hosts").exists() && !folder.join("x").exists());
    drop((remote, looks));
    let _ = child.kill();
    std::fs::remove_dir_all(folder).unwrap();
}

fn files_arrive_whole_or_not_at_all() {
    use std::os::unix::fs::PermissionsExt as _;
    let (folder, mut child, remote, _) = visit("files");
    let at = |name: &str| folder.join(name).display().to_string();
    let mode = |name: &str| std::fs::metadata(folder.join(name)).unwrap().permissions().mode() & 0o7777;
    let bytes: Vec<u8> = (0..20_000u32).flat_map(|n| n.to_le_bytes()).collect();
    let odd = "a 'quoted' $name";
    remote.write(&at(odd), &bytes, 0o640).unwrap();
    assert_eq!((std::fs::read(folder.join(odd)).unwrap(), mode(odd)), (bytes.clone(), 0o640));
    assert_eq!(remote.read(&at(odd), 1 << 20).unwrap(), bytes);
    assert!(
        remote.read(&at(odd), 1000).is_err()
            && remote.read(&at("absent"), 10).is_err()
            && remote.read("relative", 10).is_err()
    );
    assert_eq!(remote.tail(&at(odd), 5000).unwrap(), bytes[bytes.len() - 5000..]);
    assert_eq!(remote.head(&at(odd), 5).unwrap(), bytes[..5]);
    assert_eq!(remote.size(&at(odd)).unwrap(), Some(80_000));
    assert_eq!(remote.size(&at("absent")).unwrap(), None);
    remote.copy(&at(odd), &at("copy"), 0o600).unwrap();
    assert_eq!(remote.hash(&at("copy")).unwrap(), remote.hash(&at(odd)).unwrap());
    assert!(remote.list(&folder.display().to_string()).unwrap().contains(&odd.to_string()));
    remote.remove(&at("copy")).unwrap();
    remote.remove(&at("copy")).unwrap();
    // A file that ESXi keeps over a reboot is written in place: the same file, with its mode.
    std::fs::write(folder.join("kept"), "old").unwrap();
    std::fs::set_permissions(folder.join("kept"), std::fs::Permissions::from_mode(0o1600)).unwrap();
    let inode =
        |name: &str| std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(folder.join(name)).unwrap());
    let before = inode("kept");
    remote.write(&at("kept"), b"new", vsgpu_core::system::KEEP_MODE).unwrap();
    assert_eq!(
        (inode("kept"), mode("kept"), std::fs::read(folder.join("kept")).unwrap()),
        (before, 0o1600, b"new".to_vec())
    );
    // A transfer: cut, gone on with, damaged, whole.
    let whole = [b"#!/bin/sh\n".to_vec(), bytes].concat();
    std::fs::write(folder.join("here"), &whole).unwrap();
    let sha256 = remote.hash(&at("here")).unwrap();
    let file = |sha256: &str, offset: u64| Incoming {
        name: "package".into(),
        target: at("there"),
        partial: at("there.partial"),
        size: whole.len() as u64,
        sha256: sha256.into(),
        offset,
    };
    let send = |file: &Incoming, part: &[u8]| {
        let mut pieces = part.chunks(7000).map(bytes::Bytes::copy_from_slice);
        remote.upload(file, &mut || pieces.next().map(Vec::from))
    };
    assert!(matches!(send(&file(&sha256, 0), &whole[..30_000]), Err(UploadError::TooShort(30_000))));
    assert!(matches!(send(&file(&sha256, 40_000), &whole[40_000..]), Err(UploadError::Gap(30_000))));
    assert!(!folder.join("there").exists());
    send(&file(&sha256, 30_000), &whole[30_000..]).unwrap();
    assert_eq!(
        (std::fs::read(folder.join("there")).unwrap(), mode("there")),
        (whole.clone(), 0o700),
        "a program can be started"
    );
    assert!(matches!(send(&file(&"0".repeat(64), 0), &whole), Err(UploadError::Damaged(_))));
    assert!(!folder.join("there.partial").exists() && std::fs::read(folder.join("there")).unwrap() == whole);
    assert!(matches!(
        send(&file(&sha256, 0), &[whole.clone(), b"more".to_vec()].concat()),
        Err(UploadError::TooMuch)
    ));
    drop(remote);
    let _ = child.kill();
    std::fs::remove_dir_all(folder).unwrap();
}

pub const TESTS: &[vsgpu_tests::harness::Test] = vsgpu_tests::tests![
    the_whole_journey_on_a_host_without_an_agent[Ssh],
    a_cut_connection_and_a_killed_agent_do_not_start_an_installation_twice[Ssh],
    who_is_not_known_is_not_trusted_and_says_what_to_do[Ssh],
    two_agents_do_not_serve_one_host[Ssh],
    a_hanging_tool_is_ended_on_the_host_and_not_only_here[Ssh],
    a_fleet_file_is_written_from_what_hosts_say[Ssh],
    bootstrap_brings_an_agent_to_a_bare_host[Ssh],
    what_is_sent_is_what_arrives_and_what_ends_is_over[Ssh],
    files_arrive_whole_or_not_at_all[Ssh]
];
