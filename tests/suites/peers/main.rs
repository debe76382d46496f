//! Suites beside real peers that not every machine has: sshd and busybox, a terminal, Prometheus, another local
//! user, a link that is cut, a disk that is full. One program, in which they wait together.
//! `cargo test -p vsgpu-tests --test peers over_ssh::` runs one of them.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "test code"
)]

mod cut_link;
mod full_disk;
mod monitoring;
mod other_user;
mod over_ssh;
mod terminal;

fn main() -> std::process::ExitCode {
    vsgpu_tests::harness::main(&[
        ("cut_link", cut_link::TESTS),
        ("full_disk", full_disk::TESTS),
        ("monitoring", monitoring::TESTS),
        ("other_user", other_user::TESTS),
        ("over_ssh", over_ssh::TESTS),
        ("terminal", terminal::TESTS),
    ])
}
