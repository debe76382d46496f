//! The list of what is known about a guest. A new requirement is a new file here and one line in `all`.

pub mod build_tools;
pub mod container_proof;
pub mod container_toolkit;
pub mod cuda_proof;
pub mod cuda_toolkit;
pub mod display_manager;
pub mod driver;
pub mod driver_held;
pub mod driver_package;
pub mod gpu_on_bus;
pub mod gpu_server;
pub mod kernel_updates;
pub mod license;
pub mod network_gpu;
pub mod nouveau;
pub mod package_source;
pub mod persistence;

pub use cuda_proof::{CudaProof, CudaProofFact, CudaProofSpec};
pub use cuda_toolkit::{CudaToolkit, ToolkitSpec};
pub use driver::{Driver, DriverFact, DriverSpec, KernelModule};
pub use gpu_server::{EngineFile, GpuServer, GpuServerFact, ServerSpec};
pub use license::License;
pub use network_gpu::{ClientEngine, ClientSpec, NetworkGpu, NetworkGpuFact};

use crate::facts;
use vsgpu_core::Scope::Guest;
use vsgpu_core::{Catalogue, Entry, FactEntry};

/// All requirements and facts of a guest, in the order of the journey.
pub fn all() -> Catalogue {
    Catalogue {
        entries: vec![
            Entry::of::<package_source::PackageSource>(Guest),
            Entry::of::<build_tools::BuildTools>(Guest),
            Entry::of::<nouveau::NouveauBlocked>(Guest),
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
            Entry::of::<gpu_server::GpuServer>(Guest),
            Entry::of::<network_gpu::NetworkGpu>(Guest),
        ],
        extra_facts: vec![
            FactEntry::of::<facts::Os>(Guest),
            FactEntry::of::<facts::MachineFact>(Guest),
            FactEntry::of::<facts::Clock>(Guest),
            FactEntry::of::<facts::PciGpus>(Guest),
            FactEntry::of::<facts::Gpus>(Guest),
            FactEntry::of::<facts::Health>(Guest),
            FactEntry::of::<facts::GuestLog>(Guest),
        ],
    }
}
