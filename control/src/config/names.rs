//! Names of resources, as Kubernetes and Calico allow them.

use super::decode::{self, Context};
use super::yaml::Node;

/// Longest name of a resource.
const LONGEST: usize = 253;
/// Longest name of a namespace.
const LONGEST_LABEL: usize = 63;

/// A resource's name: a DNS-1123 subdomain, which is what libcalico asks of all kinds.
pub(super) fn resource(node: &Node, cx: &mut Context<'_>) -> Option<String> {
    let name = decode::name(node, cx)?;
    if name.len() > LONGEST || !name.split('.').all(is_label) {
        let label = format!(
            "must be lower case letters, digits, `-` and `.`, begin and end with a letter or a digit, and have at most {LONGEST} characters"
        );
        cx.error(&node.at, format!("not a name: `{name}`"), label);
    }
    Some(name)
}

/// A namespace's name: a DNS-1123 label.
pub(super) fn namespace(node: &Node, cx: &mut Context<'_>) -> Option<String> {
    let name = decode::name(node, cx)?;
    if name.len() > LONGEST_LABEL || !is_label(&name) {
        let label = format!(
            "must be lower case letters, digits and `-`, begin and end with a letter or a digit, and have at most {LONGEST_LABEL} characters"
        );
        cx.error(&node.at, format!("not a namespace: `{name}`"), label);
    }
    Some(name)
}

fn is_label(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.first().is_some_and(|first| plain(*first))
        && bytes.last().is_some_and(|last| plain(*last))
        && bytes.iter().all(|byte| plain(*byte) || *byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_as_in_dns() {
        for good in ["a", "node1-k8s-my--pod-eth0", "10", "a-fd00-65---122"] {
            assert!(is_label(good), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a_b", "a.b", "a b", "a\u{1b}", "é"] {
            assert!(!is_label(bad), "{bad:?}");
        }
    }
}
