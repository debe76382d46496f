//! A Linux guest: its boot id is the kernel's own.

use std::sync::Arc;
use vsgpu_core::{System, Trouble};
use vsgpu_proto::machine::{Boots, Machine};
use vsgpu_proto::shell::Shell;

/// A guest, by its shell.
pub fn system(shell: Arc<dyn Shell>) -> Arc<dyn System> {
    Arc::new(Machine::new(shell, Kernel))
}

struct Kernel;

impl Boots for Kernel {
    fn id(&self, shell: &Arc<dyn Shell>) -> Result<String, Trouble> {
        match shell.read("/proc/sys/kernel/random/boot_id", 256) {
            Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).trim().into()),
            // A copy of a machine has no kernel: it is always in the same boot.
            Err(Trouble::NotFound(_)) if !shell.is_real() => Ok("no-kernel".into()),
            Err(why) => Err(why),
        }
    }
}
