//! The list of what is known about a guest. A new requirement is a new file here and one line in `all`.

mod build_tools;
mod cuda_proof;
mod cuda_toolkit;
mod display_manager;
mod driver;
mod family;
mod gpu_on_bus;
mod license;
pub(crate) mod metrics;
mod nouveau_blocked;
mod system;

pub use cuda_proof::CudaProofFact;
pub use license::{gridd_outcome, gridd_values};

use vsgpu_core::Scope::Guest;
use vsgpu_core::{Catalogue, Entry, FactEntry};

/// Readers of single outputs, for the tests that walk real captures.
pub mod readers {
    pub use super::driver::{InstallerLog, installer_log};
    pub use super::license::{GriddOutcome, gridd_outcome, gridd_values};
}

/// All requirements and facts of a guest, in the order of the journey.
pub fn all() -> Catalogue {
    Catalogue {
        entries: vec![
            Entry::of::<build_tools::BuildTools>(Guest),
            Entry::of::<nouveau_blocked::NouveauBlocked>(Guest),
            Entry::of::<display_manager::DisplayManager>(Guest),
            Entry::of::<gpu_on_bus::GpuOnBus>(Guest),
            Entry::of::<driver::Driver>(Guest),
            Entry::of::<license::License>(Guest),
            Entry::of::<cuda_toolkit::CudaToolkit>(Guest),
            Entry::of::<cuda_proof::CudaProof>(Guest),
        ],
        extra_facts: vec![
            FactEntry::of::<system::Os>(Guest),
            FactEntry::of::<system::PciGpus>(Guest),
            FactEntry::of::<system::Gpus>(Guest),
        ],
    }
}
