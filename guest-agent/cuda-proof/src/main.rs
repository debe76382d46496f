//! `vsgpu-cuda-proof`: adds vectors on every GPU of this machine, checks every result, and prints one line of
//! JSON.
//!
//! A program of its own, so that a wedged driver wedges only this process (the agent ends it at its
//! deadline), and so that the agent itself needs no dynamic library. Also for bare metal: its report there is
//! the baseline that `vsgpu baseline` reads.

mod driver_api;
mod prove;

use clap::Parser;
use std::io::Write as _;
use std::process::ExitCode;

/// Proves that CUDA works on the GPUs of this machine: vector additions with every result checked, memory
/// bandwidth, copies and launches. Needs NVIDIA's driver, no toolkit.
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// Elements of a vector addition; can be given several times [default: 50000, and 100000000 or what the
    /// memory holds]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=4_000_000_000))]
    elements: Vec<u64>,
}

fn main() -> ExitCode {
    let report = prove::run(&Cli::parse().elements);
    let line = serde_json::to_string(&report).unwrap_or_default();
    if writeln!(std::io::stdout(), "{line}").is_ok() && report.passed() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
