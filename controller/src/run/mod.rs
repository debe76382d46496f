//! One run: from its beginning, or from wherever it was left, to its end.

mod activation;
mod agents;
mod apply;
mod engine;
mod event;
mod request;
mod rollback;
mod rollout_budget;
mod step;

pub use agents::LEASE_SECS;
pub use engine::{Stopped, Summary, Walk, Word, run};
pub use event::Event;
pub use request::{Audience, Ended, Request, Unfinished};
pub use rollback::way_back;
pub use rollout_budget::{Gate, Keeper};
