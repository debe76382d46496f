//! The program both agents are: `serve`, and a one-shot `facts`. What differs between them is the value
//! `Agent`.

use crate::server::agent::Agent;
use crate::server::listener;
use crate::server::options::{FactsArgs, Format, Serve};
use clap::{Parser, Subcommand};
use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use vsgpu_core::text::{piece, visible};
use vsgpu_core::{Scope, Subject, System, observe};

/// Characters of one line of the log.
const MAX_EVENT: usize = 16 << 10;

#[derive(Parser)]
#[command(version, disable_help_subcommand = true, args_override_self = true)]
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

/// The command line of an agent, for help texts and man pages.
pub fn command(agent: &Agent) -> clap::Command {
    let command = <Cli as clap::CommandFactory>::command()
        .name(agent.program)
        .about(format!("The vsgpu agent of a {}", agent.role));
    // Only hosts are reached over ssh.
    let of_hosts = ["ssh", "ssh_identity", "ssh_known_hosts", "state"];
    let hide = |verb: clap::Command| {
        verb.mut_args(|arg| if of_hosts.contains(&arg.get_id().as_str()) { arg.hide(true) } else { arg })
    };
    let command = if agent.role == "host" {
        command
    } else {
        command.mut_subcommand("serve", hide).mut_subcommand("facts", hide)
    };
    command.subcommands(agent.verbs.iter().map(|verb| (verb.command)()))
}

/// The command line with the options of its `--config` file in front of the others.
///
/// # Errors
/// A sentence that names file and line.
fn with_config(args: Vec<OsString>) -> Result<Vec<OsString>, String> {
    let named = args.iter().position(|a| a == "--config" || a.to_string_lossy().starts_with("--config="));
    let Some((at, verb)) = named.zip(args.iter().position(|a| a == "serve")) else { return Ok(args) };
    let file = match args[at].to_string_lossy().strip_prefix("--config=") {
        Some(file) => OsString::from(file),
        None => args.get(at + 1).cloned().unwrap_or_default(),
    };
    let shown = Path::new(&file).display();
    #[expect(
        clippy::disallowed_methods,
        reason = "the agent's own options, read before there is a machine to look at"
    )]
    let text = std::fs::read_to_string(&file).map_err(|e| format!("{shown}: {e}"))?;
    let mut all = args[..=verb].to_vec();
    for (n, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match line.split_once('=').map(|(name, value)| (name.trim(), value.trim())) {
            Some((name, value))
                if name != "config"
                    && name.chars().all(|c| c.is_ascii_lowercase() || c == '-')
                    && !name.is_empty() =>
            {
                all.push(format!("--{name}={value}").into());
            }
            _ => {
                return Err(format!(
                    "{shown}:{}: `{line}` is not `name = value`, as `listen = 0.0.0.0:7443`",
                    n + 1
                ));
            }
        }
    }
    all.extend_from_slice(&args[verb + 1..]);
    Ok(all)
}

/// Runs the agent; the exit status is 0, 1 for a failure, 2 for wrong usage.
pub fn main(agent: Agent) -> ExitCode {
    let args = match with_config(std::env::args_os().collect()) {
        Ok(args) => args,
        Err(why) => {
            complain(&why);
            return ExitCode::from(2);
        }
    };
    let wrong = |error: clap::Error| {
        let _ = error.print();
        ExitCode::from(if error.use_stderr() { 2 } else { 0 })
    };
    let matches = match command(&agent).try_get_matches_from(args) {
        Ok(matches) => matches,
        Err(error) => return wrong(error),
    };
    let own = matches.subcommand().and_then(|(name, of)| {
        let verb = agent.verbs.iter().find(|verb| (verb.command)().get_name() == name)?;
        Some((verb.run)(agent, of))
    });
    let result = match own {
        Some(result) => result,
        None => match <Cli as clap::FromArgMatches>::from_arg_matches(&matches) {
            Ok(cli) => own_verb(agent, cli.verb),
            Err(error) => return wrong(error),
        },
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            complain(&why);
            ExitCode::FAILURE
        }
    }
}

fn own_verb(agent: Agent, verb: Verb) -> Result<(), String> {
    match verb {
        Verb::Serve(options) => {
            log_to_stderr();
            options
                .machine
                .system(&agent, Some(&options.state))
                .and_then(|system| listener::serve(agent, system, &options))
        }
        Verb::Facts(args) => facts(agent, &args),
    }
}

/// A program that serves logs to standard error.
pub fn log_to_stderr() {
    tracing_subscriber::fmt()
        .with_writer(|| Log(std::io::stderr()))
        .with_ansi(false)
        .with_target(false)
        .init();
}

/// Standard error, on which one event is one line: an artifact's name, a tool's words and a VM's name stand
/// in it.
struct Log(std::io::Stderr);

impl std::io::Write for Log {
    fn write(&mut self, event: &[u8]) -> std::io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        self.0.write_all(format!("{}\n", piece(&text, MAX_EVENT)).as_bytes())?;
        Ok(event.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

#[expect(clippy::print_stderr, reason = "the only words of the agent outside its log")]
fn complain(why: &str) {
    eprintln!("error: {}", visible(why));
}

fn facts(agent: Agent, args: &FactsArgs) -> Result<(), String> {
    let system = args.machine.system(&agent, None)?;
    let Format::Json = args.output;
    print_facts(&agent, system.as_ref(), args.vm.as_ref())
}

/// Prints the facts of a node, or of a VM on it, as JSON.
///
/// # Errors
/// A sentence.
pub fn print_facts(agent: &Agent, system: &dyn System, vm: Option<&String>) -> Result<(), String> {
    let on = Subject::named(vm.cloned());
    let scope = match (agent.role, vm) {
        ("host", Some(_)) => Scope::Vm,
        ("host", None) => Scope::Host,
        (_, None) => Scope::Guest,
        (_, Some(_)) => return Err("--vm is for host agents".into()),
    };
    let seen = observe::observe(system, &on, &(agent.catalogue)().facts(scope));
    let text = serde_json::to_string_pretty(&observe::facts_as_json(&seen)).map_err(|e| e.to_string())?;
    use std::io::Write as _;
    writeln!(std::io::stdout(), "{}", visible(&text)).map_err(|e| e.to_string())
}
