//! Calico's semantics, one by one, said in words.

use std::sync::Arc;

use flowtable::acl::{
    Action, ChainSpec, Compiler, Family, Icmp, L4, Member, Net, Policy, PortRange, Reason, Rule,
    RuleId, SetId, SetWriter, Side, Tier, TierDefault, Tuple, Verdict,
};

fn net(text: &str) -> Net {
    text.parse()
        .map(Net::V4)
        .or_else(|_| text.parse().map(Net::V6))
        .unwrap()
}

fn rule(id: u32, action: Action) -> Rule {
    Rule {
        id: RuleId(id),
        action,
        ..Rule::default()
    }
}

fn policies<const N: usize>(lists: [Vec<Rule>; N]) -> Arc<[Arc<Policy>]> {
    lists
        .into_iter()
        .map(|rules| Arc::new(Policy { rules }))
        .collect()
}

fn tier<const N: usize>(lists: [Vec<Rule>; N], default: TierDefault) -> Tier {
    Tier {
        policies: policies(lists),
        default,
    }
}

fn tcp(destination: u16) -> Tuple<u32> {
    Tuple {
        source: 0x0a00_0001,
        destination: 0x0a00_0002,
        protocol: 6,
        l4: L4::Ports {
            source: 40_000,
            destination,
        },
    }
}

fn ask(spec: &ChainSpec, tuple: &Tuple<u32>) -> Verdict {
    let chain = Compiler::default().chain(spec).unwrap();
    chain.classify(&SetWriter::default().snapshot(), tuple)
}

fn one(rule: Rule) -> ChainSpec {
    ChainSpec {
        tiers: vec![tier([vec![rule]], TierDefault::Deny)],
        ..ChainSpec::default()
    }
}

#[test]
fn nothing_at_all_denies() {
    let verdict = ask(&ChainSpec::default(), &tcp(80));
    assert_eq!((verdict.allow, verdict.reason), (false, Reason::End));
    let open = ChainSpec {
        allow_at_end: true,
        ..ChainSpec::default()
    };
    assert!(ask(&open, &tcp(80)).allow);
}

#[test]
fn a_tier_without_policies_is_skipped_and_one_without_a_match_denies() {
    let spec = ChainSpec {
        tiers: vec![
            tier([], TierDefault::Deny),
            tier([vec![]], TierDefault::Deny),
        ],
        profiles: policies([vec![rule(1, Action::Allow)]]),
        ..ChainSpec::default()
    };
    assert_eq!(ask(&spec, &tcp(80)).reason, Reason::TierDefault(1));
    let mut passing = spec;
    passing.tiers[1].default = TierDefault::Pass;
    assert_eq!(ask(&passing, &tcp(80)).reason, Reason::Rule(RuleId(1)));
}

#[test]
fn pass_ends_the_tier_and_not_the_chain() {
    let spec = ChainSpec {
        tiers: vec![
            tier(
                [vec![rule(1, Action::Pass)], vec![rule(2, Action::Deny)]],
                TierDefault::Deny,
            ),
            tier([vec![rule(3, Action::Pass)]], TierDefault::Deny),
        ],
        profiles: policies([vec![], vec![rule(4, Action::Allow)]]),
        ..ChainSpec::default()
    };
    let verdict = ask(&spec, &tcp(80));
    assert_eq!(
        (verdict.allow, verdict.reason),
        (true, Reason::Rule(RuleId(4)))
    );
}

#[test]
fn log_rules_are_recorded_and_decide_nothing() {
    let logs = (1..=5).map(|id| rule(id, Action::Log)).collect();
    let spec = ChainSpec {
        tiers: vec![tier([logs], TierDefault::Deny)],
        ..ChainSpec::default()
    };
    let verdict = ask(&spec, &tcp(80));
    assert_eq!(verdict.reason, Reason::TierDefault(0));
    assert_eq!(verdict.logs.total(), 5);
    assert_eq!(verdict.logs.rules(), [RuleId(1), RuleId(2), RuleId(3)]);
}

#[test]
fn a_list_without_the_packets_family_makes_the_rule_absent() {
    for side in [
        Side {
            nets: vec![net("fd00::/8")],
            ..Side::default()
        },
        Side {
            not_nets: vec![net("fd00::/8")],
            ..Side::default()
        },
        Side {
            not_nets: vec![net("0.0.0.0/0")],
            ..Side::default()
        },
    ] {
        let spec = one(Rule {
            source: side.clone(),
            ..rule(1, Action::Allow)
        });
        assert_eq!(
            ask(&spec, &tcp(80)).reason,
            Reason::TierDefault(0),
            "{side:?}"
        );
    }
    let other = one(Rule {
        family: Some(Family::V6),
        ..rule(1, Action::Allow)
    });
    assert!(!ask(&other, &tcp(80)).allow);
}

