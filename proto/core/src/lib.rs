//! The vocabulary of vsgpu. Pure: no I/O, no async, no clock, no environment.
//!
//! A *fact* is what a machine was seen to be, a *requirement* says what is wrong with a fact and which
//! *effects* mend it. `observe` looks, `apply` makes it so and verifies, alike for all requirements, through `System`; whatever
//! really touches a machine stands in the doors (`vsgpu-machine`).
#![warn(missing_docs)]

pub mod amounts;
pub mod apply;
pub mod artifact;
pub mod catalogue;
pub mod cuda_samples;
pub mod diagnosis;
pub mod disk_room;
pub mod effect;
pub mod effects;
pub mod engine;
pub mod failpoint;
pub mod gpu_selector;
pub mod knowledge;
pub mod machine;
pub mod observation;
pub mod observe;
pub mod outcome;
pub mod package_role;
mod packages;
pub mod pool;
pub mod readers;
pub mod requirement;
pub mod suggest;
pub mod system;
pub mod text;
pub mod units;
pub mod word_or_map;
pub mod words;

pub use artifact::Artifact;
pub use catalogue::{Catalogue, Entry, FactEntry, judge};
pub use effect::{Command, Effect, InVcenter, Probe};
pub use observation::{Observation, Unreadable};
pub use requirement::{Fact, Needs, Requirement, Scope, Subject, TakesEffect, Verdict};
pub use system::{BootIdentity, ExitKind, Incoming, IoError, OpenedBy, Output, Staged, System, UploadError};
pub use word_or_map::WordOr;
