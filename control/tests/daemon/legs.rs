//! A default route with two legs: flows over both, and over the other when one is down.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, UdpSocket};
use std::thread;
use std::time::Duration;

use control::netlink::NetNs;
use serde_json::Value;

use crate::lab::{Lab, NODE4, OUTSIDE4, OUTSIDE6, Pod, WIRE4, WIRE6, addr, batch, ip, run, sysctl};
use crate::packet::{Tap, octets};
use crate::process::Daemon;
use crate::traffic::{Echo, Stream, reaches};

/// The second uplink: the node's addresses there, and the router's.
const NODE4_RIGHT: &str = "192.0.3.1";
const NODE6_RIGHT: &str = "2001:db8:3::1";
const WIRE4_RIGHT: &str = "192.0.3.2";
const WIRE6_RIGHT: &str = "2001:db8:3::2";

const PACE: Duration = Duration::from_millis(20);
/// That all of so many take the same leg happens once in four million runs.
const FLOWS: usize = 23;
/// Long enough that a packet of each flow is seen.
const LOOK: Duration = Duration::from_millis(600);

/// A lab whose node has a second uplink to another router, behind which "outside" is, too.
fn two_uplinks(test: &str) -> Option<(Lab, NetNs)> {
    let mut lab = Lab::new(test)?;
    let right = lab.extra("right");
    run(&lab.node, || {
        batch(&format!(
            "link add eth1 type veth peer name eth0 netns {}\n\
             link set eth1 up\n\
             addr add {NODE4_RIGHT}/24 dev eth1\n\
             addr add {NODE6_RIGHT}/64 dev eth1 nodad\n",
            lab.part("right")
        ));
    });
    run(&right, || {
        batch(&format!(
            "link set lo up\n\
             addr add {OUTSIDE4}/32 dev lo\n\
             addr add {OUTSIDE6}/128 dev lo nodad\n\
             addr add {WIRE4_RIGHT}/24 dev eth0\n"
        ));
        right_up();
    });
    let text = fs::read_to_string(lab.config()).expect("configuration");
    let one = "  - interface: eth0\n";
    let both = text.replace(one, &format!("{one}  - interface: eth1\n"));
    assert_ne!(both, text, "no uplink to add one to");
    fs::write(lab.config(), both).expect("write");
    Some((lab, right))
}

/// Brings the right router's link up, with what went when it was down.
fn right_up() {
    batch(&format!(
        "link set eth0 up\n\
         addr replace {WIRE6_RIGHT}/64 dev eth0 nodad\n\
         route replace 10.244.0.0/16 via {NODE4_RIGHT}\n\
         route replace fd00:10:244::/48 via {NODE6_RIGHT}\n\
         route replace {NODE4}/32 via {NODE4_RIGHT}\n"
    ));
}

fn routes_over_both(lab: &Lab) {
    run(&lab.node, || {
        batch(&format!(
            "route replace default nexthop via {WIRE4} dev eth0 nexthop via {WIRE4_RIGHT} dev eth1\n\
             route del default via {WIRE6}\n\
             route add default nexthop via {WIRE6} dev eth0 nexthop via {WIRE6_RIGHT} dev eth1\n"
        ));
    });
}

/// Numbered datagrams of many flows of one family, each from a port of its own.
struct Flows {
    streams: Vec<Stream>,
    ports: BTreeSet<u16>,
    outside: IpAddr,
}

impl Flows {
    fn start(pod: &Pod, outside: &Echo) -> Self {
        let to = outside.addr();
        let from = if to.is_ipv4() { pod.v4() } else { pod.v6() };
        let mut ports = BTreeSet::new();
        let streams = (0..FLOWS).map(|_| {
            let socket = run(&pod.netns, || UdpSocket::bind((from, 0))).expect("bind");
            ports.insert(socket.local_addr().expect("bound").port());
            Stream::over(socket, to, PACE)
        });
        let streams = streams.collect();
        Self {
            streams,
            ports,
            outside: to.ip(),
        }
    }

