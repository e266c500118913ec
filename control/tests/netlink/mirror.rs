//! The mirror against `ip -j`.

use std::collections::BTreeSet;
use std::time::Duration;

use control::netlink::{Mirror, MirrorOptions, RouteKind};
use ipnet::IpNet;

use crate::lab::{Lab, drain_until, ip, ip_batch, ip_json};
use crate::oracle::{compare_routes, follow_until_same, kernel_routes};

/// A namespace with a little of everything.
const SCENE: &str = "
link add eth0 type veth peer name eth0-p
link add eth1 mtu 1400 type veth peer name eth1-p
link add br0 type bridge
link set eth1-p master br0
link set eth0 up
link set eth0-p up
link set eth1 up
link set eth1-p up
link set br0 up
addr add 192.0.2.1/24 dev eth0
addr add 192.0.2.11/24 dev eth0
addr add 198.51.100.1/24 dev eth1
addr add 10.9.9.1 peer 10.9.9.2/32 dev eth1
addr add 2001:db8::1/64 dev eth0 nodad
addr add 2001:db8:1::1/64 dev eth1 nodad
route add default via 192.0.2.254
route add 10.0.0.0/24 via 192.0.2.2 proto bird metric 32
route add 10.0.0.0/24 via 192.0.2.3 metric 100
route add 10.0.1.0/24 nexthop via 192.0.2.2 weight 3 nexthop via 198.51.100.2
route add blackhole 10.0.2.0/26 proto 80
route add unreachable 10.0.3.0/24
route add prohibit 10.0.4.0/24
route add 10.0.5.0/24 via 203.0.113.9 dev eth0 onlink
route add 10.0.6.0/24 via inet6 2001:db8::9 dev eth0
route add 10.0.7.0/24 via 192.0.2.2 src 192.0.2.11
route add 10.0.8.8 dev eth1 scope link
route add 10.0.9.0/24 via 192.0.2.2 table 77
route add default via 2001:db8::fe
route add 2001:db8:10::/48 via 2001:db8::2 metric 10
route add 2001:db8:11::/48 nexthop via 2001:db8::2 nexthop via 2001:db8:1::2 weight 2
route add blackhole 2001:db8:12::/48
route add unreachable 2001:db8:13::/48
neigh add 192.0.2.2 lladdr 02:00:00:00:00:02 dev eth0 nud permanent
neigh add 192.0.2.3 lladdr 02:00:00:00:00:03 dev eth0 nud stale
neigh add 2001:db8::2 lladdr 02:00:00:00:00:22 dev eth0 nud reachable
";

fn scene() {
    ip_batch(SCENE.trim_start());
}

#[test]
fn a_dump_equals_what_ip_shows() {
    let Some(lab) = Lab::new("dump") else { return };
    lab.run(|| {
        scene();
        let mut mirror = Mirror::new().expect("a mirror");
        follow_until_same(&mut mirror, "after the dump");
        let (end, peer) = (
            mirror.link_by_name("eth0").expect("eth0"),
            mirror.link_by_name("eth0-p").expect("eth0-p"),
        );
        assert_eq!(
            (end.peer, peer.peer),
            (Some(peer.ifindex), Some(end.ifindex))
        );
        assert!(
            mirror
                .route("10.0.9.0/24".parse().expect("a prefix"))
                .is_none(),
            "another table's"
        );
    });
}

#[test]
fn lookups_take_the_route_that_the_kernel_takes() {
    let Some(lab) = Lab::new("lookup") else {
        return;
    };
    lab.run(|| {
        scene();
        let mirror = Mirror::new().expect("a mirror");
        for address in [
            "10.0.0.7",
            "10.0.8.8",
            "8.8.8.8",
            "192.0.2.77",
            "10.0.6.1",
            "2001:db8:10::1",
            "2001:db9::1",
            "2001:db8::5",
        ] {
            let kernel = &ip_json(&format!("route get {address}"))[0];
            let route = mirror
                .lookup(address.parse().expect("an address"))
                .expect("a route");
            let leg = route.legs.first().expect("a leg");
            let via = kernel["gateway"]
                .as_str()
                .or(kernel["via"]["host"].as_str());
            assert_eq!(
                leg.gateway.map(|ip| ip.to_string()).as_deref(),
                via,
                "{address}"
            );
            assert_eq!(
                Some(mirror.link(leg.ifindex).expect("a link").name.as_str()),
                kernel["dev"].as_str(),
                "{address}"
            );
        }
        assert_eq!(
            mirror
                .lookup("10.0.2.1".parse().expect("an address"))
                .map(|r| r.kind),
            Some(RouteKind::Blackhole)
        );
    });
}

