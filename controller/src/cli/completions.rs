//! `vsgpu completions` and `vsgpu man`: what a shell and a manual need, made from the command line itself.

use crate::cli::global::CliResult;
use crate::error::{Error, Exit, Kind};
use crate::render::Printer;
use clap::{Args, ValueEnum};
use serde_json::json;

/// Shells whose completions are tried.
#[derive(Clone, Copy, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

#[derive(Args)]
#[command(after_help = "Example:\n  source <(vsgpu completions bash)")]
pub(super) struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    pub fn run(self, mut verbs: clap::Command, printer: &Printer) -> CliResult {
        let shell = match self.shell {
            Shell::Bash => clap_complete::Shell::Bash,
            Shell::Zsh => clap_complete::Shell::Zsh,
            Shell::Fish => clap_complete::Shell::Fish,
        };
        let mut text = vec![];
        clap_complete::generate(shell, &mut verbs, "vsgpu", &mut text);
        let text = String::from_utf8_lossy(&text).into_owned();
        printer.file(&json!({ "script": text }), text.trim_end());
        Ok(Exit::Done)
    }
}

#[derive(Args)]
#[command(after_help = "Example:\n  vsgpu man plan | man -l -")]
pub(super) struct Man {
    /// A verb; the page of vsgpu itself where none is named
    verb: Option<String>,
}

impl Man {
    pub fn run(self, mut command: clap::Command, printer: &Printer) -> CliResult {
        command.build();
        let page = match &self.verb {
            None => command,
            Some(verb) => {
                let Some(found) = command.find_subcommand(verb) else {
                    let names = command.get_subcommands().map(clap::Command::get_name);
                    let error = Error::new(Kind::Usage, format!("there is no verb `{verb}`"));
                    return Err(vec![match vsgpu_core::suggest::nearest(verb, names) {
                        Some(near) => error.hint(format!("did you mean `{near}`?")),
                        None => error.hint("`vsgpu --help` lists them"),
                    }]);
                };
                // A name is static in clap; this one lives as long as the program.
                let name: &'static str = Box::leak(format!("vsgpu-{verb}").into_boxed_str());
                found.clone().name(name)
            }
        };
        let mut text = vec![];
        clap_mangen::Man::new(page)
            .render(&mut text)
            .map_err(|e| vec![Error::new(Kind::Internal, e.to_string())])?;
        let text = String::from_utf8_lossy(&text).into_owned();
        printer.file(&json!({ "page": text }), text.trim_end());
        Ok(Exit::Done)
    }
}
