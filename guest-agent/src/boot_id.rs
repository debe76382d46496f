//! A Linux guest: its boot id is the kernel's own.

use std::sync::Arc;
use vsgpu_core::{BootIdentity, IoError, System};

/// The kernel's boot id.
pub struct Kernel;

impl BootIdentity for Kernel {
    fn id(&self, guest: &Arc<dyn System>) -> Result<String, IoError> {
        match guest.read("/proc/sys/kernel/random/boot_id", 256) {
            Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).trim().into()),
            // A copy of a machine has no kernel: it is always in the same boot.
            Err(IoError::NotFound(_)) if !guest.is_real() => Ok("no-kernel".into()),
            Err(why) => Err(why),
        }
    }
}
