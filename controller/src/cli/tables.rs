//! `--tables DIR` and `vsgpu compat --list-tables`: rows of the operator over the built-in tables.

use crate::error::Error;
use crate::fleet::DriverCatalogue;
use crate::fleet::own_tables::own_tables;
use crate::render::{Answer, columns};
use clap::Args;
use serde_json::json;
use std::path::PathBuf;
use vsgpu_core::knowledge::own_rows::{Layer, installed};
use vsgpu_core::knowledge::tables::TABLES;

/// Rows of the operator.
#[derive(Args, Default)]
pub(super) struct Tables {
    /// Your own rows over our tables (GPUs, releases ..)
    #[arg(long = "tables", value_name = "DIR", display_order = 990)]
    folder: Option<PathBuf>,
}

impl Tables {
    /// Before any table is read.
    pub(super) fn lay(&self) -> Result<(), Vec<Error>> {
        self.folder.as_deref().map_or(Ok(()), own_tables)
    }
}

/// Every table, and what lies over it.
pub(super) fn list() -> Answer {
    let (folder, layers) = installed().map_or((None, Default::default()), |(f, layers)| (Some(f), layers));
    let of = |name: &str| layers.get(name).copied().unwrap_or_default();
    let yours = |Layer { added, replaced }: Layer| match (added, replaced) {
        (0, 0) => "-".to_string(),
        (added, 0) => format!("{added} new"),
        (0, replaced) => format!("{replaced} changed"),
        (added, replaced) => format!("{added} new, {replaced} changed"),
    };
    let mut rows =
        vec![vec!["TABLE".to_string(), "ROWS".into(), "DATE".into(), "YOURS".into(), "WHAT".into()]];
    rows.extend(TABLES.iter().map(|table| {
        let ours = table.built_in().count();
        vec![
            table.name().into(),
            ours.to_string(),
            table.date.into(),
            yours(of(table.file)),
            table.about.into(),
        ]
    }));
    if folder.is_none() {
        rows.iter_mut().for_each(|row| drop(row.remove(3)));
    }
    let behind = match folder {
        Some(folder) => format!("your rows: {folder}"),
        None => "Your own rows: `--tables DIR`, or `tables: DIR` in the fleet file.".into(),
    };
    let table = |table: &vsgpu_core::knowledge::tables::Table| {
        let own = of(table.file);
        json!({
            "name": table.name(), "about": table.about, "rows": table.built_in().count(), "date": table.date,
            "key": table.key, "columns": table.columns(), "published": table.published,
            "own": { "new": own.added, "changed": own.replaced },
        })
    };
    let answer = json!({ "folder": folder, "tables": TABLES.iter().map(table).collect::<Vec<_>>() });
    let names = TABLES.iter().map(|table| table.name().to_string()).collect();
    let text = format!(
        "{}\n\n{behind}\nColumns, and where NVIDIA publishes them: packaging/docs/tables.md",
        columns(&rows).trim_end()
    );
    Answer { names, ..Answer::new(answer, text) }
}

/// The driver catalogue as one more layer.
pub(super) fn with_catalogue(answer: Answer, catalogue: Option<&PathBuf>) -> Result<Answer, Vec<Error>> {
    let Some(path) = catalogue else { return Ok(answer) };
    let read = DriverCatalogue::read(path).map_err(|e| vec![e])?;
    let said = format!("{}\nOver them, for driver pairs: {}", answer.text, read.file);
    Ok(Answer { text: said, ..answer })
}
