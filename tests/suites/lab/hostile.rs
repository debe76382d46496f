//! What a hostile machine can do to whoever looks at it: one whose root chooses every text that its tools,
//! files and logs say, and files that are made to hang or to end a reader.

use std::process::Stdio;
use std::time::{Duration, Instant};
use vsgpu_tests::lab::Lab;
use vsgpu_tests::lab::small_fleet::small;

/// Title, clear screen, home, conceal, C1, bidi; and a line that looks like one of ours.
const TEXT: &str = "evil\u{1b}]0;title\u{7}\u{1b}[2J\u{1b}[1;1H\u{1b}[8m\u{9b}8m\u{202e}\u{2066}";
const MARK: &str = "evil\\u001b]0;title";

/// What no terminal may see. Line ends are the layout.
fn hostile(text: &str) -> Option<char> {
    text.chars().find(|c| {
        (c.is_control() && !matches!(c, '\n' | '\t'))
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    })
}

fn script(lab: &Lab, machine: &str, tool: &str, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    let file = lab.machine(machine).join("tools").join(tool);
    let _ = std::fs::remove_file(&file);
    std::fs::write(&file, format!("#!/bin/sh\ncat <<'END'\n{text}\nEND\n")).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn no_verb_shows_a_hostile_machines_text_raw() {
    let lab = small("hostile");
    lab.change("vm-01", |m| {
        m.write(
            "/etc/os-release",
            &format!("PRETTY_NAME=\"{TEXT}\"\nNAME=\"{TEXT}\"\nID=debian\nVERSION_ID=\"{TEXT}\"\n"),
        );
        m.write("/proc/sys/kernel/osrelease", &format!("6.1.0{TEXT}\nFAKE plan\n"));
        m.linux().kernel_log.push(format!(
            "[    9.000000] NVRM: Xid (PCI:0000:03:00): 79, {TEXT} pid='<unknown>', name=<unknown>"
        ));
    });
    let tag = |name: &str, text: &str| format!("<{name}>{text}</{name}>");
    let gpu =
        format!("<gpu id=\"00000000:03:00.0\">{}{}</gpu>", tag("product_name", TEXT), tag("uuid", TEXT));
    let inner = format!(
        "{}{}{}{gpu}",
        tag("driver_version", TEXT),
        tag("cuda_version", TEXT),
        tag("attached_gpus", "1")
    );
    // An escape in XML 1.0 is no character; a tool that lies prints it all the same.
    script(
        &lab,
        "vm-01",
        "nvidia-smi",
        &format!("<?xml version=\"1.0\" ?>\n<nvidia_smi_log>{inner}</nvidia_smi_log>"),
    );
    script(&lab, "vm-01", "gcc", TEXT);
    // A VM's name is whatever its owner typed.
    lab.vm_without_guest("guest-of-another", "esx-01");
    lab.change("esx-01", |m| {
        m.esxi().vms[1].name = TEXT.into();
        m.esxi().vms[1].on = true;
    });
    let agent = format!("esx-01={}", lab.address("esx-01"));
    let verbs: Vec<Vec<&str>> = vec![
        vec!["facts"],
        vec!["facts", "-o", "wide"],
        vec!["facts", "-o", "json"],
        vec!["facts", "-o", "yaml"],
        vec!["plan"],
        vec!["plan", "-o", "json"],
        vec!["verify"],
        vec!["verify", "-o", "wide"],
        vec!["verify", "-o", "json"],
        vec!["export"],
        vec!["top", "--once"],
        vec!["discover", "--agent", &agent],
        vec!["discover", "--agent", &agent, "-o", "yaml"],
        vec!["init", "--agent", &agent, "--out", "new.yaml"],
        vec!["apply"],
        vec!["apply", "-o", "json"],
        vec!["status"],
        vec!["status", "-o", "json"],
    ];
    let mut seen = vec![];
    for args in verbs {
        let output = lab
            .command(&args)
            .env("CLICOLOR_FORCE", "0")
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        for stream in [&output.stdout, &output.stderr] {
            let text = String::from_utf8_lossy(stream);
            assert_eq!(hostile(&text), None, "vsgpu {}\n{}", args.join(" "), text.escape_debug());
            assert!(
                text.lines().all(|line| !line.trim_start().starts_with("FAKE")),
                "vsgpu {}\n{text}",
                args.join(" ")
            );
            if text.contains(MARK) {
                seen.push(args.join(" "));
            }
        }
    }
    // The attack reached the screens: it is shown, and shown for what it is.
    for verb in ["facts", "facts -o json", "plan", "verify", "apply", &format!("discover --agent {agent}")] {
        assert!(seen.iter().any(|s| s == verb), "{verb} did not show it: {seen:?}");
    }
    let written = std::fs::read_to_string(lab.folder.join("new.yaml")).unwrap_or_default();
    assert_eq!(hostile(&written), None, "{written}");
    for name in ["esx-01", "vm-01"] {
        let log = std::fs::read_to_string(lab.machine(name).join("agent.log")).unwrap();
        assert_eq!(hostile(&log), None, "{}", log.escape_debug());
        let page = vsgpu_tests::http::get(&lab.metrics(name), "/metrics", None).unwrap().1;
        assert_eq!(hostile(&page), None, "{}", page.escape_debug());
    }
    let runs = std::fs::read_dir(lab.folder.join(".vsgpu/fleet")).unwrap().flatten().map(|e| e.path());
    for file in runs.filter(|f| f.extension().is_some_and(|e| e == "journal")) {
        assert_eq!(hostile(&std::fs::read_to_string(&file).unwrap()), None, "{}", file.display());
    }
}

/// Each of these ended an agent, or kept the operator waiting for minutes.
#[test]
fn no_answer_of_a_tool_ends_an_agent_or_keeps_a_plan() {
    let lab = small("deep");
    for machine in ["esx-01", "vm-01"] {
        let file = lab.machine(machine).join("deep.xml");
        std::fs::write(&file, format!("<nvidia_smi_log>{}", "<a>".repeat(1_000_000))).unwrap();
        script(&lab, machine, "nvidia-smi", "");
        std::fs::write(
            lab.machine(machine).join("tools/nvidia-smi"),
            format!("#!/bin/sh\nexec cat {}\n", file.display()),
        )
        .unwrap();
    }
    let agents = ["esx-01", "vm-01"].map(|name| lab.agent_pid(name).unwrap());
    let said = lab.vsgpu(&["facts"]);
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("nested deeper than 64 levels"), "{said}");
    assert_eq!(["esx-01", "vm-01"].map(|name| lab.agent_pid(name).unwrap()), agents, "the agents live");
    assert!(
        agents.iter().all(|pid| std::path::Path::new(&format!("/proc/{pid}/fd")).exists()),
        "{}",
        lab.logs()
    );
}

