//! `vsgpu config`: which fleet counts and why; named contexts.

use crate::cli::context::{Config as File, Context, Environment, choose};
use crate::cli::global::{CliResult, GlobalArgs};
use crate::error::{Error, Exit, Kind};
use crate::render::{Answer, Printer, columns};
use clap::{Args, Subcommand};
use serde_json::json;
use std::path::PathBuf;

#[derive(Args)]
#[command(
    after_help = "Examples:\n  vsgpu config                           what counts, and why\n  vsgpu config add prod ~/gpu/fleet.yaml\n  vsgpu config use prod\n  vsgpu --context lab plan\n\nWhat counts more: FLEET and --pki, --context, VSGPU_FLEET and VSGPU_PKI, VSGPU_CONTEXT,\n./fleet.yaml, the current context."
)]
pub(super) struct Config {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Subcommand)]
enum Verb {
    /// Name a fleet file
    Add {
        /// Name of the context
        name: String,
        /// Fleet file
        fleet: PathBuf,
        /// Folder of certificates [default: what the fleet file says]
        #[arg(long, value_name = "DIR")]
        pki: Option<PathBuf>,
    },
    /// Make a context the current one
    Use {
        /// Name of the context
        name: String,
    },
    /// Forget a context; the fleet file stays
    Remove {
        /// Name of the context
        name: String,
    },
}

impl Config {
    pub fn run(self, printer: &Printer, chosen: &GlobalArgs) -> CliResult {
        let one = |e: Error| vec![e];
        let around = Environment::here();
        let mut file = File::read(&around.file).map_err(one)?;
        let absolute = |path: PathBuf| {
            std::path::absolute(&path)
                .map_err(|e| vec![Error::new(Kind::Usage, format!("{}: {e}", path.display()))])
        };
        let said = match self.verb {
            None => return Self::show(printer, chosen, &around, &file),
            Some(Verb::Add { name, fleet, pki }) => {
                if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) {
                    return Err(vec![Error::new(
                        Kind::Usage,
                        format!("`{name}`: a context's name has letters, digits, `-`, `_` and `.`"),
                    )]);
                }
                let fleet = absolute(fleet)?;
                crate::files::open(&fleet).map_err(one)?;
                if let Some(known) = file.contexts.get(&name) {
                    let error = Error::new(
                        Kind::Usage,
                        format!("context {name} is there already: {}", known.fleet.display()),
                    )
                    .code("config");
                    return Err(vec![error.hint(format!("`vsgpu config remove {name}` first"))]);
                }
                file.contexts.insert(name.clone(), Context { fleet, pki: pki.map(absolute).transpose()? });
                file.current.get_or_insert_with(|| name.clone());
                format!("context {name} added")
            }
            Some(Verb::Use { name }) => {
                file.find(&name).map_err(one)?;
                file.current = Some(name.clone());
                format!("{name} is the current context")
            }
            Some(Verb::Remove { name }) => {
                file.find(&name).map_err(one)?;
                file.contexts.remove(&name);
                file.current = file.current.filter(|current| *current != name);
                format!("context {name} removed")
            }
        };
        file.write(&around.file).map_err(one)?;
        printer.answer(&json!(file), &said);
        Ok(Exit::Done)
    }

    fn show(printer: &Printer, chosen: &GlobalArgs, around: &Environment, file: &File) -> CliResult {
        let choice = choose(None, None, chosen.context.as_deref(), around, &|| Ok(file.clone()))
            .map_err(|e| vec![e])?;
        let mut rows =
            vec![vec!["fleet".into(), choice.fleet.value.display().to_string(), choice.fleet.from.clone()]];
        rows.push(match &choice.pki {
            Some(pki) => vec!["pki".into(), pki.value.display().to_string(), pki.from.clone()],
            None => {
                vec!["pki".into(), "`pki:` of the fleet file, or `pki` beside it".into(), "default".into()]
            }
        });
        rows.push(vec![
            "contexts".into(),
            around.file.display().to_string(),
            if around.file.exists() { "file" } else { "no such file yet" }.into(),
        ]);
        let mut text = columns(&rows);
        for (name, context) in &file.contexts {
            let mark = if file.current.as_ref() == Some(name) { "*" } else { " " };
            let pki = context.pki.as_ref().map(|p| format!("  (pki {})", p.display())).unwrap_or_default();
            text += &format!("\n{mark} {name}  {}{pki}", context.fleet.display());
        }
        let names = file.contexts.keys().cloned().collect();
        let json = json!({ "fleet": choice.fleet, "pki": choice.pki, "file": around.file, "current": file.current, "contexts": file.contexts });
        printer.show(Answer { names, ..Answer::new(json, text) });
        Ok(Exit::Done)
    }
}
