//! The real engine Lupine as bundles, built from its source where this machine has that.

use crate::harness::lupine;
use crate::lab::workspace;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// Both bundles, the server's first; built once.
pub fn bundles() -> &'static [PathBuf] {
    static BUILT: OnceLock<Vec<PathBuf>> = OnceLock::new();
    BUILT.get_or_init(|| build(&workspace().join("target/engine-test")))
}

/// Builds them into this folder.
pub fn build(out: &Path) -> Vec<PathBuf> {
    let (source, headers) = lupine().expect("source and headers are there");
    let mut build = Command::new(workspace().join("packaging/engine/build-lupine"));
    let output = build.args([&source, &headers]).arg(out).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "build-lupine: {}", output.status);
    String::from_utf8(output.stdout).unwrap().lines().map(PathBuf::from).collect()
}

/// The same bundle, said to be of another CUDA version: the drivers that stand in are older than its headers.
pub fn said_to_be_of(cuda: &str, bundle: &Path) -> Vec<u8> {
    let bytes = std::fs::read(bundle).unwrap();
    let mut tar = tar::Builder::new(vec![]);
    for entry in tar::Archive::new(bytes.as_slice()).entries().unwrap() {
        let mut entry = entry.unwrap();
        let (path, mut content) = (entry.path().unwrap().into_owned(), vec![]);
        std::io::Read::read_to_end(&mut entry, &mut content).unwrap();
        if path == Path::new(vsgpu_core::engine::manifest::NAME) {
            let mut manifest: serde_json::Value = serde_json::from_slice(&content).unwrap();
            manifest["cuda"] = cuda.into();
            content = serde_json::to_vec(&manifest).unwrap();
        }
        let mut header = entry.header().clone();
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, path, content.as_slice()).unwrap();
    }
    tar.into_inner().unwrap()
}
