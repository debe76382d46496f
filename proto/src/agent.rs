//! The program both agents are: `serve`, and a one-shot `facts`. What differs between them is the value `Agent`.

use crate::posix::Posix;
use crate::remote::Remote;
use crate::shell::Shell;
use crate::ssh::Target;
use crate::taken::Look;
use crate::{metrics::Sample, server};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use vsgpu_core::execute::{self, Facts, Outcome};
use vsgpu_core::nvidia_smi::SmiReport;
use vsgpu_core::requirement::Needs;
use vsgpu_core::text::{piece, visible};
use vsgpu_core::{Catalogue, Effect, Scope, Subject, System};

/// Characters of one line of the log.
const MAX_EVENT: usize = 16 << 10;

/// What one kind of agent is made of.
#[derive(Clone, Copy)]
pub struct Agent {
    /// `host` or `guest`.
    pub role: &'static str,
    /// Name of the program.
    pub program: &'static str,
    /// What it knows.
    pub catalogue: fn() -> Catalogue,
    /// Where it keeps what must survive a restart of the machine.
    pub state: &'static str,
    /// Its shell.
    pub system: fn(Arc<dyn Shell>) -> Arc<dyn System>,
    /// What starts a reboot.
    pub reboot: fn() -> Effect,
    /// Whether what a change needs is so, by the node's own word: whoever asks for the change. Otherwise what to answer.
    pub gate: fn(&dyn System, &Subject, Needs) -> Result<(), Outcome>,
    /// What facts say of what a run may have taken.
    pub looks: fn(&Facts) -> Vec<Look>,
    /// What nvidia-smi said, from the facts.
    pub smi_report: fn(&Facts) -> Option<SmiReport>,
    /// Its own metrics, from the facts.
    pub samples: fn(&Facts) -> Vec<Sample>,
}

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

#[derive(Args, Clone)]
struct Machine {
    /// Folder searched first for every external program
    #[arg(long, value_name = "DIR")]
    tools: Option<PathBuf>,
    /// Prefix of every file that is read or written
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// Reach the host through OpenSSH: no program of ours runs there
    #[arg(long, value_name = "USER@HOST[:PORT]")]
    ssh: Option<String>,
    /// Private key for it [default: what ssh's own configuration says]
    #[arg(long, value_name = "FILE", requires = "ssh")]
    ssh_identity: Option<PathBuf>,
    /// Host keys for it [default: what ssh's own configuration says]
    #[arg(long, value_name = "FILE", requires = "ssh")]
    ssh_known_hosts: Option<PathBuf>,
}

/// Options of `serve`.
#[derive(Args, Clone)]
pub struct Serve {
    /// File with more options, `name = value` on each line; what stands on the command line counts more
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    machine: Machine,
    /// Folder with ca.pem, node.pem and node.key, as `vsgpu cert issue` makes it
    #[arg(long, value_name = "DIR", default_value = "/etc/vsgpu")]
    pub(crate) pki: PathBuf,
    /// Where the agent keeps its memory of a host over ssh
    #[arg(long, value_name = "DIR", default_value = "/var/lib/vsgpu-host-agent", requires = "ssh")]
    pub(crate) state: PathBuf,
    /// Where the controller connects to
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:7443")]
    pub(crate) listen: SocketAddr,
    /// Where Prometheus scrapes
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9743")]
    pub(crate) metrics: SocketAddr,
    /// What a scrape needs: a bearer token from a file, or a certificate of this CA. Without it only loopback is served
    #[arg(long, value_name = "token:FILE|mtls")]
    pub(crate) metrics_auth: Option<String>,
    /// Names of the metrics of GPUs: ours, or DCGM's beside them
    #[arg(long, value_enum, default_value_t = MetricsNames::Vsgpu)]
    pub(crate) metrics_names: MetricsNames,
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

/// Which names the metrics of GPUs have.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum MetricsNames {
    /// `vsgpu_gpu_..`
    Vsgpu,
    /// The same, and `DCGM_FI_DEV_..` beside them
    Both,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    /// One JSON object keyed by fact name
    Json,
}

