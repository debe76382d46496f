//! SLES and openSUSE: zypper, rpm, dracut. Packages are kept out by zypper's own lock file.

use super::{Family, File, INITRAMFS_SECS, REPLACING, Repository, with_line, words};
use vsgpu_core::Command;

pub(super) struct Suse;

const LOCKS: &str = "/etc/zypp/locks";
const PROXY: &str = "/etc/sysconfig/proxy";

impl Family for Suse {
    fn name(&self) -> &'static str {
        "SLES"
    }
    fn refresh(&self) -> Option<Command> {
        Some(words("zypper", &["--non-interactive", "refresh"], &[]))
    }
    fn install(&self, packages: &[String]) -> Command {
        words("zypper", &["--non-interactive", "install", "--oldpackage", "--allow-unsigned-rpm"], packages)
    }
    fn remove(&self, packages: &[String]) -> Command {
        words("zypper", &["--non-interactive", "remove"], packages)
    }
    fn headers(&self, kernel: &str) -> String {
        format!("kernel-default-devel={}", kernel.trim_end_matches("-default"))
    }
    fn build_tools(&self) -> &'static [&'static str] {
        &["gcc", "make"]
    }
    fn rebuild_initramfs(&self) -> Command {
        Command::new("dracut", ["--force"]).within(INITRAMFS_SECS)
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
    fn pins(&self, now: Option<&str>) -> File {
        let now = now.unwrap_or_default();
        let lock = |name: &&str| format!("\ntype: package\nmatch_type: glob\ncase_sensitive: on\nsolvable_name: {name}\n");
        let missing = REPLACING.iter().filter(|name| !now.lines().any(|l| l.strip_prefix("solvable_name: ") == Some(**name)));
        File { path: LOCKS.into(), contents: now.to_string() + &missing.map(lock).collect::<String>() }
    }
    fn pins_file(&self) -> &'static str {
        LOCKS
    }
    fn proxy(&self, now: Option<&str>, url: &str) -> File {
        let lines = [("PROXY_ENABLED", "yes"), ("HTTP_PROXY", url), ("HTTPS_PROXY", url)];
        let set = |text: String, (key, value): (&str, &str)| with_line(&text, None, key, &format!("{key}=\"{value}\""));
        File { path: PROXY.into(), contents: lines.into_iter().fold(now.unwrap_or_default().to_string(), set) }
    }
    fn proxy_in(&self, now: &str) -> Option<String> {
        let value = |key: &str| now.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix('=')).map(|v| v.trim_matches('"').to_string());
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
