//! What differs between distributions: package tool, headers, initramfs tool (data/guest_distro_prep.tsv).

use vsgpu_core::{Command, Effect};

/// A family of distributions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    Debian,
    RedHat,
    Suse,
}

/// Seconds for a package tool behind a slow mirror.
const PACKAGES_SECS: u32 = 900;

impl Family {
    /// From `ID` and `ID_LIKE` of os-release.
    pub fn of(os_release: &str) -> Option<Self> {
        let value = |key: &str| os_release.lines().find_map(|l| l.strip_prefix(key)).unwrap_or_default().trim_matches('"').to_string();
        let ids = format!("{} {}", value("ID="), value("ID_LIKE="));
        ids.split_whitespace().find_map(|id| match id {
            "debian" | "ubuntu" => Some(Self::Debian),
            "rhel" | "centos" | "rocky" | "almalinux" | "fedora" | "ol" => Some(Self::RedHat),
            "sles" | "suse" | "opensuse" | "opensuse-leap" => Some(Self::Suse),
            _ => None,
        })
    }

    /// Installs compiler, make and the headers of this kernel; DKMS where the distribution itself carries it.
    pub fn install_build_tools(self, kernel: &str) -> Vec<Effect> {
        let run = |program: &str, args: &[&str]| Effect::run(Command::new(program, args.iter().copied()).within(PACKAGES_SECS));
        match self {
            Self::Debian => {
                let quiet = |args: &[&str]| {
                    Effect::run(
                        Command::new("apt-get", args.iter().copied()).within(PACKAGES_SECS).env("DEBIAN_FRONTEND", "noninteractive"),
                    )
                };
                let headers = format!("linux-headers-{kernel}");
                vec![quiet(&["update"]), quiet(&["install", "-y", "--no-install-recommends", "gcc", "make", "libc6-dev", "dkms", &headers])]
            }
            Self::RedHat => vec![run("dnf", &["install", "-y", "gcc", "make", &format!("kernel-devel-{kernel}")])],
            Self::Suse => vec![run(
                "zypper",
                &["--non-interactive", "install", "gcc", "make", &format!("kernel-default-devel={}", kernel.trim_end_matches("-default"))],
            )],
        }
    }

    /// Rebuilds the initramfs of the running kernel.
    pub fn rebuild_initramfs(self) -> Effect {
        let (program, args): (&str, &[&str]) = match self {
            Self::Debian => ("update-initramfs", &["-u"]),
            Self::RedHat | Self::Suse => ("dracut", &["--force"]),
        };
        Effect::run(Command::new(program, args.iter().copied()).within(600))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distributions_are_recognised_by_their_ids() {
        for (text, family) in [
            ("NAME=x\nID=debian\n", Some(Family::Debian)),
            ("ID=ubuntu\nID_LIKE=debian\n", Some(Family::Debian)),
            ("ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n", Some(Family::RedHat)),
            ("ID=\"sles\"\nID_LIKE=\"suse\"\n", Some(Family::Suse)),
            ("ID=alpine\n", None),
        ] {
            assert_eq!(Family::of(text), family, "{text}");
        }
    }
}
