//! `vsgpu-gpu`: what users of a client machine call, and its daemon.

use super::{Format, Machine, complain, main_of, print, runtime};
use crate::client::{self, CliError, Options, SOCKET};
use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;
use vsgpu_core::amounts::{Memory, Span};
use vsgpu_wire::server::{log_to_stderr, tell_systemd};

const PROGRAM: &str = "vsgpu-gpu";

/// GPUs of other machines for programs of this one
#[derive(Parser)]
#[command(name = PROGRAM, version, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
    /// Where the daemon of this machine answers
    #[arg(long, value_name = "FILE", default_value = SOCKET, global = true)]
    socket: PathBuf,
}

#[derive(Subcommand)]
enum Verb {
    /// Wait for GPUs, run a program with them, give them back
    ///
    /// Exit status: the program's own. Before it was started: 69 no server is reached, 75 not granted in time,
    /// 77 not allowed, 126 and 127 the program cannot be started or is not there.
    Run {
        #[command(flatten)]
        want: Want,
        /// The program and its arguments, behind `--`
        #[arg(last = true, required = true, value_name = "COMMAND")]
        command: Vec<String>,
    },
    /// The same with a shell
    Shell {
        #[command(flatten)]
        want: Want,
    },
    /// The same with vsgpu's own proof: vectors are added on each GPU, every result is checked
    Prove {
        #[command(flatten)]
        want: Want,
        /// Elements of each vector addition [default: 50000 and 1000000]
        elements: Vec<u64>,
    },
    /// Show the GPUs of all servers
    List {
        /// Output format
        #[arg(short, long, value_enum, default_value_t = Format::Text)]
        output: Format,
    },
    /// Show the GPU leases of this machine
    Status {
        /// Output format
        #[arg(short, long, value_enum, default_value_t = Format::Text)]
        output: Format,
    },
    /// Serve the users of this machine until killed
    Daemon(Daemon),
}

#[derive(clap::Args)]
struct Want {
    /// How many GPUs, all of one server
    #[arg(short = 'n', long, value_name = "NUMBER", default_value_t = 1)]
    num_gpus: u32,
    /// Only GPUs with at least so much memory: `8GiB`; a bare number is MiB
    #[arg(short, long, value_name = "SIZE")]
    memory: Option<Memory>,
    /// Only GPUs that are so: `device.name=A100`, `device.uuid=GPU-..`; several must all hold
    #[arg(long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// How long to wait for them: `10m`; `0s`: not at all [default: as long as it takes]
    #[arg(long, value_name = "TIME")]
    wait: Option<Span>,
    /// Only of this server
    #[arg(long, value_name = "NAME")]
    server: Option<String>,
    /// Bitfusion's parts of a GPU: there are none here
    #[arg(short, long, value_name = "FRACTION", hide = true)]
    partial: Option<String>,
}

#[derive(clap::Args)]
struct Daemon {
    #[command(flatten)]
    machine: Machine,
    /// Folder with ca.pem, node.pem and node.key, as `vsgpu cert issue` makes it
    #[arg(long, value_name = "DIR", default_value = "/etc/vsgpu")]
    pki: PathBuf,
}

/// The command line, for help texts and man pages.
pub fn command() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}

/// Runs the program.
pub fn main() -> ExitCode {
    main_of(PROGRAM, run)
}

fn run(cli: Cli) -> Result<ExitCode, CliError> {
    let runtime = runtime()?;
    let socket = &cli.socket;
    match cli.verb {
        Verb::Run { want, command } => lease(&runtime, socket, want, command),
        Verb::Shell { want } => lease(&runtime, socket, want, vec![shell()]),
        Verb::Prove { want, elements } => {
            let elements = if elements.is_empty() { vec![50_000, 1_000_000] } else { elements };
            let elements = elements.iter().flat_map(|n| ["--elements".to_string(), n.to_string()]);
            let command = std::iter::once(proof()).chain(elements).collect();
            lease(&runtime, socket, want, command)
        }
        Verb::List { output } => {
            runtime.block_on(client::list(socket, output == Format::Json)).map(|text| print(&text))
        }
        Verb::Status { output } => {
            runtime.block_on(client::status(socket, output == Format::Json)).map(|text| print(&text))
        }
        Verb::Daemon(Daemon { machine, pki }) => {
            log_to_stderr();
            let options = Options { system: machine.system(), pki, socket: cli.socket };
            runtime.block_on(client::serve(options, tell_systemd))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Where the package puts the proof; else it is looked for as any program.
fn proof() -> String {
    let packaged = "/usr/lib/vsgpu/vsgpu-cuda-proof";
    if std::path::Path::new(packaged).exists() { packaged.into() } else { "vsgpu-cuda-proof".into() }
}

#[expect(clippy::disallowed_methods, reason = "the user's own shell")]
fn shell() -> String {
    std::env::var("SHELL").ok().filter(|shell| !shell.is_empty()).unwrap_or("/bin/bash".into())
}

fn lease(
    runtime: &tokio::runtime::Runtime,
    socket: &std::path::Path,
    want: Want,
    command: Vec<String>,
) -> Result<ExitCode, CliError> {
    if want.partial.is_some() {
        return Err(CliError {
            status: 2,
            text: "a GPU is given whole: there is no `-p`".into(),
            hint: "leave it out; `-m 8GiB` asks for one with at least so much memory".into(),
        });
    }
    let wanted = client::Want {
        gpus: want.num_gpus,
        memory_mib: want.memory.map_or(0, |memory| memory.mib),
        filters: want.filter,
        wait_millis: want.wait.map(|wait| wait.secs * 1000),
        server: want.server,
    };
    let tell = |line: &str| complain(PROGRAM, line, "");
    runtime.block_on(client::run(socket, wanted, command, tell)).map(ExitCode::from)
}
