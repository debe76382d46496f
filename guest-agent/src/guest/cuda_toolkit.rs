//! CUDA toolkits, several versions side by side, from the operator's runfiles or the distribution's packages;
//! always without the driver inside: that one would replace the vGPU driver (facts: failures F18). The first
//! one wished for is the one that /usr/local/cuda means and that login shells find.

use crate::distro::{self, OS_RELEASE, os_release};
use crate::facts::machine::rooms;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use vsgpu_core::artifact::{Artifact, PackageContent};
use vsgpu_core::disk_room::{DiskNeed, Room, lacks_room};
use vsgpu_core::requirement::{Explained, Failure, Implied, Needs, TakesEffect};
use vsgpu_core::words::first;
use vsgpu_core::{Command, Effect, Fact, Observation, Probe, Requirement, Subject, Unreadable, Verdict};

const FOLDER: &str = "/usr/local";
const LINK: &str = "/usr/local/cuda";
const PROFILE: &str = "/etc/profile.d/vsgpu-cuda.sh";
const PROFILE_TEXT: &str = "# Written by vsgpu: login shells find the CUDA toolkit that /usr/local/cuda means.\nif [ -d /usr/local/cuda/bin ]; then\n    export CUDA_HOME=/usr/local/cuda\n    case \":$PATH:\" in *:/usr/local/cuda/bin:*) ;; *) export PATH=/usr/local/cuda/bin:$PATH ;; esac\nfi\n";
/// Seconds for a toolkit: several gigabytes are unpacked.
const INSTALL_SECS: u32 = 1800;

/// Toolkits of a guest.
pub struct CudaToolkit;

/// One toolkit.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(
    rename_all = "kebab-case",
    deny_unknown_fields,
    expecting = "keys and values",
    try_from = "Unchecked"
)]
pub struct ToolkitSpec {
    /// NVIDIA's runfile, `cuda_12.2.2_535.104.05_linux.run`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub package: Option<Artifact>,
    /// Package of a repository that the guest knows, `cuda-toolkit-12-4`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, expecting = "keys and values")]
struct Unchecked {
    /// NVIDIA's runfile, `cuda_12.2.2_535.104.05_linux.run`.
    package: Option<Artifact>,
    /// Package of a repository that the guest knows, `cuda-toolkit-12-4`.
    name: Option<String>,
}

impl TryFrom<Unchecked> for ToolkitSpec {
    type Error = String;
    fn try_from(raw: Unchecked) -> Result<Self, String> {
        match (&raw.package, &raw.name) {
            (Some(_), None) => {}
            (None, Some(name)) if release_in(name).is_some() => {}
            (None, Some(name)) => {
                return Err(format!(
                    "`{name}` is no package of a toolkit alone: `cuda-toolkit-12-4` is expected; others bring a driver of their own"
                ));
            }
            _ => {
                return Err(
                    "either `package` (a runfile) or `name` (a package of the distribution) is needed".into(),
                );
            }
        }
        Ok(Self { package: raw.package, name: raw.name })
    }
}

/// `12.4` of `cuda-toolkit-12-4`.
fn release_in(name: &str) -> Option<String> {
    let (major, minor) = name.strip_prefix("cuda-toolkit-")?.split_once('-')?;
    let number = |text: &str| !text.is_empty() && text.len() < 4 && text.chars().all(|c| c.is_ascii_digit());
    (number(major) && number(minor)).then(|| format!("{major}.{minor}"))
}

impl ToolkitSpec {
    /// Its version: `12.2.2` of a runfile, `12.4` of a package.
    pub fn version(&self) -> Option<String> {
        let of_file = self.package.as_ref().and_then(|p| p.version().map(String::from));
        of_file.or_else(|| release_in(self.name.as_deref()?))
    }
}

/// What is there.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct CudaToolkitFact {
    /// Versions found below /usr/local, or said by nvcc.
    pub versions: Vec<String>,
    /// The one that /usr/local/cuda means.
    #[serde(default)]
    pub default: Option<String>,
    /// Login shells find it.
    #[serde(default)]
    pub in_profile: bool,
    /// os-release, to choose the package tool.
    #[serde(default)]
    pub os_release: String,
    /// Room where an installation writes.
    #[serde(default)]
    pub rooms: Vec<Room>,
}

