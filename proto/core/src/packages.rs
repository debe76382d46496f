//! What is checked is what is installed. A package lies on the machine for minutes before its turn comes, on
//! storage that others may write to as well; and what it is was said by somebody over the wire. So right
//! before the commands that use it, it is taken aside (`System::stage`), read there, compared with what the
//! plan was made for, and the commands are given that very file.

use crate::artifact::Artifact;
use crate::catalogue::Entry;
use crate::effect::{Command, Effect, InVcenter};
use crate::machine::Machine;
use crate::outcome::Outcome;
use crate::system::{Incoming, IoError, OpenedBy, Output, Staged, System, UploadError};
use crate::text::sentence;
use serde_json::Value;
use std::time::Duration;

/// Packages that were taken aside, until they are dropped.
pub(crate) struct Packages<'a> {
    system: &'a dyn System,
    /// Path in the plan, path of the file that was read.
    aside: Vec<(String, String)>,
}

impl<'a> Packages<'a> {
    /// Takes aside and compares every package of a spec that the effects use. Also gives the spec with what
    /// the packages say of themselves.
    pub(crate) fn take(
        system: &'a dyn System,
        entry: &Entry,
        spec: &Value,
        effects: &[Effect],
    ) -> Result<(Self, Value), Outcome> {
        let mut taken = Self { system, aside: vec![] };
        let written = serde_json::to_string(effects).unwrap_or_default();
        // As it stands inside a JSON text.
        let used = |path: &str| {
            serde_json::to_string(path).is_ok_and(|quoted| written.contains(quoted.trim_matches('"')))
        };
        let mut spec = spec.clone();
        for placed in (entry.files)(&spec) {
            let name = sentence(placed.artifact.file_name());
            placed.check().map_err(|why| Outcome::failed(format!("{name}: {why}")))?;
            let path = placed.stored();
            // A license token that came with the image is not sent, and restarting the daemon does not need
            // it.
            if !used(&path) {
                continue;
            }
            if taken.aside.iter().any(|(known, _)| *known == path) {
                continue;
            }
            let staged = system.stage(&path, placed.artifact.sha256.as_deref().unwrap_or_default()).map_err(
                |why| match why {
                    IoError::NotFound(_) => {
                        blocked(format!("{path} is not there: it was sent and is gone, or was never sent"))
                    }
                    why => Outcome::failed(why.to_string()),
                },
            )?;
            taken.aside.push((path.clone(), staged.instead.clone()));
            let truth = compared(&placed.artifact, &path, staged)?;
            let known = (entry.with_artifacts)(&spec, &mut |artifact| {
                (*artifact == placed.artifact).then(|| truth.clone())
            });
            spec = known.unwrap_or(spec);
        }
        Ok((taken, spec))
    }

    fn instead(&self, path: &str) -> String {
        let found = self.aside.iter().find(|(of_plan, _)| of_plan == path);
        found.map_or(path, |(_, instead)| instead).into()
    }

    /// A word of a command line: the path itself, or `--option=PATH`.
    fn word(&self, word: &str) -> String {
        match word.split_once("=/") {
            Some((option, rest)) if option.starts_with('-') => {
                format!("{option}={}", self.instead(&format!("/{rest}")))
            }
            _ => self.instead(word),
        }
    }
}

impl Drop for Packages<'_> {
    fn drop(&mut self) {
        for (path, instead) in self.aside.iter().filter(|(path, instead)| path != instead) {
            self.system.unstage(path, instead);
        }
    }
}

fn blocked(why: String) -> Outcome {
    let hint = "find out who writes to that folder or datastore; then `vsgpu apply` sends the file again";
    Outcome::Blocked { why: format!("{why}; nothing was done"), hint: hint.into() }
}

