//! Verdicts as JSON.

use serde_json::{Value, json};

use super::rule::Origin;
use super::verdict::{LegVerdict, Owner, Reason, RuleRef, StagedVerdict, Verdict};

/// A verdict as one JSON object: `outcome`, `decidedBy`, `legs`, `staged`, `logs`.
pub fn verdict(verdict: &Verdict) -> Value {
    json!({
        "outcome": verdict.outcome.as_str(),
        "decidedBy": verdict.decided_by().map(leg),
        "legs": verdict.legs.iter().map(leg).collect::<Vec<_>>(),
        "staged": verdict.staged.iter().map(staged).collect::<Vec<_>>(),
        "logs": verdict.logs.iter().map(rule).collect::<Vec<_>>(),
    })
}

fn leg(leg: &LegVerdict) -> Value {
    json!({
        "leg": leg.leg.to_string(),
        "outcome": leg.outcome.as_str(),
        "reason": reason(&leg.reason),
        "text": leg.reason.to_string(),
    })
}

fn staged(staged: &StagedVerdict) -> Value {
    json!({
        "policy": staged.policy.to_string(),
        "tier": &*staged.tier,
        "rule": staged.rule.as_ref().map(rule),
        "outcome": staged.outcome.as_str(),
        "decidedBy": staged.decided_by.as_ref().map(leg),
    })
}

/// A rule as one JSON object.
pub fn rule(rule: &RuleRef) -> Value {
    let (tier, policy, profile) = match &rule.owner {
        Owner::Policy { tier, id } => (Some(&**tier), Some(id.to_string()), None),
        Owner::Profile(name) => (None, None, Some(name)),
    };
    let mut value = json!({
        "tier": tier,
        "policy": policy,
        "profile": profile,
        "direction": rule.direction.as_str(),
        "rule": rule.number(),
        "action": rule.action.as_str(),
        "ruleId": rule.origin.rule_id,
    });
    add_place(&mut value, &rule.origin);
    value
}

fn add_place(value: &mut Value, origin: &Origin) {
    let place = origin.at.as_ref().map(|at| (at, at.line_and_column()));
    value["file"] = json!(place.map(|(at, _)| at.source.path.display().to_string()));
    value["line"] = json!(place.map(|(_, (line, _))| line));
    value["column"] = json!(place.map(|(_, (_, column))| column));
}

/// Why, as one JSON object; `kind` says which fields there are.
pub(crate) fn reason(reason: &Reason) -> Value {
    match reason {
        Reason::Rule(hit) => {
            let mut value = rule(hit);
            value["kind"] = json!("rule");
            value
        }
        Reason::EndOfTier {
            tier,
            policy,
            origin,
        } => {
            let (tier, policy) = (&**tier, policy.to_string());
            let mut value = json!({ "kind": "end-of-tier", "tier": tier, "policy": policy });
            add_place(&mut value, origin);
            value
        }
        Reason::NoProfileMatched(profiles) => {
            json!({ "kind": "no-profile-matched", "profiles": profiles })
        }
        Reason::NoPolicy => json!({ "kind": "no-policy" }),
        Reason::Undecided => json!({ "kind": "undecided" }),
        Reason::Inactive => json!({ "kind": "inactive" }),
        Reason::UnknownEndpoint => json!({ "kind": "unknown-endpoint" }),
        Reason::Established => json!({ "kind": "established" }),
        Reason::Invalid => json!({ "kind": "invalid" }),
        Reason::Failsafe(port) => json!({ "kind": "failsafe", "port": port }),
        Reason::VxlanFromWorkload => json!({ "kind": "vxlan-from-workload" }),
        Reason::IpipFromWorkload => json!({ "kind": "ipip-from-workload" }),
        Reason::EndpointToHost(action) => {
            json!({ "kind": "endpoint-to-host", "action": format!("{action:?}") })
        }
        Reason::HostToWorkload => json!({ "kind": "host-to-workload" }),
        Reason::NeighbourDiscovery => json!({ "kind": "neighbour-discovery" }),
    }
}