/// Files that wait for somebody, never end, or are deeper than a stack.
#[test]
fn no_package_keeps_or_ends_the_controller() {
    let lab = Lab::new("packages");
    let folder = lab.folder.join("files");
    std::fs::create_dir_all(&folder).unwrap();
    let vib = |name: &str, descriptor: String| {
        let mut out = b"!<arch>\n".to_vec();
        for (member, bytes) in [("descriptor.xml", descriptor.into_bytes()), ("sig.pkcs7", vec![])] {
            out.extend_from_slice(
                format!("{member:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, 0, 0, bytes.len()).as_bytes(),
            );
            out.extend_from_slice(&bytes);
        }
        std::fs::write(folder.join(name), out).unwrap();
    };
    for (name, n) in [("deep.vib", 20_000), ("deeper.vib", 1_000_000)] {
        vib(name, format!("<vib version=\"5.0\">{}", "<a>".repeat(n)));
    }
    vib("spaces.vib", (0..20_000).map(|n| format!("<a xmlns:a{n}=\"u\">")).collect());
    let status = std::process::Command::new("mkfifo").arg(folder.join("fifo.vib")).status().unwrap();
    assert!(status.success());
    std::os::unix::fs::symlink("/dev/zero", folder.join("zero.vib")).unwrap();
    std::os::unix::fs::symlink("fifo.vib", folder.join("link.vib")).unwrap();
    std::os::unix::net::UnixListener::bind(folder.join("socket.vib")).unwrap();
    std::fs::create_dir(folder.join("folder.vib")).unwrap();
    let names = ["deep", "deeper", "spaces", "fifo", "zero", "link", "socket", "folder"];
    for name in names {
        let package = format!("vgpu-manager: {{ package: files/{name}.vib, datastore: datastore1 }}");
        lab.write_fleet(&format!("version: 1\nhosts:\n  esx-01:\n    address: 127.0.0.1:1\n    {package}\n"));
        let begun = Instant::now();
        let said = lab.expect(2, &["validate"]);
        assert!(said.contains(&format!("{name}.vib: ")), "{said}");
        assert!(begun.elapsed() < Duration::from_secs(20), "{name}: {:?}", begun.elapsed());
    }
    // The same as the fleet file itself.
    for file in ["files/fifo.vib", "files/zero.vib"] {
        lab.expect(2, &["validate", file]);
    }
}

/// Passwords that somebody wrote into a guest's files are shown nowhere, and are still there when a plan has
/// edited those files.
#[test]
fn passwords_of_a_guest_stay_there() {
    let lab = small("secrets");
    let (proxy, source, gridd) = (
        "/etc/apt/apt.conf.d/95vsgpu-proxy",
        "/etc/apt/sources.list.d/vsgpu-own.list",
        "/etc/nvidia/gridd.conf",
    );
    lab.change("vm-01", |m| {
        m.write(proxy, "Acquire::http::Proxy \"http://me:geheim-1@proxy:3128\";\nAcquire::https::Proxy \"me:geheim-2@proxy:3128\";\n");
        m.write(source, "deb https://me:geheim-3@mirror/debian bookworm main\n");
        m.write(gridd, "# ours\nServerAddress=old\nProxyPassword=geheim-4\n ServerPort=1\n");
        m.linux().kernel_log.push("[    9.000000] NVRM: Xid (PCI:0000:03:00): 79, at https://me:geheim-5@host/x".into());
    });
    let verbs: [&[&str]; 10] = [
        &["facts", "-o", "json"],
        &["facts", "-o", "yaml"],
        &["facts", "-o", "wide"],
        &["export"],
        &["plan", "-o", "json"],
        &["plan"],
        &["apply", "--yes"],
        &["verify", "-o", "json"],
        &["status", "-o", "json"],
        &["top", "--once"],
    ];
    for args in verbs {
        let output = lab.vsgpu(args);
        let said =
            [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        assert!(!said.contains("geheim"), "vsgpu {}\n{said}", args.join(" "));
    }
    for file in ["agent.log", "calls.log"] {
        assert!(
            !std::fs::read_to_string(lab.machine("vm-01").join(file)).unwrap().contains("geheim"),
            "{file}"
        );
    }
    lab.expect(0, &["verify"]);
    let text = lab.state("vm-01").text(gridd).unwrap();
    assert!(
        text.contains("ProxyPassword=geheim-4") && text.contains("# ours") && !text.contains("ServerAddress"),
        "{text}"
    );
    assert!(lab.state("vm-01").text(source).unwrap().contains("geheim-3"));
}
