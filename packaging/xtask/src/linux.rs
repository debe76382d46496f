//! Packages for Linux: deb, rpm and a tarball of the same files. Debian's format is three small archives in
//! one; rpm's is made by a library.

use crate::files::{self, Entry};
use std::collections::BTreeSet;

/// What a package says of itself.
pub struct Package {
    pub name: &'static str,
    pub summary: &'static str,
    pub description: &'static str,
    pub entries: Vec<Entry>,
    /// What else must be there: a package by Debian's name, and by rpm's.
    pub needs: Option<(&'static str, &'static str)>,
    /// Scripts by Debian's names: postinst, prerm, postrm.
    pub scripts: Vec<(&'static str, Vec<u8>)>,
}

/// The newest version of the C library that a program asks for: it does not run with an older one.
pub fn glibc(entries: &[Entry]) -> Option<String> {
    let mut newest = None;
    for entry in entries.iter().filter(|e| e.bytes.starts_with(b"\x7fELF")) {
        for (at, _) in entry.bytes.windows(6).enumerate().filter(|(_, w)| w == b"GLIBC_") {
            let version: String = entry.bytes[at + 6..]
                .iter()
                .take(12)
                .map(|b| *b as char)
                .take_while(|c| c.is_ascii_digit() || *c == '.')
                .collect();
            let numbers: Vec<u32> = version.split('.').filter_map(|p| p.parse().ok()).collect();
            newest = newest.max(Some(numbers).filter(|n| n.len() > 1));
        }
    }
    newest.map(|n| n.iter().map(u32::to_string).collect::<Vec<_>>().join("."))
}

impl Package {
    /// As Debian and Ubuntu take it.
    ///
    /// # Errors
    /// A sentence.
    pub fn deb(&self, version: &str) -> Result<Vec<u8>, String> {
        let size: usize = self.entries.iter().map(|e| e.bytes.len().div_ceil(1024)).sum();
        let description: String = self.description.lines().map(|l| format!(" {l}\n")).collect();
        let libc = glibc(&self.entries).map(|v| format!("libc6 (>= {v})"));
        let depends: Vec<String> =
            libc.into_iter().chain(self.needs.map(|(deb, _)| deb.to_string())).collect();
        let depends =
            if depends.is_empty() { String::new() } else { format!("Depends: {}\n", depends.join(", ")) };
        let control = format!(
            "Package: {}\nVersion: {version}\nArchitecture: amd64\nMaintainer: vsgpu <vsgpu@localhost>\nInstalled-Size: {size}\n{depends}Section: admin\nPriority: optional\nDescription: {}\n{description}",
            self.name, self.summary
        );
        let conffiles: String =
            self.entries.iter().filter(|e| e.config).map(|e| format!("/{}\n", e.path)).collect();
        let mut inside = vec![Entry::new("control", 0o644, control)];
        if !conffiles.is_empty() {
            inside.push(Entry::new("conffiles", 0o644, conffiles));
        }
        inside.extend(self.scripts.iter().map(|(name, bytes)| Entry::new(name, 0o755, bytes.clone())));
        files::ar(
            &[
                ("debian-binary", b"2.0\n"),
                ("control.tar.gz", &files::tar_gz(&inside, "./")?),
                ("data.tar.gz", &files::tar_gz(&self.entries, "./")?),
            ],
            0o100_644,
        )
    }

    /// As RHEL, its rebuilds and SLES take it.
    ///
    /// # Errors
    /// A sentence.
    pub fn rpm(&self, version: &str) -> Result<Vec<u8>, String> {
        let mut builder = rpm::PackageBuilder::new(self.name, version, "Apache-2.0", "x86_64", self.summary)
            .description(self.description)
            .using_config(rpm::BuildConfig::v4().compression(rpm::CompressionType::Gzip))
            .source_date(0)
            .build_host("localhost");
        for entry in &self.entries {
            let mut options = rpm::FileOptions::new(format!("/{}", entry.path))
                .mode(rpm::FileMode::regular(entry.mode as u16));
            if entry.config {
                options = options.is_config_noreplace();
            }
            builder = builder.with_file_contents(entry.bytes.clone(), options).map_err(|e| e.to_string())?;
        }
        for (name, bytes) in &self.scripts {
            let text = String::from_utf8_lossy(bytes).into_owned();
            builder = match *name {
                "postinst" => builder.post_install_script(text),
                "prerm" => builder.pre_uninstall_script(text),
                "postrm" => builder.post_uninstall_script(text),
                other => return Err(format!("rpm has no script `{other}`")),
            };
        }
        if let Some(version) = glibc(&self.entries) {
            builder = builder.requires(rpm::Dependency::any(format!("libc.so.6(GLIBC_{version})(64bit)")));
        }
        if let Some((_, rpm)) = self.needs {
            builder = builder.requires(rpm::Dependency::any(rpm));
        }
        let package = builder.build().map_err(|e| e.to_string())?;
        let mut bytes = vec![];
        package.write(&mut bytes).map_err(|e| e.to_string())?;
        Ok(bytes)
    }
}

/// Everything of several packages below one folder, for machines without a package tool.
///
/// # Errors
/// A sentence.
pub fn tarball(packages: &[Package], folder: &str) -> Result<Vec<u8>, String> {
    let mut seen = BTreeSet::new();
    let entries: Vec<Entry> = packages
        .iter()
        .flat_map(|p| p.entries.iter())
        .filter(|e| seen.insert(e.path.clone()))
        .cloned()
        .collect();
    files::tar_gz(&entries, &format!("{folder}/"))
}
