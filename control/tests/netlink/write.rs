//! Each change is asked for twice: the second time must change nothing and succeed.

use std::net::IpAddr;
use std::time::Duration;

use control::netlink::write::{NewRoute, RouteTarget, VethEnd};
use control::netlink::{Mirror, Neighbour, NetNs, PROTOCOL, Writer, sysctl};
use ipnet::IpNet;
use netlink_packet_route::AddressFamily;

use crate::lab::{Lab, drain_until, ip, ip_batch, ip_json};

fn end(name: &str, last: u8) -> VethEnd {
    VethEnd {
        name: name.into(),
        mac: [2, 0, 0, 0, 0, last],
        queues: 2,
        mtu: 1400,
    }
}

fn net(text: &str) -> IpNet {
    text.parse().expect("a prefix")
}

#[test]
fn links_and_addresses_become_what_was_asked_for() {
    let Some(lab) = Lab::new("links") else { return };
    lab.run(|| {
        let mut writer = Writer::open().expect("a writer");
        writer
            .create_veth(&end("va", 1), &end("vb", 2))
            .expect("create");
        assert!(
            writer
                .create_veth(&end("va", 1), &end("vb", 2))
                .expect_err("twice")
                .is(libc::EEXIST)
        );
        let link = writer.find_link("va").expect("find").expect("a");
        assert_eq!(
            (link.mac, link.mtu, link.rx_queues, link.tx_queues),
            (Some([2, 0, 0, 0, 0, 1]), 1400, 2, 2)
        );
        for _ in 0..2 {
            writer.set_mtu(link.ifindex, 1300).expect("mtu");
            writer
                .set_mac(link.ifindex, [2, 0, 0, 0, 0, 9])
                .expect("mac");
            writer.set_arp(link.ifindex, false).expect("arp");
            writer.set_up(link.ifindex, true).expect("up");
            writer
                .add_address(link.ifindex, net("192.0.2.1/24"))
                .expect("address");
            writer
                .add_address(link.ifindex, net("2001:db8::1/64"))
                .expect("address");
        }
        let shown = &ip_json("-d addr show dev va")[0];
        assert_eq!(
            (shown["mtu"].as_u64(), shown["address"].as_str()),
            (Some(1300), Some("02:00:00:00:00:09"))
        );
        let flags = shown["flags"].as_array().expect("flags");
        assert!(
            flags.iter().any(|f| f == "NOARP") && flags.iter().any(|f| f == "UP"),
            "{flags:?}"
        );
        let mut addresses = writer.addresses(link.ifindex).expect("addresses");
        addresses.retain(|a| !a.addr().to_string().starts_with("fe80"));
        assert_eq!(addresses, [net("192.0.2.1/24"), net("2001:db8::1/64")]);
        for _ in 0..2 {
            writer
                .delete_address(link.ifindex, net("192.0.2.1/24"))
                .expect("delete");
            writer
                .delete_address(link.ifindex, net("2001:db8::1/64"))
                .expect("delete");
        }
        for _ in 0..2 {
            writer.delete_link(link.ifindex).expect("delete");
        }
        assert!(writer.find_link("vb").expect("find").is_none());
    });
}

#[test]
fn an_error_says_what_and_why() {
    let Some(lab) = Lab::new("error") else { return };
    lab.run(|| {
        let mut writer = Writer::open().expect("a writer");
        let target = RouteTarget::Link {
            ifindex: 1,
            gateway: "192.0.2.1".parse().ok(),
            onlink: false,
        };
        let route = NewRoute {
            table: 254,
            dst: net("10.0.0.0/8"),
            metric: 0,
            target,
            pref_src: None,
        };
        let text = writer
            .replace_route(&route)
            .expect_err("no such gateway")
            .to_string();
        assert!(
            text.starts_with("route 10.0.0.0/8 in table 254: "),
            "{text}"
        );
        assert!(
            text.contains("invalid gateway"),
            "the kernel's own words are missing: {text}"
        );
    });
}

#[test]
fn routes_and_rules_of_a_table_come_and_go() {
    let Some(lab) = Lab::new("routes") else {
        return;
    };
    lab.run(|| {
        ip_batch("link add va type veth peer name vb\nlink set va up\nlink set vb up\naddr add 192.0.2.1/24 dev va\n");
        let mut writer = Writer::open().expect("a writer");
        let ifindex = writer.find_link("va").expect("find").expect("a").ifindex;
        let via = |gateway: Option<&str>, onlink| RouteTarget::Link {
            ifindex,
            gateway: gateway.map(|g| g.parse().expect("an address")),
            onlink,
        };
        let route = |dst: &str, target, metric| NewRoute { table: 4242, dst: net(dst), metric, target, pref_src: None };
        let new = [
            route("10.0.0.0/16", via(Some("192.0.2.2"), false), 0),
            route("10.1.0.0/16", via(Some("203.0.113.1"), true), 5),
            route("10.2.0.0/16", via(Some("fe80::1"), true), 0),
            route("10.3.0.1/32", via(None, false), 0),
            route("10.4.0.0/16", RouteTarget::Blackhole, 0),
            route("10.5.0.0/16", RouteTarget::Unreachable, 0),
            route("2001:db8:1::/48", via(Some("fe80::1"), true), 1024),
            route("2001:db8:2::/48", RouteTarget::Blackhole, 1024),
        ];
        for _ in 0..2 {
            for route in &new {
                writer.replace_route(route).expect("replace");
            }
            writer.add_rule(AddressFamily::Inet, 100, 4242).expect("rule");
            writer.add_rule(AddressFamily::Inet6, 100, 4242).expect("rule");
        }
        let present = writer.routes(4242).expect("routes");
        assert_eq!(present.len(), new.len(), "{present:?}");
        assert!(present.iter().all(|route| route.protocol == PROTOCOL));
        for family in ["-4", "-6"] {
            let rules = ip_json(&format!("{family} rule show pref 100"));
            assert_eq!((rules.len(), rules[0]["table"].as_str()), (1, Some("4242")), "{rules:?}");
        }
        ip("route add 10.9.0.0/16 via 192.0.2.2 table 4242 proto static");
        writer.delete_route(4242, net("10.1.0.0/16"), 5).expect("delete");
        writer.delete_route(4242, net("10.1.0.0/16"), 5).expect("delete");
        for _ in 0..2 {
            writer.flush_table(4242).expect("flush");
            writer.delete_rule(AddressFamily::Inet, 100, 4242).expect("rule");
            writer.delete_rule(AddressFamily::Inet6, 100, 4242).expect("rule");
        }
        let left = writer.routes(4242).expect("routes");
        assert_eq!(left.iter().map(|r| r.dst).collect::<Vec<_>>(), [net("10.9.0.0/16")], "another's stays");
        assert!(ip_json("-6 rule show pref 100").is_empty());
    });
}

