//! Services that change, or are not known yet: which connections go on, and which begin anew.

use std::sync::Arc;

use encap::eth::MacAddr;
use fastpath::batch::Fate;
use fastpath::reason::DropReason;
use fastpath::tables::{NextHop, Services, Tables, Unresolved, Way};
use flowtable::acl::Action;
use pcap_tests::build::ip4;
use pcap_tests::rig::Rig;

use crate::node::*;
use crate::policy::{ACK, SYN, SYN_ACK, allow, endpoint, put, set, to_port};
use crate::services::{
    Behind, RST, VIP, addr, change, ends, from_other, out, rig_with, services, with,
};

#[test]
fn a_backend_that_is_gone_loses_what_loses_nothing() {
    let first: Behind<'_> = &[(OTHER_ADDR, 8080)];
    let second: Behind<'_> = &[(REMOTE, 8080)];
    let all = |behind| [(VIP, 6, 80, behind), (VIP, 17, 53, behind)];
    let mut rig = rig_with(&all(first));
    let to = |rig: &mut Rig, packet: &[u8]| one(rig, POD, from_pod(packet)).map(|(to, _)| to);
    let tcp = |port, flags, seq, ack| segment4(POD_ADDR, VIP, (port, 80), flags, seq, ack);
    let query = ip4(POD_ADDR, VIP).udp(5000, 53, b"query");
    assert_eq!(to(&mut rig, &query), Ok(OTHER));
    assert_eq!(to(&mut rig, &tcp(40_000, SYN, 100, 0)), Ok(OTHER));
    assert_eq!(to(&mut rig, &tcp(40_001, SYN, 100, 0)), Ok(OTHER));
    let answer = segment4(OTHER_ADDR, POD_ADDR, (8080, 40_000), SYN_ACK, 200, 101);
    one(&mut rig, OTHER, from_other(&answer)).expect("an answer");
    assert_eq!(to(&mut rig, &tcp(40_000, ACK, 101, 201)), Ok(OTHER));

    change(&mut rig, &all(second));
    // Established, and its backend may be about to end it in good order.
    assert_eq!(to(&mut rig, &tcp(40_000, ACK, 101, 201)), Ok(OTHER));
    for packet in [query, tcp(40_001, SYN, 100, 0)] {
        assert_eq!(to(&mut rig, &packet), Err(DropReason::FlowEnded));
        assert_eq!(to(&mut rig, &packet), Ok(UPLINK), "the new backend");
    }
    // No endpoint is left.
    change(&mut rig, &all(&[]));
    let query = ip4(POD_ADDR, VIP).udp(5000, 53, b"query");
    assert_eq!(to(&mut rig, &query), Err(DropReason::FlowEnded));
    assert_eq!(to(&mut rig, &query), Err(DropReason::ServiceNoBackend));
}

#[test]
fn a_port_that_is_used_again_does_not_go_to_a_backend_that_is_gone() {
    let mut rig = rig_with(&[(VIP, 6, 80, &[(OTHER_ADDR, 8080)])]);
    let there = |flags, seq, ack| from_pod(&segment4(POD_ADDR, VIP, (40_000, 80), flags, seq, ack));
    assert!(out(&mut rig, POD, there(SYN, 100, 0)).is_ok());
    let answer = segment4(OTHER_ADDR, POD_ADDR, (8080, 40_000), SYN_ACK, 200, 101);
    one(&mut rig, OTHER, from_other(&answer)).expect("an answer");
    assert!(out(&mut rig, POD, there(ACK, 101, 201)).is_ok());
    assert!(out(&mut rig, POD, there(RST | ACK, 101, 201)).is_ok());
    change(&mut rig, &[(VIP, 6, 80, &[(SERVER, 8080)])]);
    let again = out(&mut rig, POD, there(SYN, 5000, 0));
    assert_eq!(again, Err(DropReason::FlowEnded));
    let again = out(&mut rig, POD, there(SYN, 5000, 0)).expect("anew");
    assert_eq!((again.0, again.1.dst), (UPLINK, addr(SERVER)));
}

