//! What is told of connections as they are judged: `Log` rules always, verdicts while somebody observes, nothing twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use fastpath::policy::{Decided, Decider, Defaults, Direction, End, Policies};
use fastpath::port::PortId;
use fastpath::reason::DropReason;
use fastpath::record::{LOG_RATE, Record, Verdict};
use flowtable::acl::{Action, L4, RuleId};
use pcap_tests::build::{ip4, ip6};
use pcap_tests::rig::Rig;

use crate::node::*;
use crate::policy::*;

/// A rig that is observed or not; POD may say anything, OTHER takes what `ingress` says.
fn rig_of(ingress: Vec<flowtable::acl::Rule>, room: usize, observed: bool) -> Rig {
    let observed = Arc::new(AtomicBool::new(observed));
    observed_by(ingress, room, &observed)
}

fn observed_by(ingress: Vec<flowtable::acl::Rule>, room: usize, observed: &Arc<AtomicBool>) -> Rig {
    let mut rig = Rig::new(tables(1024..=65_535)).with_records(room, observed);
    set(&mut rig, |policies| {
        put(
            policies,
            POD,
            endpoint(vec![], vec![rule(1, Action::Allow)]),
        );
        put(policies, OTHER, endpoint(ingress, allow()));
    });
    rig
}

fn verdicts(rig: &Rig) -> Vec<Verdict> {
    rig.records().iter().map(|record| record.verdict).collect()
}

fn change(rig: &mut Rig, port: PortId, change: impl FnOnce(&mut Defaults)) {
    set(rig, |policies: &mut Policies| {
        let endpoint = policies.endpoints[usize::from(port.0)].as_mut();
        change(&mut endpoint.expect("an endpoint").defaults[0]);
    });
}

#[test]
fn a_log_rule_is_told_and_changes_no_verdict() {
    let rules = || {
        vec![
            rule(10, Action::Log),
            to_port(2, Action::Allow, 80),
            to_port(11, Action::Log, 82),
            to_port(3, Action::Deny, 81),
        ]
    };
    let mut rig = rig_of(rules(), 16, false);
    assert!(one(&mut rig, POD, syn(80)).is_ok());
    let logged = |rule| Verdict::Logged(RuleId(rule));
    assert_eq!(verdicts(&rig), [logged(10)], "the second comes too late");
    assert_eq!(one(&mut rig, POD, syn(81)), Err(DropReason::PolicyDeny));
    assert_eq!(verdicts(&rig), [logged(10)]);
    assert_eq!(one(&mut rig, POD, syn(82)), Err(DropReason::PolicyDeny));
    assert_eq!(verdicts(&rig), [logged(10), logged(11)]);
    let counters = &rig.tables().policies.counters;
    assert_eq!(counters.get(RuleId(10)).connections, 3);
    // Rules that only log leave the tier's default.
    let mut rig = rig_of(vec![rule(10, Action::Log)], 16, false);
    assert_eq!(one(&mut rig, POD, syn(80)), Err(DropReason::PolicyDeny));
    assert_eq!(verdicts(&rig), [logged(10)]);
    // As without them.
    let mut without = rules();
    without.retain(|rule| rule.action != Action::Log);
    let mut rig = rig_of(without, 16, false);
    assert!(one(&mut rig, POD, syn(80)).is_ok());
    assert_eq!(one(&mut rig, POD, syn(82)), Err(DropReason::PolicyDeny));
    assert_eq!(verdicts(&rig), [], "nobody observes");
}

#[test]
fn who_observes_is_told_of_first_packets_only() {
    let observed = Arc::new(AtomicBool::new(true));
    let rules = vec![to_port(2, Action::Allow, 80), to_port(3, Action::Deny, 81)];
    let mut rig = observed_by(rules, 16, &observed);
    assert!(one(&mut rig, POD, syn(80)).is_ok());
    let at = rig.now();
    let decider = |rule| Decider::rule(RuleId(rule));
    let allowed = Record {
        at,
        verdict: Verdict::Allowed {
            source: decider(1),
            destination: decider(2),
            snat: None,
        },
        src: v4(POD_ADDR).into(),
        dst: v4(OTHER_ADDR).into(),
        service: None,
        protocol: 6,
        l4: L4::Ports {
            source: 40_000,
            destination: 80,
        },
        in_port: POD,
        peer: fastpath::batch::PeerId::NONE,
        from: End::Pod(POD),
        to: End::Pod(OTHER),
        tag: 0,
    };
    assert_eq!(rig.records(), [allowed]);
    let answer = tcp(OTHER_ADDR, POD_ADDR, (80, 40_000), 0x12);
    assert!(one(&mut rig, OTHER, answer).is_ok());
    assert!(one(&mut rig, POD, tcp(POD_ADDR, OTHER_ADDR, (40_000, 80), 0x10)).is_ok());
    assert_eq!(rig.records(), [], "packets of a connection");
    let denied = Verdict::Denied {
        reason: DropReason::PolicyDeny,
        by: decider(3),
    };
    for told in [&[denied][..], &[], &[]] {
        assert_eq!(one(&mut rig, POD, syn(81)), Err(DropReason::PolicyDeny));
        assert_eq!(verdicts(&rig), told, "a denial that is remembered");
    }
    observed.store(false, Relaxed);
    let other = tcp(POD_ADDR, OTHER_ADDR, (40_001, 80), SYN);
    assert!(one(&mut rig, POD, other).is_ok());
    assert_eq!(rig.records(), []);
}

