//! The only code that prints. stdout carries the answer, stderr the talk; nothing needs colour to be read.
//!
//! What is printed may hold text of machines. Everything goes through `vsgpu_core::text` on its way out:
//! whole answers and remarks through `visible`, and what stands in a line beside words of ours (cells,
//! errors) through `piece`, so that it cannot begin a line of its own.

use crate::compat::{self, Finding};
use crate::error::{Error, Kind};
use crate::render::words::{broken, fitted};
use crate::render::{colour, failures};
use clap::ValueEnum;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::{BufRead as _, IsTerminal as _, Write as _};
use vsgpu_core::text::visible;

/// Output format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    #[default]
    #[value(alias = "text")]
    Table,
    /// For people with wide terminals: everything, uncut
    Wide,
    /// One JSON document; errors too
    Json,
    /// The same document as YAML
    Yaml,
    /// Names only, one on each line
    Name,
}

impl Format {
    /// Whether a program reads it.
    pub(crate) fn is_document(self) -> bool {
        matches!(self, Self::Json | Self::Yaml)
    }
}

/// What a verb answers.
pub struct Answer {
    pub json: Value,
    pub text: String,
    /// The same with more of it.
    pub wide: Option<String>,
    /// Names of what it is about.
    pub names: Vec<String>,
    /// It is copied, or goes into a file: no line of it is broken.
    pub verbatim: bool,
}

impl Answer {
    pub fn new(json: Value, text: impl Into<String>) -> Self {
        Self { json, text: text.into(), wide: None, names: vec![], verbatim: false }
    }
}

/// Prints in one format.
pub struct Printer {
    format: Format,
    /// An answer could not be written.
    cut: std::cell::Cell<bool>,
    /// Nobody reads answers any more: a closed pipe.
    deaf: std::cell::Cell<bool>,
}

/// Talk, on stderr. That nobody hears it (a closed pipe, a full disk under a log) must not end a run that is
/// under way.
pub(crate) fn say(text: &str) {
    let _ = write!(std::io::stderr(), "{}", visible(text));
}

/// Columns, where it is a terminal.
fn columns(of: &impl std::io::IsTerminal) -> Option<usize> {
    let size = of.is_terminal().then(ratatui::crossterm::terminal::size).and_then(Result::ok);
    // A serial line says that it has none.
    size.filter(|(columns, _)| *columns > 0).map(|(columns, _)| usize::from(columns).max(40))
}

impl Printer {
    pub fn new(format: Format) -> Self {
        Self { format, cut: std::cell::Cell::new(false), deaf: std::cell::Cell::new(false) }
    }

    /// The answer, on stdout. A closed pipe (`| head`) is no error.
    pub fn show(&self, answer: Answer) {
        let text = match self.format {
            // Where nothing can be said, the errors speak.
            Format::Table | Format::Wide if answer.text.is_empty() => return,
            Format::Table => match answer.verbatim {
                true => answer.text,
                false => fitted(&answer.text, columns(&std::io::stdout())).trim_end_matches('\n').into(),
            },
            Format::Wide => answer.wide.unwrap_or(answer.text),
            Format::Name if answer.names.is_empty() => return,
            Format::Name => answer.names.join("\n"),
            Format::Json | Format::Yaml => self.document(&answer.json),
        };
        let painted =
            if self.format.is_document() { visible(&text).into_owned() } else { colour::paint(&text) };
        match writeln!(anstream::stdout(), "{painted}") {
            Err(why) if why.kind() != std::io::ErrorKind::BrokenPipe => {
                self.errors(&[Error::new(Kind::Internal, format!("the answer could not be written: {why}"))]);
                self.cut.set(true);
            }
            Err(_) => self.deaf.set(true),
            Ok(()) => {}
        }
    }

    /// A file that a verb writes to its output.
    pub fn file(&self, json: &Value, text: &str) {
        self.show(Answer { names: vec![text.into()], verbatim: true, ..Answer::new(json.clone(), text) });
    }

    /// The answer of a verb that is not about names.
    pub fn answer(&self, json: &Value, text: &str) {
        self.show(Answer { names: vec![text.into()], ..Answer::new(json.clone(), text) });
    }

