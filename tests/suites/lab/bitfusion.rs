//! VMware Bitfusion as the engine of a client: its package, its tokens and the proof, through a simulated client and
//! server.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;
use vsgpu_tests::fakes::bitfusion::{GOOD, SERVER, tokens};
use vsgpu_tests::lab::files::BITFUSION as PACKAGE;
use vsgpu_tests::lab::{Lab, wait_until};

/// What nobody may see.
const SECRET: &str = "key: Zm9yLW5vYm9keXMtZXllcw";
const TOKEN: &str = "/root/.bitfusion/client.yaml";
const CONF: &str = "/root/.bitfusion/servers.conf";

fn fleet(lab: &Lab, tokens: &str, more: &str) -> String {
    format!(
        "version: 1\nhosts:\n  esx-02:\n    address: {}\nvms:\n  legacy-1:\n    host: esx-02\n    guest:\n      address: {}\n      network-gpu:\n        engine: {{ bitfusion: {{ package: files/{PACKAGE}, tokens: files/{tokens}{more} }} }}\n",
        lab.address("esx-02"),
        lab.address("legacy-1"),
    )
}

fn lab(name: &str) -> Lab {
    let lab = Lab::new(name);
    lab.host("esx-02", "8.0.2", vec![]);
    lab.vm("legacy-1", "esx-02");
    let files = lab.folder.join("files");
    std::fs::create_dir_all(&files).unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(files.join(name), bytes).unwrap();
    write(PACKAGE, b"!<arch>\nsimulated package of a Bitfusion client\n");
    let good = format!("{GOOD}\n{SECRET}\n");
    write("good.tar", &tokens(&[SERVER], &good));
    write("again.tar", &tokens(&[SERVER], &format!("{good}made: again\n")));
    write("away.tar", &tokens(&["10.0.0.9:56001"], &good));
    write("other.tar", &tokens(&[SERVER], &format!("id: of another cluster\n{SECRET}\n")));
    write("expired.tar", &tokens(&[SERVER], &format!("{good}expired: 2026-05-01 08:00:00 +0000 UTC\n")));
    lab.write_fleet(&fleet(&lab, "good.tar", ""));
    lab.start();
    lab
}

fn mode(lab: &Lab, path: &str) -> u32 {
    lab.state("legacy-1").root(path).metadata().unwrap().permissions().mode() & 0o777
}

/// All files below a folder that hold a text.
fn holding(folder: &Path, text: &[u8], found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        if kind.is_dir() {
            holding(&path, text, found);
        } else if kind.is_file()
            && std::fs::read(&path).unwrap_or_default().windows(text.len()).any(|window| window == text)
        {
            found.push(path.display().to_string());
        }
    }
}

