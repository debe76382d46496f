//! RHEL and its rebuilds (Rocky, Alma, Oracle, CentOS): dnf, rpm, dracut. DKMS is in EPEL, which is the
//! operator's to add: without it the module is built for the running kernel, and again for each new one
//! (`kernel-updates`).

use crate::distro::interface::{Distro, File, INITRAMFS_SECS, REPLACING, Repository, words};
use vsgpu_core::readers::key_value;
use vsgpu_core::{Command, Effect};

pub(super) struct RedHat;

const CONF: &str = "/etc/dnf/dnf.conf";
const MAIN: &str = "[main]";
/// Both spellings are heeded by dnf.
const EXCLUDES: [&str; 2] = ["excludepkgs", "exclude"];
/// What we keep out hides installed packages from dnf as well: our own calls look past it.
const FREE: &str = "--disableexcludes=all";

impl Distro for RedHat {
    fn name(&self) -> &'static str {
        "RHEL"
    }
    fn refresh(&self) -> Vec<Command> {
        vec![]
    }
    fn install(&self, packages: &[String]) -> Command {
        words("dnf", &["install", "-y", FREE], packages)
    }
    fn remove(&self, packages: &[String]) -> Command {
        words("dnf", &["remove", "-y", FREE], packages)
    }
    fn headers(&self, kernel: &str) -> String {
        // Oracle's own kernel has its own name.
        format!("kernel-{}devel-{kernel}", if kernel.contains("uek") { "uek-" } else { "" })
    }
    fn build_tools(&self) -> &'static [&'static str] {
        &["gcc", "make", "elfutils-libelf-devel"]
    }
    fn cpp_compiler(&self) -> &'static str {
        "gcc-c++"
    }
    fn rebuild_initramfs(&self) -> Command {
        Command::new("dracut", ["--force", "--regenerate-all"]).within(INITRAMFS_SECS)
    }
    fn initramfs(&self, kernel: &str) -> String {
        format!("/boot/initramfs-{kernel}.img")
    }
    fn initramfs_written_to(&self) -> &'static str {
        "/var/tmp"
    }
    fn list_packages(&self) -> Command {
        Command::new("rpm", ["-qa", "--qf", "%{NAME} %{VERSION}-%{RELEASE}\\n", "*nvidia*", "cuda*"])
    }
    fn is_driver(&self, package: &str) -> bool {
        let begins = [
            "nvidia-driver",
            "nvidia-open",
            "nvidia-linux-grid-",
            "xorg-x11-drv-nvidia",
            "akmod-nvidia",
            "cuda-drivers",
            "nvidia-kmod",
        ];
        begins.iter().any(|b| package.starts_with(b)) || package.contains("kmod-nvidia")
    }
    fn pins(&self, now: &str) -> Option<Effect> {
        // What somebody else excludes stays excluded.
        let values = EXCLUDES.iter().flat_map(|key| key_value::values(now, Some(MAIN), key));
        let mut all: Vec<&str> = values.flat_map(|v| v.split([',', ' '])).filter(|w| !w.is_empty()).collect();
        let missing: Vec<&str> = REPLACING.into_iter().filter(|r| !all.contains(r)).collect();
        all.extend(&missing);
        let set = vec![(EXCLUDES[0].to_string(), Some(all.join(",")))];
        (!missing.is_empty()).then(|| Effect::EditLines {
            path: CONF.into(),
            section: Some(MAIN.into()),
            set,
        })
    }
    fn rules_in(&self, text: &str) -> String {
        let of = |key: &&str| {
            key_value::values(text, Some(MAIN), key)
                .into_iter()
                .map(|v| format!("{key}={v}\n"))
                .collect::<String>()
        };
        format!("{MAIN}\n{}", EXCLUDES.iter().map(of).collect::<String>())
    }
    fn pins_file(&self) -> &'static str {
        CONF
    }
    fn proxy(&self, url: &str) -> Effect {
        Effect::EditLines {
            path: CONF.into(),
            section: Some(MAIN.into()),
            set: vec![("proxy".into(), Some(url.into()))],
        }
    }
    fn proxy_in(&self, now: &str) -> Option<String> {
        key_value::values(now, Some(MAIN), "proxy").first().map(|v| v.to_string())
    }
    fn proxy_file(&self) -> &'static str {
        CONF
    }
    fn repository(&self, of: Repository) -> File {
        let key = match of.key {
            Some(key) => format!("gpgcheck=1\ngpgkey=file://{key}\n"),
            None => "gpgcheck=1\n".into(),
        };
        let contents = format!(
            "# Written by vsgpu.\n[vsgpu-{0}]\nname={0}\nbaseurl={1}\nenabled=1\n{key}",
            of.name, of.url
        );
        File { path: format!("/etc/yum.repos.d/vsgpu-{}.repo", of.name), contents }
    }
    fn repositories(&self) -> (&'static str, &'static str) {
        ("/etc/yum.repos.d", ".repo")
    }
}
