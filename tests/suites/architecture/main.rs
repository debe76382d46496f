//! The rules of the house (packaging/docs/architecture.md), kept by tests: who may depend on what, and who
//! may name what.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "test code"
)]

mod imports;

use std::path::{Path, PathBuf};
use vsgpu_tests::lab::workspace;

/// Direct dependencies of a package of ours.
fn dependencies(package: &str) -> Vec<String> {
    let metadata = cargo_metadata::MetadataCommand::new()
        .current_dir(workspace())
        .other_options(vec!["--offline".into()])
        .no_deps()
        .exec()
        .unwrap();
    let package = metadata.packages.iter().find(|p| p.name.as_str() == package).unwrap();
    package
        .dependencies
        .iter()
        .filter(|d| d.kind == cargo_metadata::DependencyKind::Normal)
        .map(|d| d.name.clone())
        .collect()
}

fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let mut all = vec![];
    let mut folders = vec![workspace().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() && path.file_name().is_none_or(|n| n != "target") {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                all.push((path.strip_prefix(workspace()).unwrap().into(), text));
            }
        }
    }
    all
}

/// Sources of the crates whose files must not go in circles.
const CRATES: [&str; 7] = [
    "proto/core/src",
    "host-agent/src",
    "guest-agent/src",
    "guest-agent/network-gpu/src",
    "proto/machine/src",
    "proto/wire/src",
    "controller/src",
];

fn product() -> Vec<(PathBuf, String)> {
    ["proto", "host-agent", "guest-agent", "controller"].into_iter().flat_map(sources).collect()
}

