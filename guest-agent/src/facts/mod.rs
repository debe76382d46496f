//! What is read of a guest. A fact that only one requirement reads stands in that requirement's own file.

pub mod bandwidth;
pub mod clock;
pub mod dkms;
pub(crate) mod driver_module;
pub mod engine_bundles;
pub mod gpus;
pub mod gridd_log;
pub mod health;
pub mod host_view;
pub(crate) mod kernel_log;
pub mod log_findings;
pub mod machine;
pub mod os;
pub mod pci_gpus;
pub(crate) mod proof_record;
pub(crate) mod unit;

pub use bandwidth::{Baseline, Figures, Percent};
pub use clock::Clock;
pub use gpus::Gpus;
pub use health::Health;
pub use log_findings::GuestLog;
pub use machine::MachineFact;
pub use os::Os;
pub use pci_gpus::{PciGpu, PciGpus};
