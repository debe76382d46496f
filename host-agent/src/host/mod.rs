//! The list of what is known about a host. A new requirement is a new file here and one line in `all`.

pub(crate) mod ask;
mod assignment_policy;
mod ecc;
mod esx;
mod gpu_management_daemon;
mod graphics_type;
mod maintenance_mode;
pub(crate) mod metrics;
mod packages;
mod vgpu_manager;
mod virtual_machines;

pub use maintenance_mode::MaintenanceMode;
pub use virtual_machines::{VirtualMachine, VirtualMachines};

/// Readers of single outputs, for the tests that walk real captures.
pub mod readers {
    pub use super::esx::{PciGpu, pci_devices};
    pub use super::graphics_type::{GraphicsDevice, devices, host};
    pub use super::maintenance_mode::enabled;
    pub use super::packages::{Vib, vibs};
    pub use super::vgpu_manager::modules_loaded;
}

use vsgpu_core::Scope::Host;
use vsgpu_core::{Catalogue, Entry, FactEntry, Requirement as _};

/// Name of the requirement with which the planner enters and leaves maintenance mode. Not a key of the fleet file.
pub const MAINTENANCE_MODE: &str = MaintenanceMode::NAME;

/// All requirements and facts of a host, in the order in which people think of them.
pub fn all() -> Catalogue {
    Catalogue {
        entries: vec![
            Entry::of::<maintenance_mode::MaintenanceMode>(Host),
            Entry::of::<vgpu_manager::VgpuManager>(Host),
            Entry::of::<gpu_management_daemon::GpuManagementDaemon>(Host),
            Entry::of::<graphics_type::GraphicsType>(Host),
            Entry::of::<assignment_policy::AssignmentPolicy>(Host),
            Entry::of::<ecc::Ecc>(Host),
        ],
        extra_facts: vec![
            FactEntry::of::<esx::EsxVersion>(Host),
            FactEntry::of::<esx::HostSummary>(Host),
            FactEntry::of::<esx::Gpus>(Host),
            FactEntry::of::<esx::PciGpus>(Host),
            FactEntry::of::<esx::Vgpus>(Host),
            FactEntry::of::<virtual_machines::VirtualMachines>(Host),
        ],
    }
}
