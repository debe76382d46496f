//! The list of what is known about a host. A new requirement is a new file here, its `mod` and one line in
//! `all`.

pub mod acceptance_level;
pub mod assignment_policy;
pub mod drs_options;
pub mod ecc;
pub mod evacuable;
pub mod gpu_management_daemon;
pub mod graphics_type;
pub mod image;
pub mod maintenance_mode;
pub mod mig;
pub mod passthrough;
pub mod vgpu_manager;
pub mod vgpu_mode;
pub mod vgpu_scheduler;

pub use drs_options::DrsOptions;
pub use ecc::Ecc;
pub use evacuable::{Evacuable, EvacuableSpec};
pub use graphics_type::{GraphicsType, HostGraphics};
pub use image::Image;
pub use maintenance_mode::{Leave, MaintenanceMode, MaintenanceModeFact, MaintenanceModeSpec};
pub use mig::Mig;
pub use passthrough::{HostPassthrough, Passthrough, PassthroughSpec};
pub use vgpu_manager::{VgpuManager, VgpuManagerFact};
pub use vgpu_mode::VgpuMode;

use crate::facts;
use vsgpu_core::Scope::Host;
use vsgpu_core::{Catalogue, Entry, FactEntry, Requirement as _};

/// Name of the requirement with which the planner enters and leaves maintenance mode. Not a key of the fleet
/// file.
pub const MAINTENANCE_MODE: &str = MaintenanceMode::NAME;
/// Name of the requirement that brings a component into a host's image.
pub const IMAGE: &str = Image::NAME;
/// Name of the requirement that asks who can leave a host.
pub const EVACUABLE: &str = Evacuable::NAME;

/// All requirements and facts of a host, in the order in which people think of them.
pub fn all() -> Catalogue {
    Catalogue {
        entries: vec![
            Entry::of::<maintenance_mode::MaintenanceMode>(Host),
            Entry::of::<evacuable::Evacuable>(Host),
            Entry::of::<image::Image>(Host),
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
            Entry::of::<drs_options::DrsOptions>(Host),
        ],
        extra_facts: vec![
            FactEntry::of::<facts::EsxVersion>(Host),
            FactEntry::of::<facts::HostSummary>(Host),
            FactEntry::of::<facts::Gpus>(Host),
            FactEntry::of::<facts::PciGpus>(Host),
            FactEntry::of::<facts::Vgpus>(Host),
            FactEntry::of::<facts::GpuUsers>(Host),
            FactEntry::of::<facts::VgpuTypes>(Host),
            FactEntry::of::<facts::VirtualMachines>(Host),
            FactEntry::of::<facts::Xids>(Host),
            FactEntry::of::<facts::HostLog>(Host),
        ],
    }
}
