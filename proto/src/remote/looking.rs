//! A machine over ssh that is only looked at: facts are read, and whatever would change it is refused here, whoever asks.

use super::Remote;
use crate::shell::Shell;
use std::time::Duration;
use vsgpu_core::{Command, Holder, Output, System, Trouble};

/// A visitor who touches nothing.
pub struct Looking(Remote);

impl Looking {
    /// Reaches the machine.
    ///
    /// # Errors
    /// A sentence, where it is not reached.
    pub fn at(remote: Remote) -> Result<Self, String> {
        remote.is_folder("/").map_err(|e| e.to_string())?;
        Ok(Self(remote))
    }
}

fn refused<T>(path: &str) -> Result<T, Trouble> {
    Err(Trouble::Other { path: path.into(), why: "nothing is changed by looking".into() })
}

impl System for Looking {
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
    fn write(&self, path: &str, _: &[u8], _: u32) -> Result<(), Trouble> {
        refused(path)
    }
    fn copy(&self, _: &str, to: &str, _: u32) -> Result<(), Trouble> {
        refused(to)
    }
    fn remove(&self, path: &str) -> Result<(), Trouble> {
        refused(path)
    }
    /// Nobody who only looks waits for a reboot.
    fn boot_id(&self) -> Result<String, Trouble> {
        refused("the boot")
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
