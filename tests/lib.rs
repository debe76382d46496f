//! The lab: simulated ESXi hosts and Linux guests that behave, and real agents around them. Everything here
//! is simulation and says so wherever a user sees it; nothing of it is part of the product.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::exit,
    reason = "test code: it plays the machines that the product must not touch"
)]

pub mod fakes;
pub mod guide_bench;
pub mod harness;
pub mod http;
pub mod lab;
pub mod real;
pub mod vcenter;
