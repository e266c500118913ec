//! What it means for connections.

use std::cmp::Reverse;
use std::fmt::Write as _;

use serde_json::{Value, json};

use super::super::daemon::Found;
use crate::cli::table::one_line;
use crate::diff::Turned;
use crate::words::{counted, number};

/// Of what decides, so many are named; JSON has all.
const NAMED: usize = 5;

/// For people.
pub(super) fn text(found: &Found) -> String {
    let effect = &found.effect;
    let (endpoints, total) = (found.endpoints as u64, effect.total());
    let (endpoints, total) = (
        counted(endpoints, "local endpoint"),
        counted(total, "live connection"),
    );
    let mut text = format!("Effect on {endpoints}, judging the {total} by the new rules:\n");
    let always = [
        ("allow -> deny", effect.denied.count, Some(&effect.denied)),
        (
            "deny  -> allow",
            effect.allowed.count,
            Some(&effect.allowed),
        ),
        ("unchanged", effect.unchanged, None),
    ];
    let others = [
        (
            "ending",
            effect.ending,
            "their endpoints go, or become others",
        ),
        (
            "not judged",
            effect.unknown,
            "where they come from or go to is gone",
        ),
        ("not seen", effect.busy, "they were being changed"),
    ];
    for (what, count, turned) in always {
        let line = format!("  {what:<14}  {:>9}", number(count));
        let example = turned.and_then(|turned| turned.example.as_ref());
        let example = example.map_or_else(String::new, |it| {
            let by = it.by.as_ref();
            let by = by.map_or_else(String::new, |by| format!("   by {by}"));
            format!("   e.g. {it}{by}")
        });
        let _ = writeln!(text, "{line}{}", one_line(&example));
        for (by, count) in turned.map(most).into_iter().flatten() {
            let _ = writeln!(text, "{:18}{:>9}   by {}", "", number(count), one_line(by));
        }
    }
    for (what, count, why) in others {
        if count > 0 {
            let _ = writeln!(text, "  {what:<14}  {:>9}   {why}", number(count));
        }
    }
    text + established(found) + "\n"
}

/// What decides about most, where there is more than one.
fn most(turned: &Turned) -> Vec<(&str, u64)> {
    let mut by: Vec<_> = turned
        .by
        .iter()
        .map(|(by, count)| (by.as_str(), *count))
        .collect();
    by.sort_by_key(|(_, count)| Reverse(*count));
    by.truncate(NAMED);
    if by.len() > 1 { by } else { Vec::new() }
}

/// What the daemon does with those that are established.
const fn established(found: &Found) -> &'static str {
    if found.reevaluates {
        "reevaluateEstablished is on: the next packet of a connection that is no longer allowed ends it."
    } else {
        "reevaluateEstablished is off: established connections go on; what is said holds for new ones, and for those that nobody has \
         answered yet."
    }
}

/// For programs.
pub(super) fn json(found: &Found) -> Value {
    let effect = &found.effect;
    json!({
        "endpoints": found.endpoints,
        "connections": effect.total(),
        "inForce": if found.by_files { "files" } else { "tables" },
        "reevaluateEstablished": found.reevaluates,
        "allowToDeny": turned(&effect.denied),
        "denyToAllow": turned(&effect.allowed),
        "unchanged": effect.unchanged,
        "ending": effect.ending,
        "notJudged": effect.unknown,
        "notSeen": effect.busy,
    })
}

fn turned(turned: &Turned) -> Value {
    let by = turned.by.iter();
    let by: Vec<_> = by
        .map(|(by, count)| json!({ "rule": by, "connections": count }))
        .collect();
    let example = turned.example.as_ref().map(|it| {
        json!({
            "protocol": it.protocol,
            "src": it.src.0,
            "srcPort": it.src.1,
            "dst": it.dst.0,
            "dstPort": it.dst.1,
            "rule": it.by,
        })
    });
    json!({ "connections": turned.count, "example": example, "by": by })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::golden;
    use crate::diff::effect::{Effect, Example};

    fn found() -> Found {
        let by = "tier default: GlobalNetworkPolicy deny-db, ingress rule 2 (Deny), policy.yaml:31";
        let end = |text: &str, port| (text.parse().unwrap(), Some(port));
        let denied = Turned {
            count: 212,
            example: Some(Example {
                protocol: "tcp".to_owned(),
                src: end("10.244.1.9", 51022),
                dst: end("10.244.2.7", 443),
                by: Some(by.to_owned()),
            }),
            by: [(by.to_owned(), 200), ("another\n".to_owned(), 12)].into(),
        };
        let allowed = Turned {
            count: 1,
            example: Some(Example {
                protocol: "udp".to_owned(),
                src: end("fd00::1", 5),
                dst: end("fd00::2", 53),
                by: None,
            }),
            by: std::collections::BTreeMap::new(),
        };
        Found {
            effect: Effect {
                denied,
                allowed,
                unchanged: 17_992,
                ending: 3,
                unknown: 2,
                busy: 1,
            },
            endpoints: 3,
            reevaluates: false,
            by_files: true,
        }
    }

    #[test]
    fn it_is_shown() {
        golden::check("diff-effect.txt", &text(&found()));
        golden::check("diff-effect.json", &format!("{:#}\n", json(&found())));
        let none = Found {
            effect: Effect::default(),
            endpoints: 1,
            reevaluates: true,
            by_files: false,
        };
        let said = text(&none);
        assert!(
            said.starts_with("Effect on 1 local endpoint, judging the 0 live connections"),
            "{said}"
        );
        assert!(said.contains("reevaluateEstablished is on"), "{said}");
        for absent in ["ending", "not judged", "not seen", "e.g."] {
            assert!(!said.contains(absent), "{said}");
        }
    }
}
