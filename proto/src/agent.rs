//! The program both agents are: `serve`, and a one-shot `facts`. What differs between them is the value `Agent`.

use crate::posix::Posix;
use crate::{metrics::Sample, server};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use vsgpu_core::execute::{self, Facts};
use vsgpu_core::{Catalogue, Effect, Scope, Subject, System};

/// What one kind of agent is made of.
#[derive(Clone, Copy)]
pub struct Agent {
    /// `host` or `guest`.
    pub role: &'static str,
    /// Name of the program.
    pub program: &'static str,
    /// What it knows.
    pub catalogue: fn() -> Catalogue,
    /// Its shell.
    pub system: fn(Posix) -> Arc<dyn System>,
    /// Restarts by name, with what they run.
    pub restarts: fn() -> Vec<(&'static str, Vec<Effect>)>,
    /// What starts a reboot.
    pub reboot: fn() -> Effect,
    /// Its own metrics, from the facts.
    pub samples: fn(&Facts) -> Vec<Sample>,
}

#[derive(Parser)]
#[command(version, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Serve the controller and the monitoring until killed
    Serve(Serve),
    /// Print the facts of this node and change nothing
    Facts(FactsArgs),
}

#[derive(Args, Clone)]
struct Machine {
    /// Folder searched first for every external program
    #[arg(long, value_name = "DIR")]
    tools: Option<PathBuf>,
    /// Prefix of every file that is read or written
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
}

/// Options of `serve`.
#[derive(Args, Clone)]
pub struct Serve {
    #[command(flatten)]
    machine: Machine,
    /// Folder with ca.pem, node.pem and node.key, as `vsgpu cert issue` makes it
    #[arg(long, value_name = "DIR", default_value = "/etc/vsgpu")]
    pub(crate) pki: PathBuf,
    /// Where the controller connects to
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:7443")]
    pub(crate) listen: SocketAddr,
    /// Where Prometheus scrapes
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9743")]
    pub(crate) metrics: SocketAddr,
    /// Seconds between two looks for the metrics
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub(crate) observe_every: u32,
    /// Write the address to this file when the agent listens
    #[arg(long, value_name = "FILE")]
    pub(crate) ready_file: Option<PathBuf>,
}

#[derive(Args)]
struct FactsArgs {
    #[command(flatten)]
    machine: Machine,
    /// Facts of a VM of this host instead
    #[arg(long, value_name = "NAME")]
    vm: Option<String>,
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Format::Json)]
    output: Format,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    /// One JSON object keyed by fact name
    Json,
}

impl Machine {
    fn posix(&self) -> Result<Posix, String> {
        let absolute = |path: &PathBuf| std::path::absolute(path).map_err(|e| format!("{}: {e}", path.display()));
        if let Some(tools) = self.tools.as_ref().filter(|t| !t.is_dir()) {
            return Err(format!("--tools {}: no such folder", tools.display()));
        }
        Ok(Posix::new(self.tools.as_ref().map(absolute).transpose()?, absolute(&self.root)?))
    }
}

/// Runs the agent; the exit status is 0, 1 for a failure, 2 for wrong usage.
pub fn main(agent: Agent) -> ExitCode {
    let command = <Cli as clap::CommandFactory>::command().name(agent.program).about(format!("The vsgpu agent of a {}", agent.role));
    let cli = match command.try_get_matches().and_then(|m| <Cli as clap::FromArgMatches>::from_arg_matches(&m)) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    let result = match cli.verb {
        Verb::Serve(options) => {
            tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).with_target(false).init();
            options.machine.posix().and_then(|posix| server::serve(agent, posix, &options))
        }
        Verb::Facts(args) => facts(agent, &args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            #[expect(clippy::print_stderr, reason = "the only words of the agent outside its log")]
            {
                eprintln!("error: {why}");
            }
            ExitCode::FAILURE
        }
    }
}

fn facts(agent: Agent, args: &FactsArgs) -> Result<(), String> {
    let system = (agent.system)(args.machine.posix()?);
    let on = Subject { vm: args.vm.clone() };
    let scope = match (agent.role, &args.vm) {
        ("host", Some(_)) => Scope::Vm,
        ("host", None) => Scope::Host,
        (_, None) => Scope::Guest,
        (_, Some(_)) => return Err("--vm is for host agents".into()),
    };
    let seen = execute::observe(system.as_ref(), &on, &(agent.catalogue)().facts(scope));
    let Format::Json = args.output;
    let text = serde_json::to_string_pretty(&execute::facts_as_json(&seen)).map_err(|e| e.to_string())?;
    use std::io::Write as _;
    writeln!(std::io::stdout(), "{text}").map_err(|e| e.to_string())
}
