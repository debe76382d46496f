//! What a file of NVIDIA's is for: by what it holds where that is known, else by its name (facts: nvidia 1,
//! 6). A name that tells nothing is judged by nobody.
//!
//! Deliberately absent: versions. Which of them go together is the compatibility check's matter.

use crate::artifact::Artifact;
use crate::cuda_samples;

/// What a package is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The vGPU manager of an ESXi host.
    Manager,
    /// The GPU management daemon, which NVIDIA ships beside it.
    Daemon,
    /// A Linux driver for x86.
    Driver,
    /// A Linux driver for another processor.
    OtherProcessor,
    /// The vGPU manager of a KVM host.
    KvmManager,
    /// A package that only tells a guest where a repository is.
    Repository,
    /// The CUDA toolkit's installer.
    CudaToolkit,
    /// Source of NVIDIA's CUDA samples.
    CudaSamples,
    /// NVIDIA's whole download, with the packages in it.
    Download,
    /// For Windows.
    Windows,
}

impl Role {
    /// In words, with an article.
    pub fn shown(self) -> &'static str {
        match self {
            Self::Manager => "the vGPU manager of an ESXi host",
            Self::Daemon => "the GPU management daemon of an ESXi host",
            Self::Driver => "a guest driver for Linux",
            Self::OtherProcessor => "for another processor (aarch64)",
            Self::KvmManager => "the vGPU manager of a KVM host",
            Self::Repository => "a package that only brings a repository, no driver",
            Self::CudaToolkit => "the installer of the CUDA toolkit",
            Self::CudaSamples => "the source of NVIDIA's CUDA samples",
            Self::Download => "NVIDIA's whole download, with host and guest packages in it",
            Self::Windows => "for Windows",
        }
    }

    /// The role of a file; `None` where neither contents nor name tell.
    pub fn of(artifact: &Artifact) -> Option<Self> {
        let held =
            artifact.holds.iter().map(|held| held.name.to_lowercase()).find_map(|name| by_content(&name));
        held.or_else(|| by_name(&artifact.file_name().to_lowercase()))
    }
}

/// The name of a VIB, or of a Debian or RPM package.
fn by_content(name: &str) -> Option<Role> {
    let has = |part: &str| name.contains(part);
    if has("gpumgmtdaemon") || has("gpu-mgmt-daemon") {
        return Some(Role::Daemon);
    }
    if has("vmware_esxi") || has("vmware-esx") || name.starts_with("nvd-vgpu") || name.starts_with("nvd-aie")
    {
        return Some(Role::Manager);
    }
    if name == cuda_samples::PACKAGE {
        return Some(Role::CudaSamples);
    }
    if has("local-repo") || name.starts_with("cuda-repo") || name == "cuda-keyring" {
        return Some(Role::Repository);
    }
    None
}

