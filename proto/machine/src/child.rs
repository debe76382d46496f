//! The one place that starts a program: with a deadline, a bound on its output, in a process group of its
//! own.
//!
//! Written for ESXi first. Both streams of a child are read by blocking threads: `Command::output` sets its
//! pipes non-blocking with FIONBIO, which VMkernel refuses (rust-lang/rust#129654). A child gets its own
//! process group, so that a deadline ends what it started as well. No signals, no epoll, no pidfd.
#![expect(clippy::disallowed_methods, reason = "the only file that starts processes")]

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Command as Process, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};
use vsgpu_core::ExitKind;
use vsgpu_core::effect::MAX_OUTPUT;

/// What a child reads.
pub(crate) enum Input {
    /// Nothing.
    Nothing,
    /// Pieces, until the sender is dropped.
    Pieces(mpsc::Receiver<Vec<u8>>),
}

/// A program to run.
pub(crate) struct Child<'a> {
    pub program: &'a Path,
    pub args: &'a [String],
    /// All that it sees of an environment beside `HOME` and the like, which are this process's.
    pub env: Vec<(String, String)>,
    pub input: Input,
    /// Seconds.
    pub within: u32,
    /// Behind these words on its standard error nothing more comes that matters, whoever holds its pipes
    /// open.
    pub until: Option<&'a str>,
    /// Hears its process group before it does anything, and may keep it from doing so: what this fails with is
    /// said instead. Where this process ends before, the program does nothing at all. Such a child reads nothing.
    pub hold: Option<Hold<'a>>,
}

/// Called with the process group of a child that waits.
pub(crate) type Hold<'a> = &'a mut dyn FnMut(i32) -> Result<(), String>;

/// What a held child is until it is let go: it waits for a line, and becomes the program. Where the one who
/// would have written the line is gone, the pipe is closed and it ends. A constant: the program and its
/// arguments are arguments here, no part of the text. Not a mode of our own program: where that lies is not
/// to be found out on a machine without /proc, and it may have been replaced since it was started.
const HOLD: [&str; 4] = ["/bin/sh", "-c", "read -r go && exec \"$@\" </dev/null", "sh"];

