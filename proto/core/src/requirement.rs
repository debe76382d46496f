//! Facts and requirements. A requirement is one file of plain data and pure functions; checking, applying and
//! verifying are written once, in `execute`, for all of them.
//!
//! To add one: write `host/x.rs` (or `vm/`, `guest/`) with a `Fact`, a `Requirement` and cases, and add one
//! line to the list in that folder's `mod.rs`. Nothing else of the product changes; the simulator has to know
//! its tools (`CONTRIBUTING.md` walks through it).

use crate::artifact::Artifact;
use crate::effect::{Effect, Probe};
use crate::observation::{Observation, Unreadable};
use crate::system::Output;
use crate::text::sentence;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What a requirement is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// An ESXi host.
    Host,
    /// A virtual machine, as its host sees it.
    Vm,
    /// The Linux inside a virtual machine.
    Guest,
}

/// Which thing on the agent's node is meant: nothing for the node itself, or a VM of the host by its name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// Display name of the VM.
    pub vm: Option<String>,
    /// Prefixes of `.vmx` keys that the requirements ask for (`Requirement::VMX_KEYS`). `execute::observe`
    /// fills it in.
    pub vmx_keys: Vec<&'static str>,
}

impl Subject {
    /// The node itself.
    pub fn node() -> Self {
        Self::default()
    }

    /// A VM on it.
    pub fn vm(name: &str) -> Self {
        Self { vm: Some(name.into()), vmx_keys: vec![] }
    }

    /// A VM where one is named, else the node itself.
    pub fn named(vm: Option<String>) -> Self {
        Self { vm, vmx_keys: vec![] }
    }

    /// The same, asked by a requirement that reads these keys of the `.vmx`.
    #[must_use]
    pub fn with_vmx_keys(mut self, keys: &[&'static str]) -> Self {
        self.vmx_keys.extend(keys);
        self
    }
}

/// What must be so while a change is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Needs {
    /// Nothing.
    Nothing,
    /// The VMs of the host (or the VM itself) powered off.
    VmsOff,
    /// The host in maintenance mode, its VMs off.
    MaintenanceMode,
}

/// When a change becomes active.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum TakesEffect {
    /// When its effects have run.
    AtOnce,
    /// After a restart that the agent knows by this name.
    AfterRestart(&'static str),
    /// After a reboot of the node.
    AfterReboot,
}

/// A restart that makes changes active.
#[derive(Clone, Copy, Debug)]
pub struct Restart {
    /// Its name, as `TakesEffect::AfterRestart` has it.
    pub name: &'static str,
    /// What restarts it.
    pub effects: fn() -> Vec<Effect>,
}

/// Which of the fleet file's deadlines a change has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deadline {
    /// That of any step.
    Step,
    /// Entering and leaving maintenance mode.
    MaintenanceMode,
    /// A VM's start, with its GPUs.
    PowerOn,
    /// A VM's shutdown.
    PowerOff,
    /// The installation of a driver.
    DriverInstall,
}

/// What a change does to those who use the node or the VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outage {
    /// They cannot use it any more: maintenance mode, a VM that is shut down.
    Begins,
    /// They can use it again.
    Ends,
}

/// What a change costs on the machine as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// What the change needs.
    pub needs: Needs,
    /// When it is active.
    pub takes_effect: TakesEffect,
    /// Whether that restart or reboot is sure to be needed; otherwise the node says when it is reached.
    pub sure: bool,
}

/// A wish that follows from another one.
#[derive(Clone, Copy, Debug)]
pub struct Implied {
    /// The requirement whose wish implies this one.
    pub by: &'static str,
    /// The spec, from the spec of the other; nothing where that one does not ask for it.
    pub spec: fn(&Value) -> Option<Value>,
}

/// A change that did not come off, for those who can say why.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What was said: the command, how it ended, the tool's own words.
    pub why: String,
    /// The failing command's whole answer, where there is one.
    pub output: Option<Output>,
    /// When the change was begun, seconds since 1970, by the machine's own clock: logs before it tell of
    /// something else.
    pub since: u64,
}

/// A failure understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explained {
    /// The cause, in one sentence, with the evidence.
    pub cause: String,
    /// What to do.
    pub fix: String,
}

