//! From fleet and inventory to a plan: complete, immutable, with every command. `verify` says what is not as
//! the fleet file wants it.

pub mod adopt;
mod assign;
mod changes;
mod cluster_wide;
mod evacuation;
mod host;
mod image;
mod leftovers;
mod order;
mod planned;
mod planner;
mod problems;
mod rollout;
mod spelling;
mod steps;
pub mod verify;

pub use assign::settled;
pub use evacuation::Moves;
pub use leftovers::{Leftovers, RebootedFor, still_outstanding};
pub use planned::Planned;
pub use planner::plan;
pub use rollout::{IN_MAINTENANCE, look_again};
pub use steps::{Cluster, Plan, Problem, Rollout, Step, VERSION, Work, digest};
