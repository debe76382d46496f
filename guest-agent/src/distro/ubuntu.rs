//! Ubuntu: Debian's tools, but drivers in packages of other names, and prebuilt modules for each kernel
//! flavour.

use crate::distro::debian::Debian;
use crate::distro::interface::{Distro, File, Repository};
use vsgpu_core::{Command, Effect};

pub(super) struct Ubuntu;

impl Distro for Ubuntu {
    fn name(&self) -> &'static str {
        "Ubuntu"
    }
    fn refresh(&self) -> Vec<Command> {
        Debian.refresh()
    }
    fn install(&self, packages: &[String]) -> Command {
        Debian.install(packages)
    }
    fn remove(&self, packages: &[String]) -> Command {
        Debian.remove(packages)
    }
    fn headers(&self, kernel: &str) -> String {
        Debian.headers(kernel)
    }
    fn build_tools(&self) -> &'static [&'static str] {
        Debian.build_tools()
    }
    fn cpp_compiler(&self) -> &'static str {
        "g++"
    }
    fn rebuild_initramfs(&self) -> Command {
        Debian.rebuild_initramfs()
    }
    fn initramfs(&self, kernel: &str) -> String {
        Debian.initramfs(kernel)
    }
    fn initramfs_written_to(&self) -> &'static str {
        Debian.initramfs_written_to()
    }
    fn list_packages(&self) -> Command {
        Debian.list_packages()
    }
    fn is_driver(&self, package: &str) -> bool {
        let begins = [
            "nvidia-dkms-",
            "nvidia-headless-",
            "linux-modules-nvidia-",
            "linux-objects-nvidia-",
            "libnvidia-compute-",
        ];
        Debian.is_driver(package) || begins.iter().any(|b| package.starts_with(b))
    }
    fn pins(&self, now: &str) -> Option<Effect> {
        Debian.pins(now)
    }
    fn pins_file(&self) -> &'static str {
        Debian.pins_file()
    }
    fn proxy(&self, url: &str) -> Effect {
        Debian.proxy(url)
    }
    fn proxy_in(&self, now: &str) -> Option<String> {
        Debian.proxy_in(now)
    }
    fn proxy_file(&self) -> &'static str {
        Debian.proxy_file()
    }
    fn repository(&self, of: Repository) -> File {
        Debian.repository(of)
    }
    fn repositories(&self) -> (&'static str, &'static str) {
        Debian.repositories()
    }
}
