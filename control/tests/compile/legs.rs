//! Routes with several legs, and which are used.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use control::compile::{
    Compiler, KernelHop, KernelLeg, KernelView, LegState, PortRole, RouteKind, RouteState,
};
use control::trace::{Ask, trace};
use encap::eth::MacAddr;
use encap::flow_hash::{self, HashKey};
use encap::outer::Kind;
use fastpath::group::{BUCKETS, Group};
use fastpath::reason::DropReason;
use fastpath::tables::{NextHop, Tables, Way};
use ipnet::IpNet;

use super::{HOST_MAC, desired, ip, net, port};

const LEFT: u32 = 2;
const RIGHT: u32 = 3;
const LEFT_GATEWAY: &str = "192.168.0.1";
const RIGHT_GATEWAY: &str = "192.168.1.1";
const WORLD: &str = "203.0.113.7";

/// Two uplinks, a router behind each.
#[derive(Default)]
struct Kernel {
    routes: BTreeMap<IpNet, KernelHop>,
    macs: BTreeMap<(u32, IpAddr), MacAddr>,
    failed: BTreeSet<IpAddr>,
    down: BTreeSet<u32>,
}

impl KernelView for Kernel {
    fn route(&self, addr: IpAddr) -> Option<KernelHop> {
        let holding = self.routes.iter().filter(|(net, _)| net.contains(&addr));
        holding
            .max_by_key(|(net, _)| net.prefix_len())
            .map(|(_, hop)| hop.clone())
    }

    fn exact(&self, prefix: IpNet) -> Option<KernelHop> {
        self.routes.get(&prefix).cloned()
    }

    fn mac(&self, ifindex: u32, addr: IpAddr) -> Option<MacAddr> {
        self.macs.get(&(ifindex, addr)).copied()
    }

    fn has_failed(&self, _: u32, addr: IpAddr) -> bool {
        self.failed.contains(&addr)
    }

    fn is_up(&self, ifindex: u32) -> bool {
        !self.down.contains(&ifindex)
    }
}

fn mac(last: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, last])
}

fn leg(gateway: &str, ifindex: u32, weight: u16) -> KernelLeg {
    KernelLeg {
        gateway: Some(ip(gateway)),
        ifindex,
        weight,
    }
}

fn kernel(weights: (u16, u16)) -> Kernel {
    let mut kernel = Kernel::default();
    let legs = |left, right| {
        KernelHop::Legs(vec![
            leg(left, LEFT, weights.0),
            leg(right, RIGHT, weights.1),
        ])
    };
    let v4 = legs(LEFT_GATEWAY, RIGHT_GATEWAY);
    kernel.routes.insert(net("0.0.0.0/0"), v4);
    let v6 = legs("2001:db8::1", "2001:db8:1::1");
    kernel.routes.insert(net("::/0"), v6);
    for (ifindex, addr, last) in [
        (LEFT, LEFT_GATEWAY, 1),
        (RIGHT, RIGHT_GATEWAY, 2),
        (LEFT, "2001:db8::1", 3),
        (RIGHT, "2001:db8:1::1", 4),
    ] {
        kernel.macs.insert((ifindex, ip(addr)), mac(last));
    }
    kernel
}

/// A node with both uplinks, and node `b` far away.
fn compiler(kernel: &Kernel, pool: &str) -> Compiler {
    let mut compiler = Compiler::new(HashKey([1, 2]));
    for (name, ifindex, role) in [
        ("eth0", LEFT, PortRole::Uplink),
        ("eth1", RIGHT, PortRole::Uplink),
        ("cali1", 4, PortRole::Pod),
        ("caracal0", 9, PortRole::Host(HOST_MAC)),
    ] {
        compiler.ports_mut().insert(port(name, ifindex, role));
    }
    compiler
        .set_desired(desired(pool, "198.51.100.12/24"), kernel)
        .unwrap();
    let routes = kernel.routes.iter().map(|(net, hop)| (*net, Some(hop)));
    compiler.kernel_routes(routes).unwrap();
    compiler
}

