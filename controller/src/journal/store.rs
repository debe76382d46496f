//! Records on a disk that may lose power, fill up or lie.
//!
//! ```text
//! record or [records] of one commit:  <CRC-32, 8 hex> <length, 8 hex> <JSON>\n        one file per run: run-000001.journal
//! ```
//! One line is one commit: it is there as a whole or not at all, because nothing is written behind a commit
//! before the disk has it. So only the last line can be torn, and a torn one holds nothing that anybody was
//! told. Everything else that does not add up is damage: it is said, what can be read is still read, and such
//! a run is not gone on with.
//!
//! Nodes record beside each other: what comes in while a flush is under way goes out together with the next
//! one.

use crate::error::{Error, Kind};
use crate::files;
use crate::journal::record::Record;
use crate::journal::status::Status;
use crate::plan::VERSION;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::mpsc;
use tokio::sync::oneshot;
use vsgpu_core::failpoint;

/// Plans of large fleets are large; this bounds a broken file.
const MAX_JOURNAL: u64 = 1 << 30;
/// CRC, blank, length, blank.
const HEADER: usize = 18;

/// A write that is under way.
pub type Writing = Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>;

/// Where the records of one run go.
pub trait Store: Send {
    /// Takes a record at once, in this order. When the future has ended well, a power cut does not lose it;
    /// when it fails, nothing that depends on the record may be done, and nothing more can be recorded.
    fn append(&mut self, record: &Record) -> Writing;
}

/// One file that only grows.
pub trait Log: Send {
    /// Writes behind what is there.
    ///
    /// # Errors
    /// Of the disk.
    fn append(&mut self, bytes: &[u8]) -> std::io::Result<()>;
    /// Returns when a power cut cannot take back what was written.
    ///
    /// # Errors
    /// Of the disk.
    fn sync(&mut self) -> std::io::Result<()>;
}

/// Where the runs of a fleet are kept.
pub trait Disk: Send + Sync {
    /// Whether runs can be seen at all: that there are none and that nobody may look are two things.
    ///
    /// # Errors
    /// Where they cannot.
    fn visible(&self) -> Result<(), Error> {
        Ok(())
    }
    /// Numbers of all runs, latest first.
    fn numbers(&self) -> Vec<u32>;
    /// Everything that was recorded.
    ///
    /// # Errors
    /// Where it cannot be read.
    fn read(&self, number: u32) -> Result<Vec<u8>, Error>;
    /// Opens a run to write to: a new one, or one of which the first `keep` bytes are good.
    ///
    /// # Errors
    /// Where it cannot be written.
    fn open(&self, number: u32, keep: Option<u64>) -> Result<Box<dyn Log>, Error>;
    /// What to call a run in an error.
    fn name(&self, number: u32) -> String;
}

/// A folder on the operator's machine.
#[derive(Clone, Debug)]
pub struct Folder(pub PathBuf);

impl Folder {
    fn path(&self, number: u32) -> PathBuf {
        self.0.join(format!("run-{number:06}.journal"))
    }

    /// Bytes of a run's file: as long as they are the same, nothing was recorded.
    pub fn length(&self, number: u32) -> Option<u64> {
        Some(std::fs::metadata(self.path(number)).ok()?.len())
    }
}

