//! What differs between distributions, behind one interface: package tool, headers, initramfs tool, where nouveau is blocked,
//! how packages are pinned, a proxy and repositories are set (facts: data/guest_distro_prep.tsv). One file per family.
//!
//! Deliberately absent: Photon, Arch and others that the table knows but nobody could try here. They are told what to do
//! by hand.

mod debian;
mod redhat;
mod suse;
mod ubuntu;

use super::system::OS_RELEASE;
use vsgpu_core::{Command, Effect, Evidence, Probe};

/// Seconds for a package tool behind a slow mirror.
const PACKAGES_SECS: u32 = 900;
/// Seconds for an initramfs on a small machine.
const INITRAMFS_SECS: u32 = 600;
/// Packages that bring a driver of their own: they would replace the one that fits the host (facts: failures F18). Patterns of
/// the package tools: `*` any text, `[0-9]` a digit.
pub(crate) const REPLACING: [&str; 17] = [
    "cuda",
    "cuda-[0-9]*",
    "cuda-drivers*",
    "cuda-runtime-*",
    "cuda-demo-suite-*",
    "libcuda1",
    "nvidia-kernel-*",
    "nvidia-dkms*",
    "nvidia-tesla-*",
    "libnvidia-compute-*",
    "linux-modules-nvidia-*",
    "*kmod-nvidia*",
    "xorg-x11-drv-nvidia*",
    "nvidia-compute-G*",
    "nvidia-driver*",
    "nvidia-open*",
    "nvidia-headless-*",
];

/// A repository of packages that the operator offers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Repository<'a> {
    /// Name of its file.
    pub name: &'a str,
    /// Where it is.
    pub url: &'a str,
    /// Debian's suite and components, `bookworm main`; nothing else has them.
    pub suite: Option<&'a str>,
    /// Path of the key that signs it, on the guest.
    pub key: Option<&'a str>,
}

/// A whole file to be written.
pub(crate) struct File {
    pub path: String,
    pub contents: String,
}

/// One family of distributions.
pub(crate) trait Family: Sync {
    /// For people.
    fn name(&self) -> &'static str;
    /// What is run before packages are installed: an installation that was cut off is ended, the lists are brought up to date.
    fn refresh(&self) -> Vec<Command>;
    /// Installs packages, by name or by the absolute path of a file.
    fn install(&self, packages: &[String]) -> Command;
    /// Removes packages.
    fn remove(&self, packages: &[String]) -> Command;
    /// Package with the headers of a kernel.
    fn headers(&self, kernel: &str) -> String;
    /// Compiler, make and what else a module is built with; DKMS where the distribution itself carries it.
    fn build_tools(&self) -> &'static [&'static str];
    /// Rebuilds the initramfs of the running kernel.
    fn rebuild_initramfs(&self) -> Command;
    /// Lists the installed packages of NVIDIA's, `name version` on each line.
    fn list_packages(&self) -> Command;
    /// Whether an installed package of that name carries a driver (its kernel module or its libraries).
    fn is_driver(&self, package: &str) -> bool;
    /// What keeps `REPLACING` from being installed, where the rules that are there now do not; nothing is missing otherwise.
    fn pins(&self, now: &str) -> Option<Effect>;
    /// The rules among the lines of that file: nothing else of it is kept.
    fn rules_in(&self, text: &str) -> String {
        text.into()
    }
    /// Where those rules are.
    fn pins_file(&self) -> &'static str;
    /// Sets the package tool's proxy.
    fn proxy(&self, url: &str) -> Effect;
    /// The proxy that a file sets.
    fn proxy_in(&self, now: &str) -> Option<String>;
    /// Where the proxy is set.
    fn proxy_file(&self) -> &'static str;
    /// The file that names a repository.
    fn repository(&self, of: Repository) -> File;
    /// Where the repositories' files are, with their extension.
    fn repositories(&self) -> (&'static str, &'static str);
}

/// A file of ours.
fn file(path: &str, contents: String) -> Effect {
    Effect::Write { path: path.into(), contents, mode: 0o644 }
}

