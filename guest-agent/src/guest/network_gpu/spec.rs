//! What is wanted of a client, as the fleet file says it.

use crate::guest::gpu_server::{EngineFile, Off};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use vsgpu_core::WordOr;
use vsgpu_core::amounts::Memory;
use vsgpu_core::artifact::Artifact;
use vsgpu_core::engine::manifest::Side;
use vsgpu_core::pool::config::{EngineBuild, ServerAddress};

/// Elements of the vector addition: what is proved is the way, not the GPU's speed.
pub(super) const ELEMENTS: &str = "50000";

/// What is wanted: nothing, or GPUs of other machines.
pub type NetworkGpuSpec = WordOr<Off, ClientSpec>;

/// GPUs of other machines.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(
    rename_all = "kebab-case",
    deny_unknown_fields,
    expecting = "keys and values",
    try_from = "Unchecked"
)]
pub struct ClientSpec {
    /// The engine's client half.
    pub engine: ClientEngine,
    /// VMs of this file with `gpu-server`, in the order in which they are asked. Bitfusion knows its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub servers: Vec<String>,
    /// Local groups whose members may ask. Left out: only root.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<String>,
    /// The proof on a GPU of another machine, or `off`.
    #[serde(default = "proof", skip_serializing_if = "is_plain_proof")]
    pub proof: WordOr<Off, ProofSpec>,
    /// Where the servers are; filled in by the controller.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(skip)]
    pub addresses: Vec<ServerAddress>,
}

/// As it is written, before its parts are compared. The schema is made of this one.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, expecting = "keys and values")]
struct Unchecked {
    /// The engine's client half.
    engine: ClientEngine,
    /// VMs of this file with `gpu-server`, in the order in which they are asked. Bitfusion knows its own.
    #[serde(default)]
    servers: Vec<String>,
    /// Local groups whose members may ask. Left out: only root.
    #[serde(default, deserialize_with = "users")]
    users: Vec<String>,
    /// The proof on a GPU of another machine, or `off`.
    #[serde(default = "proof")]
    proof: WordOr<Off, ProofSpec>,
    /// Where the servers are; filled in by the controller.
    #[serde(default)]
    #[schemars(skip)]
    addresses: Vec<ServerAddress>,
}

impl TryFrom<Unchecked> for ClientSpec {
    type Error = String;
    fn try_from(raw: Unchecked) -> Result<Self, String> {
        let Unchecked { engine, servers, users, proof, addresses } = raw;
        match &engine {
            ClientEngine::Lupine(_) => named_servers(&servers)?,
            ClientEngine::Bitfusion(_) if !servers.is_empty() => {
                return Err(
                    "servers: Bitfusion's servers stand in its file of tokens: leave `servers` out".into()
                );
            }
            ClientEngine::Bitfusion(_) if !users.is_empty() => {
                return Err(
                    "users: Bitfusion gives its token to each user: name their homes (`homes` in `bitfusion`)".into()
                );
            }
            ClientEngine::Bitfusion(_) => {}
        }
        Ok(Self { engine, servers, users, proof, addresses })
    }
}

/// An engine on a client, and the files that hold it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ClientEngine {
    /// Lupine; `packaging/engine/build-lupine` makes the file from its source.
    Lupine(Artifact),
    /// VMware Bitfusion, where its servers still run.
    Bitfusion(BitfusionFiles),
}

impl From<EngineFile> for ClientEngine {
    fn from(file: EngineFile) -> Self {
        match file {
            EngineFile::Lupine(file) => Self::Lupine(file),
        }
    }
}

impl ClientEngine {
    /// The engine's own file, where our gateways serve it.
    pub(super) fn bundle(&self) -> Option<EngineFile> {
        match self {
            Self::Lupine(file) => Some(EngineFile::Lupine(file.clone())),
            Self::Bitfusion(_) => None,
        }
    }

    /// Which build the file holds, where it was looked at and our gateways serve it.
    pub fn build(&self) -> Option<EngineBuild> {
        self.bundle()?.build(Side::Client).ok().flatten()
    }

    pub(super) fn artifacts_mut(&mut self) -> Vec<&mut Artifact> {
        match self {
            Self::Lupine(file) => vec![file],
            Self::Bitfusion(files) => vec![&mut files.package, &mut files.tokens],
        }
    }
}

/// Our proof runs as root.
pub(super) const ROOT: &str = "/root";
/// Homes of users, at most.
pub(super) const MOST_HOMES: usize = 32;

/// Files of a Bitfusion client.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, expecting = "keys and values")]
pub struct BitfusionFiles {
    /// The client's package, `.deb` or `.rpm`: a version that fits the servers.
    pub package: Artifact,
    /// The archive from vCenter, Bitfusion, Tokens: `ca.crt`, `client.yaml`, `servers.conf`.
    pub tokens: Artifact,
    /// Homes of users beside root who may use it: `/home/ada`.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "homes")]
    pub homes: Vec<String>,
}

/// A plain path, and none of the root's own.
pub(super) fn is_home(home: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty()
            && !part.starts_with(['.', '-'])
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    };
    home.len() <= 200 && home.strip_prefix('/').is_some_and(|rest| rest.split('/').all(part))
}

fn homes<'de, D: serde::Deserializer<'de>>(input: D) -> Result<Vec<String>, D::Error> {
    let homes = Vec::<String>::deserialize(input)?;
    let wrong = |why: String| Err(serde::de::Error::custom(why));
    if homes.len() > MOST_HOMES {
        return wrong(format!("{} homes: at most {MOST_HOMES} are expected", homes.len()));
    }
    for (at, home) in homes.iter().enumerate() {
        if !is_home(home) {
            return wrong(format!("`{home}` is no home such as /home/ada"));
        }
        if home == ROOT {
            return wrong(format!("{ROOT} has it anyway: the proof runs as root"));
        }
        if homes[..at].contains(home) {
            return wrong(format!("{home} is named twice"));
        }
    }
    Ok(homes)
}

/// How it is proved.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, expecting = "keys and values")]
pub struct ProofSpec {
    /// On a GPU with at least so much memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Memory>,
}

pub(super) fn proof() -> WordOr<Off, ProofSpec> {
    WordOr::Map(ProofSpec::default())
}

fn is_plain_proof(proof: &WordOr<Off, ProofSpec>) -> bool {
    matches!(proof, WordOr::Map(spec) if *spec == ProofSpec::default())
}

fn named_servers(names: &[String]) -> Result<(), String> {
    if names.is_empty() {
        return Err("`servers` is missing: the VMs of this file with `gpu-server`".into());
    }
    if names.len() > 16 {
        return Err(format!("servers: {} of them: at most 16 are expected", names.len()));
    }
    match names.iter().enumerate().find(|(at, name)| names[..*at].contains(name)) {
        Some((_, twice)) => Err(format!("servers: {twice} is named twice")),
        None => Ok(()),
    }
}

fn users<'de, D: serde::Deserializer<'de>>(input: D) -> Result<Vec<String>, D::Error> {
    let names = Vec::<String>::deserialize(input)?;
    let plain = |name: &String| {
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
    };
    match names.iter().find(|name| !plain(name)) {
        Some(wrong) => Err(serde::de::Error::custom(format!("`{wrong}` is no name of a local group"))),
        None => Ok(names),
    }
}
