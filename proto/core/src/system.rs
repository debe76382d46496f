//! The only way out: what the doors to a machine do for the pure code. Synchronous and small, because ESXi is
//! not Linux (process pipes, epoll and several system calls differ there). No default methods: a fake that
//! forgets one must not compile, and must never reach the real machine.

use crate::artifact::{Kind, PackageContent};
use crate::effect::{Command, Effect, InVcenter};
use crate::machine::Machine;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::thread::ThreadId;
use std::time::Duration;

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExitKind {
    /// With this exit status.
    Status(i32),
    /// By this signal.
    Signal(i32),
    /// There is no such program.
    Missing,
    /// Killed at its deadline of so many seconds.
    TimedOut(u32),
    /// Killed because it printed more than the limit, in bytes.
    Flooded(usize),
    /// Could not be started or read.
    Broken(String),
    /// Nothing was started: the vSphere API answers in its place, and has no answer, for this reason.
    ByApi(String),
}

impl std::fmt::Display for ExitKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Status(n) => write!(f, "exit status {n}"),
            Self::Signal(n) => write!(f, "ended by signal {n}"),
            Self::Missing => write!(f, "no such program"),
            Self::TimedOut(s) => write!(f, "killed after its deadline of {s} s"),
            Self::Flooded(n) => write!(f, "killed after printing more than {} MiB", n >> 20),
            Self::Broken(why) => write!(f, "could not be run: {why}"),
            Self::ByApi(why) => write!(f, "by the vSphere API: {why}"),
        }
    }
}

/// What a command printed and how it ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// How it ended.
    pub ended: ExitKind,
    /// Standard output, invalid UTF-8 replaced.
    pub stdout: String,
    /// Standard error, likewise.
    pub stderr: String,
}

impl Output {
    /// Exit status 0.
    pub fn ok(&self) -> bool {
        self.ended == ExitKind::Status(0)
    }

    /// Both streams, for tools that report failures on either (esxcli does so on stdout).
    pub fn both(&self) -> String {
        format!("{}\n{}", self.stdout.trim_end(), self.stderr.trim_end()).trim().to_string()
    }
}

/// A process that holds a file open.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
pub struct OpenedBy {
    /// Process id.
    pub pid: u32,
    /// Name of the program, as the kernel keeps it (15 characters).
    pub name: String,
    /// The service it belongs to, where it is one of systemd's.
    #[serde(default)]
    pub service: Option<String>,
}

impl std::fmt::Display for OpenedBy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.service {
            Some(service) => write!(f, "{} ({service}, process {})", self.name, self.pid),
            None => write!(f, "{} (process {})", self.name, self.pid),
        }
    }
}

/// A file that could not be read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum IoError {
    /// No such file.
    #[error("{0}: no such file")]
    NotFound(String),
    /// Larger than the caller allows.
    #[error("{0}: larger than {1} bytes")]
    TooLarge(String, usize),
    /// The machine itself does not answer.
    #[error("{0}")]
    Unreachable(String),
    /// Anything else, in the words of the system.
    #[error("{path}: {why}")]
    Other {
        /// The file.
        path: String,
        /// Why.
        why: String,
    },
}

/// A package of the machine, taken aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Staged {
    /// SHA-256, lower-case hex.
    pub sha256: String,
    /// Bytes.
    pub size: u64,
    /// What it is and what it holds, by its content; or why it is no package.
    pub found: Result<(Kind, Vec<PackageContent>), String>,
    /// The path of the file that was read, under which nobody else can put another. The same path as before
    /// where the machine has no room or no way for that.
    pub instead: String,
}

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

/// Why a file was not received.
#[derive(Debug)]
pub enum UploadError {
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
    Io(IoError),
}

impl From<IoError> for UploadError {
    fn from(error: IoError) -> Self {
        Self::Io(error)
    }
}

/// What tells the boots of one kind of machine apart: a host has another way than a guest.
pub trait BootIdentity: Send + Sync {
    /// Differs after every reboot and only then.
    ///
    /// # Errors
    /// Where the machine does not say.
    fn id(&self, machine: &Arc<dyn System>) -> Result<String, IoError>;
}

/// A mode for `write`: that of the file that is replaced, 0644 for a new one.
pub const KEEP_MODE: u32 = 0;

