//! Tables of a node: a thousand next hops, and four ports of a pod.

use std::sync::Arc;

use encap::eth::MacAddr;
use encap::flow_hash::HashKey;
use encap::outer::{Macs, Overlay, Rewrite};
use encap::vxlan::{self, Vni};
use fastpath::batch::PeerId;
use fastpath::policy::Policies;
use fastpath::port::{PodPort, Port, PortId, PortKind};
use fastpath::reason::DropReason;
use fastpath::tables::{Adjacency, Nat, NextHop, Tables, Tunnels, VxlanEnd, Way};
use flowtable::snat::{NatPools, Pool, Ports};

use super::{Chain, LOCAL4, LOCAL6, OVERLAY_MTU, POD4, POD6, PODS, UPLINK, UPLINK_MAC, VTEP_MAC};

/// The pods' next hops come behind the routes'.
pub(super) const POD_HOPS: u16 = 2000;

/// All but the routes.
pub(super) fn tables(chain: Chain) -> Tables {
    let mut next_hops = vec![NextHop::Drop(DropReason::NoRoute); usize::from(POD_HOPS + PODS) + 1];
    for (hop, slot) in (0..).zip(&mut next_hops).skip(1).take(1001) {
        *slot = NextHop::Send(Adjacency {
            port: UPLINK,
            mtu: OVERLAY_MTU,
            peer: PeerId(hop),
            way: chain.way(),
            rewrite: chain.rewrite(hop),
        });
    }
    for pod in 1..=PODS {
        next_hops[usize::from(POD_HOPS + pod)] = NextHop::Send(Adjacency {
            port: PortId(pod),
            mtu: OVERLAY_MTU,
            peer: PeerId::NONE,
            way: Way::Pod,
            rewrite: Rewrite::ethernet(Macs {
                dst: pod_mac(),
                src: MacAddr::CALICO_HOST,
            }),
        });
    }
    let uplink = Port {
        name: "uplink".into(),
        mac: UPLINK_MAC,
        mtu: 1500,
        kind: PortKind::Uplink,
        partial_checksums: false,
        icmp_source4: Some(LOCAL4),
        icmp_source6: Some(LOCAL6),
        nat4: Some(LOCAL4),
        nat6: Some(LOCAL6),
        since: 0,
    };
    // All of them are the same pod, so that its packets may come by any.
    let pod = |number| Port {
        name: format!("cali{number}"),
        mac: MacAddr::CALICO_HOST,
        mtu: OVERLAY_MTU,
        kind: PortKind::Pod(PodPort {
            mac: Some(pod_mac()),
            addrs4: vec![POD4 + 1],
            addrs6: vec![POD6 + 1],
            ..PodPort::default()
        }),
        partial_checksums: true,
        icmp_source4: Some(0xa9fe_0101),
        icmp_source6: None,
        nat4: None,
        nat6: None,
        since: 0,
    };
    let end = Some(VxlanEnd {
        vni: Vni::CALICO,
        mac: VTEP_MAC,
    });
    Tables {
        generation: 1,
        next_hops,
        ports: std::iter::once(uplink)
            .chain((1..=PODS).map(pod))
            .map(Some)
            .collect(),
        tunnels: Tunnels {
            local4: Some(LOCAL4.into()),
            local6: Some(LOCAL6.into()),
            vxlan4: end,
            vxlan6: end,
            ipip: true,
            vxlan_port: vxlan::DEFAULT_PORT,
            peers4: (1..=1001).map(|hop| (node4(hop), PeerId(hop))).collect(),
            ..Tunnels::default()
        },
        hash_key: HashKey([0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210]),
        policies: Policies::allowing_all(usize::from(PODS) + 1),
        nat: if chain.is_translated() {
            masquerade()
        } else {
            Nat::default()
        },
        ..Tables::default()
    }
}

/// What the pod sends out gets another source.
fn masquerade() -> Nat {
    fn pool<A>(addresses: std::ops::RangeInclusive<A>) -> Pool<A> {
        Pool {
            addresses,
            masquerades: true,
        }
    }
    Nat {
        rules4: NatPools::new([pool(POD4..=POD4 + 0xff)], []),
        rules6: NatPools::new([pool(POD6..=POD6 + 0xff)], []),
        addresses4: vec![LOCAL4],
        addresses6: vec![LOCAL6],
        ports: Arc::new(Ports::new(
            1024..=u16::MAX,
            [],
            [vxlan::DEFAULT_PORT..=vxlan::DEFAULT_PORT],
        )),
        ..Nat::default()
    }
}

pub(super) fn macs_of(hop: u16) -> Macs {
    let [high, low] = hop.to_be_bytes();
    Macs {
        dst: MacAddr([2, 0, 0, 1, high, low]),
        src: UPLINK_MAC,
    }
}

pub(super) const fn pod_mac() -> MacAddr {
    MacAddr([0xca, 0, 0, 0, 0, 1])
}

pub(super) fn node4(hop: u16) -> u32 {
    LOCAL4 + 0x100 + u32::from(hop)
}

pub(super) fn overlay(hop: u16) -> Overlay {
    let [high, low] = hop.to_be_bytes();
    Overlay {
        port: vxlan::DEFAULT_PORT,
        vni: Vni::CALICO,
        macs: Macs {
            dst: MacAddr([0x66, 0, 0, 1, high, low]),
            src: VTEP_MAC,
        },
    }
}
