//! `vsgpu explain`: the page of an error's code.

use crate::cli::global::CliResult;
use crate::error::{Error, Exit, Kind};
use crate::fleet::range::nearest;
use crate::render::{self, Printer, explain};
use clap::Args;
use serde_json::json;

#[derive(Args)]
#[command(
    after_help = "Examples:\n  vsgpu explain                  all codes and causes\n  vsgpu explain driver-pair      what it means and what to do"
)]
pub(super) struct Explain {
    /// The word in brackets behind `error`
    code: Option<String>,
}

impl Explain {
    pub fn run(self, printer: &Printer) -> CliResult {
        let all = explain::pages();
        let Some(code) = self.code else {
            let first = |text: &str| {
                text.lines().next().unwrap_or_default().split(". ").next().unwrap_or_default().to_string()
            };
            let mut rows: Vec<Vec<String>> =
                all.iter().map(|(code, text)| vec![code.to_string(), first(text)]).collect();
            // What `diagnose` finds stands behind the errors.
            rows.extend(
                explain::causes().map(|(cause, _)| vec![cause.id.to_string(), cause.title.to_string()]),
            );
            let of_causes = explain::causes().map(|(cause, text)| (cause.id, text));
            let pages: serde_json::Map<_, _> = all
                .iter()
                .cloned()
                .chain(of_causes)
                .map(|(code, text)| (code.to_string(), json!(text)))
                .collect();
            let names = pages.keys().cloned().collect();
            printer
                .show(render::Answer { names, ..render::Answer::new(pages.into(), render::columns(&rows)) });
            return Ok(Exit::Done);
        };
        // As it is copied from a screen.
        let code = code.strip_prefix("error[").and_then(|c| c.strip_suffix(']')).unwrap_or(&code).to_string();
        match explain::page(&code) {
            Some(text) => {
                printer.answer(&json!({ "code": code, "text": text }), &format!("{code}\n\n{text}"));
                Ok(Exit::Done)
            }
            None => {
                let error = Error::new(Kind::Usage, format!("no error has the code `{code}`"));
                Err(vec![match nearest(
                    &code,
                    all.iter().map(|(code, _)| *code).chain(explain::causes().map(|(cause, _)| cause.id)),
                ) {
                    Some(near) => error.hint(format!("did you mean `{near}`?")),
                    None => error.hint("`vsgpu explain` lists all of them"),
                }])
            }
        }
    }
}
