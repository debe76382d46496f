//! The command lines of both programs.

pub mod gpu;
pub mod pool;

use crate::client::CliError;
use clap::ValueEnum;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use vsgpu_core::System;
use vsgpu_core::text::visible;
use vsgpu_machine::Posix;

/// Of what a screen is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Text,
    /// One JSON object
    Json,
}

/// The machine that a program runs on; the options are for tests and copies of one.
#[derive(clap::Args, Debug)]
struct Machine {
    /// Folder searched first for every external program
    #[arg(long, value_name = "DIR", hide = true)]
    tools: Option<PathBuf>,
    /// Prefix of every file that is read
    #[arg(long, value_name = "DIR", default_value = "/", hide = true)]
    root: PathBuf,
}

impl Machine {
    fn system(&self) -> Arc<dyn System> {
        Arc::new(Posix::new(self.tools.clone(), self.root.clone()).without_notes())
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, String> {
    tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .max_blocking_threads(160)
        .build()
        .map_err(|e| e.to_string())
}

#[expect(clippy::print_stderr, reason = "the programs' words for people beside their output")]
fn complain(program: &str, text: &str, hint: &str) {
    eprintln!("{program}: {}", visible(text));
    if !hint.is_empty() {
        eprintln!("{:width$}  {}", "", visible(hint), width = program.len());
    }
}

fn print(text: &str) -> ExitCode {
    // Whoever reads no further wants no more.
    let _ = std::io::stdout().write_all(visible(text).as_bytes());
    ExitCode::SUCCESS
}

/// Reads a command line and does what it says; what failed is said.
fn main_of<C: clap::Parser, E: Into<CliError>>(
    program: &str,
    run: impl FnOnce(C) -> Result<ExitCode, E>,
) -> ExitCode {
    let cli = match C::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    run(cli).unwrap_or_else(|error| {
        let CliError { status, text, hint } = error.into();
        complain(program, &text, &hint);
        ExitCode::from(status)
    })
}
