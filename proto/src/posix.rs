//! Processes and files, for both agents' shells: the one place that starts a program.
//!
//! Written for ESXi first. Both streams of a child are read by blocking threads: `Command::output` sets its pipes
//! non-blocking with FIONBIO, which VMkernel refuses (rust-lang/rust#129654). A child gets its own process group, so that
//! a deadline ends what it started as well. No signals, no epoll, no pidfd.
//!
//! With a root other than `/` a program is only taken from `--tools` or from below that root: an agent that is told to
//! look at a copy must never change the machine it runs on.
#![expect(clippy::disallowed_methods, reason = "this is the shell: the only file that starts processes and touches a machine's files")]

use sha2::Digest as _;
use std::collections::BTreeSet;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};
use vsgpu_core::effect::MAX_OUTPUT;
use vsgpu_core::system::KEEP_MODE;
use vsgpu_core::{Command, Ended, Holder, Output, Trouble};

const FOLDERS: [&str; 6] = ["/bin", "/sbin", "/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin"];

/// Files below a root, programs from `--tools` first.
#[derive(Clone, Debug)]
pub struct Posix {
    tools: Option<PathBuf>,
    root: PathBuf,
    /// Long commands of this agent that run now.
    own: Arc<Mutex<BTreeSet<i32>>>,
}

/// Notes of long commands, on a ramdisk: an agent that is killed leaves its installer running, and the next agent must
/// wait for it rather than start a second one.
const RUNNING: &str = "/var/run/vsgpu/running";
/// Seconds from which on a command is noted.
const LONG: u32 = 61;

impl Posix {
    /// `tools`: folder searched first. `root`: prefix of every path, `/` for the machine itself.
    pub fn new(tools: Option<PathBuf>, root: PathBuf) -> Self {
        Self { tools, root, own: Arc::default() }
    }

    /// Whether the machine itself is meant.
    pub fn is_real(&self) -> bool {
        self.root == Path::new("/")
    }

    /// Time since boot, by the clock that only grows: the same for an agent that was started again.
    pub fn elapsed(&self) -> Duration {
        nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
    }

