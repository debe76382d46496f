//! From a machine with nothing but sshd to a node that answers: the package is sent and installed, the node
//! enrolled, its agent started. `acts` is pure: what is shown before anything is touched is what is done.
//! `Visit` does it.

use crate::error::{Error, Kind};
use std::path::Path;
use vsgpu_core::{Command, ExitKind, System as _};
use vsgpu_machine::over_ssh::{OWNER, OverSsh};
use vsgpu_machine::ssh::Target;

/// What kind of machine it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Machine {
    Esxi {
        acceptance: String,
    },
    Linux {
        /// Its package tool: `dpkg` or `rpm`.
        tool: &'static str,
        /// Whether commands need `sudo`.
        sudo: bool,
    },
}

impl Machine {
    /// The role of its agent.
    pub fn role(&self) -> &'static str {
        if matches!(self, Self::Esxi { .. }) { "host" } else { "guest" }
    }

    /// What its package's name ends with.
    fn package(&self) -> &'static str {
        match self {
            Self::Esxi { .. } => ".vib",
            Self::Linux { tool: "dpkg", .. } => ".deb",
            Self::Linux { .. } => ".rpm",
        }
    }
}

/// One thing that is done.
pub enum Act {
    Run(Command),
    /// A file there. Its content is never shown: keys are among them.
    Put {
        /// Absolute path.
        path: String,
        bytes: Vec<u8>,
        mode: u32,
    },
    /// A file that is no longer needed.
    Remove(String),
    RemoveFolder(String),
}

impl Act {
    /// Whether it only takes away what was put there for a while.
    pub fn tidies(&self) -> bool {
        matches!(self, Self::Remove(_) | Self::RemoveFolder(_))
    }
}

impl std::fmt::Display for Act {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Run(command) => write!(f, "$ {command}"),
            Self::Put { path, bytes, mode } => {
                write!(f, "put {path} ({} bytes, mode {mode:04o})", bytes.len())
            }
            Self::Remove(path) | Self::RemoveFolder(path) => write!(f, "remove {path}"),
        }
    }
}

/// What is to be there in the end.
pub struct Wanted {
    /// File name of the package.
    pub package: String,
    pub bytes: Vec<u8>,
    /// `ca.pem`, `node.pem`, `node.key`.
    pub certificates: Vec<(&'static str, Vec<u8>)>,
    /// Whether the host's acceptance level may be changed.
    pub set_acceptance: bool,
    /// A folder there for what is on its way, keys among it: one whose name nobody there knows before it is
    /// made.
    pub folder: String,
}

/// What is done, in order.
///
/// # Errors
/// Where it must not be done.
pub fn acts(machine: &Machine, wanted: &Wanted) -> Result<Vec<Act>, Error> {
    let blocked = |why: String| Error::new(Kind::Blocked, why);
    if !wanted.package.ends_with(machine.package()) {
        let why = format!("{}: this machine takes a `{}`", wanted.package, machine.package());
        return Err(Error::new(Kind::Usage, why)
            .code("package")
            .hint("`cargo xtask package` makes all of them"));
    }
    let run =
        |words: &[&str], secs: u32| Act::Run(Command::new(words[0], words[1..].iter().copied()).within(secs));
    let folder = &wanted.folder;
    let sent = format!("{folder}/{}", wanted.package);
    let send = Act::Put { path: sent.clone(), bytes: wanted.bytes.clone(), mode: 0o600 };
    let mut acts = vec![];
    match machine {
        Machine::Esxi { acceptance } => {
            if acceptance != "CommunitySupported" {
                if !wanted.set_acceptance {
                    return Err(blocked(format!("the host's acceptance level is {acceptance}, and the agent's package is a community one")).hint(
                        "`--set-acceptance-level` lowers it (UEFI Secure Boot must be off then, or the host does not boot); or leave the host alone: an agent elsewhere serves it over ssh",
                    ));
                }
                acts.push(run(
                    &["esxcli", "software", "acceptance", "set", "--level=CommunitySupported"],
                    60,
                ));
            }
            acts.push(send);
            acts.push(run(&["esxcli", "software", "vib", "install", "-v", &sent], 600));
            // Files that ESXi keeps over a reboot: they are there with their mode, and written in place.
            let keep = |(name, bytes): &(&str, Vec<u8>)| Act::Put {
                path: format!("/etc/opt/vsgpu/{name}"),
                bytes: bytes.clone(),
                // With the sticky bit, where the package's own is not there.
                mode: if *name == "node.key" { 0o1600 } else { 0o1644 },
            };
            acts.extend(wanted.certificates.iter().map(keep));
            acts.push(run(&["/sbin/auto-backup.sh"], 60));
            acts.push(run(&["/etc/init.d/vsgpu-host-agent", "restart"], 60));
        }
        Machine::Linux { tool, sudo } => {
            let root = |words: &[&str], secs: u32| {
                if *sudo { run(&[&["sudo", "-n"], words].concat(), secs) } else { run(words, secs) }
            };
            acts.push(send);
            acts.push(match *tool {
                "dpkg" => root(&["dpkg", "--install", &sent], 600),
                _ => root(&["rpm", "--upgrade", "--replacepkgs", &sent], 600),
            });
            for (name, bytes) in &wanted.certificates {
                let staged = format!("{folder}/{name}");
                acts.push(Act::Put { path: staged.clone(), bytes: bytes.clone(), mode: 0o600 });
                let mode = if *name == "node.key" { "600" } else { "644" };
                acts.push(root(
                    &[
                        "install",
                        "-o",
                        "root",
                        "-g",
                        "root",
                        "-m",
                        mode,
                        &staged,
                        &format!("/etc/vsgpu/{name}"),
                    ],
                    60,
                ));
                acts.push(Act::Remove(staged));
            }
            acts.push(root(&["systemctl", "restart", "vsgpu-guest-agent"], 120));
        }
    }
    acts.push(Act::Remove(sent));
    acts.push(Act::RemoveFolder(folder.clone()));
    Ok(acts)
}

/// A machine that is visited.
pub struct Visit {
    remote: OverSsh,
    target: Target,
}

impl Visit {
    /// Reaches it. `tools`, `root`: as for an agent, over there.
    ///
    /// # Errors
    /// Where it is not reached.
    pub fn new(target: Target, tools: Option<&Path>, root: &Path) -> Result<Self, Error> {
        let away = |why: String| Error::new(Kind::Unreachable, why);
        let remote = OverSsh::temporary(&target, tools, root).map_err(away)?;
        remote.is_folder("/").map_err(|e| away(e.to_string()))?;
        Ok(Self { remote, target })
    }

