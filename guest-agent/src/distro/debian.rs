//! Debian: apt, dpkg, update-initramfs. Ubuntu's tools are the same.

use crate::distro::interface::{Distro, File, INITRAMFS_SECS, REPLACING, Repository, file, words};
use vsgpu_core::{Command, Effect};

pub(super) struct Debian;

const PINS: &str = "/etc/apt/preferences.d/vsgpu-nvidia";
const PROXY: &str = "/etc/apt/apt.conf.d/95vsgpu-proxy";

fn apt(fixed: &[&str], packages: &[String]) -> Command {
    words("apt-get", fixed, packages).env("DEBIAN_FRONTEND", "noninteractive")
}

impl Distro for Debian {
    fn name(&self) -> &'static str {
        "Debian"
    }
    fn refresh(&self) -> Vec<Command> {
        vec![
            words("dpkg", &["--configure", "-a"], &[]).env("DEBIAN_FRONTEND", "noninteractive"),
            apt(&["update"], &[]),
        ]
    }
    fn install(&self, packages: &[String]) -> Command {
        apt(&["install", "-y", "--no-install-recommends", "--allow-downgrades"], packages)
    }
    fn remove(&self, packages: &[String]) -> Command {
        apt(&["remove", "-y"], packages)
    }
    fn headers(&self, kernel: &str) -> String {
        format!("linux-headers-{kernel}")
    }
    fn build_tools(&self) -> &'static [&'static str] {
        &["gcc", "make", "libc6-dev", "dkms"]
    }
    fn cpp_compiler(&self) -> &'static str {
        "g++"
    }
    fn rebuild_initramfs(&self) -> Command {
        Command::new("update-initramfs", ["-u"]).within(INITRAMFS_SECS)
    }
    fn initramfs(&self, kernel: &str) -> String {
        format!("/boot/initrd.img-{kernel}")
    }
    fn initramfs_written_to(&self) -> &'static str {
        "/boot"
    }
    fn list_packages(&self) -> Command {
        // A pattern that matches nothing makes the exit status 1; what was found is printed all the same.
        Command::new(
            "dpkg-query",
            ["-W", "-f", "${db:Status-Abbrev} ${Package} ${Version}\\n", "*nvidia*", "cuda*", "libcuda*"],
        )
    }
    fn is_driver(&self, package: &str) -> bool {
        let begins = [
            "nvidia-driver",
            "nvidia-kernel-",
            "nvidia-open-kernel-",
            "nvidia-linux-grid-",
            "nvidia-tesla-",
            "libcuda1",
            "cuda-drivers",
        ];
        begins.iter().any(|b| package.starts_with(b)) && !package.ends_with("-source")
    }
    fn pins(&self, now: &str) -> Option<Effect> {
        let names = REPLACING.join(" ");
        let contents = format!(
            "# Written by vsgpu: these packages bring a driver of their own, which would replace the one that fits the host.\nPackage: {names}\nPin: version *\nPin-Priority: -1\n"
        );
        (now != contents).then(|| file(PINS, contents))
    }
    fn pins_file(&self) -> &'static str {
        PINS
    }
    fn proxy(&self, url: &str) -> Effect {
        file(
            PROXY,
            format!(
                "# Written by vsgpu.\nAcquire::http::Proxy \"{url}\";\nAcquire::https::Proxy \"{url}\";\n"
            ),
        )
    }
    fn proxy_in(&self, now: &str) -> Option<String> {
        let line = now.lines().find_map(|l| l.trim().strip_prefix("Acquire::http::Proxy"))?;
        Some(line.trim().trim_end_matches(';').trim_matches('"').to_string())
    }
    fn proxy_file(&self) -> &'static str {
        PROXY
    }
    fn repository(&self, of: Repository) -> File {
        let key = of.key.map(|k| format!(" [signed-by={k}]")).unwrap_or_default();
        let suite = of.suite.unwrap_or("./");
        let contents = format!("# Written by vsgpu.\ndeb{key} {} {suite}\n", of.url);
        File { path: format!("/etc/apt/sources.list.d/vsgpu-{}.list", of.name), contents }
    }
    fn repositories(&self) -> (&'static str, &'static str) {
        ("/etc/apt/sources.list.d", ".list")
    }
}
