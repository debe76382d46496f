//! The list of what is known about one VM as its host sees it. A new requirement is a new file here and one line in `all`.

mod config;
mod firmware;
mod memory_reserved;
mod power;
mod vgpu;

pub use power::{DEFAULT_GRACE_SECS, PowerSpec, PowerState};

use vsgpu_core::Scope::Vm;
use vsgpu_core::{Catalogue, Entry, Requirement as _};

/// Name of the requirement with which the planner stops and starts VMs. Not a key of the fleet file.
pub const POWER: &str = power::Power::NAME;

/// All requirements of a VM.
pub fn all() -> Catalogue {
    Catalogue {
        entries: vec![
            Entry::of::<power::Power>(Vm),
            Entry::of::<firmware::Firmware>(Vm),
            Entry::of::<memory_reserved::MemoryReserved>(Vm),
            Entry::of::<vgpu::Vgpu>(Vm),
        ],
        extra_facts: vec![],
    }
}
