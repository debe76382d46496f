//! The fleet at a glance, from the metrics of all agents.

mod lines;
mod page;
mod summary;

pub use lines::{Line, Mood, View, view};
pub use summary::{Glance, Gpu, Node, Run, Seats, Vgpu, Wishes, glance};
