//! A client of GPU servers: `vsgpu-gpu`. Its daemon holds the machine's key, asks the gateways and carries the
//! bytes; what users call (`run`, `list`, `status`) speaks to it over a local socket.

mod choose;
mod daemon;
mod group;
mod local;
mod owner;
mod run;
mod screens;

pub use daemon::{Options, serve};
pub use local::{SOCKET, Want};
pub use run::{CliError, list, run, status};
