//! SLES and openSUSE: zypper, rpm, dracut. Packages are kept out by zypper's own lock file.

use crate::distro::interface::{Distro, File, INITRAMFS_SECS, REPLACING, Repository, file, words};
use vsgpu_core::readers::key_value;
use vsgpu_core::{Command, Effect};

pub(super) struct Suse;

const LOCKS: &str = "/etc/zypp/locks";
const PROXY: &str = "/etc/sysconfig/proxy";

impl Distro for Suse {
    fn name(&self) -> &'static str {
        "SLES"
    }
    fn refresh(&self) -> Vec<Command> {
        vec![words("zypper", &["--non-interactive", "--gpg-auto-import-keys", "refresh"], &[])]
    }
    fn install(&self, packages: &[String]) -> Command {
        words("zypper", &["--non-interactive", "install", "--oldpackage", "--allow-unsigned-rpm"], packages)
    }
    fn remove(&self, packages: &[String]) -> Command {
        // zypper does not touch what is locked, and the lock is ours.
        words("rpm", &["-e"], packages)
    }
    fn headers(&self, kernel: &str) -> String {
        format!("kernel-default-devel={}", kernel.trim_end_matches("-default"))
    }
    fn build_tools(&self) -> &'static [&'static str] {
        &["gcc", "make"]
    }
    fn cpp_compiler(&self) -> &'static str {
        "gcc-c++"
    }
    fn rebuild_initramfs(&self) -> Command {
        Command::new("dracut", ["--force", "--regenerate-all"]).within(INITRAMFS_SECS)
    }
    fn initramfs(&self, kernel: &str) -> String {
        format!("/boot/initrd-{kernel}")
    }
    fn initramfs_written_to(&self) -> &'static str {
        "/var/tmp"
    }
    fn list_packages(&self) -> Command {
        Command::new("rpm", ["-qa", "--qf", "%{NAME} %{VERSION}-%{RELEASE}\\n", "*nvidia*", "cuda*"])
    }
    fn is_driver(&self, package: &str) -> bool {
        let begins = [
            "nvidia-driver-",
            "nvidia-open-driver-",
            "nvidia-compute-G",
            "nvidia-gl-G",
            "nvidia-video-G",
            "nvidia-gfxG",
            "nvidia-linux-grid-",
        ];
        begins.iter().any(|b| package.starts_with(b))
    }
    fn pins(&self, now: &str) -> Option<Effect> {
        let lock = |name: &&str| {
            format!("\ntype: package\nmatch_type: glob\ncase_sensitive: on\nsolvable_name: {name}\n")
        };
        let there = |name: &&str| now.lines().any(|l| l.strip_prefix("solvable_name: ") == Some(*name));
        let missing: String = REPLACING.iter().filter(|name| !there(name)).map(lock).collect();
        (!missing.is_empty()).then(|| file(LOCKS, now.to_string() + &missing))
    }
    fn pins_file(&self) -> &'static str {
        LOCKS
    }
    fn proxy(&self, url: &str) -> Effect {
        let set = [("PROXY_ENABLED", "yes"), ("HTTP_PROXY", url), ("HTTPS_PROXY", url)]
            .map(|(k, v)| (k.to_string(), Some(format!("\"{v}\""))));
        Effect::EditLines { path: PROXY.into(), section: None, set: set.into() }
    }
    fn proxy_in(&self, now: &str) -> Option<String> {
        let value =
            |key: &str| key_value::values(now, None, key).last().map(|v| v.trim_matches('"').to_string());
        value("HTTP_PROXY").filter(|_| value("PROXY_ENABLED").as_deref() == Some("yes"))
    }
    fn proxy_file(&self) -> &'static str {
        PROXY
    }
    fn repository(&self, of: Repository) -> File {
        let key = of.key.map(|k| format!("gpgkey=file://{k}\n")).unwrap_or_default();
        let contents = format!(
            "# Written by vsgpu.\n[vsgpu-{0}]\nname={0}\nbaseurl={1}\nenabled=1\nautorefresh=1\ngpgcheck=1\n{key}",
            of.name, of.url
        );
        File { path: format!("/etc/zypp/repos.d/vsgpu-{}.repo", of.name), contents }
    }
    fn repositories(&self) -> (&'static str, &'static str) {
        ("/etc/zypp/repos.d", ".repo")
    }
}
