//! Tasks of vCenter that were begun on a host: waited for, told to people, noted in the host's memory before they are waited
//! for, and found again by the next gateway. A call without a task that takes its time is noted in the same way.

use super::asked::{Asked, refused};
use std::sync::PoisonError;
use std::time::{Duration, Instant};
use vsgpu_core::{IoError, System as _};
use vsgpu_machine::Posix;
use vsgpu_vsphere::session::REFUSED;
use vsgpu_vsphere::tasks::{Progress, cancel, progress};
use vsgpu_vsphere::{Fault, Ref};

/// Notes of tasks that run, in the host's memory.
const TASKS: &str = "/tasks";
/// Between two looks at a task.
const SOON: Duration = Duration::from_millis(200);
const LATER: Duration = Duration::from_secs(2);

#[expect(clippy::disallowed_methods, reason = "a deadline over many calls")]
fn now() -> Instant {
    Instant::now()
}

/// Why a change was not made.
pub(super) enum Failed {
    /// The server said so: nothing is done, or it failed.
    Said(Fault),
    /// It is not known what became of it.
    Lost(String),
    /// The deadline is over, seconds; the task goes on, or was cancelled.
    Late(u32),
}

impl From<Fault> for Failed {
    fn from(fault: Fault) -> Self {
        match fault.is_unheard() || fault.kind == REFUSED {
            true => Self::Lost(fault.to_string()),
            false => Self::Said(fault),
        }
    }
}

impl Failed {
    /// In words; `what` was to be changed: `this VM`.
    pub(super) fn in_words(self, what: &str) -> String {
        match self {
            Self::Late(secs) => format!("the change did not end within {secs} s"),
            Self::Lost(why) => why,
            Self::Said(fault) if fault.kind == "ConcurrentAccess" => {
                format!(
                    "somebody else changed {what} at the same time: nothing was changed; `vsgpu plan` again"
                )
            }
            Self::Said(fault) => refused(&fault),
        }
    }
}

/// Waits for a task to its end or its deadline. A connection that breaks meanwhile is made anew: the task goes on without
/// it. Its note stays until the server says that it has ended.
pub(super) fn wait(
    asked: &Asked<'_>,
    state: &Posix,
    task: &Ref,
    doing: &str,
    secs: u32,
) -> Result<(), Failed> {
    let tasks = || asked.tasks.lock().unwrap_or_else(PoisonError::into_inner);
    tasks().own.insert(task.id.clone());
    let ended = wait_for(asked, state, task, doing, secs);
    tasks().own.remove(&task.id);
    ended
}

fn wait_for(asked: &Asked<'_>, state: &Posix, task: &Ref, doing: &str, secs: u32) -> Result<(), Failed> {
    let tell = |text: String| {
        let mut tasks = asked.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.told.push((std::thread::current().id(), text));
    };
    let note = format!("{TASKS}/{}", plain(&task.id));
    let text = format!("{} {} {doing}", task.kind, task.id);
    if let Err(why) = state.write(&note, text.as_bytes(), 0o600) {
        tracing::warn!(task = %task.id, %why, "the task is not noted");
    }
    tracing::info!(host = %asked.host.name, task = %task.id, "{doing}");
    // Its id alone is in no list of people's.
    let shown = match task.kind == vsgpu_vsphere::tasks::OF_REST {
        true => format!("{doing}, {}", task.id.split(':').next().unwrap_or_default()),
        false => task.id.clone(),
    };
    tell(vsgpu_core::words::task(&shown, &asked.host.name));
    let look = || asked.site.with(|session| progress(session, task));
    let (begun, within) = (now(), Duration::from_secs(secs.into()));
    loop {
        match look() {
            // It ended so long ago that nobody knows how: the proof of the step tells.
            Ok(Some(Progress::Done) | None) => {
                let _ = state.remove(&note);
                return Ok(());
            }
            Ok(Some(Progress::Failed(fault))) => {
                let _ = state.remove(&note);
                return Err(Failed::Said(fault));
            }
            Ok(Some(Progress::Runs(_))) => {}
            // Not let in any more: the task knows nothing of it.
            Err(fault) if fault.kind == REFUSED => return Err(Failed::Lost(fault.to_string())),
            Err(_) => {}
        }
        if now() - begun >= within {
            break;
        }
        let pause = if now() - begun < Duration::from_secs(5) { SOON } else { LATER };
        state.sleep(pause.min(within.saturating_sub(now() - begun).max(SOON)));
    }
    // Whether it can be cancelled or not: the one who asked knows that it did not end in time. What Lifecycle Manager does to a
    // host or an image is not broken off: it goes on, and whoever comes waits for it.
    if task.kind != vsgpu_vsphere::tasks::OF_REST {
        let _ = asked.site.with(|session| cancel(session, task));
    }
    tell(match look() {
        Ok(Some(Progress::Done | Progress::Failed(_)) | None) => {
            let _ = state.remove(&note);
            format!("{} did not end within {secs} s: it was cancelled", task.id)
        }
        _ => format!("{} did not end within {secs} s, and may still run: look in Recent Tasks", task.id),
    });
    Err(Failed::Late(secs))
}

