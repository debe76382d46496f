//! The gateway of a GPU server: `vsgpu-pool`. It is the only one who gives its GPUs away, so nothing can be
//! given twice, and it needs nobody for it: a controller sets the policy and looks. Its leases end with it;
//! what it finds running at its start is ended. There is nothing to recover.

mod actor;
mod audit;
mod configuration;
mod engines;
mod local;
mod serve;
mod tunnels;

pub use engines::Place;
pub use local::{Answer, Request, ask};
pub use serve::{Options, serve};
