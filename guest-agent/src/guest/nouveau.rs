//! The nouveau driver kept from loading: a file in modprobe.d, the initramfs rebuilt, and a reboot where it
//! is loaded now.
//!
//! The file is written twice, the second time with a last line that says the initramfs was rebuilt: a power
//! cut in between is seen, and the rebuild is done again.

use crate::distro::{self, OS_RELEASE, os_release};
use crate::facts::machine::rooms;
use crate::facts::os::kernel;
use crate::guest::driver::spec::wanted;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use vsgpu_core::disk_room::{DiskNeed, Room, lacks_room};
use vsgpu_core::requirement::{Cost, Implied, Needs, TakesEffect};
use vsgpu_core::{Effect, Fact, Observation, Probe, Requirement, Subject, Unreadable, Verdict};

const FOLDER: &str = "/etc/modprobe.d";
const FILE: &str = "/etc/modprobe.d/vsgpu-nouveau.conf";
const CONTENT: &str = "# Written by vsgpu: the NVIDIA driver needs the GPU for itself.\nblacklist nouveau\noptions nouveau modeset=0\n";
const REBUILT: &str = "# The initramfs was rebuilt after this file was written.\n";

/// nouveau of a guest.
pub struct NouveauBlocked;

/// What is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Wish {
    /// Never loaded.
    #[serde(rename = "blocked")]
    Blocked,
}

/// What is so.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct NouveauFact {
    /// Whether the module is loaded now.
    pub loaded: bool,
    /// The file in modprobe.d that blocks it.
    pub blocked_by: Option<String>,
    /// Whether our file is there and says that the initramfs was rebuilt after it.
    pub rebuilt: bool,
    /// os-release, to choose the initramfs tool.
    pub os_release: String,
    /// Bytes of the running kernel's initramfs, where it was found.
    #[serde(default)]
    pub initramfs_bytes: Option<u64>,
    /// Room where a new one is written first.
    #[serde(default)]
    pub rooms: Vec<Room>,
}

/// The running kernel's initramfs, and where a new one is written before it takes that place.
fn initramfs(seen: &Observation) -> Option<(String, &'static str)> {
    let family = distro::seen(seen)?;
    kernel(seen).ok().map(|kernel| (family.initramfs(&kernel), family.initramfs_written_to()))
}

impl Fact for NouveauFact {
    const NAME: &'static str = "nouveau";
    const ABOUT: &'static str = "Whether the nouveau driver is loaded, and what blocks it";
    fn probes(_: &Subject, seen: &Observation) -> Vec<Probe> {
        let mut probes = vec![
            Probe::Read("/proc/modules".into()),
            Probe::List(FOLDER.into()),
            Probe::Read(OS_RELEASE.into()),
            Probe::Read(FILE.into()),
            Probe::Machine,
            Probe::KernelRelease,
        ];
        probes.extend(initramfs(seen).map(|(file, _)| Probe::Size(file)));
        let files =
            seen.names(FOLDER).unwrap_or_default().into_iter().filter(|n| n.ends_with(".conf")).take(64);
        probes.extend(files.map(|name| Probe::Read(format!("{FOLDER}/{name}"))));
        probes
    }
    fn parse(_: &Subject, seen: &Observation) -> Result<Self, Unreadable> {
        let modules = seen.file("/proc/modules")?.unwrap_or_default();
        let blocks = |path: &String| {
            seen.file(path)
                .ok()
                .flatten()
                .is_some_and(|t| t.lines().any(|l| l.split_whitespace().eq(["blacklist", "nouveau"])))
        };
        let files: Vec<String> = seen
            .names(FOLDER)?
            .iter()
            .filter(|n| n.ends_with(".conf"))
            .take(64)
            .map(|n| format!("{FOLDER}/{n}"))
            .collect();
        let blocked_by = files.into_iter().find(blocks);
        let rebuilt = seen.file(FILE)?.is_some_and(|text| text.contains(REBUILT.trim_end()));
        let initramfs = initramfs(seen);
        let size =
            |(file, _): &(String, _)| seen.text(&Probe::Size(file.clone())).ok().flatten()?.parse().ok();
        let rooms = initramfs.as_ref().map(|(_, written)| rooms(seen, &[*written])).unwrap_or_default();
        let initramfs_bytes = initramfs.as_ref().and_then(size);
        Ok(Self {
            initramfs_bytes,
            rooms,
            loaded: modules.lines().any(|l| l.starts_with("nouveau ")),
            blocked_by,
            rebuilt,
            os_release: os_release(seen)?.into(),
        })
    }
    fn sentence(&self) -> Option<String> {
        let loaded = if self.loaded { "loaded" } else { "not loaded" };
        Some(match (&self.blocked_by, self.rebuilt) {
            (None, _) => format!("{loaded}, nothing blocks it"),
            (Some(file), true) => format!("{loaded}, blocked by {file}, in the initramfs too"),
            (Some(file), false) => format!("{loaded}, blocked by {file}"),
        })
    }
}

