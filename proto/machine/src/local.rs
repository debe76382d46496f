//! The machine that the agent runs on: its files, and its programs by way of `child`.
//!
//! With a root other than `/` a program is only taken from `--tools` or from below that root: an agent that
//! is told to look at a copy must never change the machine it runs on.
#![expect(
    clippy::disallowed_methods,
    reason = "this is the shell: the only file that touches a machine's files"
)]

use crate::beneath::{self, Place};
use crate::boot::Boot;
use crate::child::{self, Child, Input};
use crate::io_error::io_error;
use crate::root::Root;
use crate::staging;
use sha2::Digest as _;
use std::collections::BTreeSet;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use vsgpu_core::machine::Machine;
use vsgpu_core::system::KEEP_MODE;
use vsgpu_core::{
    BootIdentity, Command, Effect, ExitKind, InVcenter, Incoming, IoError, OpenedBy, Output, Staged, System,
    UploadError, text,
};

pub(crate) const FOLDERS: [&str; 6] =
    ["/bin", "/sbin", "/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin"];

/// Files below a root, programs from `--tools` first.
#[derive(Clone, Debug)]
pub struct Posix {
    tools: Option<PathBuf>,
    root: Root,
    /// Long commands of this agent that run now.
    own: Arc<Mutex<BTreeSet<i32>>>,
    boot: Boot<Self>,
    /// Long commands are noted: it is an agent.
    notes: bool,
}

/// Notes of long commands, on a ramdisk, written before they run: an agent that is killed leaves its installer
/// running, and the next agent must wait for it rather than start a second one.
const RUNNING: &str = "/var/run/vsgpu/running";
/// Seconds from which on a command is noted.
const LONG: u32 = 61;

impl Posix {
    /// `tools`: folder searched first. `root`: prefix of every path, `/` for the machine itself.
    pub fn new(tools: Option<PathBuf>, root: PathBuf) -> Self {
        Self { tools, root: Root(root), own: Arc::default(), boot: Boot::none(), notes: true }
    }

    /// The same for a program that is no agent: what it runs for long, no agent has to wait for, and it may not write
    /// where agents note.
    #[must_use]
    pub fn without_notes(mut self) -> Self {
        self.notes = false;
        self
    }

    /// The same for an agent: it can tell the machine's boots apart.
    pub fn with_boot(mut self, identity: Box<dyn BootIdentity>) -> Arc<Self> {
        Arc::new_cyclic(|me| {
            self.boot = Boot::of(identity, me.clone());
            self
        })
    }

    /// An absolute path of the machine, below the root. `..` is refused.
    ///
    /// # Errors
    /// For a relative path or one with `..`.
    pub fn path(&self, path: &str) -> Result<PathBuf, IoError> {
        self.root.path(path)
    }

    fn program(&self, command: &Command) -> Option<PathBuf> {
        if command.program.starts_with('/') {
            return self.path(&command.program).ok().filter(|path| child::runs(path));
        }
        if command.program.contains('/') {
            return None;
        }
        let below = command
            .also
            .iter()
            .map(String::as_str)
            .chain(FOLDERS)
            .filter_map(|folder| self.path(folder).ok());
        self.tools
            .iter()
            .cloned()
            .chain(below)
            .map(|folder| folder.join(&command.program))
            .find(|path| child::runs(path))
    }

    fn note(&self, pid: i32, command: &Command) -> Result<(), IoError> {
        if let Ok(mut own) = self.own.lock() {
            own.insert(pid);
        }
        self.write(&format!("{RUNNING}/{pid}"), command.to_string().as_bytes(), 0o600)
    }

    fn forget(&self, pid: i32) {
        let _ = self.remove(&format!("{RUNNING}/{pid}"));
        if let Ok(mut own) = self.own.lock() {
            own.remove(&pid);
        }
    }

