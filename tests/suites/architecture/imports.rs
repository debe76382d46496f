//! Which file of a crate names which other one, read from its `use` lines and its paths: no circle between
//! files, and no arrow that runs up between rooms.

use super::{code, sources};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// `crate::run::step` as `["run", "step"]`.
type Module = Vec<String>;

/// The module that a file is; the crate's own is empty.
fn module_of(file: &Path) -> Module {
    let mut parts: Module =
        file.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if parts.last().is_some_and(|last| last == "mod" || last == "lib") {
        parts.pop();
    }
    parts
}

/// `a::{b, c::{d, e as f}}` as its leaves.
fn leaves(tree: &str) -> Vec<String> {
    let Some(open) = tree.find('{') else {
        return vec![tree.split(" as ").next().unwrap_or_default().split_whitespace().collect()];
    };
    let (head, inside) = (tree[..open].trim(), &tree[open + 1..tree.rfind('}').unwrap_or(tree.len())]);
    let (mut depth, mut from, mut parts) = (0, 0, vec![]);
    for (at, c) in inside.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&inside[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&inside[from..]);
    let full = |leaf: String| {
        if leaf == "self" { head.trim_end_matches("::").into() } else { format!("{head}{leaf}") }
    };
    parts
        .into_iter()
        .filter(|part| !part.trim().is_empty())
        .flat_map(|part| leaves(part.trim()))
        .map(full)
        .collect()
}

/// A path as this module means it, from the crate on; `None` where it leads out of the crate.
fn absolute(here: &Module, path: &str, known: &BTreeSet<Module>) -> Option<Module> {
    let mut segments: Vec<&str> = path.split("::").map(str::trim).filter(|s| !s.is_empty()).collect();
    let mut base = here.clone();
    match *segments.first()? {
        "crate" => {
            base.clear();
            segments.remove(0);
        }
        "self" => drop(segments.remove(0)),
        "super" => {
            while segments.first() == Some(&"super") {
                base.pop();
                segments.remove(0);
            }
        }
        child => {
            let mut module = here.clone();
            module.push(child.into());
            known.contains(&module).then_some(())?;
        }
    }
    base.extend(segments.into_iter().map(String::from));
    Some(base)
}

/// Edges between the files of a crate.
pub fn graph(folder: &str) -> BTreeMap<Module, BTreeSet<Module>> {
    let files: BTreeMap<Module, String> = sources(folder)
        .into_iter()
        .map(|(path, text)| {
            (
                module_of(path.strip_prefix(folder).unwrap_or(&path)),
                code(text.split("#[cfg(test)]").next().unwrap_or_default()),
            )
        })
        .filter(|(module, _)| module.first().is_none_or(|first| first != "bin" && first != "main"))
        .collect();
    let known: BTreeSet<Module> = files.keys().cloned().collect();
    let mut edges: BTreeMap<Module, BTreeSet<Module>> = BTreeMap::new();
    for (here, text) in &files {
        let mut paths = vec![];
        let mut rest = String::new();
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            let bare = line.trim_start();
            let bare = if bare.starts_with("pub") {
                bare.split_once(' ').map_or(bare, |(_, rest)| rest)
            } else {
                bare
            };
            let Some(tree) = bare.strip_prefix("use ") else {
                rest = rest + line + "\n";
                continue;
            };
            let mut tree = tree.to_string();
            while !tree.contains(';') {
                tree += lines.next().unwrap_or(";");
            }
            paths.extend(leaves(tree.split(';').next().unwrap_or_default().trim()));
        }
        let word = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
        paths.extend(rest.split(|c| !word(c)).filter(|path| path.contains("::")).map(String::from));
        for path in paths {
            let Some(mut target) = absolute(here, &path, &known) else { continue };
            while !known.contains(&target) && !target.is_empty() {
                target.pop();
            }
            if target != *here && known.contains(&target) {
                edges.entry(here.clone()).or_default().insert(target);
            }
        }
    }
    edges
}

/// Files that can be reached from themselves, in groups.
pub fn circles(edges: &BTreeMap<Module, BTreeSet<Module>>) -> Vec<BTreeSet<Module>> {
    let reach = |from: &Module| {
        let mut seen: BTreeSet<Module> = BTreeSet::new();
        let mut next: Vec<&Module> = edges.get(from).into_iter().flatten().collect();
        while let Some(module) = next.pop() {
            if seen.insert(module.clone()) {
                next.extend(edges.get(module).into_iter().flatten());
            }
        }
        seen
    };
    let all: BTreeMap<&Module, BTreeSet<Module>> =
        edges.keys().map(|module| (module, reach(module))).collect();
    let mut found: Vec<BTreeSet<Module>> = vec![];
    for (module, reached) in all.iter().filter(|(module, reached)| reached.contains(**module)) {
        if found.iter().all(|circle| !circle.contains(*module)) {
            let back = reached.iter().filter(|other| all.get(other).is_some_and(|r| r.contains(*module)));
            found.push(back.cloned().collect());
        }
    }
    found
}

#[test]
fn the_graph_sees_what_it_must_see() {
    assert_eq!(
        leaves("crate::a::{self, b, c::{D, E as F}}"),
        ["crate::a", "crate::a::b", "crate::a::c::D", "crate::a::c::E"]
    );
    let module = |path: &str| -> Module { path.split('/').map(String::from).collect() };
    let edges = BTreeMap::from([
        (module("a"), BTreeSet::from([module("b")])),
        (module("b"), BTreeSet::from([module("c/d")])),
        (module("c/d"), BTreeSet::from([module("a")])),
        (module("e"), BTreeSet::from([module("a")])),
    ]);
    assert_eq!(circles(&edges), [BTreeSet::from([module("a"), module("b"), module("c/d")])]);
    // A real one: the fleet file's reader names its model.
    assert!(graph("controller/src")[&module("fleet/file")].contains(&module("fleet/model")));
}

#[test]
fn no_file_names_itself_through_others() {
    for folder in super::CRATES {
        let circles = circles(&graph(folder));
        let shown: Vec<String> =
            circles.iter().map(|c| c.iter().map(|m| m.join("/")).collect::<Vec<_>>().join(" <-> ")).collect();
        assert!(shown.is_empty(), "{folder}: these files name each other:\n{}", shown.join("\n"));
    }
}

/// Rooms of the controller: each may name those before it.
const ROOMS: [&str; 25] = [
    "node",
    "hold",
    "rights",
    "error",
    "files",
    "picture",
    "fit",
    "advise",
    "catalogue",
    "fleet",
    "inventory",
    "compat",
    "capacity",
    "ready",
    "upgrade",
    "plan",
    "placing",
    "diagnose",
    "journal",
    "run",
    "setup",
    "monitoring",
    "render",
    "web",
    "cli",
];

#[test]
fn nothing_runs_up_in_the_controller() {
    let place = |module: &Module| {
        module
            .first()
            .map(|room| ROOMS.iter().position(|r| r == room).unwrap_or_else(|| panic!("{room} is no room")))
    };
    for (from, to) in graph("controller/src")
        .into_iter()
        .flat_map(|(from, all)| all.into_iter().map(move |to| (from.clone(), to)))
    {
        let (Some(here), Some(there)) = (place(&from), place(&to)) else { continue };
        assert!(there <= here, "{} names {}, which stands above it", from.join("/"), to.join("/"));
    }
}
