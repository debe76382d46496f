//! `vsgpu-pool`: serves, and answers what its own machine asks.

use super::{Format, Machine, main_of, print, runtime};
use crate::gateway::{Answer, Options, Place, Request, ask, serve};
use clap::{Parser, Subcommand};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use vsgpu_core::amounts::Span;
use vsgpu_core::pool::PoolStatus;
use vsgpu_core::pool::status::LeaseStatus;
use vsgpu_core::words::counted;
use vsgpu_wire::server::{log_to_stderr, tell_systemd};

const PROGRAM: &str = "vsgpu-pool";

/// GPUs of this machine for programs of other machines
#[derive(Parser)]
#[command(name = PROGRAM, version, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
    /// Where the gateway answers this machine's own questions
    #[arg(long, value_name = "FILE", default_value = "/run/vsgpu-pool/pool.sock", global = true)]
    socket: PathBuf,
}

#[derive(Subcommand)]
enum Verb {
    /// Serve until killed
    Serve(Serve),
    /// Show GPUs, GPU leases and the queue
    Status {
        /// Output format
        #[arg(short, long, value_enum, default_value_t = Format::Text)]
        output: Format,
    },
    /// Read the configuration again: another policy holds, no lease ends
    Reload,
    /// Give out no new GPU leases; those that run go on
    Drain {
        /// Wait so long for them to end: `30m`. When they have not by then, new ones are given again. When they
        /// have, new ones are kept back for ten minutes more
        #[arg(long, value_name = "TIME")]
        wait: Option<Span>,
    },
    /// Give out GPU leases again
    Undrain,
    /// Try a GPU that was out of service, and offer it again where its proof passes
    InService {
        /// Its number, as `status` shows it
        #[arg(value_name = "GPU")]
        slot: u32,
    },
}

#[derive(clap::Args)]
struct Serve {
    #[command(flatten)]
    machine: Machine,
    /// Folder with ca.pem, node.pem and node.key, as `vsgpu cert issue` makes it
    #[arg(long, value_name = "DIR", default_value = "/etc/vsgpu")]
    pki: PathBuf,
    /// Folder of the audit file
    #[arg(long, value_name = "DIR", default_value = "/var/lib/vsgpu-pool")]
    state: PathBuf,
    /// Engines on loopback from this port on, for simulated machines
    #[arg(long, value_name = "PORT", hide = true)]
    engines_on_loopback: Option<u16>,
}

/// The command line, for help texts and man pages.
pub fn command() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}

/// Runs the program.
pub fn main() -> ExitCode {
    main_of(PROGRAM, run)
}

fn run(cli: Cli) -> Result<ExitCode, String> {
    let question = match &cli.verb {
        Verb::Serve(options) => return served(options, cli.socket),
        Verb::Status { .. } => Request::Status,
        Verb::Reload => Request::Reload,
        Verb::Drain { wait: Some(wait) } => {
            let wait = Duration::from_secs(wait.secs);
            return runtime()?.block_on(drained(&cli.socket, wait)).map(|()| ExitCode::SUCCESS);
        }
        Verb::Drain { wait: None } => Request::Drain { drained: true, for_secs: None },
        Verb::Undrain => Request::Drain { drained: false, for_secs: None },
        Verb::InService { slot } => Request::InService { slot: *slot },
    };
    let answer = runtime()?.block_on(ask(&cli.socket, &question))?;
    match (answer, cli.verb) {
        (Answer::Failed(why), _) => Err(why),
        (Answer::Status(status), Verb::Status { output: Format::Json }) => {
            let text = serde_json::to_string_pretty(&status).map_err(|e| e.to_string())?;
            Ok(print(&(text + "\n")))
        }
        (Answer::Status(status), _) => Ok(print(&shown(&status))),
        (Answer::Done, _) => Ok(ExitCode::SUCCESS),
    }
}

