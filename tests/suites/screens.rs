//! Golden conversations: everything a user sees, on a small simulated fleet. `VSGPU_ACCEPT=1 cargo test -p
//! vsgpu-tests --test screens` accepts changes. And stored formats: what an earlier version wrote must still
//! read.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout, reason = "test code")]

use vsgpu::journal::{self, Folder};
use vsgpu_tests::lab::{Lab, files, workspace};

/// What changes from run to run is named instead.
fn steady(lab: &Lab, text: &str) -> String {
    let mut text = text.replace(&lab.folder.display().to_string(), "LAB");
    // How long it took is another matter each time.
    let lines = text.lines().map(|line| {
        let cut = |mark: &str| line.find(mark).map(|at| format!("{}{mark}..", &line[..at]));
        // The agents look at the real CPUs and memory.
        let cut_one = cut(" steps done, in ").or_else(|| cut(": took ")).or_else(|| cut("  machine   "));
        cut_one.unwrap_or_else(|| line.to_string())
    });
    text = lines.collect::<Vec<_>>().join("\n") + if text.ends_with('\n') { "\n" } else { "" };
    for name in ["esx-01", "vm-01"] {
        text = text.replace(&lab.address(name), &format!("ADDRESS-OF-{name}"));
    }
    text
}

fn golden(name: &str, text: &str) {
    let path = workspace().join("tests/data/golden").join(name);
    if std::env::var_os("VSGPU_ACCEPT").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let stored = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        stored == text,
        "{} differs; VSGPU_ACCEPT=1 accepts\n--- stored\n{stored}\n--- now\n{text}",
        path.display()
    );
}

#[test]
fn everything_a_user_sees() {
    let lab = Lab::new("screens");
    lab.host("esx-01", "8.0.2", vec![files::a100("0000:3b:00.0")]);
    lab.vm("vm-01", "esx-01");
    files::write_all(&lab.folder.join("files"));
    lab.write_fleet(&format!(
        "version: 1\nhosts:\n  esx-01:\n    address: {}\n    graphics-type: SharedPassthru\n    vgpu-manager: {{ package: files/{}, datastore: datastore1 }}\nvms:\n  vm-01:\n    host: esx-01\n    vgpu: [grid_a100-40c]\n    guest:\n      address: {}\n      driver: {{ package: files/{} }}\n      license: {{ token: files/{} }}\n      cuda-toolkit: {{ package: files/{} }}\n",
        lab.address("esx-01"), files::MANAGER_16_6, lab.address("vm-01"), files::DRIVER_16_6, files::TOKEN_FILE, files::CUDA_12_2
    ));
    lab.start();
    let mut screen = String::new();
    for (status, args) in [
        (0, vec!["validate"]),
        (3, vec!["verify"]),
        (0, vec!["status"]),
        (3, vec!["plan"]),
        (3, vec!["plan", "--commands"]),
        (0, vec!["apply", "--yes"]),
        (0, vec!["verify"]),
        (0, vec!["verify", "-o", "wide"]),
        (0, vec!["status"]),
        (0, vec!["status", "1", "-o", "wide"]),
        (0, vec!["facts"]),
        (0, vec!["plan"]),
        (0, vec!["export"]),
        (2, vec!["plan", "nowhere.yaml"]),
        (2, vec!["facts", "-n", "esx-1"]),
    ] {
        screen += &format!("$ vsgpu {}\n{}\n", args.join(" "), lab.expect(status, &args));
    }
    let stored = workspace().join("tests/data/formats/v2/run-000001.journal");
    if std::env::var_os("VSGPU_ACCEPT").is_some() && !stored.exists() {
        std::fs::copy(lab.folder.join(".vsgpu/fleet/run-000001.journal"), stored).unwrap();
    }
    golden("journey.txt", &steady(&lab, &screen));
}