#[test]
fn managed_neighbours_get_resolved() {
    let (Some(here), Some(there)) = (Lab::new("neigh_a"), Lab::new("neigh_b")) else {
        return;
    };
    here.run(|| {
        let mut writer = Writer::open().expect("a writer");
        writer
            .create_veth(&end("va", 1), &end("vb", 2))
            .expect("create");
        let b = writer.find_link("vb").expect("find").expect("b").ifindex;
        writer.move_link(b, there.netns()).expect("move");
        there.run(|| {
            ip_batch(
                "link set vb up\naddr add 192.0.2.2/24 dev vb\naddr add 2001:db8::2/64 dev vb nodad\n",
            );
        });
        ip_batch(
            "link set va up\naddr add 192.0.2.1/24 dev va\naddr add 2001:db8::1/64 dev va nodad\n",
        );
        let mut mirror = Mirror::new().expect("a mirror");
        let link = mirror.link_by_name("va").expect("a").clone();
        assert!(link.peer_netns.is_some(), "{link:?}");
        let wanted: [IpAddr; 2] = [
            "192.0.2.2".parse().expect("v4"),
            "2001:db8::2".parse().expect("v6"),
        ];
        for ip in wanted {
            for _ in 0..2 {
                writer.resolve_neighbour(link.ifindex, ip).expect("resolve");
            }
        }
        let mut reported = Vec::new();
        drain_until(&mut mirror, |mirror, changes| {
            reported.extend(changes.neighbours.iter().copied());
            wanted.iter().all(|&ip| {
                mirror
                    .neighbour(link.ifindex, ip)
                    .and_then(Neighbour::usable_mac)
                    .is_some()
            })
        });
        for ip in wanted {
            let neighbour = mirror.neighbour(link.ifindex, ip).expect("there");
            assert_eq!(
                (neighbour.usable_mac(), neighbour.protocol),
                (Some([2, 0, 0, 0, 0, 2]), PROTOCOL)
            );
            assert!(neighbour.managed && reported.contains(&(link.ifindex, ip)));
        }
        assert_eq!(writer.own_neighbours().expect("list").len(), 2);
        there.run(|| ip("link set vb address 02:00:00:00:00:77"));
        for ip in wanted {
            for _ in 0..2 {
                writer.delete_neighbour(link.ifindex, ip).expect("delete");
            }
            writer
                .resolve_neighbour(link.ifindex, ip)
                .expect("resolve again");
        }
        drain_until(&mut mirror, |mirror, _| {
            let mac = |ip: &IpAddr| {
                mirror
                    .neighbour(link.ifindex, *ip)
                    .and_then(Neighbour::usable_mac)
            };
            wanted
                .iter()
                .all(|ip| mac(ip) == Some([2, 0, 0, 0, 0, 0x77]))
        });
    });
}

#[test]
fn sysctls_are_those_of_the_threads_namespace() {
    let Some(lab) = Lab::new("sysctl") else {
        return;
    };
    let read =
        || std::fs::read_to_string("/proc/sys/net/ipv4/conf/lo/rp_filter").expect("readable");
    let outside = read();
    let wanted = if outside.trim() == "2" { 1 } else { 2 };
    lab.run(|| {
        assert!(sysctl::set(sysctl::Tree::Ipv4, "lo", "rp_filter", wanted).expect("set"));
        assert_eq!(read().trim(), wanted.to_string());
    });
    assert_eq!(read(), outside);
}

#[test]
fn a_namespace_is_left_as_it_was_found() {
    let Some(lab) = Lab::new("netns") else { return };
    let outside = NetNs::current().expect("own").inode().expect("inode");
    let inside = lab.run(|| NetNs::current().expect("own").inode().expect("inode"));
    assert_eq!(inside, lab.netns().inode().expect("inode"));
    assert_ne!(inside, outside);
    assert_eq!(
        NetNs::current().expect("own").inode().expect("inode"),
        outside
    );
    let name = format!("car-{}-twice", std::process::id());
    let first = NetNs::create(&name).expect("create");
    assert!(NetNs::create(&name).is_err(), "the name is taken");
    assert_eq!(
        NetNs::named(&name).expect("named").inode().expect("inode"),
        first.inode().expect("inode")
    );
    for _ in 0..2 {
        NetNs::delete(&name).expect("delete");
    }
    assert!(NetNs::named(&name).is_err());
    // Held open, it is still there.
    first
        .run(|| std::thread::sleep(Duration::from_millis(1)))
        .expect("enter");
}
