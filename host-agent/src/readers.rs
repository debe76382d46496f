//! Readers of single outputs, for the tests that go through real captures.

pub use crate::facts::packages::{Vib, vibs};
pub use crate::facts::pci_gpus::{PciGpu, pci_devices};
pub use crate::host::graphics_type::{GraphicsDevice, devices, host};
pub use crate::host::maintenance_mode::enabled;
pub use crate::host::passthrough::enabled as passthru_enabled;
pub use crate::host::vgpu_manager::modules_loaded;