    /// Whether an answer could not be written.
    pub fn was_cut(&self) -> bool {
        self.cut.get()
    }

    /// Whether whoever showed answers again and again may stop.
    pub fn is_heard(&self) -> bool {
        !self.cut.get() && !self.deaf.get()
    }

    fn document(&self, json: &Value) -> String {
        match self.format {
            Format::Yaml => crate::fleet::yaml::write(json).trim_end().to_string(),
            _ => serde_json::to_string_pretty(json).unwrap_or_default(),
        }
    }

    /// Begins a screen anew, where there is a screen.
    pub fn redraw(&self) {
        if !self.format.is_document() && std::io::stdout().is_terminal() {
            let _ = write!(std::io::stdout(), "\x1b[H\x1b[2J");
        }
    }

    /// A remark, on stderr.
    pub fn note(&self, text: &str) {
        if !self.format.is_document() {
            let width = columns(&std::io::stderr());
            say(&fitted(&format!("{text}\n"), width));
        } else if !text.trim().is_empty() {
            self.talk(&json!({ "note": text.trim() }));
        }
    }

    /// What is said to programs, on stderr: JSON is one object a line, YAML one document each.
    pub(crate) fn talk(&self, json: &Value) {
        match self.format {
            Format::Yaml => say(&format!("---\n{}\n", self.document(json))),
            _ => say(&format!("{json}\n")),
        }
    }

    /// Errors, on stderr: a sentence, the place, details, then a hint with something to type.
    /// One that several nodes share (a host that is away, and its VMs with it) is said once.
    pub fn errors(&self, errors: &[Error]) {
        if self.format.is_document() {
            let mut said = BTreeSet::new();
            let errors: Vec<&Error> = errors.iter().filter(|e| said.insert(failures::rendered(e))).collect();
            if !errors.is_empty() {
                self.talk(&json!({ "errors": errors }));
            }
            return;
        }
        let width = columns(&std::io::stderr());
        let _ = write!(anstream::stderr(), "{}", colour::paint(&failures::text(errors, width)));
    }

    /// One warning, on stderr; JSON carries it in the answer.
    pub fn warn(&self, text: &str) {
        if !self.format.is_document() {
            let _ = writeln!(anstream::stderr(), "{}", colour::paint(text));
        }
    }

    /// What may go wrong, on stderr; JSON carries it in the answer.
    pub fn warnings(&self, warnings: &[Finding]) {
        for finding in warnings.iter().filter(|_| !self.format.is_document()) {
            let lines = compat::warning(finding);
            let text: String =
                lines.lines().map(|line| broken(line, "  ", columns(&std::io::stderr()))).collect();
            let _ = writeln!(anstream::stderr(), "{}", colour::paint(&text));
        }
    }

    /// Asks a person at a terminal; a script is not asked. `None`: a person is there, but cannot see the
    /// question. `stopped`: no answer is needed any more (Ctrl-C).
    pub fn confirm(&self, plan: &str, question: &str, stopped: &dyn Fn() -> bool) -> Option<bool> {
        if !self.can_ask() {
            return if std::io::stdin().is_terminal() { None } else { Some(true) };
        }
        let _ = write!(anstream::stderr(), "{}\n\n{} [y/N] ", colour::paint(plan), visible(question));
        let stdin = std::io::stdin();
        let typed = || {
            use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
            use std::os::fd::AsFd as _;
            poll(&mut [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)], PollTimeout::from(100u8)) != Ok(0)
        };
        while !typed() {
            if stopped() {
                say("\n");
                return Some(false);
            }
        }
        let mut line = String::new();
        let _ = stdin.lock().read_line(&mut line);
        Some(matches!(line.trim(), "y" | "Y" | "yes"))
    }

    /// Whether there is somebody who sees a question and can answer.
    pub(crate) fn can_ask(&self) -> bool {
        std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
    }

    /// Whether progress may redraw lines.
    pub(crate) fn live(&self) -> bool {
        !self.format.is_document() && std::io::stderr().is_terminal()
    }

    pub(crate) fn format(&self) -> Format {
        self.format
    }
}
