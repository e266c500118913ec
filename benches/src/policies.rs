//! Policies of the scenarios' pods, with as many rules as wanted.

use std::sync::Arc;

use fastpath::policy::Policies;
use flowtable::acl::{
    Action, Chain, ChainSpec, Compiler, Net, Policy, PortRange, Rule, RuleId, Side, Tier,
    TierDefault,
};
use flowtable::lpm::Prefix4;

use crate::rules::{FiveTuple, five_tuples};
use crate::scenario::PODS;

/// Rules of a policy.
const A_POLICY: usize = 10;

/// Every pod has `count` rules in each direction, ten a policy, which are five-tuples that decide as `last` does; and `last` is
/// what a rule behind them says of everything.
///
/// # Panics
/// Never: the rules fit into a chain.
#[must_use]
pub fn with_rules(count: usize, last: Action) -> Policies {
    let rules: Vec<_> = (1..)
        .zip(five_tuples(count, 1))
        .map(|(id, rule)| rule_of(id, &rule, last))
        .collect();
    let end = Rule {
        id: RuleId(count as u32 + 1),
        action: last,
        ..Rule::default()
    };
    let policies = rules
        .chunks(A_POLICY)
        .map(<[_]>::to_vec)
        .chain([vec![end]])
        .map(|rules| Arc::new(Policy { rules }));
    let spec = ChainSpec {
        tiers: vec![Tier {
            policies: policies.collect(),
            default: TierDefault::Deny,
        }],
        ..ChainSpec::default()
    };
    let chain = Compiler::default().chain(&spec).expect("they fit");
    of_all_pods(&chain)
}

fn of_all_pods(chain: &Chain) -> Policies {
    let mut policies = Policies::allowing_all(usize::from(PODS) + 1);
    for endpoint in policies.endpoints.iter_mut().flatten() {
        endpoint.ingress = chain.clone();
        endpoint.egress = chain.clone();
    }
    policies
}

/// A five-tuple as a rule.
///
/// # Panics
/// Never: its prefixes have no host bits.
#[must_use]
pub fn rule_of(id: u32, rule: &FiveTuple, action: Action) -> Rule {
    let side = |(addr, len): (u32, u8), (first, last): (u16, u16)| {
        let net = Prefix4::new(addr, len).expect("no host bits");
        let (any, ports) = (len == 0, PortRange { first, last });
        Side {
            nets: if any { Vec::new() } else { vec![Net::V4(net)] },
            ports: if (first, last) == (0, u16::MAX) {
                Vec::new()
            } else {
                vec![ports]
            },
            ..Side::default()
        }
    };
    Rule {
        id: RuleId(id),
        action,
        protocol: rule.protocol,
        source: side(rule.source, rule.source_ports),
        destination: side(rule.destination, rule.destination_ports),
        ..Rule::default()
    }
}
