//! Scripts on another machine, through the OpenSSH client that is here: one connection for all of them, host
//! keys checked, a deadline for each, and an end that cannot be mistaken.
//!
//! What is sent is the text of a script for `sh`, made of our own words and of `quoted` ones: this file and
//! `remote` are the only places where a shell reads anything of ours. The far shell may be busybox's, so
//! nothing beyond POSIX is used. The script frames itself on its standard error, with a word nobody knows in
//! advance: the process it is, then how it ended. What lacks its end was cut, whatever ssh's exit status
//! says. Deliberately absent: passwords, agent forwarding, unknown host keys.

use crate::child::{self, Child, Input, Ran};
use std::hash::{BuildHasher as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;
use vsgpu_core::ExitKind;
use vsgpu_core::effect::quoted;

/// Sessions at once over one connection: sshd allows ten as it comes (`MaxSessions`), and people want one,
/// too.
const AT_ONCE: usize = 8;
/// Longest script: one argument of a process, on any system.
const LONGEST: usize = 100_000;

/// Which machine, and how ssh reaches it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// `user@host`.
    pub destination: String,
    /// Its port, where it is not the one of ssh's own configuration.
    pub port: Option<u16>,
    /// The private key, where it is not one of ssh's own configuration. It must not ask for a passphrase.
    pub identity: Option<PathBuf>,
    /// Host keys, where they are not in ssh's own file.
    pub known_hosts: Option<PathBuf>,
}

impl Target {
    /// `root@esx-01` or `root@esx-01:2222`.
    ///
    /// # Errors
    /// A sentence.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not `user@host` or `user@host:port`, as `root@esx-01`");
        let (user, place) = text.split_once('@').ok_or_else(wrong)?;
        let (host, port) = match place.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') => (host, Some(port.parse().map_err(|_| wrong())?)),
            _ => (place, None),
        };
        let plain = |word: &str, also: &str| {
            !word.is_empty()
                && word.len() < 254
                && !word.starts_with('-')
                && word.chars().all(|c| c.is_ascii_alphanumeric() || also.contains(c))
        };
        if !plain(user, "-_.") || !plain(host, "-_.:") || port == Some(0) {
            return Err(wrong());
        }
        Ok(Self { destination: format!("{user}@{host}"), port, ..Self::default() })
    }

    /// The user.
    pub fn user(&self) -> &str {
        self.destination.split('@').next().unwrap_or_default()
    }

    /// The host.
    pub fn host(&self) -> &str {
        self.destination.split_once('@').map_or("", |(_, host)| host)
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.destination)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

/// What a script said.
pub(crate) struct ScriptOutput {
    /// Its exit status, or the word it ended with instead.
    pub end: String,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

/// Why there is no end of a script.
pub(crate) enum ScriptError {
    /// The machine was not reached, or the connection was cut: in words.
    Unreachable(String),
    TimedOut(u32),
    Flooded(usize),
}

/// A connection.
pub(crate) struct Ssh {
    program: PathBuf,
    args: Vec<String>,
    target: Target,
    /// Begins and ends what a script says about itself.
    mark: String,
    free: (Mutex<usize>, Condvar),
}

impl Ssh {
    /// `control`: the folder of the shared connection's socket.
    ///
    /// # Errors
    /// Where there is no ssh, or a file is missing.
    pub(crate) fn new(target: &Target, control: &Path) -> Result<Self, String> {
        let program = ["/usr/bin/ssh", "/bin/ssh", "/usr/local/bin/ssh"]
            .map(PathBuf::from)
            .into_iter()
            .find(|path| child::runs(path));
        let program = program.ok_or(
            "there is no OpenSSH client here: install Debian's `openssh-client`, or `openssh-clients`",
        )?;
        let mut args: Vec<String> = ["-T", "-x", "-a"].map(String::from).into();
        let mut options: Vec<String> = [
            "BatchMode=yes",
            "StrictHostKeyChecking=yes",
            "ConnectTimeout=10",
            "ConnectionAttempts=1",
            "ServerAliveInterval=5",
            "ServerAliveCountMax=3",
            "ClearAllForwardings=yes",
            "PermitLocalCommand=no",
            "ControlMaster=auto",
            "ControlPersist=60",
            "LogLevel=ERROR",
            // What an operator's own configuration may say for other uses of ssh; older versions do not know
            // all of it.
            "RemoteCommand=none",
            "VerifyHostKeyDNS=no",
            "IgnoreUnknown=StdinNull,SessionType,ForkAfterAuthentication",
            "StdinNull=no",
            "SessionType=default",
            "ForkAfterAuthentication=no",
        ]
        .map(String::from)
        .into();
        options.push(format!("ControlPath=\"{}/%C\"", control.display().to_string().replace('%', "%%")));
        // Both keys are named: nothing of an operator's own configuration is needed.
        if target.known_hosts.is_some() && target.identity.is_some() {
            args.extend(["-F".into(), "none".into()]);
        }
        if let Some(file) = &target.known_hosts {
            options.extend([
                format!("UserKnownHostsFile=\"{}\"", existing(file)?.replace('%', "%%")),
                "GlobalKnownHostsFile=/dev/null".into(),
            ]);
        }
        if let Some(file) = &target.identity {
            args.extend(["-i".into(), existing(file)?]);
            options.push("IdentitiesOnly=yes".into());
        }
        args.extend(options.into_iter().flat_map(|option| ["-o".into(), option]));
        args.extend(target.port.into_iter().flat_map(|port| ["-p".into(), port.to_string()]));
        args.extend(["--".into(), target.destination.clone()]);
        let random = std::hash::RandomState::new().build_hasher().finish();
        Ok(Self {
            program,
            args,
            target: target.clone(),
            mark: format!("vsgpu-{random:016x}"),
            free: (Mutex::new(AT_ONCE), Condvar::new()),
        })
    }

