//! What a machine would say, as text. `$ command` is followed by what it prints, indented by two spaces;
//! `exit 1` before that is its exit status and `stderr` begins the other stream. `read`, `tail`, `list`,
//! `hash`, `hex`, `size` and `holders` with a path are looks at files, `disk /usr 900` is a disk with its
//! free bytes, `now`, `boot` and `kernel` are single words. What is not there is missing on the machine, too.

use crate::script::{Section, Wrong, wrong};
use std::collections::BTreeMap;
use vsgpu_core::machine::Disk;
use vsgpu_core::observation::Answer;
use vsgpu_core::{ExitKind, FactEntry, InVcenter, IoError, Observation, Output, Probe, Subject, Unreadable};

const WORDS: [&str; 9] = ["$", "read", "tail", "list", "hash", "hex", "size", "holders", "inventory"];

/// One answer of the text.
struct Said {
    line: usize,
    exit: i32,
    stdout: String,
    stderr: String,
    asked: std::cell::Cell<bool>,
}

/// A machine.
pub struct Machine {
    file: String,
    said: BTreeMap<String, Said>,
    words: BTreeMap<String, String>,
    disks: Vec<Disk>,
}

impl Machine {
    pub fn read(file: &str, section: &Section) -> Result<Self, Wrong> {
        let mut machine =
            Self { file: file.into(), said: BTreeMap::new(), words: BTreeMap::new(), disks: vec![] };
        let (mut last, mut on_stderr) = (None::<String>, false);
        for (at, line) in section.text.lines().enumerate() {
            let place = section.line + at;
            let current = last.as_ref().and_then(|key| machine.said.get_mut(key));
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            match (line.strip_prefix("  "), current, word) {
                (Some(text), Some(said), _) => {
                    let stream = if on_stderr { &mut said.stderr } else { &mut said.stdout };
                    *stream += &format!("{text}\n");
                }
                (None, Some(said), "exit") => {
                    said.exit = rest.parse().map_err(|e| wrong(file, place, format!("exit: {e}")))?
                }
                (None, Some(_), "stderr") => on_stderr = true,
                (None, _, "now" | "boot" | "kernel") => drop(machine.words.insert(word.into(), rest.into())),
                (None, _, "disk") => {
                    let free = rest.split_once(' ').and_then(|(path, free)| Some((path, free.parse().ok()?)));
                    let (path, free_bytes) =
                        free.ok_or_else(|| wrong(file, place, "a disk is `disk PATH BYTES`"))?;
                    let (path, disk) = (path.to_string(), path.to_string());
                    machine.disks.push(Disk { path, disk, size_bytes: free_bytes, free_bytes });
                }
                (None, _, word) if WORDS.contains(&word) => {
                    let said = Said {
                        line: place,
                        exit: 0,
                        stdout: String::new(),
                        stderr: String::new(),
                        asked: false.into(),
                    };
                    if machine.said.insert(line.into(), said).is_some() {
                        return Err(wrong(file, place, format!("`{line}` a second time")));
                    }
                    (last, on_stderr) = (Some(line.into()), false);
                }
                _ if line.trim().is_empty() => {
                    if let Some(said) = last.as_ref().and_then(|key| machine.said.get_mut(key)) {
                        said.stdout.push('\n');
                    }
                }
                _ => {
                    return Err(wrong(
                        file,
                        place,
                        format!("`{line}` is no look at a machine; what it prints is indented"),
                    ));
                }
            }
        }
        Ok(machine)
    }

    fn text(&self, look: &str, path: &str) -> Answer {
        let said = self.said.get(&format!("{look} {path}")).inspect(|said| said.asked.set(true));
        let whole = |said: &Said| {
            if matches!(look, "hash" | "hex" | "list" | "size") {
                said.stdout.trim_end().into()
            } else {
                said.stdout.clone()
            }
        };
        Answer::Text(said.map(whole).ok_or_else(|| IoError::NotFound(path.into())))
    }

    fn word(&self, word: &str, default: &str) -> Answer {
        Answer::Text(Ok(self.words.get(word).cloned().unwrap_or_else(|| default.into())))
    }

    fn answer(&self, probe: &Probe) -> Answer {
        match probe {
            Probe::Run(command) => match self.said.get(&format!("$ {command}")) {
                None => Answer::Ran(Output {
                    ended: ExitKind::Missing,
                    stdout: String::new(),
                    stderr: String::new(),
                }),
                Some(said) => {
                    said.asked.set(true);
                    let Said { exit, stdout, stderr, .. } = said;
                    Answer::Ran(Output {
                        ended: ExitKind::Status(*exit),
                        stdout: stdout.clone(),
                        stderr: stderr.clone(),
                    })
                }
            },
            Probe::Read(path) => self.text("read", path),
            Probe::Inventory(InVcenter::Host) => self.text("inventory", "host"),
            Probe::Inventory(InVcenter::Evacuation) => self.text("inventory", "evacuation"),
            Probe::Inventory(InVcenter::NewVm(name)) => self.text("inventory", name),
            Probe::Tail(path) => self.text("tail", path),
            Probe::List(path) => self.text("list", path),
            Probe::Hash(path) => self.text("hash", path),
            Probe::Hex(path) => self.text("hex", path),
            Probe::Size(path) => self.text("size", path),
            Probe::Machine if self.disks.is_empty() => Answer::Text(Err(IoError::NotFound("/".into()))),
            Probe::Machine => {
                let here = vsgpu_core::machine::Machine {
                    disks: self.disks.clone(),
                    ..vsgpu_core::machine::Machine::default()
                };
                Answer::Text(Ok(serde_json::json!(here).to_string()))
            }
            Probe::Holders(path) => match self.text("holders", path) {
                Answer::Text(Err(_)) => Answer::Text(Ok(String::new())),
                said => said,
            },
            Probe::Now => self.word("now", "1800000000"),
            Probe::BootId => self.word("boot", "boot-1"),
            Probe::KernelRelease => self.word("kernel", "6.1.0-28-amd64"),
        }
    }

    /// What a fact makes of it.
    pub fn fact(&self, fact: &FactEntry, on: &Subject) -> Result<serde_json::Value, Unreadable> {
        let on = on.clone().with_vmx_keys(fact.vmx_keys);
        let mut seen = Observation::default();
        for _ in 0..4 {
            let asked: Vec<Probe> =
                (fact.probes)(&on, &seen).into_iter().filter(|probe| !seen.has(probe)).collect();
            seen.0.extend(asked.into_iter().map(|probe| (probe.clone(), self.answer(&probe))));
        }
        (fact.parse)(&on, &seen)
    }

    /// What nobody asked for is a slip of the pen.
    pub fn all_asked(&self) -> Result<(), Wrong> {
        let idle = self.said.iter().find(|(_, said)| !said.asked.get());
        idle.map_or(Ok(()), |(look, said)| {
            Err(wrong(&self.file, said.line, format!("nobody asks for `{look}`")))
        })
    }
}
