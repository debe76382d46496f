//! `vsgpu schema`: JSON Schema of the fleet file, for editors.

use super::Ended;
use crate::error::Exit;
use crate::render::Printer;

pub(super) fn run(printer: &Printer) -> Ended {
    let schema = crate::schema::schema();
    printer.answer(&schema, &serde_json::to_string_pretty(&schema).unwrap_or_default());
    Ok(Exit::Done)
}
