//! Files of datastores, by HTTP: `/folder/PATH?dcPath=DATACENTER&dsName=DATASTORE`, with the session's cookie.

use crate::fault::Fault;
use crate::session::Session;
use crate::soap::{Ref, object, text};
use hyper::StatusCode;
use std::path::Path;
use std::time::Duration;
use vsgpu_core::text::hex;

/// Folders above a host.
const DEEPEST: usize = 32;

/// The path of the datacenter that something is in, as `dcPath` wants it; none where a host stands alone.
///
/// # Errors
/// What the server said, or why it is not heard.
pub fn datacenter(session: &mut Session, of: &Ref) -> Result<Option<String>, Fault> {
    if !session.about().is_vcenter {
        return Ok(None);
    }
    let (mut at, mut path): (Ref, Vec<String>) = (of.clone(), vec![]);
    let mut inside = false;
    for _ in 0..DEEPEST {
        let found = session.of(std::slice::from_ref(&at), &["name", "parent"])?;
        let Some(found) = found.into_iter().next() else { break };
        inside = inside || at.kind == "Datacenter";
        // The root folder has no parent, and is no part of a path.
        let Some(parent) = found.reference("parent") else { break };
        if inside {
            // As the server writes it: a slash in a name is none of the path's.
            path.insert(0, found.text("name").unwrap_or_default().to_string());
        }
        at = parent;
    }
    match path.is_empty() {
        true => Err(Fault::said("the account does not see the datacenter")),
        false => Ok(Some(path.join("/"))),
    }
}

/// The last bytes of a file on a datastore. `path` as `a/vmware.log`.
///
/// # Errors
/// What the server said; `FileNotFound` where there is none.
pub fn tail(session: &mut Session, place: Place<'_>, most: usize) -> Result<Vec<u8>, Fault> {
    let (status, mut bytes) = session.file(&uri(place), &format!("bytes=-{most}"))?;
    match status {
        // A server that does not know ranges sends all of it.
        StatusCode::OK | StatusCode::PARTIAL_CONTENT => Ok(bytes.split_off(bytes.len().saturating_sub(most))),
        // Of an empty file there is no last byte.
        StatusCode::RANGE_NOT_SATISFIABLE => Ok(vec![]),
        status => Err(refused(place, status)),
    }
}

/// A file on a datastore: the path of its datacenter, the datastore, the path on it.
pub type Place<'a> = (Option<&'a str>, &'a str, &'a str);

fn uri((datacenter, datastore, path): Place<'_>) -> String {
    let of = datacenter.map(|of| format!("dcPath={}&", encoded(of, false))).unwrap_or_default();
    format!("/folder/{}?{of}dsName={}", encoded(path, true), encoded(datastore, false))
}

fn refused((_, datastore, path): Place<'_>, status: StatusCode) -> Fault {
    let kind = match status {
        StatusCode::NOT_FOUND => "FileNotFound",
        StatusCode::FORBIDDEN => "NoPermission",
        StatusCode::INSUFFICIENT_STORAGE => "NoDiskSpace",
        _ => "CannotAccessFile",
    };
    Fault {
        kind: kind.into(),
        said: vec![format!("[{datastore}] {path}: HTTP status {}", status.as_u16())],
        privilege: (kind == "NoPermission").then(|| "Datastore.FileManagement".into()),
    }
}

/// Puts a file onto a datastore, whose folder is there.
///
/// # Errors
/// What the server said, or why it is not heard.
pub fn put(session: &mut Session, place: Place<'_>, from: &Path, within: Duration) -> Result<(), Fault> {
    match session.put(&uri(place), from, within)? {
        StatusCode::OK | StatusCode::CREATED | StatusCode::NO_CONTENT => Ok(()),
        status => Err(refused(place, status)),
    }
}

/// SHA-256 (lower-case hex) of a file on a datastore: it is read whole, for the server does not tell. None where there is
/// none.
///
/// # Errors
/// What the server said, or why it is not heard.
pub fn hash(session: &mut Session, place: Place<'_>, within: Duration) -> Result<Option<String>, Fault> {
    match session.hash(&uri(place), within)? {
        (StatusCode::OK, sum) => Ok(Some(hex(&sum))),
        (StatusCode::NOT_FOUND, _) => Ok(None),
        (status, _) => Err(refused(place, status)),
    }
}

/// Makes a folder of a datastore, and those above it; one that is there is fine.
///
/// # Errors
/// What the server said, or why it is not heard.
pub fn make_folder(
    session: &mut Session,
    datacenter: Option<&Ref>,
    (datastore, path): (&str, &str),
) -> Result<(), Fault> {
    let files = session.named("fileManager")?;
    let arguments = text("name", &format!("[{datastore}] {path}"))
        + &datacenter.map(|of| object("datacenter", of)).unwrap_or_default()
        + &text("createParentDirectories", "true");
    match session.long("MakeDirectory", &files, &arguments, Duration::from_secs(60)) {
        Err(fault) if fault.kind == "FileAlreadyExists" => Ok(()),
        other => other.map(|_| ()),
    }
}

/// The datacenter that something is in; none where a host stands alone.
///
/// # Errors
/// What the server said, or why it is not heard.
pub fn datacenter_of(session: &mut Session, of: &Ref) -> Result<Option<Ref>, Fault> {
    let mut at = of.clone();
    for _ in 0..DEEPEST {
        if at.kind == "Datacenter" {
            return Ok(Some(at));
        }
        let found = session.of(std::slice::from_ref(&at), &["parent"])?;
        let Some(parent) = found.first().and_then(|found| found.reference("parent")) else { break };
        at = parent;
    }
    Ok(None)
}

/// A file of the host's own, as a URL.
pub fn file_url(path: &str) -> String {
    format!("file://{}", encoded(path, true))
}

/// A path, or a value, as a URI has it.
pub(crate) fn encoded(text: &str, is_path: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(byte as char),
            b'/' if is_path => out.push('/'),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_datastores_hold_anything() {
        assert_eq!(encoded("a b/vm&ware.log", true), "a%20b/vm%26ware.log");
        assert_eq!(encoded("DC 0/ü", false), "DC%200%2F%C3%BC");
    }
}
