//! How an agent reaches its machine: files and processes, here (`Posix`) or over ssh (`Remote`). What a host and a guest are
//! beside that, the identity of their boot above all, is their agents' own matter.

use vsgpu_core::{Command, Holder, Output, Staged, Trouble};

/// A file that is being received.
#[derive(Clone, Debug)]
pub struct Incoming {
    /// Its name for people.
    pub name: String,
    /// Where it goes when all of it is there.
    pub target: String,
    /// Where it grows.
    pub partial: String,
    /// Bytes in all.
    pub size: u64,
    /// SHA-256 in hex.
    pub sha256: String,
    /// Bytes that are there and stay.
    pub offset: u64,
}

/// Why a file was not taken.
#[derive(Debug)]
pub enum NotTaken {
    /// No room; the part is removed.
    NoSpace,
    /// The sender goes on behind what is there, bytes.
    Gap(u64),
    /// More came than was announced; the part stays as it is.
    TooMuch,
    /// The sender stopped after so many bytes; the part stays for the next try.
    TooShort(u64),
    /// Another SHA-256; the part is removed.
    Damaged(String),
    /// Anything else.
    Trouble(Trouble),
}

impl From<Trouble> for NotTaken {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}

/// Files and processes of one machine. Paths are absolute, without `..`; a root is put in front of them.
pub trait Shell: Send + Sync {
    /// Runs a command to its end, its deadline or its bound on output.
    fn run(&self, command: &Command) -> Output;
    /// A long command that an earlier, killed agent left running.
    fn orphan(&self) -> Option<String>;
    /// Reads a file of at most `max` bytes.
    fn read(&self, path: &str, max: usize) -> Result<Vec<u8>, Trouble>;
    /// Reads the last `max` bytes of a file.
    fn tail(&self, path: &str, max: usize) -> Result<Vec<u8>, Trouble>;
    /// Reads the first `max` bytes of a file.
    fn head(&self, path: &str, max: usize) -> Result<Vec<u8>, Trouble>;
    /// Processes that hold a file open whose path begins with `prefix`, each once, sorted.
    fn holders(&self, prefix: &str) -> Result<Vec<Holder>, Trouble>;
    /// SHA-256 of a file, lower-case hex.
    fn hash(&self, path: &str) -> Result<String, Trouble>;
    /// Names in a folder, sorted.
    fn list(&self, path: &str) -> Result<Vec<String>, Trouble>;
    /// Bytes of a file; `None` where there is no such file.
    fn size(&self, path: &str) -> Result<Option<u64>, Trouble>;
    /// Whether there is such a folder.
    fn is_folder(&self, path: &str) -> Result<bool, Trouble>;
    /// Writes a file durably through a temporary one; makes missing folders.
    fn write(&self, path: &str, contents: &[u8], mode: u32) -> Result<(), Trouble>;
    /// Copies a file durably, likewise.
    fn copy(&self, from: &str, to: &str, mode: u32) -> Result<(), Trouble>;
    /// Removes a file; an absent one is fine.
    fn remove(&self, path: &str) -> Result<(), Trouble>;
    /// See `System::stage`.
    fn stage(&self, path: &str, sha256: &str) -> Result<Staged, Trouble>;
    /// See `System::unstage`.
    fn unstage(&self, path: &str, instead: &str);
    /// Takes a file, piece by piece, until `next` has no more. The hash is checked before the file gets its name, and what can be
    /// started gets the mode for it.
    fn receive(&self, file: &Incoming, next: &mut dyn FnMut() -> Option<bytes::Bytes>) -> Result<(), NotTaken>;
    /// Release of the running kernel.
    fn kernel_release(&self) -> String;
    /// Seconds since 1970, by the clock of the machine that the agent runs on.
    fn now(&self) -> u64;
    /// Time that only grows, of the machine that the agent runs on.
    fn elapsed(&self) -> std::time::Duration;
    /// Whether the machine itself is meant, and no copy of its files.
    fn is_real(&self) -> bool;
    /// Whether the machine is another one than the agent's: it may be away while the agent is there.
    fn is_remote(&self) -> bool;
}

/// Whether a file with these first bytes is one that is started by its path.
pub(crate) fn is_program(magic: &[u8]) -> bool {
    magic.starts_with(b"#!") || magic.starts_with(b"\x7fELF")
}