    fn replace(
        &self,
        path: &str,
        mode: u32,
        fill: impl FnOnce(&mut std::fs::File) -> std::io::Result<()>,
    ) -> Result<(), IoError> {
        let failed = |e: std::io::Error| io_error(path, &e);
        let place = self.place(path, true)?;
        let target = place.target();
        let there = target.symlink_metadata().ok();
        if there.as_ref().is_some_and(std::fs::Metadata::is_symlink) {
            return Err(IoError::Other {
                path: path.into(),
                why: "it is a symbolic link; nothing was written: look at it (`ls -l`), and remove it if it is nobody's".into(),
            });
        }
        let mode = match mode {
            KEEP_MODE => there.as_ref().map_or(0o644, |m| m.permissions().mode() & 0o7777),
            stated => stated,
        };
        // ESXi keeps a file over a reboot that has the sticky bit and was written to in place: another file
        // under its name would not be noticed (facts: esxi A4). A write that is cut there leaves no whole
        // document, which its reader takes for none.
        let of = beneath::somebody(&place.folder.metadata().map_err(failed)?);
        // Not in a user's folder: such a file may be another name of any.
        let in_place = |m: std::fs::Metadata| m.is_file() && m.permissions().mode() & 0o1000 != 0;
        if of.is_none() && there.is_some_and(in_place) {
            let mut file = no_follow().write(true).truncate(true).open(&target).map_err(failed)?;
            return fill(&mut file).and_then(|()| file.sync_all()).map_err(failed);
        }
        let mut name = place.name.clone();
        name.push(".vsgpu-new");
        let temporary = place.file(&name);
        let written = (|| {
            let _ = std::fs::remove_file(&temporary);
            let mut file = no_follow().write(true).create_new(true).mode(mode).open(&temporary)?;
            fill(&mut file)?;
            if let Some((uid, gid)) = of {
                std::os::unix::fs::fchown(&file, Some(uid), Some(gid))?;
            }
            // The umask must not decide what a daemon may read.
            file.set_permissions(std::fs::Permissions::from_mode(mode))?;
            file.sync_all()?;
            std::fs::rename(&temporary, &target)?;
            std::fs::File::open(&place.folder)?.sync_all()
        })();
        written.map_err(|e| {
            let _ = std::fs::remove_file(&temporary);
            failed(e)
        })
    }

    /// Where a path is written (see `beneath`).
    fn place(&self, path: &str, make: bool) -> Result<Place, IoError> {
        self.path(path)?;
        beneath::place(&self.root.0, path, make).map_err(|e| io_error(path, &e))
    }
}

/// Opening of a file that must not be a link, and at which nobody waits.
fn no_follow() -> std::fs::OpenOptions {
    let mut options = std::fs::OpenOptions::new();
    options.custom_flags((nix::fcntl::OFlag::O_NOFOLLOW | nix::fcntl::OFlag::O_NONBLOCK).bits());
    options
}