/// Each step, then a comparison of everything.
const STEPS: &[&str] = &[
    "route replace 10.0.0.0/24 via 192.0.2.9 metric 32",
    "route del 10.0.0.0/24 metric 32",
    "route append 10.0.7.0/24 via 192.0.2.8",
    "route prepend 10.0.7.0/24 via 192.0.2.7",
    "route del 10.0.7.0/24 via 192.0.2.7",
    "route replace 10.0.1.0/24 nexthop via 192.0.2.5 nexthop via 192.0.2.6",
    "route change 10.0.3.0/24 via 192.0.2.2",
    "route del 10.0.2.0/26",
    "-6 route append 2001:db8:10::/48 via 2001:db8::3 metric 10",
    "-6 route append 2001:db8:10::/48 via 2001:db8:1::4 metric 10",
    "-6 route del 2001:db8:10::/48 via 2001:db8::2 metric 10",
    "-6 route replace 2001:db8:11::/48 via 2001:db8::7",
    "-6 route add 2001:db8:10::/48 via 2001:db8::8 metric 5",
    "-6 route del 2001:db8:10::/48 metric 5",
    "-6 route del 2001:db8:12::/48",
    "route add 10.1.0.0/16 nexthop via 192.0.2.2 nexthop via 198.51.100.2",
    "nexthop add id 7 via 192.0.2.2 dev eth0",
    "nexthop add id 8 via 198.51.100.3 dev eth1",
    "nexthop add id 9 group 7/8",
    "route add 10.2.0.0/16 nhid 7",
    "route add 10.3.0.0/16 nhid 9",
    "nexthop replace id 7 via 192.0.2.3 dev eth0",
    "nexthop replace id 9 group 8",
    "nexthop del id 7",
    "link set eth1 mtu 1300",
    "addr del 192.0.2.11/24 dev eth0",
    "neigh change 192.0.2.2 lladdr 02:00:00:00:00:99 dev eth0 nud permanent",
    "neigh del 192.0.2.3 dev eth0",
    "-6 neigh add 2001:db8::77 lladdr 02:00:00:00:00:77 dev eth0 nud permanent",
    "link set eth1-p nomaster",
    "link set eth1 down",
    "link set eth1 up",
    "addr flush dev eth1",
    "addr add 198.51.100.1/24 dev eth1",
    "route add 10.4.0.0/16 via 198.51.100.9",
    "route add 10.5.0.0/16 nexthop via 192.0.2.2 nexthop via 198.51.100.9",
    "addr flush dev eth1",
    "addr add 198.51.100.1/24 dev eth1",
    "route add 10.4.0.0/16 via 198.51.100.9",
    "link set eth1 down",
    "link set eth1 name eth9",
    "link set eth9 up",
    "link add extra type bridge",
    "link set extra up",
    "addr add 203.0.113.1/24 dev extra",
    "link del eth9",
    "link del extra",
    "link set eth0 down",
];

#[test]
fn changes_are_followed_step_by_step() {
    let Some(lab) = Lab::new("follow") else {
        return;
    };
    lab.run(|| {
        scene();
        let options = MirrorOptions {
            resync_interval: Duration::ZERO,
            ..MirrorOptions::default()
        };
        let mut mirror = Mirror::with_options(options).expect("a mirror");
        for step in STEPS {
            ip(step);
            follow_until_same(&mut mirror, step);
        }
        assert_eq!(mirror.overruns(), 0);
    });
}

#[test]
fn a_change_is_reported_once_with_the_best_route_there_is() {
    let Some(lab) = Lab::new("report") else {
        return;
    };
    lab.run(|| {
        scene();
        let mut mirror = Mirror::new().expect("a mirror");
        mirror.drain().expect("drain");
        for metric in [50, 40, 30, 20] {
            ip(&format!(
                "route add 10.77.0.0/16 via 192.0.2.2 metric {metric}"
            ));
        }
        ip("route del 10.77.0.0/16 metric 20");
        ip("route add 10.0.0.0/24 via 192.0.2.4 metric 200");
        let dst: IpNet = "10.77.0.0/16".parse().expect("a prefix");
        let changes = mirror.drain().expect("drain");
        let [(changed, Some(route))] = &changes.routes[..] else {
            panic!("{:?}", changes.routes)
        };
        assert_eq!(
            (*changed, route.metric),
            (dst, 30),
            "not the prefix whose best route stayed"
        );
        ip("route flush 10.77.0.0/16");
        assert_eq!(mirror.drain().expect("drain").routes, [(dst, None)]);
    });
}

