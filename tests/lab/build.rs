//! The programs that the lab runs: built once, as the tests were built.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// What is shipped, and the simulated machines.
const PACKAGES: [&str; 8] = [
    "vsgpu",
    "vsgpu-host-agent",
    "vsgpu-guest-agent",
    "vsgpu-network-gpu",
    "vsgpu-cuda-proof",
    "vsgpu-cuda-samples",
    "vsgpu-tests",
    "vsgpu-sim-libcuda",
];

/// Builds the product's programs once, as the tests were built, and says where they are.
pub fn programs() -> PathBuf {
    built(true)
}

/// The same before somebody's eyes: cargo shows how far it is.
pub fn programs_aloud() -> PathBuf {
    built(false)
}

fn built(quiet: bool) -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT
        .get_or_init(|| {
            let root = workspace();
            let release = !cfg!(debug_assertions);
            let mut cargo = cargo();
            // Not the whole workspace: the simulation's features (failpoints, another tokio) must never reach
            // these.
            cargo.args(["build", "--bins", "--lib"]).current_dir(&root);
            if quiet {
                cargo.arg("--quiet");
            }
            for package in PACKAGES {
                cargo.args(["-p", package]);
            }
            if release {
                cargo.arg("--release");
            }
            assert!(cargo.status().expect("cargo").success(), "the programs do not build");
            let target =
                std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
            target.join(if release { "release" } else { "debug" })
        })
        .clone()
}

/// Makes the packages for Linux once, from the same programs, and says where they are.
pub fn packages() -> PathBuf {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| {
        let out = programs().with_file_name("packages-test");
        let mut cargo = cargo();
        cargo
            .args(["run", "--quiet", "-p", "vsgpu-xtask", "--", "package", "--only", "linux", "--out"])
            .arg(&out)
            .current_dir(workspace());
        if cfg!(debug_assertions) {
            cargo.arg("--dev");
        }
        let output = cargo.output().expect("cargo");
        assert!(
            output.status.success(),
            "the packages are not made: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        out
    })
    .clone()
}

/// The one package of this name and kind among them.
pub fn package(name: &str, kind: &str) -> PathBuf {
    let all = std::fs::read_dir(packages()).unwrap().flatten().map(|e| e.path());
    let fits = |path: &PathBuf| {
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        file.ends_with(kind)
            && file.strip_prefix(name).is_some_and(|rest| {
                rest.starts_with(['_', '-']) && rest[1..].starts_with(|c: char| c.is_ascii_digit())
            })
    };
    all.filter(fits).max().unwrap_or_else(|| panic!("there is no {name} {kind}"))
}

/// cargo as one calls it at a prompt: what an outer cargo says about its own package would make build scripts
/// run anew.
pub fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let ours =
        ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_CRATE_", "CARGO_BIN_", "CARGO_PRIMARY_", "CARGO_RUSTC_"];
    for (name, _) in std::env::vars_os() {
        if ours.iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
            cargo.env_remove(name);
        }
    }
    cargo
}

/// The root of the checkout.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}
