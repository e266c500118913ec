//! Messages written by `netlink-packet-route`, read by ours.

use netlink_packet_core::NetlinkSerializable;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, State as LinkState,
};
use netlink_packet_route::neighbour::{
    NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage,
    NeighbourState as TheirState,
};
use netlink_packet_route::route::{
    RouteAttribute, RouteFlags, RouteMessage, RouteNextHop, RouteNextHopFlags, RouteProtocol,
    RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::*;

pub(super) fn bytes(message: &RouteNetlinkMessage) -> Vec<u8> {
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

fn read_with(message: &RouteNetlinkMessage, flags: u16) -> Option<Event> {
    let payload = bytes(message);
    decode(&Message {
        kind: message.message_type(),
        flags,
        sequence: 0,
        payload: &payload,
    })
}

fn read(message: &RouteNetlinkMessage) -> Option<Event> {
    read_with(message, 0)
}

fn addr(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

pub(super) fn a_link() -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = 7;
    message.header.flags = LinkFlags::Up | LinkFlags::Running;
    message.attributes = vec![
        LinkAttribute::IfName("cali0".into()),
        LinkAttribute::Mtu(1450),
        LinkAttribute::Address(vec![0xee; 6]),
        LinkAttribute::Link(3),
        LinkAttribute::LinkNetNsId(2),
        LinkAttribute::OperState(LinkState::Up),
        LinkAttribute::NumRxQueues(2),
        LinkAttribute::NumTxQueues(4),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Veth)]),
    ];
    message
}

pub(super) fn a_route() -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.header.destination_prefix_length = 16;
    message.header.table = 254;
    message.header.protocol = RouteProtocol::Bird;
    message.header.kind = RouteType::Unicast;
    message.attributes = vec![
        RouteAttribute::Destination(addr("10.1.0.0").into()),
        RouteAttribute::Priority(32),
        RouteAttribute::Gateway(addr("192.0.2.1").into()),
        RouteAttribute::Oif(3),
    ];
    message
}

fn entry(message: RouteMessage) -> Option<RouteEntry> {
    match read(&RouteNetlinkMessage::NewRoute(message))? {
        Event::NewRoute(entry, _) => Some(entry),
        other => panic!("{other:?}"),
    }
}

pub(super) fn a_neighbour() -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.ifindex = 3;
    message.header.state = TheirState::Stale;
    message.attributes = vec![
        NeighbourAttribute::Destination(addr("192.0.2.1").into()),
        NeighbourAttribute::LinkLayerAddress(vec![2; 6]),
        NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed),
        NeighbourAttribute::Protocol(RouteProtocol::Other(97)),
    ];
    message
}

pub(super) fn an_address() -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.index = 3;
    message.header.prefix_len = 32;
    message.header.scope = AddressScope::Link;
    message.attributes = vec![
        AddressAttribute::Address(addr("10.9.9.2")),
        AddressAttribute::Local(addr("10.9.9.1")),
        AddressAttribute::Flags(AddressFlags::Permanent | AddressFlags::Noprefixroute),
    ];
    message
}

#[test]
fn a_link_is_read_whole() {
    let Some(Event::NewLink(update)) = read(&RouteNetlinkMessage::NewLink(a_link())) else {
        panic!("not a link");
    };
    let mut link = Link::default();
    update.apply(&mut link);
    let expected = Link {
        ifindex: 7,
        name: "cali0".into(),
        mac: Some([0xee; 6]),
        mtu: 1450,
        kind: Some("veth".into()),
        admin_up: true,
        oper: OperState::Up,
        loopback: false,
        master: None,
        peer: Some(3),
        peer_netns: Some(2),
        tx_queues: 4,
        rx_queues: 2,
    };
    assert_eq!(link, expected);
}

#[test]
fn a_message_with_little_in_it_keeps_the_rest() {
    let mut link = Link {
        name: "wlan0".into(),
        mtu: 1500,
        peer: Some(9),
        ..Link::default()
    };
    let mut message = LinkMessage::default();
    message.header.index = 7;
    message.attributes = vec![LinkAttribute::IfName("wlan0".into())];
    let Some(Event::NewLink(update)) = read(&RouteNetlinkMessage::NewLink(message)) else {
        panic!("not a link");
    };
    update.apply(&mut link);
    assert_eq!((link.mtu, link.peer), (1500, Some(9)));
}

