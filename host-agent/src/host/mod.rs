//! The list of what is known about a host. A new requirement is a new file here, its `mod` and one line in `all`.

pub mod acceptance_level;
pub(crate) mod ask;
pub mod assignment_policy;
pub mod ecc;
pub(crate) mod esx;
pub mod gpu_management_daemon;
pub mod gpu_users;
pub mod graphics_type;
pub mod maintenance_mode;
pub(crate) mod metrics;
pub mod mig;
pub mod packages;
pub(crate) mod passthrough;
pub mod vgpu_manager;
pub mod vgpu_mode;
pub mod vgpu_scheduler;
pub mod vgpu_types;
pub mod virtual_machines;
pub mod xids;

pub use ecc::Ecc;
pub use esx::{EsxVersion, Gpus, PciGpu, PciGpus, Vgpus};
pub use gpu_users::{GpuUser, GpuUsers};
pub use graphics_type::{GraphicsType, HostGraphics};
pub use maintenance_mode::{MaintenanceMode, MaintenanceModeFact, MaintenanceModeSpec};
pub use mig::Mig;
pub use passthrough::{HostPassthrough, Passthrough, PassthroughSpec};
pub use vgpu_manager::{VgpuManager, VgpuManagerFact};
pub use vgpu_mode::VgpuMode;
pub use vgpu_types::VgpuTypes;
pub use virtual_machines::{VirtualMachine, VirtualMachines};

/// Readers of single outputs, for the tests that walk real captures.
pub mod readers {
    pub use super::esx::{PciGpu, pci_devices};
    pub use super::graphics_type::{GraphicsDevice, devices, host};
    pub use super::maintenance_mode::enabled;
    pub use super::packages::{Vib, vibs};
    pub use super::passthrough::enabled as passthru_enabled;
    pub use super::vgpu_manager::modules_loaded;
}

use vsgpu_core::Scope::Host;
use vsgpu_core::{Catalogue, Entry, FactEntry, Requirement as _};

/// Whether a release of ESXi such as `8.0.3` is at least another one.
pub fn esx_at_least(version: &str, least: &str) -> bool {
    esx::EsxVersion::at_least(version, least)
}

/// Name of the requirement with which the planner enters and leaves maintenance mode. Not a key of the fleet file.
pub const MAINTENANCE_MODE: &str = MaintenanceMode::NAME;

/// All requirements and facts of a host, in the order in which people think of them.
pub fn all() -> Catalogue {
    Catalogue {
        entries: vec![
            Entry::of::<maintenance_mode::MaintenanceMode>(Host),
            Entry::of::<acceptance_level::AcceptanceLevel>(Host),
            Entry::of::<vgpu_manager::VgpuManager>(Host),
            Entry::of::<gpu_management_daemon::GpuManagementDaemon>(Host),
            Entry::of::<passthrough::Passthrough>(Host),
            Entry::of::<graphics_type::GraphicsType>(Host),
            Entry::of::<assignment_policy::AssignmentPolicy>(Host),
            Entry::of::<ecc::Ecc>(Host),
            Entry::of::<mig::Mig>(Host),
            Entry::of::<vgpu_mode::VgpuMode>(Host),
            Entry::of::<vgpu_scheduler::VgpuScheduler>(Host),
        ],
        extra_facts: vec![
            FactEntry::of::<esx::EsxVersion>(Host),
            FactEntry::of::<esx::HostSummary>(Host),
            FactEntry::of::<esx::Gpus>(Host),
            FactEntry::of::<esx::PciGpus>(Host),
            FactEntry::of::<esx::Vgpus>(Host),
            FactEntry::of::<gpu_users::GpuUsers>(Host),
            FactEntry::of::<vgpu_types::VgpuTypes>(Host),
            FactEntry::of::<virtual_machines::VirtualMachines>(Host),
            FactEntry::of::<xids::Xids>(Host),
        ],
    }
}
