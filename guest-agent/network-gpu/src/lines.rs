//! Local sockets on which both sides send JSON, one document a line, each of bounded length.

use serde::{Serialize, de::DeserializeOwned};
use std::io::{Error, ErrorKind};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::UnixListener;

/// Bytes of one line.
pub(crate) const MAX_LINE: usize = 4 << 20;

/// Listens on a path of ours, whatever lies there; `mode` says who may connect.
///
/// # Errors
/// Where the folder is not ours to write.
pub(crate) fn listen(path: &Path, mode: u32) -> Result<UnixListener, Error> {
    #[expect(clippy::disallowed_methods, reason = "our own socket, which an earlier one of us left")]
    match std::fs::remove_file(path) {
        Err(why) if why.kind() != ErrorKind::NotFound => return Err(why),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode))?;
    Ok(listener)
}

/// The next document; `None` at the end.
///
/// # Errors
/// A line that is too long or no such document.
pub(crate) async fn next<T: DeserializeOwned>(
    from: &mut (impl AsyncBufRead + Unpin),
    most: usize,
) -> Result<Option<T>, Error> {
    let mut line = vec![];
    let read = from.take(most as u64 + 1).read_until(b'\n', &mut line).await?;
    if read == 0 {
        return Ok(None);
    }
    if line.pop_if(|last| *last == b'\n').is_none() {
        let why = if read > most { "a line is too long" } else { "the last line is cut off" };
        return Err(Error::new(ErrorKind::InvalidData, why));
    }
    serde_json::from_slice(&line).map(Some).map_err(|e| Error::new(ErrorKind::InvalidData, e))
}

/// Sends a document.
///
/// # Errors
/// The other side is gone.
pub(crate) async fn send(to: &mut (impl AsyncWrite + Unpin), document: &impl Serialize) -> Result<(), Error> {
    let mut line = serde_json::to_vec(document)?;
    line.push(b'\n');
    to.write_all(&line).await?;
    to.flush().await
}
