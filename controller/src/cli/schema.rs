//! `vsgpu schema`: JSON Schema of the fleet file, for editors.

use crate::cli::global::CliResult;
use crate::error::Exit;
use crate::render::{Answer, Printer};

pub(super) fn run(printer: &Printer) -> CliResult {
    let schema = crate::fleet::schema::schema();
    let names = schema["properties"].as_object().into_iter().flat_map(|keys| keys.keys().cloned()).collect();
    let text = serde_json::to_string_pretty(&schema).unwrap_or_default();
    printer.show(Answer { names, ..Answer::new(schema, text) });
    Ok(Exit::Done)
}
