//! Before there is a fleet: what is out there, agents on it, certificates.

pub mod bootstrap;
pub mod certificates;
pub mod discover;
