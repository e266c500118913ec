//! Random host endpoints of a node with the interface eth0.

use std::sync::Arc;

use control::policy::model::DefaultAction::{Deny, Pass};
use control::policy::model::{
    Failsafe, HostEndpoint, Model, PolicyId, Profile, Rules, TierPolicies,
};
use control::policy::rule::{Action, Matches, Origin, Protocol, Rule};

use crate::node::{NODE, SERVER};
use crate::random_policy::{Dice, NODE_NAME};

/// Adds up to four host endpoints: by name (of this interface and of another), by address, for all interfaces.
pub(crate) fn add(dice: &mut Dice, model: &mut Model, ids: &[PolicyId]) {
    const TCP: Protocol = Protocol::TCP;
    const UDP: Protocol = Protocol::UDP;
    if dice.one_in(5) {
        return;
    }
    model.settings.failsafe_inbound = failsafes(dice, &[(TCP, 80), (TCP, 443), (UDP, 53)]);
    // In answers they are source ports.
    let outbound: Vec<_> = (10_000..10_040)
        .step_by(2)
        .map(|port| (UDP, port))
        .collect();
    model.settings.failsafe_outbound = failsafes(dice, &outbound);
    if dice.one_in(2) {
        // What host endpoints allow shows where pods allow it, too.
        open_pods(model);
    }
    let own = vec![NODE.parse().expect("an address")];
    for (name, interface, expected, node, one_in) in [
        ("by-name", "eth0", vec![], NODE_NAME, 2),
        ("by-name-too", "eth0", vec![], NODE_NAME, 8),
        ("a-by-address", "", own, NODE_NAME, 2),
        ("not-ours", "eth1", vec![], NODE_NAME, 4),
        ("elsewhere", "*", vec![], "another", 4),
        ("wildcard", "*", vec![], NODE_NAME, 2),
    ] {
        if !dice.one_in(one_in) {
            continue;
        }
        let endpoint = HostEndpoint {
            node: node.to_owned(),
            interface: interface.to_owned(),
            expected,
            normal: tiers(dice, ids),
            forward: sometimes(dice, ids, 2),
            pre_dnat: sometimes(dice, ids, 3),
            untracked: sometimes(dice, ids, 3),
            ..HostEndpoint::default()
        };
        model
            .host_endpoints
            .insert(name.to_owned(), endpoint.into());
    }
}

fn open_pods(model: &mut Model) {
    let allow = || {
        vec![Rule {
            action: Action::Allow,
            matches: Matches::default(),
            origin: Origin::default(),
        }]
    };
    let rules = Rules {
        inbound: allow(),
        outbound: allow(),
    };
    let profile = Profile { rules };
    model.profiles.insert("open".to_owned(), profile.into());
    for workload in model.workloads.values_mut() {
        let workload = Arc::make_mut(workload);
        workload.tiers.clear();
        workload.profiles = vec!["open".to_owned()];
    }
}

fn failsafes(dice: &mut Dice, ports: &[(Protocol, u16)]) -> Vec<Failsafe> {
    let nets = [
        None,
        None,
        Some(format!("{SERVER}/32")),
        Some("fd00::/8".to_owned()),
    ];
    let one = |&(protocol, port)| Failsafe {
        protocol,
        port,
        net: dice.of(&nets).map(|net| net.parse().expect("a prefix")),
    };
    ports.iter().map(one).collect()
}

fn sometimes(dice: &mut Dice, ids: &[PolicyId], one_in: u64) -> Vec<TierPolicies> {
    if dice.one_in(one_in) {
        tiers(dice, ids)
    } else {
        Vec::new()
    }
}

/// Two tiers, each with some of its policies in each direction.
fn tiers(dice: &mut Dice, ids: &[PolicyId]) -> Vec<TierPolicies> {
    let (first, second) = ids.split_at(ids.len() / 2);
    let mut tiers = Vec::new();
    for (name, of) in [("first", first), ("second", second)] {
        let mut some = || -> Vec<PolicyId> {
            let ids = of.iter().filter(|_| dice.one_in(2));
            ids.cloned().collect()
        };
        let (ingress, egress) = (some(), some());
        tiers.push(TierPolicies {
            name: name.into(),
            // Rules match rarely: where most tiers ended a packet's way, little else would be met.
            default_action: dice.of(&[Deny, Pass, Pass, Pass]),
            ingress,
            egress,
        });
    }
    tiers
}