/// How it ended, and what it printed until then.
pub(crate) struct Ran {
    pub ended: ExitKind,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

/// Whether a file can be started.
pub(crate) fn runs(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    path.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

/// Runs it.
pub(crate) fn run(child: Child<'_>) -> Ran {
    let Child { program, args, env, input, within, until, hold } = child;
    let deadline = Instant::now() + Duration::from_secs(within.into());
    let mut process = Process::new(if hold.is_some() { Path::new(HOLD[0]) } else { program });
    if hold.is_some() {
        process.args(&HOLD[1..]).arg(program);
    }
    process.args(args).envs(env).process_group(0);
    let nothing = matches!(input, Input::Nothing) && hold.is_none();
    process.stdin(if nothing { Stdio::null() } else { Stdio::piped() });
    let broken = |why: String| Ran { ended: ExitKind::Broken(why), stdout: vec![], stderr: vec![] };
    let mut child = match process.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn() {
        Ok(child) => child,
        Err(why) => return broken(why.to_string()),
    };
    let group = nix::unistd::Pid::from_raw(child.id() as i32);
    if let Some(hold) = hold {
        let go = child.stdin.take();
        if let Err(why) = hold(group.as_raw()) {
            drop(go);
            let _ = child.wait();
            return broken(why);
        }
        // One that was killed in between is reported by how it ended.
        let _ = go.map(|mut go| go.write_all(b"go\n"));
    }
    let mut alive = true;
    if let (Input::Pieces(pieces), Some(mut pipe)) = (input, child.stdin.take()) {
        // A child that reads no further closes its end; Rust's runtime ignores SIGPIPE, so that is an error
        // here and no death.
        alive &= thread(move || while pieces.recv().is_ok_and(|piece| pipe.write_all(&piece).is_ok()) {});
    }
    let (events, next) = mpsc::channel();
    let pipes = [child.stdout.take().map(OwnedFd::from), child.stderr.take().map(OwnedFd::from)];
    let streams = pipes.map(|pipe| pipe.map(Stream::of).unwrap_or_default());
    let until = until.map(|words| words.as_bytes().to_vec());
    for (stream, until) in streams.iter().zip([None, until]) {
        alive &= stream.clone().fill(events.clone(), until);
    }
    alive &= thread(move || {
        let _ = events.send(Event::Exited(child.wait()));
    });
    if !alive {
        let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
        return broken("this machine has no thread left for it".into());
    }
    let (mut exit, mut open, mut closing, mut over) = (None, 2, deadline, false);
    let early = loop {
        match next.recv_timeout(closing.saturating_duration_since(Instant::now())) {
            Ok(Event::Closed) => open -= 1,
            Ok(Event::Flooded) => break Some(ExitKind::Flooded(MAX_OUTPUT)),
            Ok(Event::Exited(status)) => {
                exit = Some(status);
                // A daemon that the program left behind may hold the pipes open for ever: what was said by
                // now counts.
                closing = closing.min(Instant::now() + Duration::from_millis(200));
            }
            Ok(Event::Until) => {
                over = true;
                closing = closing.min(Instant::now() + Duration::from_millis(200));
            }
            Err(_) if exit.is_some() => break None,
            Err(_) if over => break Some(ExitKind::Status(0)),
            Err(_) => break Some(ExitKind::TimedOut(within)),
        }
        if open == 0 && exit.is_some() {
            break None;
        }
    };
    if early.is_some() {
        let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
    }
    let ended = early.unwrap_or_else(|| match exit {
        Some(Ok(status)) => status
            .code()
            .map_or_else(|| ExitKind::Signal(status.signal().unwrap_or_default()), ExitKind::Status),
        Some(Err(why)) => ExitKind::Broken(why.to_string()),
        None => ExitKind::Broken("it was lost".into()),
    });
    let [stdout, stderr] = streams.map(Stream::taken);
    Ran { ended, stdout, stderr }
}

/// Starts a thread; `false` where there is none left, which must not end an agent in the middle of its work.
fn thread(work: impl FnOnce() + Send + 'static) -> bool {
    std::thread::Builder::new().spawn(work).is_ok()
}

enum Event {
    Closed,
    Until,
    Flooded,
    Exited(std::io::Result<std::process::ExitStatus>),
}

/// What one pipe has said so far; shared, because a pipe may never close. It is read under the lock: what is
/// neither kept nor in the pipe was not said.
#[derive(Clone, Default)]
struct Stream {
    kept: Arc<Mutex<Vec<u8>>>,
    pipe: Option<Arc<File>>,
}

impl Stream {
    fn of(pipe: OwnedFd) -> Self {
        Self { kept: Arc::default(), pipe: Some(Arc::new(File::from(pipe))) }
    }

    fn fill(self, events: mpsc::Sender<Event>, until: Option<Vec<u8>>) -> bool {
        thread(move || {
            let mut buffer = [0; 16 << 10];
            while let Some(pipe) = self.pipe.as_deref().filter(|pipe| readable(pipe, PollTimeout::NONE)) {
                let Ok(mut kept) = self.kept.lock() else { break };
                let Ok(n @ 1..) = (&*pipe).read(&mut buffer) else { break };
                if kept.len() + n > MAX_OUTPUT {
                    let _ = events.send(Event::Flooded);
                    return;
                }
                kept.extend_from_slice(&buffer[..n]);
                // The words may come in pieces, and a number and a line's end stand behind them.
                if let Some(words) = &until {
                    let from = kept.len().saturating_sub(n + words.len() + 16);
                    let found = kept[from..].windows(words.len()).rposition(|w| w == &words[..]);
                    if found.is_some_and(|at| kept[from + at + words.len()..].contains(&b'\n')) {
                        let _ = events.send(Event::Until);
                    }
                }
            }
            let _ = events.send(Event::Closed);
        })
    }

    /// All that was said by now. On a busy machine the thread that reads may not have had its turn: half an
    /// answer could be taken for another one. Asked once, at the end: behind it the thread may wait in `read`
    /// with the lock.
    fn taken(self) -> Vec<u8> {
        let Ok(mut kept) = self.kept.lock() else { return vec![] };
        let mut buffer = [0; 16 << 10];
        while let Some(pipe) =
            self.pipe.as_deref().filter(|pipe| kept.len() < MAX_OUTPUT && readable(pipe, PollTimeout::ZERO))
        {
            let room = buffer.len().min(MAX_OUTPUT - kept.len());
            let Ok(n @ 1..) = (&*pipe).read(&mut buffer[..room]) else { break };
            kept.extend_from_slice(&buffer[..n]);
        }
        std::mem::take(&mut kept)
    }
}

/// Whether a read would not wait: something is there, or the pipe has ended.
fn readable(pipe: &File, within: PollTimeout) -> bool {
    let mut look = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
    loop {
        match poll(&mut look, within) {
            Err(nix::errno::Errno::EINTR) => {}
            looked => return looked.is_ok_and(|n| n > 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_program_runs_when_it_is_let_go_and_not_otherwise() {
        let place = std::env::temp_dir().join(format!("vsgpu-held-{}", std::process::id()));
        let args = [place.display().to_string()];
        let held = |hold: Hold<'_>| {
            let child = Child {
                program: Path::new("/bin/mkdir"),
                args: &args,
                env: vec![],
                input: Input::Nothing,
                within: 60,
                until: None,
                hold: Some(hold),
            };
            run(child).ended
        };
        let refused = held(&mut |_| Err("no note".into()));
        assert_eq!((refused, place.exists()), (ExitKind::Broken("no note".into()), false));
        // Killed while it waits: it never was the program.
        let killed = held(&mut |group| {
            let group = nix::unistd::Pid::from_raw(group);
            nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL).map_err(|e| e.to_string())
        });
        assert_eq!((killed, place.exists()), (ExitKind::Signal(9), false));
        let let_go = held(&mut |_| {
            assert!(!place.exists(), "it runs before it may");
            Ok(())
        });
        assert_eq!((let_go, place.exists()), (ExitKind::Status(0), true));
        let _ = std::fs::remove_dir(&place);
    }

    /// A reader that had no turn before the program ended, as on a busy machine, and a daemon that holds the
    /// pipe open.
    #[test]
    fn what_was_said_is_not_lost_with_a_late_reader() {
        let (from, to) = nix::unistd::pipe().unwrap_or_else(|why| panic!("{why}"));
        let stream = Stream::of(from);
        for part in ["Name  Owner\n", "0000:3b:00.0  VMkernel\n"] {
            File::from(to.try_clone().unwrap_or_else(|why| panic!("{why}")))
                .write_all(part.as_bytes())
                .unwrap_or_else(|why| panic!("{why}"));
        }
        assert_eq!(stream.taken(), b"Name  Owner\n0000:3b:00.0  VMkernel\n");
        drop(to);
    }
}
