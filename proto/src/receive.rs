//! Receiving an artifact: resumable by offset, constant memory, the hash checked before the file gets its name.
//! Network and disk run beside each other: one thread writes and hashes what the connection delivers.

use crate::posix::{Posix, hex, trouble};
use crate::v1::{self, artifact_part::Part};
use sha2::Digest as _;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::PathBuf;
use tonic::{Status, Streaming};
use vsgpu_core::artifact::stored_path;

/// Largest file taken: a whole AI Enterprise bundle is below 4 GiB.
const MAX_SIZE: u64 = 16 << 30;

struct Place {
    shown: String,
    target: PathBuf,
    partial: PathBuf,
}

/// `owner`: a datastore may be shared, and the hosts of it receive the same file beside each other. Names come from the wire: each must be one plain path component.
fn place(posix: &Posix, owner: &str, id: &v1::ArtifactId) -> Result<Place, Status> {
    let plain = |name: &str| !name.is_empty() && name.len() <= 200 && !name.starts_with('.') && !name.contains(['/', '\0', '\\']);
    let bad = |what: &str| Status::invalid_argument(format!("artifact: {what}"));
    if !plain(&id.name) {
        return Err(bad("the name is no plain file name"));
    }
    if id.sha256.len() != 64 || !id.sha256.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(bad("sha256 is not 64 hexadecimal digits"));
    }
    if id.size == 0 || id.size > MAX_SIZE {
        return Err(bad("the size is 0 or above 16 GiB"));
    }
    let internal = |e: vsgpu_core::Trouble| Status::internal(e.to_string());
    let datastore = (!id.datastore.is_empty()).then_some(id.datastore.as_str());
    if let Some(name) = datastore {
        if !plain(name) {
            return Err(bad("the datastore is no plain name"));
        }
        if !posix.path(&format!("/vmfs/volumes/{name}")).map_err(internal)?.is_dir() {
            let known = posix.list("/vmfs/volumes").unwrap_or_default().join(", ");
            return Err(Status::not_found(format!("there is no datastore `{name}` on this host; it has: {known}")));
        }
    }
    let shown = stored_path(datastore, &id.sha256.to_lowercase(), &id.name);
    let target = posix.path(&shown).map_err(internal)?;
    Ok(Place { partial: posix.path(&format!("{shown}.{owner}.partial")).map_err(internal)?, shown, target })
}

/// What is there of an artifact. A complete file is believed by its name and size only after its hash is read again.
pub(crate) fn state(posix: &Posix, owner: &str, id: &v1::ArtifactId) -> Result<v1::ArtifactState, Status> {
    let place = place(posix, owner, id)?;
    let complete = place.target.metadata().is_ok_and(|m| m.len() == id.size)
        && posix.hash(&place.shown).is_ok_and(|h| h.eq_ignore_ascii_case(&id.sha256));
    let offset = if complete { id.size } else { place.partial.metadata().map_or(0, |m| m.len()).min(id.size) };
    Ok(v1::ArtifactState { offset, complete, path: place.shown })
}

/// Takes the stream.
pub(crate) async fn put(
    posix: Posix,
    owner: String,
    mut parts: Streaming<v1::ArtifactPart>,
    allowed: impl FnOnce(Option<&v1::Fence>) -> Result<(), Status>,
) -> Result<v1::ArtifactState, Status> {
    let first = parts.message().await?.ok_or_else(|| Status::invalid_argument("artifact: the stream is empty"))?;
    allowed(first.fence.as_ref())?;
    let Some(Part::Header(id)) = first.part else {
        return Err(Status::invalid_argument("artifact: the stream does not begin with its header"));
    };
    let (tx, mut rx) = tokio::sync::mpsc::channel::<bytes::Bytes>(4);
    let writer = tokio::task::spawn_blocking(move || write(&posix, &owner, &id, first.offset, &mut || rx.blocking_recv()));
    let mut broken = None;
    loop {
        match parts.message().await {
            Ok(Some(v1::ArtifactPart { part: Some(Part::Data(data)), .. })) => {
                // The writer ends first only with an error, which is the answer.
                if tx.send(data).await.is_err() {
                    break;
                }
            }
            Ok(Some(_)) => broken = Some(Status::invalid_argument("artifact: a part without data")),
            Ok(None) => break,
            Err(status) => broken = Some(status),
        }
        if broken.is_some() {
            break;
        }
    }
    drop(tx);
    let written = writer.await.map_err(|e| Status::internal(e.to_string()))?;
    // A cut stream leaves the partial file for the next attempt; its error matters more than "too short".
    broken.map_or(written, Err)
}

#[expect(clippy::disallowed_methods, reason = "a shell of its own: streams into a file below the root")]
fn write(
    posix: &Posix,
    owner: &str,
    id: &v1::ArtifactId,
    offset: u64,
    next: &mut dyn FnMut() -> Option<bytes::Bytes>,
) -> Result<v1::ArtifactState, Status> {
    let place = place(posix, owner, id)?;
    let failed = |e: std::io::Error| match e.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            // A full datastore hurts every VM on it: give the room back at once.
            let _ = std::fs::remove_file(&place.partial);
            Status::resource_exhausted(format!("{}: no space left; the part that was received has been removed", place.shown))
        }
        _ => Status::internal(trouble(&place.shown, &e).to_string()),
    };
    if let Some(folder) = place.partial.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    let mut file =
        std::fs::OpenOptions::new().create(true).truncate(false).read(true).write(true).mode(0o600).open(&place.partial).map_err(failed)?;
    let have = file.metadata().map_err(failed)?.len();
    if have < offset {
        return Err(Status::out_of_range(format!("the sender goes on at byte {offset}, but only {have} bytes are here")));
    }
    file.set_len(offset).map_err(failed)?;
    let mut hasher = sha2::Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    loop {
        match file.read(&mut buffer).map_err(failed)? {
            0 => break,
            n => hasher.update(&buffer[..n]),
        }
    }
    let mut size = offset;
    while let Some(data) = next() {
        size += data.len() as u64;
        if size > id.size {
            return Err(Status::invalid_argument(format!("more than the announced {} bytes were sent", id.size)));
        }
        file.write_all(&data).map_err(failed)?;
        hasher.update(&data);
    }
    if size < id.size {
        return Err(Status::aborted(format!("the stream ended after {size} of {} bytes; it can be resumed there", id.size)));
    }
    let seen = hex(&hasher.finalize());
    if !seen.eq_ignore_ascii_case(&id.sha256) {
        let _ = std::fs::remove_file(&place.partial);
        return Err(Status::data_loss(format!("{}: SHA-256 is {seen}, expected {}; the file was thrown away", id.name, id.sha256)));
    }
    // Installers and samples are started by their path; everything else is only read.
    let mut magic = [0; 4];
    let begun = file.seek(std::io::SeekFrom::Start(0)).and_then(|_| file.read(&mut magic)).is_ok();
    let mode = if begun && (magic.starts_with(b"#!") || &magic == b"\x7fELF") { 0o700 } else { 0o600 };
    file.set_permissions(std::fs::Permissions::from_mode(mode)).and_then(|()| file.sync_all()).map_err(failed)?;
    std::fs::rename(&place.partial, &place.target).map_err(failed)?;
    Ok(v1::ArtifactState { offset: size, complete: true, path: place.shown })
}
