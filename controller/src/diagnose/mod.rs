//! From symptoms to causes: texts and archives that somebody has, or a fleet as its agents see it now.

mod archive;
pub mod bundle;
mod by_facts;
mod chain;
mod moments;

pub use archive::{Archive, Text, read as read_archive};
pub use chain::{Diagnosis, Link, State, of_fleet};
pub use moments::Together;
