//! An agent's side of the wire: who may ask what, who may change the node, what runs, and what it answers.

mod agent;
mod authorization;
mod blocking;
mod cli;
mod lease;
mod ledger;
mod limits;
mod listener;
mod metrics;
mod node;
mod operate;
mod operations;
mod options;
mod reboot;
mod service;
mod upload;

pub use agent::{Agent, Verb};
pub use blocking::Blocking;
pub use cli::{command, log_to_stderr, main, print_facts};
pub use listener::{Hosted, serve_hosts, simulated, tell_systemd, tell_systemd_of_waiting};
