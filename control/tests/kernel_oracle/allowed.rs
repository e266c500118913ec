//! The differences that are meant, each with its reason: `allowed-differences.yaml`.

use std::fmt::Write as _;

use serde::Deserialize;

use crate::compare::Outcome;

/// A difference that is meant.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Allowed {
    /// As the test prints it; `*` stands for anything.
    difference: String,
    /// The packets that it may show with; `*` stands for anything.
    packets: Vec<String>,
    /// Who says so: the RFC, or the place in Calico.
    rule: String,
    /// Why the kernel's answer is not the one we want.
    reason: String,
}

/// Those of one test.
pub(crate) fn of(test: &str) -> Vec<Allowed> {
    let text = include_str!("allowed-differences.yaml");
    let mut all: std::collections::BTreeMap<String, Vec<Allowed>> =
        serde_saphyr::from_str(text).expect("allowed-differences.yaml");
    let found = all.remove(test).unwrap_or_default();
    for entry in &found {
        assert!(
            !entry.rule.is_empty() && !entry.reason.is_empty(),
            "{entry:?}"
        );
    }
    found
}

/// Judges the outcomes of a test.
///
/// # Panics
/// When there is a difference that is not listed, or a listed packet that was not sent. A listed difference that
/// did not show is reported only: kernels change.
pub(crate) fn judge(test: &str, outcomes: &[Outcome]) {
    let allowed = of(test);
    let mut used = vec![Vec::new(); allowed.len()];
    let mut unexplained = String::new();
    // For whoever looks for the reason: ORACLE_SHOW='decap/*' prints what both made of these.
    let shown = std::env::var("ORACLE_SHOW").unwrap_or_default();
    for outcome in outcomes {
        if matches(&shown, &outcome.name) {
            eprint!("{}\n{}", outcome.name, outcome.describe());
        }
        let mut unlisted = Vec::new();
        for difference in outcome.differences() {
            let mut listed = false;
            for (entry, used) in allowed.iter().zip(&mut used) {
                let of_packet = entry.packets.iter().position(|p| matches(p, &outcome.name));
                if let Some(at) = of_packet
                    && matches(&entry.difference, &difference)
                {
                    listed = true;
                    used.push(at);
                }
            }
            if !listed {
                unlisted.push(difference);
            }
        }
        if !unlisted.is_empty() {
            let (name, what) = (&outcome.name, unlisted.join("\n  "));
            let _ = writeln!(unexplained, "{name}\n  {what}\n{}", outcome.describe());
        }
    }
    for (entry, used) in allowed.iter().zip(&used) {
        for (at, packet) in entry.packets.iter().enumerate() {
            let sent = outcomes
                .iter()
                .any(|outcome| matches(packet, &outcome.name));
            assert!(sent, "{test}: no packet is called {packet}");
            if !used.contains(&at) {
                eprintln!("{test}: {packet} no longer shows `{}`", entry.difference);
            }
        }
    }
    let count = outcomes.len();
    assert!(
        unexplained.is_empty(),
        "of {count} packets, these met another fate than the kernel's (kernel -> caracal), and \
         allowed-differences.yaml does not say why:\n\n{unexplained}"
    );
}

/// Whether a text matches a pattern in which `*` stands for anything.
fn matches(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((before, after)) => text.strip_prefix(before).is_some_and(|rest| {
            (0..=rest.len()).any(|at| rest.is_char_boundary(at) && matches(after, &rest[at..]))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns() {
        for (pattern, text, expected) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("a*", "ab", true),
            ("*", "", true),
            ("out/*/x", "out/1/x", true),
            ("out/*/x", "out/1/y", false),
            ("a*b*c", "a1b2bc", true),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }
}