/// One machine, through the door by which an agent reaches it: here, or over ssh. Paths are absolute, without
/// `..`; a root is put in front of them.
pub trait System: Send + Sync {
    /// Runs a command to its end, its deadline or its bound on output. Never fails: the output says how it
    /// ended.
    fn run(&self, command: &Command) -> Output;
    /// A long command that an earlier, killed agent left running.
    fn orphan(&self) -> Option<String>;
    /// Reads a file of at most `max` bytes.
    fn read(&self, path: &str, max: usize) -> Result<Vec<u8>, IoError>;
    /// Reads the last `max` bytes of a file.
    fn tail(&self, path: &str, max: usize) -> Result<Vec<u8>, IoError>;
    /// Reads the first `max` bytes of a file.
    fn head(&self, path: &str, max: usize) -> Result<Vec<u8>, IoError>;
    /// Processes that hold a file open whose path begins with `prefix`, each once, sorted.
    fn holders(&self, prefix: &str) -> Result<Vec<OpenedBy>, IoError>;
    /// SHA-256 of a file, lower-case hex.
    fn hash(&self, path: &str) -> Result<String, IoError>;
    /// Names in a folder, sorted.
    fn list(&self, path: &str) -> Result<Vec<String>, IoError>;
    /// Bytes of a file; `None` where there is no such file.
    fn size(&self, path: &str) -> Result<Option<u64>, IoError>;
    /// Whether there is such a folder.
    fn is_folder(&self, path: &str) -> Result<bool, IoError>;
    /// Writes a file durably through a temporary one; makes missing folders.
    fn write(&self, path: &str, contents: &[u8], mode: u32) -> Result<(), IoError>;
    /// Copies a file durably, likewise.
    fn copy(&self, from: &str, to: &str, mode: u32) -> Result<(), IoError>;
    /// Does an effect by calls of the vSphere API; `None` where files and commands are this door's way.
    fn by_api(&self, effect: &Effect) -> Option<Result<(), String>>;
    /// An effect in words, as it is really done; `None` where nothing is done for it.
    fn shown(&self, effect: &Effect) -> Option<String>;
    /// What the effect of a thread has for people to find it by, as soon as it has it: ids of tasks. Told once.
    fn told(&self, by: ThreadId) -> Vec<String>;
    /// Removes a file; an absent one is fine.
    fn remove(&self, path: &str) -> Result<(), IoError>;
    /// Takes a package aside and reads it there: what its `instead` leads to is what was read. One with
    /// another hash is not looked into.
    fn stage(&self, path: &str, sha256: &str) -> Result<Staged, IoError>;
    /// Removes what `stage` made, if it made anything. Only room is lost where that fails.
    fn unstage(&self, path: &str, instead: &str);
    /// Takes a file, piece by piece, until `next` has no more. The hash is checked before the file gets its
    /// name, and what can be started gets the mode for it.
    fn upload(&self, file: &Incoming, next: &mut dyn FnMut() -> Option<Vec<u8>>) -> Result<(), UploadError>;
    /// Differs after every reboot and only then. A door that only looks has none.
    fn boot_id(&self) -> Result<String, IoError>;
    /// CPUs, memory, load and disks.
    ///
    /// # Errors
    /// Where the door cannot tell: a host over ssh is asked by its own tools.
    fn machine(&self) -> Result<Machine, IoError>;
    /// What vCenter says beyond the host itself, as JSON.
    ///
    /// # Errors
    /// `NotFound` where nobody asks vCenter.
    fn inventory(&self, what: &InVcenter) -> Result<String, IoError>;
    /// Release of the running kernel.
    fn kernel_release(&self) -> String;
    /// Whether the machine itself is meant, and no copy of its files.
    fn is_real(&self) -> bool;
    /// Whether the machine is another one than the agent's: it may be away while the agent is there.
    fn is_remote(&self) -> bool;
    /// Seconds since 1970, for records that people read. Never used to decide.
    fn now(&self) -> u64;
    /// Time that only grows, for deadlines.
    fn elapsed(&self) -> Duration;
    /// Waits.
    fn sleep(&self, time: Duration);
    /// Probes at once: more than any node has in one round, so that a round takes as long as its slowest
    /// probe.
    fn probes_at_once(&self) -> usize {
        32
    }
}
