//! Why a package tool failed, for every requirement that installs packages.

use vsgpu_core::requirement::{Explained, Failure};

/// What the tool said, the cause in a sentence, what to do.
const CAUSES: [(&[&str], &str, &str); 8] = [
    (
        &["No space left on device", "not enough free space", "Disk full"],
        "the guest's disk is full",
        "make room (`df -h` shows where; the package tool's `clean`, `journalctl --vacuum-size=100M`), then run `vsgpu apply` again",
    ),
    (
        &["Read-only file system", "is mounted read-only", "read-only filesystem"],
        "the guest's root is mounted read-only",
        "look for a broken disk (`dmesg`), then `mount -o remount,rw /`; a guest that is read-only by design needs the driver in its image",
    ),
    (
        &[
            "Unable to locate package linux-headers",
            "No match for argument: kernel-devel",
            "Couldn't find any package by glob 'linux-headers",
        ],
        "the headers of the running kernel are in no repository of the guest: a newer kernel has replaced it there",
        "update the guest's kernel and reboot it, or give the package files: `build-tools: { files: [...] }`",
    ),
    (
        &[
            "Unable to locate package",
            "No match for argument",
            "has no installation candidate",
            "No provider of",
            "no enabled repositories",
            "not registered",
        ],
        "a package is in no repository of the guest",
        "set `package-source` (a mirror of yours), or give the package files",
    ),
    (
        &["Temporary failure resolving", "Could not resolve host", "Failed to fetch"],
        "the guest does not reach its package repositories",
        "set `package-source: { proxy: ... }` or a repository of yours; for a guest without any network give the package files",
    ),
    (
        &["Could not connect to", "Connection timed out", "Connection refused"],
        "the guest does not reach its package repositories",
        "set `package-source: { proxy: ... }` or a repository of yours; for a guest without any network give the package files",
    ),
    (
        &["Could not get lock", "is another process using it", "management is locked"],
        "another package tool is at work in the guest",
        "wait for it (unattended upgrades, say), then run `vsgpu apply` again",
    ),
    (
        &["dpkg was interrupted", "dpkg --configure -a", "rpmdb open failed"],
        "an earlier package installation was cut off",
        "run `dpkg --configure -a` (rpm: `rpm --rebuilddb`) in the guest, then `vsgpu apply` again",
    ),
];

/// The cause of a failed installation, where the tool's own words tell it.
pub(crate) fn explain(failure: &Failure) -> Option<Explained> {
    let said = failure.output.as_ref().map(|o| o.both()).unwrap_or_default() + &failure.why;
    // Where nothing at all is found, the headers are only one of many: then the repositories are what is
    // missing.
    let others =
        said.contains("Unable to locate package gcc") || said.contains("has no installation candidate");
    CAUSES
        .iter()
        .filter(|(_, cause, _)| !(others && cause.contains("headers")))
        .find(|(needles, ..)| needles.iter().any(|n| said.contains(n)))
        .map(|(_, cause, fix)| Explained { cause: (*cause).into(), fix: (*fix).into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_cause_that_fits_is_said() {
        let cause =
            |why: &str| explain(&Failure { why: why.into(), output: None, since: 0 }).map(|e| e.cause);
        assert!(
            cause("E: Unable to locate package linux-headers-6.1.0-9-amd64").unwrap().contains("headers")
        );
        let both = "E: Unable to locate package gcc\nE: Unable to locate package linux-headers-6.1.0-9-amd64";
        assert!(cause(both).unwrap().contains("no repository"), "{:?}", cause(both));
        assert!(cause("E: Unable to locate package gcc").unwrap().contains("no repository"));
        assert!(cause("dpkg: error: cannot write: No space left on device").unwrap().contains("full"));
        assert_eq!(cause("something else"), None);
    }
}