impl Requirement for NouveauBlocked {
    const NAME: &'static str = "nouveau";
    const ABOUT: &'static str =
        "The nouveau driver blocked: modprobe.d, initramfs, reboot where it is loaded";
    const AFTER: &'static [&'static str] = &[];
    const NEEDS: Needs = Needs::Nothing;
    const TAKES_EFFECT: TakesEffect = TakesEffect::AfterReboot;
    const SETTLE_SECS: u32 = 0;
    const IMPLIED_BY: &'static [Implied] =
        &[Implied { by: "driver", spec: |driver| wanted(driver).map(|_| serde_json::json!(Wish::Blocked)) }];
    const EXAMPLE: &'static str = r#""blocked""#;
    type Spec = Wish;
    type Fact = NouveauFact;

    fn check(_: &Wish, fact: &NouveauFact) -> Verdict {
        let is = match (fact.loaded, &fact.blocked_by) {
            (false, Some(file)) if file != FILE || fact.rebuilt => {
                return Verdict::met(format!("blocked by {file}"));
            }
            (false, Some(_)) => "blocked, initramfs not rebuilt",
            (false, None) => "not blocked",
            // Only a file of ours tells that the initramfs knows of it; a foreign one may be younger than the
            // initramfs.
            (true, Some(_)) if fact.rebuilt => {
                return Verdict::pending("blocked, but still loaded", "blocked");
            }
            (true, Some(_)) => "blocked, but loaded from the initramfs",
            (true, None) => "loaded",
        };
        let Some(family) = distro::of(&fact.os_release) else {
            return Verdict::blocked(
                "this distribution's initramfs tool is not known",
                format!(
                    "{}; blacklist nouveau in /etc/modprobe.d and rebuild the initramfs yourself",
                    distro::UNKNOWN
                ),
            );
        };
        // A new one is about as large as the one that is there, and both are there for a while.
        let need =
            DiskNeed { path: family.initramfs_written_to(), bytes: fact.initramfs_bytes.unwrap_or_default() };
        if let Some(full) = lacks_room(&fact.rooms, "a new initramfs", &[need]) {
            return full;
        }
        let write = |contents: String| Effect::Write { path: FILE.into(), contents, mode: 0o644 };
        Verdict::unmet(
            is,
            "blocked",
            vec![
                write(CONTENT.into()),
                Effect::run(family.rebuild_initramfs()),
                write(format!("{CONTENT}{REBUILT}")),
            ],
        )
    }

    fn cost(_: &Wish, fact: &NouveauFact) -> Cost {
        // What is not loaded needs no reboot to be kept out.
        let takes_effect = if fact.loaded { Self::TAKES_EFFECT } else { TakesEffect::AtOnce };
        Cost { needs: Self::NEEDS, takes_effect, sure: true }
    }

    fn as_spec(fact: &NouveauFact) -> Option<Wish> {
        Self::check(&Wish::Blocked, fact).is_met().then_some(Wish::Blocked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_power_cut_before_the_initramfs_was_rebuilt_is_seen() {
        let fact = |loaded, blocked_by: Option<&str>, rebuilt| NouveauFact {
            loaded,
            blocked_by: blocked_by.map(Into::into),
            rebuilt,
            os_release: "ID=debian".into(),
            initramfs_bytes: Some(60_000_000),
            rooms: vec![],
        };
        let effects = |fact: &NouveauFact| match NouveauBlocked::check(&Wish::Blocked, fact) {
            Verdict::Unmet { effects, .. } => effects.len(),
            Verdict::Met { .. } => 99,
            other => panic!("{other:?}"),
        };
        assert_eq!(effects(&fact(true, None, false)), 3);
        assert_eq!(effects(&fact(true, Some(FILE), false)), 3, "written, then the power went");
        assert_eq!(effects(&fact(true, Some(FILE), true)), 0, "waits for the reboot");
        assert_eq!(
            effects(&fact(true, Some("/etc/modprobe.d/other.conf"), false)),
            3,
            "somebody else's file, old initramfs"
        );
        assert_eq!(effects(&fact(false, Some(FILE), true)), 99);
        let boot = |free_bytes| Room { path: "/boot".into(), disk: "/boot".into(), free_bytes };
        let with = |free| NouveauFact { rooms: vec![boot(free)], ..fact(true, None, false) };
        match NouveauBlocked::check(&Wish::Blocked, &with(59_999_999)) {
            Verdict::Blocked { why, .. } => {
                assert_eq!(
                    why,
                    "/boot: 59999999 bytes are free, a new initramfs needs at least 60000000 bytes"
                );
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(effects(&with(60_000_000)), 3);
        assert_eq!(effects(&fact(false, Some("/etc/modprobe.d/other.conf"), false)), 99);
    }
}
