//! A file of the operator that a node needs: a driver package, a license token. The fleet file names it, the
//! controller reads and hashes it, the agent keeps it under its hash; its content is never part of a plan or
//! a message to people.

use crate::text::{sentence, visible};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Folder of a guest in which artifacts are kept.
pub const GUEST_FOLDER: &str = "/var/lib/vsgpu/artifacts";

/// A file of the operator. One of which nothing but its path is known is written as that path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Artifact {
    /// Path on the operator's machine, relative to the fleet file.
    pub artifact: String,
    /// SHA-256 in lower-case hex; filled in by the controller, checked if the fleet file states it.
    pub sha256: Option<String>,
    /// Bytes; filled in by the controller.
    pub size: Option<u64>,
    /// What the file is; filled in by the controller from its content.
    pub kind: Option<Kind>,
    /// Names and versions the package itself states; filled in by the controller.
    pub holds: Vec<PackageContent>,
}

/// What an artifact is, by its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// One `.vib`.
    Vib,
    /// A zip with an `index.xml`: offline bundle; with a component in it on ESXi 7 and later.
    OfflineBundle,
    /// An offline bundle that also carries a component (bulletin with a component name).
    Component,
    /// A self-extracting installer.
    Run,
    /// A Debian package.
    Deb,
    /// A package of RPM's.
    Rpm,
    /// A bundle with one half of an engine for GPUs over the network.
    Engine,
    /// NVIDIA's CUDA samples, as source.
    CudaSamples,
    /// The tokens of a Bitfusion client: a secret.
    BitfusionTokens,
    /// Anything else (a token).
    Other,
}

/// One package inside an artifact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PackageContent {
    /// VIB or product name.
    pub name: String,
    /// Its version as printed by the tool that lists it.
    pub version: String,
    /// Acceptance level that its descriptor states: `certified`, `accepted`, `partner` or `community`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acceptance: Option<String>,
}

/// An artifact and the folder of the node that it belongs into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StagedFile {
    /// The file.
    pub artifact: Artifact,
    /// Datastore of a host, by name; `None` on a guest.
    pub datastore: Option<String>,
}

impl StagedFile {
    /// Whether its words can become parts of a path: they come over the wire.
    ///
    /// # Errors
    /// In words.
    pub fn check(&self) -> Result<(), String> {
        let name = self.artifact.file_name();
        if !is_plain(name) {
            return Err("the name is no plain file name".into());
        }
        let is_hash = |sha256: &String| sha256.len() == 64 && sha256.bytes().all(|b| b.is_ascii_hexdigit());
        if !self.artifact.sha256.as_ref().is_some_and(is_hash) {
            return Err(format!("{}: its sha256 is not 64 hexadecimal digits", sentence(name)));
        }
        if self.datastore.as_deref().is_some_and(|datastore| !is_plain(datastore)) {
            return Err("the datastore is no plain name".into());
        }
        Ok(())
    }

    /// Where the file lies on its node.
    pub fn stored(&self) -> String {
        self.artifact.stored(self.datastore.as_deref())
    }
}

/// Whether a name is one part of a path, and shows as what it is.
pub fn is_plain(name: &str) -> bool {
    let hidden = name.starts_with('.') || name.starts_with('-');
    !name.is_empty()
        && name.len() <= 200
        && !hidden
        && !name.contains(['/', '\\'])
        && visible(name) == name
        && !name.contains(['\n', '\t'])
}

impl Artifact {
    /// A file of which nothing but its path is known.
    pub fn at(path: impl Into<String>) -> Self {
        Self { artifact: path.into(), sha256: None, size: None, kind: None, holds: vec![] }
    }

    /// Last part of the path.
    pub fn file_name(&self) -> &str {
        self.artifact.rsplit(['/', '\\']).next().unwrap_or(&self.artifact)
    }

    /// Where the file lies on a node.
    pub fn stored(&self, datastore: Option<&str>) -> String {
        stored_path(datastore, self.sha256.as_deref().unwrap_or_default(), self.file_name())
    }

    /// First version the package states.
    pub fn version(&self) -> Option<&str> {
        self.holds.first().map(|held| held.version.as_str())
    }
}

/// Where an artifact of this hash and name lies on a node. One rule for planner, requirement and agent.
pub fn stored_path(datastore: Option<&str>, sha256: &str, file_name: &str) -> String {
    let short: String = sha256.chars().take(16).collect();
    match datastore {
        Some(name) => format!("/vmfs/volumes/{name}/vsgpu/{short}/{file_name}"),
        None => format!("{GUEST_FOLDER}/{short}/{file_name}"),
    }
}

/// As it is written where more than its path is known.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Long {
    #[serde(alias = "file")]
    artifact: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kind: Option<Kind>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    holds: Vec<PackageContent>,
}

impl Serialize for Artifact {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        if *self == Self::at(self.artifact.as_str()) {
            return out.serialize_str(&self.artifact);
        }
        let Self { artifact, sha256, size, kind, holds } = self.clone();
        Long { artifact, sha256, size, kind, holds }.serialize(out)
    }
}

impl<'de> Deserialize<'de> for Artifact {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Artifact;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a path, or `file:` and `sha256:`")
            }
            fn visit_str<E: serde::de::Error>(self, path: &str) -> Result<Artifact, E> {
                if path.is_empty() {
                    return Err(E::custom("the path is empty"));
                }
                Ok(Artifact::at(path))
            }
            fn visit_map<M: serde::de::MapAccess<'de>>(self, map: M) -> Result<Artifact, M::Error> {
                let Long { artifact, sha256, size, kind, holds } =
                    Long::deserialize(serde::de::value::MapAccessDeserializer::new(map))?;
                Ok(Artifact { artifact, sha256: sha256.map(|s| s.to_lowercase()), size, kind, holds })
            }
        }
        input.deserialize_any(Visitor)
    }
}

impl JsonSchema for Artifact {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Artifact".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A file of yours, relative to the fleet file",
            "anyOf": [
                { "type": "string", "minLength": 1 },
                { "type": "object", "required": ["file"], "additionalProperties": false, "properties": {
                    "file": { "type": "string" },
                    "sha256": { "type": "string", "pattern": "^[0-9A-Fa-f]{64}$" } } }
            ]
        })
    }
}
