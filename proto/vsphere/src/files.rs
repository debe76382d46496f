//! Files of datastores, by HTTP: `/folder/PATH?dcPath=DATACENTER&dsName=DATASTORE`, with the session's cookie.

use crate::fault::Fault;
use crate::session::Session;
use crate::soap::Ref;
use hyper::StatusCode;

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
pub fn tail(
    session: &mut Session,
    (datacenter, datastore, path): (Option<&str>, &str, &str),
    most: usize,
) -> Result<Vec<u8>, Fault> {
    let of = datacenter.map(|of| format!("dcPath={}&", encoded(of, false))).unwrap_or_default();
    let uri = format!("/folder/{}?{of}dsName={}", encoded(path, true), encoded(datastore, false));
    let (status, mut bytes) = session.file(&uri, &format!("bytes=-{most}"))?;
    let kind = match status {
        StatusCode::OK | StatusCode::PARTIAL_CONTENT => {
            // A server that does not know ranges sends all of it.
            return Ok(bytes.split_off(bytes.len().saturating_sub(most)));
        }
        StatusCode::NOT_FOUND => "FileNotFound",
        StatusCode::FORBIDDEN => "NoPermission",
        // Of an empty file there is no last byte.
        StatusCode::RANGE_NOT_SATISFIABLE => return Ok(vec![]),
        _ => "CannotAccessFile",
    };
    Err(Fault {
        kind: kind.into(),
        said: vec![format!("[{datastore}] {path}: HTTP status {}", status.as_u16())],
        privilege: (kind == "NoPermission").then(|| "Datastore.FileManagement".into()),
    })
}

/// A path, or a value, as a URI has it.
fn encoded(text: &str, is_path: bool) -> String {
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
