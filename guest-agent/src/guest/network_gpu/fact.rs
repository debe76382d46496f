//! What is so of a client, by either engine.

use crate::facts::engine_bundles::Bundle;
use crate::guest::network_gpu::spec::ROOT;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use vsgpu_core::pool::config::{BundleFile, ClientConfig};
use vsgpu_core::readers::cuda_report::CudaReport;

/// What is so.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct NetworkGpuFact {
    /// The daemon's program is there.
    pub program: bool,
    /// Client halves that are unpacked.
    pub engines: Vec<Bundle>,
    /// What the daemon is told, where it is told anything that can be read.
    pub config: Option<ClientConfig>,
    /// Its configuration is there, but cannot be read.
    pub broken: Option<String>,
    /// The daemon runs.
    pub active: bool,
    /// It is started with the machine.
    pub enabled: bool,
    /// Its servers, as they were just now.
    pub servers: Vec<ServerSeen>,
    /// The last proof.
    pub proof: Option<NetworkProof>,
    /// Bitfusion's client.
    #[serde(default)]
    pub bitfusion: BitfusionFact,
}

/// A GPU server as a client sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct ServerSeen {
    /// Its name.
    pub server: String,
    /// Why it cannot be used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Round trip of a question, microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtt_micros: Option<u64>,
}

/// What the kept record says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct NetworkProof {
    /// When it was made, seconds since 1970.
    pub at: u64,
    /// Made in the running boot, with this configuration.
    pub current: bool,
    /// What was run.
    pub commands: Vec<String>,
    /// What our program found.
    pub report: CudaReport,
    /// The server that granted the GPU.
    pub server: Option<String>,
    /// Round trip to it then, as the runner printed it: `0.4 ms`. Bitfusion prints none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round_trip: Option<String>,
    /// Why it is no proof.
    pub failure: Option<String>,
}

/// What of Bitfusion was set up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct BitfusionConfig {
    /// Version of this document.
    pub version: u32,
    /// The client's package.
    pub package: BundleFile,
    /// The archive of tokens.
    pub tokens: BundleFile,
    /// SHA-256 of the servers' certificate authority.
    pub ca: String,
    /// `ADDRESS:PORT` of each server.
    pub servers: BTreeSet<String>,
    /// When the token was made, by its archive, seconds since 1970. It is good for a year.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made: Option<u64>,
    /// Homes of users beside root.
    pub homes: Vec<String>,
    /// The tokens were put where they belong. Written with `false` before that is begun.
    pub placed: bool,
}

impl BitfusionConfig {
    /// Whether it is what was written down; one of an earlier version says nothing of its token's age.
    pub(super) fn is_as(&self, was: &Self) -> bool {
        self == was || was.made.is_none() && Self { made: None, ..self.clone() } == *was
    }

    /// All homes that have the token.
    pub(super) fn all_homes(&self) -> impl Iterator<Item = &str> {
        std::iter::once(ROOT).chain(self.homes.iter().map(String::as_str))
    }
}

/// What is so of Bitfusion.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct BitfusionFact {
    /// Its program is there.
    pub program: bool,
    /// What vsgpu set up.
    pub config: Option<BitfusionConfig>,
    /// That file is there, but cannot be read.
    pub broken: Option<String>,
    /// SHA-256 of the servers' certificate authority that is in place.
    pub ca: Option<String>,
    /// Homes that are to have the token.
    pub homes: Vec<Home>,
    /// Files of an archive that were unpacked and never taken away.
    pub left: Vec<String>,
    /// The last proof.
    pub proof: Option<NetworkProof>,
    /// os-release, to choose the package tool.
    pub os_release: String,
}

/// The token of one user.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Home {
    /// The folder.
    pub home: String,
    /// The token is there, is his, and nobody else may read it. Its content is looked at by nobody.
    pub token: bool,
    /// A `servers.conf` is there.
    pub conf: bool,
    /// Servers in root's own; in a user's home nothing is opened, because he may have put anything there.
    pub servers: Option<BTreeSet<String>>,
    /// Why nothing can be put there.
    pub foreign: Option<String>,
}

/// Why the record is no proof by these commands; `None` where it is.
pub(super) fn not_proved(commands: &[String], proof: Option<&NetworkProof>) -> Option<String> {
    let Some(proof) = proof else { return Some("never proved".into()) };
    if !proof.current || proof.commands != commands {
        return Some("last proved in another boot, or set up in another way".into());
    }
    if let Some(failure) = &proof.failure {
        return Some(format!("the proof failed: {failure}"));
    }
    (!proof.report.passed()).then(|| "the proof's results are not right".into())
}
