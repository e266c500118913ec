//! What pods may not put into a packet: the tunnels that other nodes of Calico's would open, and no others.

use fastpath::reason::DropReason;
use pcap_tests::build::{ip4, ip6};
use pcap_tests::rig::Rig;

use crate::node::*;

/// What a pod sends to a pod of this node, and whether it is VXLAN (0), IPIP (1), or neither.
fn packets() -> Vec<(&'static str, Vec<u8>, Option<usize>)> {
    let v4 = || ip4(POD_ADDR, OTHER_ADDR);
    let v6 = || ip6(POD6, "fd00:65::3");
    let inner = [0x60; 60];
    vec![
        ("VXLAN", v4().udp(40_000, 4789, &inner), Some(0)),
        ("VXLAN over IPv6", v6().udp(40_000, 4789, &inner), Some(0)),
        ("IPIP", v4().packet(4, &inner), Some(1)),
        ("IPv4 in IPv6", v6().packet(4, &inner), Some(1)),
        ("IPv6 in IPv4", v4().packet(41, &inner), None),
        ("IPv6 in IPv6", v6().packet(41, &inner), None),
        ("GRE", v4().packet(47, &inner), None),
        ("from VXLAN's port", v4().udp(4789, 40_000, &inner), None),
        ("TCP to VXLAN's port", v4().tcp(40_000, 4789, 2, &[]), None),
    ]
}

#[test]
fn vxlan_and_ipip_are_refused_unless_pods_may_and_nothing_else_is() {
    for may in [[false, false], [true, false], [false, true], [true, true]] {
        let mut tables = tables(1024..=65_535);
        (tables.tunnels.pods_may_vxlan, tables.tunnels.pods_may_ipip) = (may[0], may[1]);
        let mut rig = Rig::new(tables).with_connections();
        for (what, packet, kind) in packets() {
            let sent = one(&mut rig, POD, from_pod(&packet)).map(|(to, _)| to);
            let expected = match kind {
                Some(kind) if !may[kind] => Err(DropReason::TunnelFromPod),
                _ => Ok(OTHER),
            };
            assert_eq!(sent, expected, "{what}, {may:?}");
        }
    }
}