/// The whole decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "kebab-case")]
pub enum Verdict {
    /// As wanted, and active.
    Met {
        /// What is so, for people.
        is: String,
    },
    /// Not as wanted. No effects = already set, waiting to become active.
    Unmet {
        /// What is so now.
        is: String,
        /// What is wanted.
        wants: String,
        /// What would mend it, in order.
        effects: Vec<Effect>,
    },
    /// Cannot be judged before another requirement is active.
    Waits {
        /// What is missing.
        on: String,
        /// What is wanted.
        wants: String,
        /// What would be done, as far as it can be known now.
        #[serde(default)]
        effects: Vec<Effect>,
    },
    /// A person must act.
    Blocked {
        /// Why.
        why: String,
        /// What to do.
        hint: String,
        /// No step of a plan can mend it, so that none is begun.
        #[serde(default)]
        lasting: bool,
    },
}

impl Verdict {
    /// `Met`.
    pub fn met(is: impl Into<String>) -> Self {
        Self::Met { is: is.into() }
    }

    /// `Unmet` with effects.
    pub fn unmet(is: impl Into<String>, wants: impl Into<String>, effects: Vec<Effect>) -> Self {
        Self::Unmet { is: is.into(), wants: wants.into(), effects }
    }

    /// `Unmet` without effects: set, but not yet active.
    pub fn pending(is: impl Into<String>, wants: impl Into<String>) -> Self {
        Self::unmet(is, wants, vec![])
    }

    /// `Waits`.
    pub fn waits(on: impl Into<String>, wants: impl Into<String>) -> Self {
        Self::Waits { on: on.into(), wants: wants.into(), effects: vec![] }
    }

    /// `Waits`, with what would be done.
    pub fn waits_for(on: impl Into<String>, wants: impl Into<String>, effects: Vec<Effect>) -> Self {
        Self::Waits { on: on.into(), wants: wants.into(), effects }
    }

    /// `Blocked`.
    pub fn blocked(why: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Blocked { why: why.into(), hint: hint.into(), lasting: false }
    }

    /// `Blocked`, whatever is done before it.
    pub fn blocked_for_good(why: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Blocked { why: why.into(), hint: hint.into(), lasting: true }
    }

    /// The same with every text fit for people: facts are what a machine says of itself. `check` of the
    /// catalogue's entries does it, on both sides of the wire, so that what a plan showed and what an agent
    /// finds are still compared word for word.
    #[must_use]
    pub fn for_people(mut self) -> Self {
        let texts = match &mut self {
            Self::Met { is } => [Some(is), None],
            Self::Unmet { is, wants, .. } => [Some(is), Some(wants)],
            Self::Waits { on, wants, .. } => [Some(on), Some(wants)],
            Self::Blocked { why, hint, .. } => [Some(why), Some(hint)],
        };
        texts.into_iter().flatten().for_each(|text| *text = sentence(text));
        self
    }

    /// Whether it is `Met`.
    pub fn is_met(&self) -> bool {
        matches!(self, Self::Met { .. })
    }
}

/// Something observed: which probes to run, and how to read them.
pub trait Fact: Serialize + DeserializeOwned + JsonSchema {
    /// Name in `facts -o json`.
    const NAME: &'static str;
    /// One line for people.
    const ABOUT: &'static str;
    /// What to look at. Asked again with what was seen so far, until it names nothing new: the id found in
    /// one listing may be needed for the next question.
    fn probes(on: &Subject, seen: &Observation) -> Vec<Probe>;
    /// Reads the answers; says by name what was missing.
    fn parse(on: &Subject, seen: &Observation) -> Result<Self, Unreadable>;
    /// What it says, in one short line for people. `None`: its requirement says it, or its values do.
    fn sentence(&self) -> Option<String> {
        None
    }
}

/// Why a requirement is not met although its commands have run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stuck {
    /// Why, and what to do.
    pub explained: Explained,
    /// It stays so however long one waits.
    pub for_good: bool,
}

/// A second try: its spec, and the effects that a plan names.
pub type OnceMore<Spec> = Option<(Spec, Vec<Effect>)>;

