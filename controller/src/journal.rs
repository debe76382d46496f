//! The append-only record of a run: written and flushed before each act. State is the fold of the records; transitions
//! are a pure function that can refuse.
//!
//! ```text
//! Planned -> { Started -> Done | Failed -> Started .. }* -> Ended
//! ```
//! A line is the CRC-32 of its JSON, a blank, the JSON. A torn last line is what a power cut leaves, and is dropped;
//! a damaged line in the middle is refused. One file per run: `run-000001.journal`.

use crate::error::{Error, Kind};
use crate::files;
use crate::fleet::NodeId;
use crate::plan::{Leftovers, Plan, RebootedFor, VERSION, Work};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use vsgpu_host_agent::host::MAINTENANCE_MODE;
use vsgpu_host_agent::vm::POWER;

/// Plans of large fleets are large; this bounds a broken file.
const MAX_JOURNAL: u64 = 1 << 30;

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "kebab-case")]
pub enum Record {
    /// A run begins.
    Planned {
        /// Seconds since 1970.
        at: u64,
        /// The whole plan.
        plan: Box<Plan>,
        /// Hosts that an earlier run left in maintenance mode.
        in_maintenance: BTreeSet<String>,
        /// VMs that an earlier run left stopped.
        stopped: BTreeSet<String>,
        /// Reboots of earlier runs that did not bring what they were for.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        rebooted: BTreeMap<NodeId, RebootedFor>,
    },
    /// A step is about to be done.
    Started {
        /// Seconds since 1970.
        at: u64,
        /// Step.
        step: usize,
        /// The boot in which it was started.
        boot_id: String,
    },
    /// A step is done and its result was seen.
    Done {
        /// Seconds since 1970.
        at: u64,
        /// Step.
        step: usize,
        /// What is so.
        note: String,
    },
    /// A step failed.
    Failed {
        /// Seconds since 1970.
        at: u64,
        /// Step.
        step: usize,
        /// Why.
        error: String,
    },
    /// The run is over.
    Ended {
        /// Seconds since 1970.
        at: u64,
    },
}

/// Where one step is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum StepState {
    /// Not begun.
    #[default]
    Waiting,
    /// Begun; its outcome is not known.
    Started {
        /// The boot in which it was begun.
        boot_id: String,
    },
    /// Done.
    Done {
        /// What is so.
        note: String,
    },
    /// Failed.
    Failed {
        /// Why.
        error: String,
        /// Whether it had been begun: a step whose node could not be reached never was.
        begun: bool,
        /// The boot in which it was begun.
        boot_id: String,
    },
}

impl StepState {
    /// Whether the node may have been touched.
    pub fn begun(&self) -> bool {
        !matches!(self, Self::Waiting | Self::Failed { begun: false, .. })
    }
}

/// A run, as its records tell it.
#[derive(Clone, Debug)]
pub struct Status {
    /// The plan.
    pub plan: Plan,
    /// One state per step.
    pub steps: Vec<StepState>,
    /// When it began.
    pub begun: u64,
    /// When it ended, if it did.
    pub ended: Option<u64>,
    leftovers: Leftovers,
}

impl Status {
    /// From the first record of a run.
    fn first(record: Record) -> Result<Self, String> {
        match record {
            Record::Planned { at, plan, in_maintenance, stopped, rebooted } if plan.version == VERSION => {
                let steps = vec![StepState::Waiting; plan.steps.len()];
                let leftovers = Leftovers { in_maintenance, stopped, rebooted };
                Ok(Self { plan: *plan, steps, begun: at, ended: None, leftovers })
            }
            Record::Planned { plan, .. } => {
                Err(format!("the run was made by another version of vsgpu (format {}, this one reads {VERSION})", plan.version))
            }
            _ => Err("the first record is no plan".into()),
        }
    }