/// Where a runfile unpacks itself.
const UNPACKED: &str = "/tmp";

fn nvcc() -> Command {
    Command::new("nvcc", ["--version"]).also_in("/usr/local/cuda/bin")
}

/// Version files of one installation: JSON from 11.1 on, text before.
fn version_files(name: &str) -> [String; 2] {
    ["version.json", "version.txt"].map(|file| format!("{FOLDER}/{name}/{file}"))
}

fn installations(seen: &Observation) -> Vec<&str> {
    seen.names(FOLDER).unwrap_or_default().into_iter().filter(|n| n.starts_with("cuda")).take(16).collect()
}

impl Fact for CudaToolkitFact {
    const NAME: &'static str = "cuda-toolkit";
    const ABOUT: &'static str = "CUDA toolkits that are installed, and the one that login shells find";
    fn probes(_: &Subject, seen: &Observation) -> Vec<Probe> {
        let mut probes = vec![
            Probe::List(FOLDER.into()),
            Probe::Run(nvcc()),
            Probe::Read(PROFILE.into()),
            Probe::Read(OS_RELEASE.into()),
            Probe::Machine,
        ];
        probes.extend(installations(seen).into_iter().flat_map(version_files).map(Probe::Read));
        probes
    }
    fn parse(_: &Subject, seen: &Observation) -> Result<Self, Unreadable> {
        let mut found = BTreeMap::new();
        for name in installations(seen) {
            let [json, text] = version_files(name).map(|path| seen.file(&path).ok().flatten());
            let from_json = json
                .and_then(|j| serde_json::from_str::<serde_json::Value>(j).ok())
                .and_then(|v| v["cuda"]["version"].as_str().map(String::from));
            let from_text = text.and_then(|t| t.trim().strip_prefix("CUDA Version ").map(String::from));
            found.extend(from_json.or(from_text).map(|version| (name, version)));
        }
        let default = found.get("cuda").cloned();
        let mut versions: Vec<String> = found.into_values().collect();
        // `Cuda compilation tools, release 12.2, V12.2.140`
        let said = seen
            .stdout_if_ok(&nvcc())
            .and_then(|t| t.split_once("release "))
            .and_then(|(_, rest)| rest.split(',').next());
        if let Some(release) = said.filter(|r| versions.iter().all(|v| release_of(v) != **r)) {
            versions.push(release.into());
        }
        versions.sort();
        versions.dedup();
        let in_profile = seen.file(PROFILE)? == Some(PROFILE_TEXT);
        Ok(Self {
            versions,
            default,
            in_profile,
            os_release: os_release(seen).unwrap_or_default().into(),
            rooms: rooms(seen, &[UNPACKED, FOLDER]),
        })
    }
    fn sentence(&self) -> Option<String> {
        Some(first(self.versions.iter().cloned(), 8, "none"))
    }
}

/// `12.2` of `12.2.2`: one toolkit folder holds one release.
fn release_of(version: &str) -> String {
    version.split('.').take(2).collect::<Vec<_>>().join(".")
}

/// A version that states no patch number stands for its release; so does one whose third part is a date
/// (`12.2.20230823`, as version.json of most releases has it).
fn same(is: &str, wanted: &str) -> bool {
    let short = |v: &str| v.split('.').nth(2).is_none_or(|part| part.len() >= 6);
    is == wanted || ((short(is) || short(wanted)) && release_of(is) == release_of(wanted))
}

