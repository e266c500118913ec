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

/// A number, thousands apart: `18 204`.
pub(super) fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// A number with what it counts: `1 packet`, `18 204 packets`.
pub(crate) fn counted(count: u64, one: &str) -> String {
    counted_as(count, one, &format!("{one}s"))
}

/// A number with what it counts, where more than one are not called so by an `s` alone: `1 entry`, `2 entries`.
pub(crate) fn counted_as(count: u64, one: &str, many: &str) -> String {
    format!("{} {}", number(count), if count == 1 { one } else { many })
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
    fn thousands_are_apart() {
        for (given, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1 000"),
            (18_204, "18 204"),
            (1_234_567, "1 234 567"),
        ] {
            assert_eq!(number(given), text);
        }
    }

    #[test]
    fn what_is_counted_is_one_or_many() {
        for (given, text) in [
            (0, "0 packets"),
            (1, "1 packet"),
            (2, "2 packets"),
            (18_204, "18 204 packets"),
        ] {
            assert_eq!(counted(given, "packet"), text);
        }
        assert_eq!(counted_as(1, "match", "matches"), "1 match");
        assert_eq!(counted_as(1_000, "match", "matches"), "1 000 matches");
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
