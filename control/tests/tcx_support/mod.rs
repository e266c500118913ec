//! What the tests of the flows' programs share: packets with right checksums, flows, and what the Rust code makes of both.
#![expect(
    unreachable_pub,
    reason = "a module of several test crates, each of which uses its own part"
)]

use std::net::{IpAddr, Ipv4Addr};

use control::offload::flow::{Action, From, Key, Way};
use encap::ecn::Ecn;
use encap::eth::{self, EtherType, MacAddr};
use encap::nat::{self, Tuple};
use encap::outer::{Family, Inner, Kind, Macs, Overlay, Rewrite, Tunnel};
use encap::vxlan::{self, Vni};
use encap::{checksum, ipv4, ipv6};

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const PSH: u8 = 8;
pub const ACK: u8 = 16;

/// What pods know the node by.
pub const GATEWAY: MacAddr = MacAddr([0xee; 6]);
pub const POD_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x10]);
pub const UPLINK_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
pub const VTEP_MAC: MacAddr = MacAddr([0x66, 0, 0, 0, 0, 1]);
pub const VXLAN_PORT: u16 = 4789;
pub const LOCAL: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub const PEER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

/// A packet of TCP or UDP.
#[derive(Clone, Debug)]
pub struct Packet {
    pub protocol: u8,
    pub src: (IpAddr, u16),
    pub dst: (IpAddr, u16),
    pub ttl: u8,
    pub tos: u8,
    pub id: u16,
    pub dont_fragment: bool,
    pub flags: u8,
    pub seq: u32,
    pub ack: u32,
    pub window: u16,
    pub payload: Vec<u8>,
    /// UDP over IPv4 without a checksum.
    pub no_checksum: bool,
}

impl Packet {
    pub fn new(protocol: u8, src: (IpAddr, u16), dst: (IpAddr, u16)) -> Self {
        Self {
            protocol,
            src,
            dst,
            ttl: 64,
            tos: 0,
            id: 7,
            dont_fragment: true,
            flags: ACK,
            seq: 1000,
            ack: 2000,
            window: 500,
            payload: b"payload".to_vec(),
            no_checksum: false,
        }
    }

    /// The key of its flow.
    pub fn key(&self, from: From) -> Key {
        Key {
            from,
            protocol: self.protocol,
            src: self.src,
            dst: self.dst,
        }
    }

    fn segment(&self) -> Vec<u8> {
        let mut bytes = self.src.1.to_be_bytes().to_vec();
        bytes.extend(self.dst.1.to_be_bytes());
        if self.protocol == UDP {
            bytes.extend((8 + self.payload.len() as u16).to_be_bytes());
            bytes.extend([0, 0]);
        } else {
            bytes.extend(self.seq.to_be_bytes());
            bytes.extend(self.ack.to_be_bytes());
            bytes.extend([0x50, self.flags]);
            bytes.extend(self.window.to_be_bytes());
            bytes.extend([0; 4]);
        }
        bytes.extend(&self.payload);
        bytes
    }

    /// The IP packet.
    pub fn ip(&self) -> Vec<u8> {
        let mut segment = self.segment();
        let len = segment.len() as u16;
        let at = if self.protocol == UDP { 6 } else { 16 };
        let mut pseudo = Vec::new();
        let mut ip = Vec::new();
        match (self.src.0, self.dst.0) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                ip.extend([0x45, self.tos]);
                ip.extend((20 + len).to_be_bytes());
                ip.extend(self.id.to_be_bytes());
                ip.extend([
                    u8::from(self.dont_fragment) << 6,
                    0,
                    self.ttl,
                    self.protocol,
                    0,
                    0,
                ]);
                ip.extend(src.octets());
                ip.extend(dst.octets());
                fix_header(&mut ip);
                pseudo.extend(&ip[12..]);
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                ip.extend([0x60 | self.tos >> 4, self.tos << 4 | 3, 2, 1]);
                ip.extend(len.to_be_bytes());
                ip.extend([self.protocol, self.ttl]);
                ip.extend(src.octets());
                ip.extend(dst.octets());
                pseudo.extend(&ip[8..]);
            }
            _ => panic!("ends of two families"),
        }
        pseudo.extend([0, self.protocol]);
        pseudo.extend(len.to_be_bytes());
        pseudo.extend(&segment);
        if !self.no_checksum {
            let sum = match checksum::of(&pseudo) {
                0 if self.protocol == UDP => 0xffff,
                sum => sum,
            };
            segment[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        }
        ip.extend(segment);
        ip
    }

    /// The frame, from and to these.
    pub fn frame(&self, macs: Macs) -> Vec<u8> {
        in_ethernet(macs, &self.ip())
    }
}

