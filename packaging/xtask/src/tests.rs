//! What is made is what the installers expect; and the verifier finds each thing that they would refuse.
#![allow(clippy::unwrap_used, reason = "test code")]

use crate::files::{self, Entry};
use crate::{bundle, contents, linux, verify, vib};
use std::io::Read as _;
use std::path::{Path, PathBuf};

const DATE: &str = "2026-11-23T00:00:00+00:00";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_path_buf()
}

fn made() -> vib::Vib {
    vib::build(&contents::esxi(&root(), b"\x7fELF an agent".to_vec()).unwrap(), "0.1.0", DATE).unwrap()
}

/// The archive with its descriptor (or another member) changed.
fn with(changed: impl Fn(&str, &[u8]) -> Option<Vec<u8>>) -> Vec<u8> {
    let vib = made();
    let mut archive = ar::Archive::new(vib.bytes.as_slice());
    let mut members = vec![];
    while let Some(member) = archive.next_entry() {
        let mut member = member.unwrap();
        let name = String::from_utf8(member.header().identifier().to_vec()).unwrap();
        let mut bytes = vec![];
        member.read_to_end(&mut bytes).unwrap();
        if let Some(bytes) = changed(&name, &bytes) {
            members.push((name, bytes));
        }
    }
    let members: Vec<(&str, &[u8])> = members.iter().map(|(n, b)| (n.as_str(), b.as_slice())).collect();
    files::ar(&members, 0).unwrap()
}

fn described(from: &str, to: &str) -> Vec<String> {
    let changed = |name: &str, bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes).into_owned();
        if name != "descriptor.xml" {
            return Some(bytes.to_vec());
        }
        assert!(text.contains(from), "{from} is not in {text}");
        Some(text.replacen(from, to, 1).into_bytes())
    };
    verify::verify(&with(changed)).errors
}

#[test]
fn the_vib_is_right_and_its_remarks_say_what_depends_on_the_host() {
    let found = verify::verify(&made().bytes);
    assert_eq!(found.errors, [] as [String; 0]);
    assert_eq!(found.what.as_deref(), Some("vsgpu-host-agent 0.1.0-1, 11 files"));
    assert_eq!(found.remarks.len(), 9, "{:?}", found.remarks);
    assert!(found.remarks[0].contains("CommunitySupported") && found.remarks[0].contains("Secure Boot"));
    assert!(
        found.remarks.iter().any(|r| r.starts_with("etc/init.d/vsgpu-host-agent is outside")),
        "{:?}",
        found.remarks
    );
    assert_eq!(made().bytes, made().bytes, "the same source gives the same bytes");
}

#[test]
fn the_container_is_as_vmware_makes_it() {
    let vib = made();
    // Measured on a VIB of vibauthor: no times, no owners, names padded with spaces (facts: esxi B1).
    let header = String::from_utf8_lossy(&vib.bytes[8..68]).into_owned();
    assert!(header.starts_with("descriptor.xml  0           0     0     0       "), "{header:?}");
    assert!(header.ends_with("`\n"), "{header:?}");
    let empty = String::from_utf8_lossy(&vib.bytes)
        .find("sig.pkcs7       0           0     0     0       0         `\n")
        .is_some();
    assert!(empty, "an unsigned VIB has an empty signature");
}

