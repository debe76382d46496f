//! The append-only record of a run, and what it tells: where the run is, what is ours to restore, what
//! became of each node.

mod estimate;
mod history;
pub mod outcome;
mod outstanding;
mod record;
mod status;
mod store;
pub mod timeline;
pub mod trace;

pub use estimate::{Estimate, estimate, said};
pub use history::History;
pub use outstanding::outstanding;
pub use record::{EndReason, Purpose, Record};
pub use status::{Status, StepState};
pub use store::{
    Disk, Folder, Journal, Lock, Log, Store, Stored, at_work, latest, latest_where, lock, next_number,
    numbered, records, set_aside, with_records,
};
