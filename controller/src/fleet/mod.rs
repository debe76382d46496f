//! The fleet file: what is wanted of hosts, VMs and guests. `file` reads it, the others say what may stand in
//! it.

pub mod deadlines;
pub mod driver_catalogue;
pub mod expectation;
pub mod file;
pub mod maintenance;
pub mod model;
pub mod own_tables;
pub mod package;
pub mod pool;
pub mod range;
pub mod rollout;
pub mod schema;
pub mod specs;
pub mod yaml;

pub use deadlines::Deadlines;
pub use driver_catalogue::DriverCatalogue;
pub use expectation::Expectation;
pub use maintenance::{Maintenance, WithVms};
pub use model::{Fleet, Guest, Host, Vm};
pub use rollout::{Share, Strategy};
pub use specs::{Spec, Specs};
