//! Plain columns: no borders, so that `awk` and eyes both read them.

use comfy_table::{Cell, ContentArrangement, Table};

/// Header and rows, left-aligned, two blanks apart, no trailing blanks.
pub(super) fn format_table(header: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.iter().map(Cell::new));
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}
