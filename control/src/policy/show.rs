//! What applies to an endpoint, in order, as text and as JSON.

use std::fmt::Write as _;

use fastpath::policy::RuleCount;
use serde_json::{Value, json};

use super::describe::Described;
use super::model::{
    DefaultAction, Direction, HostEndpoint, Model, Stage, TierPolicies, WorkloadId,
};
use super::report;
use super::rule::Rule;
use super::verdict::{DefaultDenial, Owner, RuleRef};
use crate::cli::table::one_line;
use crate::words::counted;

/// What counts what it has decided about.
pub(crate) enum Counted<'c> {
    /// A rule of an owner, by its place in the direction's list.
    Rule(&'c Owner, usize),
    /// What denies where no rule does.
    Default(DefaultDenial),
}

/// What something has decided about, where that is known.
pub(crate) type Counts<'c> = &'c dyn Fn(Counted<'_>, Direction) -> Option<RuleCount>;

/// What is shown of an endpoint.
pub(crate) struct Shown {
    title: String,
    chains: Vec<Chain>,
}

/// One list of tiers, in one direction.
struct Chain {
    name: String,
    tiers: Vec<Tier>,
    /// `None`: profiles have no say.
    profiles: Option<Vec<ShownRules>>,
    /// What becomes of a packet that nobody decides about.
    end: &'static str,
    /// Why, if it is denied, and what was.
    denial: Option<ShownDenial>,
}

struct Tier {
    name: String,
    default_action: DefaultAction,
    policies: Vec<ShownRules>,
    /// What denies at its end, if anything does.
    denial: Option<ShownDenial>,
}

/// What denies where no rule does.
struct ShownDenial {
    text: String,
    count: Option<RuleCount>,
}

/// A policy or a profile.
struct ShownRules {
    name: String,
    is_staged: bool,
    rules: Vec<ShownRule>,
}

struct ShownRule {
    text: String,
    name: RuleRef,
    count: Option<RuleCount>,
}

/// What applies to a pod's endpoint. None if the model does not have it.
pub(crate) fn workload(model: &Model, id: &WorkloadId, counts: Counts<'_>) -> Option<Shown> {
    let workload = model.workloads.get(id)?;
    let addresses = workload.nets.iter().map(|net| net.addr().to_string());
    let addresses: Vec<String> = addresses.collect();
    let chains = [Direction::Ingress, Direction::Egress].map(|direction| Chain {
        name: direction.as_str().to_owned(),
        tiers: tiers(model, &workload.tiers, direction, counts),
        profiles: Some(profiles(model, &workload.profiles, direction, counts)),
        end: "Deny",
        denial: Some(denied(
            model,
            DefaultDenial::NoProfileMatched(workload.profiles.clone()),
            direction,
            counts,
        )),
    });
    Some(Shown {
        title: format!(
            "WorkloadEndpoint {id} ({}, node {})",
            addresses.join(", "),
            workload.node
        ),
        chains: chains.into(),
    })
}

/// What applies to a host endpoint.
pub(crate) fn host(model: &Model, name: &str, host: &HostEndpoint) -> Shown {
    let interface = if host.interface.is_empty() {
        "by address"
    } else {
        &host.interface
    };
    let chains = [Direction::Ingress, Direction::Egress].map(|direction| {
        let mut chains = forwarded_chains(model, host, direction, UNKNOWN);
        chains.push(own_chain(model, host, direction, UNKNOWN));
        chains
    });
    Shown {
        title: format!("HostEndpoint {name} ({interface}, node {})", host.node),
        chains: chains.into_iter().flatten().collect(),
    }
}

/// What is enforced of a host endpoint of this node on `interfaces`; on what the host itself sends and gets, if `own`.
pub(crate) fn enforced_host(
    model: &Model,
    (name, host): (&str, &HostEndpoint),
    (interfaces, own): (&[String], bool),
    counts: HostCounts<'_>,
) -> Shown {
    let mut on = interfaces.to_vec();
    if host.is_wildcard() {
        let others = if own {
            "all other interfaces, also pods' and tunnels"
        } else {
            "pods' interfaces and tunnels"
        };
        on.push(others.to_owned());
    }
    let on = match (on.is_empty(), own) {
        (false, _) => on.join(", "),
        (true, true) => "no interface, so not enforced".to_owned(),
        (true, false) => "no uplink, so not enforced".to_owned(),
    };
    let chains = [Direction::Ingress, Direction::Egress].map(|direction| {
        let mut chains = forwarded_chains(model, host, direction, counts);
        if own {
            chains.push(own_chain(model, host, direction, counts));
        }
        chains
    });
    let what = if own { "" } else { ", for what is forwarded" };
    Shown {
        title: format!("HostEndpoint {name} ({on}, node {}){what}", host.node),
        chains: chains.into_iter().flatten().collect(),
    }
}

/// What something has decided about, by a host endpoint's policies of one kind.
pub(crate) type HostCounts<'c> = &'c dyn Fn(Stage, Counted<'_>, Direction) -> Option<RuleCount>;

/// Nothing is known of counts.
const UNKNOWN: HostCounts<'static> = &|_, _, _| None;

/// The chains for what is forwarded, and those before that is known.
fn forwarded_chains(
    model: &Model,
    host: &HostEndpoint,
    direction: Direction,
    counts: HostCounts<'_>,
) -> Vec<Chain> {
    let chain = |stage: Stage, name: &str, end: &'static str| Chain {
        name: format!("{}, {name}", direction.as_str()),
        tiers: tiers(model, stage.tiers(host), direction, &|what, direction| {
            counts(stage, what, direction)
        }),
        profiles: None,
        end,
        denial: None,
    };
    let mut chains = vec![
        chain(Stage::Untracked, "untracked", "on to the next"),
        chain(Stage::PreDnat, "before DNAT", "on to the next"),
    ];
    chains.retain(|chain| !chain.tiers.is_empty());
    chains.push(chain(Stage::Forward, "forwarded", "Allow"));
    chains
}

/// The chain for what the host itself sends and gets.
fn own_chain(
    model: &Model,
    host: &HostEndpoint,
    direction: Direction,
    counts: HostCounts<'_>,
) -> Chain {
    let counts = |what: Counted<'_>, direction| counts(Stage::Own, what, direction);
    let nobody = DefaultDenial::NoProfileMatched(host.profiles.clone());
    let count = counts(Counted::Default(nobody.clone()), direction);
    Chain {
        name: format!("{}, the host's own", direction.as_str()),
        tiers: tiers(model, &host.normal, direction, &counts),
        profiles: Some(profiles(model, &host.profiles, direction, &counts)),
        end: "Deny, but for failsafe ports",
        denial: count.map(|_| denied(model, nobody, direction, &counts)),
    }
}

fn tiers(
    model: &Model,
    tiers: &[TierPolicies],
    direction: Direction,
    counts: Counts<'_>,
) -> Vec<Tier> {
    let tiers = tiers.iter().filter(|tier| !tier.of(direction).is_empty());
    let shown = tiers.map(|tier| Tier {
        name: tier.name.to_string(),
        default_action: tier.default_action,
        denial: tier
            .default_denial(direction)
            .map(|denial| denied(model, denial, direction, counts)),
        policies: tier
            .of(direction)
            .iter()
            .map(|id| {
                let policy = model.policies.get(id);
                let rules = policy.map_or(&[][..], |policy| policy.rules.of(direction));
                let owner = Owner::Policy {
                    tier: tier.name.clone(),
                    id: id.clone(),
                };
                ShownRules {
                    name: id.to_string(),
                    is_staged: id.kind.is_staged(),
                    rules: described(rules, &owner, direction, counts),
                }
            })
            .collect(),
    });
    shown.collect()
}

fn profiles(
    model: &Model,
    names: &[String],
    direction: Direction,
    counts: Counts<'_>,
) -> Vec<ShownRules> {
    let shown = names.iter().map(|name| {
        let profile = model.profiles.get(name);
        let rules = profile.map_or(&[][..], |profile| profile.rules.of(direction));
        ShownRules {
            name: name.clone(),
            is_staged: false,
            rules: described(rules, &Owner::Profile(name.clone()), direction, counts),
        }
    });
    shown.collect()
}

fn described(
    rules: &[Rule],
    owner: &Owner,
    direction: Direction,
    counts: Counts<'_>,
) -> Vec<ShownRule> {
    let one = |(at, rule): (usize, &Rule)| ShownRule {
        text: Described(rule).to_string(),
        name: RuleRef::new(owner.clone(), direction, rule),
        count: counts(Counted::Rule(owner, at), direction),
    };
    rules.iter().enumerate().map(one).collect()
}

fn denied(
    model: &Model,
    denial: DefaultDenial,
    direction: Direction,
    counts: Counts<'_>,
) -> ShownDenial {
    ShownDenial {
        count: counts(Counted::Default(denial.clone()), direction),
        text: denial.reason(model).to_string(),
    }
}

/// Text for people.
pub(crate) fn to_text(shown: &Shown) -> String {
    let mut text = format!("{}\n", one_line(&shown.title));
    for chain in &shown.chains {
        let _ = writeln!(text, "\n{}", one_line(&chain.name));
        for tier in &chain.tiers {
            let _ = writeln!(text, "  tier {}", one_line(&tier.name));
            for policy in &tier.policies {
                let staged = if policy.is_staged {
                    "  (staged: not enforced)"
                } else {
                    ""
                };
                let _ = writeln!(text, "    {}{staged}", one_line(&policy.name));
                rules_text(&mut text, policy, "      ");
            }
            let end = match tier.default_action {
                _ if tier.policies.iter().all(|policy| policy.is_staged) => {
                    "on to the next tier: all of it is staged"
                }
                DefaultAction::Deny => "Deny",
                DefaultAction::Pass => "on to the next tier",
            };
            let _ = writeln!(text, "    else: {end}{}", denial_text(tier.denial.as_ref()));
        }
        for profile in chain.profiles.iter().flatten() {
            let _ = writeln!(text, "  profile {}", one_line(&profile.name));
            rules_text(&mut text, profile, "    ");
        }
        let denial = denial_text(chain.denial.as_ref());
        let _ = writeln!(text, "  else: {}{denial}", chain.end);
    }
    text
}

fn denial_text(denial: Option<&ShownDenial>) -> String {
    let Some(denial) = denial else {
        return String::new();
    };
    let count = denial.count.map(count_text).unwrap_or_default();
    format!(" ({}){count}", one_line(&denial.text))
}

fn count_text(count: RuleCount) -> String {
    format!(
        "  [{}, {}, {}]",
        counted(count.connections, "connection"),
        counted(count.packets, "packet"),
        counted(count.bytes, "byte")
    )
}

fn rules_text(text: &mut String, shown: &ShownRules, indent: &str) {
    if shown.rules.is_empty() {
        let _ = writeln!(text, "{indent}no rules");
    }
    for rule in &shown.rules {
        let place = rule
            .name
            .place()
            .map(|place| format!("  {}", one_line(&place)));
        let count = rule.count.map(count_text);
        let _ = writeln!(
            text,
            "{indent}{} {}{}{}",
            rule.name.number(),
            one_line(&rule.text),
            place.unwrap_or_default(),
            count.unwrap_or_default()
        );
    }
}

fn add_count(value: &mut Value, count: Option<RuleCount>) {
    if let Some(count) = count {
        value["connections"] = json!(count.connections);
        value["packets"] = json!(count.packets);
        value["bytes"] = json!(count.bytes);
    }
}

/// The same for programs.
pub(crate) fn to_json(shown: &Shown) -> Value {
    let rules = |shown: &ShownRules| {
        let rules = shown.rules.iter().map(|rule| {
            let mut value = report::rule(&rule.name);
            value["text"] = json!(rule.text);
            add_count(&mut value, rule.count);
            value
        });
        json!({ "name": shown.name, "staged": shown.is_staged, "rules": rules.collect::<Vec<_>>() })
    };
    let denial = |denial: &ShownDenial| {
        let mut value = json!({ "text": denial.text });
        add_count(&mut value, denial.count);
        value
    };
    let tier = |tier: &Tier| {
        let action = match tier.default_action {
            DefaultAction::Deny => "Deny",
            DefaultAction::Pass => "Pass",
        };
        json!({
            "name": tier.name,
            "defaultAction": action,
            "policies": tier.policies.iter().map(rules).collect::<Vec<_>>(),
            "denial": tier.denial.as_ref().map(denial),
        })
    };
    let chain = |chain: &Chain| {
        let profiles = chain.profiles.as_ref();
        json!({
            "name": chain.name,
            "tiers": chain.tiers.iter().map(tier).collect::<Vec<_>>(),
            "profiles": profiles.map(|list| list.iter().map(rules).collect::<Vec<_>>()),
            "end": chain.end,
            "denial": chain.denial.as_ref().map(denial),
        })
    };
    json!({
        "schema": "caracal.policy-show/v1",
        "endpoint": shown.title,
        "chains": shown.chains.iter().map(chain).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Source, load_sources};

    #[test]
    fn what_was_decided_about_in_words() {
        let said = |connections, packets, bytes| {
            count_text(RuleCount {
                connections,
                packets,
                bytes,
            })
        };
        assert_eq!(said(1, 1, 1), "  [1 connection, 1 packet, 1 byte]");
        assert_eq!(
            said(3, 12_044, 0),
            "  [3 connections, 12 044 packets, 0 bytes]"
        );
    }

    #[test]
    fn of_a_host_endpoint_here_only_what_is_enforced_is_shown() {
        let text = include_str!("../../tests/policy-tests/hosts.yaml");
        let cluster = load_sources(&[Source::new("hosts.yaml", text)]).unwrap();
        let model = &cluster.policy;
        let counts = |_: Stage, what: Counted<'_>, direction: Direction| {
            let connections = match what {
                Counted::Rule(_, at) => at as u64 + 7,
                Counted::Default(_) => 99,
            };
            (direction == Direction::Egress).then_some(RuleCount {
                connections,
                ..RuleCount::default()
            })
        };
        let shown = |name: &str, uplinks: &[String]| {
            let host = &model.host_endpoints[name];
            to_text(&enforced_host(
                model,
                (name, host),
                (uplinks, false),
                &counts,
            ))
        };
        let edge = shown("node1-eth0", &["eth0".to_owned()]);
        for part in [
            "HostEndpoint node1-eth0 (eth0, node node1), for what is forwarded\n",
            "\ningress, untracked\n",
            "\ningress, forwarded\n",
            "\negress, forwarded\n",
            "8 connections",
            "99 connections",
        ] {
            assert!(edge.contains(part), "{part}: {edge}");
        }
        assert!(!edge.contains("the host's own"), "{edge}");
        let nowhere = shown("node1-eth0", &[]);
        assert!(
            nowhere.contains("(no uplink, so not enforced, "),
            "{nowhere}"
        );
        let others = shown("node1-others", &["eth1".to_owned()]);
        assert!(
            others.contains("(eth1, pods' interfaces and tunnels, node"),
            "{others}"
        );
        assert!(others.contains("\ningress, before DNAT\n"), "{others}");
        let host = &model.host_endpoints["node1-eth0"];
        let on = (&["eth0".to_owned()][..], true);
        let whole = to_text(&enforced_host(model, ("node1-eth0", host), on, &counts));
        for part in [
            "HostEndpoint node1-eth0 (eth0, node node1)\n",
            "\negress, the host's own\n",
            "else: Deny, but for failsafe ports (no policy decided, and there is no profile)  [99 connections",
        ] {
            assert!(whole.contains(part), "{part}: {whole}");
        }
    }
}
