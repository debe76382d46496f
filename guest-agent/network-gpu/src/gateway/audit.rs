//! The audit file: who had which GPU, from when to when, and why it ended. Written and flushed before a grant
//! is answered; where it cannot be written, nothing is granted. Lines stand in the order in which things
//! happened; what cannot be written now is kept and written later.

use serde::Serialize;
use std::collections::VecDeque;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use vsgpu_core::pool::Identity;

/// Version of a line.
const VERSION: u32 = 1;
/// A file that is larger is put aside.
const MAX_BYTES: u64 = 16 << 20;
/// Files that were put aside and are kept.
const KEPT: u32 = 4;
/// Between two tries where it could not be written.
const AGAIN: Duration = Duration::from_secs(5);
/// Lines that are kept meanwhile. Nothing is granted then, so no more can come than leases end.
const MOST_LINES: usize = 1_024;

/// What happened.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Happened {
    /// The gateway began; leases of the one before are over.
    Began,
    /// It could not be written for a while, and can be again.
    Writable,
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
    /// Seconds since 1970.
    pub at: f64,
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

impl Line {
    /// One of now that says nothing else yet.
    pub(super) fn of(event: Happened, policy: &str) -> Self {
        Self {
            at: wall_clock(),
            event,
            lease: None,
            who: None,
            team: None,
            gpus: vec![],
            why: None,
            bytes: None,
            gpu_seconds: None,
            policy: policy.into(),
        }
    }
}

#[derive(Serialize)]
struct Versioned<'a> {
    version: u32,
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
        let mut text = serde_json::to_vec(&Versioned { version: VERSION, line })?;
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

/// Writes lines in their order, beside the gateway's loop.
pub(super) struct Writer(mpsc::UnboundedSender<ToWrite>);

struct ToWrite {
    line: Line,
    /// Who waits until it is on the disk; such a line is not tried again.
    waits: Option<oneshot::Sender<Result<(), String>>>,
}

impl Writer {
    /// `tell` hears when lines cannot be written, and why, and when they can again.
    pub(super) fn of(audit: Audit, tell: impl Fn(Result<(), String>) + Send + 'static) -> Self {
        let (to, lines) = mpsc::unbounded_channel();
        tokio::spawn(write_all(Arc::new(audit), lines, tell));
        Self(to)
    }

    /// Writes a line, sooner or later.
    pub(super) fn write(&self, line: Line) {
        let _ = self.0.send(ToWrite { line, waits: None });
    }

    /// Writes a line now, or not at all.
    pub(super) fn confirmed(&self, line: Line) -> oneshot::Receiver<Result<(), String>> {
        let (waits, written) = oneshot::channel();
        let _ = self.0.send(ToWrite { line, waits: Some(waits) });
        written
    }
}

async fn write_all(
    audit: Arc<Audit>,
    mut lines: mpsc::UnboundedReceiver<ToWrite>,
    tell: impl Fn(Result<(), String>),
) {
    let write = async |line: Line| {
        let audit = audit.clone();
        let written = tokio::task::spawn_blocking(move || audit.write(&line)).await;
        written.map_err(|e| e.to_string()).flatten()
    };
    while let Some(ToWrite { line, waits }) = lines.recv().await {
        let written = write(line.clone()).await;
        let Err(why) = &written else {
            drop(waits.map(|waits| waits.send(written)));
            continue;
        };
        let why = why.clone();
        tell(Err(why.clone()));
        let (mut kept, writable) = (VecDeque::new(), Line::of(Happened::Writable, &line.policy));
        match waits {
            Some(waits) => drop(waits.send(written)),
            None => kept.push_back(line),
        }
        let mut again = tokio::time::interval_at(tokio::time::Instant::now() + AGAIN, AGAIN);
        loop {
            tokio::select! {
                more = lines.recv() => match more {
                    None => return,
                    Some(ToWrite { waits: Some(waits), .. }) => drop(waits.send(Err(why.clone()))),
                    Some(ToWrite { line, .. }) if kept.len() < MOST_LINES => kept.push_back(line),
                    Some(_) => {}
                },
                _ = again.tick() => {
                    while let Some(line) = kept.front() {
                        if write(line.clone()).await.is_err() {
                            break;
                        }
                        kept.pop_front();
                    }
                    if kept.is_empty() && write(writable.clone()).await.is_ok() {
                        break;
                    }
                }
            }
        }
        tell(Ok(()));
    }
}

/// Seconds since 1970.
#[expect(clippy::disallowed_methods, reason = "the only wall clock of the gateway: the audit's")]
fn wall_clock() -> f64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "test code")]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_full_is_put_aside_and_the_oldest_one_goes() {
        let folder = std::env::temp_dir().join(format!("vsgpu-audit-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap_or_else(|why| panic!("{why}"));
        let audit = Audit::of(&folder);
        let file = |n: u32| match n {
            0 => folder.join("audit.jsonl"),
            n => folder.join(format!("audit.jsonl.{n}")),
        };
        let write = |policy: &str| {
            audit.write(&Line::of(Happened::Began, policy)).unwrap_or_else(|why| panic!("{why}"));
        };
        let text = |n: u32| std::fs::read_to_string(file(n)).unwrap_or_default();
        // Filled six times: the last one is written to, the four before it are kept, the first one is gone.
        for n in 1..=6 {
            write(&format!("policy-{n}"));
            let more = File::options().write(true).open(file(0)).and_then(|f| f.set_len(MAX_BYTES + 1));
            more.unwrap_or_else(|why| panic!("{why}"));
        }
        write("policy-7");
        assert!(text(0).contains("policy-7") && !text(0).contains("policy-6"), "{}", text(0).len());
        for n in 1..=KEPT {
            assert!(text(n).starts_with("{\"version\":1"), "{n}");
            assert!(text(n).contains(&format!("policy-{}", 7 - n)), "{n}");
        }
        assert!(!file(KEPT + 1).exists());
        let _ = std::fs::remove_dir_all(folder);
    }
}
