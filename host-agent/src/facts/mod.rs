//! What is read of a host and its VMs. A fact that only one requirement reads stands in that requirement's
//! own file.

pub mod acceptance;
pub mod esx_version;
pub mod evacuation;
pub mod gpu_users;
pub mod gpus;
pub mod host_image;
pub mod host_summary;
pub mod log_findings;
pub mod packages;
pub mod pci_gpus;
pub mod vcenter;
pub mod vgpu_types;
pub mod vgpus;
pub mod virtual_machines;
pub mod vm_config;
pub mod vm_devices;
pub mod vm_power;
pub mod xids;

pub use esx_version::EsxVersion;
pub use evacuation::Evacuation;
pub use gpu_users::{GpuUser, GpuUsers};
pub use gpus::Gpus;
pub use host_summary::HostSummary;
pub use log_findings::{HostLog, VmLog};
pub use packages::PackageWish;
pub use pci_gpus::{PciGpu, PciGpus};
pub use vcenter::Vcenter;
pub use vgpu_types::VgpuTypes;
pub use vgpus::Vgpus;
pub use virtual_machines::{VirtualMachine, VirtualMachines};
pub use vm_config::VmConfig;
pub use vm_devices::VmDevices;
pub use vm_power::VmPower;
pub use xids::Xids;

/// What only NVIDIA's driver tells, and changes, where vCenter answers for the host.
pub(crate) fn not_by_api(key: &str) -> vsgpu_core::Verdict {
    vsgpu_core::Verdict::blocked(
        format!("vCenter can neither read nor set `{key}`: only nvidia-smi on the host does"),
        format!("serve this host over ssh or by its own agent for `{key}`, or take the key out"),
    )
}

/// What a GPU's switch is, and what it becomes with the next reboot.
pub(crate) fn now_and_then(current: Option<bool>, pending: Option<bool>) -> String {
    let word = |on: Option<bool>| match on {
        Some(true) => "on",
        Some(false) => "off",
        None => "not offered",
    };
    match pending {
        next if next.is_some() && next != current => {
            format!("{}, {} after a reboot", word(current), word(next))
        }
        _ => word(current).into(),
    }
}
