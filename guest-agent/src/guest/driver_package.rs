//! The driver's package before it is used: whole, for this machine, and asked which options it takes. What an
//! installer can do differs from version to version: it is asked once, and its answer is kept beside it.

use crate::guest::driver::spec::wanted;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use vsgpu_core::artifact::{Artifact, GUEST_FOLDER, Kind};
use vsgpu_core::requirement::{Explained, Failure, Implied, Needs, TakesEffect};
use vsgpu_core::system::Output;
use vsgpu_core::{Command, Effect, Fact, Observation, Probe, Requirement, Subject, Unreadable, Verdict};

/// Seconds to read a package of some hundred megabytes through.
const CHECK_SECS: u32 = 300;
/// Folders of files that were sent: an offline guest has one for each of its packages.
pub(super) const MOST: usize = 1024;
/// Beside which file the answer is kept: the boot does not matter, the installer does not change.
const BESIDE: &str = "/etc/os-release";

/// Package of a driver.
pub struct DriverPackage;

/// Which one.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, expecting = "keys and values")]
pub struct DriverPackageSpec {
    /// `.run`, `.deb` or `.rpm`.
    pub package: Artifact,
}

/// What packages said that were sent to this guest.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct DriverPackageFact {
    /// By the folder of each.
    pub checked: BTreeMap<String, Checked>,
}

/// One package's answer.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Checked {
    /// Its answer could be had.
    pub answers: bool,
    /// Options it takes, for a `.run`.
    pub options: Vec<String>,
    /// What it said otherwise.
    pub said: String,
}

#[derive(Deserialize)]
struct Record {
    version: u32,
    outputs: Vec<Run>,
}

#[derive(Deserialize)]
struct Run {
    output: Output,
}

/// The file in a package's folder that keeps its answer.
pub(super) fn record_in(folder: &str) -> String {
    format!("{folder}/package.json")
}

/// The folder of an artifact.
pub(super) fn folder_of(package: &Artifact) -> String {
    let path = package.stored(None);
    path.rsplit_once('/').map(|(folder, _)| folder.to_string()).unwrap_or(path)
}

/// Options named in an installer's own help: every word that begins with two dashes.
pub(super) fn options_in(record: &str) -> Vec<String> {
    let Ok(record) = serde_json::from_str::<Record>(record) else { return vec![] };
    let text: String = record.outputs.iter().map(|r| r.output.both() + "\n").collect();
    let words = text
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'))
        .filter(|w| w.len() > 3 && w.starts_with("--"));
    let mut all: Vec<String> = words.map(String::from).collect();
    all.sort();
    all.dedup();
    all
}

impl Fact for DriverPackageFact {
    const NAME: &'static str = "driver-package";
    const ABOUT: &'static str = "What the driver packages on this guest said of themselves";
    fn probes(_: &Subject, seen: &Observation) -> Vec<Probe> {
        let mut probes = vec![Probe::List(GUEST_FOLDER.into())];
        probes.extend(
            seen.names(GUEST_FOLDER)
                .unwrap_or_default()
                .into_iter()
                .take(MOST)
                .map(|n| Probe::Read(record_in(&format!("{GUEST_FOLDER}/{n}")))),
        );
        probes
    }
    fn parse(_: &Subject, seen: &Observation) -> Result<Self, Unreadable> {
        let mut checked = BTreeMap::new();
        for folder in seen.names(GUEST_FOLDER)?.into_iter().take(MOST).map(|n| format!("{GUEST_FOLDER}/{n}"))
        {
            let Some(text) = seen.file(&record_in(&folder))? else { continue };
            // A record that cannot be read is none: it is made again.
            let Some(record) = serde_json::from_str::<Record>(text).ok().filter(|r| r.version == 1) else {
                continue;
            };
            let Some(last) = record.outputs.last() else { continue };
            let said = vsgpu_core::observation::head(&last.output.both());
            checked.insert(folder, Checked { answers: last.output.ok(), options: options_in(text), said });
        }
        Ok(Self { checked })
    }
    fn sentence(&self) -> Option<String> {
        let whole = self.checked.values().filter(|checked| checked.answers).count();
        let known = vsgpu_core::words::counted(self.checked.len(), "package");
        Some(if self.checked.is_empty() {
            "none looked at yet".into()
        } else {
            format!("{known} looked at, {whole} whole")
        })
    }
}

/// Name of a package by its file's: `nvidia-linux-grid-535` of `nvidia-linux-grid-535_535.183.01_amd64.deb`
/// and of `nvidia-linux-grid-535-535.183.01-1.x86_64.rpm` (facts: nvidia 6).
pub(super) fn package_name(file: &str) -> &str {
    match file.strip_suffix(".rpm") {
        // Name, version and release are joined by dashes, and only the name may hold some.
        Some(rest) => rest.rsplitn(3, '-').nth(2).unwrap_or(rest),
        None => file.split('_').next().unwrap_or(file),
    }
}

/// Kind of a package, by its content where the controller has looked, else by its name.
pub(super) fn kind(package: &Artifact) -> Kind {
    match (package.kind, package.file_name()) {
        (Some(kind), _) => kind,
        (None, name) if name.ends_with(".deb") => Kind::Deb,
        (None, name) if name.ends_with(".rpm") => Kind::Rpm,
        (None, name) if name.ends_with(".run") => Kind::Run,
        _ => Kind::Other,
    }
}

