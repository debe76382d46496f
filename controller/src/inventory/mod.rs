//! What all nodes were seen to be: facts with their types, and what follows from them alone.

pub mod acquired;
mod elsewhere;
mod follow;
mod gather;
pub mod gpus;
pub mod readiness;
pub mod saved;
mod seen;
pub mod shared;

pub use elsewhere::elsewhere;
pub use follow::follow;
pub(crate) use gather::patient;
pub use gather::{Scope, describe, gather, needed, reaches};
pub use seen::{Inventory, NoFact, Seen};
