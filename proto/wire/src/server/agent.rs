//! An agent as a value: what makes a host's and a guest's out of the one server.

use crate::acquired::Look;
use crate::metrics::Sample;
use vsgpu_core::observe::Facts;
use vsgpu_core::outcome::Outcome;
use vsgpu_core::readers::nvidia_smi::SmiReport;
use vsgpu_core::requirement::Needs;
use vsgpu_core::{BootIdentity, Catalogue, Effect, Subject, System};

/// What one kind of agent is made of.
#[derive(Clone, Copy)]
pub struct Agent {
    /// `host` or `guest`.
    pub role: &'static str,
    /// Name of the program.
    pub program: &'static str,
    /// Why a machine is none that it is made for; `None` where it is, or where that cannot be told.
    pub stranger: fn(&dyn System) -> Option<&'static str>,
    /// What it knows.
    pub catalogue: fn() -> Catalogue,
    /// Where it keeps what must survive a restart of the machine.
    pub state: &'static str,
    /// What tells its boots apart.
    pub boot: fn() -> Box<dyn BootIdentity>,
    /// What starts a reboot.
    pub reboot: fn() -> Effect,
    /// Whether what a change needs is so, by the node's own word: whoever asks for the change. Otherwise what
    /// to answer.
    pub may_change: fn(&dyn System, &Subject, Needs) -> Result<(), Outcome>,
    /// What facts say of what a run may have changed temporarily.
    pub looks: fn(&Facts) -> Vec<Look>,
    /// What nvidia-smi said, from the facts.
    pub smi_report: fn(&Facts) -> Option<SmiReport>,
    /// Its own metrics, from the facts.
    pub samples: fn(&Facts) -> Vec<Sample>,
    /// What its program can do beside `serve` and `facts`.
    pub verbs: &'static [Verb],
}

/// A verb of one kind of agent alone.
#[derive(Clone, Copy)]
pub struct Verb {
    /// Its command line; its name is the verb.
    pub command: fn() -> clap::Command,
    /// Runs it to its end, for the agent whose verb it is; an error is a sentence.
    pub run: fn(Agent, &clap::ArgMatches) -> Result<(), String>,
}