impl Requirement for DriverPackage {
    const NAME: &'static str = "driver-package";
    const ABOUT: &'static str = "The driver's package is whole, and says which options it takes";
    const AFTER: &'static [&'static str] = &[];
    const NEEDS: Needs = Needs::Nothing;
    const TAKES_EFFECT: TakesEffect = TakesEffect::AtOnce;
    const SETTLE_SECS: u32 = 0;
    const IMPLIED_BY: &'static [Implied] = &[Implied {
        by: "driver",
        spec: |driver| Some(serde_json::json!(DriverPackageSpec { package: wanted(driver)?.package })),
    }];
    const EXAMPLE: &'static str = r#"{"package": "files/NVIDIA-Linux-x86_64-535.183.01-grid.run"}"#;
    type Spec = DriverPackageSpec;
    type Fact = DriverPackageFact;

    fn check(spec: &DriverPackageSpec, fact: &DriverPackageFact) -> Verdict {
        if spec.package.file_name().contains("-local-repo-") {
            return Verdict::blocked(
                format!("{} holds a repository, not the driver", spec.package.file_name()),
                "use NVIDIA's `.run`, or unpack that file and take the driver's package out of it",
            );
        }
        let (path, folder) = (spec.package.stored(None), folder_of(&spec.package));
        let ask =
            |program: &str, args: &[&str]| Command::new(program, args.iter().copied()).within(CHECK_SECS);
        let (check, question) = match kind(&spec.package) {
            Kind::Run => (ask(&path, &["--check"]), ask(&path, &["--advanced-options"])),
            Kind::Deb => (ask("dpkg-deb", &["--contents", &path]), ask("dpkg-deb", &["--info", &path])),
            Kind::Rpm => {
                (ask("rpm", &["-K", "--nosignature", &path]), ask("rpm", &["-qip", "--nosignature", &path]))
            }
            _ => {
                return Verdict::blocked(
                    format!("{} is no driver package", spec.package.file_name()),
                    "use NVIDIA's `.run`, `.deb` or `.rpm` for Linux guests",
                );
            }
        };
        match fact.checked.get(&folder) {
            Some(checked) if checked.answers => {
                let options = checked.options.len();
                Verdict::met(if options > 0 { format!("whole, {options} options") } else { "whole".into() })
            }
            // What did not answer is asked again: a full or a `noexec` /tmp may be mended by now.
            other => {
                let is = other.map_or("not looked at".into(), |checked| {
                    format!("does not answer: {}", checked.said.replace('\n', " | "))
                });
                let keep = Effect::Record {
                    commands: vec![question],
                    path: record_in(&folder),
                    beside: BESIDE.into(),
                };
                Verdict::unmet(is, "whole", vec![Effect::run(check), keep])
            }
        }
    }

    fn as_spec(_: &DriverPackageFact) -> Option<DriverPackageSpec> {
        // A package that was sent is no wish.
        None
    }

    fn artifacts_mut(spec: &mut DriverPackageSpec) -> Vec<&mut Artifact> {
        vec![&mut spec.package]
    }

    fn explain(failure: &Failure, _: &Subject, _: &Observation) -> Option<Explained> {
        let said = failure.output.as_ref().map(|o| o.both()).unwrap_or_default() + &failure.why;
        let has = |needles: &[&str]| needles.iter().any(|n| said.contains(n));
        if has(&["No space left on device", "Not enough space"]) {
            return crate::package_errors::explain(failure);
        }
        let explained = |cause: &str, fix: &str| Some(Explained { cause: cause.into(), fix: fix.into() });
        if has(&["Exec format error", "cannot execute binary file"]) {
            return explained(
                "the package is for another processor",
                "use the file for x86_64 (its name says `x86_64` or `amd64`)",
            );
        }
        if has(&[
            "check sum",
            "checksum",
            "MD5",
            "SHA256",
            "CRC",
            "nexpected end",
            "digest",
            "DIGESTS",
            "archive",
        ]) {
            let fix = "download it again, compare its SHA-256 with NVIDIA's page, and set `sha256:` in the fleet file";
            return explained("the driver's package is broken or cut off", fix);
        }
        if has(&["Permission denied", "noexec"]) {
            let fix = "its file system is mounted with `noexec`: mount it without, or put /var/lib/vsgpu on another one";
            return explained("the guest may not run programs from /var/lib/vsgpu", fix);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_from_the_installers_own_words() {
        let help = "nvidia-installer:  version 550.90.07\n\n  -M TYPE, --kernel-module-type=TYPE\n      open or proprietary\n  --dkms, --no-dkms\n -- \n";
        let record = serde_json::json!({ "version": 1, "outputs": [{ "output": Output { ended: vsgpu_core::ExitKind::Status(0), stdout: help.into(), stderr: String::new() } }] });
        assert_eq!(options_in(&record.to_string()), ["--dkms", "--kernel-module-type", "--no-dkms"]);
        assert!(options_in("{").is_empty());
    }
}
