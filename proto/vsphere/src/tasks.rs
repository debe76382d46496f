//! Tasks: started by a call, waited for to a deadline, and found again by their id when the connection, the session or the
//! program was lost meanwhile.

use crate::fault::Fault;
use crate::session::Session;
use crate::soap::Ref;
use vsgpu_core::text::piece;

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
    session.within_session(|session| session.look("CancelTask", task, "")).map(|_| ())
}
