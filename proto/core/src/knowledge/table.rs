//! Rows of a table, with those of the operator over them.

use crate::knowledge::tables::{TABLES, Table, of_file};
use crate::knowledge::{Basis, own_rows};
use std::collections::HashMap;
use std::sync::LazyLock;

/// One row, its cells found by the heading's names.
pub(super) struct Row {
    columns: &'static [&'static str],
    cells: Vec<&'static str>,
    /// File and line, of a row of the operator.
    own: Option<&'static str>,
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
        let source = match self.own {
            Some(place) => format!("your {place}: {}", self.get("source")),
            None => self.get("source").into(),
        };
        Basis { table, row: row.into(), confirmed: self.get("status").starts_with("confirmed"), source }
    }
}

/// All rows of the table of that file: an operator's row in the place of the one with the same key, the others
/// of them behind.
pub(super) fn rows(file: &str) -> impl Iterator<Item = Row> + use<> {
    type Of = HashMap<&'static str, &'static [&'static str]>;
    static COLUMNS: LazyLock<Of> =
        LazyLock::new(|| TABLES.iter().map(|t| (t.file, &*t.columns().leak())).collect());
    own_rows::too_late_from_now();
    let table = of_file(file);
    debug_assert!(table.is_some(), "{file} is no table");
    let columns = COLUMNS.get(file).copied().unwrap_or_default();
    let own = own_rows::of(file);
    let replaced = |cells: &[&'static str]| {
        let key = table.map(|table| table.key_of(cells)).filter(|_| !own.is_empty())?;
        own.iter().find(|row| row.replaces && row.key == key)
    };
    let mut all = vec![];
    for cells in table.into_iter().flat_map(Table::built_in) {
        all.push(match replaced(&cells) {
            Some(row) => Row { columns, cells: row.over(&cells), own: Some(row.place) },
            None => Row { columns, cells, own: None },
        });
    }
    let added = own.iter().filter(|row| !row.replaces);
    all.extend(added.map(|row| Row { columns, cells: row.over(&[]), own: Some(row.place) }));
    all.into_iter()
}