/// Between two looks whether the last lease has ended.
const AGAIN: Duration = Duration::from_millis(500);
/// New leases are kept back so long behind the wait: for what is to be done then. Nobody needs to be there to take
/// that back.
const FOR_WORK: Duration = Duration::from_secs(600);

/// Waits until no GPU lease runs; where one still does in the end, new ones are given again.
async fn drained(socket: &Path, wait: Duration) -> Result<(), String> {
    let done = async |request: Request| match ask(socket, &request).await? {
        Answer::Failed(why) => Err(why),
        answer => Ok(answer),
    };
    let Answer::Status(before) = done(Request::Status).await? else {
        return Err("the gateway is of another version".into());
    };
    let for_secs = Some((wait + FOR_WORK).as_secs());
    done(Request::Drain { drained: true, for_secs }).await?;
    let until = tokio::time::Instant::now() + wait;
    loop {
        let Answer::Status(status) = done(Request::Status).await? else {
            return Err("the gateway is of another version".into());
        };
        // A lease that is over and whose engine hangs ends with its gateway, and with nothing else.
        let hangs = |slot: &u32| status.slots.iter().any(|s| s.slot == *slot && s.why.is_some());
        let runs = |lease: &&LeaseStatus| lease.ended.is_none() || !lease.slots.iter().any(hangs);
        let Some(lease) = status.leases.iter().find(runs) else { return Ok(()) };
        if tokio::time::Instant::now() >= until {
            // Whoever kept them back before still does.
            if !before.drained {
                done(Request::Drain { drained: false, for_secs: None }).await?;
            }
            let left = status.leases.iter().filter(runs).count();
            let again = if before.drained { "" } else { "; new ones are given again" };
            return Err(format!(
                "{left} GPU lease{} still there after {} s, the first of {} on {}{again}",
                if left == 1 { " is" } else { "s are" },
                wait.as_secs(),
                lease.user,
                lease.node
            ));
        }
        tokio::time::sleep(AGAIN).await;
    }
}

fn served(options: &Serve, socket: PathBuf) -> Result<ExitCode, String> {
    let system = options.machine.system();
    let place = match options.engines_on_loopback {
        None => Place::Namespaces,
        Some(_) if system.is_real() => {
            return Err(
                "--engines-on-loopback is for simulated machines: every local user reaches loopback".into()
            );
        }
        Some(port) => Place::Loopback(port),
    };
    log_to_stderr();
    let options = Options { system, pki: options.pki.clone(), state: options.state.clone(), socket, place };
    runtime()?.block_on(serve(options, tell_systemd))?;
    Ok(ExitCode::SUCCESS)
}

/// For people.
fn shown(status: &PoolStatus) -> String {
    let mut text = format!(
        "engine {}, CUDA {}, build {:.12}\n",
        status.engine.name, status.engine.cuda, status.engine.build
    );
    if status.drained {
        text.push_str("drained: no new GPU leases\n");
    }
    if let Some(why) = &status.blocked {
        let _ = writeln!(text, "no new GPU leases: {why}");
    }
    for slot in &status.slots {
        let _ =
            write!(text, "GPU {}  {}  {} MiB  {}", slot.slot, slot.name, slot.memory_mib, slot.state.word());
        if let Some(lease) = slot.lease {
            let _ = write!(text, ", lease {lease}");
        }
        if let Some(why) = &slot.why {
            let _ = write!(text, ": {why}");
        }
        text.push('\n');
    }
    for lease in &status.leases {
        let _ = writeln!(
            text,
            "lease {}  {} on {}  team {}  for {} s  {}",
            lease.lease,
            lease.user,
            lease.node,
            lease.team,
            lease.for_secs,
            counted(lease.connections as usize, "connection")
        );
    }
    for ask in &status.queue {
        let _ = writeln!(
            text,
            "waiting  {} on {}  team {}  {}  for {} s",
            ask.user,
            ask.node,
            ask.team,
            counted(ask.gpus as usize, "GPU"),
            ask.for_secs
        );
    }
    text
}