    /// Seconds since 1970.
    pub fn now(&self) -> u64 {
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs())
    }

    /// An absolute path of the machine, below the root. `..` is refused.
    ///
    /// # Errors
    /// For a relative path or one with `..`.
    pub fn path(&self, path: &str) -> Result<PathBuf, Trouble> {
        let inner = Path::new(path);
        if !inner.is_absolute() || inner.components().any(|c| c == std::path::Component::ParentDir) || path.contains('\0') {
            return Err(Trouble::Other { path: path.into(), why: "is not an absolute path without `..`".into() });
        }
        Ok(self.root.join(path.trim_start_matches('/')))
    }

    fn program(&self, command: &Command) -> Option<PathBuf> {
        let runs = |path: &PathBuf| path.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
        if command.program.starts_with('/') {
            return self.path(&command.program).ok().filter(runs);
        }
        if command.program.contains('/') {
            return None;
        }
        let below = command.also.iter().map(String::as_str).chain(FOLDERS).filter_map(|folder| self.path(folder).ok());
        self.tools.iter().cloned().chain(below).map(|folder| folder.join(&command.program)).find(runs)
    }

    /// Runs a command to its end, its deadline or its bound on output.
    pub fn run(&self, command: &Command) -> Output {
        let ended = |ended| Output { ended, stdout: String::new(), stderr: String::new() };
        let Some(program) = self.program(command) else { return ended(Ended::Missing) };
        let deadline = Instant::now() + Duration::from_secs(command.timeout_secs.into());
        let mut process = Process::new(program);
        process.args(&command.args).env("LC_ALL", "C").env("LANG", "C").envs(command.env.iter().map(|(k, v)| (k, v)));
        let folders = FOLDERS.iter().map(|f| f.to_string());
        let path: Vec<String> = self.tools.iter().map(|t| t.display().to_string()).chain(folders).collect();
        process.env("PATH", path.join(":")).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = match process.spawn() {
            Ok(child) => child,
            Err(why) => return ended(Ended::Broken(why.to_string())),
        };
        let group = nix::unistd::Pid::from_raw(child.id() as i32);
        let note = (command.timeout_secs >= LONG).then(|| self.note(group.as_raw(), command));
        let (events, next) = mpsc::channel();
        let streams = [Stream::default(), Stream::default()];
        let pipes: [Option<Box<dyn std::io::Read + Send>>; 2] =
            [child.stdout.take().map(|p| Box::new(p) as _), child.stderr.take().map(|p| Box::new(p) as _)];
        for (pipe, stream) in pipes.into_iter().flatten().zip(&streams) {
            stream.clone().fill(pipe, events.clone());
        }
        std::thread::spawn(move || {
            let _ = events.send(Event::Exited(child.wait()));
        });
        let (mut exit, mut open, mut closing) = (None, 2, deadline);
        let early = loop {
            match next.recv_timeout(closing.saturating_duration_since(Instant::now())) {
                Ok(Event::Closed) => open -= 1,
                Ok(Event::Flooded) => break Some(Ended::Flooded(MAX_OUTPUT)),
                Ok(Event::Exited(status)) => {
                    exit = Some(status);
                    // A daemon that the program left behind may hold the pipes open for ever: what was said by now counts.
                    closing = closing.min(Instant::now() + Duration::from_millis(200));
                }
                Err(_) if exit.is_some() => break None,
                Err(_) => break Some(Ended::TimedOut(command.timeout_secs)),
            }
            if open == 0 && exit.is_some() {
                break None;
            }
        };
        if early.is_some() {
            let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
        }
        if note.is_some() {
            self.forget(group.as_raw());
        }
        let ended = early.unwrap_or_else(|| match exit {
            Some(Ok(status)) => status.code().map_or_else(|| Ended::Signal(status.signal().unwrap_or_default()), Ended::Status),
            Some(Err(why)) => Ended::Broken(why.to_string()),
            None => Ended::Broken("it was lost".into()),
        });
        let [stdout, stderr] = streams.map(|s| s.text());
        Output { ended, stdout, stderr }
    }

    fn note(&self, pid: i32, command: &Command) {
        if let Ok(mut own) = self.own.lock() {
            own.insert(pid);
        }
        if let Ok(folder) = self.path(RUNNING) {
            let _ = std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(folder.join(pid.to_string()), command.to_string()));
        }
    }

    fn forget(&self, pid: i32) {
        let _ = self.remove(&format!("{RUNNING}/{pid}"));
        if let Ok(mut own) = self.own.lock() {
            own.remove(&pid);
        }
    }

    /// A long command that an earlier, killed agent left running.
    pub fn orphan(&self) -> Option<String> {
        let pids = self.list(RUNNING).ok()?.into_iter().filter_map(|name| name.parse::<i32>().ok());
        pids.filter(|pid| self.own.lock().is_ok_and(|own| !own.contains(pid))).find_map(|pid| {
            let alive = pid > 1 && nix::sys::signal::killpg(nix::unistd::Pid::from_raw(pid), None).is_ok();
            if !alive {
                self.forget(pid);
            }
            let command = self.read(&format!("{RUNNING}/{pid}"), 4096).ok().filter(|_| alive)?;
            Some(String::from_utf8_lossy(&command).into_owned())
        })
    }

    /// Reads a file of at most `max` bytes.
    pub fn read(&self, path: &str, max: usize) -> Result<Vec<u8>, Trouble> {
        let file = std::fs::File::open(self.path(path)?).map_err(|e| trouble(path, &e))?;
        let mut bytes = vec![];
        file.take(max as u64 + 1).read_to_end(&mut bytes).map_err(|e| trouble(path, &e))?;
        if bytes.len() > max { Err(Trouble::TooLarge(path.into(), max)) } else { Ok(bytes) }
    }

    /// Reads the last `max` bytes of a file.
    pub fn tail(&self, path: &str, max: usize) -> Result<Vec<u8>, Trouble> {
        let failed = |e: std::io::Error| trouble(path, &e);
        let mut file = std::fs::File::open(self.path(path)?).map_err(failed)?;
        let size = file.metadata().map_err(failed)?.len();
        file.seek(SeekFrom::Start(size.saturating_sub(max as u64))).map_err(failed)?;
        let mut bytes = vec![];
        file.take(max as u64).read_to_end(&mut bytes).map_err(failed)?;
        Ok(bytes)
    }

    /// Reads the first `max` bytes of a file.
    pub fn head(&self, path: &str, max: usize) -> Result<Vec<u8>, Trouble> {
        let file = std::fs::File::open(self.path(path)?).map_err(|e| trouble(path, &e))?;
        let mut bytes = vec![];
        file.take(max as u64).read_to_end(&mut bytes).map_err(|e| trouble(path, &e))?;
        Ok(bytes)
    }

    /// Processes that hold a file open whose path begins with `prefix`, by what /proc says. A process that ends while it is
    /// looked at holds nothing.
    pub fn holders(&self, prefix: &str) -> Result<Vec<Holder>, Trouble> {
        let mut found = vec![];
        for pid in self.list("/proc")?.into_iter().filter_map(|name| name.parse::<u32>().ok()) {
            let Ok(folder) = self.path(&format!("/proc/{pid}/fd")) else { continue };
            let open = std::fs::read_dir(folder).into_iter().flatten().flatten().filter_map(|e| std::fs::read_link(e.path()).ok());
            if !open.take(100_000).any(|target| target.to_str().is_some_and(|t| t.starts_with(prefix))) {
                continue;
            }
            let text = |file: &str| self.read(&format!("/proc/{pid}/{file}"), 4096).map(|b| String::from_utf8_lossy(&b).into_owned());
            // `0::/system.slice/nvidia-persistenced.service`; the last part is the service.
            let cgroup = text("cgroup").unwrap_or_default();
            // A service of a user's own manager is none that `systemctl` stops by its name.
            let own = cgroup.lines().filter(|l| !l.contains("/user@"));
            let service = own.filter_map(|l| l.rsplit('/').next()).find(|l| l.ends_with(".service")).map(String::from);
            found.push(Holder { pid, name: text("comm").unwrap_or_default().trim().into(), service });
        }
        found.sort();
        Ok(found)
    }

    /// SHA-256 of a file, in constant memory.
    pub fn hash(&self, path: &str) -> Result<String, Trouble> {
        let mut file = std::fs::File::open(self.path(path)?).map_err(|e| trouble(path, &e))?;
        let mut hasher = sha2::Sha256::new();
        let mut buffer = vec![0; 1 << 18];
        loop {
            match file.read(&mut buffer).map_err(|e| trouble(path, &e))? {
                0 => return Ok(hex(&hasher.finalize())),
                n => hasher.update(&buffer[..n]),
            }
        }
    }

    /// Names in a folder, sorted.
    pub fn list(&self, path: &str) -> Result<Vec<String>, Trouble> {
        let entries = std::fs::read_dir(self.path(path)?).map_err(|e| trouble(path, &e))?;
        let mut names: Vec<String> = entries.take(10_000).flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        Ok(names)
    }

    /// Writes durably: temporary file, fsync, rename, fsync of the folder.
    pub fn write(&self, path: &str, contents: &[u8], mode: u32) -> Result<(), Trouble> {
        self.replace(path, mode, |file| file.write_all(contents))
    }

    /// Copies durably.
    pub fn copy(&self, from: &str, to: &str, mode: u32) -> Result<(), Trouble> {
        let mut source = std::fs::File::open(self.path(from)?).map_err(|e| trouble(from, &e))?;
        self.replace(to, mode, |file| std::io::copy(&mut source, file).map(|_| ()))
    }

    fn replace(&self, path: &str, mode: u32, fill: impl FnOnce(&mut std::fs::File) -> std::io::Result<()>) -> Result<(), Trouble> {
        let target = self.path(path)?;
        let failed = |e: std::io::Error| trouble(path, &e);
        let mode = match mode {
            KEEP_MODE => target.metadata().map_or(0o644, |m| m.permissions().mode() & 0o7777),
            stated => stated,
        };
        // ESXi keeps a file over a reboot that has the sticky bit and was written to in place: another file under its name would
        // not be noticed (facts: esxi A4). A write that is cut there leaves no whole document, which its reader takes for none.
        if target.metadata().is_ok_and(|m| m.permissions().mode() & 0o1000 != 0) {
            let mut file = std::fs::OpenOptions::new().write(true).truncate(true).open(&target).map_err(failed)?;
            return fill(&mut file).and_then(|()| file.sync_all()).map_err(failed);
        }
        let folder = target.parent().ok_or_else(|| Trouble::Other { path: path.into(), why: "has no folder".into() })?;
        std::fs::create_dir_all(folder).map_err(failed)?;
        let mut name = target.file_name().unwrap_or_default().to_os_string();
        name.push(".vsgpu-new");
        let temporary = target.with_file_name(name);
        let written = (|| {
            let _ = std::fs::remove_file(&temporary);
            let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
            fill(&mut file)?;
            // The umask must not decide what a daemon may read.
            file.set_permissions(std::fs::Permissions::from_mode(mode))?;
            file.sync_all()?;
            std::fs::rename(&temporary, &target)?;
            std::fs::File::open(folder)?.sync_all()
        })();
        written.map_err(|e| {
            let _ = std::fs::remove_file(&temporary);
            failed(e)
        })
    }

    /// Removes a file; an absent one is fine.
    pub fn remove(&self, path: &str) -> Result<(), Trouble> {
        match std::fs::remove_file(self.path(path)?) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(trouble(path, &e)),
            _ => Ok(()),
        }
    }
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// An I/O error that names its path.
pub(crate) fn trouble(path: &str, error: &std::io::Error) -> Trouble {
    match error.kind() {
        std::io::ErrorKind::NotFound => Trouble::NotFound(path.into()),
        _ => Trouble::Other { path: path.into(), why: error.to_string() },
    }
}

