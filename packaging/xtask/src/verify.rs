//! Checks a VIB the way esxcli's installer does: container, signature, every rule of the descriptor, every
//! sum, the list of files (facts: esxi A3, B1, B2). What a release refuses outright is an error; what depends
//! on the host is a remark.

use flate2::read::GzDecoder;
use sha1::Sha1;
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use vsgpu_core::readers::xml::{self, Element};
use vsgpu_core::text::hex;

/// Longest decompressed payload that is looked at: nothing of ours comes near it.
const MAX_PAYLOAD: u64 = 1 << 30;
/// Folders that a community package may write to (facts: esxi B2, a schema of 2012).
const COMMUNITY: [&str; 12] = [
    "etc/vmware/shutdown/shutdown.d/",
    "etc/vmware/pciid/",
    "etc/vmware/vm-support/",
    "etc/vmware/firewall/",
    "etc/vmware/service/",
    "etc/cim/",
    "etc/config/",
    "opt/",
    "usr/lib/cim/",
    "usr/lib/vmware/",
    "usr/lib/vmware-debug/",
    "usr/libexec/jumpstart/plugins/",
];

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Findings {
    pub errors: Vec<String>,
    /// Depends on the host.
    pub remarks: Vec<String>,
    /// `name version, files, bytes`, where that much could be read.
    pub what: Option<String>,
}

pub fn verify(bytes: &[u8]) -> Findings {
    let mut found = Findings::default();
    match members(bytes) {
        Ok(members) => check(&members, &mut found),
        Err(why) => found.errors.push(why),
    }
    found
}

/// Names and contents, in their order.
fn members(bytes: &[u8]) -> Result<Vec<(String, Vec<u8>)>, String> {
    if !bytes.starts_with(b"!<arch>\n") {
        return Err("container: it does not begin with `!<arch>`".into());
    }
    let mut archive = ar::Archive::new(bytes);
    let mut members = vec![];
    while let Some(member) = archive.next_entry() {
        let mut member = member.map_err(|e| format!("container: {e}"))?;
        // GNU's ar ends a name with a slash.
        let name = String::from_utf8_lossy(member.header().identifier()).trim_end_matches('/').to_string();
        let mut contents = vec![];
        member.read_to_end(&mut contents).map_err(|e| format!("container: {name}: {e}"))?;
        if contents.len() as u64 != member.header().size() {
            return Err(format!("container: {name} is cut off"));
        }
        members.push((name, contents));
    }
    Ok(members)
}

fn check(members: &[(String, Vec<u8>)], found: &mut Findings) {
    let names: Vec<&str> = members.iter().map(|(name, _)| name.as_str()).collect();
    if names.len() < 2 || names[..2] != ["descriptor.xml", "sig.pkcs7"] {
        found.errors.push(format!(
            "container: the first members must be descriptor.xml and sig.pkcs7, they are {names:?}"
        ));
        return;
    }
    let text = String::from_utf8_lossy(&members[0].1);
    let vib = match xml::parse(&text) {
        Ok(vib) => vib,
        Err(why) => return found.errors.push(format!("descriptor: {why}")),
    };
    if vib.name != "vib" || vib.attribute("version") != Some("5.0") {
        found.errors.push("descriptor: it is no `<vib version=\"5.0\">`".into());
        return;
    }
    let level = one(&vib, "acceptance-level", found);
    properties(&vib, found);
    relationships(&vib, found);
    match (level.as_str(), members[1].1.is_empty()) {
        ("community", true) => found
            .remarks
            .push("acceptance level community: the host must be set to CommunitySupported, and UEFI Secure Boot must be off".into()),
        ("community", false) => found.errors.push("sig.pkcs7: a community package is not signed".into()),
        ("certified" | "accepted" | "partner", false) => {}
        ("certified" | "accepted" | "partner", true) => {
            found.errors.push(format!("sig.pkcs7: it is empty, and the acceptance level is {level}"));
        }
        _ => found.errors.push(format!("acceptance-level: `{level}` is none of certified, accepted, partner, community")),
    }
    let listed: Vec<String> = texts(&vib, "file-list", "file");
    let mut packed = BTreeSet::new();
    payloads(&vib, &members[2..], &mut packed, found);
    files(&listed, &packed, &level, found);
    let (name, version) =
        (child(&vib, "name").unwrap_or_default(), child(&vib, "version").unwrap_or_default());
    found.what = Some(format!("{name} {version}, {} files", listed.len()));
}