#[test]
fn a_bridges_talk_of_its_ports_is_passed_over() {
    let mut message = a_link();
    message.header.interface_family = AddressFamily::Bridge;
    assert_eq!(read(&RouteNetlinkMessage::DelLink(message)), None);
}

#[test]
fn a_point_to_point_address_has_a_peer() {
    let expected = Address {
        ifindex: 3,
        ip: addr("10.9.9.1"),
        prefix_len: 32,
        scope: 253,
        peer: Some(addr("10.9.9.2")),
        flags: libc::IFA_F_PERMANENT | libc::IFA_F_NOPREFIXROUTE,
    };
    let event = read(&RouteNetlinkMessage::NewAddress(an_address()));
    assert_eq!(event, Some(Event::NewAddress(expected)));
}

#[test]
fn a_route_is_read_whole() {
    let leg = Leg {
        gateway: Some(addr("192.0.2.1")),
        ifindex: 3,
        weight: 1,
        onlink: false,
    };
    let expected = RouteEntry {
        dst: "10.1.0.0/16".parse().expect("a prefix"),
        metric: 32,
        path: Path {
            kind: RouteKind::Unicast,
            protocol: 12,
            pref_src: None,
            nexthop_id: None,
            legs: vec![leg],
        },
    };
    assert_eq!(entry(a_route()), Some(expected));
}

#[test]
fn a_default_route_names_no_destination() {
    let mut message = a_route();
    message.header.destination_prefix_length = 0;
    message.attributes.remove(0);
    assert_eq!(
        entry(message).map(|e| e.dst.to_string()).as_deref(),
        Some("0.0.0.0/0")
    );
}

#[test]
fn an_ipv4_route_may_have_an_ipv6_gateway() {
    let mut message = a_route();
    message.attributes[2] = RouteAttribute::Via(RouteVia::from(addr("fe80::1")));
    message.header.flags = RouteFlags::Onlink;
    let leg = entry(message).expect("a route").path.legs[0];
    assert_eq!((leg.gateway, leg.onlink), (Some(addr("fe80::1")), true));
}

#[test]
fn a_multipath_route_has_all_its_legs() {
    let hop = |gateway: &str, ifindex, hops, flags| {
        let mut hop = RouteNextHop::default();
        hop.interface_index = ifindex;
        hop.hops = hops;
        hop.flags = flags;
        hop.attributes = vec![RouteAttribute::Gateway(addr(gateway).into())];
        hop
    };
    let mut message = a_route();
    message.attributes.truncate(2);
    message.attributes.push(RouteAttribute::MultiPath(vec![
        hop("192.0.2.1", 3, 0, RouteNextHopFlags::empty()),
        hop("192.0.2.2", 4, 2, RouteNextHopFlags::Onlink),
    ]));
    message.attributes.push(RouteAttribute::NhId(5));
    let path = entry(message).expect("a route").path;
    let leg = |gateway: &str, ifindex, weight, onlink| Leg {
        gateway: Some(addr(gateway)),
        ifindex,
        weight,
        onlink,
    };
    assert_eq!(
        path.legs,
        [leg("192.0.2.1", 3, 1, false), leg("192.0.2.2", 4, 3, true)]
    );
    assert_eq!(path.nexthop_id, Some(5));
}

#[test]
fn routes_that_lead_nowhere_have_no_legs() {
    for (theirs, ours) in [
        (RouteType::BlackHole, RouteKind::Blackhole),
        (RouteType::Unreachable, RouteKind::Unreachable),
        (RouteType::Prohibit, RouteKind::Prohibit),
        (RouteType::Throw, RouteKind::Unusable),
    ] {
        let mut message = a_route();
        message.header.kind = theirs;
        let path = entry(message).expect("a route").path;
        assert_eq!((path.kind, path.legs.len()), (ours, 0));
    }
}

#[test]
fn other_tables_sources_and_classes_are_passed_over() {
    let changes: [fn(&mut RouteMessage); 4] = [
        |m| m.header.table = 255,
        |m| m.attributes.push(RouteAttribute::Table(4242)),
        |m| m.header.tos = 8,
        |m| m.header.flags = RouteFlags::Cloned,
    ];
    for change in changes {
        let mut message = a_route();
        change(&mut message);
        assert_eq!(entry(message), None);
    }
}

