//! The table against a list of routes that is searched from end to end.

use proptest::prelude::*;

use super::*;
use crate::netlink::model::Leg;

/// Routes as the kernel keeps them for IPv4: in order, the first of the lowest metric is the best.
#[derive(Default)]
struct Naive(Vec<(IpNet, u32, Path)>);

impl Naive {
    fn insert(&mut self, dst: IpNet, metric: u32, path: &Path, insert: Insert) {
        let peer = |r: &(IpNet, u32, Path)| r.0 == dst && r.1 == metric;
        let equal = |r: &(IpNet, u32, Path)| peer(r) && r.2 == *path;
        let first = self.0.iter().position(peer);
        let route = (dst, metric, path.clone());
        match (insert, first) {
            (Insert::Replace, Some(at)) => {
                // One that a dump showed already, and that is told again.
                let again = self.0.iter().position(equal).filter(|&again| again != at);
                self.0[at] = route;
                again.map(|again| self.0.remove(again));
            }
            _ if self.0.iter().any(equal) => {}
            (Insert::First, Some(at)) => self.0.insert(at, route),
            _ => self.0.push(route),
        }
    }

    fn remove(&mut self, dst: IpNet, metric: u32, path: &Path) {
        self.0.retain(|r| (r.0, r.1, &r.2) != (dst, metric, path));
    }

    fn best(&self, dst: IpNet) -> Option<&(IpNet, u32, Path)> {
        // The first of several equal ones.
        self.0.iter().filter(|r| r.0 == dst).min_by_key(|r| r.1)
    }

    fn lookup(&self, ip: IpAddr) -> Option<&(IpNet, u32, Path)> {
        let longest = self
            .0
            .iter()
            .filter(|r| r.0.contains(&ip))
            .map(|r| r.0.prefix_len())
            .max()?;
        self.best(IpNet::new(ip, longest).ok()?.trunc())
    }
}

fn path(gateway: u8) -> Path {
    let gateway = IpAddr::from([192, 0, 2, gateway]);
    let leg = Leg {
        gateway: Some(gateway),
        ifindex: 3,
        weight: 1,
        onlink: false,
    };
    Path {
        kind: RouteKind::Unicast,
        protocol: 4,
        pref_src: None,
        nexthop_id: None,
        legs: vec![leg],
    }
}

fn path_v6(gateways: &[u16]) -> Path {
    let leg = |&gateway: &u16| {
        let gateway = Some(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, gateway).into());
        Leg {
            gateway,
            ifindex: 3,
            weight: 1,
            onlink: false,
        }
    };
    Path {
        legs: gateways.iter().map(leg).collect(),
        ..path(1)
    }
}

fn net(text: &str) -> IpNet {
    text.parse().expect("a prefix")
}

#[derive(Clone, Debug)]
enum Step {
    Insert(IpNet, u32, u8, Insert),
    Remove(IpNet, u32, u8),
    /// All routes over one gateway.
    Flush(u8),
}

fn prefix() -> impl Strategy<Value = IpNet> {
    (0u8..=32, 0u8..4, 0u8..4).prop_map(|(len, b, d)| {
        Ipv4Net::new([10, b, 0, d].into(), len)
            .expect("a length")
            .trunc()
            .into()
    })
}

fn step() -> impl Strategy<Value = Step> {
    let insert = prop_oneof![
        Just(Insert::First),
        Just(Insert::Last),
        Just(Insert::Replace)
    ];
    prop_oneof![
        6 => (prefix(), 0u32..3, 1u8..5, insert).prop_map(|(d, m, g, i)| Step::Insert(d, m, g, i)),
        3 => (prefix(), 0u32..3, 1u8..5).prop_map(|(d, m, g)| Step::Remove(d, m, g)),
        1 => (1u8..5).prop_map(Step::Flush),
    ]
}

