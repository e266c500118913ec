//! Names of what is in the table: made of what a thing is, so that it keeps its name, and its count, over a change of
//! others.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

use super::ruleset::{Members, Set};
use crate::policy::rule::{Family, IpSetId};

/// Bytes of a comment that nft takes (`NFTNL_UDATA_COMMENT_MAXLEN`), its last zero left out.
const COMMENT: usize = 127;
/// Longest name of an endpoint that is part of a chain's (`NFT_NAME_MAXLEN` is 256).
const READABLE: usize = 100;

/// 64 bits of a digest, in hexadecimal. The parts are told apart whatever is in them.
fn digest(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    let mut text = String::new();
    for byte in hash.finalize().iter().take(8) {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// The name of a counter.
pub(super) fn counter(parts: &[&str]) -> String {
    format!("c{}", digest(parts))
}

/// The name of a set's part of one family. Another kind of set has another name: a set does not change its type, and where
/// the kind changes the rules that name it do, in the same transaction.
pub(super) fn set(id: &IpSetId, part: &Set) -> String {
    let kind = match part.members {
        Members::Addresses(_) => "addresses",
        Members::Nets(_) => "nets",
        Members::Ports(_) => "ports",
    };
    let family = match part.family {
        Family::V4 => 4,
        Family::V6 => 6,
    };
    format!("{kind}{family}-{}", digest(&[&id.0]))
}

/// What stands for an endpoint's name in chains' names: the name itself, where nft can read it.
pub(super) fn endpoint(name: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    if name.len() <= READABLE && name.bytes().all(is_plain) {
        name.to_owned()
    } else {
        // No plain name has a slash.
        format!("_/{}", digest(&[name]))
    }
}

/// A text between quotation marks, cut to what a comment takes. What could end it, and what is not ASCII, is replaced; also
/// `$`, after which nft looks for a variable.
pub(super) fn quoted(text: &str) -> String {
    let plain = |letter: char| match letter {
        '"' | '\\' => '\'',
        '$' => '?',
        ' '..='~' => letter,
        _ => '?',
    };
    let text: String = text.chars().map(plain).take(COMMENT).collect();
    format!("\"{text}\"")
}

/// An interface's name between quotation marks. `None`: nft has no way to say it, or would take it for a pattern.
pub(super) fn interface(name: &str) -> Option<String> {
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !b"\"\\*".contains(&byte);
    (!name.is_empty() && name.len() < 16 && name.bytes().all(is_plain))
        .then(|| format!("\"{name}\""))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use super::*;

    #[test]
    fn names_are_what_nft_takes() {
        assert_eq!(endpoint("node1-eth0.100"), "node1-eth0.100");
        assert!(endpoint("a b").starts_with("_/"));
        assert_ne!(endpoint("a b"), endpoint("a  b"));
        assert_eq!(quoted("tier \"x\"\n\\ é$y"), "\"tier 'x'?' ??y\"");
        assert_eq!(quoted(&"x".repeat(500)).len(), COMMENT + 2);
        assert_eq!(interface("eth0").as_deref(), Some("\"eth0\""));
        for bad in ["", "eth*", "a\"b", "a\\", "sixteen-is-more-", "é"] {
            assert_eq!(interface(bad), None, "{bad}");
        }
        assert_ne!(counter(&["ab", "c"]), counter(&["a", "bc"]));
        let id = IpSetId::from("s:x");
        let kinds = [
            Members::Addresses(Arc::default()),
            Members::Nets(Arc::default()),
            Members::Ports(Arc::default()),
        ];
        let families = [Family::V4, Family::V6].into_iter();
        let parts = families.flat_map(|family| {
            let of_family = move |members| Set { family, members };
            kinds.clone().map(of_family)
        });
        let names: BTreeSet<_> = parts.map(|part| set(&id, &part)).collect();
        assert_eq!(names.len(), 6, "{names:?}");
    }
}
