//! The fleet at a glance, from the metrics of all agents.

mod lines;
mod page;
mod summary;

pub use lines::{Line, Severity, View, view};
pub use summary::{FleetSummary, Gpu, Node, Run, Seats, Vgpu, Wishes, glance};
