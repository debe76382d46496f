//! What may be asked of a machine, as data: a plan prints it, a test compares it, only `System` does it.
//! Deliberately absent: anything that takes a shell string, and any "run this text" escape hatch.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Bytes kept of each stream of a command. A tool that prints more is cut off and its answer is refused.
pub const MAX_OUTPUT: usize = 8 << 20;

/// One external program with its arguments, exactly as it will be run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Command {
    /// Bare name (looked up in `--tools`, then `also`, then the system's folders) or an absolute path (under
    /// `--root`).
    pub program: String,
    /// Arguments, passed as they are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Variables added to the agent's own small, fixed environment.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<(String, String)>,
    /// Further folders in which a bare program name is looked up.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<String>,
    /// Seconds until the program and its children are killed.
    pub timeout_secs: u32,
}

impl Command {
    /// A command with the default deadline of 60 s.
    pub fn new<A: Into<String>>(program: impl Into<String>, args: impl IntoIterator<Item = A>) -> Self {
        Self {
            program: program.into(),
            args: args.into_iter().map(Into::into).collect(),
            env: vec![],
            also: vec![],
            timeout_secs: 60,
        }
    }

    /// The same with another deadline, in seconds.
    pub fn within(mut self, seconds: u32) -> Self {
        self.timeout_secs = seconds;
        self
    }

    /// The same with one more environment variable.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// The same, also looked up in `folder`.
    pub fn also_in(mut self, folder: &str) -> Self {
        self.also.push(folder.into());
        self
    }
}

/// A word as one would type it in a POSIX shell.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@,+%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.into()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

impl std::fmt::Display for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (name, value) in &self.env {
            write!(f, "{name}={} ", quoted(value))?;
        }
        f.write_str(&quoted(&self.program))?;
        self.args.iter().try_for_each(|arg| write!(f, " {}", quoted(arg)))
    }
}

/// What vCenter is asked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum InVcenter {
    /// The host there: its cluster, who owns its image.
    Host,
    /// What a new VM of this name could be made of, and where such a VM is already.
    NewVm(String),
    /// What becomes of the host's running VMs when it enters maintenance mode.
    Evacuation,
}

/// One look at a machine. Looking never changes anything; equal probes run once per observation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Probe {
    /// Run a read-only command.
    Run(Command),
    /// Read a file (at most 1 MiB).
    Read(String),
    /// Read the end of a file (at most 256 KiB): logs.
    Tail(String),
    /// Names in a folder.
    List(String),
    /// SHA-256 of a file, lower-case hex.
    Hash(String),
    /// The first 4 KiB of a file that is no text, as lower-case hex.
    Hex(String),
    /// Processes that hold a file open whose path begins so, one `OpenedBy` as JSON on each line.
    Holders(String),
    /// Bytes of a file.
    Size(String),
    /// CPUs, memory, load and disks: a `Machine` as JSON.
    Machine,
    /// What vCenter says beyond the host itself, as JSON; absent where nobody asks vCenter.
    Inventory(InVcenter),
    /// Seconds since 1970 by the machine's own clock.
    Now,
    /// The identity of the running boot.
    BootId,
    /// Release of the running kernel, as `uname -r` prints it.
    KernelRelease,
}