    /// The next state, or why the record cannot follow.
    pub fn next(&mut self, record: &Record) -> Result<(), String> {
        if self.ended.is_some() {
            return Err("a record follows the end of the run".into());
        }
        let step = match record {
            Record::Planned { .. } => return Err("a second plan in one run".into()),
            Record::Ended { at } => {
                self.ended = Some(*at);
                return Ok(());
            }
            Record::Started { step, .. } | Record::Done { step, .. } | Record::Failed { step, .. } => *step,
        };
        let state = step.checked_sub(1).and_then(|at| self.steps.get_mut(at)).ok_or_else(|| format!("there is no step {step}"))?;
        let next = match (&*state, record) {
            (StepState::Waiting, Record::Started { boot_id, .. }) => StepState::Started { boot_id: boot_id.clone() },
            // Begun again after a crash: the first boot is what tells whether the reboot has happened.
            (StepState::Started { boot_id: first } | StepState::Failed { boot_id: first, .. }, Record::Started { boot_id, .. }) => {
                StepState::Started { boot_id: if first.is_empty() { boot_id.clone() } else { first.clone() } }
            }
            (StepState::Started { .. }, Record::Done { note, .. }) => StepState::Done { note: note.clone() },
            (StepState::Started { boot_id }, Record::Failed { error, .. }) => {
                StepState::Failed { error: error.clone(), begun: true, boot_id: boot_id.clone() }
            }
            (StepState::Failed { begun, boot_id, .. }, Record::Failed { error, .. }) => {
                StepState::Failed { error: error.clone(), begun: *begun, boot_id: boot_id.clone() }
            }
            (StepState::Waiting, Record::Failed { error, .. }) => {
                StepState::Failed { error: error.clone(), begun: false, boot_id: String::new() }
            }
            (from, record) => return Err(format!("step {step} cannot go from {from:?} to {record:?}")),
        };
        *state = next;
        Ok(())
    }

    /// Whether something was given back after a failure: then the steps before cannot simply be tried again, because what
    /// they needed (maintenance mode, VMs off) is no longer so.
    pub fn gave_back_early(&self) -> bool {
        let mut unfinished = vec![false; self.steps.len()];
        for (at, step) in self.plan.steps.iter().enumerate() {
            let before = step.after.iter().any(|a| unfinished[a - 1]);
            if before && matches!(self.steps[at], StepState::Done { .. }) {
                return true;
            }
            unfinished[at] = before || !matches!(self.steps[at], StepState::Done { .. });
        }
        false
    }

    /// What the run took and has not given back.
    pub fn leftovers(&self) -> Leftovers {
        let mut left = self.leftovers.clone();
        for (step, state) in self.plan.steps.iter().zip(&self.steps) {
            let begun = state.begun();
            let done = matches!(state, StepState::Done { .. });
            let name = &step.node.name;
            let (requirement, spec) = match &step.work {
                Work::Meet { requirement, spec, .. } => (requirement, spec),
                Work::Activate { restart: None, proves } => {
                    if let StepState::Failed { begun: true, boot_id, .. } = state {
                        let requirements = proves.iter().map(|(name, _)| name.clone()).collect();
                        left.rebooted.insert(step.node.clone(), RebootedFor { before: boot_id.clone(), requirements });
                    } else if done {
                        left.rebooted.remove(&step.node);
                    }
                    continue;
                }
                Work::Activate { .. } | Work::Send { .. } => continue,
            };
            match (requirement.as_str(), spec.as_str().or_else(|| spec["state"].as_str())) {
                (MAINTENANCE_MODE, Some("on")) if begun => _ = left.in_maintenance.insert(name.clone()),
                (MAINTENANCE_MODE, Some("off")) if done => _ = left.in_maintenance.remove(name),
                // Only a VM that is to run again: one the fleet file wants off stays off.
                (POWER, Some("off")) if begun && self.plan.steps.iter().any(|s| s.gives_back == Some(step.id)) => {
                    _ = left.stopped.insert(name.clone());
                }
                // Found running while a shutdown was still under way is not started: the next plan looks again.
                (POWER, Some("on")) if done => {
                    let stop = step.gives_back.map(|id| &self.steps[id - 1]);
                    if stop.is_none_or(|s| matches!(s, StepState::Done { .. })) {
                        _ = left.stopped.remove(name);
                    }
                }
                _ => {}
            }
        }
        left
    }
}

/// Where records are kept.
pub trait Store: Send {
    /// Makes a record durable. When this returns, a power cut does not lose it.
    ///
    /// # Errors
    /// Disk full, for one; nothing may be done then.
    fn append(&mut self, record: &Record) -> Result<(), Error>;
}

/// The embedded store: one file per run in a folder.
pub struct Journal {
    file: File,
    path: PathBuf,
}

impl Journal {
    /// Begins a run.
    ///
    /// # Errors
    /// Where the folder cannot be written.
    pub fn create(folder: &Path, number: u32) -> Result<Self, Error> {
        let path = folder.join(format!("run-{number:06}.journal"));
        let file = files::append(&path)?;
        // The name must survive a power cut as well as the content.
        files::sync_folder(folder)?;
        Ok(Self { file, path })
    }

    /// Goes on with a run: a torn end is cut off first.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn reopen(path: &Path, good_bytes: u64) -> Result<Self, Error> {
        let file = files::append(path)?;
        let journal = Self { file, path: path.into() };
        journal.file.set_len(good_bytes).map_err(|e| journal.failed(&e))?;
        Ok(journal)
    }

    fn failed(&self, error: &std::io::Error) -> Error {
        Error::new(Kind::Internal, format!("{}: {error}", self.path.display()))
            .hint("nothing is done that cannot be recorded: make room, then run `vsgpu apply` again")
    }
}

