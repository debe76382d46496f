//! Bundles of engines for GPUs over the network that are unpacked on this guest: one folder for each build and
//! side, whole or not.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use vsgpu_core::artifact::{Artifact, Kind, PackageContent};
use vsgpu_core::engine::manifest::{self, Side};
use vsgpu_core::pool::config::{BundleFile, EngineBuild};
use vsgpu_core::{Command, Effect, Observation, Probe, Unreadable};

/// Where they are: never a folder in which programs look for libraries by themselves.
pub(crate) const FOLDER: &str = "/usr/lib/vsgpu/engine";
/// Folders that are looked into.
const MOST: usize = 16;
/// For an unpacking.
const UNPACK_SECS: u32 = 60;

/// One that is unpacked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Bundle {
    /// Name of its folder.
    pub folder: String,
    /// What it is.
    pub engine: EngineBuild,
    /// All files are as its manifest says.
    pub whole: bool,
}

/// Folder of a build: the first digits of its hash are enough to tell builds apart, its manifest has all.
pub(crate) fn folder(build: &str, side: Side) -> String {
    format!("{FOLDER}/{build:.16}-{side}")
}

/// Whether a build is unpacked where it belongs, whole.
pub(crate) fn is_there(bundles: &[Bundle], engine: &EngineBuild, side: Side) -> bool {
    let at = folder(&engine.build, side);
    bundles.iter().any(|b| b.whole && b.engine == *engine && format!("{FOLDER}/{}", b.folder) == at)
}

fn manifest_of(name: &str) -> String {
    format!("{FOLDER}/{name}/{}", manifest::NAME)
}

/// What is to be asked, as far as is known by now.
pub(crate) fn probes(seen: &Observation) -> Vec<Probe> {
    let mut probes = vec![Probe::List(FOLDER.into())];
    let Ok(names) = seen.names(FOLDER) else { return probes };
    for name in names.into_iter().take(MOST) {
        probes.push(Probe::Read(manifest_of(name)));
        let Some((manifest, _)) = read(seen, name) else { continue };
        let hash = |file: &manifest::File| Probe::Hash(format!("{FOLDER}/{name}/{}", file.path));
        probes.extend(manifest.files.iter().map(hash));
    }
    probes
}

fn read(seen: &Observation, name: &str) -> Option<(manifest::Manifest, Side)> {
    let text = seen.file(&manifest_of(name)).ok().flatten()?;
    let (manifest, _) = manifest::read(text.as_bytes()).ok()?;
    let side = manifest.side;
    Some((manifest, side))
}

/// What is there of one side.
pub(crate) fn parse(seen: &Observation, side: Side) -> Result<Vec<Bundle>, Unreadable> {
    let mut bundles = vec![];
    for name in seen.names(FOLDER)?.into_iter().take(MOST) {
        let Some((manifest, _)) = read(seen, name).filter(|(_, of)| *of == side) else { continue };
        let is_there = |file: &manifest::File| {
            let hash = seen.text(&Probe::Hash(format!("{FOLDER}/{name}/{}", file.path)));
            hash.is_ok_and(|hash| hash == Some(&file.sha256))
        };
        bundles.push(Bundle {
            folder: name.into(),
            engine: EngineBuild {
                name: manifest.engine.clone(),
                build: manifest.build.clone(),
                cuda: manifest.cuda.clone(),
            },
            whole: manifest.files.iter().all(is_there),
        });
    }
    Ok(bundles)
}

/// What a file of the operator is, by its own content; `None` before it was looked at.
///
/// # Errors
/// It is something else.
pub(crate) fn of_artifact(
    artifact: &Artifact,
    engine: &str,
    side: Side,
) -> Result<Option<EngineBuild>, String> {
    let file = artifact.file_name();
    match artifact.kind {
        None => return Ok(None),
        Some(Kind::Engine) => {}
        Some(_) => {
            return Err(format!(
                "{file} is no bundle of an engine: `packaging/engine/build-lupine` makes one"
            ));
        }
    }
    let wanted = format!("{engine}-{side}");
    let found = |name: &str| artifact.holds.iter().find(|held: &&PackageContent| held.name == name);
    match (found(&wanted), found("cuda")) {
        (Some(build), Some(cuda)) => Ok(Some(EngineBuild {
            name: engine.into(),
            build: build.version.clone(),
            cuda: cuda.version.clone(),
        })),
        _ => {
            let is = artifact.holds.first().map(|held| held.name.as_str()).unwrap_or("something else");
            Err(format!("{file} holds {is}, {wanted} belongs here"))
        }
    }
}

/// Unpacks one.
pub(crate) fn unpack(artifact: &Artifact, build: &str, side: Side) -> Vec<Effect> {
    let folder = folder(build, side);
    vec![
        Effect::run(Command::new("mkdir", ["-p", &folder])),
        Effect::run(
            Command::new("tar", ["--no-same-owner", "-xf", &artifact.stored(None), "-C", &folder])
                .within(UNPACK_SECS),
        ),
    ]
}

/// What is kept of the operator's file.
pub(crate) fn bundle_file(artifact: &Artifact) -> BundleFile {
    BundleFile {
        file: artifact.file_name().into(),
        sha256: artifact.sha256.clone().unwrap_or_default(),
        size: artifact.size.unwrap_or_default(),
    }
}

/// The operator's file again, from what was kept of it.
pub(crate) fn artifact(kept: &BundleFile, engine: &EngineBuild, side: Side) -> Artifact {
    let one =
        |name: String, version: &str| PackageContent { name, version: version.into(), acceptance: None };
    Artifact {
        artifact: kept.file.clone(),
        sha256: Some(kept.sha256.clone()),
        size: Some(kept.size),
        kind: Some(Kind::Engine),
        holds: vec![one(format!("{}-{side}", engine.name), &engine.build), one("cuda".into(), &engine.cuda)],
    }
}