/// Each rule of the descriptor (facts: esxi B2), broken once.
#[test]
fn the_verifier_finds_each_broken_rule() {
    let long = "x".repeat(81);
    let cases: Vec<(&str, &str, &str)> = vec![
        ("<vib version=\"5.0\">", "<vib version=\"6.0\">", "it is no `<vib version=\"5.0\">`"),
        ("<type>bootbank</type>", "<type>locker</type>", "is not bootbank"),
        (
            "<name>vsgpu-host-agent</name>",
            "<name>vsgpu host agent</name>",
            "name: `vsgpu host agent` must be at most 35",
        ),
        ("<vendor>vsgpu</vendor>", "<vendor></vendor>", "vendor: `` must be"),
        (
            "<version>0.1.0-1</version>",
            "<version>0.1.0</version>",
            "version: `0.1.0` must be `version-release`",
        ),
        ("<summary>", "<summary>TOO-LONG", "summary: "),
        ("<release-date>2026-11-23T", "<release-date>23.11.2026 ", "is no xsd:dateTime"),
        ("<depends>", "<needs/><depends>", "they must be depends"),
        ("relation=\">=\"", "relation=\"=>\"", "the constraint on `esx-version` is not understood"),
        (
            "<acceptance-level>community",
            "<acceptance-level>CommunitySupported",
            "is none of certified, accepted, partner, community",
        ),
        (
            "<acceptance-level>community",
            "<acceptance-level>partner",
            "sig.pkcs7: it is empty, and the acceptance level is partner",
        ),
        ("<overlay>false", "<overlay>true", "must not overlay"),
        ("<live-install-allowed>true", "<live-install-allowed>yes", "is neither true nor false"),
        ("<stateless-ready>true</stateless-ready>", "", "stateless-ready is there 0 times"),
        (
            "<file>etc/init.d/vsgpu-host-agent</file>",
            "",
            "etc/init.d/vsgpu-host-agent is packed, and file-list does not name it",
        ),
        ("<file>etc/init.d", "<file>/etc/init.d", "without a leading slash"),
        ("payload name=\"vsgpu\"", "payload name=\"sixteen-characters\"", "1 to 15 characters"),
        (" size=\"", " size=\"1", "size says"),
        (
            "checksum-type=\"sha-256\" verify-process=\"gunzip\"",
            "checksum-type=\"sha-256\"",
            "refused from ESXi 8.0 on, even with -f",
        ),
        ("checksum-type=\"sha-1\"", "checksum-type=\"md5\"", "checksum-type `md5` is not known"),
        ("</vib>", "", "descriptor: "),
    ];
    for (from, to, says) in cases {
        let to = to.replace("TOO-LONG", &long);
        let errors = described(from, &to);
        assert!(errors.iter().any(|e| e.contains(says)), "{from} -> {to}: {errors:#?}");
    }
}

#[test]
fn the_verifier_finds_a_damaged_container() {
    let errors = |bytes: &[u8]| verify::verify(bytes).errors.join("; ");
    assert!(errors(b"PK\x03\x04").contains("does not begin with `!<arch>`"));
    let vib = made().bytes;
    assert!(!errors(&vib[..vib.len() - 100]).is_empty());
    let mut flipped = vib.clone();
    let last = flipped.len() - 20;
    flipped[last] ^= 1;
    assert!(!errors(&flipped).is_empty());
    let without = with(|name, bytes| (name != "sig.pkcs7").then(|| bytes.to_vec()));
    assert!(errors(&without).contains("the first members must be descriptor.xml and sig.pkcs7"));
    let signed = with(|name, bytes| {
        Some(if name == "sig.pkcs7" { b"-----BEGIN PKCS7-----".to_vec() } else { bytes.to_vec() })
    });
    assert!(errors(&signed).contains("a community package is not signed"));
    // GNU's ar ends names with a slash; community projects ship such archives, and they install.
    let gnu = String::from_utf8_lossy(&vib[8..24]).replace("descriptor.xml  ", "descriptor.xml/ ");
    let mut other = vib.clone();
    other[8..24].copy_from_slice(gnu.as_bytes());
    assert_eq!(errors(&other), "");
}