enum Event {
    Closed,
    Flooded,
    Exited(std::io::Result<std::process::ExitStatus>),
}

/// What one pipe has said so far; shared, because a pipe may never close.
#[derive(Clone, Default)]
struct Stream(Arc<Mutex<Vec<u8>>>);

impl Stream {
    fn fill(self, mut pipe: Box<dyn std::io::Read + Send>, events: mpsc::Sender<Event>) {
        std::thread::spawn(move || {
            let mut buffer = [0; 16 << 10];
            while let Ok(n @ 1..) = pipe.read(&mut buffer) {
                let Ok(mut kept) = self.0.lock() else { break };
                if kept.len() + n > MAX_OUTPUT {
                    let _ = events.send(Event::Flooded);
                    return;
                }
                kept.extend_from_slice(&buffer[..n]);
            }
            let _ = events.send(Event::Closed);
        });
    }

    fn text(self) -> String {
        self.0.lock().map(|kept| String::from_utf8_lossy(&kept).into_owned()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here() -> Posix {
        Posix::new(None, "/".into())
    }

    #[test]
    fn both_streams_and_the_status_come_back() {
        let output = here().run(&Command::new("sh", ["-c", "echo out; echo err >&2; exit 3"]));
        assert_eq!(output, Output { ended: Ended::Status(3), stdout: "out\n".into(), stderr: "err\n".into() });
        assert_eq!(here().run(&Command::new("no-such-program", [""])).ended, Ended::Missing);
    }

    #[test]
    fn a_hanging_program_is_ended_with_its_children() {
        let output = here().run(&Command::new("sh", ["-c", "echo before; sleep 600 & wait"]).within(1));
        assert_eq!((output.ended, output.stdout.as_str()), (Ended::TimedOut(1), "before\n"));
    }

    #[test]
    fn a_flood_is_cut_off() {
        let output = here().run(&Command::new("sh", ["-c", "yes garbage"]).within(30));
        assert_eq!(output.ended, Ended::Flooded(MAX_OUTPUT));
        assert!(output.stdout.len() <= MAX_OUTPUT);
    }

    #[test]
    fn a_daemon_that_keeps_the_pipe_does_not_hold_us() {
        let start = Instant::now();
        let output = here().run(&Command::new("sh", ["-c", "echo up; sleep 20 &"]).within(15));
        assert_eq!((output.ended, output.stdout.as_str()), (Ended::Status(0), "up\n"));
        assert!(start.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn nothing_leaves_the_root() {
        let posix = Posix::new(None, "/nonexistent-root".into());
        assert!(posix.path("/etc/../../etc/passwd").is_err() && posix.path("etc").is_err());
        assert_eq!(posix.run(&Command::new("sh", ["-c", "true"])).ended, Ended::Missing, "no program of the real machine");
    }
}
