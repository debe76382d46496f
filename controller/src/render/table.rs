//! Tables: aligned columns without lines.

use vsgpu_core::text::piece;

/// Characters of one cell. Longer ones are whole in `-o json`: laying out a cell of megabytes takes minutes.
const CELL: usize = 8_000;

/// Rows with aligned columns, without lines: readable in a log and easy to cut.
pub(crate) fn columns(rows: &[Vec<String>]) -> String {
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::NOTHING);
    for row in rows {
        table.add_row(row.iter().map(|cell| piece(cell, CELL)));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().map(|line| line.trim_end().to_string()).collect::<Vec<_>>().join("\n")
}
