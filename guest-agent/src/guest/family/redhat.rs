//! RHEL and its rebuilds (Rocky, Alma, Oracle, CentOS): dnf, rpm, dracut. DKMS is in EPEL, which is the operator's to add:
//! without it the module is built for the running kernel, and again for each new one (`kernel-updates`).

use super::{Family, File, INITRAMFS_SECS, REPLACING, Repository, with_line, words};
use vsgpu_core::Command;

pub(super) struct RedHat;

const CONF: &str = "/etc/dnf/dnf.conf";
const EXCLUDE: &str = "excludepkgs";

impl Family for RedHat {
    fn name(&self) -> &'static str {
        "RHEL"
    }
    fn refresh(&self) -> Option<Command> {
        None
    }
    fn install(&self, packages: &[String]) -> Command {
        words("dnf", &["install", "-y"], packages)
    }
    fn remove(&self, packages: &[String]) -> Command {
        words("dnf", &["remove", "-y"], packages)
    }
    fn headers(&self, kernel: &str) -> String {
        format!("kernel-devel-{kernel}")
    }
    fn build_tools(&self) -> &'static [&'static str] {
        &["gcc", "make", "elfutils-libelf-devel"]
    }
    fn rebuild_initramfs(&self) -> Command {
        Command::new("dracut", ["--force"]).within(INITRAMFS_SECS)
    }
    fn list_packages(&self) -> Command {
        Command::new("rpm", ["-qa", "--qf", "%{NAME} %{VERSION}-%{RELEASE}\\n", "*nvidia*", "cuda*"])
    }
    fn is_driver(&self, package: &str) -> bool {
        let begins =
            ["nvidia-driver", "nvidia-open", "nvidia-linux-grid-", "xorg-x11-drv-nvidia", "akmod-nvidia", "cuda-drivers", "nvidia-kmod"];
        begins.iter().any(|b| package.starts_with(b)) || package.contains("kmod-nvidia")
    }
    fn pins(&self, now: Option<&str>) -> File {
        let now = now.unwrap_or("[main]\n");
        // What somebody else excludes stays excluded.
        let own = now.lines().find_map(|l| l.split_once('=').filter(|(k, _)| matches!(k.trim(), EXCLUDE | "exclude"))).map(|(_, v)| v);
        let mut all: Vec<&str> = own.unwrap_or_default().split([',', ' ']).filter(|w| !w.is_empty()).collect();
        all.extend(REPLACING.iter().filter(|r| !own.unwrap_or_default().split([',', ' ']).any(|w| w == **r)));
        let line = format!("{EXCLUDE}={}", all.join(","));
        let without = now.lines().filter(|l| l.split_once('=').is_none_or(|(k, _)| k.trim() != "exclude")).collect::<Vec<_>>().join("\n");
        File { path: CONF.into(), contents: with_line(&without, Some("[main]"), EXCLUDE, &line) }
    }
    fn pins_file(&self) -> &'static str {
        CONF
    }
    fn proxy(&self, now: Option<&str>, url: &str) -> File {
        File { path: CONF.into(), contents: with_line(now.unwrap_or("[main]\n"), Some("[main]"), "proxy", &format!("proxy={url}")) }
    }
    fn proxy_in(&self, now: &str) -> Option<String> {
        now.lines().find_map(|l| l.split_once('=').filter(|(k, _)| k.trim() == "proxy")).map(|(_, v)| v.trim().into())
    }
    fn proxy_file(&self) -> &'static str {
        CONF
    }
    fn repository(&self, of: Repository) -> File {
        let key = match of.key {
            Some(key) => format!("gpgcheck=1\ngpgkey=file://{key}\n"),
            None => "gpgcheck=1\n".into(),
        };
        let contents = format!("# Written by vsgpu.\n[vsgpu-{0}]\nname={0}\nbaseurl={1}\nenabled=1\n{key}", of.name, of.url);
        File { path: format!("/etc/yum.repos.d/vsgpu-{}.repo", of.name), contents }
    }
    fn repositories(&self) -> (&'static str, &'static str) {
        ("/etc/yum.repos.d", ".repo")
    }
}
