//! Connections that one process tells and the next takes over.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fastpath::connections::{Connection, Connections, Kept, LeftOut, Origin, Sizes};
use fastpath::policy::Decider;
use fastpath::reason::DropReason;
use fastpath::tables::Tables;
use flowtable::Tick;
use flowtable::acl::Action;
use flowtable::conn::{State, Timeouts};
use flowtable::flow::Capacity;
use flowtable::snat::Ports;
use pcap_tests::build::{ethernet, ip4, ip6};
use pcap_tests::rig::Rig;
use proptest::prelude::*;

use crate::node::*;
use crate::policy::{ACK, SYN, SYN_ACK, allow, endpoint, put, rule, set};

fn empty(share_percent: u32) -> Connections {
    let sizes = Sizes {
        v4: Capacity::MIN,
        v6: Capacity::MIN,
        ports: 4,
        share_percent,
    };
    Connections::new(&sizes, [9, 8, 7, 6])
}

fn told(connections: &Connections, tables: &Tables, now: Tick) -> Vec<Kept> {
    let mut all = Vec::new();
    connections.keep(0..connections.lines(), tables, now, |kept| all.push(*kept));
    all
}

/// All connections as control shows them, less what begins anew: counts, generations, and who decided.
fn shown(connections: &Connections, now: Tick) -> BTreeMap<String, Connection> {
    let mut all = BTreeMap::new();
    let lines = 0..connections.lines();
    connections.visit(lines, &Timeouts::DEFAULT, now, |connection, _| {
        let mut connection = *connection;
        for direction in [&mut connection.original, &mut connection.reply] {
            (direction.packets, direction.bytes, direction.generation) = (0, 0, 0);
            direction.decided_by = Decider::NOBODY;
        }
        all.insert(format!("{connection:?}"), connection);
    });
    all
}

/// The next process: its rig, with what it took over by tables that were never in force.
fn restarted(rig: &Rig, tables: Tables) -> Rig {
    let mut next = Rig::new(tables).with_connections();
    for kept in told(rig.connections(), rig.tables(), rig.now()) {
        next.connections()
            .take_over(&kept, next.tables(), next.now())
            .expect("it holds");
    }
    next.set_tables(next.tables().clone());
    next
}

/// A connection from the pod to the outside, and what it is seen to come from.
fn masqueraded(rig: &mut Rig) -> u16 {
    let syn = from_pod(&segment4(POD_ADDR, SERVER, (40_000, 80), SYN, 100, 0));
    let port = seen(&one(rig, POD, syn).expect("it leaves").1).ports.0;
    let answer = from_outside(&segment4(SERVER, NODE, (80, port), SYN_ACK, 200, 101));
    one(rig, UPLINK, answer).expect("it is answered");
    let ack = from_pod(&segment4(POD_ADDR, SERVER, (40_000, 80), ACK, 101, 201));
    one(rig, POD, ack).expect("established");
    port
}

#[test]
fn a_translated_connection_goes_on_from_both_ends() {
    for first_is_server in [true, false] {
        let mut rig = rig();
        let port = masqueraded(&mut rig);
        let mut rig = restarted(&rig, tables(1024..=65_535));
        let from_server = |rig: &mut Rig| {
            let data = from_outside(&segment4(SERVER, NODE, (80, port), ACK, 201, 101));
            let (at, out) = one(rig, UPLINK, data).expect("it comes in");
            assert_eq!((at, seen(&out).ports), (POD, (80, 40_000)));
        };
        let from_pod = |rig: &mut Rig| {
            let data = from_pod(&segment4(POD_ADDR, SERVER, (40_000, 80), ACK, 101, 201));
            let (at, out) = one(rig, POD, data).expect("it leaves");
            assert_eq!((at, seen(&out).ports), (UPLINK, (port, 80)));
        };
        if first_is_server {
            from_server(&mut rig);
        }
        from_pod(&mut rig);
        from_server(&mut rig);
        let now = rig.now();
        let all: Vec<_> = shown(rig.connections(), now).into_values().collect();
        let [connection] = all[..] else {
            panic!("{all:?}")
        };
        assert_eq!(connection.state, State::Established);
        assert_eq!(rig.counters().connections_made.get(), 0, "none is new");
        assert_eq!(rig.connections().v4.quota.count(POD.0), 1);
    }
}

#[test]
fn what_was_allowed_stays_so_unless_it_is_to_be_judged_again() {
    for reevaluate in [false, true] {
        let mut rig = rig();
        set(&mut rig, |policies| {
            put(policies, POD, endpoint(vec![], allow()));
        });
        let port = masqueraded(&mut rig);
        // The next process is told another policy.
        let mut tables = rig.tables().clone();
        let deny = endpoint(vec![], vec![rule(98, Action::Deny)]);
        put(&mut tables.policies, POD, deny);
        tables.policies.reevaluate = reevaluate;
        let mut rig = restarted(&rig, tables);
        let data = from_pod(&segment4(POD_ADDR, SERVER, (40_000, 80), ACK, 101, 201));
        let outcome = one(&mut rig, POD, data).map(|(_, out)| seen(&out).ports.0);
        let expected = if reevaluate {
            Err(DropReason::PolicyDeny)
        } else {
            Ok(port)
        };
        assert_eq!(outcome, expected);
    }
}

