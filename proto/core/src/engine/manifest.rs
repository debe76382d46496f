//! The first file of an engine's bundle: which engine, which side, which build. Bundles are made by
//! `packaging/engine/build-lupine`.

use super::described::Engine;
use super::known::{ALL, named};
use serde::{Deserialize, Serialize};

/// Version of the document.
pub const VERSION: u32 = 1;
/// Name of the document in a bundle.
pub const NAME: &str = "manifest.json";
/// Longest manifest that is read.
const MOST_BYTES: usize = 64 << 10;
/// Files of a bundle, at most.
const MOST_FILES: usize = 64;

/// For whom a bundle is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// A GPU server.
    Server,
    /// A machine that uses its GPUs.
    Client,
}

impl std::fmt::Display for Side {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Server => "server",
            Self::Client => "client",
        })
    }
}

/// What a bundle says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of this document.
    pub version: u32,
    /// Name of the engine.
    pub engine: String,
    /// For whom it is.
    pub side: Side,
    /// CUDA version whose headers it was built with: `13.3`.
    pub cuda: String,
    /// Commit of its source, or `unknown`.
    pub commit: String,
    /// SHA-256 over all that the build brought forth, both sides: equal on both, or they do not understand each other.
    pub build: String,
    /// Its files, the manifest aside.
    pub files: Vec<File>,
}

/// A file of a bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Its name: no folder, no `..`.
    pub path: String,
    /// SHA-256 of its bytes, lower-case hex.
    pub sha256: String,
}

fn is_hash(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// A plain name: nothing that leaves the folder that a bundle is unpacked into, or that a shell or a unit would read
/// otherwise.
fn is_name(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && !text.starts_with(['.', '-'])
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-+".contains(&b))
}

/// Reads a manifest, and whether it is what its side of its engine needs.
///
/// # Errors
/// What is wrong with it, for people: the text comes from a file of the operator.
pub fn read(bytes: &[u8]) -> Result<(Manifest, &'static Engine), String> {
    if bytes.len() > MOST_BYTES {
        return Err(format!("{NAME} has {} bytes: at most {MOST_BYTES} are read", bytes.len()));
    }
    let manifest: Manifest = serde_json::from_slice(bytes).map_err(|e| format!("{NAME}: {e}"))?;
    let wrong = |why: String| Err(format!("{NAME}: {why}"));
    if manifest.version != VERSION {
        return wrong(format!("its version is {}, known is {VERSION}", manifest.version));
    }
    let Some(engine) = named(&manifest.engine) else {
        let known: Vec<&str> = ALL.iter().map(|engine| engine.name).collect();
        return wrong(format!("the engine `{}` is not known; known: {}", manifest.engine, known.join(", ")));
    };
    if !is_hash(&manifest.build) {
        return wrong("`build` is no SHA-256".into());
    }
    let number = |part: &str| (1..=3).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
    if !manifest.cuda.split_once('.').is_some_and(|(major, minor)| number(major) && number(minor)) {
        return wrong("`cuda` is no version such as 13.3".into());
    }
    if !(manifest.commit == "unknown"
        || (7..=64).contains(&manifest.commit.len()) && is_name(&manifest.commit))
    {
        return wrong("`commit` is no commit".into());
    }
    if manifest.files.is_empty() || manifest.files.len() > MOST_FILES {
        return wrong(format!("{} files: 1 to {MOST_FILES} are expected", manifest.files.len()));
    }
    for (at, file) in manifest.files.iter().enumerate() {
        if !is_name(&file.path) || file.path == NAME {
            return wrong(format!("file {}: its name is no plain name", at + 1));
        }
        if !is_hash(&file.sha256) {
            return wrong(format!("{}: `sha256` is no SHA-256", file.path));
        }
        if manifest.files[..at].iter().any(|other| other.path == file.path) {
            return wrong(format!("{} is listed twice", file.path));
        }
    }
    // A server tries each of its GPUs as a client would.
    let server = (manifest.side == Side::Server).then_some(engine.server);
    let needed = server.iter().chain(engine.client);
    match needed.clone().find(|name| !manifest.files.iter().any(|file| file.path == **name)) {
        Some(missing) => wrong(format!(
            "{missing} is not among its files, and a {} needs it: build it again with packaging/engine/build-lupine, for servers and clients",
            manifest.side
        )),
        None => Ok((manifest, engine)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn manifest() -> Value {
        let hash = "ab".repeat(32);
        json!({ "version": 1, "engine": "lupine", "side": "client", "cuda": "13.3", "commit": "7fbd364", "build": hash,
            "files": [{ "path": "libcuda.so.1", "sha256": hash }, { "path": "libnvidia-ml.so.1", "sha256": hash }] })
    }

    fn read_value(value: &Value) -> Result<(Manifest, &'static Engine), String> {
        read(value.to_string().as_bytes())
    }

    #[test]
    fn a_client_and_a_server() {
        let (client, engine) = read_value(&manifest()).unwrap_or_else(|why| panic!("{why}"));
        assert_eq!((client.side, engine.name, client.cuda.as_str()), (Side::Client, "lupine", "13.3"));
        let mut server = manifest();
        server["side"] = json!("server");
        server["files"].as_array_mut().into_iter().for_each(|files| {
            files.push(json!({ "path": "lupine_driver_server", "sha256": "ab".repeat(32) }))
        });
        let (server, _) = read_value(&server).unwrap_or_else(|why| panic!("{why}"));
        assert_eq!(server.build, client.build, "the two understand each other");
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (pointer, value, says) in [
            ("/version", json!(2), "its version is 2"),
            ("/engine", json!("own"), "`own` is not known"),
            ("/side", json!("middle"), "unknown variant"),
            ("/cuda", json!("13"), "no version"),
            ("/cuda", json!("13.x"), "no version"),
            ("/commit", json!("a b"), "no commit"),
            ("/build", json!("AB"), "no SHA-256"),
            ("/files", json!([]), "0 files"),
            ("/files/0/path", json!("../../etc/passwd"), "no plain name"),
            ("/files/0/path", json!("lib/libcuda.so.1"), "no plain name"),
            ("/files/0/path", json!(".."), "no plain name"),
            ("/files/0/path", json!("manifest.json"), "no plain name"),
            ("/files/0/path", json!("libnvidia-ml.so.1"), "listed twice"),
            ("/files/0/path", json!("libother.so"), "libcuda.so.1 is not among its files"),
            ("/files/0/sha256", json!("x"), "`sha256` is no SHA-256"),
        ] {
            let mut wrong = manifest();
            if let Some(place) = wrong.pointer_mut(pointer) {
                *place = value.clone();
            }
            let why = read_value(&wrong).err().unwrap_or_default();
            assert!(why.contains(says), "{pointer} {value}: {why}");
        }
        let mut more = manifest();
        more["run"] = json!("x");
        assert!(read_value(&more).is_err(), "a key that is not known");
        assert!(read(&vec![b' '; MOST_BYTES + 1]).is_err());
    }
}