#[test]
fn what_is_asked_of_ports_and_icmp_holds_only_where_they_are() {
    let not_80 = one(Rule {
        destination: Side {
            not_ports: vec![PortRange::one(80)],
            ..Side::default()
        },
        ..rule(1, Action::Allow)
    });
    assert!(!ask(&not_80, &tcp(80)).allow && ask(&not_80, &tcp(81)).allow);
    let other = Tuple {
        protocol: 253,
        l4: L4::Other,
        ..tcp(80)
    };
    assert!(!ask(&not_80, &other).allow);
    let not_echo = one(Rule {
        not_icmp: Some(Icmp {
            kind: 8,
            code: None,
        }),
        ..rule(1, Action::Allow)
    });
    let icmp = |kind, protocol| Tuple {
        protocol,
        l4: L4::Icmp { kind, code: 0 },
        ..tcp(80)
    };
    assert!(ask(&not_echo, &icmp(10, 1)).allow && !ask(&not_echo, &icmp(8, 1)).allow);
    assert!(!ask(&not_echo, &tcp(80)).allow && !ask(&not_echo, &icmp(10, 58)).allow);
}

#[test]
fn sets_are_all_asked_for_and_ports_may_be_named_or_numbers() {
    let mut writer = SetWriter::default();
    let (first, second, named) = (SetId(0), SetId(1), SetId(2));
    writer.add(first, &Member::Net(net("10.0.0.0/24"))).unwrap();
    writer
        .add(second, &Member::Net(net("10.0.0.1/32")))
        .unwrap();
    let member = Member::Port {
        addr: "10.0.0.2".parse().unwrap(),
        protocol: 6,
        port: 8080,
    };
    writer.add(named, &member).unwrap();
    let spec = one(Rule {
        source: Side {
            sets: vec![first, second],
            ..Side::default()
        },
        destination: Side {
            ports: vec![PortRange::one(80)],
            named_ports: vec![named],
            ..Side::default()
        },
        ..rule(1, Action::Allow)
    });
    let chain = Compiler::default().chain(&spec).unwrap();
    let sets = writer.snapshot();
    let allows = |tuple: &Tuple<u32>| chain.classify(&sets, tuple).allow;
    assert!(allows(&tcp(80)) && allows(&tcp(8080)) && !allows(&tcp(81)));
    assert!(
        !allows(&Tuple {
            protocol: 17,
            ..tcp(8080)
        }),
        "another protocol than the member's"
    );
    assert!(
        !allows(&Tuple {
            source: 0x0a00_0003,
            ..tcp(80)
        }),
        "in one set of two"
    );
    // Rules stay, sets change.
    writer.remove(second, &Member::Net(net("10.0.0.1/32")));
    assert!(!chain.classify(&writer.snapshot(), &tcp(80)).allow);
    assert!(allows(&tcp(80)), "the snapshot has not changed");
}

#[test]
fn what_has_no_port_is_in_no_set_of_ports() {
    let mut writer = SetWriter::with_limit(SetWriter::DEFAULT_LIMIT_BYTES);
    let port = Member::Port {
        addr: "10.0.0.2".parse().unwrap(),
        protocol: 6,
        port: 80,
    };
    writer.add(SetId(0), &port).unwrap();
    let sets = writer.snapshot();
    let lists = [vec![
        Rule {
            destination: Side {
                not_named_ports: vec![SetId(0)],
                ..Side::default()
            },
            ..rule(1, Action::Deny)
        },
        rule(2, Action::Allow),
    ]];
    let spec = ChainSpec {
        tiers: vec![tier(lists, TierDefault::Deny)],
        ..ChainSpec::default()
    };
    let chain = Compiler::default().chain(&spec).unwrap();
    let query = Tuple {
        protocol: 1,
        l4: L4::Icmp { kind: 8, code: 0 },
        ..tcp(0)
    };
    for (packet, allow) in [(tcp(80), true), (tcp(81), false), (query, false)] {
        assert_eq!(chain.classify(&sets, &packet).allow, allow, "{packet:?}");
    }
}
