//! Engines for GPUs over the network: programs of others that carry CUDA calls from a client to a GPU server. vsgpu writes
//! none and ships none; each one is data here, a file each, and is brought by the operator as a bundle ([`manifest`]).

mod described;
mod known;
pub mod lupine;
pub mod manifest;

pub use described::Engine;
pub use known::{ALL, named};