proptest! {
    #[test]
    fn the_table_equals_a_list_searched_from_end_to_end(steps in prop::collection::vec(step(), 1..80)) {
        let (mut table, mut naive) = (RouteTable::default(), Naive::default());
        for step in steps {
            let before: Vec<_> = naive.0.clone();
            let old = Naive(before);
            let mut reported = Vec::new();
            match step {
                Step::Insert(dst, metric, gateway, insert) => {
                    naive.insert(dst, metric, &path(gateway), insert);
                    if table.insert(dst, metric, path(gateway), insert) { reported.push(dst); }
                }
                Step::Remove(dst, metric, gateway) => {
                    naive.remove(dst, metric, &path(gateway));
                    if table.remove(dst, metric, &path(gateway)) { reported.push(dst); }
                }
                Step::Flush(gateway) => {
                    naive.0.retain(|r| r.2 != path(gateway));
                    reported = table.remove_where(Families::V4, |p| *p == path(gateway));
                }
            }
            let text = |r: Option<&(IpNet, u32, Path)>| r.cloned();
            let ours = |r: Option<Route>| r.map(|r| (r.dst, r.metric, (*r.path).clone()));
            let prefixes: std::collections::BTreeSet<IpNet> = old.0.iter().chain(&naive.0).map(|r| r.0).collect();
            for dst in prefixes {
                prop_assert_eq!(ours(table.get(dst)), text(naive.best(dst)));
                prop_assert_eq!(reported.contains(&dst), old.best(dst) != naive.best(dst), "{}", dst);
            }
            for ip in [[10, 0, 0, 0], [10, 1, 0, 3], [10, 3, 7, 7], [11, 0, 0, 1]] {
                prop_assert_eq!(ours(table.lookup(ip.into())), text(naive.lookup(ip.into())));
            }
        }
        // Nothing is kept for routes that are gone.
        for (dst, metric, path) in std::mem::take(&mut naive.0) {
            table.remove(dst, metric, &path);
        }
        prop_assert_eq!((table.len(), table.v4.others.len(), table.paths.ids.len()), (0, 0, 0));
    }

    #[test]
    fn a_difference_names_exactly_what_changed(
        old in prop::collection::vec((prefix(), 0u32..3, 1u8..5), 0..30),
        new in prop::collection::vec((prefix(), 0u32..3, 1u8..5), 0..30),
    ) {
        let build = |routes: &[(IpNet, u32, u8)]| {
            let mut table = RouteTable::default();
            for &(dst, metric, gateway) in routes {
                table.insert(dst, metric, path(gateway), Insert::Last);
            }
            table
        };
        let (a, b) = (build(&old), build(&new));
        let mut difference = a.diff(&b);
        difference.sort();
        let prefixes: std::collections::BTreeSet<IpNet> = old.iter().chain(&new).map(|r| r.0).collect();
        let expected: Vec<IpNet> = prefixes.into_iter().filter(|&dst| a.get(dst) != b.get(dst)).collect();
        prop_assert_eq!(difference, expected);
    }
}

#[test]
fn legs_of_an_ipv6_route_come_and_go_one_by_one() {
    let dst = net("2001:db8::/32");
    let mut table = RouteTable::default();
    let legs = |table: &RouteTable| table.get(dst).map(|route| route.legs.len());
    assert!(table.insert(dst, 1024, path_v6(&[1]), Insert::First));
    // The message about an appended leg names all.
    assert!(table.insert(dst, 1024, path_v6(&[1, 2]), Insert::Last));
    assert!(table.insert(dst, 1024, path_v6(&[1, 2, 3]), Insert::Last));
    assert_eq!((legs(&table), table.v6.others.len()), (Some(3), 0));
    assert!(table.remove(dst, 1024, &path_v6(&[2])));
    assert_eq!(
        table.get(dst).map(|r| r.legs.clone()),
        Some(path_v6(&[1, 3]).legs)
    );
    assert!(!table.remove(dst, 1024, &path_v6(&[2])), "it is gone");
    assert!(!table.remove(dst, 512, &path_v6(&[1])), "of another metric");
    assert!(table.remove(dst, 1024, &path_v6(&[3, 1])));
    assert_eq!((table.len(), table.paths.ids.len()), (0, 0));
}

#[test]
fn an_ipv6_route_over_another_interface_is_another_route() {
    let dst = net("fe80::/64");
    let on = |ifindex| {
        let leg = Leg {
            gateway: None,
            ifindex,
            weight: 1,
            onlink: false,
        };
        Path {
            legs: vec![leg],
            ..path(1)
        }
    };
    let mut table = RouteTable::default();
    for ifindex in 1..4 {
        table.insert(dst, 256, on(ifindex), Insert::First);
    }
    assert!(table.remove(dst, 256, &on(1)));
    assert_eq!(table.get(dst).map(|r| r.legs[0].ifindex), Some(2));
}

#[test]
fn a_million_routes_take_less_than_a_hundred_megabytes() {
    let mut table = RouteTable::default();
    for i in 0..1_000_000u32 {
        let dst = Ipv4Net::new(Ipv4Addr::from_bits(0x0100_0000 + (i << 8)), 24).expect("a length");
        let dst6 = Ipv6Net::new(Ipv6Addr::from_bits(u128::from(i) << 80 | 0x2 << 124), 48)
            .expect("a length");
        table.insert(dst.into(), 0, path((i % 200) as u8), Insert::First);
        if i < 200_000 {
            table.insert(dst6.into(), 1024, path_v6(&[i as u16 % 200]), Insert::First);
        }
    }
    let bytes = table.v4.best.allocation_size() + table.v6.best.allocation_size();
    assert_eq!((table.len(), table.paths.ids.len()), (1_200_000, 400));
    assert!(bytes < 100 << 20, "{bytes}");
    assert_eq!(
        table.lookup([1, 2, 3, 4].into()).map(|r| r.dst),
        Some(net("1.2.3.0/24"))
    );
}
