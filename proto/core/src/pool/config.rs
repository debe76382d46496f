//! What the two programs of network GPUs are told: documents that the guest agent's requirements write and
//! these programs read.

use super::{MAX_SLOTS, Policy, Slot};
use crate::engine;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Version of both documents.
pub const CONFIG_VERSION: u32 = 1;
/// Where a GPU server's gateway finds its own.
pub const SERVER_CONFIG: &str = "/etc/vsgpu/gpu-server.json";
/// Where a client's daemon finds its own.
pub const CLIENT_CONFIG: &str = "/etc/vsgpu/network-gpu.json";
/// Longest document that is read.
pub const MAX_CONFIG: usize = 1 << 20;
/// TCP port of a gateway, where the fleet file names no other.
pub const PORT: u16 = 14_843;
/// GPU servers of one client, at most.
const MAX_SERVERS: usize = 16;

/// Which engine: both sides must have the same build of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EngineBuild {
    /// Its name: `lupine`.
    pub name: String,
    /// SHA-256 of its build, lower-case hex.
    pub build: String,
    /// CUDA version whose headers it was built with.
    pub cuda: String,
}

/// The operator's file that an engine came in: by it the engine can be named again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BundleFile {
    /// Its name, without folders.
    pub file: String,
    /// SHA-256 of its bytes, lower-case hex.
    pub sha256: String,
    /// Bytes.
    pub size: u64,
}

/// What a gateway is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServerConfig {
    /// Version of this document.
    pub version: u32,
    /// TCP port that it listens on, on all addresses.
    pub port: u16,
    /// The engine that it starts.
    pub engine: EngineBuild,
    /// Where that came from.
    pub bundle: BundleFile,
    /// Who may have how much.
    pub policy: Policy,
    /// What there is to be had, in order of their numbers.
    pub slots: Vec<Slot>,
}

/// What a client's daemon is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClientConfig {
    /// Version of this document.
    pub version: u32,
    /// The engine whose libraries it has.
    pub engine: EngineBuild,
    /// Where these came from.
    pub bundle: BundleFile,
    /// Folder of these libraries.
    pub libraries: String,
    /// GPU servers, in the order in which they are asked.
    pub servers: Vec<ServerAddress>,
    /// Local groups whose members may ask; root always may.
    pub groups: Vec<String>,
}

/// Where a GPU server is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServerAddress {
    /// Its name, as in its certificate.
    pub node: String,
    /// `host:port` of its gateway.
    pub address: String,
}

/// Reads a document of this version.
pub(super) fn read<T: DeserializeOwned>(bytes: &[u8], version: u32) -> Result<T, String> {
    #[derive(Deserialize)]
    struct Head {
        version: u32,
    }
    // Another version is said as such, not by the first field that differs.
    let head: Head = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    if head.version != version {
        return Err(format!(
            "its version is {}, known is {version}: it is of another version of vsgpu",
            head.version
        ));
    }
    serde_json::from_slice(bytes).map_err(|e| e.to_string())
}

fn known(build: &EngineBuild) -> Result<&'static engine::Engine, String> {
    engine::named(&build.name).ok_or_else(|| format!("the engine `{}` is not known", build.name))
}

impl ServerConfig {
    /// Reads a document, and whether it can be served.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub fn read(bytes: &[u8]) -> Result<(Self, &'static engine::Engine), String> {
        let config: Self = read(bytes, CONFIG_VERSION)?;
        config.policy.check()?;
        if config.slots.len() > MAX_SLOTS {
            return Err(format!("{} slots: at most {MAX_SLOTS} are served", config.slots.len()));
        }
        let engine = known(&config.engine)?;
        Ok((config, engine))
    }

    /// What a gateway takes up at its start only: port, engine, slots. The rest may change under it.
    pub fn of_start(&self) -> (u16, &EngineBuild, &[Slot]) {
        (self.port, &self.engine, &self.slots)
    }
}

impl ClientConfig {
    /// Reads a document, and whether it can be used.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub fn read(bytes: &[u8]) -> Result<(Self, &'static engine::Engine), String> {
        let config: Self = read(bytes, CONFIG_VERSION)?;
        if config.servers.is_empty() || config.servers.len() > MAX_SERVERS {
            return Err(format!("{} servers: 1 to {MAX_SERVERS} are expected", config.servers.len()));
        }
        if !config.libraries.starts_with('/') {
            return Err("`libraries` is no absolute path".into());
        }
        let engine = known(&config.engine)?;
        Ok((config, engine))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As they were first written: what an earlier version wrote must still be read.
    const SERVER: &str = r#"{"version":1,"port":14843,"engine":{"name":"lupine","build":"ab","cuda":"13.3"},
        "bundle":{"file":"lupine-server.tar","sha256":"cd","size":4096},"policy":{"teams":[{"name":"ml","members":["notebook-*"],"gpus":2,"longest":28800000,"weight":2}],"idle_release":900000},
        "slots":[{"uuid":"GPU-1","kind":"whole","memory_mib":40960,"name":"NVIDIA A100-PCIE-40GB"},
                 {"uuid":"MIG-1","kind":{"mig":{"profile":"1g.10gb"}},"memory_mib":9728,"name":"NVIDIA A100 MIG 1g.10gb"}]}"#;
    const CLIENT: &str = r#"{"version":1,"engine":{"name":"lupine","build":"ab","cuda":"13.3"},
        "bundle":{"file":"lupine-client.tar","sha256":"cd","size":4096},"libraries":"/usr/lib/vsgpu/engine/ab",
        "servers":[{"node":"gpu-srv-1","address":"10.0.0.5:14843"}],"groups":["gpu"]}"#;

    #[test]
    fn both_documents_are_read_and_what_is_wrong_is_said() {
        let (server, engine) = ServerConfig::read(SERVER.as_bytes()).unwrap_or_else(|why| panic!("{why}"));
        assert_eq!((server.slots.len(), engine.name), (2, "lupine"));
        assert_eq!(server.policy.idle_release, Some(900_000));
        let (client, _) = ClientConfig::read(CLIENT.as_bytes()).unwrap_or_else(|why| panic!("{why}"));
        assert_eq!(client.servers[0].node, "gpu-srv-1");
        let wrong = |from: &str, to: &str| {
            let server = ServerConfig::read(SERVER.replace(from, to).as_bytes()).err();
            server
                .or_else(|| ClientConfig::read(CLIENT.replace(from, to).as_bytes()).err())
                .unwrap_or_default()
        };
        assert!(wrong("\"version\":1", "\"version\":2").contains("its version is 2"));
        assert!(wrong("lupine", "own").contains("`own` is not known"));
        assert!(wrong("\"weight\":2", "\"weight\":0").contains("weight"));
        assert!(wrong("\"/usr/lib", "\"usr/lib").contains("no absolute path"));
        assert!(
            wrong("[{\"node\":\"gpu-srv-1\",\"address\":\"10.0.0.5:14843\"}]", "[]").contains("0 servers")
        );
        assert!(wrong("\"groups\"", "\"group\"").contains("group"));
    }
}