/// Package, tokens, proof; a second plan that is empty; other tokens; the way back. The token is seen by nobody.
#[test]
fn a_client_of_bitfusion_from_nothing_to_a_proof_and_back() {
    let lab = lab("bitfusion");
    let mut said = lab.expect(3, &["plan", "--commands"]);
    for words in [
        "apt-get",
        "HOME=/root bitfusion run -n 1 -m 1024 -- /usr/lib/vsgpu/vsgpu-cuda-proof --elements 50000",
        "GPUs of Bitfusion at 10.0.0.5:56001",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    said += &lab.expect(0, &["apply", "--yes"]);
    let verified = lab.expect(0, &["verify", "-o", "wide"]);
    assert!(
        verified.contains("Tesla V100-PCIE-16GB (simulated) over the network from Bitfusion"),
        "{verified}"
    );
    assert_eq!((mode(&lab, TOKEN), mode(&lab, "/etc/bitfusion/tls/ca.crt")), (0o600, 0o644));
    // Its client has noted which server it reached, in its own way: that is the same meaning.
    let conf = lab.state("legacy-1").text(CONF).unwrap();
    assert!(conf.contains("- reachable:10.0.0.5:56001"), "{conf}");
    said += &lab.expect(0, &["plan", "--commands"]);
    assert_eq!(lab.state("legacy-1").text(CONF).unwrap(), conf, "it is left alone");
    // A look runs nothing of it: each call would leave another copy of the token.
    let calls = lab.calls("legacy-1").iter().filter(|call| call.starts_with("bitfusion")).count();
    said += &lab.expect(0, &["facts", "-o", "json"]);
    assert_eq!(lab.calls("legacy-1").iter().filter(|call| call.starts_with("bitfusion")).count(), calls);
    // Somebody may read the token: it is put right, and proved again.
    lab.change("legacy-1", |m| {
        std::fs::set_permissions(m.root(TOKEN), std::fs::Permissions::from_mode(0o644)).unwrap();
    });
    let proofs = || lab.calls("legacy-1").iter().filter(|call| call.starts_with("bitfusion run")).count();
    let before = proofs();
    said += &lab.expect(3, &["plan", "--commands"]);
    said += &lab.expect(0, &["apply", "--yes"]);
    assert_eq!((mode(&lab, TOKEN), proofs()), (0o600, before + 1));
    // Other tokens, and a user beside root; then the way back to the ones before.
    lab.change("legacy-1", |m| std::fs::create_dir_all(m.root("/home/ada")).unwrap());
    lab.write_fleet(&fleet(&lab, "again.tar", ", homes: [/home/ada]"));
    said += &lab.expect(0, &["apply", "--yes"]);
    for home in ["/root", "/home/ada"] {
        let token = lab.state("legacy-1").text(&format!("{home}/.bitfusion/client.yaml")).unwrap();
        assert!(token.contains("made: again"), "{home}");
    }
    said += &lab.expect(0, &["export"]);
    assert!(said.contains("again.tar"), "{said}");
    said += &lab.expect(0, &["rollback", "--yes"]);
    assert!(!lab.state("legacy-1").text(TOKEN).unwrap().contains("made: again"));
    assert_eq!(lab.state("legacy-1").text("/home/ada/.bitfusion/client.yaml"), None);
    // Nothing that anybody reads holds the token: no screen, no record, no log, no fact that is kept.
    assert!(!said.contains("Zm9y") && !lab.logs().contains("Zm9y"));
    let mut found = vec![];
    holding(&lab.folder, b"Zm9yLW5vYm9keXMtZXllcw", &mut found);
    let allowed = |path: &String| {
        ["/root/.bitfusion/client.yaml", "/var/lib/vsgpu/artifacts/"].iter().any(|own| path.contains(own))
            || path.starts_with(&format!("{}/files/", lab.folder.display()))
    };
    assert!(found.len() >= 3 && found.iter().all(allowed), "{found:?}");
    // Monitoring systems hear of the proof.
    let passed = || {
        let page = vsgpu_tests::http::get(&lab.metrics("legacy-1"), "/metrics", None).unwrap().1;
        page.lines().any(|line| line == "vsgpu_network_gpu_proof_passed 1")
    };
    wait_until("its metrics tell of the proof", Duration::from_secs(60), passed);
    // And it goes as it came: the copies as well that the client made.
    let text = fleet(&lab, "good.tar", "");
    let (before, _) = text.split_once("      network-gpu:").unwrap();
    lab.write_fleet(&format!("{before}      network-gpu: off\n"));
    lab.expect(0, &["apply", "--yes"]);
    let mut found = vec![];
    holding(&lab.machine("legacy-1").join("root/root"), b"Zm9y", &mut found);
    assert!(found.is_empty(), "{found:?}");
    assert_eq!(lab.state("legacy-1").text("/etc/vsgpu/bitfusion.json"), None);
    lab.expect(0, &["plan", "--commands"]);
}

/// A pipe, or a link to anything, in a place where the agent looks: it would wait for ever, or read what it should not.
#[test]
fn what_a_user_puts_into_his_home_is_opened_by_nobody() {
    let lab = lab("bitfusion-home");
    lab.change("legacy-1", |m| std::fs::create_dir_all(m.root("/home/ada")).unwrap());
    lab.write_fleet(&fleet(&lab, "good.tar", ", homes: [/home/ada]"));
    lab.expect(0, &["apply", "--yes"]);
    let of = |file: &str| lab.state("legacy-1").root(&format!("/home/ada/.bitfusion/{file}"));
    for (file, pipe) in
        [("servers.conf", true), ("servers.conf", false), ("client.yaml", true), ("client.yaml", false)]
    {
        std::fs::remove_file(of(file)).unwrap();
        match pipe {
            true => nix::unistd::mkfifo(&of(file), nix::sys::stat::Mode::S_IRWXU).unwrap(),
            false => std::os::unix::fs::symlink("/etc/hostname", of(file)).unwrap(),
        }
        let said = lab.expect(3, &["plan", "--commands"]);
        assert!(said.contains("its tokens are not in place"), "{said}");
        // A pipe gives way to the file; a link is his, and is not written through.
        let said = lab.expect(if pipe { 0 } else { 5 }, &["apply", "--yes"]);
        if !pipe {
            assert!(said.contains("it is a symbolic link"), "{said}");
            std::fs::remove_file(of(file)).unwrap();
            lab.expect(0, &["apply", "--yes"]);
        }
        assert!(std::fs::symlink_metadata(of(file)).unwrap().is_file(), "{file}");
    }
}

/// Each failure that records of real clients show: its cause, and what to do.
#[test]
fn what_keeps_a_client_of_bitfusion_from_a_gpu_is_said_with_the_way_out() {
    let lab = lab("bitfusion-fails");
    for (tokens, cause, way_out) in [
        ("away.tar", "10.0.0.9:56001 is not reached", "TCP 56001, 55001"),
        ("other.tar", "does not know this client", "make a new one"),
        ("expired.tar", "the Bitfusion token of this client expired at 2026-05-01", "extend it"),
    ] {
        lab.write_fleet(&fleet(&lab, tokens, ""));
        let said = lab.expect(5, &["apply", "--yes"]);
        assert!(said.contains(cause) && said.contains(way_out), "{tokens}: {said}");
        assert!(!said.contains("Zm9y"), "{said}");
    }
    // Where the client notes its servers nobody can write.
    lab.write_fleet(&fleet(&lab, "good.tar", ""));
    lab.expect(0, &["apply", "--yes"]);
    lab.change("legacy-1", |m| {
        std::fs::set_permissions(m.root(CONF), std::fs::Permissions::from_mode(0o444)).unwrap();
        m.write("/var/lib/vsgpu/bitfusion-proof.json", "{}");
    });
    let said = lab.expect(5, &["apply", "--yes"]);
    assert!(said.contains("cannot write /root/.bitfusion/servers.conf"), "{said}");
    // A user who is not there is no folder that is made for him.
    lab.write_fleet(&fleet(&lab, "good.tar", ", homes: [/home/nobody-here]"));
    let said = lab.expect(5, &["apply", "--yes"]);
    assert!(said.contains("/home/nobody-here is no folder: make its user first"), "{said}");
    // Nothing was unpacked for it, and nothing of it is left.
    let mut found = vec![];
    holding(&lab.machine("legacy-1").join("root/var/lib/vsgpu/bitfusion"), b"Zm9y", &mut found);
    assert!(found.is_empty(), "{found:?}");
    assert!(!lab.state("legacy-1").root("/home/nobody-here").exists());
    // Wrong files, and keys that belong to the other engine: before anything is touched.
    let wrong = |text: &str, says: &str| {
        lab.write_fleet(text);
        let output = lab.vsgpu(&["plan", "--commands"]);
        let said =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(!output.status.success() && said.contains(says), "{says}: {said}");
    };
    let good = fleet(&lab, "good.tar", "");
    wrong(
        &good.replace("tokens: files/good.tar", &format!("tokens: files/{PACKAGE}")),
        "is no archive of Bitfusion's tokens",
    );
    wrong(
        &good.replace(&format!("package: files/{PACKAGE}"), "package: files/good.tar"),
        "is no package of Bitfusion's client",
    );
    wrong(
        &format!("{good}        servers: [gpu-srv-1]\n"),
        "Bitfusion's servers stand in its file of tokens",
    );
    wrong(&format!("{good}        users: [gpu]\n"), "name their homes");
    wrong(&fleet(&lab, "good.tar", ", homes: [../etc]"), "is no home such as /home/ada");
}
