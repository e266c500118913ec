//! Tables on the terminal, in Markdown, so that they can be pasted.

use std::fmt;

use crate::rounds::Series;

/// Rows under a header.
#[derive(Clone, Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with this header.
    #[must_use]
    pub fn new(header: &[&str]) -> Self {
        Self {
            rows: vec![header.iter().map(ToString::to_string).collect()],
        }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// What each of `all` took in `unit`, and how many times as long as it the first of them took.
    #[must_use]
    pub fn of_series(title: &str, unit: &str, all: &[Series]) -> Self {
        let (best, median) = (format!("{unit}, best"), format!("{unit}, median"));
        let mut table = Self::new(&[
            title,
            &best,
            &median,
            "ours / it, best",
            "ours / it, median",
        ]);
        let Some(ours) = all.first() else {
            return table;
        };
        for it in all {
            let mut cells = vec![
                it.name.clone(),
                format!("{:.2}", it.best()),
                format!("{:.2}", it.median()),
            ];
            if it.name == ours.name {
                cells.extend([String::new(), String::new()]);
            } else {
                let (best, median) = ours.ratio_to(it);
                cells.extend([format!("{best:.2}"), format!("{median:.2}")]);
            }
            table.row(cells);
        }
        table
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            self.rows
                .iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<_> = (0..columns).map(width).collect();
        for (at, row) in self.rows.iter().enumerate() {
            for (cell, &width) in row.iter().zip(&widths) {
                write!(f, "| {cell:width$} ")?;
            }
            writeln!(f, "|")?;
            if at == 0 {
                widths
                    .iter()
                    .try_for_each(|&width| write!(f, "|-{}-", "-".repeat(width)))?;
                writeln!(f, "|")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_set_against_the_first() {
        let series = |name: &str, rounds: &[f64]| Series {
            name: name.into(),
            rounds: rounds.into(),
        };
        let all = [
            series("ours", &[1.0, 2.0, 3.0]),
            series("it", &[4.0, 4.0, 4.0]),
        ];
        let expected = "\
| x    | ns, best | ns, median | ours / it, best | ours / it, median |
|------|----------|------------|-----------------|-------------------|
| ours | 1.00     | 2.00       |                 |                   |
| it   | 4.00     | 4.00       | 0.25            | 0.50              |
";
        assert_eq!(Table::of_series("x", "ns", &all).to_string(), expected);
    }
}
