//! What is sent: packets with a name, each with an identification of its own by which what comes out is matched.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use crate::frame::{
    Check, ICMP, IPIP, Ip4, Ip6, TCP, TYPE_IPV4, TYPE_IPV6, UDP, Vxlan, ethernet, filler, icmp,
    tcp, udp,
};
use crate::plan::{
    GATEWAY_MAC, Mac, NODE, NODE_MAC, NODE4, NODE6, OUTSIDE4, OUTSIDE6, PEER1, PEER1_4, PEER1_6,
    PEER1_MAC, PEER1_POD4, PEER1_POD6, POD1_4, POD1_6, POD1_MAC, ROUTER_MAC, vtep4, vtep6,
};

/// A link of the node under test, seen from its far end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Side {
    Pod1,
    Pod2,
    Wire,
}

impl Side {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Pod1 => "pod1",
            Self::Pod2 => "pod2",
            Self::Wire => "wire",
        }
    }
}

/// The innermost packet's identification (IPv4) or flow label (IPv6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Key {
    Id(u16),
    Label(u32),
}

/// A frame to be sent into both nodes.
#[derive(Clone, Debug)]
pub(crate) struct Probe {
    pub(crate) name: String,
    pub(crate) side: Side,
    pub(crate) key: Key,
    pub(crate) frame: Vec<u8>,
    /// Whether the answer takes seconds: a neighbour that must fail first.
    pub(crate) slow: bool,
}

/// The packets of one test.
#[derive(Debug, Default)]
pub(crate) struct Script {
    probes: Vec<Probe>,
    last: u16,
}

/// Identifications below are given out in order; scripts may use these by themselves.
pub(crate) const OWN_IDS: Range<u16> = 0x8000..0xf000;

impl Script {
    pub(crate) fn probes(&self) -> &[Probe] {
        &self.probes
    }

    /// An identification that no other packet has.
    pub(crate) fn id(&mut self) -> u16 {
        self.last += 1;
        assert!(self.last < OWN_IDS.start);
        self.last
    }

    /// A frame as it is.
    pub(crate) fn frame(&mut self, name: impl Into<String>, side: Side, key: Key, frame: Vec<u8>) {
        let name = name.into();
        let mut others = self.probes.iter();
        if let Some(other) = others.find(|other| other.name == name || other.key == key) {
            panic!("{name} has the name or the key of {}", other.name);
        }
        self.probes.push(Probe {
            name,
            side,
            key,
            frame,
            slow: false,
        });
    }

    /// Says that the answer to the packet before takes seconds.
    pub(crate) fn takes_time(&mut self) {
        self.probes.last_mut().expect("a packet").slow = true;
    }

    /// A UDP packet from pod 1 to the world, or as `change` has it.
    pub(crate) fn out4(&mut self, name: &str, change: impl FnOnce(&mut Ip4)) {
        let id = self.id();
        self.ip4(
            &format!("out/{name}"),
            Side::Pod1,
            id,
            udp4(POD1_4, OUTSIDE4, 32),
            change,
        );
    }

    /// The same from the world to pod 1.
    pub(crate) fn in4(&mut self, name: &str, change: impl FnOnce(&mut Ip4)) {
        let id = self.id();
        self.ip4(
            &format!("in/{name}"),
            Side::Wire,
            id,
            udp4(OUTSIDE4, POD1_4, 32),
            change,
        );
    }

    /// The same packet both ways.
    pub(crate) fn both4(&mut self, name: &str, change: impl Fn(&mut Ip4)) {
        self.out4(name, &change);
        self.in4(name, &change);
    }

    /// An IPv4 packet.
    pub(crate) fn ip4(
        &mut self,
        name: &str,
        side: Side,
        id: u16,
        mut ip: Ip4,
        change: impl FnOnce(&mut Ip4),
    ) {
        ip.id = id;
        change(&mut ip);
        let (dst, src) = macs(side);
        let frame = ethernet(dst, src, TYPE_IPV4, &ip.bytes());
        self.frame(name, side, Key::Id(id), frame);
    }

    /// A UDP packet from pod 1 to the world, or as `change` has it.
    pub(crate) fn out6(&mut self, name: &str, change: impl FnOnce(&mut Ip6)) {
        self.ip6(
            &format!("out/{name}"),
            Side::Pod1,
            udp6(POD1_6, OUTSIDE6, 32),
            change,
        );
    }

    /// The same from the world to pod 1.
    pub(crate) fn in6(&mut self, name: &str, change: impl FnOnce(&mut Ip6)) {
        self.ip6(
            &format!("in/{name}"),
            Side::Wire,
            udp6(OUTSIDE6, POD1_6, 32),
            change,
        );
    }

    /// The same packet both ways.
    pub(crate) fn both6(&mut self, name: &str, change: impl Fn(&mut Ip6)) {
        self.out6(name, &change);
        self.in6(name, &change);
    }

    /// An IPv6 packet.
    pub(crate) fn ip6(
        &mut self,
        name: &str,
        side: Side,
        mut ip: Ip6,
        change: impl FnOnce(&mut Ip6),
    ) {
        ip.label = u32::from(self.id());
        let key = Key::Label(ip.label);
        change(&mut ip);
        let (dst, src) = macs(side);
        let frame = ethernet(dst, src, TYPE_IPV6, &ip.bytes());
        self.frame(name, side, key, frame);
    }

