//! The operator's disk: what was not flushed is lost with the power, or torn; and it may fail at any write.

use crate::Rng;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use vsgpu::error::{Error, Kind};
use vsgpu::journal::{Disk, Log, Record};

/// When simulated time begins, for those who ask for the date: seconds since 1970.
pub const EPOCH: u64 = 1_800_000_000;

/// A step of a run: its host, and the seconds of simulated time between which it was at work.
#[derive(Clone, Debug)]
pub struct Span {
    pub run: u32,
    pub step: usize,
    pub host: String,
    pub begun: u64,
    pub ended: u64,
}

#[derive(Clone, Debug, Default)]
pub struct File {
    pub synced: Vec<u8>,
    pub written: Vec<u8>,
}

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<u32, File>,
    /// Writes until the disk fails, and for how many it does.
    fails_in: Option<(usize, usize)>,
    /// Whether a failing write leaves a part of itself.
    tears: bool,
    writes: usize,
}

/// A disk in memory; clones share it.
#[derive(Clone, Debug, Default)]
pub struct MemoryDisk(Arc<Mutex<State>>);

impl MemoryDisk {
    /// The n-th write from now fails, and `times` in a row; `tears`: it leaves a part of itself.
    pub fn fail(&self, n: usize, times: usize, tears: bool) {
        let mut state = self.0.lock().unwrap();
        state.fails_in = Some((n, times));
        state.tears = tears;
    }

    pub fn writes(&self) -> usize {
        self.0.lock().unwrap().writes
    }

    pub fn files(&self) -> BTreeMap<u32, Vec<u8>> {
        self.0.lock().unwrap().files.iter().map(|(n, f)| (*n, f.written.clone())).collect()
    }

    pub fn put(&self, number: u32, bytes: &[u8]) {
        self.0.lock().unwrap().files.insert(number, File { synced: bytes.into(), written: bytes.into() });
    }

    /// When steps were begun and ended, as the records tell it.
    pub fn steps(&self) -> Result<Vec<Span>, String> {
        let mut spans: Vec<Span> = vec![];
        for (number, bytes) in self.files() {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let mut plan = None;
            // A line is `checksum length record`; the last one may be torn.
            for record in
                text.lines().filter_map(|l| serde_json::from_str::<Record>(l.splitn(3, ' ').nth(2)?).ok())
            {
                match record {
                    Record::Planned { plan: planned, .. } => plan = Some(planned),
                    Record::Started { at, step, .. } => {
                        let host = plan
                            .as_ref()
                            .map(|p| p.steps[step - 1].host.clone())
                            .ok_or(format!("run {number} begins without a plan"))?;
                        spans.push(Span {
                            run: number,
                            step,
                            host,
                            begun: at.saturating_sub(EPOCH),
                            ended: u64::MAX,
                        });
                    }
                    Record::Done { at, step, .. } | Record::Failed { at, step, .. } => {
                        let open = spans
                            .iter_mut()
                            .filter(|s| s.run == number && s.step == step && s.ended == u64::MAX);
                        open.for_each(|span| span.ended = at.saturating_sub(EPOCH));
                    }
                    Record::Ended { .. } | Record::Released { .. } | Record::Task { .. } => {}
                }
            }
        }
        Ok(spans)
    }

    /// The power goes: of what was not flushed, a part of any length is there.
    pub fn power_cut(&self, rng: &mut Rng) {
        for file in self.0.lock().unwrap().files.values_mut() {
            let unsynced = file.written.len().saturating_sub(file.synced.len());
            let kept = rng.below(unsynced as u64 + 1) as usize;
            // Either nothing, or a torn part: never the whole, or a test would not see what was not flushed.
            let kept = if rng.one_in(2) { 0 } else { kept.min(unsynced.saturating_sub(1)) };
            file.written.truncate(file.synced.len() + kept);
            file.synced = file.written.clone();
        }
    }
}

struct Open(MemoryDisk, u32);

impl Log for Open {
    fn append(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        let mut state = self.0.0.lock().unwrap();
        state.writes += 1;
        let fails = match &mut state.fails_in {
            Some((0, 0)) => false,
            Some((0, times)) => {
                *times -= 1;
                true
            }
            Some((n, _)) => {
                *n -= 1;
                false
            }
            None => false,
        };
        let part = if !fails {
            bytes.len()
        } else if state.tears {
            bytes.len() / 2
        } else {
            0
        };
        state.files.entry(self.1).or_default().written.extend_from_slice(&bytes[..part]);
        if fails { Err(std::io::Error::from_raw_os_error(28)) } else { Ok(()) }
    }

    fn sync(&mut self) -> std::io::Result<()> {
        let mut state = self.0.0.lock().unwrap();
        let file = state.files.entry(self.1).or_default();
        file.synced = file.written.clone();
        Ok(())
    }
}

impl Disk for MemoryDisk {
    fn numbers(&self) -> Vec<u32> {
        self.0.lock().unwrap().files.keys().rev().copied().collect()
    }

    fn read(&self, number: u32) -> Result<Vec<u8>, Error> {
        let state = self.0.lock().unwrap();
        state
            .files
            .get(&number)
            .map(|f| f.written.clone())
            .ok_or_else(|| Error::new(Kind::Usage, "no such run"))
    }

    fn open(&self, number: u32, keep: Option<u64>) -> Result<Box<dyn Log>, Error> {
        let mut state = self.0.lock().unwrap();
        let file = state.files.entry(number).or_default();
        if let Some(keep) = keep {
            file.written.truncate(usize::try_from(keep).unwrap_or(usize::MAX));
            file.synced = file.written.clone();
        }
        Ok(Box::new(Open(self.clone(), number)))
    }

    fn name(&self, number: u32) -> String {
        format!("run {number}")
    }
}
