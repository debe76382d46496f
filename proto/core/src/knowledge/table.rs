//! A table of tab-separated text with a heading. The tables are part of the program; the tests read every row
//! of them.

use crate::knowledge::Basis;

/// One row, its cells found by the heading's names.
pub(super) struct Row {
    columns: Vec<&'static str>,
    cells: Vec<&'static str>,
}

impl Row {
    /// A cell; empty where the row or the table has none.
    pub(super) fn get(&self, column: &str) -> &'static str {
        self.columns
            .iter()
            .position(|c| *c == column)
            .and_then(|at| self.cells.get(at))
            .copied()
            .unwrap_or_default()
    }

    /// A cell that says nothing is `None`.
    pub(super) fn some(&self, column: &str) -> Option<&'static str> {
        Some(self.get(column)).filter(|cell| !cell.is_empty())
    }

    /// A number.
    pub(super) fn number(&self, column: &str) -> Option<u64> {
        self.get(column).parse().ok()
    }

    /// The basis of a statement that rests on this row.
    pub(super) fn basis(&self, table: &'static str, row: impl Into<String>) -> Basis {
        Basis {
            table,
            row: row.into(),
            confirmed: self.get("status").starts_with("confirmed"),
            source: self.get("source").into(),
        }
    }
}

/// All rows of a table.
pub(super) fn rows(text: &'static str) -> impl Iterator<Item = Row> {
    let mut lines = text.lines();
    let columns: Vec<&'static str> = lines.next().unwrap_or_default().split('\t').collect();
    lines
        .filter(|line| !line.is_empty())
        .map(move |line| Row { columns: columns.clone(), cells: line.split('\t').collect() })
}
