//! What does not fit is refused with a reason, and what was there stays.

use std::sync::Arc;

use flowtable::acl::{
    AclError, Action, ChainSpec, Compiler, L4, Member, Net, Policy, Reason, Rule, RuleId, SetError,
    SetId, SetWriter, Sets, Side, Tier, TierDefault, Tuple, Verdict,
};
use flowtable::lpm::Prefix4;

use crate::generate::Random;

fn spec_of(rules: Vec<Rule>) -> ChainSpec {
    ChainSpec {
        tiers: vec![Tier {
            policies: [Arc::new(Policy { rules })].into(),
            default: TierDefault::Deny,
        }],
        ..ChainSpec::default()
    }
}

/// Rules that allow TCP from one address each.
fn rules(first: u32, count: u32) -> Vec<Rule> {
    (first..first + count)
        .map(|at| Rule {
            id: RuleId(at),
            action: Action::Allow,
            protocol: Some(6),
            source: Side {
                nets: vec![Net::V4(Prefix4::host(0x0a00_0000 + at * 3))],
                ..Side::default()
            },
            ..Rule::default()
        })
        .collect()
}

fn from(addr: u32) -> Tuple<u32> {
    Tuple {
        source: addr,
        destination: 1,
        protocol: 6,
        l4: L4::Ports {
            source: 1,
            destination: 80,
        },
    }
}

#[test]
fn rules_over_the_limit_are_refused_and_chains_in_use_stay() {
    let mut compiler = Compiler::with_limit(300_000);
    let chain = compiler.chain(&spec_of(rules(0, 200))).unwrap();
    let before = compiler.memory_bytes();
    assert!(before > 0 && before <= 300_000, "{before}");
    let refused = compiler.chain(&spec_of(rules(0, 20_000))).unwrap_err();
    let AclError::TooLarge { needed, limit, .. } = refused else {
        panic!("{refused}");
    };
    assert!(needed > limit && limit == 300_000 - before, "{refused}");
    let text = refused.to_string();
    assert!(text.contains(&needed.to_string()) && text.contains(&limit.to_string()));
    assert_eq!(compiler.memory_bytes(), before, "nothing of it is left");
    let verdict = chain.classify(&Sets::default(), &from(0x0a00_0000 + 3));
    assert_eq!(verdict.reason, Reason::Rule(RuleId(1)));
}

#[test]
fn memory_is_given_back_with_the_last_chain() {
    let mut compiler = Compiler::default();
    let spec = spec_of(rules(0, 100));
    let chain = compiler.chain(&spec).unwrap();
    let bytes = compiler.memory_bytes();
    let again = compiler.chain(&spec).unwrap();
    assert_eq!(compiler.memory_bytes(), bytes, "the same list is shared");
    assert!(chain.memory_bytes() >= bytes);
    drop(chain);
    assert_eq!(compiler.memory_bytes(), bytes);
    drop(again);
    assert_eq!(compiler.memory_bytes(), 0);
}

#[test]
fn lists_that_differ_in_one_policy_share_the_rest() {
    let policies: Vec<_> = (0..600)
        .map(|at| {
            Arc::new(Policy {
                rules: rules(at * 4, 4),
            })
        })
        .collect();
    let spec = |policies: &[Arc<Policy>]| ChainSpec {
        tiers: vec![Tier {
            policies: policies.into(),
            default: TierDefault::Deny,
        }],
        ..ChainSpec::default()
    };
    let mut compiler = Compiler::default();
    let all = compiler.chain(&spec(&policies)).unwrap();
    let one = compiler.memory_bytes();
    let mut other = policies.clone();
    other.remove(2);
    let less = compiler.chain(&spec(&other)).unwrap();
    let both = compiler.memory_bytes();
    assert!(both < one + one * 3 / 4, "{one} bytes, then {both}");
    let sets = Sets::default();
    for at in 0..2400 {
        let tuple = from(0x0a00_0000 + at * 3);
        assert!(all.classify(&sets, &tuple).allow, "{at}");
        assert_eq!(
            less.classify(&sets, &tuple).allow,
            !(8..12).contains(&at),
            "{at}"
        );
    }
}

