//! Another machine as a `Shell`, over ssh: an ESXi host on which no program of ours may run is served by an
//! agent elsewhere.
//!
//! - Its programs are run by `commands`: a cut connection ends none of the long ones.
//! - The agent's own memory (the epoch that fences controllers above all) is kept here, in `state`: a host that is away must not
//!   look like one that was never claimed.
//! - One agent per host: the first one leaves its name on the ramdisk, and another one refuses.
//!
//! The tools used are those of POSIX and of every busybox: dd, cat, ls, wc, cp, mv, rm, mkdir, chmod, kill,
//! sleep; sha256sum or openssl.

use crate::boot::Boot;
use crate::child::Input;
use crate::local::{Posix, is_program};
use crate::over_ssh::blocks::{Blocks, PIECE};
use crate::own_folder;
use crate::package;
use crate::ssh::{ScriptError, ScriptOutput, Ssh, Target};
use std::collections::BTreeSet;
use std::hash::{BuildHasher as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;
use vsgpu_core::effect::quoted;
use vsgpu_core::machine::Machine;
use vsgpu_core::system::KEEP_MODE;
use vsgpu_core::{
    BootIdentity, Command, Effect, InVcenter, Incoming, IoError, OpenedBy, Output, Staged, System,
    UploadError,
};

/// Whose host this is.
pub const OWNER: &str = "/var/run/vsgpu/gateway";
/// Seconds for a file.
pub(super) const FILE: u32 = 30;
/// Seconds for a large file, and for its hash.
pub(super) const LARGE_FILE: u32 = 3600;

/// A machine over ssh.
pub struct OverSsh {
    pub(super) ssh: Ssh,
    pub(super) tools: Option<String>,
    pub(super) root: String,
    /// Paths below this prefix are kept here, in `state`.
    pub(super) own_prefix: String,
    pub(super) state: Posix,
    /// Who we are, where we change something: `None` only looks.
    pub(super) gateway: Option<String>,
    /// Long commands of ours that run now.
    pub(super) own: Mutex<BTreeSet<String>>,
    /// A folder that goes with us.
    pub(super) temporary: Option<PathBuf>,
    /// Nothing is written over there.
    pub(super) looks_only: bool,
    /// Another agent was found to serve the host: one that was turned away must not win it by the host's next
    /// reboot.
    pub(super) turned_away: AtomicBool,
    boot: Boot<Self>,
    /// Held while this agent serves.
    lock: Option<nix::fcntl::Flock<std::fs::File>>,
}

impl Drop for OverSsh {
    fn drop(&mut self) {
        if let Some(folder) = &self.temporary {
            self.ssh.close();
            let _ = std::fs::remove_dir_all(folder);
        }
    }
}

/// Before a file `$f` is written: whatever lies under its name or its folder's may have been put there for us
/// to write through. A folder that is a link to one beside it is vSAN's way of naming folders, and leads
/// nowhere else.
const NO_LINK: &str = "d=\"${f%/*}\"; l=; if [ -L \"$d\" ]; then l=$(readlink \"$d\"); case \"$l\" in ''|*/*|.|..) l=away;; *) l=;; esac; fi; \
                       if [ -L \"$f\" ] || [ -n \"$l\" ]; then echo 'it is or lies behind a symbolic link: nothing is written' >&2; (exit 1); else :; fi && ";

impl OverSsh {
    /// For an agent that serves this host and no other does. `own_prefix`: what of the paths is this agent's
    /// memory, kept in the folder `state` here. `tools`, `root`: as for `Posix`, over there.
    ///
    /// # Errors
    /// A sentence.
    pub fn serve(
        target: &Target,
        tools: Option<&Path>,
        root: &Path,
        own_prefix: &str,
        state: &Path,
    ) -> Result<Self, String> {
        own_folder::private(state)?;
        let memory = Posix::new(None, state.into());
        let lock = one_agent(&memory, state, target)?;
        // A socket's path is short; where the state's is not, it lies in a folder that goes with the
        // machine's temporary files.
        let sockets = if state.as_os_str().len() > 45 { temporary()? } else { state.into() };
        let ssh = Ssh::new(target, &sockets)?;
        let mut serving = Self::over(ssh, tools, root, memory);
        (serving.own_prefix, serving.gateway) = (format!("{own_prefix}/"), Some(own_name(&serving.state)?));
        serving.lock = Some(lock);
        Ok(serving)
    }

    /// The same for an agent: it can tell the machine's boots apart.
    pub fn with_boot(mut self, identity: Box<dyn BootIdentity>) -> Arc<Self> {
        Arc::new_cyclic(|me| {
            self.boot = Boot::of(identity, me.clone());
            self
        })
    }

    /// For one visit: nothing is kept here, and the connection ends with it.
    ///
    /// # Errors
    /// A sentence.
    pub fn temporary(target: &Target, tools: Option<&Path>, root: &Path) -> Result<Self, String> {
        let folder = temporary()?;
        let ssh = Ssh::new(target, &folder)?;
        let memory = Posix::new(None, folder.clone());
        let mut opened = Self::over(ssh, tools, root, memory);
        opened.temporary = Some(folder);
        Ok(opened)
    }

    /// For one look: a visit that the machine answers, and that can change nothing there, whoever asks for
    /// it.
    ///
    /// # Errors
    /// A sentence, where it is not reached.
    pub fn read_only(target: &Target, tools: Option<&Path>, root: &Path) -> Result<Self, String> {
        let mut opened = Self::temporary(target, tools, root)?;
        opened.looks_only = true;
        opened.is_folder("/").map_err(|e| e.to_string())?;
        Ok(opened)
    }

    /// Refuses a change by somebody who only looks.
    pub(super) fn may_write(&self, path: &str) -> Result<(), IoError> {
        if self.looks_only { Err(trouble(path, "nothing is changed by looking")) } else { Ok(()) }
    }

    fn over(ssh: Ssh, tools: Option<&Path>, root: &Path, state: Posix) -> Self {
        let text = |path: &Path| path.display().to_string();
        Self {
            ssh,
            tools: tools.map(text),
            root: text(root).trim_end_matches('/').into(),
            own_prefix: "\0".into(),
            state,
            gateway: None,
            own: Mutex::default(),
            temporary: None,
            looks_only: false,
            turned_away: AtomicBool::new(false),
            boot: Boot::none(),
            lock: None,
        }
    }

    /// Removes an empty folder.
    ///
    /// # Errors
    /// In the machine's words.
    pub fn remove_folder(&self, path: &str) -> Result<(), IoError> {
        let said = self.script(path, &format!("rmdir {}", self.word(path)?), Input::Nothing, FILE)?;
        if said.end == "0" { Ok(()) } else { Err(failed(path, &said)) }
    }

    /// A path over there.
    pub(super) fn path(&self, path: &str) -> Result<String, IoError> {
        let plain =
            path.starts_with('/') && !path.split('/').any(|part| part == "..") && !path.contains('\0');
        if plain {
            Ok(format!("{}{path}", self.root))
        } else {
            Err(trouble(path, "is not an absolute path without `..`"))
        }
    }

    /// The same as a word of a script.
    pub(super) fn word(&self, path: &str) -> Result<String, IoError> {
        self.path(path).map(|p| quoted(&p))
    }

    pub(super) fn is_own(&self, path: &str) -> bool {
        path.starts_with(&self.own_prefix)
    }

    /// Runs a script that is about a file, as the owner of the host.
    pub(super) fn script(
        &self,
        path: &str,
        script: &str,
        input: Input,
        within: u32,
    ) -> Result<ScriptOutput, IoError> {
        self.owned(script, input, within).map_err(|lost| match lost {
            ScriptError::Unreachable(why) => IoError::Unreachable(why),
            ScriptError::TimedOut(secs) => {
                IoError::Unreachable(format!("{}: no answer about {path} within {secs} s", self.ssh.target()))
            }
            ScriptError::Flooded(bytes) => IoError::TooLarge(path.into(), bytes),
        })
    }

    /// Runs a script, if no other agent serves the host.
    pub(super) fn owned(&self, script: &str, input: Input, within: u32) -> Result<ScriptOutput, ScriptError> {
        self.owned_as(script, input, within, false)
    }

    pub(super) fn owned_as(
        &self,
        script: &str,
        input: Input,
        within: u32,
        stays: bool,
    ) -> Result<ScriptOutput, ScriptError> {
        let Some(gateway) = &self.gateway else { return self.ssh.script(script, input, within, stays) };
        let owner = quoted(&format!("{}{OWNER}", self.root));
        let folder = quoted(&format!("{}/var/run/vsgpu", self.root));
        let (name, other) = (quoted(gateway), self.ssh.end("other"));
        // `set -C`: of two who find nobody, one makes the file. One that stays empty was left so by a full
        // ramdisk.
        let claim = format!("(set -C; echo {name} >{owner}) 2>/dev/null; read -r o <{owner}");
        let claims = format!(
            "[ -n \"$o\" ] || {{ mkdir -p {folder} && {claim}; }}\n\
             [ -n \"$o\" ] || {{ sleep 1; read -r o <{owner}; [ -n \"$o\" ] || {{ rm -f {owner}; {claim}; }}; }}\n"
        );
        let claims = if self.turned_away.load(Ordering::SeqCst) { "" } else { &claims };
        let guard =
            format!("o=; [ -f {owner} ] && read -r o <{owner}\n{claims}[ \"$o\" = {name} ] || {other}\n");
        let said = self.ssh.script(&format!("{guard}{script}"), input, within, stays)?;
        if said.end == "other" {
            let found =
                self.ssh.script(&format!("read -r o <{owner}; echo \"$o\""), Input::Nothing, FILE, false)?;
            let found = String::from_utf8_lossy(&found.stdout).trim().to_string();
            if found.is_empty() && !self.turned_away.load(Ordering::SeqCst) {
                let target = self.ssh.target();
                return Err(ScriptError::Unreachable(format!(
                    "{target}: this agent's name could not be left in {OWNER}: is the host's ramdisk full?"
                )));
            }
            self.turned_away.store(true, Ordering::SeqCst);
            let found =
                if found.is_empty() { "whose name is gone from there".into() } else { format!("`{found}`") };
            return Err(ScriptError::Unreachable(format!(
                "{}: another agent serves this host, {found}, and this one is `{gateway}`: stop that one, remove {OWNER} on the host, and start this one anew; or stop this one",
                self.ssh.target()
            )));
        }
        Ok(said)
    }

    /// Reads some blocks of a file.
    pub(super) fn blocks(&self, path: &str, dd: &str) -> Result<Vec<u8>, IoError> {
        let file = self.word(path)?;
        let script = format!("f={file}; [ -e \"$f\" ] || {}\n{dd}", self.ssh.end("absent"));
        let said = self.script(path, &script, Input::Nothing, FILE)?;
        match said.end.as_str() {
            "0" => Ok(said.stdout),
            "absent" => Err(IoError::NotFound(path.into())),
            _ => Err(failed(path, &said)),
        }
    }

    /// Fills a temporary file beside the target by a script that writes to `"$n"`, and gives it its name.
    fn replace(&self, path: &str, mode: u32, fill: &str, input: Input, within: u32) -> Result<(), IoError> {
        self.may_write(path)?;
        let target = self.word(path)?;
        // Until it is whole it is nobody's to read; a file whose mode is kept has it from the old one.
        let (first, mode) = match mode {
            KEEP_MODE => ("true", "[ -e \"$f\" ] || chmod 644 \"$n\"".into()),
            mode => ("{ [ ! -e \"$n\" ] || chmod 600 \"$n\"; }", format!("chmod {mode:o} \"$n\"")),
        };
        // A file that ESXi keeps over a reboot is written in place (see `Posix`).
        let script = format!(
            "f={target}; n=\"$f.vsgpu-new\"; {NO_LINK}mkdir -p \"${{f%/*}}/\" && if [ -k \"$f\" ]; then n=\"$f\"; {fill}; else rm -f \"$n\" && \
             {{ [ ! -e \"$f\" ] || cp -p \"$f\" \"$n\"; }} && {first} && {{ {fill}; }} && {mode} && sync && mv \"$n\" \"$f\" || {{ rm -f \"$n\"; false; }}; fi"
        );
        let said = self.script(path, &script, input, within)?;
        if said.end == "0" { Ok(()) } else { Err(failed(path, &said)) }
    }
}

impl System for OverSsh {
    fn run(&self, command: &Command) -> Output {
        self.run_there(command)
    }

    fn orphan(&self) -> Option<String> {
        self.still_running()
    }

    fn read(&self, path: &str, max: usize) -> Result<Vec<u8>, IoError> {
        if self.is_own(path) {
            return self.state.read(path, max);
        }
        let bytes = self.head(path, max + 1)?;
        if bytes.len() > max { Err(IoError::TooLarge(path.into(), max)) } else { Ok(bytes) }
    }

    fn tail(&self, path: &str, max: usize) -> Result<Vec<u8>, IoError> {
        let script = format!(
            "s=$(wc -c <\"$f\"); b=$(((s-{max})/4096)); [ $b -gt 0 ] || b=0; dd if=\"$f\" bs=4096 skip=$b count={} 2>/dev/null",
            max / 4096 + 2
        );
        let bytes = self.blocks(path, &script)?;
        Ok(bytes[bytes.len().saturating_sub(max)..].to_vec())
    }

    fn head(&self, path: &str, max: usize) -> Result<Vec<u8>, IoError> {
        let mut bytes =
            self.blocks(path, &format!("dd if=\"$f\" bs=4096 count={} 2>/dev/null", max.div_ceil(4096)))?;
        bytes.truncate(max);
        Ok(bytes)
    }

    fn holders(&self, prefix: &str) -> Result<Vec<OpenedBy>, IoError> {
        Err(trouble(prefix, "who holds a file open is only asked of Linux guests, by their own agents"))
    }

    fn hash(&self, path: &str) -> Result<String, IoError> {
        let file = self.word(path)?;
        let script = format!(
            "f={file}; [ -f \"$f\" ] || {}\nsha256sum \"$f\" 2>/dev/null || openssl dgst -sha256 \"$f\"",
            self.ssh.end("absent")
        );
        let said = self.script(path, &script, Input::Nothing, LARGE_FILE)?;
        if said.end == "absent" {
            return Err(IoError::NotFound(path.into()));
        }
        let text = String::from_utf8_lossy(&said.stdout).into_owned();
        let is_hash = |word: &&str| word.len() == 64 && word.bytes().all(|b| b.is_ascii_hexdigit());
        text.split_whitespace().find(is_hash).map(str::to_lowercase).ok_or_else(|| failed(path, &said))
    }

    fn list(&self, path: &str) -> Result<Vec<String>, IoError> {
        if self.is_own(path) {
            return self.state.list(path);
        }
        let bytes = self.blocks(path, "ls -1A \"$f\"")?;
        let mut names: Vec<String> =
            String::from_utf8_lossy(&bytes).lines().take(10_000).map(String::from).collect();
        names.sort();
        Ok(names)
    }

    fn size(&self, path: &str) -> Result<Option<u64>, IoError> {
        match self.blocks(path, &format!("[ -f \"$f\" ] || {}\nwc -c <\"$f\"", self.ssh.end("absent"))) {
            Ok(bytes) => String::from_utf8_lossy(&bytes)
                .trim()
                .parse()
                .map(Some)
                .map_err(|_| trouble(path, "has no size")),
            Err(IoError::NotFound(_)) => Ok(None),
            Err(why) => Err(why),
        }
    }

    fn is_folder(&self, path: &str) -> Result<bool, IoError> {
        let said = self.script(path, &format!("[ -d {} ]", self.word(path)?), Input::Nothing, FILE)?;
        Ok(said.end == "0")
    }

    fn write(&self, path: &str, contents: &[u8], mode: u32) -> Result<(), IoError> {
        if self.is_own(path) {
            return self.state.write(path, contents, mode);
        }
        let (sender, pieces) = mpsc::channel();
        let _ = sender.send(contents.to_vec());
        drop(sender);
        // What was cut on its way here must not become the file.
        let fill = format!("cat >\"$n\" && [ $(wc -c <\"$n\") -eq {} ]", contents.len());
        // A slow line is no failure: 100 kB/s at least.
        let within = FILE + u32::try_from(contents.len() / 100_000).unwrap_or(LARGE_FILE);
        self.replace(path, mode, &fill, Input::Pieces(pieces), within)
    }

    fn copy(&self, from: &str, to: &str, mode: u32) -> Result<(), IoError> {
        self.replace(to, mode, &format!("cat {} >\"$n\"", self.word(from)?), Input::Nothing, LARGE_FILE)
    }

    fn remove(&self, path: &str) -> Result<(), IoError> {
        if self.is_own(path) {
            return self.state.remove(path);
        }
        self.may_write(path)?;
        let said = self.script(path, &format!("rm -f {}", self.word(path)?), Input::Nothing, FILE)?;
        if said.end == "0" { Ok(()) } else { Err(failed(path, &said)) }
    }

    /// Read there and used where it lies: between the two is a moment that only the tool's own check covers.
    fn stage(&self, path: &str, wanted: &str) -> Result<Staged, IoError> {
        let size = self.size(path)?.ok_or_else(|| IoError::NotFound(path.into()))?;
        let said = self.script(path, &format!("[ ! -L {} ]", self.word(path)?), Input::Nothing, FILE)?;
        if said.end != "0" {
            return Err(trouble(path, "it is a symbolic link"));
        }
        let sha256 = self.hash(path)?;
        let name = path.rsplit('/').next().unwrap_or_default();
        let found = match sha256.eq_ignore_ascii_case(wanted) {
            true => {
                let read = |number: u64| {
                    let dd = format!("dd if=\"$f\" bs={PIECE} skip={number} count=1 2>/dev/null");
                    self.blocks(path, &dd).map_err(std::io::Error::other)
                };
                package::inspect(&mut Blocks::new(&read, size), name, size)
            }
            false => Err("it is another file".into()),
        };
        Ok(Staged { sha256, size, found, instead: path.into() })
    }

    fn unstage(&self, _: &str, _: &str) {}

    fn upload(&self, file: &Incoming, next: &mut dyn FnMut() -> Option<Vec<u8>>) -> Result<(), UploadError> {
        self.may_write(&file.partial)?;
        let have = self.size(&file.partial)?.unwrap_or(0);
        if have < file.offset {
            return Err(UploadError::Gap(have));
        }
        let partial = self.word(&file.partial)?;
        let script = format!(
            "f={partial}; {NO_LINK}mkdir -p \"${{f%/*}}/\" && dd if=/dev/null of=\"$f\" bs=1 seek={} count=0 2>/dev/null && cat >>\"$f\" && sync",
            file.offset
        );
        let (pieces, input) = mpsc::sync_channel(4);
        let (mut size, mut too_much) = (file.offset, false);
        let said = std::thread::scope(|scope| {
            let sent = scope.spawn(|| self.script(&file.partial, &script, Input::Pieces(input), LARGE_FILE));
            while let Some(data) = next() {
                size += data.len() as u64;
                too_much = size > file.size;
                // A far end that reads no more says why itself.
                if too_much || pieces.send(data).is_err() {
                    break;
                }
            }
            drop(pieces);
            sent.join().unwrap_or_else(|_| Err(trouble(&file.partial, "the transfer failed")))
        })?;
        if said.end != "0" {
            if String::from_utf8_lossy(&said.stderr).contains("No space left") {
                let _ = self.remove(&file.partial);
                return Err(UploadError::NoSpace);
            }
            return Err(failed(&file.partial, &said).into());
        }
        if too_much {
            return Err(UploadError::TooMuch);
        }
        if size < file.size {
            return Err(UploadError::TooShort(size));
        }
        let seen = self.hash(&file.partial)?;
        if !seen.eq_ignore_ascii_case(&file.sha256) {
            let _ = self.remove(&file.partial);
            return Err(UploadError::Damaged(seen));
        }
        let mode = if is_program(&self.head(&file.partial, 4)?) { "700" } else { "600" };
        let script = format!("chmod {mode} {partial} && mv {partial} {}", self.word(&file.target)?);
        let said = self.script(&file.target, &script, Input::Nothing, FILE)?;
        if said.end == "0" { Ok(()) } else { Err(failed(&file.target, &said).into()) }
    }

    fn machine(&self) -> Result<Machine, IoError> {
        Err(IoError::Other { path: "/".into(), why: "disks and memory are not asked over ssh".into() })
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
        let said = self.script("/", "uname -r", Input::Nothing, FILE);
        said.map(|s| String::from_utf8_lossy(&s.stdout).trim().to_string()).unwrap_or_default()
    }

    /// This machine's: nobody who asks for the time (a scrape, a record) may wait for a host that is away.
    fn now(&self) -> u64 {
        self.state.now()
    }

    fn elapsed(&self) -> Duration {
        self.state.elapsed()
    }

    fn is_real(&self) -> bool {
        self.root.is_empty()
    }

    fn boot_id(&self) -> Result<String, IoError> {
        self.boot.id()
    }

    fn sleep(&self, time: Duration) {
        std::thread::sleep(time);
    }

    fn is_remote(&self) -> bool {
        true
    }
}

fn trouble(path: &str, why: &str) -> IoError {
    IoError::Other { path: path.into(), why: why.into() }
}

fn failed(path: &str, said: &ScriptOutput) -> IoError {
    let text = String::from_utf8_lossy(&said.stderr);
    let line = text.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or("no reason was given");
    trouble(path, &line.chars().take(300).collect::<String>())
}

pub(super) fn random() -> String {
    format!("{:016x}", std::hash::RandomState::new().build_hasher().finish())
}

fn temporary() -> Result<PathBuf, String> {
    nix::unistd::mkdtemp(&std::env::temp_dir().join("vsgpu-XXXXXX"))
        .map_err(|e| format!("no temporary folder: {e}"))
}

/// One agent for a state folder, and one host: claims of two hosts must never be mixed.
fn one_agent(
    memory: &Posix,
    state: &Path,
    target: &Target,
) -> Result<nix::fcntl::Flock<std::fs::File>, String> {
    let known = memory.read("/target", 1024).ok().and_then(|b| String::from_utf8(b).ok());
    match known.as_deref().map(str::trim) {
        None | Some("") => {
            memory.write("/target", target.destination.as_bytes(), 0o600).map_err(|e| e.to_string())?
        }
        Some(known) if known == target.destination => {}
        Some(known) => {
            return Err(format!(
                "--state {} belongs to {known}: each host has a folder of its own",
                state.display()
            ));
        }
    }
    own_folder::locked(state).map_err(|why| format!("--state {why}"))
}

/// This agent's name among those that could serve the host; made once.
fn own_name(memory: &Posix) -> Result<String, String> {
    if let Some(name) = memory
        .read("/gateway", 256)
        .ok()
        .and_then(|b| String::from_utf8(b).ok())
        .filter(|n| !n.trim().is_empty())
    {
        return Ok(name.trim().into());
    }
    let host = nix::unistd::gethostname().map(|h| h.to_string_lossy().into_owned()).unwrap_or_default();
    let host: String = host.chars().filter(|c| c.is_ascii_alphanumeric() || "-.".contains(*c)).collect();
    let name = format!("{host}-{}", random());
    memory.write("/gateway", name.as_bytes(), 0o600).map_err(|e| e.to_string())?;
    Ok(name)
}