impl Machine {
    /// Here, or over ssh. `state`: where an agent that serves keeps its memory of a machine over ssh; a visit keeps none.
    fn shell(&self, agent: &Agent, state: Option<&Path>) -> Result<Arc<dyn Shell>, String> {
        let absolute = |path: &PathBuf| std::path::absolute(path).map_err(|e| format!("{}: {e}", path.display()));
        if let Some(target) = self.target(agent)? {
            return Ok(Arc::new(match state {
                Some(state) => Remote::serve(&target, self.tools.as_deref(), &self.root, agent.state, &absolute(&state.into())?)?,
                None => Remote::visit(&target, self.tools.as_deref(), &self.root)?,
            }));
        }
        if let Some(tools) = self.tools.as_ref().filter(|t| !t.is_dir()) {
            return Err(format!("--tools {}: no such folder", tools.display()));
        }
        Ok(Arc::new(Posix::new(self.tools.as_ref().map(absolute).transpose()?, absolute(&self.root)?)))
    }

    fn target(&self, agent: &Agent) -> Result<Option<Target>, String> {
        let Some(text) = &self.ssh else { return Ok(None) };
        if agent.role != "host" {
            return Err("--ssh is for host agents: a guest's agent runs in its VM".into());
        }
        let target = Target::parse(text).map_err(|why| format!("--ssh {why}"))?;
        Ok(Some(Target { identity: self.ssh_identity.clone(), known_hosts: self.ssh_known_hosts.clone(), ..target }))
    }
}

/// The command line of an agent, for help texts and man pages.
pub fn command(agent: &Agent) -> clap::Command {
    let command = <Cli as clap::CommandFactory>::command().name(agent.program).about(format!("The vsgpu agent of a {}", agent.role));
    // Only hosts are reached over ssh.
    let of_hosts = ["ssh", "ssh_identity", "ssh_known_hosts", "state"];
    let hide = |verb: clap::Command| verb.mut_args(|arg| if of_hosts.contains(&arg.get_id().as_str()) { arg.hide(true) } else { arg });
    if agent.role == "host" { command } else { command.mut_subcommand("serve", hide).mut_subcommand("facts", hide) }
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
    #[expect(clippy::disallowed_methods, reason = "the agent's own options, read before there is a machine to look at")]
    let text = std::fs::read_to_string(&file).map_err(|e| format!("{shown}: {e}"))?;
    let mut all = args[..=verb].to_vec();
    for (n, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match line.split_once('=').map(|(name, value)| (name.trim(), value.trim())) {
            Some((name, value)) if name != "config" && name.chars().all(|c| c.is_ascii_lowercase() || c == '-') && !name.is_empty() => {
                all.push(format!("--{name}={value}").into());
            }
            _ => return Err(format!("{shown}:{}: `{line}` is not `name = value`, as `listen = 0.0.0.0:7443`", n + 1)),
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
    let cli = match command(&agent).try_get_matches_from(args).and_then(|m| <Cli as clap::FromArgMatches>::from_arg_matches(&m)) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    let result = match cli.verb {
        Verb::Serve(options) => {
            tracing_subscriber::fmt().with_writer(|| Log(std::io::stderr())).with_ansi(false).with_target(false).init();
            options.machine.shell(&agent, Some(&options.state)).and_then(|shell| server::serve(agent, shell, &options))
        }
        Verb::Facts(args) => facts(agent, &args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            complain(&why);
            ExitCode::FAILURE
        }
    }
}

/// Standard error, on which one event is one line: an artifact's name, a tool's words and a VM's name stand in it.
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
    let system = (agent.system)(args.machine.shell(&agent, None)?);
    let on = Subject::named(args.vm.clone());
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
    writeln!(std::io::stdout(), "{}", visible(&text)).map_err(|e| e.to_string())
}
