//! Services: pods reach backends by addresses that nobody has, and see answers from there.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use fastpath::batch::Fate;
use fastpath::port::PortId;
use fastpath::reason::DropReason;
use fastpath::tables::{Services, Tables};
use flowtable::acl::Action;
use flowtable::conn::Timeouts;
use flowtable::flow::Capacity;
use flowtable::service::{self, Frontend};
use pcap_tests::build::{self, counted, ip4, ip6, udp};
use pcap_tests::rig::Rig;

use crate::node::*;
use crate::policy::{ACK, SYN, SYN_ACK, allow, endpoint, put, set, to_port};

pub(crate) const RST: u8 = 0x04;

pub(crate) const VIP: &str = "10.96.0.10";
pub(crate) const VIP6: &str = "fd00:96::a";
/// An address that others have beside a service.
const EXTERNAL: &str = "203.0.113.80";

/// Backends of one port, of one family.
pub(crate) type Behind<'a> = &'a [(&'a str, u16)];

pub(crate) fn addr(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// Services by address, protocol and port; [`VIP`] and [`VIP6`] are theirs alone.
pub(crate) fn services(of: &[(&str, u8, u16, Behind<'_>)], affinity: bool) -> Services {
    let (mut four, mut six) = (Vec::new(), Vec::new());
    for (at, protocol, port, behind) in of {
        match addr(at) {
            IpAddr::V4(at) => {
                let behind = behind
                    .iter()
                    .map(|(addr, port)| (v4(addr).to_bits(), *port));
                let frontend = Arc::new(Frontend::new(behind.collect(), affinity));
                four.push(((at.to_bits(), *protocol, *port), frontend));
            }
            IpAddr::V6(at) => {
                let behind = behind
                    .iter()
                    .map(|(addr, port)| (v6(addr).to_bits(), *port));
                let frontend = Arc::new(Frontend::new(behind.collect(), affinity));
                six.push(((at.to_bits(), *protocol, *port), frontend));
            }
        }
    }
    Services {
        v4: Arc::new(service::Services::new(four, [v4(VIP).to_bits()])),
        v6: Arc::new(service::Services::new(six, [v6(VIP6).to_bits()])),
        ..Services::default()
    }
}

pub(crate) fn with(of: &[(&str, u8, u16, Behind<'_>)]) -> Tables {
    Tables {
        services: services(of, false),
        ..tables(1024..=65_535)
    }
}

pub(crate) fn rig_with(of: &[(&str, u8, u16, Behind<'_>)]) -> Rig {
    Rig::new(with(of)).with_connections()
}

/// Has other services from now on.
pub(crate) fn change(rig: &mut Rig, of: &[(&str, u8, u16, Behind<'_>)]) {
    let tables = Tables {
        services: services(of, false),
        ..rig.tables().clone()
    };
    rig.set_tables(tables);
}

pub(crate) fn from_other(packet: &[u8]) -> Vec<u8> {
    build::ethernet(GATEWAY_MAC, OTHER_MAC, packet)
}

/// What is seen of what left, and by which port.
pub(crate) fn out(
    rig: &mut Rig,
    port: PortId,
    frame: Vec<u8>,
) -> Result<(PortId, Seen), DropReason> {
    one(rig, port, frame).map(|(to, frame)| (to, seen(&frame)))
}

pub(crate) fn ends(src: (&str, u16), dst: (&str, u16)) -> Seen {
    Seen {
        src: addr(src.0),
        dst: addr(dst.0),
        ports: (src.1, dst.1),
    }
}

#[test]
fn a_local_backend_is_reached_and_its_answers_come_from_the_service() {
    let mut rig = rig_with(&[(VIP, 6, 80, &[(OTHER_ADDR, 8080)])]);
    let there = |flags, seq, ack| from_pod(&segment4(POD_ADDR, VIP, (40_000, 80), flags, seq, ack));
    let back = |flags, seq, ack| {
        from_other(&segment4(
            OTHER_ADDR,
            POD_ADDR,
            (8080, 40_000),
            flags,
            seq,
            ack,
        ))
    };
    let at_backend = ends((POD_ADDR, 40_000), (OTHER_ADDR, 8080));
    let at_client = ends((VIP, 80), (POD_ADDR, 40_000));
    let steps = [
        (POD, there(SYN, 100, 0), (OTHER, &at_backend)),
        (OTHER, back(SYN_ACK, 200, 101), (POD, &at_client)),
        (POD, there(ACK, 101, 201), (OTHER, &at_backend)),
        (OTHER, back(ACK, 201, 101), (POD, &at_client)),
    ];
    for (from, frame, (to, expected)) in &steps {
        let said = out(&mut rig, *from, frame.clone());
        assert_eq!(said, Ok((*to, (*expected).clone())));
    }
    // And again when all is decided anew.
    crate::schedule::make_stale(&mut rig);
    for (from, frame, (to, expected)) in &steps[2..] {
        for _ in 0..2 {
            let said = out(&mut rig, *from, frame.clone());
            assert_eq!(said, Ok((*to, (*expected).clone())));
        }
    }
    assert_eq!(rig.counters().connections_made.get(), 1);
    let mut shown = Vec::new();
    let connections = Arc::clone(rig.connections());
    let lines = 0..connections.lines();
    connections.visit(lines, &Timeouts::DEFAULT, rig.now(), |it, _| {
        shown.push(*it);
    });
    let [one] = shown[..] else {
        panic!("{shown:?}")
    };
    assert_eq!((one.dst, one.dport), (addr(VIP), 80));
    assert_eq!(one.dnat, Some((addr(OTHER_ADDR), 8080)));
    assert_eq!(one.snat, None);
}

#[test]
fn a_backend_of_another_node_is_reached_by_tunnel() {
    let mut rig = rig_with(&[(VIP, 17, 53, &[(REMOTE, 5353)])]);
    let query = from_pod(&ip4(POD_ADDR, VIP).udp(5000, 53, b"query"));
    for _ in 0..2 {
        let (to, frame) = one(&mut rig, POD, query.clone()).expect("by tunnel");
        assert_eq!(to, UPLINK);
        assert_eq!(seen(&frame[50..]), ends((POD_ADDR, 5000), (REMOTE, 5353)));
        let answer = from_outside(&tunnelled(
            &ip4(REMOTE, POD_ADDR).udp(5353, 5000, b"answer"),
        ));
        let said = out(&mut rig, UPLINK, answer);
        assert_eq!(said, Ok((POD, ends((VIP, 53), (POD_ADDR, 5000)))));
    }
}

/// As `kubernetes.default` is: the API server has a node's address, which natOutgoing is about.
#[test]
fn a_backend_outside_sees_the_node_and_the_client_the_service() {
    let mut rig = rig_with(&[
        (VIP, 6, 443, &[(SERVER, 6443)]),
        (VIP6, 6, 443, &[(SERVER6, 6443)]),
    ]);
    let segment =
        |flags, seq, ack| from_pod(&segment4(POD_ADDR, VIP, (40_000, 443), flags, seq, ack));
    let (to, there) = out(&mut rig, POD, segment(SYN, 100, 0)).expect("it leaves");
    let port = there.ports.0;
    assert_eq!((to, there), (UPLINK, ends((NODE, port), (SERVER, 6443))));
    let answer =
        |flags, seq, ack| from_outside(&segment4(SERVER, NODE, (6443, port), flags, seq, ack));
    let at_client = ends((VIP, 443), (POD_ADDR, 40_000));
    let said = out(&mut rig, UPLINK, answer(SYN_ACK, 200, 101));
    assert_eq!(said, Ok((POD, at_client.clone())));
    for round in 0..3 {
        let said = out(&mut rig, POD, segment(ACK, 101, 201));
        assert_eq!(
            said,
            Ok((UPLINK, ends((NODE, port), (SERVER, 6443)))),
            "{round}"
        );
        let said = out(&mut rig, UPLINK, answer(ACK, 201, 101));
        assert_eq!(said, Ok((POD, at_client.clone())), "{round}");
        // Once by what is remembered, once decided anew.
        crate::schedule::make_stale(&mut rig);
    }
    assert_eq!(rig.connections().v4.len(), 1);

    let syn = from_pod(&ip6(POD6, VIP6).tcp(40_000, 443, SYN, &[]));
    let (to, there) = out(&mut rig, POD, syn).expect("it leaves");
    let port = there.ports.0;
    assert_eq!((to, there), (UPLINK, ends((NODE6, port), (SERVER6, 6443))));
    let answer = from_outside(&ip6(SERVER6, NODE6).tcp(6443, port, SYN_ACK, &[]));
    let said = out(&mut rig, UPLINK, answer);
    assert_eq!(said, Ok((POD, ends((VIP6, 443), (POD6, 40_000)))));
}

#[test]
fn a_pod_behind_its_own_service_sees_the_node() {
    let mut rig = rig_with(&[
        (VIP, 6, 80, &[(POD_ADDR, 8080)]),
        (VIP6, 17, 53, &[(POD6, 5353)]),
    ]);
    let syn = from_pod(&segment4(POD_ADDR, VIP, (40_000, 80), SYN, 100, 0));
    let (to, there) = out(&mut rig, POD, syn).expect("back to itself");
    let port = there.ports.0;
    assert_eq!((to, there), (POD, ends((NODE, port), (POD_ADDR, 8080))));
    for (flags, seq, ack) in [(SYN_ACK, 200, 101), (ACK, 201, 101), (ACK, 201, 101)] {
        let answer = from_pod(&segment4(POD_ADDR, NODE, (8080, port), flags, seq, ack));
        let said = out(&mut rig, POD, answer);
        assert_eq!(said, Ok((POD, ends((VIP, 80), (POD_ADDR, 40_000)))));
        let data = from_pod(&segment4(POD_ADDR, VIP, (40_000, 80), ACK, 101, 201));
        let said = out(&mut rig, POD, data);
        assert_eq!(said, Ok((POD, ends((NODE, port), (POD_ADDR, 8080)))));
        crate::schedule::make_stale(&mut rig);
    }
    assert_eq!(rig.connections().v4.len(), 1);
    let query = from_pod(&ip6(POD6, VIP6).udp(5000, 53, b"query"));
    let (to, there) = out(&mut rig, POD, query).expect("back to itself");
    assert_eq!((to, there.src, there.dst), (POD, addr(NODE6), addr(POD6)));
    // Without a service nobody's packets come back to him.
    let own = from_pod(&ip4(POD_ADDR, POD_ADDR).tcp(1, 2, SYN, &[]));
    assert!(one(&mut rig, POD, own).is_err());
}

#[test]
fn who_finds_no_endpoint_is_told_so_at_once() {
    let mut rig = rig_with(&[(VIP, 6, 80, &[]), (VIP6, 17, 53, &[])]);
    let syn = from_pod(&segment4(POD_ADDR, VIP, (40_000, 80), SYN, 100, 0));
    let other_port = from_pod(&segment4(POD_ADDR, VIP, (40_000, 81), SYN, 100, 0));
    let query = from_pod(&ip6(POD6, VIP6).udp(5000, 53, b"query"));
    for (frame, reason, kind) in [
        (&syn, DropReason::ServiceNoBackend, &[3, 3]),
        (&other_port, DropReason::ServiceNoPort, &[3, 3]),
        (&query, DropReason::ServiceNoBackend, &[1, 4]),
    ] {
        let outcome = rig.run(POD, std::slice::from_ref(frame));
        assert_eq!(outcome.fates, [Fate::Drop(reason)]);
        let told: Vec<_> = outcome.all().collect();
        let [(POD, told)] = told[..] else {
            panic!("{told:?}")
        };
        let (l3, is_v6) = (&told[14..], frame[12] == 0x86);
        let icmp = if is_v6 { &l3[40..] } else { &l3[20..] };
        assert_eq!(&icmp[..2], kind);
        assert_eq!(icmp[8..28], frame[14..34], "it quotes what was sent");
    }
    let ping = from_pod(&ip4(POD_ADDR, VIP).icmp(8, 0, 0x0007_0001, b"ping"));
    let outcome = rig.run(POD, &[ping]);
    assert_eq!(outcome.fates, [Fate::Drop(DropReason::ServiceNoPort)]);
    assert!(rig.connections().v4.is_empty() && rig.connections().v6.is_empty());
}

#[test]
fn what_is_not_a_pods_first_packet_to_a_services_port_goes_its_own_way() {
    let mut rig = rig_with(&[
        (VIP, 6, 80, &[(OTHER_ADDR, 8080)]),
        (EXTERNAL, 6, 80, &[(OTHER_ADDR, 8080)]),
    ]);
    // At another port of an address that is not the service's alone somebody else may be.
    let syn = from_pod(&segment4(POD_ADDR, EXTERNAL, (40_000, 81), SYN, 100, 0));
    let (to, there) = out(&mut rig, POD, syn).expect("by the default route");
    assert_eq!((to, there.dst, there.ports.1), (UPLINK, addr(EXTERNAL), 81));
    let syn = from_pod(&segment4(POD_ADDR, EXTERNAL, (40_000, 80), SYN, 100, 0));
    let said = out(&mut rig, POD, syn).map(|(to, _)| to);
    assert_eq!(said, Ok(OTHER));
    // The kernel's own kube-proxy has spoken already where the host sends.
    let hosts = build::ethernet(
        [2, 0, 0, 0, 0, 4],
        HOST_MAC,
        &ip4(NODE, VIP).tcp(1, 80, SYN, &[]),
    );
    let (to, there) = out(&mut rig, HOST, hosts).expect("by the default route");
    assert_eq!((to, there.dst), (UPLINK, addr(VIP)));
    // Other nodes translate before they send.
    let remote = from_outside(&tunnelled(&ip4(REMOTE, VIP).tcp(1, 80, SYN, &[])));
    let to = one(&mut rig, UPLINK, remote).map(|(to, _)| to);
    assert_ne!(to, Ok(OTHER));
}

#[test]
fn an_address_of_no_service_leads_nowhere_where_only_services_are() {
    let stray = from_pod(&segment4(POD_ADDR, "10.96.9.9", (40_000, 80), SYN, 100, 0));
    for refuses in [false, true] {
        let mut tables = with(&[]);
        let range = v4("10.96.0.0").to_bits()..=v4("10.111.255.255").to_bits();
        tables.services = Services {
            v4: Arc::new(service::Services::default().alone_in([range])),
            refuses_strays: refuses,
            ..tables.services
        };
        let mut rig = Rig::new(tables).with_connections();
        let outcome = rig.run(POD, std::slice::from_ref(&stray));
        assert_eq!(outcome.fates, [Fate::Drop(DropReason::ServiceLoop)]);
        let told: Vec<_> = outcome
            .all()
            .map(|(_, frame)| frame[34..36].to_vec())
            .collect();
        assert_eq!(told, vec![vec![3, 3]; usize::from(refuses)]);
    }
}

#[test]
fn connections_are_spread_and_an_affine_client_stays() {
    let backends: Vec<_> = (10..20).map(|n| (format!("10.65.1.{n}"), 8080)).collect();
    let behind: Vec<_> = backends
        .iter()
        .map(|(addr, port)| (addr.as_str(), *port))
        .collect();
    let chosen = |rig: &mut Rig| -> HashSet<IpAddr> {
        let ports = 0..50;
        let dst = ports.map(|n| {
            let syn = segment4(POD_ADDR, VIP, (40_000 + n, 80), SYN, 100, 0);
            let (_, frame) = one(rig, POD, from_pod(&syn)).expect("by tunnel");
            seen(&frame[50..]).dst
        });
        dst.collect()
    };
    let mut rig = rig_with(&[(VIP, 6, 80, &behind)]);
    assert!(chosen(&mut rig).len() > 5);
    let tables = Tables {
        services: services(&[(VIP, 6, 80, &behind)], true),
        ..tables(1024..=65_535)
    };
    let mut rig = Rig::new(tables).with_connections();
    assert_eq!(chosen(&mut rig).len(), 1);
}

#[test]
fn icmp_errors_quote_what_their_receiver_sent() {
    let mut rig = rig_with(&[
        (VIP, 17, 53, &[(OTHER_ADDR, 5353)]),
        (VIP, 17, 54, &[(SERVER, 5353)]),
    ]);
    // The backend's port is closed.
    let query = ip4(POD_ADDR, VIP).udp(5000, 53, b"query");
    let (_, frame) = one(&mut rig, POD, from_pod(&query)).expect("local");
    let closed = from_other(&ip4(OTHER_ADDR, POD_ADDR).icmp(3, 3, 0, &frame[14..]));
    let (to, frame) = one(&mut rig, OTHER, closed).expect("related");
    let told = seen(&frame);
    assert_eq!((to, told.src, told.dst), (POD, addr(VIP), addr(POD_ADDR)));
    assert_eq!(frame[42 + 12..42 + 28], query[12..28], "as the pod sent it");
    // The client's is.
    let answer = ip4(OTHER_ADDR, POD_ADDR).udp(5353, 5000, b"answer");
    let (_, frame) = one(&mut rig, OTHER, from_other(&answer)).expect("an answer");
    let closed = from_pod(&ip4(POD_ADDR, VIP).icmp(3, 3, 0, &frame[14..]));
    let (to, frame) = one(&mut rig, POD, closed).expect("related");
    let told = seen(&frame);
    assert_eq!(
        (to, told.src, told.dst),
        (OTHER, addr(POD_ADDR), addr(OTHER_ADDR))
    );
    assert_eq!(
        frame[42 + 12..42 + 24],
        answer[12..24],
        "as the backend sent it"
    );
    // Both ends are translated, and a router outside has no way on.
    let query = ip4(POD_ADDR, VIP).udp(5000, 54, b"query");
    let (to, frame) = one(&mut rig, POD, from_pod(&query)).expect("it leaves");
    assert_eq!((to, seen(&frame).src), (UPLINK, addr(NODE)));
    let error = ip4("203.0.113.1", NODE).icmp(3, 1, 0, &frame[14..]);
    let (to, frame) = one(&mut rig, UPLINK, from_outside(&error)).expect("related");
    assert_eq!((to, seen(&frame).dst), (POD, addr(POD_ADDR)));
    assert_eq!(frame[42 + 12..42 + 24], query[12..24], "as the pod sent it");
    assert_eq!(
        build::checksum(&frame[42..62]),
        0,
        "the quoted header's checksum"
    );
}

#[test]
fn a_narrow_tunnel_is_told_in_the_services_name() {
    let mut rig = rig_with(&[(VIP, 17, 53, &[(REMOTE, 5353)])]);
    let datagram = ip4(POD_ADDR, VIP).sealed(17, udp(5000, 53, &counted(1300)), 6);
    let (to, frame) = one(&mut rig, POD, from_pod(&datagram)).expect("by tunnel");
    assert_eq!(to, UPLINK);
    let error = ip4("172.18.0.1", NODE).icmp(3, 4, 1300, &frame[14..514]);
    let outcome = rig.run(UPLINK, &[from_outside(&error)]);
    assert_eq!(outcome.fates, [Fate::Punt]);
    let told: Vec<_> = outcome.all().collect();
    let [(POD, told)] = told[..] else {
        panic!("{told:?}")
    };
    assert_eq!(told[34..36], [3, 4]);
    assert_eq!(
        told[42 + 12..42 + 24],
        datagram[12..24],
        "as the pod sent it"
    );
    assert_eq!(build::checksum(&told[34..]), 0, "ICMP's checksum");
}

#[test]
fn no_service_makes_a_way_for_what_pods_may_not_send() {
    let mut rig = rig_with(&[(VIP, 17, 53, &[("172.18.0.3", 4789)])]);
    let query = from_pod(&ip4(POD_ADDR, VIP).udp(5000, 53, b"a tunnel's packet"));
    assert_eq!(one(&mut rig, POD, query), Err(DropReason::TunnelFromPod));
    assert!(rig.connections().v4.is_empty());
}

/// As many as by one address of the destination (`flowtable::snat::shares`), though there are two ways to it.
#[test]
fn a_services_ports_are_its_backends() {
    let mut tables = with(&[(VIP, 6, 443, &[(SERVER, 6443)])]);
    tables.nat = nat(1024..=5119, true);
    let mut rig = Rig::new(tables).with_room_for(Capacity::new(1 << 15).expect("a power of two"));
    let (mut made, mut refused) = (0, HashSet::new());
    for number in 0..4000 {
        let (dst, port) = if number % 2 == 0 {
            (VIP, 443)
        } else {
            (SERVER, 6443)
        };
        let syn = segment4(POD_ADDR, dst, (10_000 + number, port), SYN, 100, 0);
        match rig.run_now(POD, &[from_pod(&syn)]).fates[0] {
            Fate::Drop(reason) => drop(refused.insert(reason)),
            _ => made += 1,
        }
    }
    assert_eq!(
        (made, refused),
        (3072, HashSet::from([DropReason::NatPortsQuota]))
    );
}

#[test]
fn a_port_that_the_pod_uses_by_the_service_is_not_used_twice() {
    let mut rig = rig_with(&[(VIP, 6, 80, &[(OTHER_ADDR, 8080)])]);
    let by_service = from_pod(&segment4(POD_ADDR, VIP, (40_000, 80), SYN, 100, 0));
    assert!(out(&mut rig, POD, by_service).is_ok());
    let direct = from_pod(&segment4(POD_ADDR, OTHER_ADDR, (40_000, 8080), SYN, 100, 0));
    let (_, there) = out(&mut rig, POD, direct).expect("by another port");
    let port = there.ports.0;
    assert_ne!(port, 40_000);
    let answer = segment4(OTHER_ADDR, POD_ADDR, (8080, port), SYN_ACK, 200, 101);
    let said = out(&mut rig, OTHER, from_other(&answer));
    assert_eq!(
        said,
        Ok((POD, ends((OTHER_ADDR, 8080), (POD_ADDR, 40_000))))
    );
}

/// As an ingress of the host's network, whose external address is the node's.
#[test]
fn an_endpoint_at_the_services_own_address_keeps_its_connections() {
    let mut rig = rig_with(&[(SERVER, 17, 53, &[(SERVER, 53)])]);
    let query = from_pod(&ip4(POD_ADDR, SERVER).udp(5000, 53, b"query"));
    for _ in 0..3 {
        assert_eq!(
            out(&mut rig, POD, query.clone()).map(|(to, _)| to),
            Ok(UPLINK)
        );
        crate::schedule::make_stale(&mut rig);
    }
}

#[test]
fn policy_is_about_the_backend() {
    let observed = Arc::new(AtomicBool::new(true));
    let tables = with(&[
        (VIP, 6, 80, &[(OTHER_ADDR, 8080)]),
        (VIP, 6, 81, &[(OTHER_ADDR, 8081)]),
    ]);
    let mut rig = Rig::new(tables).with_records(16, &observed);
    set(&mut rig, |policies| {
        put(policies, POD, endpoint(vec![], allow()));
        let ingress = vec![
            to_port(1, Action::Allow, 8080),
            to_port(2, Action::Deny, 8081),
        ];
        put(policies, OTHER, endpoint(ingress, vec![]));
    });
    let syn = |port| from_pod(&segment4(POD_ADDR, VIP, (40_000, port), SYN, 100, 0));
    assert_eq!(out(&mut rig, POD, syn(80)).map(|(to, _)| to), Ok(OTHER));
    for _ in 0..3 {
        assert_eq!(one(&mut rig, POD, syn(81)), Err(DropReason::PolicyDeny));
    }
    let records = rig.records();
    let told: Vec<_> = records.iter().map(|it| (it.dst, it.service)).collect();
    let expected = [80, 81].map(|port| (addr(OTHER_ADDR), Some((addr(VIP), port))));
    assert_eq!(told, expected, "the denial is remembered");
    // It is judged anew with the tables, by the backend again.
    set(&mut rig, |policies| {
        put(policies, OTHER, endpoint(allow(), vec![]));
    });
    assert_eq!(out(&mut rig, POD, syn(81)).map(|(to, _)| to), Ok(OTHER));
    // What is established is judged again if that is wanted.
    let answer = segment4(OTHER_ADDR, POD_ADDR, (8080, 40_000), SYN_ACK, 200, 101);
    one(&mut rig, OTHER, from_other(&answer)).expect("an answer");
    set(&mut rig, |policies| {
        policies.reevaluate = true;
        put(
            policies,
            OTHER,
            endpoint(vec![to_port(2, Action::Deny, 8080)], vec![]),
        );
    });
    let data = from_pod(&segment4(POD_ADDR, VIP, (40_000, 80), ACK, 101, 201));
    assert_eq!(one(&mut rig, POD, data), Err(DropReason::PolicyDeny));
}

#[test]
fn a_port_that_the_pod_uses_to_the_backend_itself_is_not_used_twice() {
    let mut rig = rig_with(&[(VIP, 6, 80, &[(OTHER_ADDR, 8080)])]);
    let direct = from_pod(&segment4(POD_ADDR, OTHER_ADDR, (40_000, 8080), SYN, 100, 0));
    let said = out(&mut rig, POD, direct);
    assert_eq!(
        said,
        Ok((OTHER, ends((POD_ADDR, 40_000), (OTHER_ADDR, 8080))))
    );
    let by_service = from_pod(&segment4(POD_ADDR, VIP, (40_000, 80), SYN, 100, 0));
    let (to, there) = out(&mut rig, POD, by_service).expect("by another port");
    let port = there.ports.0;
    assert_ne!(port, 40_000);
    assert_eq!(
        (to, there),
        (OTHER, ends((POD_ADDR, port), (OTHER_ADDR, 8080)))
    );
    for (port, from) in [(port, (VIP, 80)), (40_000, (OTHER_ADDR, 8080))] {
        let answer = segment4(OTHER_ADDR, POD_ADDR, (8080, port), SYN_ACK, 200, 101);
        let said = out(&mut rig, OTHER, from_other(&answer));
        assert_eq!(said, Ok((POD, ends(from, (POD_ADDR, 40_000)))));
    }
    crate::schedule::make_stale(&mut rig);
    let data = from_pod(&segment4(POD_ADDR, VIP, (40_000, 80), ACK, 101, 201));
    let said = out(&mut rig, POD, data);
    assert_eq!(
        said,
        Ok((OTHER, ends((POD_ADDR, port), (OTHER_ADDR, 8080))))
    );
}
