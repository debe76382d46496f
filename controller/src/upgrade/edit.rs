//! Other packages in a fleet file, written where the old ones stand: comments, order and ranges stay. Only the paths of
//! packages (and hashes beside them) change.

use crate::error::{Error, Kind, Place};
use crate::fleet::yaml::{self, Data, Key, Node};
use serde_json::Value;
use std::collections::BTreeMap;
use vsgpu_core::Requirement as _;
use vsgpu_guest_agent::guest::Driver;
use vsgpu_host_agent::host::VgpuManager;
use vsgpu_host_agent::host::gpu_management_daemon::GpuManagementDaemon;

/// Requirements whose packages are changed: of hosts, then of guests.
pub(super) const OF_HOST: [&str; 2] = [VgpuManager::NAME, GpuManagementDaemon::NAME];
pub(super) const OF_GUEST: &str = Driver::NAME;

/// One package in the place of another, wherever a requirement names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Which {
    pub requirement: &'static str,
    /// As the fleet file names it now.
    pub from: String,
    pub to: String,
    /// Of the new file, where the fleet file states one.
    pub sha256: Option<String>,
}

/// A fleet file with other packages.
#[derive(Clone, Debug)]
pub struct Replaced {
    pub text: String,
    /// Line (from 1), what stood there, what stands there now.
    pub lines: Vec<(usize, String, String)>,
}

/// One text in the place of another.
struct Edit {
    line: usize,
    column: usize,
    old: String,
    new: String,
}

/// Writes other packages into the text of a fleet file.
///
/// # Errors
/// It is no YAML, or a name is written in a way that cannot be replaced.
pub fn replaced(file: &str, text: &str, which: &[Which]) -> Result<Replaced, Error> {
    let root = yaml::parse(file, text)?;
    let mut edits: BTreeMap<(usize, usize), Edit> = BTreeMap::new();
    let mut found = |node: &Node, requirements: &[&str]| {
        for (key, value) in pairs(node) {
            if let Some(requirement) = requirements.iter().find(|r| **r == key.name) {
                of_package(value, requirement, which, &mut edits);
            }
        }
    };
    for (key, node) in pairs(&root) {
        match key.name.as_str() {
            "hosts" => pairs(node).iter().for_each(|(_, host)| found(host, &OF_HOST)),
            "vms" => {
                let guests = pairs(node).iter().filter_map(|(_, vm)| of(vm, "guest"));
                guests.for_each(|guest| found(guest, &[OF_GUEST]));
            }
            "defaults" => {
                of(node, "host").into_iter().for_each(|host| found(host, &OF_HOST));
                of(node, "guest").into_iter().for_each(|guest| found(guest, &[OF_GUEST]));
            }
            _ => {}
        }
    }
    let mut lines: Vec<String> = text.split_inclusive('\n').map(String::from).collect();
    let mut changed = vec![];
    // From the end of a line to its beginning, so that columns stay what they are.
    for edit in edits.into_values().rev() {
        let cannot = || {
            Error::new(Kind::Usage, format!("`{}` cannot be replaced where it stands", edit.old))
                .code("fleet-file")
                .at(Place { file: file.into(), line: edit.line, column: edit.column })
                .hint(format!("write `{}` there yourself, then run `vsgpu apply`", edit.new))
        };
        let line = lines.get_mut(edit.line - 1).ok_or_else(cannot)?;
        let at = line.char_indices().nth(edit.column - 1).map(|(at, _)| at).ok_or_else(cannot)?;
        let quote = usize::from(line[at..].starts_with(['"', '\'']));
        let begin = at + quote;
        if !line[begin..].starts_with(&edit.old) {
            return Err(cannot());
        }
        line.replace_range(begin..begin + edit.old.len(), &edit.new);
        changed.push((edit.line, edit.old, edit.new));
    }
    changed.reverse();
    Ok(Replaced { text: lines.concat(), lines: changed })
}

fn pairs(node: &Node) -> &[(Key, Node)] {
    match &node.data {
        Data::Map(pairs) => pairs,
        _ => &[],
    }
}

fn of<'a>(node: &'a Node, name: &str) -> Option<&'a Node> {
    pairs(node).iter().find(|(key, _)| key.name == name).map(|(_, node)| node)
}

fn text(node: &Node) -> Option<&str> {
    match &node.data {
        Data::Scalar(Value::String(text)) => Some(text),
        _ => None,
    }
}

/// `package: files/x.zip`, or `package: { file: files/x.zip, sha256: .. }`.
fn of_package(wish: &Node, requirement: &str, which: &[Which], edits: &mut BTreeMap<(usize, usize), Edit>) {
    let Some(package) = of(wish, "package") else { return };
    let path = match &package.data {
        Data::Map(_) => of(package, "file").or_else(|| of(package, "artifact")),
        _ => Some(package),
    };
    let Some((node, old)) = path.and_then(|node| Some((node, text(node)?))) else { return };
    let Some(one) = which.iter().find(|w| w.requirement == requirement && w.from == old) else { return };
    let mut add = |node: &Node, old: &str, new: &str| {
        let edit = Edit { line: node.line, column: node.column, old: old.into(), new: new.into() };
        edits.insert((node.line, node.column), edit);
    };
    add(node, old, &one.to);
    let hash = of(package, "sha256").and_then(|node| Some((node, text(node)?)));
    if let (Some((node, old)), Some(new)) = (hash, &one.sha256) {
        add(node, old, new);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLEET: &str = "version: 1\n# old\ndefaults:\n  guest:\n    driver: { package: \"files/old.run\" } # all of them\nhosts:\n  esx-[01-02]:\n    vgpu-manager: { package: files/old.zip, datastore: d }\n  esx-03:\n    vgpu-manager:\n      package: { file: files/old.zip, sha256: aa }\n      datastore: d\nvms:\n  vm-[01-99]:\n    host: esx-01\n    guest:\n      driver: { package: files/other.run }\n";

    fn which(requirement: &'static str, from: &str, to: &str) -> Which {
        Which { requirement, from: from.into(), to: to.into(), sha256: Some("bb".into()) }
    }

    #[test]
    fn paths_are_replaced_where_they_stand_and_nothing_else() {
        let all = [
            which(OF_HOST[0], "files/old.zip", "files/a much longer name.zip"),
            which(OF_GUEST, "files/old.run", "new.run"),
        ];
        let new = replaced("fleet.yaml", FLEET, &all).unwrap_or_else(|e| panic!("{e}"));
        let wanted = FLEET
            .replace("files/old.zip", "files/a much longer name.zip")
            .replace("\"files/old.run\"", "\"new.run\"")
            .replace("sha256: aa", "sha256: bb");
        assert_eq!(new.text, wanted);
        assert_eq!(new.lines.iter().map(|(line, ..)| *line).collect::<Vec<_>>(), [5, 8, 11, 11]);
        let none = replaced("fleet.yaml", FLEET, &[which(OF_GUEST, "files/old.zip", "x")]);
        assert_eq!(none.map(|n| n.text).ok().as_deref(), Some(FLEET), "a host's package is no guest's");
    }

    #[test]
    fn what_cannot_be_replaced_is_said_with_its_place() {
        let escaped = "version: 1\nhosts:\n  a:\n    vgpu-manager:\n      package: \"files\\x2fold.zip\"\n      datastore: d\n";
        let error = replaced("f.yaml", escaped, &[which(OF_HOST[0], "files/old.zip", "x")]).map(|r| r.text);
        let error = error.expect_err("it is written otherwise than it reads");
        assert!(error.place.is_some_and(|place| place.line == 5), "{}", error.message);
    }
}