#[test]
fn datagrams_begin_anew_though_the_way_to_the_old_backend_is_gone() {
    let mut rig = rig_with(&[(VIP, 17, 53, &[(REMOTE, 5353)])]);
    let query = from_pod(&ip4(POD_ADDR, VIP).udp(5000, 53, b"query"));
    one(&mut rig, POD, query.clone()).expect("by tunnel");
    let mut tables = with(&[(VIP, 17, 53, &[(OTHER_ADDR, 5353)])]);
    for hop in &mut tables.next_hops {
        if matches!(hop, NextHop::Send(it) if it.way == Way::Tunnel) {
            *hop = NextHop::Drop(DropReason::Unreachable);
        }
    }
    rig.set_tables(tables);
    assert_eq!(
        one(&mut rig, POD, query.clone()),
        Err(DropReason::FlowEnded)
    );
    assert_eq!(out(&mut rig, POD, query).map(|(to, _)| to), Ok(OTHER));
}

#[test]
fn a_connection_that_was_ended_is_ended_for_its_backend_too() {
    let mut rig = rig_with(&[(VIP, 6, 80, &[(OTHER_ADDR, 8080)])]);
    set(&mut rig, |policies| {
        put(policies, POD, endpoint(allow(), allow()));
        put(policies, OTHER, endpoint(allow(), allow()));
    });
    let there = |flags, seq, ack| from_pod(&segment4(POD_ADDR, VIP, (40_000, 80), flags, seq, ack));
    let back = |flags, seq, ack| {
        let ports = (8080, 40_000);
        from_other(&segment4(OTHER_ADDR, POD_ADDR, ports, flags, seq, ack))
    };
    assert!(out(&mut rig, POD, there(SYN, 100, 0)).is_ok());
    assert!(one(&mut rig, OTHER, back(SYN_ACK, 200, 101)).is_ok());
    assert!(out(&mut rig, POD, there(ACK, 101, 201)).is_ok());
    set(&mut rig, |policies| {
        policies.reevaluate = true;
        put(
            policies,
            POD,
            endpoint(allow(), vec![to_port(2, Action::Deny, 8080)]),
        );
    });
    assert_eq!(
        one(&mut rig, POD, there(ACK, 101, 201)),
        Err(DropReason::PolicyDeny)
    );
    for _ in 0..2 {
        assert_eq!(
            one(&mut rig, OTHER, back(ACK, 201, 101)),
            Err(DropReason::PolicyDeny)
        );
        assert_eq!(
            one(&mut rig, POD, there(ACK, 101, 201)),
            Err(DropReason::PolicyDeny)
        );
        // Also when tables are others.
        crate::schedule::make_stale(&mut rig);
    }
}

/// As after a restart, until the API server has answered.
#[test]
fn until_all_services_are_known_no_connection_to_one_is_over() {
    let mut rig = rig_with(&[(VIP, 17, 53, &[(OTHER_ADDR, 5353)])]);
    let query = from_pod(&ip4(POD_ADDR, VIP).udp(5000, 53, b"query"));
    let at_backend = Ok((OTHER, ends((POD_ADDR, 5000), (OTHER_ADDR, 5353))));
    assert_eq!(out(&mut rig, POD, query.clone()), at_backend);
    for (incomplete, expected) in [(true, at_backend), (false, Err(DropReason::FlowEnded))] {
        let mut tables = rig.tables().clone();
        tables.services = Services {
            incomplete,
            ..services(&[], false)
        };
        rig.set_tables(tables);
        assert_eq!(out(&mut rig, POD, query.clone()), expected);
    }
}

#[test]
fn what_has_become_a_services_is_sent_to_its_backends() {
    let mut rig = rig();
    let query = from_pod(&ip4(POD_ADDR, VIP).udp(5000, 53, b"query"));
    assert_eq!(
        out(&mut rig, POD, query.clone()).map(|(to, _)| to),
        Ok(UPLINK)
    );
    change(&mut rig, &[(VIP, 17, 53, &[(OTHER_ADDR, 5353)])]);
    assert_eq!(
        one(&mut rig, POD, query.clone()).err(),
        Some(DropReason::FlowEnded)
    );
    assert_eq!(out(&mut rig, POD, query).map(|(to, _)| to), Ok(OTHER));
}