fn made(kernel: &Kernel) -> Tables {
    compiler(kernel, "ipipMode: Never").tables(kernel)
}

fn hop_to<'t>(tables: &'t Tables, addr: &str) -> &'t NextHop {
    tables.next_hop(match ip(addr) {
        IpAddr::V4(addr) => tables.fib4.lookup(addr.into()),
        IpAddr::V6(addr) => tables.fib6.lookup(addr.into()),
    })
}

fn group_to(tables: &Tables, addr: &str) -> Group {
    match hop_to(tables, addr) {
        NextHop::Group(group) => *group,
        other => panic!("{other:?} is no group"),
    }
}

/// How many buckets lead to each MAC address; an unresolved leg is that of zeros.
fn by_mac(tables: &Tables, addr: &str) -> BTreeMap<MacAddr, usize> {
    let group = group_to(tables, addr);
    let mut found = BTreeMap::new();
    for hash in 0..BUCKETS as u32 {
        let mac = match tables.next_hop(group.pick(tables, hash)) {
            NextHop::Send(adjacency) => adjacency.rewrite.macs().dst,
            NextHop::Resolve(_) => MacAddr([0; 6]),
            other => panic!("{other:?}"),
        };
        *found.entry(mac).or_default() += 1;
    }
    found
}

/// The only MAC address that packets go to.
fn only_mac(tables: &Tables, addr: &str) -> MacAddr {
    match hop_to(tables, addr) {
        NextHop::Send(adjacency) => adjacency.rewrite.macs().dst,
        other => panic!("{other:?} is not one way"),
    }
}

#[test]
fn flows_go_over_all_legs_as_the_weights_say() {
    let tables = made(&kernel((1, 3)));
    for (addr, macs) in [(WORLD, [1, 2]), ("2001:db8:f::1", [3, 4])] {
        let found = by_mac(&tables, addr);
        let [light, heavy] = macs.map(|last| found[&mac(last)]);
        assert_eq!(light + heavy, BUCKETS);
        assert!(
            (0.22..0.28).contains(&(light as f64 / BUCKETS as f64)),
            "{found:?}"
        );
        let group = group_to(&tables, addr);
        assert_eq!((group.way, group.peer.0), (Way::Uplink, 0));
    }
}

#[test]
fn a_leg_that_is_down_or_does_not_answer_is_left_out_while_another_works() {
    let mut kernel = kernel((1, 1));
    let mut compiler = compiler(&kernel, "ipipMode: Never");
    assert_eq!(by_mac(&compiler.tables(&kernel), WORLD).len(), 2);
    kernel.down.insert(LEFT);
    let tables = compiler.tables(&kernel);
    assert_eq!(only_mac(&tables, WORLD), mac(2));
    assert_eq!(only_mac(&tables, "2001:db8:f::1"), mac(4));
    kernel.down.clear();
    kernel.failed.insert(ip(RIGHT_GATEWAY));
    kernel.macs.remove(&(RIGHT, ip(RIGHT_GATEWAY)));
    assert_eq!(only_mac(&compiler.tables(&kernel), WORLD), mac(1));
    // Nobody answers: whoever is asked first again.
    kernel.failed.insert(ip(LEFT_GATEWAY));
    kernel.macs.remove(&(LEFT, ip(LEFT_GATEWAY)));
    let unresolved = by_mac(&compiler.tables(&kernel), WORLD);
    assert_eq!(unresolved, BTreeMap::from([(MacAddr([0; 6]), BUCKETS)]));
    // Nothing is up: as the kernel, the first.
    kernel.down.extend([LEFT, RIGHT]);
    let tables = compiler.tables(&kernel);
    assert!(matches!(hop_to(&tables, WORLD), NextHop::Resolve(_)));
}