/// Code without comment lines.
fn code(text: &str) -> String {
    text.lines().filter(|l| !l.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

#[test]
fn core_is_pure() {
    for name in dependencies("vsgpu-core") {
        assert!(
            [
                "aho-corasick",
                "serde",
                "serde_json",
                "serde_path_to_error",
                "schemars",
                "thiserror",
                "quick-xml",
                "strsim"
            ]
            .contains(&name.as_str()),
            "vsgpu-core depends on {name}"
        );
    }
    for (path, text) in sources("proto/core") {
        for word in
            ["std::process", "std::fs", "std::env", "SystemTime", "Instant::", "tokio", "tonic", "nix::"]
        {
            assert!(!code(&text).contains(word), "{}: names {word}", path.display());
        }
    }
}

#[test]
fn only_the_wire_crate_names_the_wire() {
    let packages = [
        "vsgpu-core",
        "vsgpu-machine",
        "vsgpu-host-agent",
        "vsgpu-guest-agent",
        "vsgpu-network-gpu",
        "vsgpu",
    ];
    for package in packages {
        for name in dependencies(package) {
            assert!(
                !["tonic", "prost", "rustls", "tokio-rustls", "hyper", "rcgen"].contains(&name.as_str()),
                "{package} depends on {name}"
            );
        }
    }
}

/// The vSphere API has its own TLS client; it knows nothing of agents, and only what reaches hosts knows it.
#[test]
fn only_host_agents_speak_the_vsphere_api() {
    let below = dependencies("vsgpu-vsphere");
    assert!(below.iter().all(|d| !["tonic", "prost", "vsgpu-wire", "vsgpu-machine"].contains(&d.as_str())));
    for package in
        ["vsgpu-core", "vsgpu-machine", "vsgpu-wire", "vsgpu-guest-agent", "vsgpu-network-gpu", "vsgpu"]
    {
        assert!(dependencies(package).iter().all(|d| d != "vsgpu-vsphere"), "{package}");
    }
}

#[test]
fn a_status_is_made_in_one_file() {
    for (path, text) in sources("proto/wire/src") {
        let made = code(&text).contains("Status::") && path != Path::new("proto/wire/src/refusal.rs");
        assert!(!made, "{}: makes a tonic::Status; say why as a `Refusal`", path.display());
    }
}

#[test]
fn agents_know_neither_each_other_nor_the_controller() {
    assert!(dependencies("vsgpu-host-agent").iter().all(|d| d != "vsgpu" && d != "vsgpu-guest-agent"));
    assert!(dependencies("vsgpu-guest-agent").iter().all(|d| d != "vsgpu" && d != "vsgpu-host-agent"));
    // What carries users' bytes has nothing in common with what installs drivers.
    assert!(dependencies("vsgpu-network-gpu").iter().all(|d| !d.ends_with("-agent") && d != "vsgpu"));
    for below in ["vsgpu-core", "vsgpu-machine", "vsgpu-wire"] {
        assert!(dependencies(below).iter().all(|d| !d.ends_with("-agent") && d != "vsgpu"), "{below}");
    }
    assert!(dependencies("vsgpu-machine").iter().all(|d| d != "vsgpu-wire"));
}

#[test]
fn requirements_never_see_the_machine() {
    for folder in [
        "host-agent/src/facts",
        "host-agent/src/host",
        "host-agent/src/vm",
        "guest-agent/src/facts",
        "guest-agent/src/guest",
        "guest-agent/src/distro",
    ] {
        for (path, text) in sources(folder) {
            for word in ["System", "std::process", "std::fs", "std::env", "Instant"] {
                assert!(
                    !code(&text).split(|c: char| !c.is_alphanumeric() && c != ':').any(|w| w == word),
                    "{}: names {word}",
                    path.display()
                );
            }
        }
    }
}

#[test]
fn a_file_beside_requirements_is_a_requirement() {
    let catalogue = vsgpu::catalogue();
    for (folder, scope) in [
        ("host-agent/src/host", vsgpu_core::Scope::Host),
        ("host-agent/src/vm", vsgpu_core::Scope::Vm),
        ("guest-agent/src/guest", vsgpu_core::Scope::Guest),
    ] {
        let mut named: Vec<String> = vec![];
        for entry in std::fs::read_dir(workspace().join(folder)).unwrap().flatten() {
            let name = entry.file_name().to_string_lossy().trim_end_matches(".rs").replace('_', "-");
            if name != "mod" {
                assert!(
                    catalogue.find(scope, &name).is_some(),
                    "{folder}: `{name}` is no requirement: it belongs into `facts/` or beside it"
                );
                named.push(name);
            }
        }
        let missing: Vec<&str> =
            catalogue.of(scope).map(|e| e.name).filter(|name| !named.iter().any(|n| n == name)).collect();
        assert!(
            missing.is_empty(),
            "{folder}: the folder is the list of keys, but there is no file for {missing:?}"
        );
    }
}

#[test]
fn one_place_starts_processes_prints_and_exits() {
    let tests_of = |text: &str| text.split("#[cfg(test)]").next().unwrap_or_default().to_string();
    for (path, text) in product() {
        let (text, is) = (code(&tests_of(&text)), |p: &str| path == Path::new(p));
        assert!(
            !text.contains("process::Command") && !text.contains("Process::new(")
                // `foreground`: what a user starts himself, and nothing of ours.
                || is("proto/machine/src/child.rs")
                || is("proto/machine/src/foreground.rs"),
            "{} starts processes",
            path.display()
        );
        assert!(
            !text.contains("println!")
                || path.starts_with("controller/src/render")
                || is("proto/wire/src/server/cli.rs")
                || is("guest-agent/network-gpu/src/cli/mod.rs")
                || is("proto/wire/build.rs"),
            "{} prints",
            path.display()
        );
        assert!(!text.contains("process::exit"), "{} exits", path.display());
        // There it is the one constant line that holds a long command until it is noted.
        let held = text.matches("const HOLD:").count() == 1 && text.matches("\"/bin/sh\"").count() == 1;
        assert!(
            !["\"sh\"", "\"bash\"", "\"/bin/sh\""].iter().any(|shell| text.contains(shell))
                || is("proto/machine/src/child.rs") && held,
            "{} names a shell",
            path.display()
        );
    }
}

/// Words that are also the name of a requirement or a fact, and mean something else there.
const HOMONYMS: [(&str, &[&str], &str); 11] = [
    ("proto/core/src/knowledge/gpus.rs", &["ecc", "mig"], "a column of a table"),
    ("proto/machine/src/package.rs", &["acceptance-level", "cuda-toolkit"], "what a package calls itself"),
    ("proto/wire/src/server/metrics.rs", &["driver", "ecc", "mig"], "labels of a metric"),
    ("controller/src/hold.rs", &["maintenance-mode"], "a hold"),
    ("controller/src/inventory/acquired.rs", &["maintenance-mode"], "the code of an error"),
    ("controller/src/compat/mod.rs", &["clock"], "a compatibility check"),
    ("controller/src/render/readiness.rs", &["passthrough"], "head of a column"),
    ("controller/src/render/report.rs", &["license", "gpus", "driver"], "keys of `verify -o json`"),
    (
        "controller/src/diagnose/by_facts/tests.rs",
        &["gpus", "firmware", "vgpu", "xids"],
        "fields of facts, in a test",
    ),
    ("controller/src/cli/plan.rs", &["gpus"], "a key of `plan -o json`"),
    (
        "packaging/xtask/src",
        &["acceptance-level", "esx-version", "maintenance-mode"],
        "elements of a VIB's descriptor",
    ),
];

#[test]
fn requirements_and_facts_are_named_by_their_types() {
    let catalogue = vsgpu::catalogue();
    let facts = catalogue.extra_facts.iter().chain(catalogue.entries.iter().map(|e| &e.fact)).map(|f| f.name);
    let names: std::collections::BTreeSet<&str> =
        catalogue.entries.iter().map(|e| e.name).chain(facts).collect();
    let mut wrong = vec![];
    for (path, text) in
        ["proto/core/src", "proto/machine/src", "proto/wire/src", "controller/src", "packaging/xtask/src"]
            .into_iter()
            .flat_map(sources)
    {
        let text = code(text.split("#[cfg(test)]").next().unwrap_or_default());
        // Between two quotes of one line: names have no quotes in them.
        for literal in text.lines().flat_map(|line| line.split('"').skip(1).step_by(2)) {
            let meant =
                HOMONYMS.iter().any(|(place, words, _)| path.starts_with(place) && words.contains(&literal));
            if names.contains(literal) && !meant {
                wrong.push(format!("{}: \"{literal}\"", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "a literal names a requirement or a fact: use its type\n{}", wrong.join("\n"));
}

#[test]
fn every_file_says_what_it_is_for() {
    for (path, text) in product().into_iter().chain(sources("tests")) {
        assert!(text.trim_start().starts_with("//!"), "{} has no head comment", path.display());
    }
}

#[test]
fn every_command_line_of_the_host_agent_lives_without_linux_features() {
    // tokio's `signal` and `process` bring in socketpair and pidfd; facts of ESXi say: leave them out.
    let toml = std::fs::read_to_string(workspace().join("Cargo.toml")).unwrap();
    let tokio = toml.lines().find(|l| l.starts_with("tokio = ")).unwrap();
    assert!(!tokio.contains("signal") && !tokio.contains("process") && !tokio.contains("full"), "{tokio}");
}