#[test]
fn connections_to_services_go_on_after_a_restart() {
    let of: [(&str, u8, u16, Behind<'_>); 3] = [
        (VIP, 6, 80, &[(OTHER_ADDR, 8080)]),
        (VIP, 6, 443, &[(SERVER, 6443)]),
        (VIP, 6, 81, &[(POD_ADDR, 8081)]),
    ];
    let mut rig = rig_with(&of);
    let there =
        |port, flags, seq, ack| from_pod(&segment4(POD_ADDR, VIP, (40_000, port), flags, seq, ack));
    let mut sources = Vec::new();
    for (port, backend, from) in [
        (80, OTHER_ADDR, OTHER),
        (443, SERVER, UPLINK),
        (81, POD_ADDR, POD),
    ] {
        let (_, at) = out(&mut rig, POD, there(port, SYN, 100, 0)).expect("it leaves");
        let ports = (at.ports.1, at.ports.0);
        let answer = segment4(backend, &at.src.to_string(), ports, SYN_ACK, 200, 101);
        let answer = match from {
            UPLINK => from_outside(&answer),
            OTHER => from_other(&answer),
            _ => from_pod(&answer),
        };
        let (to, _) = out(&mut rig, from, answer.clone()).expect("an answer");
        assert_eq!(to, POD);
        out(&mut rig, POD, there(port, ACK, 101, 201)).expect("established");
        sources.push((port, from, at, answer));
    }
    let mut next = Rig::new(with(&of)).with_connections();
    let connections = Arc::clone(rig.connections());
    let mut kept = Vec::new();
    connections.keep(0..connections.lines(), rig.tables(), rig.now(), |it| {
        kept.push(*it);
    });
    assert_eq!(kept.len(), 3);
    for kept in &kept {
        let taken = next
            .connections()
            .take_over(kept, next.tables(), next.now());
        taken.expect("it holds");
    }
    crate::schedule::make_stale(&mut next);
    for (port, from, at, answer) in sources {
        for _ in 0..2 {
            let (_, again) = out(&mut next, POD, there(port, ACK, 101, 201)).expect("it goes on");
            assert_eq!(again, at);
            let said = out(&mut next, from, answer.clone());
            assert_eq!(said, Ok((POD, ends((VIP, port), (POD_ADDR, 40_000)))));
        }
    }
    assert_eq!(next.counters().connections_made.get(), 0, "none is new");
}

#[test]
fn who_waits_for_a_backends_neighbour_goes_on_translated() {
    let mut tables = with(&[(VIP, 17, 53, &[(OTHER_ADDR, 5353)])]);
    let known = tables.next_hops.clone();
    for hop in &mut tables.next_hops {
        if matches!(hop, NextHop::Send(it) if it.port == OTHER) {
            *hop = NextHop::Resolve(Unresolved {
                port: OTHER,
                peer: fastpath::batch::PeerId::NONE,
                way: Way::Pod,
                gateway: None,
            });
        }
    }
    let mut rig = Rig::new(tables.clone()).with_connections();
    let query = from_pod(&ip4(POD_ADDR, VIP).udp(5000, 53, b"query"));
    let outcome = rig.run_without_waiting(POD, &[query]);
    assert_eq!(outcome.fates, [Fate::Held]);
    rig.set_tables(Tables {
        next_hops: known,
        ..tables
    });
    rig.pass(std::time::Duration::from_millis(200));
    let sent = rig.sent();
    let [frame] = &sent[usize::from(OTHER.0)][..] else {
        panic!("{sent:?}")
    };
    assert_eq!(seen(frame), ends((POD_ADDR, 5000), (OTHER_ADDR, 5353)));
    assert_eq!(frame[..6], MacAddr(OTHER_MAC).0);
}

#[test]
fn a_port_that_is_used_again_begins_anew() {
    let mut rig = rig_with(&[(VIP, 6, 80, &[(OTHER_ADDR, 8080)])]);
    let there = |flags, seq, ack| from_pod(&segment4(POD_ADDR, VIP, (40_000, 80), flags, seq, ack));
    for stale in [false, true] {
        assert!(out(&mut rig, POD, there(SYN, 100, 0)).is_ok());
        let answer = segment4(OTHER_ADDR, POD_ADDR, (8080, 40_000), SYN_ACK, 200, 101);
        one(&mut rig, OTHER, from_other(&answer)).expect("an answer");
        assert!(out(&mut rig, POD, there(ACK, 101, 201)).is_ok());
        assert!(out(&mut rig, POD, there(RST | ACK, 101, 201)).is_ok());
        if stale {
            crate::schedule::make_stale(&mut rig);
        }
        let again = out(&mut rig, POD, there(SYN, 5000, 0));
        assert_eq!(
            again,
            Ok((OTHER, ends((POD_ADDR, 40_000), (OTHER_ADDR, 8080))))
        );
        rig.connections().v4.table.for_each(|view| {
            rig.connections().v4.table.remove_pair(view.flow);
        });
    }
}