    /// The source ports and addresses of what comes to a router.
    fn seen(&self, router: &NetNs) -> BTreeSet<(IpAddr, u16)> {
        let tap = Tap::on(router, "eth0");
        let outside = octets(self.outside);
        let udp = |frame: &Vec<u8>| {
            let (from, to, l4) = match self.outside {
                IpAddr::V4(_) => (frame.get(26..30)?, frame.get(30..34)?, frame.get(34..38)?),
                IpAddr::V6(_) => (frame.get(22..38)?, frame.get(38..54)?, frame.get(54..58)?),
            };
            let from = match *from {
                [a, b, c, d] => IpAddr::from([a, b, c, d]),
                _ => IpAddr::from(<[u8; 16]>::try_from(from).ok()?),
            };
            let is_echo = to == outside && l4[2..4] == 7_u16.to_be_bytes();
            is_echo.then(|| (from, u16::from_be_bytes([l4[0], l4[1]])))
        };
        tap.all(LOOK).iter().filter_map(udp).collect()
    }

    /// Waits until each flow is answered again.
    fn all_go_on(&self) {
        for stream in &self.streams {
            stream.wait_for_reply();
        }
    }
}

impl Drop for Flows {
    /// Ends them all at once: each waits for its last answers.
    fn drop(&mut self) {
        let ends = self.streams.drain(..);
        let ends: Vec<_> = ends
            .map(|stream| thread::spawn(move || drop(stream)))
            .collect();
        for end in ends {
            let _ = end.join();
        }
    }
}

/// The ports of what was seen.
fn ports(seen: &BTreeSet<(IpAddr, u16)>) -> BTreeSet<u16> {
    seen.iter().map(|(_, port)| *port).collect()
}

fn legs(daemon: &Daemon, to: &str) -> Vec<(bool, String)> {
    let output = daemon.caracal(&["routes", "for", to, "-o", "json"]);
    let said: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let route = said.pointer("/routes/0").or(said.pointer("/data/routes/0"));
    let legs = route.and_then(|route| route["legs"].as_array()).cloned();
    let leg = |leg: &Value| {
        let state = leg["state"].as_str().unwrap_or_default().to_owned();
        (leg["used"].as_bool().unwrap_or_default(), state)
    };
    let legs = legs.unwrap_or_else(|| panic!("no legs in {said}"));
    legs.iter().map(leg).collect()
}

#[test]
fn flows_take_both_legs_and_go_on_over_the_other_when_one_is_down() {
    let test = "legs::flows_take_both_legs_and_go_on_over_the_other_when_one_is_down";
    let Some((mut lab, right)) = two_uplinks(test) else {
        return;
    };
    routes_over_both(&lab);
    let pod = lab.pod(0);
    let mut daemon = Daemon::start(&lab);
    for outside in [OUTSIDE4, OUTSIDE6] {
        let echo = Echo::at(&lab.wire, addr(outside));
        let _other = Echo::at(&right, addr(outside));
        let from = pod.both()[usize::from(echo.addr().is_ipv6())];
        reaches(&pod.netns, from, echo.addr());
        let flows = Flows::start(&pod, &echo);
        flows.all_go_on();
        let [by_left, by_right] = [&lab.wire, &right].map(|router| ports(&flows.seen(router)));
        assert!(
            !by_left.is_empty() && !by_right.is_empty(),
            "{by_left:?} {by_right:?}"
        );
        assert!(by_left.is_disjoint(&by_right), "{by_left:?} {by_right:?}");
        let all: BTreeSet<u16> = by_left.union(&by_right).copied().collect();
        assert_eq!(all, flows.ports);
        run(&right, || ip("link set eth0 down"));
        flows.all_go_on();
        assert_eq!(
            ports(&flows.seen(&lab.wire)),
            flows.ports,
            "all that there are"
        );
        assert_eq!(legs(&daemon, outside)[1], (false, "down".to_owned()));
        run(&right, right_up);
        // Each is back where it was, and the others never left.
        let wait = || ports(&flows.seen(&right)) == by_right;
        assert!((0..20).any(|_| wait()), "they do not come back");
        assert_eq!(ports(&flows.seen(&lab.wire)), by_left);
        let ready = (true, "ready".to_owned());
        assert_eq!(legs(&daemon, outside), [ready.clone(), ready]);
    }
    daemon.finish();
}