/// Makes the checksum of the IPv4 header in front of these bytes right.
pub fn fix_header(ip: &mut [u8]) {
    let len = usize::from(ip[0] & 15) * 4;
    ip[10..12].fill(0);
    let sum = checksum::of(&ip[..len]);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
}

pub fn in_ethernet(macs: Macs, ip: &[u8]) -> Vec<u8> {
    let ethertype = if ip[0] >> 4 == 6 {
        EtherType::IPV6
    } else {
        EtherType::IPV4
    };
    let mut frame = eth::header(macs.dst, macs.src, ethertype).to_vec();
    frame.extend(ip);
    frame
}

/// From a pod to its node.
pub const FROM_POD: Macs = Macs {
    dst: GATEWAY,
    src: POD_MAC,
};
/// From a router to the uplink.
pub const TO_UPLINK: Macs = Macs {
    dst: UPLINK_MAC,
    src: MacAddr([2, 0, 0, 0, 0, 2]),
};
/// From the node to a pod.
pub const TO_POD: Macs = Macs {
    dst: POD_MAC,
    src: GATEWAY,
};
/// From the uplink to a router.
pub const TO_ROUTER: Macs = Macs {
    dst: MacAddr([2, 0, 0, 0, 0, 2]),
    src: UPLINK_MAC,
};

/// What goes around the packets of our tunnels to a peer.
pub fn rewrite(kind: Kind, macs: Macs) -> Rewrite {
    let tunnel = Tunnel {
        src: LOCAL.into(),
        dst: PEER.into(),
    };
    match kind {
        Kind::Ethernet => Rewrite::ethernet(macs),
        Kind::Ipip => Rewrite::ipip(macs, tunnel, 64),
        Kind::Vxlan4 | Kind::Vxlan6 => Rewrite::vxlan4(macs, tunnel, overlay()),
    }
}

pub fn overlay() -> Overlay {
    Overlay {
        port: VXLAN_PORT,
        vni: Vni::CALICO,
        macs: Macs {
            dst: MacAddr([0x66, 0, 0, 0, 0, 2]),
            src: VTEP_MAC,
        },
    }
}

/// An action without translation.
pub fn action(out: u32, way: Way, rewrite: Rewrite) -> Action {
    Action {
        out,
        way,
        mtu: 1450,
        from_mac: None,
        peer: None,
        rewrite,
        flow_hash: 0x1234_5678,
        source: None,
        destination: None,
    }
}

/// The frame that a peer sends by its tunnel: outer headers of its own writing.
pub fn by_tunnel(kind: Kind, ip: &[u8], tos: u8) -> Vec<u8> {
    let mut outer = vec![0x45, tos];
    let mut inside = Vec::new();
    let protocol = if kind == Kind::Ipip {
        4
    } else {
        inside.extend([0xc1, 0x23]);
        inside.extend(VXLAN_PORT.to_be_bytes());
        inside.extend((8 + 8 + 14 + ip.len() as u16).to_be_bytes());
        inside.extend([0, 0]);
        inside.extend(vxlan::header(Vni::CALICO));
        inside.extend(
            &in_ethernet(
                Macs {
                    dst: VTEP_MAC,
                    src: MacAddr([0x66, 0, 0, 0, 0, 2]),
                },
                ip,
            )[..14],
        );
        UDP
    };
    inside.extend(ip);
    outer.extend((20 + inside.len() as u16).to_be_bytes());
    outer.extend([0, 9, 0x40, 0, 60, protocol, 0, 0]);
    outer.extend(PEER.octets());
    outer.extend(LOCAL.octets());
    fix_header(&mut outer);
    outer.extend(inside);
    in_ethernet(TO_UPLINK, &outer)
}

