//! The command line: one verb per file, each a function of typed arguments that returns how it ended. Only this file
//! exits, only `render` prints.

mod adopt;
mod apply;
mod baseline;
mod bootstrap;
mod ca;
mod cert;
mod clone;
mod compat;
mod config;
mod discover;
mod explain;
mod export;
mod exporter;
mod facts;
mod plan;
mod release;
mod resume;
mod schema;
mod status;
mod top;
mod validate;
mod verify;
mod walk;

use crate::context::{Choice, Config, Surroundings, choose};
use crate::error::{Error, Exit, Kind};
use crate::fleet::Fleet;
use crate::journal::Folder;
use crate::render::{Format, Printer, colour};
use crate::{error, journal, spec};
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;
use vsgpu_proto::client::Operator;

#[derive(Parser)]
#[command(
    name = "vsgpu",
    version,
    about = "GPUs on VMware vSphere, from a bare ESXi host to a CUDA proof in a VM",
    disable_help_subcommand = true,
    disable_help_flag = true,
    term_width = 80
)]
struct Cli {
    /// table (default), wide, json, yaml or name
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table, value_name = "FORMAT", display_order = 990)]
    #[arg(hide_default_value = true, hide_possible_values = true)]
    output: Format,
    /// Print help
    // Always the short one: it fits a screen, and there is a manual.
    #[arg(short, long, global = true, action = clap::ArgAction::HelpShort, display_order = 999)]
    help: Option<bool>,
    /// The fleet of this context (`vsgpu config`)
    #[arg(long, global = true, value_name = "NAME", display_order = 991)]
    context: Option<String>,
    #[command(subcommand)]
    verb: Verb,
}

/// What of the command line is about all verbs.
#[derive(Clone, Default)]
pub(crate) struct Chosen {
    pub context: Option<String>,
}

#[derive(Subcommand)]
enum Verb {
    /// Check a fleet file without talking to any node
    Validate(validate::Validate),
    /// Print the JSON Schema of the fleet file
    Schema,
    /// Say whether a combination of versions works
    Compat(compat::Compat),
    /// Copy a VM of a host
    Clone(clone::Clone),
    /// Show what hosts are out there, before there is a fleet file
    Discover(discover::Discover),
    /// Write a commented fleet file from what hosts say
    Init(discover::Init),
    /// Install, enrol and start an agent over ssh
    Bootstrap(bootstrap::Bootstrap),
    /// Show what the nodes are
    Facts(facts::Facts),
    /// Write a fleet file from what the nodes are
    Export(export::Export),
    /// Show every step, its commands and its cost; changes nothing
    Plan(plan::Plan),
    /// Do it, or go on with an unfinished run
    Apply(apply::Apply),
    /// Go on with the run that was stopped, paused or interrupted
    Resume(resume::Resume),
    /// Stop the run and give back what it took
    Abort(resume::Abort),
    /// Go back to how the nodes were before the latest run
    Rollback(resume::Rollback),
    /// Let a held node go, after a person has looked at it
    Release(release::Release),
    /// Print what GPUs reached, for `bandwidth-at-least`
    Baseline(baseline::BaselineArgs),
    /// Check that everything is as wished; changes nothing
    Verify(verify::Verify),
    /// Show the latest run
    Status(status::Status),
    /// Watch hosts, GPUs, vGPUs, licenses and runs, live
    Top(top::Top),
    /// Say what the code of an error means and what to do
    Explain(explain::Explain),
    /// Show which fleet counts and why; name fleets
    Config(config::Config),
    /// Serve the metrics of the whole fleet on one page
    Exporter(exporter::Exporter),
    /// The certificate authority of your fleet
    Ca(ca::Ca),
    /// Certificates of its nodes
    Cert(cert::Cert),
}

/// The command line, for completions and man pages.
pub fn command() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}

/// Where the fleet file is.
#[derive(Args, Clone)]
pub(crate) struct FleetArg {
    /// Fleet file [default: what `vsgpu config` shows]
    #[arg(value_name = "FLEET")]
    fleet: Option<PathBuf>,
    /// Folder of certificates
    #[arg(long, value_name = "DIR", display_order = 992)]
    pki: Option<PathBuf>,
}

impl FleetArg {
    /// Which fleet is meant.
    pub(crate) fn choice(&self, chosen: &Chosen) -> Result<Choice, Error> {
        let around = Surroundings::here();
        choose(self.fleet.as_deref(), self.pki.as_deref(), chosen.context.as_deref(), &around, &|| Config::read(&around.file))
    }

    /// Reads the fleet file, and with `files` also the files that it names.
    pub(crate) fn read(&self, files: bool, chosen: &Chosen) -> Result<Fleet, Vec<Error>> {
        let choice = self.choice(chosen).map_err(|e| vec![e])?;
        let mut fleet = spec::read(&choice.fleet.value)?;
        fleet.file = std::path::absolute(&fleet.file).map_err(|e| vec![Error::new(Kind::Usage, e.to_string())])?;
        if let Some(pki) = choice.pki {
            fleet.pki = pki.value;
        }
        if files {
            spec::resolve(&mut fleet)?;
        }
        Ok(fleet)
    }
}