#[test]
fn a_router_that_does_not_answer_is_left_out() {
    let Some((mut lab, right)) = two_uplinks("legs::a_router_that_does_not_answer_is_left_out")
    else {
        return;
    };
    routes_over_both(&lab);
    let pod = lab.pod(0);
    let mut daemon = Daemon::start(&lab);
    let echo = Echo::at(&lab.wire, addr(OUTSIDE4));
    let _other = Echo::at(&right, addr(OUTSIDE4));
    reaches(&pod.netns, pod.v4(), echo.addr());
    let flows = Flows::start(&pod, &echo);
    flows.all_go_on();
    run(&right, || {
        ip(&format!("addr del {WIRE4_RIGHT}/24 dev eth0"))
    });
    run(&lab.node, || ip("neigh flush dev eth1"));
    flows.all_go_on();
    assert_eq!(ports(&flows.seen(&lab.wire)), flows.ports);
    assert_eq!(legs(&daemon, OUTSIDE4)[1], (false, "failed".to_owned()));
    run(&right, || {
        ip(&format!("addr add {WIRE4_RIGHT}/24 dev eth0"));
        right_up();
    });
    let back = || !flows.seen(&right).is_empty();
    assert!((0..30).any(|_| back()), "it is never used again");
    flows.all_go_on();
    daemon.finish();
}

#[test]
fn masqueraded_flows_have_their_legs_address_and_keep_it() {
    let test = "legs::masqueraded_flows_have_their_legs_address_and_keep_it";
    let Some((mut lab, right)) = two_uplinks(test) else {
        return;
    };
    routes_over_both(&lab);
    lab.masquerade();
    // What left by the other uplink before is answered by this one.
    run(&lab.wire, || {
        ip(&format!("route add {NODE4_RIGHT}/32 via {NODE4}"))
    });
    let pod = lab.pod(0);
    let mut daemon = Daemon::start(&lab);
    let echo = Echo::at(&lab.wire, addr(OUTSIDE4));
    let _other = Echo::at(&right, addr(OUTSIDE4));
    reaches(&pod.netns, pod.v4(), echo.addr());
    let flows = Flows::start(&pod, &echo);
    flows.all_go_on();
    let by_left = flows.seen(&lab.wire);
    let by_right = flows.seen(&right);
    let from = |seen: &BTreeSet<(IpAddr, u16)>| -> BTreeSet<IpAddr> {
        seen.iter().map(|(from, _)| *from).collect()
    };
    assert_eq!(from(&by_left), BTreeSet::from([addr(NODE4)]));
    assert_eq!(from(&by_right), BTreeSet::from([addr(NODE4_RIGHT)]));
    run(&right, || ip("link set eth0 down"));
    flows.all_go_on();
    let all: BTreeSet<_> = by_left.union(&by_right).copied().collect();
    assert_eq!(flows.seen(&lab.wire), all, "each with the source it had");
    // Whose share it is now: the left one's. Who has the right one's address stays all the same.
    run(&right, right_up);
    assert!(
        (0..20).any(|_| flows.seen(&right) == by_right),
        "they do not come back"
    );
    run(&lab.node, || {
        ip(&format!(
            "route replace default nexthop via {WIRE4} dev eth0 weight 200 \
             nexthop via {WIRE4_RIGHT} dev eth1 weight 1"
        ))
    });
    // A connection that begins after it shows that the route is in force.
    thread::sleep(LOOK);
    flows.all_go_on();
    assert_eq!(
        flows.seen(&right),
        by_right,
        "each by the uplink of its address"
    );
    daemon.finish();
}

#[test]
fn legs_by_nexthop_objects_are_the_same() {
    let Some((mut lab, right)) = two_uplinks("legs::legs_by_nexthop_objects_are_the_same") else {
        return;
    };
    run(&lab.node, || {
        // The kernel's default: it spells out what the objects stand for.
        sysctl("ipv4/nexthop_compat_mode", "1");
        batch(&format!(
            "nexthop add id 1 via {WIRE4} dev eth0\n\
             nexthop add id 2 via {WIRE4_RIGHT} dev eth1\n\
             nexthop add id 9 group 1/2\n\
             route replace default nhid 9\n"
        ));
    });
    let pod = lab.pod(0);
    let mut daemon = Daemon::start(&lab);
    let echo = Echo::at(&lab.wire, addr(OUTSIDE4));
    let _other = Echo::at(&right, addr(OUTSIDE4));
    reaches(&pod.netns, pod.v4(), echo.addr());
    let flows = Flows::start(&pod, &echo);
    flows.all_go_on();
    assert!(!flows.seen(&lab.wire).is_empty() && !flows.seen(&right).is_empty());
    // Another weight of a member, and then a member less.
    run(&lab.node, || ip("nexthop replace id 9 group 1"));
    let moved = || flows.seen(&lab.wire).len() == FLOWS;
    assert!(
        (0..20).any(|_| moved()),
        "the group that changed is not followed"
    );
    flows.all_go_on();
    daemon.finish();
}
