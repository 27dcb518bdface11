//! Aligned columns for people. Pure.

/// Blanks between columns, as docker's tables have.
const GAP: usize = 3;

/// `rows` under `header`, each column as wide as its widest cell; ends without a newline.
pub(crate) fn table<const N: usize>(header: [&str; N], rows: &[[String; N]]) -> String {
    table_within(header, rows, usize::MAX, &[])
}

/// As [`table`], without the columns of `least`, the least important one first, as far as `width` is too narrow for them.
pub(crate) fn table_within<const N: usize>(
    header: [&str; N],
    rows: &[[String; N]],
    width: usize,
    least: &[&str],
) -> String {
    let mut widths = header.map(|cell| Some(cell.chars().count()));
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(Some(cell.chars().count()));
        }
    }
    for name in least {
        let shown = widths.iter().flatten();
        if shown.map(|width| width + GAP).sum::<usize>().saturating_sub(GAP) <= width {
            break;
        }
        if let Some(column) = header.iter().position(|cell| cell == name) {
            widths[column] = None;
        }
    }
    let header = header.map(str::to_owned);
    std::iter::once(&header).chain(rows).map(|row| line(row, &widths)).collect::<Vec<_>>().join("\n")
}

fn line(cells: &[String], widths: &[Option<usize>]) -> String {
    let mut line = String::new();
    for (cell, width) in cells.iter().zip(widths) {
        let Some(width) = width else { continue };
        line.push_str(cell);
        let padding = width - cell.chars().count() + GAP;
        line.extend(std::iter::repeat_n(' ', padding));
    }
    line.truncate(line.trim_end().len());
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_without_trailing_blanks() {
        let rows = [["ä".to_owned(), "1".to_owned()], ["long name".to_owned(), String::new()]];
        assert_eq!(table(["NAME", "N"], &rows), "NAME        N\nä           1\nlong name");
    }

    #[test]
    fn what_does_not_fit_is_left_out_the_least_important_first() {
        let rows = [["1".to_owned(), "22".to_owned(), "333".to_owned()]];
        let within = |width| table_within(["A", "B", "C"], &rows, width, &["C", "A"]);
        assert_eq!(within(12), "A   B    C\n1   22   333");
        assert_eq!(within(11), "A   B\n1   22");
        assert_eq!(within(5), "B\n22");
        assert_eq!(within(0), "B\n22");
    }
}