/// From `ID` and `ID_LIKE` of os-release.
pub(crate) fn of(os_release: &str) -> Option<&'static dyn Family> {
    let value = |key: &str| os_release.lines().find_map(|l| l.strip_prefix(key)).unwrap_or_default().trim_matches('"').to_string();
    let ids = format!("{} {}", value("ID="), value("ID_LIKE="));
    ids.split_whitespace().find_map(|id| -> Option<&'static dyn Family> {
        match id {
            "ubuntu" => Some(&ubuntu::Ubuntu),
            "debian" => Some(&debian::Debian),
            "rhel" | "centos" | "rocky" | "almalinux" | "fedora" | "ol" => Some(&redhat::RedHat),
            "sles" | "suse" | "opensuse" | "opensuse-leap" => Some(&suse::Suse),
            _ => None,
        }
    })
}

/// The family of a guest that is being looked at: asked for in round one, known from round two on.
pub(crate) fn seen(evidence: &Evidence) -> Option<&'static dyn Family> {
    let file = Probe::Read(OS_RELEASE.into());
    evidence.has(&file).then(|| evidence.text(&file).ok().flatten().and_then(of)).flatten()
}

/// What to say where the distribution is none of these.
pub(crate) const UNKNOWN: &str = "Debian, Ubuntu, RHEL (Rocky, Alma, Oracle, CentOS) and SLES are known";

fn words(program: &str, fixed: &[&str], packages: &[String]) -> Command {
    let args = fixed.iter().map(|w| w.to_string()).chain(packages.iter().cloned());
    Command::new(program, args).within(PACKAGES_SECS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distributions_are_recognised_by_their_ids() {
        for (text, family) in [
            ("NAME=x\nID=debian\n", Some("Debian")),
            ("ID=ubuntu\nID_LIKE=debian\n", Some("Ubuntu")),
            ("ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n", Some("RHEL")),
            ("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n", Some("Ubuntu")),
            ("ID=\"sles\"\nID_LIKE=\"suse\"\n", Some("SLES")),
            ("ID=photon\n", None),
            ("", None),
        ] {
            assert_eq!(of(text).map(|f| f.name()), family, "{text}");
        }
    }

    #[test]
    fn every_family_names_its_own_drivers_and_pins_what_replaces_them() {
        let every: [(&str, &[&str], &[&str]); 4] = [
            (
                "debian",
                &["nvidia-driver", "nvidia-kernel-dkms", "nvidia-linux-grid-535", "libcuda1"],
                &["nvidia-container-toolkit", "cuda-toolkit-12-2", "nvidia-detect"],
            ),
            (
                "ubuntu",
                &["nvidia-driver-535-server", "nvidia-dkms-550", "linux-modules-nvidia-535-generic", "nvidia-headless-535"],
                &["nvidia-prime", "nvidia-settings"],
            ),
            (
                "rocky",
                &["kmod-nvidia-latest-dkms", "nvidia-driver-cuda", "akmod-nvidia", "nvidia-linux-grid-535"],
                &["nvidia-container-toolkit", "cuda-toolkit-12-2"],
            ),
            (
                "sles",
                &["nvidia-open-driver-G06-signed-kmp-default", "nvidia-compute-G06"],
                &["nvidia-container-toolkit", "libnvidia-container1"],
            ),
        ];
        for (id, drivers, others) in every {
            let family = of(&format!("ID={id}\n")).unwrap_or_else(|| panic!("{id}"));
            assert!(drivers.iter().all(|p| family.is_driver(p)), "{id}: {drivers:?}");
            assert!(!others.iter().any(|p| family.is_driver(p)), "{id}: {others:?}");
            let pins = family.pins("").unwrap().to_string();
            assert!(REPLACING.iter().all(|p| pins.contains(p)), "{id}: {pins}");
            assert!(family.proxy("http://proxy:3128").to_string().contains("http://proxy:3128"), "{id}");
        }
    }
}
