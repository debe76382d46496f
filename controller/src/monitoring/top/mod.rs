//! The fleet at a glance, from the metrics of all agents.

mod bars;
mod lines;
mod needs;
mod page;
mod summary;

pub use bars::{gib, of_vgpu, parts, room, said};
pub use lines::{Block, Line, Part, View, detail, view};
pub use needs::{Need, Severity, needs, of_node};
pub use summary::{FleetSummary, Gpu, GpuServer, Node, Run, Seats, Usable, Vgpu, Wishes, glance, seats};
