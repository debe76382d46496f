//! Every suite that starts real controllers and agents on the lab, in one program: most of their time is
//! waiting, and so they wait together. `cargo test -p vsgpu-tests --test lab journey::` runs one of them.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "test code"
)]

mod adoption;
mod attack;
mod bad_input;
mod bitfusion;
mod decide;
mod disk_faults;
mod gpu_server_upkeep;
mod gpus;
mod guests;
mod hostile;
mod journey;
mod kills;
mod network_gpu;
mod runs;
mod slot_proof;
mod two_gpu_servers;
mod upgrade;