/// One change. The agent derives it itself from a wish; it is never taken from the wire.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Effect {
    /// Run a command; exit status 0 is success.
    Run {
        /// What is run.
        command: Command,
        /// A failing command whose output contains this text has nothing left to do.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        already: Option<String>,
    },
    /// Refuse to go on unless a read-only command shows a text: the guard before a change that needs a state.
    Require {
        /// What is asked.
        command: Command,
        /// Text its output must contain.
        shows: String,
        /// What is wrong otherwise.
        otherwise: String,
    },
    /// Run a command, then ask `done` until it shows `shows`; at the deadline run `otherwise` or fail.
    RunUntil {
        /// What starts the change.
        command: Command,
        /// Asked once a second.
        done: Command,
        /// Text in `done`'s output that ends the wait.
        shows: String,
        /// Seconds to wait.
        deadline_secs: u32,
        /// The last resort, only where the operator allowed it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        otherwise: Option<Command>,
        /// Run where all was in vain, so that nothing is left half done.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        give_up: Option<Box<Command>>,
    },
    /// Write a file through a temporary one and rename.
    Write {
        /// Absolute path.
        path: String,
        /// The whole new content. Never a secret: plans print it.
        contents: String,
        /// Permission bits.
        mode: u32,
    },
    /// Copy a file that is already on the machine (a token, say) without anyone seeing its content.
    Copy {
        /// Absolute path of the source.
        from: String,
        /// Absolute path of the copy.
        to: String,
        /// Permission bits of the copy.
        mode: u32,
    },
    /// Set (or with `None` drop) settings of a VM, by their keys in its `.vmx`. Where the file is at hand every other
    /// byte of it is kept, with a backup beside it, and hostd reads it again; the vSphere API takes the settings.
    #[serde(alias = "edit-vmx")]
    ReconfigureVm {
        /// Absolute path of the `.vmx`.
        path: String,
        /// hostd's number, by which it reads the file again; none in records of earlier versions.
        #[serde(default)]
        vmid: Option<u32>,
        /// Key and new value.
        set: Vec<(String, Option<String>)>,
    },
    /// Write a `.vmx` made from another one, with keys set or dropped.
    DeriveVmx {
        /// Absolute path of the one it is made from.
        from: String,
        /// Absolute path of the new one.
        to: String,
        /// Key and new value.
        set: Vec<(String, Option<String>)>,
    },
    /// Bring a host into maintenance mode while VMs run: vCenter's DRS moves them, or people do. Asked anew first: what
    /// cannot leave is refused before anything moves.
    Evacuate {
        /// Seconds until it is given up.
        within_secs: u32,
        /// Also where somebody has to move a VM by hand meanwhile.
        waits_for_people: bool,
    },
    /// Set advanced options of DRS of the host's cluster; only vCenter does it.
    SetDrsOptions {
        /// The cluster, by name.
        cluster: String,
        /// Option and value; the others stay.
        set: Vec<(String, String)>,
    },
    /// Put the component of an offline bundle into the image of the host's cluster (or of the host itself); only vCenter does
    /// it. The hosts stay as they are.
    AddToImage {
        /// Whose image: the cluster's name, or the host's.
        of: String,
        /// Absolute path of the bundle, as it was sent.
        package: String,
        /// Seconds to wait.
        within_secs: u32,
    },
    /// Make the host what its image says, with its reboot; only vCenter does it. The host is in maintenance mode.
    Remediate {
        /// Whose image: the cluster's name, or the host's.
        of: String,
        /// The version of ESXi in it, which the host gets with it.
        base: String,
        /// Seconds to wait.
        within_secs: u32,
    },
    /// Copy a VM or a template by vCenter, to the host that is asked; there is no way to do it without vCenter.
    CloneVm {
        /// Name of what is copied.
        base: String,
        /// Absolute path of its configuration file.
        from: String,
        /// Name of the copy.
        name: String,
        /// Datastore of the copy, by name.
        datastore: String,
        /// Seconds to wait.
        within_secs: u32,
    },
    /// Set `key=value` lines of a configuration file, keeping every other line and the file's mode: what else
    /// is in it (a password, say) is neither shown nor kept anywhere.
    EditLines {
        /// Absolute path.
        path: String,
        /// The section they belong into, `[main]`; none where the file has no sections.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        section: Option<String>,
        /// Key and value; without a value the key goes.
        set: Vec<(String, Option<String>)>,
    },
    /// Remove a file; an absent one is fine.
    Remove {
        /// Absolute path.
        path: String,
    },
    /// Run commands and keep what they printed, with the boot id, as evidence in a file. A failing command is
    /// evidence too.
    Record {
        /// Run one after the other.
        commands: Vec<Command>,
        /// Where the JSON goes.
        path: String,
        /// A file whose content is kept with it: what the evidence depends on.
        beside: String,
    },
}

impl Effect {
    /// Whether a path stands anywhere in it, whole or as the beginning of a longer word.
    pub fn names(&self, path: &str) -> bool {
        fn stands(value: &serde_json::Value, path: &str) -> bool {
            match value {
                serde_json::Value::String(text) => text.contains(path),
                serde_json::Value::Array(all) => all.iter().any(|value| stands(value, path)),
                serde_json::Value::Object(all) => all.values().any(|value| stands(value, path)),
                _ => false,
            }
        }
        serde_json::to_value(self).is_ok_and(|value| stands(&value, path))
    }

    /// Plain `Run`.
    pub fn run(command: Command) -> Self {
        Self::Run { command, already: None }
    }

    /// The same, none of it taking longer than this.
    pub fn bounded(&self, left: Duration) -> Self {
        let secs = u32::try_from(left.as_millis().div_ceil(1000).max(1)).unwrap_or(u32::MAX);
        let mut bounded = self.clone();
        match &mut bounded {
            Self::Run { command, .. } | Self::Require { command, .. } => {
                command.timeout_secs = command.timeout_secs.min(secs)
            }
            Self::RunUntil { command, deadline_secs, .. } => {
                command.timeout_secs = command.timeout_secs.min(secs);
                *deadline_secs = secs.min(*deadline_secs);
            }
            Self::CloneVm { within_secs, .. }
            | Self::Evacuate { within_secs, .. }
            | Self::AddToImage { within_secs, .. }
            | Self::Remediate { within_secs, .. } => *within_secs = secs.min(*within_secs),
            // Files are written in no time; a record's commands have short deadlines of their own.
            _ => {}
        }
        bounded
    }
}

