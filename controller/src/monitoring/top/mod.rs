//! The fleet at a glance, from the metrics of all agents.

mod lines;
mod page;
mod summary;

pub use lines::{Block, Line, Part, Severity, View, detail, view};
pub use summary::{FleetSummary, Gpu, GpuServer, Node, Run, Seats, Usable, Vgpu, Wishes, glance};
