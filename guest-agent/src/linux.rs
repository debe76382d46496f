//! The shell of a Linux guest. Files and processes are `Shell`; the boot id is the kernel's own.

use std::sync::Arc;
use std::time::Duration;
use vsgpu_core::{Command, Holder, Output, System, Trouble};
use vsgpu_proto::shell::Shell;

/// The shell around files and processes.
pub fn system(shell: Arc<dyn Shell>) -> Arc<dyn System> {
    Arc::new(Linux(shell))
}

struct Linux(Arc<dyn Shell>);

impl System for Linux {
    fn run(&self, command: &Command) -> Output {
        self.0.run(command)
    }
    fn read(&self, path: &str, max: usize) -> Result<Vec<u8>, Trouble> {
        self.0.read(path, max)
    }
    fn tail(&self, path: &str, max: usize) -> Result<Vec<u8>, Trouble> {
        self.0.tail(path, max)
    }
    fn head(&self, path: &str, max: usize) -> Result<Vec<u8>, Trouble> {
        self.0.head(path, max)
    }
    fn holders(&self, prefix: &str) -> Result<Vec<Holder>, Trouble> {
        self.0.holders(prefix)
    }
    fn hash(&self, path: &str) -> Result<String, Trouble> {
        self.0.hash(path)
    }
    fn list(&self, path: &str) -> Result<Vec<String>, Trouble> {
        self.0.list(path)
    }
    fn write(&self, path: &str, contents: &[u8], mode: u32) -> Result<(), Trouble> {
        self.0.write(path, contents, mode)
    }
    fn copy(&self, from: &str, to: &str, mode: u32) -> Result<(), Trouble> {
        self.0.copy(from, to, mode)
    }
    fn remove(&self, path: &str) -> Result<(), Trouble> {
        self.0.remove(path)
    }
    fn boot_id(&self) -> Result<String, Trouble> {
        let path = "/proc/sys/kernel/random/boot_id";
        match self.0.read(path, 256) {
            Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).trim().into()),
            // A copy of a machine has no kernel: it is always in the same boot.
            Err(Trouble::NotFound(_)) if !self.0.is_real() => Ok("no-kernel".into()),
            Err(why) => Err(why),
        }
    }
    fn kernel_release(&self) -> String {
        self.0.kernel_release()
    }
    fn now(&self) -> u64 {
        self.0.now()
    }
    fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
    fn sleep(&self, time: Duration) {
        std::thread::sleep(time);
    }
}
