//! From symptoms to causes: texts and archives that somebody has, or a fleet as its agents see it now.

mod archive;
mod chain;

pub use archive::{Text, read as read_archive};
pub use chain::{Diagnosis, Link, State, of_fleet};
