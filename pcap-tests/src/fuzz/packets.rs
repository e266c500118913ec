//! Whole packets: the pipeline with connections, translation and tunnels, and captures.

use std::io::Cursor;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use encap::eth::MacAddr;
use encap::outer::Macs;
use encap::{ipv4, l4};
use fastpath::batch::PeerId;
use fastpath::capture::Reader;
use fastpath::port::{PodPort, Port, PortId, PortKind};
use fastpath::tables::{Nat, Services, Tables, Way};
use flowtable::service::{self, Frontend, ServiceAddr};
use flowtable::snat::{NatPools, Pool, Ports};

use crate::judge;
use crate::rig::{Outcome, Rig};
use crate::show;
use crate::world::{Hop, To, World};

/// The node's address on the underlay, that of another node, and pods.
pub(super) const NODE: Ipv4Addr = Ipv4Addr::new(172, 18, 0, 2);
pub(super) const PEER: Ipv4Addr = Ipv4Addr::new(172, 18, 0, 3);
pub(super) const POD: Ipv4Addr = Ipv4Addr::new(10, 65, 0, 2);
pub(super) const REMOTE: Ipv4Addr = Ipv4Addr::new(10, 66, 0, 2);
pub(super) const OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
pub(super) const POD6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x65, 0, 0, 0, 0, 0, 2);
pub(super) const OUTSIDE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 7);
/// A service's, and so nobody's.
pub(super) const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
pub(super) const SERVICE6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, 0xa);
const NODE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x18, 0, 0, 0, 0, 2);
const OTHER_POD: Ipv4Addr = Ipv4Addr::new(10, 65, 0, 3);

const UPLINK: PortId = PortId(0);
const GATEWAY_MAC: MacAddr = MacAddr([2, 0, 0, 0, 1, 1]);
pub(super) const PEER_VTEP: MacAddr = MacAddr([0x66, 0, 0, 0, 0, 2]);
pub(super) const VTEP: MacAddr = MacAddr([0x66, 0, 0, 0, 0, 1]);
pub(super) const VNI: u32 = 4096;

/// The MAC address of the pod behind a port.
const fn pod_mac(port: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, port])
}

/// A node as Calico makes it: two pods, the host, another node by VXLAN, all else by the uplink with the node's address.
fn tables() -> Tables {
    let port = |name: &str, mac, kind, partial_checksums| Port {
        name: name.to_owned(),
        mac,
        mtu: 1500,
        kind,
        partial_checksums,
        icmp_source4: Some(Ipv4Addr::new(169, 254, 1, 1).into()),
        icmp_source6: Some(NODE6.into()),
        nat4: None,
        nat6: None,
        since: 0,
    };
    let pod = |number, addr: Ipv4Addr, addr6: Option<Ipv6Addr>| {
        PortKind::Pod(PodPort {
            mac: Some(pod_mac(number)),
            addrs4: vec![addr.into()],
            addrs6: addr6.into_iter().map(Into::into).collect(),
            ..PodPort::default()
        })
    };
    let mut uplink = port("eth0", MacAddr([2, 0, 0, 0, 1, 2]), PortKind::Uplink, false);
    (uplink.nat4, uplink.nat6) = (Some(NODE.into()), Some(NODE6.into()));
    let to = |port, mac, way, tunnel, peer| Hop::Send {
        port,
        mac,
        way,
        peer,
        tunnel,
    };
    let outside = to(UPLINK, GATEWAY_MAC, Way::Uplink, None, PeerId::NONE);
    let remote = to(
        UPLINK,
        GATEWAY_MAC,
        Way::Tunnel,
        Some(To::Vxlan4(PEER, PEER_VTEP)),
        PeerId(1),
    );
    let local = |number: u8| {
        let port = PortId(number.into());
        to(port, pod_mac(number), Way::Pod, None, PeerId::NONE)
    };
    let host = MacAddr([2, 0, 0, 0, 1, 0xab]);
    let host = to(PortId(3), host, Way::Host, None, PeerId::NONE);
    let routes = [
        (format!("{POD}/32"), local(1)),
        (format!("{OTHER_POD}/32"), local(2)),
        (format!("{POD6}/128"), local(1)),
        (format!("{NODE}/32"), host),
        (format!("{NODE6}/128"), host),
        ("10.66.0.0/26".to_owned(), remote),
        ("0.0.0.0/0".to_owned(), outside),
        ("::/0".to_owned(), outside),
    ];
    let world = World {
        ports: vec![
            uplink,
            port("cali1", MacAddr([0xee; 6]), pod(1, POD, Some(POD6)), true),
            port("cali2", MacAddr([0xee; 6]), pod(2, OTHER_POD, None), true),
            port(
                "caracal0",
                MacAddr([2, 0, 0, 0, 1, 0xaa]),
                PortKind::Host,
                true,
            ),
        ],
        routes: routes
            .into_iter()
            .map(|(net, hop)| (net.parse().expect("a prefix"), hop))
            .collect(),
        local4: NODE,
        local6: NODE6,
        vxlan: (VNI, true, false),
        vtep: VTEP,
        ipip: true,
        peers: vec![(IpAddr::V4(PEER), PeerId(1))],
        pods_may: (false, false),
    };
    let pool = |first: u32, last: u32| Pool {
        addresses: first..=last,
        masquerades: true,
    };
    let pool6 = u128::from(POD6) >> 64 << 64;
    Tables {
        nat: Nat {
            rules4: NatPools::new([pool(0x0a41_0000, 0x0a42_ffff)], []),
            rules6: NatPools::new(
                [Pool {
                    addresses: pool6..=pool6 | u128::from(u64::MAX),
                    masquerades: true,
                }],
                [],
            ),
            addresses4: vec![NODE.into()],
            addresses6: vec![NODE6.into()],
            // Few, so that they are used up.
            ports: Arc::new(Ports::new(40_000..=40_015, [], [4789..=4789])),
            ..Nat::default()
        },
        services: services(),
        ..world.tables()
    }
}