#[test]
fn what_is_older_than_the_tables_in_force_waits_for_newer_ones() {
    let mut rig = rig();
    masqueraded(&mut rig);
    let all = told(rig.connections(), rig.tables(), rig.now());
    // No port is known yet, as before Felix has spoken; pollers sweep all the while.
    let known = tables(1024..=65_535);
    let mut unknown = known.clone();
    unknown.ports.iter_mut().for_each(|port| *port = None);
    let mut rig = Rig::new(unknown.clone()).with_connections();
    let first = Tables {
        generation: unknown.generation + 1,
        endpoints_since: unknown.generation + 1,
        ..known
    };
    for kept in all {
        let taken = rig.connections().take_over(&kept, &first, rig.now());
        assert_eq!(taken, Ok(()));
    }
    rig.pass(Duration::from_secs(5));
    assert_eq!(rig.connections().v4.len(), 1);
    // By the tables that follow they are like any other.
    rig.set_tables(first.clone());
    rig.set_tables(first);
    rig.pass(Duration::from_secs(5));
    assert_eq!(rig.connections().v4.len(), 1);
    rig.set_tables(unknown);
    rig.pass(Duration::from_secs(5));
    assert!(rig.connections().v4.is_empty(), "its endpoint is gone");
}

#[test]
fn what_does_not_hold_is_left_out() {
    let mut rig = rig();
    masqueraded(&mut rig);
    let [kept] = told(rig.connections(), rig.tables(), rig.now())[..] else {
        panic!("one connection")
    };
    let (table, now) = (rig.tables().clone(), rig.now());
    let attempt = |kept: &Kept, tables: &Tables| {
        let connections = empty(50);
        let taken = connections.take_over(kept, tables, now);
        let count = u32::from(taken.is_ok());
        assert_eq!(connections.v4.len(), count, "{taken:?}");
        assert_eq!(connections.v4.quota.count(POD.0), count);
        taken
    };
    assert_eq!(attempt(&kept, &table), Ok(()));
    let with = |change: &dyn Fn(&mut Tables)| {
        let mut tables = table.clone();
        change(&mut tables);
        attempt(&kept, &tables)
    };
    let gone = with(&|tables| tables.ports[usize::from(POD.0)] = None);
    assert_eq!(gone, Err(LeftOut::Endpoint));
    let elsewhere = with(&|tables| tables.nat.addresses4 = vec![7]);
    assert_eq!(elsewhere, Err(LeftOut::Address));
    let taken: Ports = Ports::new(1024..=1024, [], []);
    let hosts = with(&|tables| tables.nat.ports = Arc::new(taken.clone()));
    assert_eq!(hosts, Err(LeftOut::Port));
    let mut given_others = table.clone();
    given_others.nat.ports = Arc::new(taken);
    assert_eq!(
        told(rig.connections(), &given_others, now),
        [],
        "the host's by now"
    );
    let mut old = kept;
    old.original.idle += Timeouts::DEFAULT.tcp_established;
    assert_eq!(attempt(&old, &table), Ok(()), "its reply is young");
    old.reply.idle += Timeouts::DEFAULT.tcp_established;
    assert_eq!(attempt(&old, &table), Err(LeftOut::Expired));
    let mut odd = kept;
    odd.original.origin = Origin::Port(fastpath::port::PortId(99));
    assert_eq!(attempt(&odd, &table), Err(LeftOut::Endpoint));

    let connections = empty(1);
    let mut outcomes = BTreeMap::<_, u32>::new();
    for sport in 0..100 {
        let mut another = kept;
        another.ports.0 = sport;
        another.snat = None;
        let taken = connections.take_over(&another, &table, now);
        *outcomes.entry(taken).or_default() += 1;
    }
    // One percent of 448.
    let expected = [(Ok(()), 4), (Err(LeftOut::Quota), 96)];
    assert_eq!(outcomes, expected.into());
    let again = connections.take_over(
        &Kept {
            ports: (0, 80),
            snat: None,
            ..kept
        },
        &table,
        now,
    );
    assert_eq!(again, Err(LeftOut::Quota));
    let connections = empty(50);
    for expected in [Ok(()), Err(LeftOut::Taken)] {
        assert_eq!(connections.take_over(&kept, &table, now), expected);
    }
    assert_eq!(connections.v4.quota.count(POD.0), 1);
}

