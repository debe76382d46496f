//! The list of what is known about one VM as its host sees it. A new requirement is a new file here and one line in `all`.

mod clone_of;
mod config;
mod diagnosis;
mod firmware;
mod memory_reserved;
mod mmio;
mod passthrough;
mod power;
mod slots;
mod vgpu;

pub use config::VmConfig;
pub use mmio::{MmioSpec, window_gib};
pub use passthrough::{VmDevices, VmGpu, settle_choices};
pub use power::{DEFAULT_GRACE_SECS, PowerSpec, PowerState};
pub use slots::{Slot, slots};
pub use vgpu::{Profile, VgpuWish};

use vsgpu_core::Scope::Vm;
use vsgpu_core::{Catalogue, Entry, Requirement as _};

/// Name of the requirement with which the planner stops and starts VMs. Not a key of the fleet file.
pub const POWER: &str = power::Power::NAME;

/// All requirements of a VM.
pub fn all() -> Catalogue {
    Catalogue {
        entries: vec![
            Entry::of::<power::Power>(Vm),
            Entry::of::<clone_of::CloneOf>(Vm),
            Entry::of::<firmware::Firmware>(Vm),
            Entry::of::<memory_reserved::MemoryReserved>(Vm),
            Entry::of::<vgpu::Vgpu>(Vm),
            Entry::of::<passthrough::VmPassthrough>(Vm),
            Entry::of::<mmio::Mmio>(Vm),
        ],
        extra_facts: vec![],
    }
}