impl System for Posix {
    fn run(&self, command: &Command) -> Output {
        let Some(program) = self.program(command) else {
            return Output { ended: ExitKind::Missing, stdout: String::new(), stderr: String::new() };
        };
        let folders = FOLDERS.iter().map(|f| f.to_string());
        let path: Vec<String> = self.tools.iter().map(|t| t.display().to_string()).chain(folders).collect();
        let fixed =
            [("LC_ALL", "C"), ("LANG", "C")].map(|(name, value)| (name.to_string(), value.to_string()));
        let env = fixed
            .into_iter()
            .chain(command.env.iter().cloned())
            .chain([("PATH".into(), path.join(":"))])
            .collect();
        let mut noted = None;
        let mut note = |group| {
            noted = Some(group);
            let noted = self.note(group, command);
            noted.map_err(|why| format!("it was not started, because that it runs cannot be noted: {why}"))
        };
        let ran = child::run(Child {
            program: &program,
            args: &command.args,
            env,
            input: Input::Nothing,
            within: command.timeout_secs,
            until: None,
            hold: if self.notes && command.timeout_secs >= LONG { Some(&mut note) } else { None },
        });
        if let Some(group) = noted {
            self.forget(group);
        }
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Output { ended: ran.ended, stdout: text(ran.stdout), stderr: text(ran.stderr) }
    }
    fn orphan(&self) -> Option<String> {
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

    fn read(&self, path: &str, max: usize) -> Result<Vec<u8>, IoError> {
        let file = std::fs::File::open(self.path(path)?).map_err(|e| io_error(path, &e))?;
        let mut bytes = vec![];
        file.take(max as u64 + 1).read_to_end(&mut bytes).map_err(|e| io_error(path, &e))?;
        if bytes.len() > max { Err(IoError::TooLarge(path.into(), max)) } else { Ok(bytes) }
    }

    fn tail(&self, path: &str, max: usize) -> Result<Vec<u8>, IoError> {
        let failed = |e: std::io::Error| io_error(path, &e);
        let mut file = std::fs::File::open(self.path(path)?).map_err(failed)?;
        let size = file.metadata().map_err(failed)?.len();
        file.seek(SeekFrom::Start(size.saturating_sub(max as u64))).map_err(failed)?;
        let mut bytes = vec![];
        file.take(max as u64).read_to_end(&mut bytes).map_err(failed)?;
        Ok(bytes)
    }

    fn head(&self, path: &str, max: usize) -> Result<Vec<u8>, IoError> {
        let file = std::fs::File::open(self.path(path)?).map_err(|e| io_error(path, &e))?;
        let mut bytes = vec![];
        file.take(max as u64).read_to_end(&mut bytes).map_err(|e| io_error(path, &e))?;
        Ok(bytes)
    }

    fn holders(&self, prefix: &str) -> Result<Vec<OpenedBy>, IoError> {
        let mut found = vec![];
        for pid in self.list("/proc")?.into_iter().filter_map(|name| name.parse::<u32>().ok()) {
            let Ok(folder) = self.path(&format!("/proc/{pid}/fd")) else { continue };
            let open = std::fs::read_dir(folder)
                .into_iter()
                .flatten()
                .flatten()
                .filter_map(|e| std::fs::read_link(e.path()).ok());
            if !open.take(100_000).any(|target| target.to_str().is_some_and(|t| t.starts_with(prefix))) {
                continue;
            }
            let text = |file: &str| {
                self.read(&format!("/proc/{pid}/{file}"), 4096)
                    .map(|b| String::from_utf8_lossy(&b).into_owned())
            };
            // `0::/system.slice/nvidia-persistenced.service`; the last part is the service.
            let cgroup = text("cgroup").unwrap_or_default();
            // A service of a user's own manager is none that `systemctl` stops by its name.
            let own = cgroup.lines().filter(|l| !l.contains("/user@"));
            let service =
                own.filter_map(|l| l.rsplit('/').next()).find(|l| l.ends_with(".service")).map(String::from);
            found.push(OpenedBy { pid, name: text("comm").unwrap_or_default().trim().into(), service });
        }
        found.sort();
        Ok(found)
    }

    fn hash(&self, path: &str) -> Result<String, IoError> {
        let mut file = std::fs::File::open(self.path(path)?).map_err(|e| io_error(path, &e))?;
        let mut hasher = sha2::Sha256::new();
        let mut buffer = vec![0; 1 << 18];
        loop {
            match file.read(&mut buffer).map_err(|e| io_error(path, &e))? {
                0 => return Ok(text::hex(&hasher.finalize())),
                n => hasher.update(&buffer[..n]),
            }
        }
    }

    fn list(&self, path: &str) -> Result<Vec<String>, IoError> {
        let entries = std::fs::read_dir(self.path(path)?).map_err(|e| io_error(path, &e))?;
        let mut names: Vec<String> =
            entries.take(10_000).flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        Ok(names)
    }

    fn write(&self, path: &str, contents: &[u8], mode: u32) -> Result<(), IoError> {
        self.replace(path, mode, |file| file.write_all(contents))
    }

    fn copy(&self, from: &str, to: &str, mode: u32) -> Result<(), IoError> {
        // No link, and nothing that waits for somebody: what is copied may become a user's.
        let mut source = no_follow().read(true).open(self.path(from)?).map_err(|e| io_error(from, &e))?;
        if !source.metadata().is_ok_and(|meta| meta.is_file()) {
            return Err(IoError::Other { path: from.into(), why: "it is no plain file".into() });
        }
        self.replace(to, mode, |file| std::io::copy(&mut source, file).map(|_| ()))
    }

    fn remove(&self, path: &str) -> Result<(), IoError> {
        let place = match self.place(path, false) {
            Err(IoError::NotFound(_)) => return Ok(()),
            place => place?,
        };
        match std::fs::remove_file(place.target()) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(io_error(path, &e)),
            _ => Ok(()),
        }
    }