/// hostd reads a VM's file again.
pub(crate) fn reload(vmid: u32) -> Command {
    Command::new("vim-cmd", ["vmsvc/reload", &vmid.to_string()])
}

fn keys(f: &mut std::fmt::Formatter<'_>, set: &[(String, Option<String>)]) -> std::fmt::Result {
    set.iter().try_for_each(|(key, value)| match value {
        Some(value) => write!(f, "; {key} = \"{value}\""),
        None => write!(f, "; drop {key}"),
    })
}

impl std::fmt::Display for Effect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Run { command, .. } => write!(f, "{command}"),
            Self::Require { command, shows, .. } => write!(f, "{command}  (must show \"{shows}\")"),
            Self::RunUntil { command, shows, deadline_secs, otherwise, give_up, .. } => {
                write!(f, "{command}  (wait up to {deadline_secs} s for \"{shows}\"")?;
                match (otherwise, give_up) {
                    (Some(last), _) => write!(f, ", then {last})"),
                    (None, Some(last)) => write!(f, "; in vain: {last})"),
                    (None, None) => write!(f, ")"),
                }
            }
            Self::Write { path, contents, mode } => {
                write!(f, "write {path} (mode {mode:04o})")?;
                // Other people's comments are not ours to show; a last line of ours is.
                let last = contents.lines().count();
                let shown =
                    contents.lines().enumerate().filter(|(at, l)| !l.starts_with('#') || at + 1 == last);
                shown.map(|(_, l)| l).try_for_each(|l| write!(f, "; {l}"))
            }
            Self::Copy { from, to, mode } => write!(f, "copy {from} to {to} (mode {mode:04o})"),
            Self::ReconfigureVm { path, vmid, set } => {
                write!(f, "edit {path}")?;
                keys(f, set)?;
                vmid.map_or(Ok(()), |vmid| write!(f, "; {}", reload(vmid)))
            }
            Self::DeriveVmx { from, to, set } => {
                write!(f, "write {to} from {from}")?;
                keys(f, set)
            }
            Self::Evacuate { within_secs, .. } => {
                write!(f, "enter maintenance mode, VMs are moved  (wait up to {within_secs} s)")
            }
            Self::SetDrsOptions { cluster, set } => {
                let set: Vec<String> = set.iter().map(|(key, value)| format!("{key}={value}")).collect();
                write!(f, "set options of DRS of {cluster}: {}", set.join(", "))
            }
            Self::AddToImage { of, package, .. } => write!(f, "add {package} to the image of {of}"),
            Self::Remediate { of, base, .. } => {
                write!(f, "remediate the host by the image of {of} (ESXi {base})")
            }
            Self::CloneVm { base, from, name, datastore, .. } => {
                write!(f, "clone {base} ({from}) as {name} to {datastore}, by vCenter")
            }
            Self::EditLines { path, section, set } => {
                write!(f, "edit {path}{}", section.as_ref().map(|s| format!(" {s}")).unwrap_or_default())?;
                set.iter().try_for_each(|(key, value)| match value {
                    Some(value) => write!(f, "; {key}={value}"),
                    None => write!(f, "; drop {key}"),
                })
            }
            Self::Remove { path } => write!(f, "remove {path}"),
            Self::Record { commands, path, .. } => {
                commands.iter().try_for_each(|c| write!(f, "{c}; "))?;
                write!(f, "keep the output in {path}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_print_as_one_would_type_them() {
        let command =
            Command::new("esxcli", ["software", "vib", "install", "-d", "/vmfs/volumes/my ds/it's.zip"]);
        assert_eq!(command.to_string(), r"esxcli software vib install -d '/vmfs/volumes/my ds/it'\''s.zip'");
        assert_eq!(Command::new("true", [""]).to_string(), "true ''");
    }

    #[test]
    fn a_path_is_found_however_it_would_be_typed() {
        let path = "/vmfs/volumes/my ds/it's.zip";
        let effect = |arg: &str| Effect::run(Command::new("esxcli", ["install", arg]));
        assert!(effect(path).names(path) && effect(&format!("--depot={path}")).names(path));
        assert!(!effect("/vmfs/volumes/other.zip").names(path));
        assert!(Effect::Remove { path: path.into() }.names(path));
    }
}
