//! Numbers in words: for commands, the log and findings alike.

/// A number, thousands apart: `18 204`.
pub(crate) fn number(number: u64) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
