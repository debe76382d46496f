//! The list of what is known about a guest. A new requirement is a new file here and one line in `all`.

mod bandwidth;
mod build_tools;
mod clock;
mod container_proof;
mod container_toolkit;
mod cuda_proof;
mod cuda_toolkit;
mod display_manager;
mod dkms;
mod driver;
mod driver_held;
mod driver_package;
mod family;
mod gpu_on_bus;
mod health;
mod host_view;
mod kernel_log;
mod kernel_updates;
mod license;
pub(crate) mod metrics;
mod nouveau_blocked;
mod package_source;
mod packages;
mod persistence;
mod proof_record;
mod system;

pub use bandwidth::{Baseline, Figures};
pub use clock::Clock;
pub use cuda_proof::CudaProofFact;
pub use cuda_toolkit::ToolkitSpec;
pub use driver::{DriverSpec, KernelModule};
pub use health::Health;
pub use license::{gridd_outcome, gridd_values};
pub use system::{PciGpu, PciGpus};

use vsgpu_core::Scope::Guest;
use vsgpu_core::{Catalogue, Entry, FactEntry};

/// Readers of single outputs, for the tests that walk real captures.
pub mod readers {
    pub use super::dkms::read as dkms_status;
    pub use super::driver::{InstallerLog, installer_log};
    pub use super::health::loaded_version;
    pub use super::host_view::host_view;
    pub use super::license::{GriddOutcome, gridd_outcome, gridd_values};
}

/// All requirements and facts of a guest, in the order of the journey.
pub fn all() -> Catalogue {
    Catalogue {
        entries: vec![
            Entry::of::<package_source::PackageSource>(Guest),
            Entry::of::<build_tools::BuildTools>(Guest),
            Entry::of::<nouveau_blocked::NouveauBlocked>(Guest),
            Entry::of::<display_manager::DisplayManager>(Guest),
            Entry::of::<gpu_on_bus::GpuOnBus>(Guest),
            Entry::of::<driver_package::DriverPackage>(Guest),
            Entry::of::<driver_held::DriverHeld>(Guest),
            Entry::of::<driver::Driver>(Guest),
            Entry::of::<kernel_updates::KernelUpdates>(Guest),
            Entry::of::<persistence::Persistence>(Guest),
            Entry::of::<license::License>(Guest),
            Entry::of::<cuda_toolkit::CudaToolkit>(Guest),
            Entry::of::<cuda_proof::CudaProof>(Guest),
            Entry::of::<container_toolkit::ContainerToolkit>(Guest),
            Entry::of::<container_proof::ContainerProof>(Guest),
        ],
        extra_facts: vec![
            FactEntry::of::<system::Os>(Guest),
            FactEntry::of::<clock::Clock>(Guest),
            FactEntry::of::<system::PciGpus>(Guest),
            FactEntry::of::<system::Gpus>(Guest),
            FactEntry::of::<health::Health>(Guest),
        ],
    }
}
