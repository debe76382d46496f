//! A package mirror of the operator's own: a flat repository, signed with a key made for it.

use super::sh;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Package files that a guest's apt has fetched.
pub fn fetched(root: &Path) -> Vec<PathBuf> {
    let folder = root.join("var/cache/apt/archives");
    let files = std::fs::read_dir(folder).unwrap().flatten().map(|e| e.path());
    files.filter(|p| p.extension().is_some_and(|e| e == "deb")).collect()
}

/// Makes the repository of these packages in `into`, and writes its public key (armored) to `key`.
pub fn make(into: &Path, packages: &[PathBuf], key: &Path) {
    std::fs::create_dir_all(into).unwrap();
    for package in packages {
        std::fs::copy(package, into.join(package.file_name().unwrap())).unwrap();
    }
    let index = Command::new("dpkg-scanpackages")
        .args(["--multiversion", "."])
        .current_dir(into)
        .stderr(Stdio::null())
        .output()
        .unwrap();
    assert!(index.status.success());
    std::fs::write(into.join("Packages"), &index.stdout).unwrap();
    let sum = sh("sha256sum", &[&into.join("Packages").display().to_string()]);
    let sum = sum.split(' ').next().unwrap();
    let date = sh("date", &["-u", "-R"]);
    let release = format!(
        "Origin: vsgpu tests\nSuite: local\nDate: {}\nSHA256:\n {sum} {} Packages\n",
        date.trim(),
        index.stdout.len()
    );
    std::fs::write(into.join("Release"), release).unwrap();
    let home = into.join("../gnupg");
    std::fs::create_dir_all(&home).unwrap();
    sh("chmod", &["700", &home.display().to_string()]);
    let home = home.canonicalize().unwrap().display().to_string();
    let gpg = |args: &[&str]| {
        sh(
            "gpg",
            &[
                &[
                    "--homedir",
                    &home,
                    "--batch",
                    "--quiet",
                    "--pinentry-mode",
                    "loopback",
                    "--passphrase",
                    "",
                ],
                args,
            ]
            .concat(),
        )
    };
    gpg(&["--quick-generate-key", "vsgpu tests <tests@example.org>", "ed25519", "sign", "1d"]);
    std::fs::write(key, gpg(&["--armor", "--export"])).unwrap();
    let [release, signed] = ["Release", "InRelease"].map(|f| into.join(f).display().to_string());
    gpg(&["--clearsign", "--output", &signed, &release]);
    let _ = Command::new("gpgconf").args(["--homedir", &home, "--kill", "all"]).status();
}