impl Disk for Folder {
    fn visible(&self) -> Result<(), Error> {
        match std::fs::read_dir(&self.0) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                let why = format!("{}: {e}: whether a run is unfinished is not known", self.0.display());
                Err(Error::new(Kind::Usage, why).code("journal").hint(crate::rights::hint(&self.0)))
            }
            _ => Ok(()),
        }
    }

    fn numbers(&self) -> Vec<u32> {
        let number_of =
            |name: String| name.strip_prefix("run-")?.strip_suffix(".journal")?.parse::<u32>().ok();
        let names = std::fs::read_dir(&self.0)
            .into_iter()
            .flatten()
            .flatten()
            .map(|e| e.file_name().to_string_lossy().into_owned());
        let mut all: Vec<u32> = names.filter_map(number_of).collect();
        all.sort_unstable_by(|a, b| b.cmp(a));
        all
    }

    fn read(&self, number: u32) -> Result<Vec<u8>, Error> {
        files::read_bytes(&self.path(number), MAX_JOURNAL)
    }

    fn open(&self, number: u32, keep: Option<u64>) -> Result<Box<dyn Log>, Error> {
        let path = self.path(number);
        let file = files::append(&path)?;
        match keep {
            Some(bytes) => file.set_len(bytes).map_err(|e| failed(&path.display().to_string(), &e))?,
            // The name must survive a power cut as well as the content.
            None => files::sync_folder(&self.0)?,
        }
        Ok(Box::new(file))
    }

    fn name(&self, number: u32) -> String {
        self.path(number).display().to_string()
    }
}

impl Log for File {
    fn append(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.write_all(bytes)
    }
    fn sync(&mut self) -> std::io::Result<()> {
        self.sync_data()
    }
}

fn failed(name: &str, error: &std::io::Error) -> Error {
    Error::new(Kind::Internal, format!("{name}: {error}"))
        .code("journal")
        .hint("nothing is done that cannot be recorded: make room or mend the disk, then run `vsgpu apply` again; it goes on from there")
}

pub struct Journal {
    name: String,
    writer: Writer,
}

enum Writer {
    /// A thread that flushes, so that the network goes on meanwhile.
    Thread(mpsc::Sender<(String, oneshot::Sender<Result<(), Error>>)>),
    /// In place, for simulated time and for records outside a run. `None`: a write failed, nothing more is
    /// taken.
    InPlace(Option<Box<dyn Log>>),
}

impl Journal {
    /// Begins run `number`, or goes on with it behind `keep` good bytes.
    ///
    /// # Errors
    /// Where the disk cannot be written.
    pub fn open(disk: &dyn Disk, number: u32, keep: Option<u64>) -> Result<Self, Error> {
        let keep = keep.map(|bytes| failpoint!(TornTailKept, u64::MAX, bytes));
        Ok(Self { name: disk.name(number), writer: Writer::InPlace(Some(disk.open(number, keep)?)) })
    }

    /// The same with a thread of its own that flushes.
    #[must_use]
    pub fn threaded(self) -> Self {
        let Self { name, writer: Writer::InPlace(Some(mut log)) } = self else { return self };
        let (tx, rx) = mpsc::channel::<(String, oneshot::Sender<Result<(), Error>>)>();
        let shown = name.clone();
        std::thread::spawn(move || {
            let mut broken = None;
            while let Ok(first) = rx.recv() {
                let batch: Vec<_> = std::iter::once(first).chain(rx.try_iter()).collect();
                let (records, told): (Vec<String>, Vec<_>) = batch.into_iter().unzip();
                let result = match &broken {
                    None => commit(log.as_mut(), &records).map_err(|e| failed(&shown, &e)),
                    Some(error) => Err(Error::clone(error)),
                };
                broken = result.as_ref().err().cloned();
                told.into_iter().for_each(|tell| drop(tell.send(result.clone())));
            }
        });
        Self { name, writer: Writer::Thread(tx) }
    }

    /// Records outside a run, where nothing runs beside it.
    ///
    /// # Errors
    /// Where it could not be made durable.
    pub fn record(&mut self, record: &Record) -> Result<(), Error> {
        let name = self.name.clone();
        let Writer::InPlace(log) = &mut self.writer else {
            return Err(Error::new(Kind::Internal, format!("{name}: the run has begun already")));
        };
        let gone = || std::io::Error::other("an earlier write failed");
        let written = log.as_mut().ok_or_else(gone).and_then(|log| commit(log.as_mut(), &[json(record)?]));
        let written = failpoint!(WriteErrorIgnored, Ok(()), written);
        if written.is_err() {
            *log = None;
        }
        written.map_err(|e| failed(&name, &e))
    }
}

