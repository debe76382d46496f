//! What `-o json` prints of the verbs that answer questions, as types: `vsgpu schema NAME` is made from them,
//! so a document and its schema cannot differ.

use crate::advise::Kind;
use crate::diagnose::Diagnosis;
use crate::fit::{Need, Policy};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use vsgpu_core::diagnosis::{Evidence, Finding};
use vsgpu_core::pool::PoolStatus;

/// `vsgpu advise`.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Advice {
    /// Best first; those that do not fit last.
    pub ways: Vec<Way>,
    /// The smallest change that makes a way fit, where none does.
    pub nearest: Option<String>,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Way {
    pub way: Kind,
    pub title: String,
    pub fits: bool,
    /// It rests on sources that were seen.
    pub certain: bool,
    /// Why, or why not; the deciding one first.
    pub reasons: Vec<String>,
    pub gives_up: Vec<String>,
    /// What must be bought, changed or checked.
    pub needs: Vec<String>,
    /// Share of bare metal; absent where nothing is published.
    pub share: Option<ShareOf>,
    /// vGPU type.
    pub profile: Option<String>,
    /// `C`, `Q`, `A`, `B`.
    pub series: Option<String>,
    /// VMs that one GPU serves.
    pub vms_per_gpu: u64,
    /// A fleet file to begin with.
    pub fleet: String,
}

/// In percent of bare metal.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct ShareOf {
    pub typical: f64,
    pub low: f64,
    pub high: f64,
    pub figures: Vec<FigureOf>,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct FigureOf {
    pub low: f64,
    pub high: f64,
    pub what: String,
    pub source: String,
    pub date: String,
}

/// `vsgpu advise --show-fleet`.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct FleetOf {
    pub way: Kind,
    pub fleet: String,
}

/// `vsgpu pool status`.
#[derive(Serialize, JsonSchema)]
pub struct GpuServers<'a> {
    /// Version of this document.
    pub version: u32,
    /// In the order of the fleet file.
    pub servers: Vec<GpuServerOf<'a>>,
}

/// One of `status` and `error` is there.
#[derive(Serialize, JsonSchema)]
pub struct GpuServerOf<'a> {
    pub server: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<&'a PoolStatus>,
    /// Why it does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<&'a str>,
}

/// `vsgpu fit`.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Fit {
    pub fits: bool,
    /// A no is proven; a yes always is, by its placement.
    pub proven: bool,
    /// Why not.
    pub reason: Option<String>,
    /// GPUs that it takes at least.
    pub bound: usize,
    pub needs: Vec<Need>,
    pub gpus_there: usize,
    pub gpus_used: usize,
    pub placement: Vec<GpuOf>,
    pub left_over: Vec<LeftOver>,
    /// What fits instead, nearest first.
    pub nearest: Vec<String>,
    /// Moves of running VMs that make the room, in their order; absent where none were asked for.
    pub moves: Option<Vec<MoveOf>>,
    /// VMs that start once these moves are made.
    pub power_on_after: Vec<StartOf>,
    pub spare: Option<Spare>,
    /// What vSphere's own placement refuses, in the order of the wishes.
    pub power_on: Option<PowerOn>,
    pub notes: Vec<String>,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct GpuOf {
    pub host: String,
    /// Its number on the host, from 1.
    pub gpu: usize,
    pub model: String,
    /// `same-size`, `mixed-size`, `mig` or `passthrough`.
    pub mode: String,
    pub vms: Vec<Tenant>,
}

/// Places are thousandths of the GPU.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Tenant {
    pub vm: String,
    pub profile: String,
    pub start_permille: usize,
    pub size_permille: usize,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct LeftOver {
    pub vm: String,
    pub wants: String,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct MoveOf {
    pub vm: String,
    pub how: How,
    pub from: String,
    pub to: String,
}

/// How a VM gets to another GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    /// To another host, while it runs.
    Vmotion,
    /// On the same host: the host picks the GPU at its start.
    PowerCycle,
}

/// A VM that starts after the moves.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct StartOf {
    pub vm: String,
    pub at: String,
}

/// Whether it fits with some hosts away.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Spare {
    pub hosts: usize,
    pub fits: bool,
    /// Hosts without which it does not.
    pub without: Option<Vec<String>>,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct PowerOn {
    pub policy: Policy,
    pub refused: Vec<String>,
}

/// `vsgpu fit --current`.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Current {
    /// How many more of each vGPU type all GPUs take, one type at a time.
    pub free: BTreeMap<String, u64>,
    pub each: Vec<GpuNow>,
    pub notes: Vec<String>,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct GpuNow {
    pub host: String,
    /// Its number on the host, from 1.
    pub gpu: usize,
    /// PCI address.
    pub address: String,
    pub model: String,
    pub holds: String,
    pub still_takes: BTreeMap<String, u64>,
}

/// `vsgpu diagnose --text` and `--bundle` of texts.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Texts<'a> {
    /// Causes, the most likely first.
    pub findings: &'a [Finding],
    /// Lines that look like faults and are none.
    pub no_faults: Vec<NoFault>,
    /// Lines that speak of an error that is not known.
    pub unknown: &'a [Evidence],
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct NoFault {
    pub line: String,
    pub why: String,
}

/// `vsgpu diagnose` of a fleet.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Ways<'a> {
    pub findings: Vec<&'a Finding>,
    pub ways: &'a [Diagnosis],
}

/// `vsgpu bundle`.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Bundle {
    pub file: String,
    pub bytes: usize,
    /// Its members.
    pub r#in: Vec<String>,
    pub left_out: Vec<String>,
}

/// As a value.
pub fn value<T: Serialize>(document: &T) -> Value {
    serde_json::to_value(document).unwrap_or_default()
}

/// JSON Schemas by the verb whose document they describe.
pub fn schemas() -> BTreeMap<&'static str, Value> {
    fn of<T: JsonSchema>() -> Value {
        schemars::generate::SchemaSettings::draft2020_12()
            .into_generator()
            .into_root_schema_for::<T>()
            .to_value()
    }
    BTreeMap::from([
        ("advise", of::<Advice>()),
        ("advise-fleet", of::<FleetOf>()),
        ("bundle", of::<Bundle>()),
        ("diagnose", of::<Ways<'_>>()),
        ("diagnose-text", of::<Texts<'_>>()),
        ("fit", of::<Fit>()),
        ("fit-current", of::<Current>()),
        ("pool-status", of::<GpuServers<'_>>()),
        ("ready", of::<crate::ready::Ready>()),
        ("upgrade", of::<crate::render::upgrade::Document>()),
    ])
}
