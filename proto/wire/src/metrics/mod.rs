//! Metrics as Prometheus reads them, and the listener that serves them.

mod counters;
pub mod listener;
mod sample;

pub(crate) use counters::{Metrics, Snapshot};
pub(crate) use sample::encoded;
pub use sample::{CERTIFICATE_END, Sample, text};