/// The mistakes that people make most, and what is answered.
#[test]
fn what_is_said_of_mistakes() {
    let lab = Lab::new("mistakes");
    for host in ["esx-01", "esx-02"] {
        lab.host(host, "8.0.2", vec![files::a100("0000:3b:00.0")]);
    }
    lab.vm("vm-01", "esx-01");
    lab.vm("vm-02", "esx-01");
    files::write_all(&lab.folder.join("files"));
    let guest = |vm: &str, host: &str| {
        format!(
            "  {vm}:\n    host: {host}\n    vgpu: [grid_a100-20c]\n    shutdown-secs: 2\n    guest:\n      address: {}\n      driver: {{ package: files/{} }}\n      license: {{ token: files/{}, wait-secs: 600 }}\n",
            lab.address(vm),
            files::DRIVER_16_6,
            files::TOKEN_FILE
        )
    };
    let hosts = |address: &str| {
        format!(
            "version: 1\ndeadlines: {{ connect-secs: 3 }}\nhosts:\n  esx-01:\n    address: {address}\n    graphics-type: SharedPassthru\n    vgpu-manager: {{ package: files/{}, datastore: datastore1 }}\n  esx-02:\n    address: {}\n",
            files::MANAGER_16_6,
            lab.address("esx-02")
        )
    };
    let right = lab.address("esx-01");
    let whole = |address: &str, of_second: &str| {
        format!("{}vms:\n{}{}", hosts(address), guest("vm-01", "esx-01"), guest("vm-02", of_second))
    };
    lab.write_fleet(&whole(&right, "esx-01"));
    lab.start();
    let mut screen = String::new();
    let mut say = |what: &str, status: i32, args: &[&str]| {
        screen += &format!("# {what}\n$ vsgpu {}\n{}\n", args.join(" "), lab.expect(status, args));
    };
    // A VM that DRS moved, or a wrong line.
    lab.write_fleet(&whole(&right, "esx-02"));
    say("the file names another host of a VM", 6, &["plan"]);
    say("and verify", 3, &["verify"]);
    // Addresses.
    lab.write_fleet(&whole("esx-01.nowhere.invalid:7443", "esx-01"));
    say("a name that no DNS knows", 4, &["facts", "-n", "esx-01"]);
    lab.write_fleet(&whole("127.0.0.1:1", "esx-01"));
    say("a port on which nobody listens", 4, &["facts", "-n", "esx-01"]);
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = silent.local_addr().unwrap().to_string();
    lab.write_fleet(&whole(&at, "esx-01"));
    say("an address that never answers", 4, &["facts", "-n", "esx-01"]);
    let talks = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let plain = talks.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for mut caller in talks.incoming().flatten() {
            use std::io::{Read as _, Write as _};
            let _ = caller.read(&mut [0; 4096]);
            let _ = caller.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    lab.write_fleet(&whole(&plain, "esx-01"));
    say("the port of metrics, or another service", 4, &["facts", "-n", "esx-01"]);
    lab.write_fleet(&whole(&lab.address("esx-02"), "esx-01"));
    say("two addresses swapped", 4, &["facts", "-n", "esx-01"]);
    lab.write_fleet(&whole(&right, "esx-01"));
    // Certificates.
    let now = std::time::SystemTime::now();
    vsgpu_wire::pki::init(&lab.folder.join("other"), now).unwrap();
    say("the CA of another fleet", 4, &["facts", "-n", "esx-01", "--pki", "other"]);
    say("no CA", 2, &["facts", "--pki", "nowhere"]);
    let day = std::time::Duration::from_secs(86_400);
    for (what, when) in
        [("a clock that is behind", now + 40 * day), ("a certificate that has ended", now - 400 * day)]
    {
        for file in ["node.pem", "node.key", "ca.pem"] {
            std::fs::remove_file(lab.folder.join("pki/esx-01.host").join(file)).unwrap();
        }
        vsgpu_wire::pki::issue_node(&lab.folder.join("pki"), "esx-01", "host", 30, when).unwrap();
        lab.stop_agent("esx-01");
        lab.start_agent("esx-01");
        say(what, 4, &["facts", "-n", "esx-01"]);
    }
    let ended = warning(&lab.machine("esx-01").join("agent.log"), "this agent's certificate");
    for file in ["node.pem", "node.key", "ca.pem"] {
        std::fs::remove_file(lab.folder.join("pki/esx-01.host").join(file)).unwrap();
    }
    vsgpu_wire::pki::issue_node(&lab.folder.join("pki"), "esx-01", "host", 30, now).unwrap();
    lab.stop_agent("esx-01");
    lab.start_agent("esx-01");
    let stray = a_host_agent_on_another_machine(&lab);
    // Names.
    lab.write_fleet(&whole(&right, "esx-01").replace("grid_a100-20c", "grid_a100_20c"));
    say("a vGPU type with a typo", 2, &["validate"]);
    lab.write_fleet(&whole(&right, "esx-01"));
    say("a verb that is none", 2, &["aply"]);
    // A license token of another server: in two VMs, once; and what it left.
    std::fs::write(lab.folder.join("files").join(files::TOKEN_FILE), "a token of another server").unwrap();
    let said = lab.expect(5, &["apply", "--yes"]);
    let from = said.find("error[").unwrap_or_else(|| panic!("{said}"));
    let steps = said.lines().filter(|l| l.starts_with('[')).count();
    let errors: Vec<&str> =
        said[from..].lines().take_while(|l| !l.starts_with('[') && !l.starts_with("esx-")).collect();
    screen += &format!(
        "# a license token of another server\n$ vsgpu apply --yes   (its errors)\n{}\n",
        errors.join("\n")
    );
    assert!(steps > 0);
    for (what, said) in [
        ("an agent whose certificate has ended: its own log", ended),
        ("vsgpu-host-agent on a machine that is no ESXi host: its own log", stray),
    ] {
        screen += &format!("\n# {what}\n{said}\n");
    }
    let mut screen = steady(&lab, &screen);
    for (address, name) in [
        (at, "SILENT"),
        (plain, "ANOTHER-SERVICE"),
        (lab.address("esx-02"), "ADDRESS-OF-esx-02"),
        (lab.address("vm-02"), "ADDRESS-OF-vm-02"),
    ] {
        // Also where host and port stand apart.
        screen = screen.replace(&address, name).replace(&address.replace(':', " "), name);
    }
    // What the resolver says depends on the network.
    let screen: Vec<&str> = screen.split("the name cannot be resolved (").collect();
    let screen: String = screen
        .iter()
        .enumerate()
        .map(|(at, part)| match (at, part.split_once(')')) {
            (1.., Some((_, rest))) => format!("the name cannot be resolved (..){rest}"),
            _ => part.to_string(),
        })
        .collect();
    golden("mistakes.txt", &without_moments(&screen));
}

/// The last warning of a log that has these words, without its time.
fn warning(log: &std::path::Path, words: &str) -> String {
    let mut found = None;
    vsgpu_tests::lab::wait_until(words, std::time::Duration::from_secs(20), || {
        let text = std::fs::read_to_string(log).unwrap_or_default();
        found = text.lines().rev().find_map(|line| {
            let said = &line[line.find("WARN")?..];
            said.contains(words).then(|| said.to_string())
        });
        found.is_some()
    });
    found.unwrap()
}

/// What a host agent says where there is nothing of ESXi.
fn a_host_agent_on_another_machine(lab: &Lab) -> String {
    let [tools, log] = ["no-tools", "stray.log"].map(|name| lab.folder.join(name));
    std::fs::create_dir_all(&tools).unwrap();
    let to = std::fs::File::create(&log).unwrap();
    let mut agent = std::process::Command::new(vsgpu_tests::lab::programs().join("vsgpu-host-agent"))
        .args(["serve", "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--pki"])
        .arg(lab.folder.join("pki/esx-02.host"))
        .arg("--tools")
        .arg(&tools)
        .arg("--root")
        .arg(lab.folder.join("no-root"))
        .stdout(to.try_clone().unwrap())
        .stderr(to)
        .spawn()
        .unwrap();
    let said = warning(&log, "no ESXi host");
    agent.kill().unwrap();
    let _ = agent.wait();
    said
}

/// Dates and fingerprints are others each time.
fn without_moments(text: &str) -> String {
    let mut out = String::new();
    let is_date = |rest: &str| {
        let shape = rest.get(..20)?;
        let fits = shape
            .bytes()
            .zip(b"0000-00-00 00:00 UTC")
            .all(|(c, s)| if *s == b'0' { c.is_ascii_digit() } else { c == *s });
        fits.then_some(20)
    };
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if let Some(n) = is_date(rest) {
            out += "DATE";
            rest = &rest[n..];
        } else if let Some(after) = rest.strip_prefix("SHA-256 ") {
            out += "SHA-256 ..";
            rest = after.trim_start_matches(|c: char| c.is_ascii_hexdigit() || c == ':' || c == '.');
        } else {
            out.push(c);
            rest = &rest[c.len_utf8()..];
        }
    }
    out
}

