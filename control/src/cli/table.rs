//! Text for people: aligned columns, numbers with separated thousands.

/// Which side a column is aligned to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Right,
}

/// Lines of cells under headings.
pub(super) struct Table {
    align: Vec<Align>,
    lines: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(columns: &[(&str, Align)]) -> Self {
        Self {
            align: columns.iter().map(|(_, align)| *align).collect(),
            lines: vec![columns.iter().map(|(name, _)| (*name).to_owned()).collect()],
        }
    }

    pub(super) fn push(&mut self, cells: &[String]) {
        self.lines
            .push(cells.iter().map(|cell| one_line(cell)).collect());
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        use std::fmt::Write as _;
        let width = |column: usize| {
            let cells = self.lines.iter().filter_map(|line| line.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<_> = (0..self.align.len()).map(width).collect();
        for line in &self.lines {
            let mut text = String::new();
            for ((cell, width), align) in line.iter().zip(&widths).zip(&self.align) {
                let gap = if text.is_empty() { "" } else { "  " };
                match align {
                    Align::Left => write!(text, "{gap}{cell:<width$}")?,
                    Align::Right => write!(text, "{gap}{cell:>width$}")?,
                }
            }
            writeln!(f, "{}", text.trim_end())?;
        }
        Ok(())
    }
}

/// Text that can do nothing to a terminal: control characters are blanks.
pub(crate) fn one_line(text: &str) -> String {
    text.replace(char::is_control, " ")
}

/// What is not known, or does not apply.
pub(super) fn or_dash<T: ToString>(value: Option<&T>) -> String {
    value.map_or_else(|| "-".to_owned(), ToString::to_string)
}

/// A time in seconds: `41s`, `7m 05s`, `3h 14m`, `2d 03h`.
pub(super) fn duration(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {:02}s", seconds % 60),
        (0, _, _) => format!("{hours}h {:02}m", minutes % 60),
        _ => format!("{days}d {:02}h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&[
            ("PORT", Align::Left),
            ("RX", Align::Right),
            ("X", Align::Left),
        ]);
        table.push(&["eth0".to_owned(), "12 345".to_owned(), String::new()]);
        table.push(&["a\u{1b}[31mb".to_owned(), "7".to_owned(), "y".to_owned()]);
        assert_eq!(
            table.to_string(),
            "PORT         RX  X\neth0     12 345\na [31mb       7  y\n"
        );
    }

    #[test]
    fn times_have_two_units() {
        for (given, text) in [
            (0, "0s"),
            (59, "59s"),
            (65, "1m 05s"),
            (3600, "1h 00m"),
            (184_440, "2d 03h"),
        ] {
            assert_eq!(duration(given), text);
        }
    }
}
