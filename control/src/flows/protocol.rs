//! Protocols as people name them.

use std::borrow::Cow;

const NAMES: [(&str, u8); 8] = [
    ("tcp", 6),
    ("udp", 17),
    ("icmp", 1),
    ("icmp6", 58),
    ("sctp", 132),
    ("udplite", 136),
    ("dccp", 33),
    ("icmpv6", 58),
];

/// The name of a protocol; its number where it has none.
pub(crate) fn name(number: u8) -> Cow<'static, str> {
    let known = NAMES.iter().find(|(_, known)| *known == number);
    known.map_or_else(|| number.to_string().into(), |(name, _)| (*name).into())
}

/// A protocol by its name or number.
pub(crate) fn number(name: &str) -> Option<u8> {
    let known = NAMES
        .iter()
        .find(|(known, _)| known.eq_ignore_ascii_case(name));
    known.map_or_else(|| name.parse().ok(), |(_, number)| Some(*number))
}

/// The names that there are.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    NAMES.iter().map(|(name, _)| *name)
}

/// Whether a protocol has ports.
pub(crate) const fn has_ports(number: u8) -> bool {
    matches!(number, 6 | 17 | 33 | 132 | 136)
}

/// Whether a protocol's queries have an identifier.
pub(crate) const fn has_identifier(number: u8) -> bool {
    matches!(number, 1 | 58)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_lead_to_each_other() {
        for protocol in 0..=255 {
            assert_eq!(number(&name(protocol)), Some(protocol));
        }
        assert_eq!(number("TCP"), Some(6));
        assert_eq!(number("ICMPv6"), Some(58));
        assert_eq!(number("256"), None);
        assert_eq!(number("tpc"), None);
    }
}
