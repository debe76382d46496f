//! One run: from its beginning, or from wherever it was left, to its end.

mod agents;
mod apply;
mod counted;
mod engine;
mod event;
mod reboot;
mod request;
mod rollback;
mod rollout_budget;
mod step;

pub use agents::LEASE_SECS;
pub use counted::tell;
pub use engine::{Control, RunOptions, Stopped, Summary, run};
pub use event::Event;
pub use request::{Request, RunObserver, RunOutcome, Unfinished};
pub use rollback::way_back;
pub use rollout_budget::{Admission, RolloutBudget};