/// Written by version 0.1.0 with format 2 and never changed since: a journal that ended, and a saved plan.
#[test]
fn stored_formats_still_read() {
    let formats = Folder(workspace().join("tests/data/formats/v2"));
    let run = journal::latest(&formats).unwrap().unwrap();
    assert_eq!(
        (run.number, run.status.plan.version, run.status.steps.len()),
        (1, 2, run.status.plan.steps.len())
    );
    assert!(
        run.status.steps.iter().all(|s| matches!(s, journal::StepState::Done { .. }))
            && run.status.ended.is_some()
    );
    assert!(vsgpu::journal::outstanding(&run.status).in_maintenance.is_empty() && run.damage.is_none());
    // The same plan, through the file of `plan --out`.
    let plan: vsgpu::plan::Plan =
        serde_json::from_str(&serde_json::to_string(&run.status.plan).unwrap()).unwrap();
    assert_eq!(plan, run.status.plan);
}

/// Written with format 1, before there was a rollout in a plan: refused in so many words, never misread.
#[test]
fn a_format_of_another_version_is_refused_cleanly() {
    let folder = Folder(workspace().join("tests/data/formats/v1"));
    let error = journal::latest(&folder).err().expect("refused");
    assert!(error.message.contains("another version of vsgpu (format 1, this one reads 2)"), "{error}");
    assert!(error.hints[0].contains("--abandon"), "{error:?}");
}
