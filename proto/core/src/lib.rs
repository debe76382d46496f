//! The vocabulary of vsgpu. Pure: no I/O, no async, no clock, no environment.
//!
//! A *fact* is what a machine was seen to be, a *requirement* says what is wrong with a fact and which
//! *effects* mend it. `execute` observes, applies and verifies all requirements alike, through the one
//! door `System`; whatever really touches a machine lives in the agents' shells.

pub mod artifact;
pub mod catalogue;
pub mod cuda_report;
pub mod cuda_samples;
pub mod effect;
pub mod esxcli;
pub mod evidence;
pub mod execute;
pub mod gpu_choice;
pub mod knowledge;
pub mod lines;
pub mod nvidia_smi;
mod packages;
pub mod planted;
pub mod requirement;
pub mod suggest;
pub mod system;
pub mod text;
mod tree;
pub mod units;
pub mod vim_cmd;
pub mod vmx;
pub mod word_or;
pub mod xml;

pub use artifact::Artifact;
pub use catalogue::{Catalogue, Entry, FactEntry, judge};
pub use effect::{Command, Effect, Probe};
pub use evidence::{Evidence, Unreadable};
pub use requirement::{Fact, Needs, Requirement, Scope, Subject, TakesEffect, Verdict};
pub use system::{BootIdentity, Ended, Holder, Incoming, Output, Staged, System, Trouble, UploadError};
pub use word_or::WordOr;
