//! Will it fit, and where: vGPUs and whole GPUs of VMs on the GPUs of hosts. Pure: no node is asked, nothing is read.
//!
//! A no is only said where it is proven: by a count that no placement can beat (`bound`), or because every placement
//! was tried (`exact`). What is neither found nor disproved is said to be so.

mod boards;
mod bound;
mod exact;
mod fits;
mod gpu;
mod moves;
mod nearest;
mod orders;
mod place;
mod placement;
mod problem;
mod solve;
mod why;
mod words;

#[cfg(test)]
mod tests;

pub use boards::model;
pub use bound::{Need, fillings};
pub use fits::{Fits, Held, Spot};
pub use gpu::{Contents, Gpu, Mode, Modes};
pub use moves::{Move, make_room};
pub use nearest::nearest;
pub use orders::{Policy, PowerOns, power_on};
pub use place::{FirstFit, without_moves};
pub use placement::{Placed, Placement};
pub use problem::{Host, Part, Problem, WHOLE, Want};
pub use solve::{Answer, doubtful, solve, spare};
pub use words::{hosts, profile, wants};