    /// A UDP packet in VXLAN from a pod of peer 1 to pod 1, or as `change` has it.
    pub(crate) fn decap4(
        &mut self,
        name: &str,
        change: impl FnOnce(&mut Ip4, &mut Vxlan, &mut Ip4),
    ) {
        let id = self.id();
        let mut outer = Ip4::new(PEER1_4, NODE4, UDP, Vec::new());
        let mut vxlan = Vxlan::new(vtep4(NODE), vtep4(PEER1), TYPE_IPV4);
        let mut inner = udp4(PEER1_POD4, POD1_4, 32);
        (outer.id, inner.id) = (id, id);
        change(&mut outer, &mut vxlan, &mut inner);
        let inner = [inner.bytes(), std::mem::take(&mut outer.payload)].concat();
        outer.payload = vxlan.bytes(&(outer.src, outer.dst), &inner);
        let frame = ethernet(NODE_MAC, PEER1_MAC, TYPE_IPV4, &outer.bytes());
        self.frame(format!("decap/{name}"), Side::Wire, Key::Id(id), frame);
    }

    /// The same in IPIP.
    pub(crate) fn decap_ipip(&mut self, name: &str, change: impl FnOnce(&mut Ip4, &mut Ip4)) {
        let id = self.id();
        let mut outer = Ip4::new(PEER1_4, NODE4, IPIP, Vec::new());
        let mut inner = udp4(PEER1_POD4, POD1_4, 32);
        (outer.id, inner.id) = (id, id);
        change(&mut outer, &mut inner);
        outer.payload = [inner.bytes(), std::mem::take(&mut outer.payload)].concat();
        let frame = ethernet(NODE_MAC, PEER1_MAC, TYPE_IPV4, &outer.bytes());
        self.frame(format!("decap/{name}"), Side::Wire, Key::Id(id), frame);
    }

    /// The same in VXLAN over IPv6.
    pub(crate) fn decap6(
        &mut self,
        name: &str,
        change: impl FnOnce(&mut Ip6, &mut Vxlan, &mut Ip6),
    ) {
        let label = u32::from(self.id());
        let mut outer = Ip6::new(PEER1_6, NODE6, UDP, Vec::new());
        let mut vxlan = Vxlan::new(vtep6(NODE), vtep6(PEER1), TYPE_IPV6);
        vxlan.check = Check::Right;
        let mut inner = udp6(PEER1_POD6, POD1_6, 32);
        (outer.label, inner.label) = (label, label);
        change(&mut outer, &mut vxlan, &mut inner);
        outer.payload = vxlan.bytes(&(outer.src, outer.dst), &inner.bytes());
        let frame = ethernet(NODE_MAC, PEER1_MAC, TYPE_IPV6, &outer.bytes());
        self.frame(
            format!("decap/{name}"),
            Side::Wire,
            Key::Label(label),
            frame,
        );
    }
}

/// Destination and source of a frame that the node takes from this side.
pub(crate) fn macs(side: Side) -> (Mac, Mac) {
    match side {
        Side::Pod1 => (GATEWAY_MAC, POD1_MAC),
        Side::Pod2 => (GATEWAY_MAC, crate::plan::POD2_MAC),
        Side::Wire => (NODE_MAC, ROUTER_MAC),
    }
}

/// A UDP packet with `len` bytes of data.
pub(crate) fn udp4(src: Ipv4Addr, dst: Ipv4Addr, len: usize) -> Ip4 {
    let payload = udp(&(src, dst), (40_000, 8080), &filler(len), Check::Right);
    Ip4::new(src, dst, UDP, payload)
}

/// A UDP packet with `len` bytes of data.
pub(crate) fn udp6(src: Ipv6Addr, dst: Ipv6Addr, len: usize) -> Ip6 {
    let payload = udp(&(src, dst), (40_000, 8080), &filler(len), Check::Right);
    Ip6::new(src, dst, UDP, payload)
}

/// Makes an IPv4 packet one of exactly `len` bytes.
pub(crate) fn stretch(ip: &mut Ip4, len: usize) {
    let data = filler(len - 28 - ip.options.len());
    ip.payload = udp(&(ip.src, ip.dst), (40_000, 8080), &data, Check::Right);
}

/// The same for IPv6.
pub(crate) fn stretch6(ip: &mut Ip6, len: usize) {
    let data = filler(len - 48);
    ip.payload = udp(&(ip.src, ip.dst), (40_000, 8080), &data, Check::Right);
}

/// Makes an IPv4 packet one to `dst`, with checksums that agree.
pub(crate) fn send_to(ip: &mut Ip4, dst: Ipv4Addr) {
    ip.dst = dst;
    let len = 20 + ip.options.len() + ip.payload.len();
    stretch(ip, len);
}

/// The same for IPv6.
pub(crate) fn send_to6(ip: &mut Ip6, dst: Ipv6Addr) {
    ip.dst = dst;
    let len = 40 + ip.payload.len();
    stretch6(ip, len);
}

/// Makes an IPv4 packet one from `src`, with checksums that agree.
pub(crate) fn send_from(ip: &mut Ip4, src: Ipv4Addr) {
    ip.src = src;
    let dst = ip.dst;
    send_to(ip, dst);
}

/// The same for IPv6.
pub(crate) fn send_from6(ip: &mut Ip6, src: Ipv6Addr) {
    ip.src = src;
    let dst = ip.dst;
    send_to6(ip, dst);
}

/// Makes an IPv4 packet a TCP segment.
pub(crate) fn make_tcp(ip: &mut Ip4, len: usize, check: Check) {
    ip.protocol = TCP;
    ip.payload = tcp(&(ip.src, ip.dst), 0x18, &filler(len), check);
}

/// Makes an IPv4 packet an ICMP message; echo messages bear the packet's identification.
pub(crate) fn make_icmp(ip: &mut Ip4, kind: u8, code: u8) {
    ip.protocol = ICMP;
    let [id0, id1] = ip.id.to_be_bytes();
    ip.payload = icmp(kind, code, [id0, id1, 0, 1], &filler(40), Check::Right);
}
