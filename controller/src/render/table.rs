//! Tables: aligned columns without lines.

use vsgpu_core::text::piece;

/// Characters of one cell. Longer ones are whole in `-o json`: laying out a cell of megabytes takes minutes.
const CELL: usize = 8_000;

/// Rows with aligned columns, without lines: readable in a log and easy to cut.
pub(crate) fn columns(rows: &[Vec<String>]) -> String {
    let mut table = comfy_table::Table::new();
    fill(&mut table, rows);
    shown(&mut table)
}

/// The same, with the last column broken at blanks so that lines stay within a width.
pub(crate) fn columns_wrapped(rows: &[Vec<String>], width: usize) -> String {
    let mut table = comfy_table::Table::new();
    table.set_content_arrangement(comfy_table::ContentArrangement::Dynamic);
    // The padding of the last column is cut again.
    table.set_width(u16::try_from(width + 2).unwrap_or(u16::MAX));
    fill(&mut table, rows);
    let last = rows.iter().map(Vec::len).max().unwrap_or_default().saturating_sub(1);
    table.set_constraints(vec![comfy_table::ColumnConstraint::ContentWidth; last]);
    shown(&mut table)
}

fn fill(table: &mut comfy_table::Table, rows: &[Vec<String>]) {
    for row in rows {
        table.add_row(row.iter().map(|cell| piece(cell, CELL)));
    }
}

fn shown(table: &mut comfy_table::Table) -> String {
    table.load_preset(comfy_table::presets::NOTHING);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().map(|line| line.trim_end().to_string()).collect::<Vec<_>>().join("\n")
}
