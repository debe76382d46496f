//! The doors to a machine: its files and programs here (`local`) or over ssh (`over_ssh`), both as core's
//! `System`. The only crate that starts programs and touches a machine's files. Deliberately absent: tonic,
//! TLS, and everything about agents.
#![warn(missing_docs)]

mod beneath;
mod bitfusion_tokens;
mod boot;
pub mod child;
mod cuda_samples;
pub mod foreground;
mod io_error;
pub mod local;
pub mod over_ssh;
pub mod own_folder;
pub mod package;
mod root;
pub mod ssh;
mod staging;
pub mod summary;

pub use local::Posix;
pub use over_ssh::OverSsh;