#[test]
fn a_leg_whose_neighbour_was_not_asked_yet_is_waited_for() {
    let mut kernel = kernel((1, 1));
    kernel.macs.remove(&(LEFT, ip(LEFT_GATEWAY)));
    let compiler = compiler(&kernel, "ipipMode: Never");
    let wanted = compiler.wanted_neighbours(&kernel);
    assert!(wanted.contains(&(LEFT, ip(LEFT_GATEWAY))));
    assert!(wanted.contains(&(RIGHT, ip(RIGHT_GATEWAY))));
    let mut compiler = compiler;
    let found = by_mac(&compiler.tables(&kernel), WORLD);
    assert!(
        found[&MacAddr([0; 6])] > 0 && found[&mac(2)] > 0,
        "{found:?}"
    );
}

#[test]
fn a_leg_that_is_no_uplink_is_left_out() {
    let mut kernel = kernel((1, 1));
    let legs = vec![leg(LEFT_GATEWAY, LEFT, 1), leg("192.0.2.1", 77, 9)];
    kernel
        .routes
        .insert(net("0.0.0.0/0"), KernelHop::Legs(legs));
    assert_eq!(only_mac(&made(&kernel), WORLD), mac(1));
}

#[test]
fn what_goes_moves_only_its_own_flows_whatever_made_it_go() {
    let mut kernel = kernel((1, 1));
    let third = leg("192.168.0.3", LEFT, 1);
    kernel.macs.insert((LEFT, third.gateway.unwrap()), mac(9));
    let three = vec![
        leg(LEFT_GATEWAY, LEFT, 1),
        leg(RIGHT_GATEWAY, RIGHT, 1),
        third,
    ];
    let of = |tables: &Tables| -> Vec<MacAddr> {
        let group = group_to(tables, WORLD);
        let dst = |hash| match tables.next_hop(group.pick(tables, hash)) {
            NextHop::Send(adjacency) => adjacency.rewrite.macs().dst,
            other => panic!("{other:?}"),
        };
        (0..BUCKETS as u32).map(dst).collect()
    };
    let default = net("0.0.0.0/0");
    kernel
        .routes
        .insert(default, KernelHop::Legs(three.clone()));
    let mut compiler = compiler(&kernel, "ipipMode: Never");
    let before = of(&compiler.tables(&kernel));
    // By its link.
    kernel.down.insert(RIGHT);
    let without = of(&compiler.tables(&kernel));
    for (before, after) in before.iter().zip(&without) {
        assert!(before == after || *before == mac(2));
    }
    // By its route: the same flows go the same ways.
    kernel.down.clear();
    let two = KernelHop::Legs(vec![three[2], three[0]]);
    compiler.kernel_routes([(default, Some(&two))]).unwrap();
    assert_eq!(of(&compiler.tables(&kernel)), without);
    // And back.
    let three = KernelHop::Legs(three);
    compiler.kernel_routes([(default, Some(&three))]).unwrap();
    assert_eq!(of(&compiler.tables(&kernel)), before);
}

#[test]
fn tunnels_and_plain_ways_to_a_node_take_all_legs_of_the_underlay() {
    let kernel = kernel((1, 1));
    for (pool, way, kind) in [
        ("vxlanMode: Always", Way::Tunnel, Kind::Vxlan4),
        ("ipipMode: Always", Way::Tunnel, Kind::Ipip),
        ("ipipMode: Never", Way::Uplink, Kind::Ethernet),
    ] {
        let mut compiler = compiler(&kernel, pool);
        let tables = compiler.tables(&kernel);
        let group = group_to(&tables, "10.65.1.5");
        assert_eq!(group.way, way, "{pool}");
        assert_ne!(group.peer.0, 0, "{pool}");
        let NextHop::Send(first) = tables.next_hop(group.first) else {
            panic!("{pool}: no MAC address");
        };
        assert_eq!(first.rewrite.kind(), kind, "{pool}");
        assert_eq!((first.way, first.peer), (group.way, group.peer), "{pool}");
        let found = by_mac(&tables, "10.65.1.5");
        assert_eq!(found.keys().copied().collect::<Vec<_>>(), [mac(1), mac(2)]);
        // Which is the default route's, too: the same legs, one spread.
        assert_eq!(group.spread, group_to(&tables, WORLD).spread);
        let view = compiler.route_to(ip("10.65.1.5"), &kernel).unwrap();
        assert_eq!(view.legs.len(), 2);
        assert_eq!(view.node.as_deref(), Some("b"));
    }
}