    fn size(&self, path: &str) -> Result<Option<u64>, IoError> {
        match std::fs::metadata(self.path(path)?) {
            Ok(found) => Ok(found.is_file().then_some(found.len())),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(io_error(path, &e)),
        }
    }

    fn is_folder(&self, path: &str) -> Result<bool, IoError> {
        Ok(self.path(path)?.is_dir())
    }

    fn stage(&self, path: &str, sha256: &str) -> Result<Staged, IoError> {
        staging::stage(&self.root, &|| self.orphan().is_some(), path, sha256)
    }

    fn unstage(&self, path: &str, instead: &str) {
        staging::unstage(&self.root, path, instead);
    }

    fn upload(&self, file: &Incoming, next: &mut dyn FnMut() -> Option<Vec<u8>>) -> Result<(), UploadError> {
        let place = self.place(&file.partial, true)?;
        // Both lie in one folder: the hash's.
        let (partial, name) = (place.target(), Path::new(&file.target).file_name().unwrap_or_default());
        let target = place.file(name);
        let failed = |e: std::io::Error| match e.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                // A full datastore hurts every VM on it: give the room back at once.
                let _ = std::fs::remove_file(&partial);
                UploadError::NoSpace
            }
            _ => io_error(&file.target, &e).into(),
        };
        let planted = |why: &str| {
            UploadError::from(IoError::Other {
                path: file.partial.clone(),
                why: format!("{why}: nothing is received into it"),
            })
        };
        // Whatever lies there under our name may have been put there for us to write through.
        match partial.symlink_metadata() {
            Ok(m) if m.is_symlink() => return Err(planted("it is a symbolic link")),
            Ok(m) if !m.is_file() => return Err(planted("it is no regular file")),
            Ok(m) if m.nlink() != 1 => {
                return Err(planted(
                    "it has a second name (a hard link); nothing was written: look at it (`ls -l`), and remove it if it is nobody's",
                ));
            }
            _ => {}
        }
        let mut to = no_follow()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(&partial)
            .map_err(failed)?;
        let have = to.metadata().map_err(failed)?.len();
        if have < file.offset {
            return Err(UploadError::Gap(have));
        }
        to.set_len(file.offset).map_err(failed)?;
        let mut hasher = sha2::Sha256::new();
        let mut buffer = vec![0; 1 << 18];
        loop {
            match to.read(&mut buffer).map_err(failed)? {
                0 => break,
                n => hasher.update(&buffer[..n]),
            }
        }
        let mut size = file.offset;
        while let Some(data) = next() {
            size += data.len() as u64;
            if size > file.size {
                return Err(UploadError::TooMuch);
            }
            to.write_all(&data).map_err(failed)?;
            hasher.update(&data);
        }
        if size < file.size {
            return Err(UploadError::TooShort(size));
        }
        let seen = text::hex(&hasher.finalize());
        if !seen.eq_ignore_ascii_case(&file.sha256) {
            let _ = std::fs::remove_file(&partial);
            return Err(UploadError::Damaged(seen));
        }
        // Installers and samples are started by their path; everything else is only read.
        let mut magic = [0; 4];
        let begun = to.seek(SeekFrom::Start(0)).and_then(|_| to.read(&mut magic)).is_ok();
        let mode = if begun && is_program(&magic) { 0o700 } else { 0o600 };
        to.set_permissions(std::fs::Permissions::from_mode(mode))
            .and_then(|()| to.sync_all())
            .map_err(failed)?;
        std::fs::rename(&partial, &target).map_err(failed)
    }

    fn machine(&self) -> Result<Machine, IoError> {
        crate::summary::machine(&self.root.0).map_err(|why| IoError::Other { path: "/".into(), why })
    }

    fn by_api(&self, _: &Effect) -> Option<Result<(), String>> {
        None
    }

    fn shown(&self, effect: &Effect) -> Option<String> {
        Some(effect.to_string())
    }

    fn told(&self, _: std::thread::ThreadId) -> Vec<String> {
        vec![]
    }

    fn inventory(&self, _: &InVcenter) -> Result<String, IoError> {
        Err(IoError::NotFound("vCenter's inventory".into()))
    }

    fn kernel_release(&self) -> String {
        match self.read("/proc/sys/kernel/osrelease", 256) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).trim().into(),
            // VMkernel's own release, `uname -r` there; only Linux guests are asked for it.
            Err(_) => nix::sys::utsname::uname()
                .map(|u| u.release().to_string_lossy().into_owned())
                .unwrap_or_default(),
        }
    }

    fn now(&self) -> u64 {
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs())
    }

    /// By the clock since boot: the same for an agent that was started again.
    fn elapsed(&self) -> Duration {
        nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
    }

    fn is_real(&self) -> bool {
        self.root.0 == Path::new("/")
    }

    fn boot_id(&self) -> Result<String, IoError> {
        self.boot.id()
    }

    fn sleep(&self, time: Duration) {
        std::thread::sleep(time);
    }

    fn is_remote(&self) -> bool {
        false
    }
}

