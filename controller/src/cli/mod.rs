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
mod plan;
mod pool;
mod ready;
mod release;
mod resume;
mod run;
mod schema;
mod status;
mod top;
mod upgrade;
mod validate;
mod verify;

use crate::cli::global::{GlobalArgs, worst};
use crate::error::{Exit, Kind};
use crate::render::{Format, Printer, colour};
use clap::{Parser, Subcommand};
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
    verb: Verb,
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
    /// Show every step, its commands and its cost; changes nothing
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
    /// Show the latest run
    Status(status::Status),
    /// Watch hosts, GPUs, vGPUs, licenses and runs, live
    Top(top::Top),
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
    let chosen = GlobalArgs { context: cli.context };
    let ended = match cli.verb {
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
        Verb::Status(args) => args.run(&printer, &chosen),
        Verb::Top(args) => args.run(&printer, &chosen),
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
