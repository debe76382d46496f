//! What is wanted of a GPU server, as the fleet file says it.

use crate::facts::engine_bundles;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use vsgpu_core::WordOr;
use vsgpu_core::amounts::Span;
use vsgpu_core::artifact::Artifact;
use vsgpu_core::engine::{self, Engine, manifest::Side};
use vsgpu_core::pool::config::{EngineBuild, PORT, ServerConfig};
use vsgpu_core::pool::{Policy, Team};

/// What is wanted: nothing, or a GPU server.
pub type GpuServerSpec = WordOr<Off, ServerSpec>;

/// The one word.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Off {
    /// None.
    Off,
}

/// A GPU server.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, expecting = "keys and values")]
pub struct ServerSpec {
    /// The engine's server half.
    pub engine: EngineFile,
    /// Who may have how much.
    #[serde(deserialize_with = "teams")]
    pub teams: BTreeMap<String, TeamSpec>,
    /// A GPU lease that does nothing for so long ends. Left out: never.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "idle")]
    pub idle_release: Option<Span>,
    /// TCP port of its gateway. Left out: 14843.
    #[serde(default = "port", skip_serializing_if = "is_port", deserialize_with = "a_port")]
    pub port: u16,
    /// A change that ends GPU leases waits so long for them to end by themselves, `50m` at most. Left out: it is not
    /// made while there are any.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "a_drain")]
    pub drain: Option<Span>,
}

/// Teams that are right in themselves.
fn teams<'de, D: serde::Deserializer<'de>>(input: D) -> Result<BTreeMap<String, TeamSpec>, D::Error> {
    let teams = BTreeMap::<String, TeamSpec>::deserialize(input)?;
    if teams.is_empty() {
        return Err(serde::de::Error::custom("no team: nobody could have a GPU"));
    }
    policy(&teams, None).check().map_err(serde::de::Error::custom)?;
    Ok(teams)
}

fn idle<'de, D: serde::Deserializer<'de>>(input: D) -> Result<Option<Span>, D::Error> {
    let span = Option::<Span>::deserialize(input)?;
    policy(&BTreeMap::new(), span).check().map_err(serde::de::Error::custom)?;
    Ok(span)
}

/// Below what a step has (`deadlines`), with room for what is done behind it.
const LONGEST_DRAIN: u64 = 50 * 60;

fn a_drain<'de, D: serde::Deserializer<'de>>(input: D) -> Result<Option<Span>, D::Error> {
    let span = Option::<Span>::deserialize(input)?;
    match span {
        Some(span) if span.secs > LONGEST_DRAIN => Err(serde::de::Error::custom(
            "at most 50m: a step has an hour; `vsgpu pool drain NODE` beforehand waits as long as you like",
        )),
        span => Ok(span),
    }
}

fn a_port<'de, D: serde::Deserializer<'de>>(input: D) -> Result<u16, D::Error> {
    match u16::deserialize(input)? {
        0 => Err(serde::de::Error::custom("0 is no port")),
        port => Ok(port),
    }
}

fn port() -> u16 {
    PORT
}

fn is_port(port: &u16) -> bool {
    *port == PORT
}

/// An engine, and the file that holds it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum EngineFile {
    /// Lupine; `packaging/engine/build-lupine` makes the file from its source.
    Lupine(Artifact),
}

impl EngineFile {
    /// An engine by its name, with its file; `None` for one that is not known here.
    pub(crate) fn named(name: &str, artifact: Artifact) -> Option<Self> {
        (name == engine::lupine::LUPINE.name).then_some(Self::Lupine(artifact))
    }

    /// The engine.
    pub fn engine(&self) -> &'static Engine {
        match self {
            Self::Lupine(_) => &engine::lupine::LUPINE,
        }
    }

    /// Its file.
    pub fn artifact(&self) -> &Artifact {
        match self {
            Self::Lupine(artifact) => artifact,
        }
    }

    pub(crate) fn artifact_mut(&mut self) -> &mut Artifact {
        match self {
            Self::Lupine(artifact) => artifact,
        }
    }

    /// Which build the file holds, where it was looked at.
    pub fn build(&self, side: Side) -> Result<Option<EngineBuild>, String> {
        engine_bundles::of_artifact(self.artifact(), self.engine().name, side)
    }
}

/// A team.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, expecting = "keys and values")]
pub struct TeamSpec {
    /// Names of VMs; `*` stands for any text.
    pub members: Vec<String>,
    /// GPUs that it may have at once.
    pub gpus: u32,
    /// GPUs of one lease, at most. Left out: as many as it may have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_lease: Option<u32>,
    /// How long one lease may last. Left out: as long as it likes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub longest: Option<Span>,
    /// Its part against other teams' where all wait.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub weight: u32,
}

fn one() -> u32 {
    1
}

fn is_one(n: &u32) -> bool {
    *n == 1
}

fn policy(teams: &BTreeMap<String, TeamSpec>, idle_release: Option<Span>) -> Policy {
    let team = |(name, team): (&String, &TeamSpec)| Team {
        name: name.clone(),
        members: team.members.clone(),
        gpus: team.gpus,
        per_lease: team.per_lease,
        longest: team.longest.map(|span| span.secs * 1000),
        weight: team.weight,
    };
    Policy {
        teams: teams.iter().map(team).collect(),
        idle_release: idle_release.map(|span| span.secs * 1000),
    }
}

impl ServerSpec {
    /// Who may have how much.
    pub fn policy(&self) -> Policy {
        policy(&self.teams, self.idle_release)
    }

    /// `None` where the configuration names an engine that is not known here.
    pub(super) fn of(config: &ServerConfig) -> Option<Self> {
        let span = |millis: Option<u64>| millis.map(|millis| Span { secs: millis / 1000 });
        let team = |team: &Team| TeamSpec {
            members: team.members.clone(),
            gpus: team.gpus,
            per_lease: team.per_lease,
            longest: span(team.longest),
            weight: team.weight,
        };
        let file = engine_bundles::artifact(&config.bundle, &config.engine, Side::Server);
        Some(Self {
            engine: EngineFile::named(&config.engine.name, file)?,
            teams: config.policy.teams.iter().map(|of| (of.name.clone(), team(of))).collect(),
            idle_release: span(config.policy.idle_release),
            port: config.port,
            drain: None,
        })
    }
}