#[test]
fn the_offline_bundle_names_what_it_holds() {
    let vib = made();
    let bytes = bundle::build(&vib, DATE).unwrap();
    let mut zip = zip::ZipArchive::new(std::io::Cursor::new(bytes.clone())).unwrap();
    let names: Vec<String> = zip.file_names().map(String::from).collect();
    let text = |zip: &mut zip::ZipArchive<std::io::Cursor<Vec<u8>>>, name: &str| {
        let mut bytes = vec![];
        zip.by_name(name).unwrap().read_to_end(&mut bytes).unwrap();
        bytes
    };
    let inside = text(&mut zip, "vib20/vsgpu-host-agent/vsgpu-host-agent-0.1.0-1.vib");
    assert_eq!(inside, vib.bytes);
    let index = String::from_utf8(text(&mut zip, "vendor-index.xml")).unwrap();
    let metadata = vsgpu_core::readers::xml::parse(&index).unwrap();
    let url = metadata.descendants().find(|e| e.name == "url").unwrap().text.clone();
    assert!(names.contains(&url), "{names:?}");
    let mut metadata = zip::ZipArchive::new(std::io::Cursor::new(text(&mut zip, &url))).unwrap();
    for name in ["vmware.xml", "bulletins/vsgpu-host-agent-0.1.0-1.xml", "vibs/vsgpu-host-agent-0.1.0-1.xml"]
    {
        let document = String::from_utf8(text(&mut metadata, name)).unwrap();
        let document =
            vsgpu_core::readers::xml::parse(&document).unwrap_or_else(|e| panic!("{name}: {e}\n{document}"));
        let find = |tag: &str| document.descendants().find(|e| e.name == tag);
        match name {
            "vmware.xml" => {
                assert_eq!(
                    find("relativePath").unwrap().text,
                    "vib20/vsgpu-host-agent/vsgpu-host-agent-0.1.0-1.vib"
                );
                assert_eq!(find("packedSize").unwrap().text, vib.bytes.len().to_string());
                assert!(find("componentNameSpec").is_some() && find("componentVersionSpec").is_some());
            }
            n if n.starts_with("bulletins") => {
                assert_eq!(find("vibID").unwrap().text, "vsgpu_bootbank_vsgpu-host-agent_0.1.0-1")
            }
            _ => assert_eq!(
                find("relative-path").unwrap().text,
                "vib20/vsgpu-host-agent/vsgpu-host-agent-0.1.0-1.vib"
            ),
        }
    }
    // The controller's own reader, which knows the bundles of others, takes it.
    let folder = std::env::temp_dir().join(format!("vsgpu-xtask-{}", std::process::id()));
    for (name, bytes) in [("a.vib", &vib.bytes), ("a.zip", &bytes)] {
        files::write(&folder.join(name), bytes).unwrap();
        let artifact = serde_json::from_value(serde_json::json!(name)).unwrap();
        let read = vsgpu::fleet::package::resolve(&folder, &artifact).unwrap();
        assert_eq!(
            (read.holds[0].name.as_str(), read.holds[0].version.as_str()),
            ("vsgpu-host-agent", "0.1.0-1")
        );
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_deb_says_the_c_library_that_its_programs_need() {
    let elf = b"\x7fELF\0GLIBC_2.4\0GLIBC_2.34\0GLIBC_2.17\0GLIBC_PRIVATE".to_vec();
    let entries = vec![Entry::new("usr/bin/x", 0o755, elf), Entry::config("etc/x.conf", 0o644, "x")];
    assert_eq!(linux::glibc(&entries).as_deref(), Some("2.34"));
    assert_eq!(linux::glibc(&[Entry::new("x", 0o644, "GLIBC_9.9")]), None, "only programs count");
}

#[test]
fn a_package_is_made_of_its_source_alone() {
    let package = || linux::Package {
        name: "x",
        summary: "A program",
        description: "It does something.",
        entries: vec![Entry::new("usr/bin/x", 0o755, "#!/bin/sh\n"), Entry::config("etc/x.conf", 0o644, "x")],
        needs: None,
        scripts: vec![],
    };
    let release = |seconds| linux::Release {
        version: "0.1.0",
        seconds,
        maintainer: "Somebody <somebody@example.com>".into(),
        changes: linux::changes(
            "# Changes\n\n## 0.1.0\n\n- [NEW] One\n  thing.\n- Another.\n\n## 0.0.9\n\n- Old.\n",
        ),
    };
    assert_eq!(release(0).changes, ["[NEW] One thing.", "Another."]);
    let at = 1_795_000_000;
    for make in [linux::Package::deb, linux::Package::rpm] {
        assert_eq!(make(&package(), &release(at)).unwrap(), make(&package(), &release(at)).unwrap());
        assert_ne!(make(&package(), &release(at)).unwrap(), make(&package(), &release(at + 86_400)).unwrap());
    }
    // Every file is as old as the source, and says its licence and what is new.
    let deb = package().deb(&release(at)).unwrap();
    let mut archive = ar::Archive::new(deb.as_slice());
    let mut names = vec![];
    while let Some(member) = archive.next_entry() {
        let mut bytes = vec![];
        let mut member = member.unwrap();
        if !member.header().identifier().starts_with(b"data.tar.gz") {
            continue;
        }
        member.read_to_end(&mut bytes).unwrap();
        let mut tar = tar::Archive::new(flate2::read::GzDecoder::new(bytes.as_slice()));
        for entry in tar.entries().unwrap() {
            let entry = entry.unwrap();
            assert_eq!(entry.header().mtime().unwrap(), at);
            names.push(entry.path().unwrap().display().to_string());
        }
    }
    for name in ["copyright", "changelog.gz"] {
        assert!(names.iter().any(|n| n.ends_with(&format!("usr/share/doc/x/{name}"))), "{names:?}");
    }
}

#[test]
fn the_pages_are_those_of_the_code() {
    for (name, text) in crate::docs::all().unwrap() {
        let path = root().join("packaging/docs").join(name);
        let there = String::from_utf8(files::read(&path).unwrap_or_default()).unwrap();
        assert!(there == text, "{name} is old: `cargo xtask docs` writes it anew");
    }
    assert_eq!(
        crate::docs::notes_of_nothing(),
        Vec::<&str>::new(),
        "keys.md has sections that no page shows"
    );
}
