//! Distributions, one file per family. What differs between them stands behind one interface (`interface`).

mod debian;
mod interface;
mod redhat;
mod suse;
mod ubuntu;

pub(crate) use interface::{Distro, File, OS_RELEASE, Repository, os_release};

use vsgpu_core::{Observation, Probe};

/// From `ID` and `ID_LIKE` of os-release.
pub(crate) fn of(os_release: &str) -> Option<&'static dyn Distro> {
    let value = |key: &str| {
        os_release.lines().find_map(|l| l.strip_prefix(key)).unwrap_or_default().trim_matches('"').to_string()
    };
    let ids = format!("{} {}", value("ID="), value("ID_LIKE="));
    ids.split_whitespace().find_map(|id| -> Option<&'static dyn Distro> {
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
pub(crate) fn seen(evidence: &Observation) -> Option<&'static dyn Distro> {
    let file = Probe::Read(OS_RELEASE.into());
    evidence.has(&file).then(|| evidence.text(&file).ok().flatten().and_then(of)).flatten()
}

/// What to say where the distribution is none of these.
pub(crate) const UNKNOWN: &str = "Debian, Ubuntu, RHEL (Rocky, Alma, Oracle, CentOS) and SLES are known";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::distro::interface::REPLACING;

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
                &[
                    "nvidia-driver-535-server",
                    "nvidia-dkms-550",
                    "linux-modules-nvidia-535-generic",
                    "nvidia-headless-535",
                ],
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
