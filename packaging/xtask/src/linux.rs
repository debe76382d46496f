//! Packages for Linux: deb, rpm and a tarball of the same files. Debian's format is three small archives in
//! one; rpm's is made by a library.

use crate::files::{self, Entry};
use std::collections::BTreeSet;

/// What all packages of one release share.
pub struct Release<'a> {
    pub version: &'a str,
    /// When the source was written, seconds since 1970: of every file, so that the same source gives the same bytes.
    pub seconds: u64,
    /// Who makes the packages: `Name <mail>`.
    pub maintainer: String,
    /// What is new, one sentence or some each.
    pub changes: Vec<String>,
}

/// `Thu, 26 Nov 2026 20:00:00 +0000`, and the same as rpm has it.
fn date(seconds: u64) -> Result<String, String> {
    let at = i64::try_from(seconds).map_err(|e| e.to_string())?;
    let at = time::OffsetDateTime::from_unix_timestamp(at).map_err(|e| e.to_string())?;
    let short = |name: String| name.chars().take(3).collect::<String>();
    let (day, month) = (short(at.weekday().to_string()), short(at.month().to_string()));
    let (date, clock) = (at.date(), at.time());
    Ok(format!(
        "{day}, {:02} {month} {} {:02}:{:02}:{:02} +0000",
        date.day(),
        date.year(),
        clock.hour(),
        clock.minute(),
        clock.second()
    ))
}

impl Release<'_> {
    /// What every package says of its licence and of what is new, as Debian wants it.
    ///
    /// # Errors
    /// A sentence.
    fn papers(&self, name: &str) -> Result<Vec<Entry>, String> {
        let copyright = "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\nUpstream-Name: vsgpu\n\nFiles: *\nCopyright: 2026 the vsgpu authors\nLicense: Apache-2.0\n On Debian systems, the whole text of the Apache License 2.0 is in\n /usr/share/common-licenses/Apache-2.0.\n";
        let mut changes = format!("{name} ({}) unstable; urgency=medium\n\n", self.version);
        for change in &self.changes {
            for (at, line) in folded(change, 74).into_iter().enumerate() {
                changes += &format!("{}{line}\n", if at == 0 { "  * " } else { "    " });
            }
        }
        changes += &format!("\n -- {}  {}\n", self.maintainer, date(self.seconds)?);
        let doc =
            |file: &str, bytes: Vec<u8>| Entry::new(&format!("usr/share/doc/{name}/{file}"), 0o644, bytes);
        Ok(vec![doc("copyright", copyright.into()), doc("changelog.gz", files::gzip(changes.as_bytes())?)])
    }
}

/// A text in lines, broken at blanks.
fn folded(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let last = lines.len() - 1;
        if !lines[last].is_empty() && lines[last].chars().count() + 1 + word.chars().count() > width {
            lines.push(word.into());
        } else {
            let gap = if lines[last].is_empty() { "" } else { " " };
            lines[last] += &format!("{gap}{word}");
        }
    }
    lines
}

/// What is new: the items of the newest release in the project's own list.
pub fn changes(list: &str) -> Vec<String> {
    let release = list.split("\n## ").nth(1).unwrap_or_default();
    let items = release.split("\n- ").skip(1);
    items.map(|item| item.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

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
    pub fn deb(&self, release: &Release<'_>) -> Result<Vec<u8>, String> {
        let version = release.version;
        let entries = [self.entries.clone(), release.papers(self.name)?].concat();
        let size: usize = entries.iter().map(|e| e.bytes.len().div_ceil(1024)).sum();
        let description: String = self.description.lines().map(|l| format!(" {l}\n")).collect();
        let libc = glibc(&self.entries).map(|v| format!("libc6 (>= {v})"));
        let depends: Vec<String> =
            libc.into_iter().chain(self.needs.map(|(deb, _)| deb.to_string())).collect();
        let depends =
            if depends.is_empty() { String::new() } else { format!("Depends: {}\n", depends.join(", ")) };
        let control = format!(
            "Package: {}\nVersion: {version}\nArchitecture: amd64\nMaintainer: {}\nInstalled-Size: {size}\n{depends}Section: admin\nPriority: optional\nDescription: {}\n{description}",
            self.name, release.maintainer, self.summary
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
                ("control.tar.gz", &files::tar_gz(&inside, "./", release.seconds)?),
                ("data.tar.gz", &files::tar_gz(&entries, "./", release.seconds)?),
            ],
            0o100_644,
        )
    }

    /// As RHEL, its rebuilds and SLES take it.
    ///
    /// # Errors
    /// A sentence.
    pub fn rpm(&self, release: &Release<'_>) -> Result<Vec<u8>, String> {
        let version = release.version;
        let seconds = u32::try_from(release.seconds).map_err(|e| e.to_string())?;
        let mut builder = rpm::PackageBuilder::new(self.name, version, "Apache-2.0", "x86_64", self.summary)
            .description(self.description)
            .using_config(rpm::BuildConfig::v4().compression(rpm::CompressionType::Gzip))
            .source_date(seconds)
            .group("System/Management")
            .packager(&release.maintainer)
            .vendor("vsgpu")
            .add_changelog_entry(
                format!("{} - {version}-1", release.maintainer),
                release.changes.iter().map(|change| format!("- {change}")).collect::<Vec<_>>().join("\n"),
                seconds,
            )
            .build_host("localhost");
        let license = Entry::new(
            &format!("usr/share/licenses/{}/LICENSE", self.name),
            0o644,
            include_bytes!("../../../LICENSE").to_vec(),
        );
        for entry in self.entries.iter().chain([&license]) {
            let mut options = rpm::FileOptions::new(format!("/{}", entry.path))
                .mode(rpm::FileMode::regular(entry.mode as u16));
            if entry.config {
                options = options.is_config_noreplace();
            } else if entry.path.starts_with("usr/share/man/") || entry.path.starts_with("usr/share/doc/") {
                options = options.is_doc();
            } else if entry.path.starts_with("usr/share/licenses/") {
                options = options.is_license();
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
pub fn tarball(packages: &[Package], folder: &str, seconds: u64) -> Result<Vec<u8>, String> {
    let mut seen = BTreeSet::new();
    let entries: Vec<Entry> = packages
        .iter()
        .flat_map(|p| p.entries.iter())
        .filter(|e| seen.insert(e.path.clone()))
        .cloned()
        .collect();
    files::tar_gz(&entries, &format!("{folder}/"), seconds)
}
