//! The vSphere API (vCenter and standalone ESXi): SOAP over TLS that trusts one certificate or one CA. What is in the
//! inventory, and what the service account may do. Typed methods only; every wait has a deadline, every answer a bound.
//!
//! Deliberately absent: a way to trust nobody's word ("insecure"), redirects (one of `/sdk` is an error), and types for
//! the whole API: a call is written where it is made, its elements in the order of the schema, which servers insist on.
#![warn(missing_docs)]

pub mod access;
pub mod change;
pub mod clone;
pub mod cluster;
pub mod counters;
pub mod direct_path;
pub mod esxcli;
pub mod evacuation;
mod fault;
pub mod files;
pub mod host;
pub mod host_methods;
mod https;
pub mod images;
pub mod inventory;
pub mod offered;
mod properties;
pub mod report;
mod rest;
mod sending;
pub mod session;
mod soap;
pub mod tasks;
mod trust;
pub mod vm;

pub use fault::Fault;
pub use session::Session;
pub use soap::Ref;
pub use trust::Trust;
