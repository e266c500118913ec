//! The golden cases: what comes in, and what a person says must come out. The stories themselves are told in
//! `cases/<name>/README.md`; the nodes, pods and addresses are those of `cases/cluster.yaml` and `cases/kernel.yaml`.

mod neighbours;
mod packets;
mod policy;
mod refused;
mod services;
mod snat;
mod ways;

use crate::build::{DF, Mac, ethernet, ip4, vxlan};

/// A golden case.
#[derive(Clone, Debug)]
pub struct Story {
    /// The name of its folder.
    pub name: &'static str,
    /// What comes in: port, time in milliseconds, frame.
    pub input: Vec<(&'static str, u64, Vec<u8>)>,
    /// What goes out, port by port in order. Outer fields that are ours to choose are not compared.
    pub output: Vec<(&'static str, Vec<u8>)>,
    /// What becomes of each packet, in the order of `input`: a port, or the reason of a drop, or `held`.
    pub fates: Vec<&'static str>,
}

const A: &str = "calia";
const B: &str = "calib";
const C: &str = "calic";
const ETH0: &str = "eth0";
const HOST: &str = "caracal0";

/// The host's side of every pod's veth.
const GATEWAY: Mac = [0xee; 6];
const POD_A: Mac = [2, 0, 0, 0, 0, 0x0a];
const POD_B: Mac = [2, 0, 0, 0, 0, 0x0b];
const POD_C: Mac = [2, 0, 0, 0, 0, 0x0c];
const NODE1: Mac = [2, 0, 0, 0, 1, 2];
const NODE2: Mac = [2, 0, 0, 0, 1, 3];
const ROUTER: Mac = [2, 0, 0, 0, 1, 1];
const HOST_PORT: Mac = [2, 0, 0, 0, 1, 0xaa];
const HOST_STACK: Mac = [2, 0, 0, 0, 1, 0xbb];
const VTEP1: Mac = [0x66, 0, 0, 0, 0, 1];
const VTEP2: Mac = [0x66, 0, 0, 0, 0, 2];
const VTEP3: Mac = [0x66, 0, 0, 0, 0, 3];
const VTEP1_V6: Mac = [0x66, 0, 0, 0, 6, 1];
const VTEP2_V6: Mac = [0x66, 0, 0, 0, 6, 2];

const A4: &str = "10.65.0.2";
const B4: &str = "10.65.0.3";
const C4: &str = "10.65.0.4";
const REMOTE4: &str = "10.65.1.2";
const FAR4: &str = "10.65.2.2";
const A6: &str = "fd00:65::2";
const B6: &str = "fd00:65::3";
const REMOTE6: &str = "fd00:65:0:1::2";
const NODE1_4: &str = "172.18.0.2";
const NODE2_4: &str = "172.18.0.3";
const NODE3_4: &str = "172.19.0.4";
const NODE1_6: &str = "2001:db8:18::2";
const NODE2_6: &str = "2001:db8:18::3";
const POD_GATEWAY4: &str = "169.254.1.1";
const POD_GATEWAY6: &str = "fe80::ecee:eeff:feee:eeee";

/// A packet from pod a, as its veth delivers it.
fn from_a(packet: &[u8]) -> Vec<u8> {
    ethernet(GATEWAY, POD_A, packet)
}

/// A packet to pod a, as it should arrive there.
fn to_a(packet: &[u8]) -> Vec<u8> {
    ethernet(POD_A, GATEWAY, packet)
}

/// A packet from the underlay's node2.
fn from_node2(packet: &[u8]) -> Vec<u8> {
    ethernet(NODE1, NODE2, packet)
}

/// A packet to node2 over the underlay.
fn to_node2(packet: &[u8]) -> Vec<u8> {
    ethernet(NODE2, NODE1, packet)
}

/// VXLAN over IPv4 from node1 around a packet for a VTEP.
fn vxlan_to(dst: &str, vtep: Mac, packet: &[u8]) -> Vec<u8> {
    let carried = vxlan(4096, &ethernet(vtep, VTEP1, packet));
    ip4(NODE1_4, dst)
        .fragment(DF)
        .udp_unchecked(0, 4789, &carried)
}

/// VXLAN over IPv4 from node2 to node1 around a packet.
fn vxlan_from_node2(packet: &[u8]) -> Vec<u8> {
    let carried = vxlan(4096, &ethernet(VTEP1, VTEP2, packet));
    ip4(NODE2_4, NODE1_4).udp_unchecked(50000, 4789, &carried)
}

/// All golden cases.
pub fn all() -> Vec<Story> {
    vec![
        ways::pod_to_pod(),
        ways::vxlan_across_nodes(),
        ways::vxlan_over_ipv6(),
        ways::ipip_across_nodes(),
        ways::direct_across_nodes(),
        ways::cross_subnet(),
        ways::to_the_world(),
        ways::host_is_a_port(),
        ways::own_block_is_blackholed(),
        ways::borrowed_address(),
        packets::ttl_expired(),
        packets::too_big_with_df(),
        packets::too_big_without_df(),
        packets::too_big_ipv6(),
        refused::unknown_peer(),
        refused::wrong_vni(),
        refused::nested_tunnel(),
        refused::spoofed_sources(),
        refused::tunnel_made_by_a_pod(),
        neighbours::neighbours_answered(),
        neighbours::rogue_router(),
        packets::ecn_through_the_tunnel(),
        packets::partial_checksum(),
        packets::padding_is_cut(),
        packets::source_route(),
        packets::vlan_tag(),
        ways::mac_learnt_late(),
        ways::neighbour_never_answers(),
        policy::policy_denies(),
        policy::staged_policy(),
        policy::log_rule(),
        policy::untracked_policy(),
        policy::no_egress_answers_the_host(),
        snat::out_and_back(),
        snat::icmp_error_comes_back(),
        snat::fragments(),
        snat::ports_exhausted(),
        snat::stray_packets(),
        services::dns_across_nodes(),
        services::api_server(),
        services::to_itself(),
        services::without_endpoints(),
    ]
}
