//! What a record of the catalogue says.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where on the way from a bare host to a CUDA program something is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// The host: its package, its driver, its GPUs.
    Host,
    /// A VM's hardware and its power-on.
    Vm,
    /// A guest's driver.
    Guest,
    /// A license.
    License,
    /// A CUDA program.
    Cuda,
    /// A GPU over the network.
    Network,
    /// Moving and changing what runs.
    Lifecycle,
}

impl Stage {
    /// In words.
    pub fn word(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Vm => "VM",
            Self::Guest => "guest driver",
            Self::License => "licensing",
            Self::Cuda => "CUDA",
            Self::Network => "network GPU",
            Self::Lifecycle => "lifecycle",
        }
    }
}

/// How surely a sign alone means its cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Confidence {
    /// Many causes have it.
    Low,
    /// Some others have it.
    Medium,
    /// Nothing else is known to.
    High,
}

/// What a text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// A VM's own log on its host.
    VmwareLog,
    /// The host's kernel log.
    Vmkernel,
    /// A task of vCenter, or what hostd answers.
    Task,
    /// `nvidia-smi` on a host.
    HostSmi,
    /// `nvidia-smi` in a guest.
    GuestSmi,
    /// A guest's kernel log, and its other system logs.
    GuestKernel,
    /// The license daemon's log.
    Gridd,
    /// NVIDIA's installer, DKMS, and the package tools of a guest.
    Installer,
    /// `esxcli`.
    Esxcli,
    /// A program of CUDA.
    Cuda,
    /// What a host agent says of a change.
    HostAgent,
    /// Anything.
    Any,
}

impl Source {
    /// Whether it comes from a host (`true`) or a guest (`false`); `None` where it may be either.
    pub fn of_host(self) -> Option<bool> {
        match self {
            Self::VmwareLog
            | Self::Vmkernel
            | Self::Task
            | Self::HostSmi
            | Self::Esxcli
            | Self::HostAgent => Some(true),
            Self::GuestSmi | Self::GuestKernel | Self::Gridd | Self::Installer | Self::Cuda => Some(false),
            Self::Any => None,
        }
    }
}

/// What a line looks like; without case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Pattern {
    /// These pieces in this order, `*` between them, anywhere in the line.
    Line(&'static str),
    /// `name : value`, or `<name>value</name>`, with this whole value.
    Value(&'static str, &'static str),
}

/// A sign of a cause.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sign {
    /// Texts in which it is looked for.
    pub found_in: &'static [Source],
    /// All of them, in this order, a line each.
    pub lines: &'static [Pattern],
    /// So many lines apart at most; 0 where it does not matter.
    pub within: usize,
    pub confidence: Confidence,
}

/// What takes a sign back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unless {
    pub line: Pattern,
    /// Only where it comes later.
    pub later: bool,
}

/// Where a command is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum On {
    /// On the host.
    Host,
    /// In the guest.
    Guest,
    /// Where `vsgpu` runs.
    Controller,
}

/// Where a key of the fleet file stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum At {
    /// Of a host.
    Host,
    /// Of a VM.
    Vm,
    /// Of a VM's `guest`.
    Guest,
}

/// One step of a way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fix {
    /// A command.
    Run(On, &'static str),
    /// A key of the fleet file, which `apply` brings about.
    Fleet(At, &'static str),
    /// What a person does.
    Do(&'static str),
}

impl Fix {
    /// In a sentence.
    pub fn shown(self) -> String {
        match self {
            Self::Run(On::Controller, command) => format!("`{command}`"),
            Self::Run(On::Host, command) => format!("on the host: `{command}`"),
            Self::Run(On::Guest, command) => format!("in the guest: `{command}`"),
            Self::Fleet(At::Host, key) => format!("in the fleet file, at the host: `{key}`"),
            Self::Fleet(At::Vm, key) => format!("in the fleet file, at the VM: `{key}`"),
            Self::Fleet(At::Guest, key) => format!("in the fleet file, at `guest` of the VM: `{key}`"),
            Self::Do(what) => what.trim_end_matches('.').to_string(),
        }
    }
}

/// One record.
#[derive(Debug)]
pub struct Cause {
    /// Its code.
    pub id: &'static str,
    /// Where it is.
    pub stage: Stage,
    /// In one line.
    pub title: &'static str,
    /// Any of them; none where no text tells it, and only facts do.
    pub(super) signs: &'static [Sign],
    /// Any of them takes it back.
    pub(super) unless: &'static [Unless],
    /// It says that something is wrong, and not what: others go before it.
    pub symptom: bool,
    /// Causes with the same text, and the fact that decides for them.
    pub rivals: &'static [(&'static str, &'static str)],
    /// What is wrong.
    pub cause: &'static str,
    /// The safest first.
    pub fix: &'static [Fix],
    /// Where this comes from.
    pub source: &'static str,
}

impl Cause {
    /// Whether texts show it; else only facts of machines do.
    pub fn in_texts(&self) -> bool {
        !self.signs.is_empty()
    }
}

/// What looks like a fault and is none.
#[derive(Debug)]
pub(super) struct NotFault {
    pub found_in: &'static [Source],
    pub line: Pattern,
    pub why: &'static str,
}

/// What tells what a text is.
#[derive(Debug)]
pub(super) struct Hint {
    pub source: Source,
    pub line: Pattern,
    /// Nothing else has it.
    pub strong: bool,
}