#[test]
fn a_connection_that_is_ended_by_policy_is_told() {
    let mut rig = rig_of(vec![to_port(2, Action::Allow, 80)], 16, true);
    set(&mut rig, |policies| policies.reevaluate = true);
    assert!(one(&mut rig, POD, syn(80)).is_ok());
    let answer = || tcp(OTHER_ADDR, POD_ADDR, (80, 40_000), 0x12);
    assert!(one(&mut rig, OTHER, answer()).is_ok());
    rig.records();
    set(&mut rig, |policies| {
        put(
            policies,
            OTHER,
            endpoint(vec![rule(7, Action::Deny)], vec![]),
        );
    });
    assert_eq!(one(&mut rig, OTHER, answer()), Err(DropReason::PolicyDeny));
    let [record] = rig.records()[..] else {
        panic!("one record");
    };
    let by = Decider::rule(RuleId(7));
    let reason = DropReason::PolicyDeny;
    assert_eq!(record.verdict, Verdict::Denied { reason, by });
    assert_eq!(
        (record.src, record.dst, record.from),
        (v4(POD_ADDR).into(), v4(OTHER_ADDR).into(), End::Pod(POD)),
        "as it began"
    );
}

#[test]
fn translation_and_icmp_are_told_as_the_sender_sees_them() {
    let mut rig = rig_of(vec![], 16, true);
    let out = from_pod(&ip4(POD_ADDR, SERVER).icmp(8, 0, 0x0007_0001, &[0; 12]));
    let (_, frame) = one(&mut rig, POD, out).expect("allowed");
    let [record] = rig.records()[..] else {
        panic!("one record");
    };
    let id = seen(&frame).ports.0;
    let Verdict::Allowed { snat, .. } = record.verdict else {
        panic!("{record:?}");
    };
    assert_eq!(snat, Some((v4(NODE).into(), id)));
    assert_eq!(
        (record.src, record.to),
        (v4(POD_ADDR).into(), End::Uplink(UPLINK))
    );
    assert_eq!(record.l4, L4::Icmp { kind: 8, code: 0 });
    let syn = ip6(SERVER6, OTHER6).tcp(40_000, 80, SYN, &[]);
    assert!(one(&mut rig, UPLINK, from_outside(&syn)).is_err());
    let [record] = rig.records()[..] else {
        panic!("one record");
    };
    assert_eq!(
        (record.src, record.from),
        (v6(SERVER6).into(), End::Uplink(UPLINK))
    );
}

#[test]
fn a_full_ring_loses_and_counts() {
    let mut rig = rig_of(vec![rule(10, Action::Log)], 3, true);
    for port in 0..5 {
        let syn = tcp(POD_ADDR, OTHER_ADDR, (port, 81), SYN);
        assert_eq!(one(&mut rig, POD, syn), Err(DropReason::PolicyDeny));
    }
    assert_eq!(rig.records().len(), 3);
    assert_eq!(
        rig.counters().records_lost.get(),
        7,
        "five logged, five denied"
    );
    assert_eq!(rig.counters().logs_limited.get(), 0);
}

#[test]
fn log_rules_tell_so_many_a_second_and_the_rest_is_counted() {
    let mut rig = rig_of(vec![rule(10, Action::Log)], 4096, false);
    let flood = |rig: &mut Rig, first: u16| {
        let frames: Vec<_> = (first..first + 150)
            .map(|port| tcp(POD_ADDR, OTHER_ADDR, (port, 81), SYN))
            .collect();
        for frames in frames.chunks(50) {
            rig.run_now(POD, frames);
        }
    };
    rig.pass(Duration::from_secs(2));
    flood(&mut rig, 1000);
    assert_eq!(rig.records().len() as u64, LOG_RATE);
    assert_eq!(rig.counters().logs_limited.get(), 150 - LOG_RATE);
    rig.pass(Duration::from_millis(500));
    flood(&mut rig, 2000);
    assert_eq!(rig.records().len() as u64, LOG_RATE / 2);
    let counters = &rig.tables().policies.counters;
    assert_eq!(counters.get(RuleId(10)).connections, 300, "all are counted");
}

#[test]
fn what_denies_by_default_has_a_number_that_counts() {
    let mut rig = rig_of(vec![to_port(2, Action::Allow, 80)], 16, true);
    let by = |rig: &mut Rig, port: u16| {
        let ports = (50_000, port);
        let denied = one(rig, POD, tcp(POD_ADDR, OTHER_ADDR, ports, SYN));
        assert_eq!(denied, Err(DropReason::PolicyDeny));
        match verdicts(rig)[..] {
            [Verdict::Denied { by, .. }] => by.decided(),
            ref other => panic!("{other:?}"),
        }
    };
    assert_eq!(
        by(&mut rig, 81),
        Decided::TierDefault(Direction::Ingress, 0)
    );
    change(&mut rig, OTHER, |defaults| {
        defaults.tiers = [RuleId(20)].into();
        defaults.inactive = RuleId(21);
    });
    assert_eq!(by(&mut rig, 82), Decided::Rule(RuleId(20)));
    set(&mut rig, |policies| {
        let other = policies.endpoints[usize::from(OTHER.0)].as_mut();
        other.expect("an endpoint").active = false;
    });
    assert_eq!(by(&mut rig, 83), Decided::Rule(RuleId(21)));
    set(&mut rig, |policies| {
        put(policies, OTHER, None);
        policies.unknown = [RuleId(22), RuleId(23)];
    });
    assert_eq!(by(&mut rig, 84), Decided::Rule(RuleId(22)));
    let own = tcp(OTHER_ADDR, POD_ADDR, (5000, 80), SYN);
    assert!(one(&mut rig, OTHER, own).is_err());
    let count = |rule| rig.tables().policies.counters.get(RuleId(rule)).connections;
    assert_eq!([20, 21, 22, 23].map(count), [1; 4]);
}
