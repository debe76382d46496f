//! The command line: one verb per file, each a function of typed arguments that returns how it ended. Only
//! this file exits, only `render` prints.

mod adopt;
mod advise;
mod apply;
mod baseline;
mod bootstrap;
mod bundle;
mod ca;
mod cert;
mod clone;
mod compat;
mod completions;
mod config;
mod context;
mod diagnose;
mod discover;
mod explain;
mod export;
mod exporter;
mod facts;
mod fit;
mod global;
mod groups;
mod here;
mod offline;
mod page;
mod plan;
mod pool;
mod ready;
mod release;
mod report;
mod resume;
mod run;
mod runs;
mod schema;
mod status;
mod tables;
mod top;
mod upgrade;
mod validate;
mod verify;

use crate::cli::global::{GlobalArgs, worst};
use crate::error::{Error, Exit, Kind};
use crate::render::{Format, Printer, colour};
use clap::{FromArgMatches as _, Parser, Subcommand};
use std::process::ExitCode;

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
    verb: Option<Verb>,
}

#[derive(Subcommand)]
enum Verb {
    /// Check a fleet file without talking to any node
    Validate(validate::Validate),
    /// Print the JSON Schema of the fleet file, or of an answer
    Schema(schema::Schema),
    /// Say which way to use a GPU, and what it costs
    Advise(advise::Advise),
    /// Say whether a combination of versions works
    Compat(compat::Compat),
    /// Say whether VMs fit on GPUs, and where
    Fit(fit::Fit),
    /// Say what VMs with GPUs and their hosts can do right now
    Ready(ready::Ready),
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
    /// Show what would be done and what goes down; changes nothing
    Plan(plan::Plan),
    /// Do it, or go on with an unfinished run
    Apply(apply::Apply),
    /// Go on with the run that was stopped, paused or interrupted
    Resume(resume::Resume),
    /// Stop the run, and restore maintenance mode and VM power
    Abort(resume::Abort),
    /// Go back to how the nodes were before the latest run
    Rollback(resume::Rollback),
    /// Let a held node go, after a person has looked at it
    Release(release::Release),
    /// Go to another vGPU release in rounds, with proof and a way back
    Upgrade(upgrade::UpgradeArgs),
    /// Print what GPUs reached, for `bandwidth-at-least`
    Baseline(baseline::BaselineArgs),
    /// Check that everything is as the fleet file says; changes nothing
    Verify(verify::Verify),
    /// List the runs of the fleet
    Runs(runs::Runs),
    /// Print completions for a shell
    Completions(completions::Completions),
    /// Print the manual page of a verb
    Man(completions::Man),
    /// Show the latest run
    Status(status::Status),
    /// Watch hosts, GPUs, vGPUs, licenses and runs, live
    Top(top::Top),
    /// Show the fleet and its runs in a browser
    Page(page::Page),
    /// Write the fleet or a run as a file for a browser, to mail
    Report(report::Report),
    /// From symptoms to causes and fixes: a fleet, a log, an archive
    Diagnose(diagnose::Diagnose),
    /// A file for somebody who helps: facts, findings, no secrets
    Bundle(bundle::Bundle),
    /// GPUs over the network: who has which, who waits
    Pool(pool::Pool),
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

/// The same with the verbs in groups, as its own help shows them.
fn screen(groups: &str) -> clap::Command {
    command()
        .help_template("{about}\n\n{usage-heading} {usage}{after-help}\n\nOptions:\n{options}")
        .after_help(groups.to_string())
}

/// A wrong command line, said like every other error; to programs as an object.
fn usage(error: &clap::Error) -> Exit {
    let text = error.render().to_string();
    let mut lines = text.trim().lines().map(|line| line.trim_end().to_string());
    let first = lines.next().unwrap_or_default();
    let message = first.strip_prefix("error: ").unwrap_or(&first).to_string();
    let mut error = Error::new(Kind::Usage, message);
    for line in lines.filter(|line| !line.trim().is_empty() && !line.starts_with("For more information")) {
        match line.trim().strip_prefix("tip: ") {
            Some(tip) => error.hints.push(tip.into()),
            None => error.details.push(line.trim().into()),
        }
    }
    if error.hints.is_empty() {
        error.hints.push("`vsgpu --help` lists the verbs, `vsgpu VERB --help` shows examples".into());
    }
    // What could not be parsed may still say how it wants to be answered.
    let words: Vec<String> = std::env::args().skip(1).collect();
    let asked = |format: &str| {
        let joined = [format!("-o{format}"), format!("-o={format}"), format!("--output={format}")];
        let apart = words.windows(2).any(|w| (w[0] == "-o" || w[0] == "--output") && w[1] == format);
        apart || words.iter().any(|word| joined.contains(word))
    };
    let format = if asked("json") {
        Format::Json
    } else if asked("yaml") {
        Format::Yaml
    } else {
        Format::Table
    };
    Printer::new(format).errors(&[error]);
    Exit::Not(Kind::Usage)
}

pub fn main() -> ExitCode {
    colour::leave_to_terminals_that_can();
    let groups = groups::text(&command());
    let parsed = screen(&groups).try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => return usage(&error).into(),
        Err(error) => {
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
    };
    let printer = Printer::new(cli.output);
    let chosen = GlobalArgs { context: cli.context };
    let Some(verb) = cli.verb else { return here::show(&printer, &chosen, &groups).into() };
    let ended = match verb {
        Verb::Validate(args) => args.run(&printer, &chosen),
        Verb::Schema(args) => args.run(&printer),
        Verb::Advise(args) => args.run(&printer),
        Verb::Compat(args) => args.run(&printer),
        Verb::Fit(args) => args.run(&printer, &chosen),
        Verb::Ready(args) => args.run(&printer, &chosen),
        Verb::Clone(args) => args.run(&printer, &chosen),
        Verb::Diagnose(args) => args.run(&printer, &chosen),
        Verb::Bundle(args) => args.run(&printer, &chosen),
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
        Verb::Upgrade(args) => args.run(&printer, &chosen),
        Verb::Baseline(args) => args.run(&printer, &chosen),
        Verb::Verify(args) => args.run(&printer, &chosen),
        Verb::Runs(args) => args.run(&printer, &chosen),
        Verb::Completions(args) => args.run(command(), &printer),
        Verb::Man(args) => args.run(command(), &printer),
        Verb::Status(args) => args.run(&printer, &chosen),
        Verb::Top(args) => args.run(&printer, &chosen),
        Verb::Page(args) => args.run(&printer, &chosen),
        Verb::Report(args) => args.run(&printer, &chosen),
        Verb::Pool(args) => args.run(&printer, &chosen),
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
