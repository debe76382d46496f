//! Receiving an artifact: resumable by offset, constant memory, the hash checked before the file gets its
//! name. Network and disk run beside each other: one thread writes and hashes what the connection delivers.

use crate::refusal::Refusal;
use crate::traceparent::TraceParent;
use crate::v1;
use crate::v1::artifact_part::Part;
use std::sync::Arc;
use tonic::Streaming;
use vsgpu_core::artifact::{is_plain, stored_path};
use vsgpu_core::{Incoming, System, UploadError};

/// Largest file taken: a whole AI Enterprise bundle is below 4 GiB.
const MAX_SIZE: u64 = 16 << 30;

/// `owner`: a datastore may be shared, and the hosts of it receive the same file beside each other. Names
/// come from the wire: each must be one plain path component.
fn place(system: &dyn System, owner: &str, id: &v1::ArtifactId) -> Result<Incoming, Refusal> {
    let bad = |what: &str| Refusal::invalid(format!("artifact: {what}"));
    if !is_plain(&id.name) {
        return Err(bad("the name is no plain file name"));
    }
    if id.sha256.len() != 64 || !id.sha256.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(bad("sha256 is not 64 hexadecimal digits"));
    }
    if id.size == 0 || id.size > MAX_SIZE {
        return Err(bad("the size is 0 or above 16 GiB"));
    }
    let datastore = (!id.datastore.is_empty()).then_some(id.datastore.as_str());
    if let Some(name) = datastore {
        if !is_plain(name) {
            return Err(bad("the datastore is no plain name"));
        }
        if !system.is_folder(&format!("/vmfs/volumes/{name}")).map_err(|e| Refusal::from(&e))? {
            let known = system.list("/vmfs/volumes").unwrap_or_default().join(", ");
            return Err(Refusal::not_found(format!(
                "there is no datastore `{name}` on this host; it has: {known}"
            )));
        }
    }
    let sha256 = id.sha256.to_lowercase();
    let target = stored_path(datastore, &sha256, &id.name);
    Ok(Incoming {
        name: id.name.clone(),
        partial: format!("{target}.{owner}.partial"),
        target,
        size: id.size,
        sha256,
        offset: 0,
    })
}

/// What is there of an artifact. A complete file is believed by its name and size only after its hash is read
/// again.
pub(crate) fn state(
    system: &dyn System,
    owner: &str,
    id: &v1::ArtifactId,
) -> Result<v1::ArtifactState, Refusal> {
    let file = place(system, owner, id)?;
    let size = |path: &str| system.size(path).map_err(|e| Refusal::from(&e));
    let complete = size(&file.target)? == Some(id.size)
        && system.hash(&file.target).is_ok_and(|h| h.eq_ignore_ascii_case(&id.sha256));
    let offset = if complete { id.size } else { size(&file.partial)?.unwrap_or(0).min(id.size) };
    Ok(v1::ArtifactState { offset, complete, path: file.target })
}

/// Takes the stream.
pub(crate) async fn put(
    system: Arc<dyn System>,
    owner: String,
    mut parts: Streaming<v1::ArtifactPart>,
    allowed: impl Fn(Option<&v1::Fence>) -> Result<(), Refusal>,
) -> Result<v1::ArtifactState, Refusal> {
    let first = parts.message().await?.ok_or_else(|| Refusal::invalid("artifact: the stream is empty"))?;
    allowed(first.fence.as_ref())?;
    let Some(Part::Header(id)) = first.part else {
        return Err(Refusal::invalid("artifact: the stream does not begin with its header"));
    };
    let trace = TraceParent::parse(&first.traceparent).unwrap_or_default();
    let span = tracing::info_span!("transfer", name = id.name, trace_id = trace.trace, span_id = trace.span);
    let (tx, mut rx) = tokio::sync::mpsc::channel::<bytes::Bytes>(4);
    let writer = tokio::task::spawn_blocking(move || {
        write(system.as_ref(), &owner, &id, first.offset, &mut || rx.blocking_recv().map(Vec::from))
    });
    let mut broken = None;
    loop {
        match parts.message().await {
            Ok(Some(v1::ArtifactPart { part: Some(Part::Data(data)), .. })) => {
                // A controller that was paused past its lease wakes up in the middle of a file.
                if let Err(status) = allowed(first.fence.as_ref()) {
                    broken = Some(status);
                    break;
                }
                // The writer ends first only with an error, which is the answer.
                if tx.send(data).await.is_err() {
                    break;
                }
            }
            Ok(Some(_)) => broken = Some(Refusal::invalid("artifact: a part without data")),
            Ok(None) => break,
            Err(status) => broken = Some(status.into()),
        }
        if broken.is_some() {
            break;
        }
    }
    drop(tx);
    let written = writer.await.map_err(|e| Refusal::internal(e.to_string()))?;
    // A cut stream leaves the partial file for the next attempt; its error matters more than "too short".
    let received = broken.map_or(written, Err);
    span.in_scope(|| match &received {
        Ok(file) => tracing::info!(path = file.path, bytes = file.offset, "received"),
        Err(status) => tracing::warn!("not received: {}", status.message()),
    });
    received
}

fn write(
    system: &dyn System,
    owner: &str,
    id: &v1::ArtifactId,
    offset: u64,
    next: &mut dyn FnMut() -> Option<Vec<u8>>,
) -> Result<v1::ArtifactState, Refusal> {
    let file = Incoming { offset, ..place(system, owner, id)? };
    system.upload(&file, next).map_err(|why| match why {
        UploadError::NoSpace => Refusal::exhausted(format!(
            "{}: no space left; the part that was received has been removed",
            file.target
        )),
        UploadError::Gap(have) => Refusal::out_of_range(format!(
            "the sender goes on at byte {offset}, but only {have} bytes are here"
        )),
        UploadError::TooMuch => {
            Refusal::invalid(format!("more than the announced {} bytes were sent", id.size))
        }
        UploadError::TooShort(size) => Refusal::cut_short(format!(
            "the stream ended after {size} of {} bytes; it can be resumed there",
            id.size
        )),
        UploadError::Damaged(seen) => Refusal::damaged(format!(
            "{}: SHA-256 is {seen}, expected {}; the file was thrown away",
            id.name, id.sha256
        )),
        UploadError::Io(why) => Refusal::from(&why),
    })?;
    Ok(v1::ArtifactState { offset: id.size, complete: true, path: file.target })
}
