//! Plain columns: no borders, so that `awk` and eyes both read them.

use comfy_table::{Cell, ContentArrangement, Table};

use crate::model::terminal_text::clean_line;

/// Header and rows, left-aligned, two blanks apart, no trailing blanks. Each cell is one line without colours.
pub(super) fn format_table(header: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.iter().map(Cell::new));
    for row in rows {
        table.add_row(row.iter().map(|cell| clean_line(cell).into_owned()));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cell_is_one_line_without_colors() {
        let cell = "a\nfake\u{1b}[31m".to_owned();
        assert_eq!(
            format_table(&["A", "B"], vec![vec![cell, "b".into()]]),
            "A                 B\na fake\\u{1b}[31m  b\n"
        );
    }
}
