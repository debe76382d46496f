//! The list of what is known about a guest. A new requirement is a new file here and one line in `all`.

pub mod bandwidth;
pub mod build_tools;
pub mod clock;
pub mod container_proof;
pub mod container_toolkit;
pub mod cuda_proof;
pub mod cuda_toolkit;
pub mod display_manager;
pub mod dkms;
pub mod driver;
pub mod driver_held;
pub mod driver_package;
pub mod family;
pub mod gpu_on_bus;
pub mod health;
pub mod host_view;
pub mod kernel_log;
pub mod kernel_updates;
pub mod license;
pub(crate) mod metrics;
pub mod nouveau_blocked;
pub mod package_source;
pub mod packages;
pub mod persistence;
pub mod proof_record;
pub mod system;

pub use bandwidth::{Baseline, Figures};
pub use clock::Clock;
pub use cuda_proof::{CudaProof, CudaProofFact};
pub use cuda_toolkit::{CudaToolkit, ToolkitSpec};
pub use driver::{Driver, DriverFact, DriverSpec, KernelModule};
pub use health::Health;
pub use license::{License, gridd_outcome, gridd_values};
pub use system::{Gpus, Os, PciGpu, PciGpus};

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
