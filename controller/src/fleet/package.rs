//! An operator's file, read, hashed and inspected: what it is comes from its content (`vsgpu_wire::package`).

use crate::error::{Error, Kind};
use crate::files;
use sha2::Digest as _;
use std::io::{Read as _, Seek as _};
use std::path::Path;
use vsgpu_core::artifact::Artifact;

pub use vsgpu_machine::package::from_name;

/// Reads, hashes and inspects a file; `base` is the folder of the fleet file.
///
/// # Errors
/// Where it is missing, empty, has another hash than stated, or is no such package.
pub fn resolve(base: &Path, artifact: &Artifact) -> Result<Artifact, Error> {
    let path = base.join(&artifact.artifact);
    let mut file = files::open(&path)?;
    let failed = |e: std::io::Error| Error::new(Kind::Usage, format!("{}: {e}", path.display())).code("file");
    let mut hasher = sha2::Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut size = 0;
    loop {
        match file.read(&mut buffer).map_err(failed)? {
            0 => break,
            n => {
                hasher.update(&buffer[..n]);
                size += n as u64;
            }
        }
    }
    if size == 0 {
        return Err(Error::new(Kind::Usage, format!("{}: the file is empty", path.display())).code("package"));
    }
    let sha256 = vsgpu_core::text::hex(&hasher.finalize());
    if let Some(stated) = artifact.sha256.as_ref().filter(|stated| **stated != sha256) {
        return Err(Error::new(
            Kind::Usage,
            format!("{}: SHA-256 is {sha256}, the fleet file states {stated}", path.display()),
        )
        .code("package")
        .hint("download the file again, or correct `sha256:`"));
    }
    file.rewind().map_err(failed)?;
    let (kind, holds) =
        vsgpu_machine::package::inspect(&mut file, artifact.file_name(), size).map_err(|why| {
            Error::new(Kind::Usage, format!("{}: {why}", path.display()))
                .code("package")
                .hint("use the file as its maker ships it")
        })?;
    Ok(Artifact {
        artifact: artifact.artifact.clone(),
        sha256: Some(sha256),
        size: Some(size),
        kind: Some(kind),
        holds,
    })
}

/// What a file is, without its hash.
///
/// # Errors
/// Where it cannot be read, or is no such package.
pub fn look(path: &Path) -> Result<Artifact, Error> {
    let failed = |why: String| Error::new(Kind::Usage, format!("{}: {why}", path.display())).code("package");
    let mut file = files::open(path)?;
    let size = file.metadata().map_err(|e| failed(e.to_string()))?.len();
    let shown = path.display().to_string();
    let artifact = Artifact::at(shown);
    let (kind, holds) =
        vsgpu_machine::package::inspect(&mut file, artifact.file_name(), size).map_err(failed)?;
    Ok(Artifact { size: Some(size), kind: Some(kind), holds, ..artifact })
}