fn json(record: &Record) -> std::io::Result<String> {
    // JSON's own escapes leave C1 and bidi as they are; a journal is a file that people open.
    serde_json::to_string(record)
        .map(|json| vsgpu_core::text::visible(&json).into_owned())
        .map_err(std::io::Error::other)
}

/// One commit: written, then flushed.
fn commit(log: &mut dyn Log, records: &[String]) -> std::io::Result<()> {
    let json = if let [one] = records { one.clone() } else { format!("[{}]", records.join(",")) };
    log.append(framed(&json).as_bytes())?;
    failpoint!(NoFsync, Ok(()), log.sync())
}

/// A line as it is on the disk: the checksum covers the length too.
pub fn framed(json: &str) -> String {
    let rest = format!("{:08x} {json}", json.len());
    format!("{:08x} {rest}\n", crc32fast::hash(rest.as_bytes()))
}

impl Store for Journal {
    fn append(&mut self, record: &Record) -> Writing {
        let name = self.name.clone();
        match &self.writer {
            Writer::InPlace(_) => {
                let written = self.record(record);
                Box::pin(std::future::ready(written))
            }
            Writer::Thread(tx) => {
                let (tell, told) = oneshot::channel();
                let sent =
                    json(record).map_err(|e| failed(&name, &e)).map(|json| drop(tx.send((json, tell))));
                Box::pin(async move {
                    sent?;
                    told.await.unwrap_or_else(|_| {
                        Err(Error::new(Kind::Internal, format!("{name}: the writer is gone")))
                    })
                })
            }
        }
    }
}

/// A run that was read back.
pub struct Stored {
    pub number: u32,
    /// Its file, for people.
    pub name: String,
    pub status: Status,
    /// Length of the undamaged part.
    pub good_bytes: u64,
    /// What does not add up. Such a run is not gone on with.
    pub damage: Option<String>,
}

/// The latest run that did anything: one whose very first record was torn never did.
///
/// # Errors
/// Where its plan cannot be read, or is of another version.
pub fn latest(disk: &dyn Disk) -> Result<Option<Stored>, Error> {
    latest_where(disk, |_| true)
}

/// The latest such run.
///
/// # Errors
/// As `latest`.
pub fn latest_where(disk: &dyn Disk, which: impl Fn(&Status) -> bool) -> Result<Option<Stored>, Error> {
    disk.visible()?;
    for number in disk.numbers() {
        if let Some(run) = numbered(disk, number)?.filter(|run| which(&run.status)) {
            return Ok(Some(run));
        }
    }
    Ok(None)
}

/// One run; `None` where its first record was never whole.
///
/// # Errors
/// As `latest`.
pub fn numbered(disk: &dyn Disk, number: u32) -> Result<Option<Stored>, Error> {
    Ok(with_records(disk, number)?.map(|(stored, _)| stored))
}

/// The same with all its records but the first, which is its plan.
///
/// # Errors
/// As `latest`.
pub fn with_records(disk: &dyn Disk, number: u32) -> Result<Option<(Stored, Vec<Record>)>, Error> {
    let (name, bytes) = (disk.name(number), disk.read(number)?);
    let refused = |why: String| {
        Error::new(Kind::Blocked, format!("{name}: {why}")).code("journal").hint(
            "`vsgpu apply --abandon` sets that run aside and looks at all nodes anew; `vsgpu abort --adopt HOST` then restores the host",
        )
    };
    if let Some(version) = written_by_another(&bytes) {
        return Err(refused(format!(
            "the run was made by another version of vsgpu (format {version}, this one reads {VERSION})"
        )));
    }
    let (commits, good_bytes, mut damage) = commits(&bytes);
    let mut status = None::<Status>;
    let mut records = vec![];
    for record in commits.into_iter().flatten() {
        match &mut status {
            None if damage.as_ref().is_some_and(|(at, _)| *at == 0) => break,
            None => status = Some(Status::first(record).map_err(&refused)?),
            Some(status) => {
                if let Err(why) = status.next(&record) {
                    damage.get_or_insert((good_bytes, why));
                }
                records.push(record);
            }
        }
    }
    let damage = damage.map(|(at, why)| format!("{name}: damaged at byte {at}: {why}"));
    match (status, damage) {
        (None, Some(damage)) => Err(refused(damage)),
        (None, None) => Ok(None),
        (Some(status), damage) => Ok(Some((Stored { number, name, status, good_bytes, damage }, records))),
    }
}

