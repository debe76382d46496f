//! Tasks of both APIs: started by a call, waited for to a deadline, and found again by their id when the connection, the
//! session or the program was lost meanwhile.

use crate::fault::Fault;
use crate::files::encoded;
use crate::rest::{NOT_FOUND, messages};
use crate::session::Session;
use crate::soap::Ref;
use hyper::Method;
use serde_json::Value;
use vsgpu_core::text::piece;

/// Kind of a task of the other API.
pub const OF_REST: &str = "cis.task";

/// How far a task is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It waits or runs; so many percent, where that is said.
    Runs(Option<u8>),
    /// It has ended well.
    Done,
    /// It has failed.
    Failed(Fault),
}

/// Asks a task; none where the server does not know it any more.
///
/// # Errors
/// What the server said, or why it is not heard.
pub fn progress(session: &mut Session, task: &Ref) -> Result<Option<Progress>, Fault> {
    if task.kind == OF_REST {
        return of_rest(session, task);
    }
    let paths = ["info.state", "info.progress", "info.error"];
    let found = match session.of(std::slice::from_ref(task), &paths) {
        Err(fault) if fault.kind == "ManagedObjectNotFound" => return Ok(None),
        other => other?,
    };
    let Some(found) = found.into_iter().next() else { return Ok(None) };
    let percent = found.text("info.progress").and_then(|n| n.parse().ok());
    Ok(Some(match found.text("info.state") {
        Some("success") => Progress::Done,
        Some("error") => Progress::Failed(match found.values.get("info.error") {
            Some(error) => Fault::localized(error),
            None => Fault::said("the task failed, and does not say why"),
        }),
        Some("queued" | "running") => Progress::Runs(percent),
        other => return Err(Fault::said(format!("a task is `{}`", piece(other.unwrap_or_default(), 40)))),
    }))
}

/// Cancels a task, where it can be.
///
/// # Errors
/// What the server said, or why it is not heard.
pub fn cancel(session: &mut Session, task: &Ref) -> Result<(), Fault> {
    if task.kind == OF_REST {
        return session.rest(&Method::POST, &format!("{}?action=cancel", at(task)), None).map(|_| ());
    }
    session.within_session(|session| session.look("CancelTask", task, "")).map(|_| ())
}

fn at(task: &Ref) -> String {
    format!("/api/cis/tasks/{}", encoded(&task.id, false))
}

fn of_rest(session: &mut Session, task: &Ref) -> Result<Option<Progress>, Fault> {
    let found = match session.rest(&Method::GET, &at(task), None) {
        Err(fault) if fault.kind == NOT_FOUND => return Ok(None),
        other => other?,
    };
    Ok(Some(match found["status"].as_str() {
        Some("SUCCEEDED") => Progress::Done,
        Some("FAILED") => Progress::Failed({
            let (kind, said) = messages(&found["error"]);
            match kind.as_str() {
                "" if said.is_empty() => Fault::said("the task failed, and does not say why"),
                "" => Fault { kind: "FAILED".into(), said, privilege: None },
                _ => Fault { kind, said, privilege: None },
            }
        }),
        Some("PENDING" | "RUNNING" | "BLOCKED") => Progress::Runs(percent(&found["progress"])),
        other => return Err(Fault::said(format!("a task is `{}`", piece(other.unwrap_or_default(), 40)))),
    }))
}

fn percent(progress: &Value) -> Option<u8> {
    let (done, of) = (progress["completed"].as_u64()?, progress["total"].as_u64()?);
    u8::try_from((done.min(of) * 100).checked_div(of)?).ok()
}

/// What a task of the other API gave.
///
/// # Errors
/// What the server said, or why it is not heard.
pub(crate) fn result(session: &mut Session, task: &Ref) -> Result<Value, Fault> {
    match session.rest(&Method::GET, &at(task), None) {
        // It ended so long ago that nobody knows how.
        Err(fault) if fault.kind == NOT_FOUND => Ok(Value::Null),
        other => Ok(normal(other?["result"].take(), 0)),
    }
}

/// A map may also come as a list of keys with their values: so the recorded results have it.
fn normal(of: Value, depth: usize) -> Value {
    if depth > DEEPEST {
        return of;
    }
    match of {
        Value::Array(all) if !all.is_empty() && all.iter().all(is_pair) => {
            let pair = |mut pair: Value| {
                let key = pair["key"].as_str().unwrap_or_default().to_string();
                (key, normal(pair["value"].take(), depth + 1))
            };
            Value::Object(all.into_iter().map(pair).collect())
        }
        Value::Array(all) => all.into_iter().map(|one| normal(one, depth + 1)).collect(),
        Value::Object(all) => {
            Value::Object(all.into_iter().map(|(key, value)| (key, normal(value, depth + 1))).collect())
        }
        other => other,
    }
}

/// Results are flat.
const DEEPEST: usize = 20;

fn is_pair(of: &Value) -> bool {
    of.as_object().is_some_and(|of| {
        of.len() == 2 && of.get("key").is_some_and(Value::is_string) && of.contains_key("value")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn maps_come_in_two_forms() {
        let pairs = json!({ "hosts": [{ "key": "host-1", "value": { "n": [{ "key": "a", "value": 1 }] } }], "list": ["x"], "none": [] });
        assert_eq!(
            normal(pairs, 0),
            json!({ "hosts": { "host-1": { "n": { "a": 1 } } }, "list": ["x"], "none": [] })
        );
        let other = json!([{ "key": "k", "other": 1 }]);
        assert_eq!(normal(other.clone(), 0), other);
    }
}
