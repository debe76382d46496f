//! `cargo xtask test`: the tests, with the peers that this machine can have. As root on Debian or Ubuntu
//! missing ones are installed first; what could not be tried all the same is said at the end, with what to
//! install.

use std::path::Path;
use std::process::{Command, Stdio};

/// What a suite needs, and the package that brings it.
const PEERS: [(&str, &str); 9] = [
    ("/usr/bin/promtool", "prometheus"),
    ("/usr/bin/strace", "strace"),
    ("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1", "faketime"),
    ("/usr/bin/rpm", "rpm"),
    ("/usr/bin/lintian", "lintian"),
    ("/usr/bin/busybox", "busybox"),
    ("/usr/sbin/sshd", "openssh-server"),
    ("/usr/bin/tmux", "tmux"),
    ("/usr/bin/curl", "curl"),
];

/// Runs them; `args` are cargo's.
pub fn run(args: &[String]) -> Result<(), String> {
    let missing: Vec<&str> =
        PEERS.iter().filter(|(file, _)| !Path::new(file).exists()).map(|(_, package)| *package).collect();
    if !missing.is_empty() {
        install(&missing);
    }
    let list = std::env::temp_dir().join(format!("vsgpu-not-tried-{}", std::process::id()));
    let _ = std::fs::remove_file(&list);
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // What cargo says of this package is not about those that it builds.
    for (name, _) in
        std::env::vars().filter(|(name, _)| name.starts_with("CARGO_PKG_") || name == "CARGO_MANIFEST_DIR")
    {
        cargo.env_remove(name);
    }
    cargo.arg("test").env("VSGPU_NOT_TRIED", &list).current_dir(crate::root());
    match args {
        [] => cargo.args(["--workspace", "--no-fail-fast"]),
        args => cargo.args(args),
    };
    let status = cargo.status().map_err(|e| format!("cargo: {e}"))?;
    let not_tried = std::fs::read_to_string(&list).unwrap_or_default();
    let _ = std::fs::remove_file(&list);
    // Of a build that failed nothing is known.
    if status.success() || !not_tried.is_empty() {
        println!("\n{}", summary(&not_tried));
    }
    if status.success() { Ok(()) } else { Err("the build or a test failed: see above".into()) }
}

fn install(packages: &[&str]) {
    let list = packages.join(" ");
    if !nix::unistd::geteuid().is_root() || !Path::new("/usr/bin/apt-get").exists() {
        println!(
            "missing: {list}; their tests are left out. As root on Debian or Ubuntu: apt-get install {list}"
        );
        return;
    }
    println!("installing what tests need: {list} (Debian starts openssh-server and prometheus as services)");
    let quiet = |args: &[&str]| {
        let mut apt = Command::new("apt-get");
        apt.args(args).env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null()).stdout(Stdio::null());
        apt.status().is_ok_and(|status| status.success())
    };
    let install = ["install", "-y", "-qq", "--no-install-recommends"];
    if !(quiet(&["update", "-qq"]) && quiet(&[&install, packages].concat())) {
        println!("they could not be installed");
    }
}

/// What was not tried: how many tests, and each reason once with them.
fn summary(not_tried: &str) -> String {
    let mut reasons: std::collections::BTreeMap<&str, Vec<&str>> = std::collections::BTreeMap::new();
    for (test, reason) in not_tried.lines().filter_map(|line| line.split_once(": needs ")) {
        reasons.entry(reason).or_default().push(test);
    }
    let count: usize = reasons.values().map(Vec::len).sum();
    if count == 0 {
        return "no test lacked anything that it needs".into();
    }
    let lines: String = reasons
        .iter()
        .map(|(reason, tests)| format!("\n  needs {reason}:\n    {}", tests.join("\n    ")))
        .collect();
    format!("{count} test{} could not be tried here:{lines}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::summary;

    #[test]
    fn what_was_not_tried_is_counted_by_its_reason() {
        assert_eq!(summary(""), "no test lacked anything that it needs");
        let said = summary(
            "peers::a: needs tmux (Debian's package tmux)\nb: needs rpm\npeers::c: needs tmux (Debian's package tmux)\n",
        );
        assert_eq!(
            said,
            "3 tests could not be tried here:\n  needs rpm:\n    b\n  needs tmux (Debian's package tmux):\n    peers::a\n    peers::c"
        );
    }
}
