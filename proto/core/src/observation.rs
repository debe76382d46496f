//! What probes answered, and the ways to read it: a fact's `parse` gets its words from here and nowhere else.

use crate::effect::{Command, Probe};
use crate::system::{ExitKind, IoError, Output};
use crate::text::{piece, sentence};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One probe's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Of `Probe::Run`.
    Ran(Output),
    /// Of every other probe: text, one name per line for `List`.
    Text(Result<String, IoError>),
}

/// All answers of one observation.
#[derive(Clone, Debug, Default)]
pub struct Observation(pub BTreeMap<Probe, Answer>);

/// Why a fact could not be read: what was run, how it ended, and the first lines of what it said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}{}", self.place())]
pub struct Unreadable {
    /// One sentence.
    pub message: String,
    /// The command or file looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// First lines of standard output.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub stdout: String,
    /// First lines of standard error.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub stderr: String,
}

impl Unreadable {
    /// Only a sentence.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            command: None,
            status: None,
            stdout: String::new(),
            stderr: String::new(),
        }
    }

    /// A command's answer that cannot be used.
    pub fn of(command: &Command, output: &Output, message: impl Into<String>) -> Self {
        let message = message.into();
        // The API's own reason is said once.
        let said = matches!(&output.ended, ExitKind::ByApi(why) if message.contains(why.as_str()));
        Self {
            message,
            command: Some(command.to_string()),
            status: (!said).then(|| output.ended.to_string()),
            stdout: head(&output.stdout),
            stderr: head(&output.stderr),
        }
    }

    /// The same with every text fit for people; of the streams their lines stay.
    #[must_use]
    pub fn for_people(self) -> Self {
        let lines = |stream: String| {
            stream.lines().take(8).map(|line| piece(line, 200)).collect::<Vec<_>>().join("\n")
        };
        let sentence_of = |text: Option<String>| text.map(|text| sentence(&text));
        Self {
            message: sentence(&self.message),
            command: sentence_of(self.command),
            status: sentence_of(self.status),
            stdout: lines(self.stdout),
            stderr: lines(self.stderr),
        }
    }

    fn place(&self) -> String {
        let mut text = match (&self.command, &self.status) {
            (Some(command), Some(status)) => format!(": `{command}`: {status}"),
            (Some(command), None) => format!(": {command}"),
            _ => String::new(),
        };
        for stream in [&self.stdout, &self.stderr] {
            if let Some(line) = stream.lines().map(str::trim).find(|l| !l.is_empty()) {
                text += &format!(": {line}");
            }
        }
        text
    }
}

/// The first lines of a stream: at most 8 lines of 200 characters.
pub fn head(text: &str) -> String {
    // First, as a cut address may have lost what tells its password.
    let cut = |line: &str| crate::text::without_passwords(line).chars().take(200).collect::<String>();
    text.lines().filter(|l| !l.trim().is_empty()).take(8).map(cut).collect::<Vec<_>>().join("\n")
}

impl Observation {
    /// What a command answered, however it ended.
    pub fn output(&self, command: &Command) -> Result<&Output, Unreadable> {
        match self.0.get(&Probe::Run(command.clone())) {
            Some(Answer::Ran(output)) => Ok(output),
            _ => Err(Unreadable::new(format!("`{command}` was not run"))),
        }
    }

    /// Standard output of a command that must have succeeded.
    pub fn stdout(&self, command: &Command) -> Result<&str, Unreadable> {
        let output = self.output(command)?;
        match &output.ended {
            _ if output.ok() => Ok(&output.stdout),
            ExitKind::ByApi(why) => Err(Unreadable::of(command, output, why)),
            _ => Err(Unreadable::of(command, output, "command failed")),
        }
    }

    /// Standard output of a command, or `None` where it failed or was not run: for tools that may be absent.
    pub fn stdout_if_ok(&self, command: &Command) -> Option<&str> {
        self.output(command).ok().filter(|o| o.ok()).map(|o| o.stdout.as_str())
    }

    /// Text answered by a probe that is not a command; `None` where the file is absent.
    pub fn text(&self, probe: &Probe) -> Result<Option<&str>, Unreadable> {
        match self.0.get(probe) {
            Some(Answer::Text(Ok(text))) => Ok(Some(text)),
            Some(Answer::Text(Err(IoError::NotFound(_)))) => Ok(None),
            Some(Answer::Text(Err(trouble))) => Err(Unreadable::new(trouble.to_string())),
            _ => Err(Unreadable::new(format!("{probe:?} was not looked at"))),
        }
    }

    /// Whether a probe has been answered.
    pub fn has(&self, probe: &Probe) -> bool {
        self.0.contains_key(probe)
    }

    /// Content of a file; `None` where absent.
    pub fn file(&self, path: &str) -> Result<Option<&str>, Unreadable> {
        self.text(&Probe::Read(path.into()))
    }

    /// The machine itself.
    ///
    /// # Errors
    /// Where it was not asked, or the door cannot tell.
    pub fn machine(&self) -> Result<crate::machine::Machine, Unreadable> {
        let text = self.text(&Probe::Machine)?.unwrap_or_default();
        serde_json::from_str(text).map_err(|e| Unreadable::new(format!("the machine cannot be read: {e}")))
    }

    /// Names in a folder; empty where absent.
    pub fn names(&self, path: &str) -> Result<Vec<&str>, Unreadable> {
        Ok(self.text(&Probe::List(path.into()))?.map(|t| t.lines().collect()).unwrap_or_default())
    }
}
