//! The only code that prints. stdout carries the answer, stderr the talk; nothing needs colour to be read.
#![expect(clippy::print_stderr, reason = "this is where printing happens")]

mod health;
pub mod plan;
pub mod progress;
pub mod readiness;
pub mod report;
pub mod status;

use crate::constraints::{self, Finding};
use crate::error::Error;
use clap::ValueEnum;
use serde_json::{Value, json};
use std::io::{BufRead as _, IsTerminal as _, Write as _};

/// Output format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    #[value(alias = "table")]
    Text,
    /// The same values as one JSON document; errors too
    Json,
}

/// Prints in one format.
pub struct Printer {
    format: Format,
}

impl Printer {
    /// For a format.
    pub fn new(format: Format) -> Self {
        Self { format }
    }

    /// The answer, on stdout. A closed pipe (`| head`) is no error.
    pub fn answer(&self, json: &Value, text: &str) {
        let text = match self.format {
            Format::Text => text.to_string(),
            Format::Json => serde_json::to_string_pretty(json).unwrap_or_default(),
        };
        let _ = writeln!(std::io::stdout(), "{text}");
    }

    /// Begins a screen anew, where there is a screen.
    pub fn redraw(&self) {
        if self.format == Format::Text && std::io::stdout().is_terminal() {
            let _ = write!(std::io::stdout(), "\x1b[H\x1b[2J");
        }
    }

    /// A remark, on stderr.
    pub fn note(&self, text: &str) {
        eprintln!("{text}");
    }

    /// Errors, on stderr: a sentence, the place, details, then a hint with something to type.
    pub fn errors(&self, errors: &[Error]) {
        if self.format == Format::Json {
            if !errors.is_empty() {
                eprintln!("{}", serde_json::to_string_pretty(&json!({ "errors": errors })).unwrap_or_default());
            }
            return;
        }
        for (at, error) in errors.iter().enumerate() {
            if at > 0 {
                eprintln!();
            }
            eprint!("{}", rendered(error));
        }
    }

    /// What may go wrong, on stderr; JSON carries it in the answer.
    pub fn warnings(&self, warnings: &[Finding]) {
        for finding in warnings.iter().filter(|_| self.format == Format::Text) {
            eprintln!("{}\n", constraints::warning(finding));
        }
    }

    /// Asks a person at a terminal; a script is not asked. `None`: a person is there, but cannot see the question.
    pub fn confirm(&self, plan: &str) -> Option<bool> {
        match (std::io::stdin().is_terminal(), std::io::stderr().is_terminal()) {
            (false, _) => return Some(true),
            (true, false) => return None,
            (true, true) => {}
        }
        eprint!("{plan}\n\ngo on? [y/N] ");
        let mut line = String::new();
        let _ = std::io::stdin().lock().read_line(&mut line);
        Some(matches!(line.trim(), "y" | "Y" | "yes"))
    }

    /// Whether progress may redraw lines.
    pub(crate) fn live(&self) -> bool {
        self.format == Format::Text && std::io::stderr().is_terminal()
    }

    /// The format.
    pub(crate) fn format(&self) -> Format {
        self.format
    }
}

/// One error as it is shown.
pub fn rendered(error: &Error) -> String {
    let mut text = format!("error: {}\n", error.message);
    if let Some(place) = &error.place {
        text += &format!("  {place}\n");
    }
    for detail in &error.details {
        text += &format!("  {detail}\n");
    }
    if !error.hints.is_empty() {
        text += "\n";
    }
    for hint in &error.hints {
        text += &format!("hint: {hint}\n");
    }
    text
}

/// Rows with aligned columns, without lines: readable in a log and easy to cut.
pub(crate) fn columns(rows: &[Vec<String>]) -> String {
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::NOTHING);
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().map(|line| line.trim_end().to_string()).collect::<Vec<_>>().join("\n")
}
