//! Boots of a host by the API, which has no boot id: the time of its boot by its own clock. Where that moved, the time that
//! the host runs decides: by what it was when this process asked last, else by our clock. A clock that is set is no boot
//! (facts: vsphere-api 5). What an agent notes for one boot on a host's ramdisk lies here and goes with the boot.

use serde::{Deserialize, Serialize};
use std::time::Duration;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use vsgpu_core::{IoError, System};
use vsgpu_machine::Posix;

/// What agents note on a host's ramdisk, and what of it is ours: gone with its boot.
pub(super) const RAMDISK: &str = "/var/run/vsgpu";
/// Seconds by which a time of boot moves without one: clocks are corrected, and no host boots that fast.
const TOLERANCE: u64 = 30;
const FILE: &str = "/boot";

/// What is known of the running boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Boot {
    pub id: String,
    /// By the host's clock, and by ours; seconds since 1970.
    by_host: u64,
    by_us: Option<u64>,
}

/// How long the host ran when this process asked last, seconds, and when that was.
pub(super) type Asked = Option<(u64, Duration)>;

/// The boot that runs now. `uptime` is only asked where the host's own time of boot moved; none where nobody knows.
pub(super) fn current(
    state: &Posix,
    boot_time: &str,
    last: &mut Asked,
    uptime: impl FnOnce() -> Result<Option<u64>, IoError>,
) -> Result<String, IoError> {
    let wrong = |why: &str| IoError::Other { path: "the host's boot".into(), why: why.into() };
    let by_host = OffsetDateTime::parse(boot_time, &Rfc3339)
        .ok()
        .and_then(|at| u64::try_from(at.unix_timestamp()).ok())
        .ok_or_else(|| wrong("vCenter does not say when it was"))?;
    let known: Option<Boot> = match state.read(FILE, 1024) {
        Ok(bytes) => serde_json::from_slice(&bytes).ok(),
        Err(IoError::NotFound(_)) => None,
        Err(why) => return Err(why),
    };
    let same = |a: u64, b: u64| a.abs_diff(b) <= TOLERANCE;
    // Asked once at least: what comes later is measured by it.
    if let Some(boot) = known.as_ref().filter(|boot| same(boot.by_host, by_host) && last.is_some()) {
        return Ok(boot.id.clone());
    }
    let uptime = uptime()?;
    let by_us = uptime.map(|seconds| state.now().saturating_sub(seconds));
    let before = std::mem::replace(last, uptime.map(|uptime| (uptime, state.elapsed())));
    if let Some(boot) = known.as_ref().filter(|boot| same(boot.by_host, by_host)) {
        return Ok(boot.id.clone());
    }
    let set = |boot: &&Boot| match (uptime, before) {
        // Longer than before, by the time that went: it has not booted, whatever the clocks say.
        (Some(now), Some((then, at))) => {
            now + TOLERANCE >= then + state.elapsed().saturating_sub(at).as_secs()
        }
        _ => matches!((boot.by_us, by_us), (Some(then), Some(now)) if same(then, now)),
    };
    let boot = match known.as_ref().filter(set) {
        Some(boot) => Boot { by_host, ..boot.clone() },
        None => Boot { id: format!("{by_host:x}"), by_host, by_us },
    };
    if known.as_ref().is_some_and(|known| known.id != boot.id) {
        // Notes are files side by side.
        let notes = state.list(RAMDISK).unwrap_or_default();
        notes.iter().try_for_each(|note| state.remove(&format!("{RAMDISK}/{note}")))?;
    }
    let text = serde_json::to_vec(&boot).map_err(|e| wrong(&e.to_string()))?;
    state.write(FILE, &text, 0o600)?;
    Ok(boot.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_set_is_no_boot() {
        let folder = std::env::temp_dir().join(format!("vsgpu-api-boot-{}", std::process::id()));
        let state = Posix::new(None, folder.clone());
        let now = state.now();
        let at = |seconds: u64| {
            OffsetDateTime::from_unix_timestamp(seconds as i64).unwrap().format(&Rfc3339).unwrap()
        };
        let mut last = None;
        let mut look = |by_host: u64, uptime: u64| {
            current(&state, &at(by_host), &mut last, || Ok(Some(uptime))).unwrap()
        };
        let first = look(now - 5_000, 5_000);
        let note = format!("{RAMDISK}/note");
        state.write(&note, b"x", 0o600).unwrap();
        // Corrected by some seconds, then set by an hour while the host runs on: nobody boots.
        assert_eq!(look(now - 5_010, 1), first);
        assert_eq!(look(now - 1_400, 5_001), first);
        assert!(state.read(&note, 9).is_ok());
        // A boot is another one, also where it runs longer than the one before had when it was seen.
        assert_ne!(look(now - 100, 100), first);
        assert!(state.read(&note, 9).is_err(), "notes of an earlier boot are gone");
        // Another process, and all clocks of the site were set by an hour: by the host's and by ours it booted later.
        let boot = look(now - 100, 200);
        assert_eq!(look(now + 3_500, 200), boot);
        assert_eq!(current(&state, &at(now + 3_500), &mut None, || Ok(Some(200))).unwrap(), boot);
        assert!(current(&state, "never", &mut None, || Ok(None)).is_err());
        std::fs::remove_dir_all(folder).unwrap();
    }
}