impl Store for Journal {
    fn append(&mut self, record: &Record) -> Result<(), Error> {
        let json = serde_json::to_string(record).map_err(|e| Error::new(Kind::Internal, e.to_string()))?;
        let line = format!("{:08x} {json}\n", crc32fast::hash(json.as_bytes()));
        self.file.write_all(line.as_bytes()).and_then(|()| self.file.sync_data()).map_err(|e| self.failed(&e))
    }
}

/// A run that was read back.
pub struct Stored {
    /// Its number.
    pub number: u32,
    /// Its file.
    pub path: PathBuf,
    /// What it tells.
    pub status: Status,
    /// Length of the undamaged part.
    pub good_bytes: u64,
}

/// Numbers of all runs in a folder, latest first.
fn numbers(folder: &Path) -> Vec<u32> {
    let number_of = |name: String| name.strip_prefix("run-")?.strip_suffix(".journal")?.parse::<u32>().ok();
    let names = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.file_name().to_string_lossy().into_owned());
    let mut all: Vec<u32> = names.filter_map(number_of).collect();
    all.sort_unstable_by(|a, b| b.cmp(a));
    all
}

/// The latest run in a folder that did anything: one whose very first record was torn never did.
///
/// # Errors
/// Where its file is damaged in the middle, or of another version.
pub fn latest(folder: &Path) -> Result<Option<Stored>, Error> {
    for number in numbers(folder) {
        if let Some(run) = read(folder, number)? {
            return Ok(Some(run));
        }
    }
    Ok(None)
}

fn read(folder: &Path, number: u32) -> Result<Option<Stored>, Error> {
    let path = folder.join(format!("run-{number:06}.journal"));
    let text = files::read_text(&path, MAX_JOURNAL)?;
    let damaged = |why: String| {
        Error::new(Kind::Blocked, format!("{}: {why}", path.display()))
            .hint("move that file aside and run `vsgpu plan`: all nodes are looked at anew, but a host left in maintenance mode must be brought out by hand")
    };
    let (mut status, mut good_bytes) = (None::<Status>, 0);
    let mut lines = text.split_inclusive('\n').enumerate().peekable();
    while let Some((at, line)) = lines.next() {
        let record = match parse(line) {
            Ok(record) => record,
            Err(_) if lines.peek().is_none() => break,
            Err(why) => return Err(damaged(format!("line {} is damaged: {why}", at + 1))),
        };
        match &mut status {
            None => status = Some(Status::first(record).map_err(damaged)?),
            Some(status) => status.next(&record).map_err(|why| damaged(format!("line {}: {why}", at + 1)))?,
        }
        good_bytes += line.len() as u64;
    }
    Ok(status.map(|status| Stored { number, path: path.clone(), status, good_bytes }))
}

fn parse(line: &str) -> Result<Record, String> {
    let (crc, json) = line.strip_suffix('\n').and_then(|l| l.split_once(' ')).ok_or("it is cut off")?;
    if format!("{:08x}", crc32fast::hash(json.as_bytes())) != crc {
        return Err("its checksum is wrong".into());
    }
    serde_json::from_str(json).map_err(|e| e.to_string())
}

/// The number of the next run: never one that was used, not even by a run that did nothing.
pub fn next_number(folder: &Path) -> u32 {
    numbers(folder).first().map_or(1, |last| last + 1)
}

/// Holds the fleet for one `apply`; released when dropped or when the process ends.
pub struct Lock(#[expect(dead_code, reason = "held, not read")] nix::fcntl::Flock<File>);

/// Whether an `apply` is at work on this fleet now.
pub fn at_work(folder: &Path) -> bool {
    folder.join("lock").exists() && lock(folder).is_err_and(|e| e.kind == Kind::Blocked)
}

/// Takes the lock.
///
/// # Errors
/// Where another `apply` holds it.
pub fn lock(folder: &Path) -> Result<Lock, Error> {
    let path = folder.join("lock");
    match nix::fcntl::Flock::lock(files::append(&path)?, nix::fcntl::FlockArg::LockExclusiveNonblock) {
        Ok(held) => Ok(Lock(held)),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Err(Error::new(Kind::Blocked, "another `vsgpu apply` is at work on this fleet")
            .hint("wait for it, or see how far it is: `vsgpu status`")),
        Err((_, why)) => Err(Error::new(Kind::Internal, format!("{}: {why}", path.display()))),
    }
}
