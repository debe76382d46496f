//! What differs between distributions, behind one interface: package tool, headers, initramfs tool, where
//! nouveau is blocked, how packages are pinned, a proxy and repositories are set (facts: guests
//! "Distributions"). One file per family.
//!
//! Deliberately absent: Photon, Arch and others that the page knows but nobody could try here. They are told
//! what to do by hand.

use vsgpu_core::{Command, Effect, Observation, Unreadable};

/// Seconds for a package tool behind a slow mirror.
const PACKAGES_SECS: u32 = 900;
/// Seconds for an initramfs on a small machine.
pub(super) const INITRAMFS_SECS: u32 = 600;
/// Packages that bring a driver of their own: they would replace the one that fits the host (facts: failures
/// F18). Patterns of the package tools: `*` any text, `[0-9]` a digit.
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
pub(crate) trait Distro: Sync {
    fn name(&self) -> &'static str;
    /// What is run before packages are installed: an installation that was cut off is ended, the lists are
    /// brought up to date.
    fn refresh(&self) -> Vec<Command>;
    /// Installs packages, by name or by the absolute path of a file.
    fn install(&self, packages: &[String]) -> Command;
    fn remove(&self, packages: &[String]) -> Command;
    /// Package with the headers of a kernel.
    fn headers(&self, kernel: &str) -> String;
    /// Compiler, make and what else a module is built with; DKMS where the distribution itself carries it.
    fn build_tools(&self) -> &'static [&'static str];
    /// Package with the C++ compiler.
    fn cpp_compiler(&self) -> &'static str;
    /// Rebuilds the initramfs of the running kernel.
    fn rebuild_initramfs(&self) -> Command;
    /// The initramfs of a kernel.
    fn initramfs(&self, kernel: &str) -> String;
    /// Where a new one is written, before it takes the old one's place.
    fn initramfs_written_to(&self) -> &'static str;
    /// Lists the installed packages of NVIDIA's, `name version` on each line.
    fn list_packages(&self) -> Command;
    /// Whether an installed package of that name carries a driver (its kernel module or its libraries).
    fn is_driver(&self, package: &str) -> bool;
    /// What keeps `REPLACING` from being installed, where the rules that are there now do not; nothing is
    /// missing otherwise.
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
pub(super) fn file(path: &str, contents: String) -> Effect {
    Effect::Write { path: path.into(), contents, mode: 0o644 }
}

pub(super) fn words(program: &str, fixed: &[&str], packages: &[String]) -> Command {
    let args = fixed.iter().map(|w| w.to_string()).chain(packages.iter().cloned());
    Command::new(program, args).within(PACKAGES_SECS)
}

/// Where a distribution says what it is.
pub(crate) const OS_RELEASE: &str = "/etc/os-release";

/// os-release; a guest without one is no Linux that we know.
pub(crate) fn os_release(seen: &Observation) -> Result<&str, Unreadable> {
    seen.file(OS_RELEASE)?.ok_or_else(|| Unreadable::new(format!("{OS_RELEASE}: no such file")))
}