#[test]
fn denials_and_what_nobody_answered_are_not_told() {
    let mut rig = rig();
    let query = from_pod(&ip4(POD_ADDR, OTHER_ADDR).udp(5000, 53, b"query"));
    one(&mut rig, POD, query).expect("local");
    set(&mut rig, |policies| {
        put(
            policies,
            POD,
            endpoint(vec![], vec![rule(98, Action::Deny)]),
        );
    });
    let denied = from_pod(&ip4(POD_ADDR, SERVER).udp(5001, 53, b"query"));
    assert_eq!(one(&mut rig, POD, denied), Err(DropReason::PolicyDeny));
    assert_eq!(rig.connections().v4.len(), 2);
    assert_eq!(told(rig.connections(), rig.tables(), rig.now()), []);
}

/// A query of a pod and its answer: to the outside or to the other pod, by IPv4 or IPv6, UDP or a ping; and the time before it.
#[derive(Clone, Copy, Debug)]
struct Exchange {
    outside: bool,
    v6: bool,
    ping: bool,
    /// None at 0: it is not answered.
    luck: u8,
    port: u16,
    before: Duration,
}

fn exchange() -> impl Strategy<Value = Exchange> {
    let kinds = (any::<bool>(), any::<bool>(), any::<bool>(), 0..5_u8);
    (kinds, 1..u16::MAX, 0..20_000_u64).prop_map(|((outside, v6, ping, luck), port, before)| {
        Exchange {
            outside,
            v6,
            ping,
            luck,
            port,
            before: Duration::from_millis(before),
        }
    })
}

fn packet(v6: bool, ping: bool, ends: (&str, &str), ports: (u16, u16), is_answer: bool) -> Vec<u8> {
    let kind = match (v6, is_answer) {
        (false, false) => 8,
        (false, true) => 0,
        (true, false) => 128,
        (true, true) => 129,
    };
    let id = if is_answer { ports.1 } else { ports.0 };
    let word = u32::from(id) << 16 | 1;
    match (v6, ping) {
        (false, false) => ip4(ends.0, ends.1).udp(ports.0, ports.1, b"some bytes"),
        (true, false) => ip6(ends.0, ends.1).udp(ports.0, ports.1, b"some bytes"),
        (false, true) => ip4(ends.0, ends.1).icmp(kind, 0, word, b"some bytes"),
        (true, true) => ip6(ends.0, ends.1).icmp(kind, 0, word, b"some bytes"),
    }
}

fn run(rig: &mut Rig, exchange: Exchange) {
    let Exchange { v6, ping, port, .. } = exchange;
    rig.pass_roughly(exchange.before, Duration::from_secs(1));
    let [pod, other, server] = if v6 {
        [POD6, OTHER6, SERVER6]
    } else {
        [POD_ADDR, OTHER_ADDR, SERVER]
    };
    let (at, mac, from) = if exchange.outside {
        (UPLINK, None, server)
    } else {
        (OTHER, Some(OTHER_MAC), other)
    };
    let query = packet(v6, ping, (pod, from), (port, 53), false);
    let Ok((_, out)) = one(rig, POD, from_pod(&query)) else {
        return;
    };
    let out = seen(&out);
    if exchange.luck > 0 {
        let to = out.src.to_string();
        let port = if ping && !exchange.outside {
            port
        } else {
            out.ports.0
        };
        let answer = packet(v6, ping, (from, &to), (53, port), true);
        let frame = match mac {
            Some(mac) => ethernet(GATEWAY_MAC, mac, &answer),
            None => from_outside(&answer),
        };
        let _ = one(rig, at, frame);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_table_that_is_taken_over_is_the_same(exchanges in proptest::collection::vec(exchange(), 1..40)) {
        let mut rig = rig();
        for exchange in exchanges {
            run(&mut rig, exchange);
        }
        let now = rig.now();
        let mut before = shown(rig.connections(), now);
        before.retain(|_, it| !it.state.is_embryonic() && it.expires_in > Duration::ZERO);
        let next = empty(50);
        for kept in told(rig.connections(), rig.tables(), now) {
            // As long after its process began as the other's clock says, or at once.
            prop_assert_eq!(next.take_over(&kept, rig.tables(), now), Ok(()));
        }
        prop_assert_eq!(&shown(&next, now), &before);
        let counts = |connections: &Connections| [connections.v4.len(), connections.v6.len()];
        prop_assert_eq!(counts(&next).iter().sum::<u32>() as usize, before.len());
        // And once more, by a process whose clock has just begun.
        let third = empty(50);
        for kept in told(&next, rig.tables(), now) {
            prop_assert_eq!(third.take_over(&kept, rig.tables(), Tick(0)), Ok(()));
        }
        prop_assert_eq!(&shown(&third, Tick(0)), &before);
    }
}