/// What the pollers' code makes of an IP packet by an action, as `fastpath::stage::apply` has it done.
pub fn expected(ip: &[u8], action: &Action) -> Vec<u8> {
    let mut ip = ip.to_vec();
    let inner = if ip[0] >> 4 == 4 {
        let info = ipv4::parse(&ip).expect("IPv4");
        let ports = ports_of(&ip, 20);
        let to = Tuple {
            src: v4(action.source, info.src),
            dst: v4(action.destination, info.dst),
            ports: translated(action, ports),
        };
        if action.source.is_some() || action.destination.is_some() {
            nat::translate4(&mut ip, &info, to).expect("translated");
        }
        ipv4::decrement_ttl(&mut ip).expect("TTL left");
        let hash = match action.rewrite.kind() {
            Kind::Ipip if info.dont_fragment() => 0,
            _ => action.flow_hash,
        };
        Inner {
            len: info.total_len,
            family: Family::V4,
            ecn: Ecn::of(info.tos),
            dont_fragment: info.dont_fragment(),
            flow_hash: hash,
            id: info.id.wrapping_add((hash >> 16) as u16),
        }
    } else {
        let info = ipv6::parse(&ip).expect("IPv6");
        let ports = ports_of(&ip, 40);
        let to = Tuple {
            src: v6(action.source, info.src),
            dst: v6(action.destination, info.dst),
            ports: translated(action, ports),
        };
        if action.source.is_some() || action.destination.is_some() {
            nat::translate6(&mut ip, &info, to).expect("translated");
        }
        ipv6::decrement_hop_limit(&mut ip).expect("hop limit left");
        Inner {
            len: info.total_len() as u16,
            family: Family::V6,
            ecn: Ecn::of(info.traffic_class),
            dont_fragment: true,
            flow_hash: action.flow_hash,
            id: (action.flow_hash >> 16) as u16,
        }
    };
    let mut frame = vec![0; action.rewrite.len()];
    frame.extend(&ip);
    action.rewrite.write(&mut frame, &inner).expect("written");
    frame
}

fn ports_of(ip: &[u8], at: usize) -> (u16, u16) {
    let port = |at| u16::from_be_bytes([ip[at], ip[at + 1]]);
    (port(at), port(at + 2))
}

fn translated(action: &Action, ports: (u16, u16)) -> (u16, u16) {
    (
        action.source.map_or(ports.0, |end| end.1),
        action.destination.map_or(ports.1, |end| end.1),
    )
}

fn v4(end: Option<(IpAddr, u16)>, otherwise: u32) -> u32 {
    match end {
        Some((IpAddr::V4(address), _)) => address.into(),
        _ => otherwise,
    }
}

fn v6(end: Option<(IpAddr, u16)>, otherwise: u128) -> u128 {
    match end {
        Some((IpAddr::V6(address), _)) => address.into(),
        _ => otherwise,
    }
}

/// A frame as it is sent to the pollers: its destination says what that was, and by which device it came.
pub fn tagged(frame: &[u8], kind: u8, ifindex: u32) -> Vec<u8> {
    let mut tagged = frame.to_vec();
    tagged[..2].copy_from_slice(&[kind, 0]);
    tagged[2..6].copy_from_slice(&ifindex.to_be_bytes());
    tagged
}
