//! A simulated vCenter (or standalone ESXi): the part of its API that the gateway speaks, over real TLS. It refuses
//! what the real one refuses: calls without a session, elements out of the schema's order, unknown ones, objects that it
//! does not have, more sessions than it takes; it answers in pages. Order of elements: the types' own documentation.
//!
//! It is written by the same people as the client. VMware's own simulator is the second peer, where it is at hand
//! (`VSGPU_VCSIM`).

mod changes;
mod clones;
mod drs;
mod http;
mod images;
mod machine;
mod schema;
mod software;
mod world;

pub use drs::Drs;
pub use http::{Certificate, Served, serve};
pub use images::Images;
pub use world::{SimHost, World};
