//! The list of what is known about one VM as its host sees it. A new requirement is a new file here and one
//! line in `all`.

pub mod clone_of;
pub mod cpu_reserved;
pub mod firmware;
pub mod memory_reserved;
pub mod mmio;
pub mod passthrough;
pub mod power;
pub mod vgpu;

pub use clone_of::{CloneOf, CloneSpec};
pub use memory_reserved::MemoryReserved;
pub use mmio::{LARGE_VGPU_MIB, Mmio, MmioSpec, large_vgpus, window_gib};
pub use passthrough::VmPassthrough;
pub use power::{DEFAULT_GRACE_SECS, Power, PowerSpec, PowerState};
pub use vgpu::{Profile, Vgpu, VgpuWish};

use crate::facts;
use vsgpu_core::Scope::Vm;
use vsgpu_core::{Catalogue, Entry, FactEntry, Requirement as _};

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
            Entry::of::<cpu_reserved::CpuReserved>(Vm),
            Entry::of::<vgpu::Vgpu>(Vm),
            Entry::of::<passthrough::VmPassthrough>(Vm),
            Entry::of::<mmio::Mmio>(Vm),
        ],
        extra_facts: vec![FactEntry::of::<facts::VmLog>(Vm)],
    }
}