impl Requirement for CudaToolkit {
    const NAME: &'static str = "cuda-toolkit";
    const ABOUT: &'static str =
        "CUDA toolkits, from your runfiles or the guest's repositories, without their driver";
    const AFTER: &'static [&'static str] = &["driver", "driver-held"];
    const NEEDS: Needs = Needs::Nothing;
    const TAKES_EFFECT: TakesEffect = TakesEffect::AtOnce;
    const SETTLE_SECS: u32 = 0;
    const IMPLIED_BY: &'static [Implied] = &[];
    const EXAMPLE: &'static str = r#"[{"package": "files/cuda_12.2.2_535.104.05_linux.run"}]"#;
    type Spec = Vec<ToolkitSpec>;
    type Fact = CudaToolkitFact;

    fn check(spec: &Vec<ToolkitSpec>, fact: &CudaToolkitFact) -> Verdict {
        let (mut effects, mut wants) = (vec![], vec![]);
        let (mut unpacked, mut installed) = (0u64, 0u64);
        for toolkit in spec {
            let Some(wanted) = toolkit.version() else {
                let name = toolkit.package.as_ref().map_or("", |p| p.file_name());
                return Verdict::blocked(
                    format!("the CUDA version of {name} is not known"),
                    "keep NVIDIA's own file name: cuda_12.2.2_535.104.05_linux.run",
                );
            };
            if !fact.versions.iter().any(|v| same(v, &wanted)) {
                match (&toolkit.package, &toolkit.name, distro::of(&fact.os_release)) {
                    (Some(package), ..) => {
                        // A runfile is compressed: unpacked and installed it needs more than its own size,
                        // never less.
                        let bytes = package.size.unwrap_or_default();
                        // What one unpacked is gone before the next one begins.
                        unpacked = unpacked.max(bytes);
                        installed = installed.saturating_add(bytes);
                        let install = Command::new(package.stored(None), ["--silent", "--toolkit"])
                            .within(INSTALL_SECS);
                        effects.push(Effect::run(install));
                    }
                    (None, Some(name), Some(family)) => {
                        effects.extend(family.refresh().into_iter().map(Effect::run));
                        effects.push(Effect::run(
                            family.install(std::slice::from_ref(name)).within(INSTALL_SECS),
                        ));
                    }
                    _ => {
                        return Verdict::blocked(
                            "this distribution's package tool is not known",
                            format!("{}; use a runfile", distro::UNKNOWN),
                        );
                    }
                }
            }
            wants.push(wanted);
        }
        // What a repository's package needs, its own tool knows and says.
        let needs =
            [DiskNeed { path: UNPACKED, bytes: unpacked }, DiskNeed { path: FOLDER, bytes: installed }];
        if let Some(full) = lacks_room(&fact.rooms, "the CUDA toolkit", &needs) {
            return full;
        }
        let Some(first) = wants.first() else { return Verdict::met("none set") };
        let mut is = if fact.versions.is_empty() { "absent".into() } else { fact.versions.join(", ") };
        // An installation moves the link to itself: with several, the first wish is set again behind them.
        let moved = effects.len() > 1 || (!effects.is_empty() && !fact.versions.is_empty());
        let link_is_right = fact.default.as_ref().is_none_or(|d| same(d, first));
        if moved || (effects.is_empty() && !link_is_right) {
            if let Some(default) = fact.default.as_ref().filter(|_| !link_is_right) {
                is += &format!("; {LINK} means {default}");
            }
            let target = format!("{FOLDER}/cuda-{}", release_of(first));
            effects.push(Effect::run(Command::new("ln", ["-sfn", &target, LINK])));
        }
        if !fact.in_profile {
            if effects.is_empty() {
                is += "; login shells do not find it";
            }
            effects.push(Effect::Write { path: PROFILE.into(), contents: PROFILE_TEXT.into(), mode: 0o644 });
        }
        let wants = wants.join(", ");
        if effects.is_empty() { Verdict::met(wants) } else { Verdict::unmet(is, wants, effects) }
    }

    fn as_spec(fact: &CudaToolkitFact) -> Option<Vec<ToolkitSpec>> {
        let first = fact.default.as_ref().or(fact.versions.last())?;
        let versions = std::iter::once(first).chain(fact.versions.iter().filter(|v| *v != first));
        let one = |version: &String| {
            let held =
                PackageContent { name: "cuda-toolkit".into(), version: version.clone(), acceptance: None };
            let file = format!("cuda_{version}_linux.run");
            ToolkitSpec {
                package: Some(Artifact {
                    artifact: file,
                    sha256: None,
                    size: None,
                    kind: None,
                    holds: vec![held],
                }),
                name: None,
            }
        };
        let spec = versions.map(one).collect();
        Self::check(&spec, fact).is_met().then_some(spec)
    }

    fn artifacts_mut(spec: &mut Vec<ToolkitSpec>) -> Vec<&mut Artifact> {
        spec.iter_mut().filter_map(|t| t.package.as_mut()).collect()
    }

    fn explain(failure: &Failure, _: &Subject, _: &Observation) -> Option<Explained> {
        crate::package_errors::explain(failure)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(json: &str) -> Result<Vec<ToolkitSpec>, String> {
        serde_json::from_str(json).map_err(|e| e.to_string())
    }

    fn lines(spec: &Vec<ToolkitSpec>, fact: &CudaToolkitFact) -> Vec<String> {
        match CudaToolkit::check(spec, fact) {
            Verdict::Unmet { effects, .. } => effects.iter().map(ToString::to_string).collect(),
            Verdict::Met { .. } => vec![],
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_brings_a_driver_is_refused() {
        for bad in [
            "cuda",
            "cuda-drivers",
            "cuda-12-2",
            "cuda-toolkit",
            "cuda-toolkit-12-2; rm",
            "nvidia-driver-535",
        ] {
            assert!(spec(&serde_json::json!([{ "name": bad }]).to_string()).is_err(), "{bad}");
        }
        assert!(spec(r#"[{"name": "cuda-toolkit-12-4"}]"#).is_ok() && spec("[{}]").is_err());
    }

    #[test]
    fn a_full_disk_is_named_before_anything_is_unpacked() {
        let wish = spec(r#"[{"package": {"artifact": "cuda_12.2.2_535.104.05_linux.run", "size": 4000, "holds": [{"name": "cuda-toolkit", "version": "12.2.2"}]}}]"#).unwrap();
        let room =
            |path: &str, disk: &str, free_bytes| Room { path: path.into(), disk: disk.into(), free_bytes };
        let one = |free| vec![room("/tmp", "/", free), room("/usr/local", "/", free)];
        let with =
            |rooms| CudaToolkitFact { os_release: "ID=debian".into(), rooms, ..CudaToolkitFact::default() };
        match CudaToolkit::check(&wish, &with(one(7999))) {
            Verdict::Blocked { why, .. } => {
                assert_eq!(why, "/tmp: 7999 bytes are free, the CUDA toolkit needs at least 8000 bytes")
            }
            other => panic!("{other:?}"),
        }
        match CudaToolkit::check(
            &wish,
            &with(vec![room("/tmp", "/", 4000), room("/usr/local", "/usr/local", 3999)]),
        ) {
            Verdict::Blocked { why, .. } => {
                assert!(why.starts_with("/usr/local: 3999 bytes are free"), "{why}")
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(lines(&wish, &with(one(8000))).len(), 2);
    }

    #[test]
    fn several_stand_side_by_side_and_the_first_is_the_default() {
        let wish = spec(r#"[{"name": "cuda-toolkit-12-4"}, {"name": "cuda-toolkit-11-8"}]"#).unwrap();
        let mut fact = CudaToolkitFact {
            os_release: "ID=debian".into(),
            in_profile: true,
            ..CudaToolkitFact::default()
        };
        let all = lines(&wish, &fact);
        assert!(
            all.iter().filter(|l| l.contains("install")).count() == 2
                && all.last().unwrap() == "ln -sfn /usr/local/cuda-12.4 /usr/local/cuda",
            "{all:?}"
        );
        fact.versions = vec!["11.8.0".into(), "12.4.1".into()];
        fact.default = Some("11.8.0".into());
        assert_eq!(lines(&wish, &fact), ["ln -sfn /usr/local/cuda-12.4 /usr/local/cuda"]);
        fact.default = Some("12.4.1".into());
        assert!(lines(&wish, &fact).is_empty());
        fact.in_profile = false;
        assert!(lines(&wish, &fact)[0].starts_with("write /etc/profile.d/vsgpu-cuda.sh"));
        assert!(
            same("12.2.20230823", "12.2.2")
                && same("12.2.2", "12.2.2")
                && !same("12.2.1", "12.2.2")
                && !same("12.3.20230823", "12.2.2")
        );
        assert_eq!(
            CudaToolkit::as_spec(&CudaToolkitFact { in_profile: true, ..fact }).map(|s| s[0].version()),
            Some(Some("12.4.1".into()))
        );
    }
}