/// A condition, with everything needed to check and to reach it.
pub trait Requirement {
    /// Key in the fleet file.
    const NAME: &'static str;
    /// One line for people.
    const ABOUT: &'static str;
    /// Requirements of the same node that must be active before.
    const AFTER: &'static [&'static str];
    /// What the change needs.
    const NEEDS: Needs;
    /// When the change is active.
    const TAKES_EFFECT: TakesEffect;
    /// Seconds the node may take, after the effects, until `check` says `Met` (a driver, a license).
    const SETTLE_SECS: u32;
    /// Wishes from which this one follows where the fleet file says nothing about it.
    const IMPLIED_BY: &'static [Implied];
    /// A spec in JSON, for the documents and the tests.
    const EXAMPLE: &'static str;
    /// The spec in JSON that every machine meets where nobody set it up: a way back, but nothing to export.
    const UNTOUCHED: Option<&'static str> = None;
    /// Keys of its spec that the controller fills in: no part of a fleet file.
    const FILLED_IN: &'static [&'static str] = &[];
    /// Whether it is a key of the fleet file. The others are switched by the planner.
    const IS_KEY: bool = true;
    /// Prefixes, in lower case, of the `.vmx` keys that it reads: what a fact about the VM's configuration
    /// has to keep for it.
    const VMX_KEYS: &'static [&'static str] = &[];
    /// Restarts that it needs.
    const RESTARTS: &'static [Restart] = &[];
    /// What is wanted.
    type Spec: Serialize + DeserializeOwned + JsonSchema;
    /// What is looked at.
    type Fact: Fact;
    /// Decides.
    fn check(spec: &Self::Spec, fact: &Self::Fact) -> Verdict;
    /// The spec that this fact already meets, where there is one: for `export` and for going back.
    fn as_spec(fact: &Self::Fact) -> Option<Self::Spec>;
    /// Of `as_spec` what goes back where this was wished; none where nothing does.
    fn way_back(_wish: &Self::Spec, before: Self::Spec) -> Option<Self::Spec> {
        Some(before)
    }
    /// `SETTLE_SECS`, where the spec may say otherwise.
    fn settle_secs(_spec: &Self::Spec) -> u32 {
        Self::SETTLE_SECS
    }
    /// `NEEDS` and `TAKES_EFFECT` say the most that a change can cost; this says what it costs as things are.
    fn cost(_spec: &Self::Spec, _fact: &Self::Fact) -> Cost {
        Cost { needs: Self::NEEDS, takes_effect: Self::TAKES_EFFECT, sure: true }
    }
    /// Whether it begins or ends an outage (maintenance mode, a VM's power): agents remember one that a run
    /// began until it has ended.
    fn outage(_spec: &Self::Spec) -> Option<Outage> {
        None
    }
    /// What to do where a reboot did not make a change active. A second one would not either.
    fn why_stuck() -> &'static str {
        ""
    }
    /// What is tried once where a reboot did not make a change active: a spec whose check asks for it, and the
    /// effects that a plan names. Asked before the change.
    fn once_more(_spec: &Self::Spec, _fact: &Self::Fact) -> OnceMore<Self::Spec> {
        None
    }
    /// Where to look after a failed change (logs, mostly). Asked in rounds, as a fact's probes are.
    fn probes_after_failure(_on: &Subject, _seen: &Observation) -> Vec<Probe> {
        vec![]
    }
    /// Why a change failed, if that can be told from what was said and logged.
    fn explain(_failure: &Failure, _on: &Subject, _seen: &Observation) -> Option<Explained> {
        None
    }
    /// Why it is not met, if the fact tells, and what to do. Asked while an agent waits for what it changed.
    fn stuck(_spec: &Self::Spec, _fact: &Self::Fact) -> Option<Stuck> {
        None
    }
    /// Which deadline a change has.
    fn deadline(_spec: &Self::Spec) -> Deadline {
        Deadline::Step
    }
    /// The operator's files that the spec names. They are on the machine before the effects run.
    fn artifacts_mut(_spec: &mut Self::Spec) -> Vec<&mut Artifact> {
        vec![]
    }
    /// The host's datastore on which these files are kept.
    fn datastore(_spec: &Self::Spec) -> Option<String> {
        None
    }
    /// GPUs of a host that the spec names: addresses and models.
    fn gpus_named(_spec: &Self::Spec) -> Vec<String> {
        vec![]
    }
    /// How many GPUs and vGPUs the spec gives to a VM.
    fn gpus_given(_spec: &Self::Spec) -> usize {
        0
    }
    /// The VM gets so many GPUs: the spec of its guest expects as many, unless it says another number.
    fn expect_gpus(_spec: &mut Self::Spec, _count: u32) {}
}