type Commits = (Vec<Vec<Record>>, u64, Option<(u64, String)>);

/// All records of a run that can be read, in their order.
///
/// # Errors
/// Where the disk fails.
pub fn records(disk: &dyn Disk, number: u32) -> Result<Vec<Record>, Error> {
    Ok(commits(&disk.read(number)?).0.into_iter().flatten().collect())
}

/// All commits that can be read, the length up to the first that cannot, and what is wrong there if it is
/// more than a torn end.
pub(super) fn commits(bytes: &[u8]) -> Commits {
    let (mut all, mut at, mut good, mut bad) = (vec![], 0, 0, None::<(u64, String)>);
    while at < bytes.len() {
        match commit_at(&bytes[at..]) {
            Ok((records, length)) => {
                all.push(records);
                at += length;
                if bad.is_none() {
                    good = at;
                }
            }
            Err(why) => {
                bad.get_or_insert((at as u64, why));
                // On to the next line: what follows damage tells what the nodes went through.
                at = bytes[at..].iter().position(|b| *b == b'\n').map_or(bytes.len(), |n| at + n + 1);
            }
        }
    }
    // Nothing is written behind a commit before the disk has it: a torn one is the last, and is cut off or
    // has holes. A line that is there as a whole and does not add up was written and told: that is damage.
    let rest = &bytes[good..];
    let cut_off = commit_at(rest).is_err_and(|why| why == CUT_OFF) && !rest.ends_with(b"\n");
    let holes = rest.windows(8).any(|w| w == [0; 8]);
    let torn = bad.is_some() && !commit_follows(rest) && (cut_off || holes);
    (all, good as u64, bad.filter(|_| !torn))
}

/// Whether any commit can be read behind a bad one.
fn commit_follows(rest: &[u8]) -> bool {
    let mut starts = rest.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(n, _)| n + 1);
    starts.any(|at| commit_at(&rest[at..]).is_ok())
}

const CUT_OFF: &str = "it is cut off";

fn commit_at(bytes: &[u8]) -> Result<(Vec<Record>, usize), String> {
    let header = bytes.get(..HEADER).ok_or(CUT_OFF)?;
    let header = std::str::from_utf8(header).map_err(|_| "its header is damaged")?;
    let hex = |text: Option<&str>| {
        text.and_then(|t| u32::from_str_radix(t, 16).ok()).ok_or("its header is damaged")
    };
    let (crc, length) = (hex(header.get(..8))?, hex(header.get(9..17))? as usize);
    let json = bytes.get(HEADER..HEADER + length).ok_or(CUT_OFF)?;
    let right =
        crc32fast::hash(&bytes[9..HEADER + length]) == crc && header == format!("{crc:08x} {length:08x} ");
    if !failpoint!(ChecksumIgnored, true, right) {
        return Err("its checksum is wrong".into());
    }
    match bytes.get(HEADER + length) {
        Some(b'\n') => {}
        None => return Err(CUT_OFF.into()),
        Some(_) => return Err("its end is damaged".into()),
    }
    let many = json.first() == Some(&b'[');
    let records =
        if many { serde_json::from_slice(json) } else { serde_json::from_slice(json).map(|one| vec![one]) };
    Ok((records.map_err(|e| e.to_string())?, HEADER + length + 1))
}