fn by_name(file: &str) -> Option<Role> {
    let has = |part: &str| file.contains(part);
    let ends = |end: &str| file.ends_with(end);
    if ends(".exe") || ends(".msi") {
        return Some(Role::Windows);
    }
    if has("gpu-mgmt-daemon") || has("gpumgmtdaemon") {
        return Some(Role::Daemon);
    }
    if file.starts_with(cuda_samples::PACKAGE) && !ends(".deb") && !ends(".rpm") {
        return Some(Role::CudaSamples);
    }
    if has("vgpu-kvm") || file.starts_with("nvidia-vgpu-ubuntu") || file.starts_with("nvidia-vgpu-rhel") {
        return Some(Role::KvmManager);
    }
    if ends(".deb") || ends(".rpm") || ends(".run") {
        if has("aarch64") || has("arm64") || has("sbsa") {
            return Some(Role::OtherProcessor);
        }
        if let Some(role) = by_content(file.split(['_', '.']).next().unwrap_or(file)) {
            return Some(role);
        }
        if file.starts_with("cuda_") && ends(".run") {
            return Some(Role::CudaToolkit);
        }
        return (file.starts_with("nvidia-linux-")).then_some(Role::Driver);
    }
    if ends(".zip") && (file.starts_with("nvidia-grid-") || file.starts_with("nvidia-vgpu-vsphere")) {
        return Some(Role::Download);
    }
    let host =
        ["nvd-vgpu", "nvd-aie", "nvidia-aie", "nvidia-vmware", "nvidia-vgpu-vmware", "nvidia_bootbank"];
    ((ends(".zip") || ends(".vib")) && host.iter().any(|begin| file.starts_with(begin)))
        .then_some(Role::Manager)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifact::PackageContent;

    fn holding(file: &str, name: &str) -> Option<Role> {
        let held = PackageContent { name: name.into(), version: "1".into(), acceptance: None };
        Role::of(&Artifact { holds: vec![held], ..Artifact::at(file) })
    }

    #[test]
    fn names_tell_what_a_file_is_for() {
        use Role::*;
        for (file, role) in [
            ("NVD-VGPU-800_580.126.08-1OEM.800.1.0.20613240_24999999.zip", Some(Manager)),
            ("NVD-AIE-800_550.90.05-1OEM.800.1.0.20613240_23959066.zip", Some(Manager)),
            ("NVD-VGPU_470.82-1OEM.702.0.0.17630552_18811411.zip", Some(Manager)),
            ("NVIDIA-VMware_ESXi_6.7_Host_Driver_390.42-1OEM.670.0.0.8169922.vib", Some(Manager)),
            ("NVIDIA-vGPU-VMware_ESXi_6.5_Host_Driver_390.113-1OEM.650.0.0.4598673.zip", Some(Manager)),
            ("nvd-gpu-mgmt-daemon_580.126.08-0.0.0000_24999999.zip", Some(Daemon)),
            ("NVIDIA-Linux-x86_64-580.126.09-grid.run", Some(Driver)),
            ("NVIDIA-Linux-x86_64-535.183.01.run", Some(Driver)),
            ("NVIDIA-Linux-aarch64-535.183.01.run", Some(OtherProcessor)),
            ("nvidia-linux-grid-535_535.183.01_arm64.deb", Some(OtherProcessor)),
            ("NVIDIA-Linux-x86_64-580.126.08-vgpu-kvm.run", Some(KvmManager)),
            ("nvidia-vgpu-ubuntu-580_580.126.08_amd64.deb", Some(KvmManager)),
            ("nvidia-linux-grid-580_580.126.09_amd64.deb", Some(Driver)),
            ("nvidia-driver-local-repo-ubuntu2404-580.105.08_1.0-1_amd64.deb", Some(Repository)),
            ("cuda-repo-rhel9-12-4-local-12.4.0_550.54.14-1.x86_64.rpm", Some(Repository)),
            ("cuda-keyring_1.1-1_all.deb", Some(Repository)),
            ("cuda_12.2.2_535.104.05_linux.run", Some(CudaToolkit)),
            ("NVIDIA-GRID-vSphere-8.0-580.126.08-580.126.09-582.16.zip", Some(Download)),
            ("582.16_grid_win10_win11_server2022_server2025_dch_64bit_international.exe", Some(Windows)),
            ("cuda-samples-12.5.zip", Some(CudaSamples)),
            ("driver.run", None),
            ("kmod-nvidia.rpm", None),
        ] {
            assert_eq!(Role::of(&Artifact::at(file)), role, "{file}");
        }
    }

    /// A file that was renamed is what it holds.
    #[test]
    fn contents_go_before_the_name() {
        assert_eq!(holding("NVD-VGPU-800_1.zip", "nvdgpumgmtdaemon"), Some(Role::Daemon));
        assert_eq!(holding("host.zip", "NVD-VMware_ESXi_8.0.0_Driver"), Some(Role::Manager));
        assert_eq!(
            holding("driver.deb", "nvidia-driver-local-repo-ubuntu2404-580.105.08"),
            Some(Role::Repository)
        );
    }
}