#[test]
fn flags_tell_where_a_new_route_goes() {
    for (flags, expected) in [
        (0x400, Insert::First),
        (0x800, Insert::Last),
        (0x100, Insert::Replace),
    ] {
        let event = read_with(&RouteNetlinkMessage::NewRoute(a_route()), flags);
        assert!(matches!(event, Some(Event::NewRoute(_, insert)) if insert == expected));
    }
}

#[test]
fn a_neighbour_is_read_whole() {
    let expected = Neighbour {
        ifindex: 3,
        ip: addr("192.0.2.1"),
        mac: Some([2; 6]),
        state: NeighbourState::STALE,
        managed: true,
        protocol: 97,
    };
    let event = read(&RouteNetlinkMessage::NewNeighbour(a_neighbour()));
    assert_eq!(event, Some(Event::NewNeighbour(expected)));
    let event = read(&RouteNetlinkMessage::DelNeighbour(a_neighbour()));
    assert_eq!(event, Some(Event::DelNeighbour(3, addr("192.0.2.1"))));
}

#[test]
fn proxies_and_bridges_forwarding_entries_are_passed_over() {
    let mut proxy = a_neighbour();
    proxy.header.flags = NeighbourFlags::Proxy;
    assert_eq!(read(&RouteNetlinkMessage::NewNeighbour(proxy)), None);
    let mut forwarding = a_neighbour();
    forwarding.header.family = AddressFamily::Bridge;
    assert_eq!(read(&RouteNetlinkMessage::NewNeighbour(forwarding)), None);
}

/// The route in bytes that Linux 6.18 dumped.
fn dumped(hex: &str) -> RouteEntry {
    let digit = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal");
    let payload: Vec<u8> = (0..hex.len()).step_by(2).map(digit).collect();
    route(&payload, TABLE_MAIN).expect("a route")
}

#[test]
fn the_kernels_own_multipath_routes_are_read_whole() {
    let leg = |gateway: &str, ifindex, weight, onlink| Leg {
        gateway: Some(addr(gateway)),
        ifindex,
        weight,
        onlink,
    };
    // 198.51.100.0/24 nexthop via 192.0.2.2 dev eth0 weight 2 nexthop via inet6 2001:db8:3::2 dev eth1 onlink, of which eth1 has no carrier.
    let v4 = dumped(
        "02180000fe0c00010000000008000f00fe00000008000100c633640034000900100000010300000008000500c0000202\
         2000140005000000160012000a0020010db80003000000000000000000020000",
    );
    assert_eq!(v4.dst.to_string(), "198.51.100.0/24");
    let legs = [
        leg("192.0.2.2", 3, 2, false),
        leg("2001:db8:3::2", 5, 1, true),
    ];
    assert_eq!(v4.path.legs, legs);
    // 2001:db8:9::/48 nexthop via 2001:db8::2 dev eth0 weight 3 nexthop via 2001:db8:3::2 dev eth1
    let v6 = dumped(
        "0a300000fe0c00010000000008000f00fe0000001400010020010db80009000000000000000000000800060000040000\
         3c0009001c000002030000001400050020010db80000000000000000000000021c001000050000001400050020010db8\
         00030000000000000000000224000c0000000000000000000000000000000000000000000000000000000000000000000500140000000000",
    );
    assert_eq!(v6.dst.to_string(), "2001:db8:9::/48");
    let legs = [
        leg("2001:db8::2", 3, 3, false),
        leg("2001:db8:3::2", 5, 1, false),
    ];
    assert_eq!(v6.path.legs, legs);
}

#[test]
fn a_nexthop_object_is_spelled_out_unless_the_kernel_is_told_not_to() {
    // 203.0.113.0/24 nhid 9, as it is and with net.ipv4.nexthop_compat_mode=0.
    let start = "02180000fe0300010000000008000f00fe00000008000100cb00710008001e0009000000";
    let told = dumped(&format!("{start}08000500c00002020800040003000000"));
    let legs: Vec<_> = told.path.legs.iter().map(|leg| leg.gateway).collect();
    assert_eq!(legs, [Some(addr("192.0.2.2"))]);
    let untold = dumped(start);
    assert_eq!(
        (untold.path.nexthop_id, untold.path.legs),
        (Some(9), vec![])
    );
}