#[test]
fn a_hundred_thousand_routes_come_in_as_changes() {
    const COUNT: u32 = 100_000;
    let Some(lab) = Lab::new("many") else { return };
    lab.run(|| {
        scene();
        let mut mirror = Mirror::new().expect("a mirror");
        let base = mirror.route_count();
        let line = |i: u32, verb: &str| {
            let (a, b, c) = (20 + i / 62_500, i / 250 % 250, i % 250);
            format!("route {verb} {a}.{b}.{c}.0/24 via 192.0.2.{}\n", 2 + i % 4)
        };
        let batch = |range: std::ops::Range<u32>, verb: &str| {
            range.map(|i| line(i, verb)).collect::<String>()
        };
        let mut reported = BTreeSet::new();
        // The kernel takes some 400 bytes of receive buffer for each: let the mirror read while they come.
        let add = batch(0..COUNT, "add");
        std::thread::scope(|scope| {
            let netns = lab.netns();
            scope.spawn(move || netns.run(|| ip_batch(&add)).expect("enter"));
            drain_until(&mut mirror, |mirror, changes| {
                reported.extend(changes.routes.iter().map(|(dst, _)| *dst));
                mirror.route_count() == base + COUNT as usize
            });
        });
        assert_eq!(reported.len(), COUNT as usize);
        let resyncs = mirror.resyncs();
        ip_batch(&batch(500..1500, "del"));
        let mut gone = BTreeSet::new();
        drain_until(&mut mirror, |_, changes| {
            gone.extend(
                changes
                    .routes
                    .iter()
                    .filter(|(_, route)| route.is_none())
                    .map(|(dst, _)| *dst),
            );
            gone.len() == 1000
        });
        assert_eq!(mirror.route_count(), base + COUNT as usize - 1000);
        assert_eq!(compare_routes(&mirror), Ok(()));
        assert_eq!(
            mirror.resyncs(),
            resyncs,
            "1,000 changes are brought in one by one"
        );
    });
}

#[test]
fn an_overrun_ends_in_the_kernels_state() {
    let Some(lab) = Lab::new("overrun") else {
        return;
    };
    lab.run(|| {
        scene();
        let options = MirrorOptions {
            receive_buffer: 4096,
            resync_interval: Duration::from_millis(50),
        };
        let mut mirror = Mirror::with_options(options).expect("a mirror");
        let lines = (0..2000).fold(String::new(), |lines, i| {
            lines + &format!("route add 20.{}.{}.0/24 via 192.0.2.2\n", i / 250, i % 250)
        });
        ip_batch(&lines);
        ip("link set eth1 mtu 1280");
        let mut reported = BTreeSet::new();
        let expected = kernel_routes().len();
        drain_until(&mut mirror, |mirror, changes| {
            reported.extend(changes.routes.iter().map(|(dst, _)| *dst));
            mirror.route_count() == expected && mirror.resync_due().is_none()
        });
        assert!(mirror.overruns() > 0, "the buffer was not too small");
        assert!(mirror.resyncs() > 0);
        assert_eq!(reported.len(), 2000);
        follow_until_same(&mut mirror, "after an overrun");
    });
}

#[test]
fn resyncs_are_kept_apart() {
    let Some(lab) = Lab::new("apart") else { return };
    lab.run(|| {
        let options = MirrorOptions {
            resync_interval: Duration::from_hours(1),
            ..MirrorOptions::default()
        };
        let mut mirror = Mirror::with_options(options).expect("a mirror");
        mirror.request_resync();
        assert!(
            mirror.drain().expect("drain").resynced,
            "the first is not put off"
        );
        mirror.request_resync();
        assert!(!mirror.drain().expect("drain").resynced, "the second is");
        assert!(mirror.resync_due().is_some());
        assert_eq!(mirror.resyncs(), 1);
    });
}