/// Notes a call that takes its time and has no task, makes it, and takes the note away where it is known to be over. One
/// that was not heard, or whose gateway was killed, is taken to go on at the host for a while: whoever comes meanwhile
/// waits for that.
pub(super) fn noted_call<T>(
    asked: &Asked<'_>,
    state: &Posix,
    doing: &str,
    secs: u32,
    call: impl FnOnce() -> Result<T, Fault>,
) -> Result<T, Failed> {
    let noted = || {
        let until = state.now() + u64::from(secs.min(UNHEARD));
        let id = format!("{CALL}-{until}-{}", state.elapsed().subsec_nanos());
        let note = format!("{TASKS}/{id}");
        state.write(&note, format!("{CALL} {id} {doing}").as_bytes(), 0o600).map(|()| (id, note))
    };
    let (id, note) =
        noted().map_err(|why| Failed::Lost(format!("the call is not noted: {why}; nothing was done")))?;
    let tasks = || asked.tasks.lock().unwrap_or_else(PoisonError::into_inner);
    tasks().own.insert(id.clone());
    let made = call().map_err(Failed::from);
    tasks().own.remove(&id);
    // Heard no more after half an hour, it may have begun late: the while counts from now.
    if !matches!(made, Err(Failed::Lost(_))) || noted().is_ok() {
        let _ = state.remove(&note);
    }
    made
}

/// Seconds for which a call that was not heard is taken to go on. esxcli takes minutes, and nobody tells when it ends.
const UNHEARD: u32 = 600;
/// The word of such a note.
const CALL: &str = "call";

/// Whether a call that was noted may still run.
fn may_run(id: &str, now: u64) -> bool {
    let until = id.split('-').nth(1).and_then(|until| until.parse::<u64>().ok());
    until.is_none_or(|until| now < until)
}

/// An id as the name of a file or a folder.
pub(super) fn plain(id: &str) -> String {
    id.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect()
}

/// A task of an earlier gateway that still runs. Notes of those that have ended go.
pub(super) fn left_running(asked: &Asked<'_>, state: &Posix) -> Option<String> {
    let unread = |why: IoError| Some(format!("a task whose note cannot be read ({why})"));
    let names = match state.list(TASKS) {
        Ok(names) => names,
        Err(IoError::NotFound(_)) => return None,
        Err(why) => return unread(why),
    };
    // One that is being written is waited for here.
    for name in names.iter().filter(|name| !name.ends_with(".vsgpu-new")) {
        let note = format!("{TASKS}/{name}");
        let text = match state.read(&note, 4096) {
            Ok(bytes) => String::from_utf8(bytes).unwrap_or_default(),
            Err(IoError::NotFound(_)) => continue,
            Err(why) => return unread(why),
        };
        let parts: Vec<&str> = text.splitn(3, ' ').collect();
        let [kind, id, doing] = parts[..] else {
            let _ = state.remove(&note);
            continue;
        };
        // One that is waited for here is nobody's orphan.
        if asked.tasks.lock().unwrap_or_else(PoisonError::into_inner).own.contains(id) {
            continue;
        }
        if kind == CALL {
            if may_run(id, state.now()) {
                return Some(doing.into());
            }
            let _ = state.remove(&note);
            continue;
        }
        let task = Ref { kind: kind.into(), id: id.into() };
        match asked.site.with(|session| progress(session, &task)) {
            Ok(Some(Progress::Runs(_))) => return Some(format!("{doing} ({id})")),
            Ok(_) => drop(state.remove(&note)),
            // Away, or not let in: it may well run.
            Err(_) => return Some(format!("{doing} ({id}, vCenter does not say whether it runs)")),
        }
    }
    None
}