/// The folder of certificates of a verb that needs no fleet file: `--pki`, or what goes with the context that is named, or VSGPU_PKI,
/// or `pki`.
pub(crate) fn own_pki(option: Option<&PathBuf>, chosen: &Chosen) -> Result<PathBuf, Vec<Error>> {
    if let Some(folder) = option {
        return Ok(folder.clone());
    }
    let around = Surroundings::here();
    let Some(name) = &chosen.context else { return Ok(around.pki.unwrap_or_else(|| "pki".into())) };
    let config = Config::read(&around.file).map_err(|e| vec![e])?;
    let context = config.find(name).map_err(|e| vec![e])?;
    Ok(context.pki.clone().unwrap_or_else(|| context.fleet.with_file_name("pki")))
}

/// Everything that can end a verb early.
pub(crate) type Ended = Result<Exit, Vec<Error>>;

/// Runs async work on a small runtime: the controller waits for the network, it does not compute.
pub(crate) fn block_on<T>(work: impl Future<Output = T>) -> Result<T, Vec<Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
    runtime.map(|r| r.block_on(work)).map_err(|e| vec![Error::new(Kind::Internal, e.to_string())])
}

pub(crate) fn operator(fleet: &Fleet) -> Result<Operator, Vec<Error>> {
    Operator::load(&fleet.pki).map_err(|e| vec![e.into()])
}

/// For who only reads metrics: a monitor's certificate will do.
pub(crate) fn reader(fleet: &Fleet) -> Result<Operator, Vec<Error>> {
    Operator::reading(&fleet.pki).map_err(|e| vec![e.into()])
}

/// Seconds since 1970, for records.
#[expect(clippy::disallowed_methods, reason = "the edge: records carry a time for people, nothing is decided by it")]
pub(crate) fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// Who we are, to the agents: people read it when two controllers meet. The id makes a copy of the machine another one.
pub(crate) fn holder(fleet: &Fleet) -> Result<String, Vec<Error>> {
    let host = nix::unistd::gethostname().map(|h| h.to_string_lossy().into_owned()).unwrap_or_default();
    let user = nix::unistd::User::from_uid(nix::unistd::getuid()).ok().flatten().map(|u| u.name).unwrap_or_default();
    let id = crate::files::own_id(&fleet.state_folder().join("id")).map_err(|e| vec![e])?;
    let file = fleet.file.display().to_string();
    // The end of a long path says more than its beginning.
    let file: String = file.chars().skip(file.chars().count().saturating_sub(200)).collect();
    // As agents want it: what no name can have is seen there.
    Ok(vsgpu_core::text::sentence(&format!("{user}@{host}:{file} ({id})")))
}

/// What the last run left behind.
pub(crate) fn leftovers(fleet: &Fleet) -> Result<crate::plan::Leftovers, Vec<Error>> {
    let run = journal::latest(&Folder(fleet.state_folder())).map_err(|e| vec![e])?;
    Ok(run.map(|r| r.status.leftovers()).unwrap_or_default())
}

/// The program.
pub fn main() -> ExitCode {
    colour::leave_to_terminals_that_can();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    let printer = Printer::new(cli.output);
    let chosen = Chosen { context: cli.context };
    let ended = match cli.verb {
        Verb::Validate(args) => args.run(&printer, &chosen),
        Verb::Schema => schema::run(&printer),
        Verb::Compat(args) => args.run(&printer),
        Verb::Clone(args) => args.run(&printer, &chosen),
        Verb::Discover(args) => args.run(&printer, &chosen),
        Verb::Init(args) => args.run(&printer, &chosen),
        Verb::Bootstrap(args) => args.run(&printer, &chosen),
        Verb::Facts(args) => args.run(&printer, &chosen),
        Verb::Export(args) => args.run(&printer, &chosen),
        Verb::Plan(args) => args.run(&printer, &chosen),
        Verb::Apply(args) => args.run(&printer, &chosen),
        Verb::Resume(args) => args.run(&printer, &chosen),
        Verb::Abort(args) => args.run(&printer, &chosen),
        Verb::Rollback(args) => args.run(&printer, &chosen),
        Verb::Release(args) => args.run(&printer, &chosen),
        Verb::Baseline(args) => args.run(&printer, &chosen),
        Verb::Verify(args) => args.run(&printer, &chosen),
        Verb::Status(args) => args.run(&printer, &chosen),
        Verb::Top(args) => args.run(&printer, &chosen),
        Verb::Config(args) => args.run(&printer, &chosen),
        Verb::Explain(args) => args.run(&printer),
        Verb::Exporter(args) => args.run(&printer, &chosen),
        Verb::Ca(args) => args.run(&printer, &chosen),
        Verb::Cert(args) => args.run(&printer, &chosen),
    };
    let exit = ended.unwrap_or_else(|errors| {
        printer.errors(&errors);
        worst(&errors)
    });
    if printer.was_cut() { Exit::Not(Kind::Internal).into() } else { exit.into() }
}

/// The exit status for several errors: the one a person has to act on most.
pub(crate) fn worst(errors: &[Error]) -> Exit {
    let order = [Kind::Internal, Kind::Usage, Kind::Failed, Kind::Blocked, Kind::Unreachable, Kind::Differs];
    let found = order.into_iter().find(|kind| errors.iter().any(|e| e.kind == *kind));
    found.map_or(error::Exit::Done, Exit::Not)
}