/// The artifact as the file itself says, or why it is not the one that the plan was made for.
fn compared(stated: &Artifact, path: &str, staged: Staged) -> Result<Artifact, Outcome> {
    let sha256 = stated.sha256.clone().unwrap_or_default();
    if !staged.sha256.eq_ignore_ascii_case(&sha256) {
        let short = |sum: &str| sum.chars().take(12).collect::<String>();
        let (is, said) = (short(&staged.sha256), short(&sha256));
        return Err(blocked(format!(
            "{path} was changed after it was sent: its SHA-256 is {is}.., the plan says {said}.."
        )));
    }
    let (kind, holds) = staged.found.map_err(|why| blocked(format!("{path}: {}", sentence(&why))))?;
    let lies = stated.kind.is_some_and(|k| k != kind) || (!stated.holds.is_empty() && stated.holds != holds);
    if lies {
        let words = |kind: Option<_>, holds: &[_]| sentence(&serde_json::json!([kind, holds]).to_string());
        let (is, said) = (words(Some(kind), &holds), words(stated.kind, &stated.holds));
        let why = format!("controller and agent read {path} differently: {said}, {is}; nothing was done");
        return Err(Outcome::Blocked {
            why,
            hint: "compare `vsgpu --version` of both sides; upgrade the agent".into(),
        });
    }
    Ok(Artifact { kind: Some(kind), holds, size: Some(staged.size), ..stated.clone() })
}

/// The same machine, on which the paths of the plan lead to the files that were read.
impl System for Packages<'_> {
    fn run(&self, command: &Command) -> Output {
        let program = self.instead(&command.program);
        let args = command.args.iter().map(|arg| self.word(arg)).collect();
        self.system.run(&Command { program, args, ..command.clone() })
    }
    fn orphan(&self) -> Option<String> {
        self.system.orphan()
    }
    fn size(&self, path: &str) -> Result<Option<u64>, IoError> {
        self.system.size(&self.instead(path))
    }
    fn is_folder(&self, path: &str) -> Result<bool, IoError> {
        self.system.is_folder(path)
    }
    fn upload(&self, file: &Incoming, next: &mut dyn FnMut() -> Option<Vec<u8>>) -> Result<(), UploadError> {
        self.system.upload(file, next)
    }
    fn is_real(&self) -> bool {
        self.system.is_real()
    }
    fn is_remote(&self) -> bool {
        self.system.is_remote()
    }
    fn read(&self, path: &str, max: usize) -> Result<Vec<u8>, IoError> {
        self.system.read(&self.instead(path), max)
    }
    fn tail(&self, path: &str, max: usize) -> Result<Vec<u8>, IoError> {
        self.system.tail(&self.instead(path), max)
    }
    fn head(&self, path: &str, max: usize) -> Result<Vec<u8>, IoError> {
        self.system.head(&self.instead(path), max)
    }
    fn holders(&self, prefix: &str) -> Result<Vec<OpenedBy>, IoError> {
        self.system.holders(prefix)
    }
    fn hash(&self, path: &str) -> Result<String, IoError> {
        self.system.hash(&self.instead(path))
    }
    fn list(&self, path: &str) -> Result<Vec<String>, IoError> {
        self.system.list(path)
    }
    fn write(&self, path: &str, contents: &[u8], mode: u32) -> Result<(), IoError> {
        self.system.write(path, contents, mode)
    }
    fn copy(&self, from: &str, to: &str, mode: u32) -> Result<(), IoError> {
        self.system.copy(&self.instead(from), to, mode)
    }
    fn remove(&self, path: &str) -> Result<(), IoError> {
        self.system.remove(path)
    }
    fn stage(&self, path: &str, sha256: &str) -> Result<Staged, IoError> {
        self.system.stage(path, sha256)
    }
    fn unstage(&self, path: &str, instead: &str) {
        self.system.unstage(path, instead);
    }
    fn boot_id(&self) -> Result<String, IoError> {
        self.system.boot_id()
    }
    fn machine(&self) -> Result<Machine, IoError> {
        self.system.machine()
    }
    fn by_api(&self, effect: &Effect) -> Option<Result<(), String>> {
        self.system.by_api(effect)
    }
    fn shown(&self, effect: &Effect) -> Option<String> {
        self.system.shown(effect)
    }
    fn told(&self, by: std::thread::ThreadId) -> Vec<String> {
        self.system.told(by)
    }
    fn inventory(&self, what: &InVcenter) -> Result<String, IoError> {
        self.system.inventory(what)
    }
    fn kernel_release(&self) -> String {
        self.system.kernel_release()
    }
    fn now(&self) -> u64 {
        self.system.now()
    }
    fn elapsed(&self) -> Duration {
        self.system.elapsed()
    }
    fn sleep(&self, time: Duration) {
        self.system.sleep(time);
    }
    fn probes_at_once(&self) -> usize {
        self.system.probes_at_once()
    }
}
