//! `vsgpu schema`: JSON Schema of the fleet file, for editors; or of what a verb prints with `-o json`, for programs.

use crate::cli::global::CliResult;
use crate::error::{Error, Exit, Kind};
use crate::render::documents::schemas;
use crate::render::{Answer, Printer};
use clap::Args;

#[derive(Args)]
#[command(
    after_help = "Examples:\n  vsgpu schema > fleet.schema.json\n  vsgpu schema fit        what `vsgpu fit -o json` prints\n\nAn editor with the YAML language server completes and checks a fleet file that begins with\n  # yaml-language-server: $schema=fleet.schema.json"
)]
pub(super) struct Schema {
    /// fleet (default), advise, fit, diagnose, ready, upgrade, pool-status ..
    #[arg(value_name = "NAME", default_value = "fleet", hide_default_value = true)]
    name: String,
}

impl Schema {
    pub fn run(self, printer: &Printer) -> CliResult {
        let mut known = schemas();
        known.insert("fleet", crate::fleet::schema::schema());
        let Some(schema) = known.remove(self.name.as_str()) else {
            let names: Vec<&str> = known.keys().copied().collect();
            let error = Error::new(Kind::Usage, format!("there is no schema `{}`", self.name));
            return Err(vec![error.hint(format!("known: {}", names.join(", ")))]);
        };
        let names =
            schema["properties"].as_object().into_iter().flat_map(|keys| keys.keys().cloned()).collect();
        let text = serde_json::to_string_pretty(&schema).unwrap_or_default();
        printer.show(Answer { names, verbatim: true, ..Answer::new(schema, text) });
        Ok(Exit::Done)
    }
}