#[test]
fn people_see_all_legs() {
    let mut kernel = kernel((1, 3));
    kernel.failed.insert(ip(LEFT_GATEWAY));
    kernel.macs.remove(&(LEFT, ip(LEFT_GATEWAY)));
    let compiler = compiler(&kernel, "ipipMode: Never");
    let view = compiler.route_to(ip(WORLD), &kernel).unwrap();
    assert_eq!(
        (view.kind, view.state, view.via, view.dev),
        (RouteKind::Gateway, RouteState::Ready, None, None)
    );
    let [left, right] = &*view.legs else {
        panic!("{:?}", view.legs)
    };
    assert_eq!((left.state, left.used), (LegState::Failed, false));
    assert_eq!((left.weight, left.share_percent), (1, 0));
    assert_eq!((right.state, right.used), (LegState::Ready, true));
    assert_eq!((right.weight, right.share_percent), (3, 100));
    assert_eq!(right.via, Some(ip(RIGHT_GATEWAY)));
    assert_eq!(right.dev.as_deref(), Some("eth1"));
    kernel.down.insert(RIGHT);
    let view = compiler.route_to(ip(WORLD), &kernel).unwrap();
    assert_eq!(view.state, RouteState::Unresolved);
    assert_eq!(view.legs[1].state, LegState::Down);
    assert!(!view.legs[1].used);
}

#[test]
fn one_leg_is_no_group() {
    let mut kernel = kernel((1, 1));
    let one = KernelHop::Legs(vec![leg(LEFT_GATEWAY, LEFT, 4)]);
    kernel.routes.insert(net("0.0.0.0/0"), one);
    let tables = made(&kernel);
    assert_eq!(only_mac(&tables, WORLD), mac(1));
    kernel
        .routes
        .insert(net("0.0.0.0/0"), KernelHop::Unreachable);
    let nowhere = NextHop::Drop(DropReason::Unreachable);
    assert_eq!(*hop_to(&made(&kernel), WORLD), nowhere);
}

#[test]
fn a_trace_names_the_leg_of_the_flow() {
    let kernel = kernel((1, 1));
    let mut compiler = compiler(&kernel, "ipipMode: Never");
    let tables = compiler.tables(&kernel);
    let mut devs = BTreeSet::new();
    for port in 5000..5032 {
        let ask = Ask {
            from: "prod/web".to_owned(),
            to: WORLD.to_owned(),
            protocol: "udp".to_owned(),
            port: 53,
            source_port: port,
        };
        let text = trace(&compiler, &tables, None, None, &ask)
            .unwrap()
            .to_string();
        assert!(text.contains("the route has several legs"), "{text}");
        let group = group_to(&tables, WORLD);
        let source = std::net::Ipv4Addr::new(10, 65, 0, 2).to_bits();
        let IpAddr::V4(world) = ip(WORLD) else {
            panic!("IPv4 here")
        };
        let hash = flow_hash::v4(&tables.hash_key, source, world.into(), 17, (port, 53));
        let (_, _, out) = tables.next_hop(group.pick(&tables, hash)).origin().unwrap();
        let name = &compiler.ports().get(out).unwrap().name;
        assert!(
            text.contains(&format!("{WORLD} by {name}, plain")),
            "{text}"
        );
        devs.insert(name.clone());
    }
    assert_eq!(devs.len(), 2);
}