fn child(node: &Element, name: &str) -> Option<String> {
    Some(node.child(name)?.text.clone())
}

/// The text of an element that must be there exactly once.
fn one(node: &Element, name: &str, found: &mut Findings) -> String {
    let count = node.all(name).count();
    if count != 1 {
        found.errors.push(format!("descriptor: {name} is there {count} times, it must be there once"));
    }
    child(node, name).unwrap_or_default()
}

fn texts(node: &Element, list: &str, item: &str) -> Vec<String> {
    node.all(list).flat_map(|list| list.all(item)).map(|item| item.text.clone()).collect()
}

fn properties(vib: &Element, found: &mut Findings) {
    let plain = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
    let kind = one(vib, "type", found);
    if kind != "bootbank" {
        found.errors.push(format!("type: `{kind}` is not bootbank"));
    }
    for name in ["name", "vendor"] {
        let text = one(vib, name, found);
        if text.is_empty() || text.len() > 35 || !plain(&text) {
            found.errors.push(format!("{name}: `{text}` must be at most 35 of 0-9 A-Z a-z _ . -"));
        }
    }
    let version = one(vib, "version", found);
    let part = |p: &str| {
        !p.is_empty()
            && p.split('.').all(|w| !w.is_empty() && w.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'))
    };
    match version.split_once('-') {
        Some((v, r)) if part(v) && part(r) && version.len() <= 35 => {}
        _ => found
            .errors
            .push(format!("version: `{version}` must be `version-release` of words and dots, at most 35")),
    }
    let summary = one(vib, "summary", found);
    if summary.is_empty() || summary.chars().count() > 80 {
        found.errors.push(format!("summary: {} characters, at most 80", summary.chars().count()));
    }
    one(vib, "description", found);
    let date = one(vib, "release-date", found);
    let shape: String = date.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    if !shape.starts_with("0000-00-00T00:00:00") {
        found.errors.push(format!("release-date: `{date}` is no xsd:dateTime"));
    }
    for name in ["live-install-allowed", "live-remove-allowed", "cimom-restart", "stateless-ready", "overlay"]
    {
        let text = one(vib, name, found);
        if !["true", "false"].contains(&text.as_str()) {
            found.errors.push(format!("{name}: `{text}` is neither true nor false"));
        }
    }
    if child(vib, "overlay").as_deref() == Some("true")
        && child(vib, "acceptance-level").as_deref() == Some("community")
    {
        found.errors.push("overlay: a community package must not overlay files of others".into());
    }
}

fn relationships(vib: &Element, found: &mut Findings) {
    let Some(all) = vib.child("relationships") else {
        return found.errors.push("descriptor: relationships are missing".into());
    };
    let names: Vec<&str> = all.children.iter().map(|c| c.name.as_str()).collect();
    if names != ["depends", "conflicts", "replaces", "provides", "compatibleWith"] {
        found.errors.push(format!(
            "relationships: {names:?}, they must be depends, conflicts, replaces, provides, compatibleWith"
        ));
    }
    for constraint in all.descendants().filter(|e| e.name == "constraint") {
        let (name, relation) = (constraint.attribute("name"), constraint.attribute("relation"));
        if name.is_none() || relation.is_some_and(|r| !["<<", "<", "<=", "=", ">=", ">", ">>"].contains(&r)) {
            found.errors.push(format!(
                "relationships: the constraint on `{}` is not understood",
                name.unwrap_or_default()
            ));
        }
    }
}

fn payloads(
    vib: &Element,
    members: &[(String, Vec<u8>)],
    packed: &mut BTreeSet<String>,
    found: &mut Findings,
) {
    let listed: Vec<&Element> = vib.descendants().filter(|e| e.name == "payload").collect();
    let by_name: BTreeMap<&str, &Vec<u8>> =
        members.iter().map(|(name, bytes)| (name.as_str(), bytes)).collect();
    if listed.len() != members.len() || listed.is_empty() {
        found.errors.push(format!(
            "payloads: the descriptor lists {}, the archive holds {}",
            listed.len(),
            members.len()
        ));
    }
    for payload in listed {
        let name = payload.attribute("name").unwrap_or_default();
        let mut wrong = |why: String| found.errors.push(format!("payload {name}: {why}"));
        if name.is_empty() || name.len() > 15 {
            wrong("its name must have 1 to 15 characters".into());
        }
        let kind = payload.attribute("type").unwrap_or_default();
        let Some(bytes) = by_name.get(name) else {
            wrong("it is not in the archive".into());
            continue;
        };
        if payload.attribute("size").and_then(|s| s.parse().ok()) != Some(bytes.len()) {
            wrong(format!(
                "size says {}, it has {}",
                payload.attribute("size").unwrap_or_default(),
                bytes.len()
            ));
        }
        let mut plain = vec![];
        if kind == "tgz" || kind == "vgz" {
            match GzDecoder::new(bytes.as_slice()).take(MAX_PAYLOAD).read_to_end(&mut plain) {
                Ok(_) if kind == "tgz" => match paths(&plain) {
                    Ok(paths) => packed.extend(paths),
                    Err(why) => wrong(why),
                },
                Ok(_) => {}
                Err(why) => wrong(format!("it does not decompress: {why}")),
            }
        }
        let mut kinds = BTreeSet::new();
        for sum in payload.all("checksum") {
            let (of, process) = (
                sum.attribute("checksum-type").unwrap_or_default(),
                sum.attribute("verify-process").unwrap_or_default(),
            );
            let bytes = if process == "gunzip" { &plain } else { *bytes };
            let real = match of {
                "sha-256" => hex(&Sha256::digest(bytes)),
                "sha-1" => hex(&Sha1::digest(bytes)),
                other => {
                    wrong(format!("checksum-type `{other}` is not known"));
                    continue;
                }
            };
            kinds.insert((of, process));
            if sum.text != real {
                wrong(format!("the {of} {process} sum is another one: the package is damaged"));
            }
        }
        if !kinds.contains(&("sha-1", "gunzip")) {
            wrong("it has no sha-1 gunzip checksum: refused before ESXi 8".into());
        }
        if !kinds.contains(&("sha-256", "gunzip")) {
            wrong("it does not have sha-256 gunzip checksum: refused from ESXi 8.0 on, even with -f".into());
        }
    }
}

/// Of the files in a tar; folders are not counted.
fn paths(tar: &[u8]) -> Result<BTreeSet<String>, String> {
    let mut all = BTreeSet::new();
    for entry in tar::Archive::new(tar).entries().map_err(|e| e.to_string())? {
        let entry = entry.map_err(|e| format!("tar: {e}"))?;
        let path = entry.path().map_err(|e| format!("tar: {e}"))?.to_string_lossy().into_owned();
        if path.starts_with('/') || path.starts_with("./") || path.split('/').any(|p| p == "..") {
            return Err(format!("tar: `{path}` is not relative to the root"));
        }
        if !entry.header().entry_type().is_dir() {
            all.insert(path);
        }
    }
    Ok(all)
}

fn files(listed: &[String], packed: &BTreeSet<String>, level: &str, found: &mut Findings) {
    let unique: BTreeSet<String> = listed.iter().cloned().collect();
    for path in unique.symmetric_difference(packed) {
        let where_from = if packed.contains(path) {
            "is packed, and file-list does not name it"
        } else {
            "is listed, and not packed"
        };
        found.errors.push(format!("file-list: {path} {where_from}"));
    }
    for path in &unique {
        if path.starts_with('/') || path.ends_with('/') || path.is_empty() || path.len() > 99 {
            found.errors.push(format!(
                "file-list: `{path}` must be a file of at most 99 characters without a leading slash"
            ));
        }
        if level == "community" && !COMMUNITY.iter().any(|folder| path.starts_with(folder)) {
            found.remarks.push(format!(
                "{path} is outside what the extensibility rules name for community packages: some releases ask for `--force` (-f)"
            ));
        }
    }
}