/// Whether a file with these first bytes is one that is started by its path.
pub(crate) fn is_program(magic: &[u8]) -> bool {
    magic.starts_with(b"#!") || magic.starts_with(b"\x7fELF")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;
    use vsgpu_core::effect::MAX_OUTPUT;

    fn here() -> Posix {
        Posix::new(None, "/".into())
    }

    #[test]
    fn both_streams_and_the_status_come_back() {
        let output = here().run(&Command::new("sh", ["-c", "echo out; echo err >&2; exit 3"]));
        assert_eq!(
            output,
            Output { ended: ExitKind::Status(3), stdout: "out\n".into(), stderr: "err\n".into() }
        );
        assert_eq!(here().run(&Command::new("no-such-program", [""])).ended, ExitKind::Missing);
    }

    #[test]
    fn a_hanging_program_is_ended_with_its_children() {
        let output = here().run(&Command::new("sh", ["-c", "echo before; sleep 600 & wait"]).within(1));
        assert_eq!((output.ended, output.stdout.as_str()), (ExitKind::TimedOut(1), "before\n"));
    }

    #[test]
    fn a_flood_is_cut_off() {
        let output = here().run(&Command::new("sh", ["-c", "yes garbage"]).within(30));
        assert_eq!(output.ended, ExitKind::Flooded(MAX_OUTPUT));
        assert!(output.stdout.len() <= MAX_OUTPUT);
    }

    #[test]
    fn a_daemon_that_keeps_the_pipe_does_not_hold_us() {
        let start = Instant::now();
        let output = here().run(&Command::new("sh", ["-c", "echo up; sleep 20 &"]).within(15));
        assert_eq!((output.ended, output.stdout.as_str()), (ExitKind::Status(0), "up\n"));
        assert!(start.elapsed() < Duration::from_secs(10));
    }

    /// What runs for long and cannot be noted would be started twice by the next agent: it does not run.
    #[test]
    fn a_long_command_that_cannot_be_noted_does_not_run() {
        let root = std::env::temp_dir().join(format!("vsgpu-noted-{}", std::process::id()));
        std::fs::create_dir_all(root.join("var/run/vsgpu")).unwrap_or_else(|why| panic!("{why}"));
        let made = root.join("made");
        let posix = Posix::new(Some("/bin".into()), root.clone());
        let mkdir = |within| posix.run(&Command::new("mkdir", [made.to_string_lossy()]).within(within));
        // A file where the folder of notes should be: that nobody can write below it holds for root as well.
        std::fs::write(root.join("var/run/vsgpu/running"), "").unwrap_or_else(|why| panic!("{why}"));
        let refused = mkdir(LONG);
        assert!(
            matches!(&refused.ended, ExitKind::Broken(why) if why.contains("cannot be noted")),
            "{refused:?}"
        );
        assert!(!made.exists());
        // A short one is not noted at all.
        assert_eq!((mkdir(LONG - 1).ended, made.exists()), (ExitKind::Status(0), true));
        let _ = std::fs::remove_dir_all(root);
    }

    #[test]
    fn nothing_leaves_the_root() {
        let posix = Posix::new(None, "/nonexistent-root".into());
        assert!(posix.path("/etc/../../etc/passwd").is_err() && posix.path("etc").is_err());
        assert_eq!(
            posix.run(&Command::new("sh", ["-c", "true"])).ended,
            ExitKind::Missing,
            "no program of the real machine"
        );
    }
}