#[test]
fn the_longest_policies_are_cut_and_still_one_list() {
    // Every packet of the last rules must pass all rules before.
    let chain = Compiler::default()
        .chain(&spec_of(rules(0, 40_000)))
        .unwrap();
    let sets = Sets::default();
    let tuples: Vec<_> = (0..40_100)
        .step_by(9)
        .map(|at| from(0x0a00_0000 + at * 3))
        .collect();
    let mut batch = vec![Verdict::default(); tuples.len()];
    chain.classify_batch(&sets, &tuples, &mut batch);
    for ((at, tuple), batch) in (0..).step_by(9).zip(&tuples).zip(batch) {
        let expected = if at < 40_000 {
            Reason::Rule(RuleId(at))
        } else {
            Reason::TierDefault(0)
        };
        assert_eq!(batch.reason, expected);
        assert_eq!(chain.classify(&sets, tuple).reason, expected);
    }
}

#[test]
fn rules_that_tell_too_many_ranges_apart_are_refused() {
    // Address number k is in those of 17 neighbours whose bits k has: 70,000 different words of a block.
    let mut all = rules(0, 1100);
    for (bit, rule) in all.iter_mut().enumerate().take(17) {
        let addrs = (1..70_000_u32).filter(|at| at >> bit & 1 == 1);
        rule.source.nets = addrs.map(|at| Net::V4(Prefix4::host(at * 4))).collect();
    }
    let refused = Compiler::default().chain(&spec_of(all)).unwrap_err();
    assert_eq!(refused, AclError::TooManyNets { rules: 1100 });
}

#[test]
fn a_batch_of_any_length_is_classified_and_the_rest_left_alone() {
    let sets = Sets::default();
    for count in [0, 3, 100, 2000] {
        let chain = Compiler::default()
            .chain(&spec_of(rules(0, count)))
            .unwrap();
        for len in [0, 1, 63, 64, 65, 130] {
            let tuples: Vec<_> = (0..len).map(|at| from(0x0a00_0000 + at * 3)).collect();
            let untouched = Verdict {
                allow: true,
                reason: Reason::TierDefault(77),
                ..Verdict::default()
            };
            for room in [
                tuples.len(),
                tuples.len() + 2,
                tuples.len().saturating_sub(2),
            ] {
                let mut out = vec![untouched; room];
                chain.classify_batch(&sets, &tuples, &mut out);
                for (at, verdict) in out.iter().enumerate() {
                    let expected = match at {
                        _ if at >= tuples.len() => untouched.reason,
                        _ if at < count as usize => Reason::Rule(RuleId(at as u32)),
                        _ => Reason::TierDefault(0),
                    };
                    assert_eq!(
                        verdict.reason, expected,
                        "{at} of {len} in {room}, {count} rules"
                    );
                }
            }
        }
    }
}

#[test]
fn members_over_the_limit_are_refused_and_the_set_stays() {
    let mut writer = SetWriter::with_limit(100_000);
    let host = |at: u32| Member::Net(Net::V4(Prefix4::host(at)));
    writer.replace(SetId(1), &[host(1), host(2)]).unwrap();
    let many: Vec<_> = (0..100_000).map(host).collect();
    let refused = writer.replace(SetId(1), &many).unwrap_err();
    let SetError::TooLarge { needed, limit, .. } = refused;
    assert!(needed > limit && limit == 100_000);
    assert!(
        refused.to_string().contains("100000 members more"),
        "{refused}"
    );
    let sets = writer.snapshot();
    assert!(sets.contains(SetId(1), 1_u32) && sets.contains(SetId(1), 2_u32));
    assert!(!sets.contains(SetId(1), 3_u32));
}

#[test]
fn no_packet_panics() {
    let mut random = Random::new(7);
    let mut ids = 0;
    let policies: Vec<_> = (0..40).map(|_| random.policy(&mut ids, 60)).collect();
    let spec = random.spec(&policies);
    let chain = Compiler::default().chain(&spec).unwrap();
    let sets = Sets::default();
    for _ in 0..2000 {
        let bits = random.bits();
        let l4 = match bits % 3 {
            0 => L4::Other,
            1 => L4::Ports {
                source: (bits >> 8) as u16,
                destination: (bits >> 24) as u16,
            },
            _ => L4::Icmp {
                kind: (bits >> 8) as u8,
                code: (bits >> 16) as u8,
            },
        };
        let protocol = (bits >> 40) as u8;
        let _ = chain.classify(
            &sets,
            &Tuple {
                source: random.bits() as u32,
                destination: random.bits() as u32,
                protocol,
                l4,
            },
        );
        let _ = chain.classify(
            &sets,
            &Tuple {
                source: u128::from(random.bits()) << 64,
                destination: u128::MAX ^ u128::from(random.bits()),
                protocol,
                l4,
            },
        );
    }
}
