//! Symptom, cause, fix: what is known of failures of GPUs on vSphere, as data, and the search for it in texts of hosts and
//! guests. One catalogue for errors of `apply`, health, metrics and `vsgpu diagnose`; a cause's id is the code that
//! `vsgpu explain` takes.

mod cause;
mod find;
mod known;
mod log_findings;
#[cfg(test)]
mod tests;

pub use cause::{At, Cause, Confidence, Fix, On, Source, Stage};
pub use find::{Evidence, Finding, Input, Report, diagnose, first_cause, split_page};
pub use known::{all, named};
pub use log_findings::LogFindings;
