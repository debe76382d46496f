//! One error type of the program: a kind that picks the exit status, a sentence, a place, causes, hints.

use crate::hold::Hold;
use serde::Serialize;
use std::process::ExitCode;
use vsgpu_core::diagnosis;
use vsgpu_core::text::sentence;

/// What kind of failure; each has one exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A bug of ours, or the operator's machine fails us.
    Internal,
    /// Wrong usage, or a wrong fleet file.
    Usage,
    /// Not as wished (`plan`, `verify`).
    Differs,
    /// A node is unreachable or refuses us.
    Unreachable,
    Failed,
    /// A person must act.
    Blocked,
}

impl Kind {
    /// The code of an error that has no narrower one.
    pub fn code(self) -> &'static str {
        match self {
            Self::Internal => "internal",
            Self::Usage => "usage",
            Self::Differs => "differs",
            Self::Unreachable => "unreachable",
            Self::Failed => "failed",
            Self::Blocked => "blocked",
        }
    }

    /// The exit status.
    pub fn status(self) -> u8 {
        match self {
            Self::Internal => 1,
            Self::Usage => 2,
            Self::Differs => 3,
            Self::Unreachable => 4,
            Self::Failed => 5,
            Self::Blocked => 6,
        }
    }
}

/// How a verb ended, as the exit status says it. Documented in `packaging/docs/operations.md`; scripts rely
/// on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done, or nothing to do.
    Done,
    /// See `Kind`.
    Not(Kind),
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::Not(kind) => kind.status(),
        })
    }
}

/// A place in a file.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Place {
    /// The file as the operator named it.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1.
    pub column: usize,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// A failure, ready to be rendered: its texts are sentences, whatever a node or a file put into them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// Picks the exit status.
    pub kind: Kind,
    /// Names the page of `vsgpu explain`. Scripts rely on it.
    pub code: &'static str,
    /// One lower-case sentence that names the thing.
    pub message: String,
    /// The machine that it is about, as the message begins: what several share is shown once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machine: Option<String>,
    /// Where in a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place: Option<Place>,
    /// Further lines: allowed values, causes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<String>,
    /// Something to do next.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hints: Vec<String>,
    /// Why the node is held, where a step of a run says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold: Option<Hold>,
}

impl Error {
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            code: kind.code(),
            message: sentence(&message.into()),
            machine: None,
            place: None,
            details: vec![],
            hints: vec![],
            hold: None,
        }
    }

    /// About one machine, by its name or by name and address: the message begins with it.
    pub fn with(mut self, machine: &str) -> Self {
        let machine = sentence(machine);
        if !machine.is_empty() {
            self.message = format!("{machine}: {}", self.message);
            self.machine = Some(machine);
        }
        self
    }

    /// The message without its machine.
    pub fn cause(&self) -> &str {
        let own = self
            .machine
            .as_ref()
            .and_then(|machine| self.message.strip_prefix(machine.as_str())?.strip_prefix(": "));
        own.unwrap_or(&self.message)
    }

    /// With a code that says more than its kind.
    pub fn code(mut self, code: &'static str) -> Self {
        self.code = code;
        self
    }

    /// With something to do. One of a known cause names its page, as agents have it: that is the error's own then.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        let hint: String = hint.into();
        match diagnosis::split_page(&hint) {
            Some((todo, id)) if self.code == self.kind.code() => {
                self.code = id;
                self.hints.push(sentence(todo));
            }
            _ => self.hints.push(sentence(&hint)),
        }
        self
    }

    /// With a further line.
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.details.push(sentence(&detail.into()));
        self
    }

    /// With the reason for which the node is held.
    pub fn held(mut self, hold: Hold) -> Self {
        (self.hold, self.code) = (Some(hold), hold.word());
        self
    }

    pub fn at(mut self, place: Place) -> Self {
        self.place = Some(place);
        self
    }
}

impl From<vsgpu_wire::pki::PkiError> for Error {
    fn from(error: vsgpu_wire::pki::PkiError) -> Self {
        use vsgpu_wire::pki::PkiError;
        let text = error.to_string();
        let error = match error {
            PkiError::Exists(_) => {
                Self::new(Kind::Usage, text).hint("use another folder, or keep the CA you have")
            }
            PkiError::File { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                Self::new(Kind::Usage, text)
                    .hint("is this the right folder? `--pki DIR` names the one with your CA; only for a new fleet: `vsgpu ca init`")
            }
            PkiError::File { source, .. } if source.kind() == std::io::ErrorKind::AlreadyExists => {
                Self::new(Kind::Usage, text)
                    .hint("remove the old certificate's folder first if it is to be replaced")
            }
            PkiError::File { ref path, ref source }
                if source.kind() == std::io::ErrorKind::PermissionDenied =>
            {
                Self::new(Kind::Usage, text).hint(crate::rights::hint(path))
            }
            PkiError::File { .. } | PkiError::Content { .. } => Self::new(Kind::Usage, text),
        };
        error.code("certificates")
    }
}

impl From<vsgpu_wire::client::CallError> for Error {
    fn from(error: vsgpu_wire::client::CallError) -> Self {
        use vsgpu_wire::client::CallError;
        let text = error.to_string();
        match error {
            CallError::Unreachable(what) => {
                let hint = if what.hint.is_empty() { Hold::Unreachable.advice() } else { &what.hint };
                Self::new(Kind::Unreachable, what.why).held(Hold::Unreachable).hint(hint).with(&what.who)
            }
            CallError::Refused(what) => {
                Self::new(Kind::Unreachable, what.why).code("refused").hint(what.hint).with(&what.who)
            }
            CallError::Unknown(_) => {
                Self::new(Kind::Unreachable, text).code("other-version").hint("controller and agents should be of one version")
            }
            CallError::Held(_) => Self::new(Kind::Blocked, text)
                .held(Hold::TakenOver)
                .hint("wait until that controller is done (its lease ends by itself when it dies), then `vsgpu apply`"),
            CallError::Overtaken(_) => Self::new(Kind::Blocked, text)
                .held(Hold::TakenOver)
                .hint("this run changed nothing there since; look at the node anew: `vsgpu plan`"),
            CallError::LeaseLost(_) | CallError::Failed(_) => Self::new(Kind::Failed, text),
        }
    }
}
