//! The file that keeps what a proof printed, with the boot and what it depends on: the driver, or for a network GPU
//! its configuration. Looking at a proof again runs nothing on the GPU.

use serde::Deserialize;
use vsgpu_core::system::Output;
use vsgpu_core::{Observation, Probe, Unreadable};

/// Names the running driver; a proof made with another one is none.
pub(crate) const DRIVER: &str = "/proc/driver/nvidia/version";

#[derive(Deserialize)]
pub(crate) struct Record {
    version: u32,
    /// When it was made, seconds since 1970.
    pub at: u64,
    boot_id: String,
    /// What it depends on, as it was then: the driver, or a configuration.
    beside: Option<String>,
    /// What was run, in its order.
    pub outputs: Vec<Run>,
}

#[derive(Deserialize)]
pub(crate) struct Run {
    pub command: String,
    pub output: Output,
}

pub(crate) fn probes(path: &str) -> Vec<Probe> {
    vec![Probe::Read(path.into()), Probe::Read(DRIVER.into()), Probe::BootId]
}

/// The record; one that cannot be read is no proof, and the next run replaces it.
pub(crate) fn read(seen: &Observation, path: &str) -> Result<Option<Record>, Unreadable> {
    // One that is too large to be read is none, too.
    let record = seen.file(path).unwrap_or_default().and_then(|t| serde_json::from_str::<Record>(t).ok());
    Ok(record.filter(|r| r.version == 1 && !r.outputs.is_empty()))
}

impl Record {
    /// Made in the running boot, with the running driver.
    pub(crate) fn is_of_now(&self, seen: &Observation) -> Result<bool, Unreadable> {
        self.is_of(seen, DRIVER)
    }

    /// Made in the running boot, with this file as it is.
    pub(crate) fn is_of(&self, seen: &Observation, beside: &str) -> Result<bool, Unreadable> {
        Ok(seen.text(&Probe::BootId)? == Some(&self.boot_id) && seen.file(beside)? == self.beside.as_deref())
    }

    pub(crate) fn commands(&self) -> Vec<String> {
        self.outputs.iter().map(|r| r.command.clone()).collect()
    }
}
