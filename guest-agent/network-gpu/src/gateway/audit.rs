//! The audit file: who had which GPU, from when to when, and why it ended. Written and flushed before a grant
//! is answered; where it cannot be written, nothing is granted.

use serde::Serialize;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use vsgpu_core::pool::Identity;

/// Version of a line.
const VERSION: u32 = 1;
/// A file that is larger is put aside.
const MAX_BYTES: u64 = 16 << 20;
/// Files that were put aside and are kept.
const KEPT: u32 = 4;

/// What happened.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Happened {
    /// The gateway began; leases of the one before are over.
    Began,
    /// An ask was refused.
    Refused,
    /// A lease was granted.
    Granted,
    /// A lease is over, and its engine is gone.
    Ended,
}

/// One line.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Line {
    pub event: Happened,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease: Option<u64>,
    #[serde(flatten)]
    pub who: Option<Identity>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub team: Option<String>,
    /// UUIDs of the GPUs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gpus: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Bytes from the programs to the engines, and back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<(u64, u64)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu_seconds: Option<f64>,
    /// Hash of the policy that held.
    pub policy: String,
}

#[derive(Serialize)]
struct Dated<'a> {
    version: u32,
    /// Seconds since 1970.
    at: f64,
    #[serde(flatten)]
    line: &'a Line,
}

/// The file.
#[derive(Debug)]
pub(super) struct Audit {
    path: PathBuf,
    file: Mutex<Option<File>>,
}

impl Audit {
    pub(super) fn of(folder: &Path) -> Self {
        Self { path: folder.join("audit.jsonl"), file: Mutex::default() }
    }

    /// Writes a line, and comes back when it is on the disk.
    ///
    /// # Errors
    /// A sentence: the disk is full. The next one opens the file anew.
    pub(super) fn write(&self, line: &Line) -> Result<(), String> {
        let mut open = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let written = self.append(&mut open, line);
        if written.is_err() {
            *open = None;
        }
        written.map_err(|e| format!("the audit file {} cannot be written: {e}", self.path.display()))
    }

    fn append(&self, open: &mut Option<File>, line: &Line) -> std::io::Result<()> {
        if open.as_ref().is_some_and(|file| file.metadata().is_ok_and(|m| m.len() > MAX_BYTES)) {
            *open = None;
            self.put_aside()?;
        }
        let file = match open {
            Some(file) => file,
            None => open.insert(self.open()?),
        };
        let mut text = serde_json::to_vec(&Dated { version: VERSION, at: now(), line })?;
        text.push(b'\n');
        let before = file.metadata()?.len();
        file.write_all(&text).and_then(|()| file.sync_data()).inspect_err(|_| {
            // Half a line would spoil the next one.
            let _ = file.set_len(before);
        })
    }

    #[expect(clippy::disallowed_methods, reason = "the gateway's own file, appended to; the error names it")]
    fn open(&self) -> std::io::Result<File> {
        std::fs::OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path)
    }

    fn put_aside(&self) -> std::io::Result<()> {
        let aside = |n: u32| PathBuf::from(format!("{}.{n}", self.path.display()));
        for n in (1..KEPT).rev() {
            match std::fs::rename(aside(n), aside(n + 1)) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        std::fs::rename(&self.path, aside(1))
    }
}

#[expect(clippy::disallowed_methods, reason = "the only wall clock of the gateway: the audit's")]
fn now() -> f64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}