/// The format of a run that this version cannot read, told by its first record, whose own checksum must be
/// right: damage is not another version. Format 1 had no length in its lines.
fn written_by_another(bytes: &[u8]) -> Option<String> {
    let line = bytes.split(|b| *b == b'\n').next().and_then(|l| std::str::from_utf8(l).ok())?;
    let (crc, rest) = line.split_once(' ')?;
    if format!("{:08x}", crc32fast::hash(rest.as_bytes())) != crc {
        return None;
    }
    let json = rest
        .split_once(' ')
        .filter(|(length, _)| length.len() == 8 && !length.contains('{'))
        .map_or(rest, |(_, json)| json);
    // Of a plan of some hundred megabytes only its version is kept.
    #[derive(serde::Deserialize)]
    struct First {
        plan: Option<Format>,
    }
    #[derive(serde::Deserialize)]
    struct Format {
        version: Option<u64>,
    }
    let first: First = match serde_json::from_str(json) {
        Ok(first) => first,
        Err(_) => serde_json::from_str::<Vec<First>>(json).ok()?.into_iter().next()?,
    };
    let version = first.plan.and_then(|plan| plan.version);
    (version != Some(VERSION.into())).then(|| version.map_or("unknown".into(), |v| v.to_string()))
}

/// Puts the latest run aside, whatever is in it: `run-000007.journal.set-aside`.
///
/// # Errors
/// Where it cannot be renamed.
pub fn set_aside(folder: &Folder) -> Result<Option<String>, Error> {
    let Some(number) = folder.numbers().first().copied() else { return Ok(None) };
    let path = folder.path(number);
    let aside = path.with_extension("journal.set-aside");
    std::fs::rename(&path, &aside).map_err(|e| failed(&path.display().to_string(), &e))?;
    files::sync_folder(&folder.0)?;
    // Its number stays used.
    files::append(&path)?;
    Ok(Some(aside.display().to_string()))
}

/// The number of the next run: never one that was used, not even by a run that did nothing.
pub fn next_number(disk: &dyn Disk) -> u32 {
    disk.numbers().first().map_or(1, |last| last + 1)
}

/// Holds the fleet for one `apply`; released when dropped or when the process ends.
pub struct Lock(#[expect(dead_code, reason = "held, not read")] nix::fcntl::Flock<File>);

/// The process that is at work on this fleet now.
pub fn at_work(folder: &Path) -> Option<i32> {
    let path = folder.join("lock");
    // Only looked at: whoever looks must neither be taken for somebody at work, nor leave his number there.
    let free = nix::fcntl::Flock::lock(files::open(&path).ok()?, nix::fcntl::FlockArg::LockSharedNonblock);
    matches!(free, Err((_, nix::errno::Errno::EWOULDBLOCK))).then(|| {
        files::read_text(&path, 64).ok().and_then(|text| text.trim().parse().ok()).unwrap_or_default()
    })
}

/// Takes the lock.
///
/// # Errors
/// Where another `apply` holds it.
pub fn lock(folder: &Path) -> Result<Lock, Error> {
    let path = folder.join("lock");
    let mut taken =
        nix::fcntl::Flock::lock(files::append(&path)?, nix::fcntl::FlockArg::LockExclusiveNonblock);
    // Somebody may be looking whether it is held, for a moment.
    for _ in 0..10 {
        match taken {
            Err((file, nix::errno::Errno::EWOULDBLOCK)) => {
                std::thread::sleep(std::time::Duration::from_millis(20));
                taken = nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusiveNonblock);
            }
            _ => break,
        }
    }
    match taken {
        Ok(mut held) => {
            // Who it is, for `vsgpu abort`. Nothing depends on it being durable.
            let noted =
                held.set_len(0).and_then(|()| held.write_all(format!("{}\n", std::process::id()).as_bytes()));
            noted.map_err(|e| failed(&path.display().to_string(), &e))?;
            Ok(Lock(held))
        }
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => {
            Err(Error::new(Kind::Blocked, "another `vsgpu apply` is at work on this fleet")
                .code("at-work")
                .hint("wait for it, see how far it is: `vsgpu status --watch`, or stop it: `vsgpu abort`"))
        }
        Err((_, why)) => Err(Error::new(Kind::Internal, format!("{}: {why}", path.display()))),
    }
}