    /// What it is.
    ///
    /// # Errors
    /// Where it is neither, or its user may not do what is needed.
    pub fn machine(&self) -> Result<Machine, Error> {
        let ask = |words: &[&str]| self.remote.run(&Command::new(words[0], words[1..].iter().copied()));
        let acceptance = ask(&["esxcli", "software", "acceptance", "get"]);
        if acceptance.ended != ExitKind::Missing {
            if !acceptance.ok() {
                return Err(Error::new(
                    Kind::Failed,
                    format!("{}: esxcli: {}", self.target, acceptance.both()),
                ));
            }
            // An agent elsewhere that serves this host, and one on it, would not know of each other.
            if let Ok(gateway) = self.remote.read(OWNER, 1024)
                && !gateway.is_empty()
            {
                let why = format!(
                    "{}: an agent elsewhere serves this host over ssh ({})",
                    self.target,
                    String::from_utf8_lossy(&gateway).trim()
                );
                return Err(Error::new(Kind::Blocked, why).hint(format!(
                    "stop that one and remove {OWNER} on the host, if this one is to take its place"
                )));
            }
            return Ok(Machine::Esxi { acceptance: acceptance.stdout.trim().into() });
        }
        let tool = ["dpkg", "rpm"].into_iter().find(|tool| ask(&[tool, "--version"]).ok());
        let tool = tool.ok_or_else(|| {
            Error::new(Kind::Blocked, format!("{}: neither esxcli nor dpkg nor rpm is there", self.target))
        })?;
        let sudo = self.target.user() != "root";
        if sudo && !ask(&["sudo", "-n", "true"]).ok() {
            let why = format!("{}: the user may not become root without a password", self.target);
            return Err(
                Error::new(Kind::Blocked, why).hint("`sudo -n true` has to work there, or visit as root")
            );
        }
        Ok(Machine::Linux { tool, sudo })
    }

    /// Does one thing.
    ///
    /// # Errors
    /// In the tool's words.
    pub fn act(&self, act: &Act) -> Result<(), Error> {
        let failed = |why: String| {
            Error::new(Kind::Failed, format!("{}: {why}", self.target))
                .hint("the same command again goes on: everything is done anew")
        };
        match act {
            Act::Run(command) => {
                let output = self.remote.run(command);
                if output.ok() {
                    Ok(())
                } else {
                    Err(failed(format!(
                        "`{command}`: {}: {}",
                        output.ended,
                        vsgpu_core::observation::head(&output.both())
                    )))
                }
            }
            Act::Put { path, bytes, mode } => {
                self.remote.write(path, bytes, *mode).map_err(|e| failed(e.to_string()))
            }
            Act::Remove(path) => self.remote.remove(path).map_err(|e| failed(e.to_string())),
            Act::RemoveFolder(path) => self.remote.remove_folder(path).map_err(|e| failed(e.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(package: &str) -> Wanted {
        let certificates = vec![("ca.pem", b"ca".to_vec()), ("node.key", b"SECRET".to_vec())];
        Wanted {
            package: package.into(),
            bytes: b"package".to_vec(),
            certificates,
            set_acceptance: false,
            folder: "/tmp/vsgpu-x".into(),
        }
    }

    fn shown(machine: &Machine, package: &str) -> String {
        acts(machine, &wanted(package))
            .map_or_else(|e| e.message, |acts| acts.iter().map(|a| format!("{a}\n")).collect())
    }

    #[test]
    fn what_is_shown_names_every_command_and_no_secret() {
        let debian = shown(&Machine::Linux { tool: "dpkg", sudo: true }, "a.deb");
        assert!(debian.contains("$ sudo -n dpkg --install /tmp/vsgpu-x/a.deb\n"), "{debian}");
        assert!(
            debian.contains(
                "install -o root -g root -m 600 /tmp/vsgpu-x/node.key /etc/vsgpu/node.key\nremove /tmp"
            ),
            "{debian}"
        );
        let esxi = shown(&Machine::Esxi { acceptance: "CommunitySupported".into() }, "a.vib");
        assert!(
            esxi.contains("esxcli software vib install -v /tmp/vsgpu-x/a.vib")
                && !esxi.contains("acceptance set"),
            "{esxi}"
        );
        assert!(!debian.contains("SECRET") && !esxi.contains("SECRET"));
    }

    #[test]
    fn what_must_not_be_is_not_planned() {
        assert!(
            shown(&Machine::Esxi { acceptance: "PartnerSupported".into() }, "a.vib")
                .contains("acceptance level is PartnerSupported")
        );
        assert!(shown(&Machine::Linux { tool: "rpm", sudo: false }, "a.deb").contains("takes a `.rpm`"));
    }
}