    pub(crate) fn target(&self) -> &Target {
        &self.target
    }

    /// A word of a script that ends it with this word in the place of an exit status.
    pub(crate) fn end(&self, word: &str) -> String {
        format!("{{ printf '\\n{} {word}\\n' >&2; exit 0; }}", self.mark)
    }

    /// Runs a script. What its last command ends with is its end, unless it has an `end` of its own. One that
    /// takes too long is ended there as well, with all that it started, unless `stays`.
    pub(crate) fn script(
        &self,
        script: &str,
        input: Input,
        within: u32,
        stays: bool,
    ) -> Result<ScriptOutput, ScriptError> {
        let mark = &self.mark;
        let whole = format!("umask 077; echo {mark}- $$ >&2\n{script}\nprintf '\\n{mark} %s\\n' $? >&2");
        let whole = format!("exec sh -c {}", quoted(&whole));
        if whole.len() > LONGEST {
            return Err(ScriptError::Unreachable(format!(
                "a script of {} bytes is too long to be sent",
                whole.len()
            )));
        }
        let _place = self.place(within).ok_or_else(|| {
            ScriptError::Unreachable(format!("ssh {}: all {AT_ONCE} sessions are in use", self.target))
        })?;
        let ran = self.ssh(&whole, input, within);
        let stderr = String::from_utf8_lossy(&ran.stderr).into_owned();
        let Some((before, rest)) = stderr.split_once(&format!("{mark}- ")) else {
            return Err(match ran.ended {
                ExitKind::TimedOut(secs) => ScriptError::TimedOut(secs),
                _ => ScriptError::Unreachable(self.unreachable(&before_all(&stderr))),
            });
        };
        let (process, said) = rest.split_once('\n').unwrap_or((rest, ""));
        let lost = match ran.ended {
            ExitKind::TimedOut(secs) => Some(ScriptError::TimedOut(secs)),
            ExitKind::Flooded(bytes) => Some(ScriptError::Flooded(bytes)),
            _ => None,
        };
        let end = said
            .rsplit_once(&format!("\n{mark} "))
            .or_else(|| said.strip_prefix(&format!("{mark} ")).map(|end| ("", end)));
        // What came to its end is over, however ssh itself ended.
        if let Some(lost) = lost.filter(|lost| end.is_none() || matches!(lost, ScriptError::Flooded(_))) {
            // ssh is gone, what it started there is not.
            if stays {
                return Err(lost);
            }
            if let Ok(process) = process.trim().parse::<u32>() {
                let kill = format!("kill -9 -{process} 2>/dev/null; kill -9 {process} 2>/dev/null");
                let _ = self.ssh(&format!("exec sh -c {}", quoted(&kill)), Input::Nothing, 15);
            }
            return Err(lost);
        }
        match end {
            Some((stderr, end)) => Ok(ScriptOutput {
                end: end.lines().next().unwrap_or_default().into(),
                stdout: ran.stdout,
                stderr: stderr.as_bytes().to_vec(),
            }),
            None => Err(ScriptError::Unreachable(self.unreachable(&before_all(&format!("{before}{said}"))))),
        }
    }

