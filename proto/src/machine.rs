//! A machine as the pure code sees it: a shell, and what tells its boots apart. What an agent adds to a shell is only the latter.

use crate::shell::Shell;
use std::sync::Arc;
use std::time::Duration;
use vsgpu_core::{Command, Holder, Output, Staged, System, Trouble};

/// What tells the boots of one kind of machine apart.
pub trait Boots: Send + Sync {
    /// Differs after every reboot and only then.
    ///
    /// # Errors
    /// Where the machine does not say.
    fn id(&self, shell: &Arc<dyn Shell>) -> Result<String, Trouble>;
}

/// For who only looks: nobody waits for a reboot.
pub struct NoBoots;

impl Boots for NoBoots {
    fn id(&self, _: &Arc<dyn Shell>) -> Result<String, Trouble> {
        Err(Trouble::Other { path: "the boot".into(), why: "is not asked by looking".into() })
    }
}

/// A shell with its boots.
pub struct Machine<B> {
    shell: Arc<dyn Shell>,
    boots: B,
}

impl<B: Boots> Machine<B> {
    /// Both together.
    pub fn new(shell: Arc<dyn Shell>, boots: B) -> Self {
        Self { shell, boots }
    }
}

impl<B: Boots> System for Machine<B> {
    fn run(&self, command: &Command) -> Output {
        self.shell.run(command)
    }
    fn read(&self, path: &str, max: usize) -> Result<Vec<u8>, Trouble> {
        self.shell.read(path, max)
    }
    fn tail(&self, path: &str, max: usize) -> Result<Vec<u8>, Trouble> {
        self.shell.tail(path, max)
    }
    fn head(&self, path: &str, max: usize) -> Result<Vec<u8>, Trouble> {
        self.shell.head(path, max)
    }
    fn holders(&self, prefix: &str) -> Result<Vec<Holder>, Trouble> {
        self.shell.holders(prefix)
    }
    fn hash(&self, path: &str) -> Result<String, Trouble> {
        self.shell.hash(path)
    }
    fn list(&self, path: &str) -> Result<Vec<String>, Trouble> {
        self.shell.list(path)
    }
    fn write(&self, path: &str, contents: &[u8], mode: u32) -> Result<(), Trouble> {
        self.shell.write(path, contents, mode)
    }
    fn copy(&self, from: &str, to: &str, mode: u32) -> Result<(), Trouble> {
        self.shell.copy(from, to, mode)
    }
    fn remove(&self, path: &str) -> Result<(), Trouble> {
        self.shell.remove(path)
    }
    fn stage(&self, path: &str, sha256: &str) -> Result<Staged, Trouble> {
        self.shell.stage(path, sha256)
    }
    fn unstage(&self, path: &str, instead: &str) {
        self.shell.unstage(path, instead);
    }
    fn boot_id(&self) -> Result<String, Trouble> {
        self.boots.id(&self.shell)
    }
    fn kernel_release(&self) -> String {
        self.shell.kernel_release()
    }
    fn now(&self) -> u64 {
        self.shell.now()
    }
    fn elapsed(&self) -> Duration {
        self.shell.elapsed()
    }
    fn sleep(&self, time: Duration) {
        std::thread::sleep(time);
    }
}