/// Behind a service's ports in turn: the outside, another node's pod, and the first pod, which so may speak to itself; nobody is behind
/// the last.
fn services() -> Services {
    fn on<A: ServiceAddr>(service: A, behind: &[A]) -> service::Services<A> {
        let ports = (53..).zip(behind).map(|(port, &addr)| {
            let frontend = Frontend::new(vec![(addr, 53)], false);
            ((service, l4::UDP, port), Arc::new(frontend))
        });
        let empty = (
            (service, l4::UDP, 80),
            Arc::new(Frontend::new(Vec::new(), false)),
        );
        service::Services::new(ports.chain([empty]), [service])
    }
    let four = [OUTSIDE, REMOTE, POD].map(Into::into);
    let six = [OUTSIDE6, POD6].map(Into::into);
    Services {
        v4: Arc::new(on(SERVICE.into(), &four)),
        v6: Arc::new(on(SERVICE6.into(), &six)),
        ..Services::default()
    }
}

/// What an input's first byte of a packet says.
pub(super) mod mark {
    /// The port: the two last bits.
    pub(in super::super) const PORT: u8 = 3;
    /// Make the MAC addresses those of a frame for this port, and an IPv4 header's checksum right.
    pub(in super::super) const MEND: u8 = 4;
    /// The batch ends with this packet.
    pub(in super::super) const LAST: u8 = 8;
    /// Time passes before: by the four bits above, half a second and more.
    pub(in super::super) const WAIT: u8 = 16;
}

/// A node's pipeline with connections. The input is packets, each a [`mark`], its length in two bytes, and its bytes. No packet
/// may be lost, met by two fates or leave wrong by itself; no frame may be lost.
pub(super) fn pipeline(data: &[u8]) {
    let mut rig = Rig::new(tables()).with_connections();
    let mut rest = data;
    let mut batch: Vec<Vec<u8>> = Vec::new();
    let mut from = UPLINK;
    while let [marks, high, low, behind @ ..] = rest {
        let len = usize::from(u16::from_be_bytes([*high, *low]));
        let (frame, behind) = behind.split_at(len.min(behind.len()).min(Rig::longest()));
        rest = behind;
        let port = PortId(u16::from(marks & mark::PORT));
        if marks & mark::WAIT != 0 {
            rig.pass(Duration::from_millis(500) * u32::from(marks >> 5).pow(3));
        }
        if (port != from || batch.len() == 64) && !batch.is_empty() {
            take(&mut rig, from, &mut batch);
        }
        from = port;
        let mut frame = frame.to_vec();
        if marks & mark::MEND != 0 {
            mend(&mut frame, rig.tables(), port);
        }
        batch.push(frame);
        if marks & mark::LAST != 0 {
            take(&mut rig, from, &mut batch);
        }
    }
    if !batch.is_empty() {
        take(&mut rig, from, &mut batch);
    }
    // All that waits or lasts comes to its end.
    rig.pass(Duration::from_mins(1));
}

fn take(rig: &mut Rig, port: PortId, batch: &mut Vec<Vec<u8>>) {
    let outcome: Outcome = rig.run(port, batch);
    for (port, frame) in outcome.all() {
        let port = rig.tables().port(port).expect("a port");
        if let Err(problem) = judge::frame(port, frame) {
            panic!("out by {}: {problem}\n{}", port.name, show::frame(frame));
        }
    }
    batch.clear();
}

fn mend(frame: &mut [u8], tables: &Tables, id: PortId) {
    let port = tables.port(id).expect("a port");
    let Some((macs, rest)) = frame.split_first_chunk_mut::<12>() else {
        return;
    };
    macs[..6].copy_from_slice(&port.mac.0);
    if let PortKind::Pod(pod) = &port.kind {
        macs[6..].copy_from_slice(&pod.mac.expect("known").0);
    }
    let Some(l3) = rest.get_mut(2..) else { return };
    let len = usize::from(l3.first().map_or(0, |byte| byte & 15)) * 4;
    if rest_is_ipv4(l3) && len >= ipv4::MIN_HEADER_LEN && len <= l3.len() {
        l3[10..12].fill(0);
        let sum = encap::checksum::of(&l3[..len]);
        l3[10..12].copy_from_slice(&sum.to_be_bytes());
    }
}

fn rest_is_ipv4(l3: &[u8]) -> bool {
    l3.first().is_some_and(|byte| byte >> 4 == 4)
}

/// A capture: each packet that is read is part of the input, and an error says where it is.
pub(super) fn capture(data: &[u8]) {
    let name = Path::new("fuzz.pcap");
    let input = Box::new(Cursor::new(data.to_vec()));
    let macs = Macs {
        dst: VTEP,
        src: PEER_VTEP,
    };
    let read = || -> Result<(), fastpath::capture::CaptureError> {
        let mut reader = Reader::new(name, input)?;
        let mut total = 0;
        while let Some(record) = reader.next_record()? {
            total += record.data.len();
            let _ = record.link.to_ethernet(record.data, &macs);
        }
        assert!(total <= data.len());
        Ok(())
    };
    if let Err(error) = read() {
        assert!(error.offset <= data.len() as u64, "{error}");
    }
}