    /// Ends the shared connection.
    pub(crate) fn close(&self) {
        let last = self.args.len().saturating_sub(2);
        let args: Vec<String> =
            [&self.args[..last], &["-O".into(), "exit".into()], &self.args[last..]].concat();
        child::run(Child {
            program: &self.program,
            args: &args,
            env: vec![],
            input: Input::Nothing,
            within: 5,
            until: None,
            hold: None,
        });
    }

    fn ssh(&self, text: &str, input: Input, within: u32) -> Ran {
        let args: Vec<String> = self.args.iter().cloned().chain([text.to_string()]).collect();
        let until = format!("\n{} ", self.mark);
        let fixed = [("LC_ALL", "C"), ("LANG", "C")]
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .to_vec();
        child::run(Child {
            program: &self.program,
            args: &args,
            env: fixed,
            input,
            within,
            until: Some(&until),
            hold: None,
        })
    }

    /// Why a machine was not reached, with what to do.
    fn unreachable(&self, said: &str) -> String {
        let Target { port, .. } = &self.target;
        let host = self.target.host();
        let to = port.map(|p| format!("-p {p} ")).unwrap_or_default();
        let advice = if said.contains("Host key verification failed") || said.contains("host key is known") {
            format!(
                "; its host key is not known here: `ssh-keyscan {to}{host} | ssh-keygen -lf -` shows it, compare it at the host's console, then keep it in the known_hosts file"
            )
        } else if said.contains("IDENTIFICATION HAS CHANGED") {
            "; its host key is another one than before: find out why before anything else".into()
        } else if said.contains("Permission denied") {
            "; the key is not allowed there: on ESXi it belongs into /etc/ssh/keys-root/authorized_keys"
                .into()
        } else if said.is_empty() {
            ": the connection was cut".into()
        } else {
            String::new()
        };
        format!("ssh {}: {said}{advice}", self.target)
    }

    /// A session's place; none where all are taken for as long as the script may take.
    fn place(&self, within: u32) -> Option<Place<'_>> {
        let free = self.free.0.lock().unwrap_or_else(PoisonError::into_inner);
        let waits =
            self.free.1.wait_timeout_while(free, Duration::from_secs(within.into()), |free| *free == 0);
        let (mut free, late) = waits.unwrap_or_else(PoisonError::into_inner);
        if late.timed_out() {
            return None;
        }
        *free -= 1;
        Some(Place(self))
    }
}

struct Place<'a>(&'a Ssh);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        *self.0.free.0.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.free.1.notify_one();
    }
}

fn existing(file: &Path) -> Result<String, String> {
    if file.is_file() {
        Ok(file.display().to_string())
    } else {
        Err(format!("{}: no such file", file.display()))
    }
}

/// The last words of ssh, on one line.
fn before_all(stderr: &str) -> String {
    let lines: Vec<&str> =
        stderr.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with("@@")).collect();
    lines[lines.len().saturating_sub(3)..].join(" ").chars().filter(|c| !c.is_control()).take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_user_and_a_host_and_nothing_that_ssh_takes_for_an_option() {
        assert_eq!(Target::parse("root@esx-01").map(|t| t.to_string()).as_deref(), Ok("root@esx-01"));
        assert_eq!(
            Target::parse("root@esx-01:2222").map(|t| (t.port, t.destination)),
            Ok((Some(2222), "root@esx-01".into()))
        );
        assert_eq!(
            Target::parse("root@fd00::1").map(|t| (t.port, t.host().to_string())),
            Ok((None, "fd00::1".into()))
        );
        for wrong in [
            "esx-01",
            "@esx-01",
            "root@",
            "-oProxyCommand=x@h",
            "root@-h",
            "root@h:0",
            "root@h:99999",
            "root@h;reboot",
            "ro ot@h",
        ] {
            assert!(Target::parse(wrong).is_err(), "{wrong}");
        }
    }
}
