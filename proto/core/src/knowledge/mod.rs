//! What is known about NVIDIA's products, as tables that are part of the program (`proto/core/data/*.tsv`),
//! each row with its status and source. Rows are data for refusing and for computing; what a machine says
//! about itself always wins.

pub mod cuda;
pub mod gpus;
pub mod own_rows;
pub mod pairs;
pub mod peaks;
pub mod performance;
pub mod placement;
pub mod products;
pub mod releases;
mod table;
pub mod tables;
pub mod vgpu_types;
pub mod xids;

use serde::Serialize;

/// When the tables were last brought up to date.
pub const TABLES_OF: &str = "2026-11";

/// What a statement rests on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Basis {
    /// File in `proto/core/data`, or the document.
    pub table: &'static str,
    /// The row, by its first columns.
    pub row: String,
    /// Whether the row is confirmed by its source. What is not is never enough to refuse something.
    pub confirmed: bool,
    /// Where it comes from.
    pub source: String,
}

impl Basis {
    /// A row of the operator.
    pub fn is_own(&self) -> bool {
        self.source.starts_with("your ")
    }

    /// A document instead of a table.
    pub fn document(source: &str, confirmed: bool) -> Self {
        Self { table: "", row: String::new(), confirmed, source: source.into() }
    }
}

impl std::fmt::Display for Basis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let status = if self.confirmed { "confirmed" } else { "uncertain" };
        match self.table {
            "" => write!(f, "{} ({status})", self.source),
            table => write!(f, "{table}, row {} ({status}; {})", self.row, self.source),
        }
    }
}
