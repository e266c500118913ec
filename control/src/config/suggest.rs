//! "Did you mean …?"

/// The candidate nearest to `wrong`, if one is near enough to be what was meant. Names that differ in their
/// numbers only (`node1`, `node2`) are siblings, not slips.
pub fn nearest<'a>(wrong: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (wrong.chars().count() / 3).max(1);
    let letters = |text: &str| text.replace(|c: char| c.is_ascii_digit(), "");
    candidates
        .into_iter()
        .filter(|candidate| letters(candidate) != letters(wrong))
        .map(|candidate| (distance(wrong, candidate), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Letters to change, add, drop or swap with their neighbour; a difference in case only counts nothing.
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.to_lowercase().chars().take(80).collect();
    let b: Vec<char> = b.to_lowercase().chars().take(80).collect();
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let mut best = (last[j] + usize::from(x != y))
                .min(last[j + 1] + 1)
                .min(row[j] + 1);
            if i > 0 && j > 0 && *x == b[j - 1] && a[i - 1] == *y {
                best = best.min(before_last[j - 1] + 1);
            }
            row.push(best);
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_recognised_and_a_different_word_is_not() {
        let known = ["vxlanMode", "ipipMode", "natOutgoing"];
        assert_eq!(nearest("vxlanmode", known), Some("vxlanMode"));
        assert_eq!(nearest("ippiMode", known), Some("ipipMode"));
        assert_eq!(nearest("natOutgoin", known), Some("natOutgoing"));
        assert_eq!(nearest("blockSize", known), None);
        assert_eq!(nearest("node3", ["node1", "node2"]), None);
        assert_eq!(nearest("nodel1", ["node1", "node2"]), Some("node1"));
    }
}
