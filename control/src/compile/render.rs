//! From next hops as they are meant to next hops with every byte in place.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use encap::eth::MacAddr;
use encap::outer::{Kind, Macs, Overlay, Rewrite, Tunnel, UdpChecksum};
use encap::vxlan::{self, Vni};
use fastpath::batch::PeerId;
use fastpath::port::{PodPort, Port, PortId, PortKind};
use fastpath::reason::DropReason;
use fastpath::tables::{Adjacency, Nat, NextHop, Tables, Tunnels, Unresolved, VxlanEnd, Way};
use ipnet::IpNet;

use super::Compiler;
use super::hops::Hop;
use super::kernel::KernelView;
use super::nat;
use super::ports::{PortRole, PortSpec};
use crate::desired::{Endpoint, PoolType};

/// The pods' gateway (`cni-plugin/pkg/dataplane/linux/dataplane_linux.go`): the source of ICMP errors to pods.
pub(super) const POD_GATEWAY4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The same for IPv6: the link-local address of the host side of every pod's veth.
pub(super) const POD_GATEWAY6: Ipv6Addr =
    Ipv6Addr::new(0xfe80, 0, 0, 0, 0xecee, 0xeeff, 0xfeee, 0xeeee);

/// TTL of IPIP's outer header. VXLAN's is fixed in its template.
const OUTER_TTL: u8 = 64;

/// The tables as they follow from the compiler's state and the kernel's.
pub(super) fn tables(compiler: &Compiler, kernel: &dyn KernelView) -> Tables {
    let (fib4, fib6) = compiler.fib.snapshot();
    let mut next_hops = vec![NextHop::Drop(DropReason::NoRoute); compiler.hops.len()];
    for (id, hop) in compiler.hops.iter() {
        if let Some(slot) = next_hops.get_mut(id.index()) {
            *slot = next_hop(compiler, hop, kernel);
        }
    }
    let mut ports = vec![None; compiler.ports.len()];
    for (id, spec) in compiler.ports.iter() {
        if let Some(slot) = ports.get_mut(usize::from(id.0)) {
            *slot = Some(port(compiler, id, spec, kernel));
        }
    }
    Tables {
        generation: compiler.generation,
        fib4,
        fib6,
        next_hops,
        tunnels: tunnels(compiler),
        hash_key: compiler.hash_key,
        nat: Nat {
            untouched: nat::untouched(compiler),
            addresses4: ports
                .iter()
                .flatten()
                .filter_map(|port: &Port| port.nat4)
                .collect(),
            addresses6: ports
                .iter()
                .flatten()
                .filter_map(|port: &Port| port.nat6)
                .collect(),
            ..nat::nat(&compiler.desired, &compiler.nat_ports)
        },
        tracking: nat::tracking(&compiler.desired, compiler.pick_up),
        policies: compiler
            .policy
            .policies(&compiler.ports, &|ifindex| kernel.addresses(ifindex)),
        endpoints_since: compiler.incarnations.changed(),
        ports,
    }
}

pub(super) fn next_hop(compiler: &Compiler, hop: &Hop, kernel: &dyn KernelView) -> NextHop {
    let down = NextHop::Drop(DropReason::PortDown);
    match hop {
        Hop::Drop(reason) => NextHop::Drop(*reason),
        Hop::Host => match compiler.ports.host() {
            Some((id, spec)) => match spec.role {
                PortRole::Host(mac) => NextHop::Send(plain(id, spec, mac, Way::Host)),
                PortRole::Uplink | PortRole::Pod => down,
            },
            None => down,
        },
        Hop::Pod(id) => match compiler.ports.get(*id) {
            Some(spec) => match pod_mac(compiler, *id, spec) {
                Some(mac) => NextHop::Send(plain(*id, spec, mac, Way::Pod)),
                None => NextHop::Resolve(Unresolved {
                    port: *id,
                    peer: PeerId::NONE,
                    way: Way::Pod,
                    gateway: None,
                }),
            },
            None => down,
        },
        Hop::Via { gateway, ifindex } => by_uplink(
            compiler,
            *ifindex,
            *gateway,
            PeerId::NONE,
            Way::Uplink,
            kernel,
            plain_rewrite,
        ),
        Hop::OnLink { ifindex } => match compiler.ports.by_ifindex(*ifindex) {
            Some(id) => NextHop::Resolve(Unresolved {
                port: id,
                peer: PeerId::NONE,
                way: Way::Uplink,
                gateway: None,
            }),
            None => down,
        },
        Hop::Node(node) => to_node(
            compiler,
            node,
            compiler.node_addr(node, false),
            Way::Uplink,
            kernel,
            plain_rewrite,
        ),
        Hop::Node6(node) => to_node(
            compiler,
            node,
            compiler.node_addr(node, true),
            Way::Uplink,
            kernel,
            plain_rewrite,
        ),
        Hop::Vxlan { node, v6 } => vxlan_hop(compiler, node, *v6, kernel),
        Hop::Ipip(node) => {
            let addr = compiler.node_addr(node, false);
            let ends = match (local_addr(compiler, false), addr) {
                (Some(IpAddr::V4(src)), Some(IpAddr::V4(dst))) => Tunnel {
                    src: src.into(),
                    dst: dst.into(),
                },
                _ => return NextHop::Drop(DropReason::NoRoute),
            };
            let mtu = compiler.desired.felix.ipip_mtu;
            let rewrite = |macs| Rewrite::ipip(macs, ends, OUTER_TTL);
            limited(
                to_node(compiler, node, addr, Way::Tunnel, kernel, rewrite),
                mtu,
            )
        }
    }
}

fn vxlan_hop(compiler: &Compiler, node: &str, v6: bool, kernel: &dyn KernelView) -> NextHop {
    let felix = &compiler.desired.felix;
    let (Some(local), Some(remote), Some(vni)) = (
        compiler.desired.vteps.get(&compiler.desired.node_name),
        compiler.desired.vteps.get(node),
        Vni::new(felix.vxlan_vni),
    ) else {
        return NextHop::Drop(DropReason::NoRoute);
    };
    let parent = compiler.vtep_parent(node, v6);
    let macs = if v6 {
        (remote.mac_v6, local.mac_v6)
    } else {
        (remote.mac, local.mac)
    };
    let overlay = Overlay {
        port: felix.vxlan_port,
        vni,
        macs: Macs {
            dst: MacAddr(macs.0.0),
            src: MacAddr(macs.1.0),
        },
    };
    let hop = match (local_addr(compiler, v6), parent) {
        (Some(IpAddr::V4(src)), Some(IpAddr::V4(dst))) => {
            let ends = Tunnel {
                src: src.into(),
                dst: dst.into(),
            };
            to_node(compiler, node, parent, Way::Tunnel, kernel, |macs| {
                Rewrite::vxlan4(macs, ends, overlay)
            })
        }
        (Some(IpAddr::V6(src)), Some(IpAddr::V6(dst))) => {
            let ends = Tunnel {
                src: src.into(),
                dst: dst.into(),
            };
            to_node(compiler, node, parent, Way::Tunnel, kernel, |macs| {
                Rewrite::vxlan6(macs, ends, overlay, UdpChecksum::Computed)
            })
        }
        _ => NextHop::Drop(DropReason::NoRoute),
    };
    limited(
        hop,
        if v6 {
            felix.vxlan_mtu_v6
        } else {
            felix.vxlan_mtu
        },
    )
}

/// A next hop behind the node at `addr`, wherever the underlay's routes lead.
fn to_node(
    compiler: &Compiler,
    node: &str,
    addr: Option<IpAddr>,
    way: Way,
    kernel: &dyn KernelView,
    rewrite: impl Fn(Macs) -> Rewrite,
) -> NextHop {
    let peer = compiler.peers.get(node).copied().unwrap_or(PeerId::NONE);
    match addr.and_then(|addr| super::underlay(addr, kernel)) {
        Some((ifindex, neighbour)) => {
            by_uplink(compiler, ifindex, neighbour, peer, way, kernel, rewrite)
        }
        None => NextHop::Drop(DropReason::NoRoute),
    }
}

/// A next hop by an uplink and one of its neighbours.
fn by_uplink(
    compiler: &Compiler,
    ifindex: u32,
    neighbour: IpAddr,
    peer: PeerId,
    way: Way,
    kernel: &dyn KernelView,
    rewrite: impl Fn(Macs) -> Rewrite,
) -> NextHop {
    let Some((id, spec)) = compiler
        .ports
        .by_ifindex(ifindex)
        .and_then(|id| Some((id, compiler.ports.get(id)?)))
    else {
        return NextHop::Drop(DropReason::PortDown);
    };
    match kernel.mac(ifindex, neighbour) {
        Some(mac) => {
            let rewrite = rewrite(Macs {
                dst: mac,
                src: spec.mac,
            });
            let path = compiler
                .path_mtus
                .get(&(peer, rewrite.kind() == Kind::Vxlan6));
            let outer = match path.filter(|_| way == Way::Tunnel) {
                Some(path) => spec.mtu.min(*path),
                None => spec.mtu,
            };
            let mtu = outer.saturating_sub(rewrite.mtu_overhead());
            NextHop::Send(Adjacency {
                port: id,
                mtu,
                peer,
                way,
                rewrite,
            })
        }
        None => NextHop::Resolve(Unresolved {
            port: id,
            peer,
            way,
            gateway: Some(neighbour),
        }),
    }
}

fn plain_rewrite(macs: Macs) -> Rewrite {
    Rewrite::ethernet(macs)
}

fn plain(id: PortId, spec: &PortSpec, dst: MacAddr, way: Way) -> Adjacency {
    let rewrite = Rewrite::ethernet(Macs { dst, src: spec.mac });
    Adjacency {
        port: id,
        mtu: spec.mtu,
        peer: PeerId::NONE,
        way,
        rewrite,
    }
}

/// A configured MTU counts when it is smaller than what the underlay allows.
fn limited(hop: NextHop, mtu: Option<u16>) -> NextHop {
    match (hop, mtu) {
        (NextHop::Send(adjacency), Some(mtu)) => NextHop::Send(Adjacency {
            mtu: adjacency.mtu.min(mtu),
            ..adjacency
        }),
        (hop, _) => hop,
    }
}

fn port(compiler: &Compiler, id: PortId, spec: &PortSpec, kernel: &dyn KernelView) -> Port {
    let (kind, icmp_source4, icmp_source6) = match spec.role {
        PortRole::Pod => {
            let endpoint = compiler.endpoint_of(spec);
            let pod = endpoint.map(|endpoint| pod_port(endpoint, pod_mac(compiler, id, spec)));
            (
                PortKind::Pod(pod.unwrap_or_default()),
                Some(POD_GATEWAY4.into()),
                Some(POD_GATEWAY6.into()),
            )
        }
        role => {
            let v4 = local_addr(compiler, false).and_then(|addr| match addr {
                IpAddr::V4(addr) => Some(addr.into()),
                IpAddr::V6(_) => None,
            });
            let v6 = local_addr(compiler, true).and_then(|addr| match addr {
                IpAddr::V6(addr) => Some(addr.into()),
                IpAddr::V4(_) => None,
            });
            (
                if role == PortRole::Uplink {
                    PortKind::Uplink
                } else {
                    PortKind::Host
                },
                v4,
                v6,
            )
        }
    };
    Port {
        name: spec.name.clone(),
        mac: spec.mac,
        mtu: spec.mtu,
        kind,
        partial_checksums: spec.partial_checksums,
        icmp_source4,
        icmp_source6,
        nat4: nat_address(compiler, spec, false, kernel).and_then(|addr| match addr {
            IpAddr::V4(addr) => Some(addr.into()),
            IpAddr::V6(_) => None,
        }),
        nat6: nat_address(compiler, spec, true, kernel).and_then(|addr| match addr {
            IpAddr::V6(addr) => Some(addr.into()),
            IpAddr::V4(_) => None,
        }),
        since: compiler.incarnations.since(id),
    }
}

/// What masqueraded connections leave an uplink with: `natOutgoingAddress`, or the interface's own address.
pub(super) fn nat_address(
    compiler: &Compiler,
    spec: &PortSpec,
    v6: bool,
    kernel: &dyn KernelView,
) -> Option<IpAddr> {
    if spec.role != PortRole::Uplink {
        return None;
    }
    let chosen = compiler.desired.felix.nat_outgoing_address;
    match chosen.filter(|_| !v6) {
        Some(addr) => Some(addr.into()),
        None => kernel.source(spec.ifindex, v6),
    }
}

fn pod_port(endpoint: &Endpoint, mac: Option<MacAddr>) -> PodPort {
    let (mut allowed4, mut allowed6) = (Vec::new(), Vec::new());
    for net in &endpoint.allowed_spoofed_prefixes {
        match net {
            IpNet::V4(net) => allowed4.push((net.network().into(), net.netmask().into())),
            IpNet::V6(net) => allowed6.push((net.network().into(), net.netmask().into())),
        }
    }
    let (mut addrs4, mut addrs6) = (Vec::new(), Vec::new());
    for net in &endpoint.ipv4_nets {
        if net.prefix_len() == 32 {
            addrs4.push(net.addr().into());
        } else {
            allowed4.push((net.network().into(), net.netmask().into()));
        }
    }
    for net in &endpoint.ipv6_nets {
        if net.prefix_len() == 128 {
            addrs6.push(net.addr().into());
        } else {
            allowed6.push((net.network().into(), net.netmask().into()));
        }
    }
    PodPort {
        mac,
        addrs4,
        addrs6,
        allowed4,
        allowed6,
    }
}

/// The configured MAC address of a pod, or the one it was seen to use.
fn pod_mac(compiler: &Compiler, id: PortId, spec: &PortSpec) -> Option<MacAddr> {
    compiler
        .endpoint_of(spec)?
        .mac
        .map(|mac| MacAddr(mac.0))
        .or_else(|| compiler.learned.get(&id).copied())
}

/// Our own address on the underlay.
fn local_addr(compiler: &Compiler, v6: bool) -> Option<IpAddr> {
    compiler.node_addr(&compiler.desired.node_name, v6)
}

fn tunnels(compiler: &Compiler) -> Tunnels {
    let desired = &compiler.desired;
    let felix = &desired.felix;
    let uses = |kind: PoolType, v6: bool| {
        desired
            .pools
            .iter()
            .any(|pool| pool.kind() == kind && pool.cidr.addr().is_ipv6() == v6)
    };
    let vtep = desired.vteps.get(&desired.node_name);
    let end = |mac: crate::desired::MacAddr| {
        Some(VxlanEnd {
            vni: Vni::new(felix.vxlan_vni)?,
            mac: MacAddr(mac.0),
        })
    };
    let node = desired.local_node();
    let mut tunnels = Tunnels {
        local4: node.and_then(|node| node.v4).map(|net| net.addr()),
        local6: node.and_then(|node| node.v6).map(|net| net.addr()),
        vxlan4: vtep
            .filter(|_| {
                felix
                    .vxlan_enabled
                    .unwrap_or_else(|| uses(PoolType::Vxlan, false))
            })
            .and_then(|vtep| end(vtep.mac)),
        vxlan6: vtep
            .filter(|_| {
                felix
                    .vxlan_enabled
                    .unwrap_or_else(|| uses(PoolType::Vxlan, true))
            })
            .and_then(|vtep| end(vtep.mac_v6)),
        ipip: felix
            .ipip_enabled
            .unwrap_or_else(|| uses(PoolType::Ipip, false)),
        vxlan_port: if felix.vxlan_port == 0 {
            vxlan::DEFAULT_PORT
        } else {
            felix.vxlan_port
        },
        pods_may_vxlan: felix.allow_vxlan_from_workloads,
        pods_may_ipip: felix.allow_ipip_from_workloads,
        icmp_source4: node.and_then(|node| node.vxlan_tunnel_v4.or(node.ipip_tunnel_v4)),
        icmp_source6: node.and_then(|node| node.vxlan_tunnel_v6),
        ..Tunnels::default()
    };
    for net in &felix.external_nodes {
        if let IpNet::V4(net) = net {
            tunnels
                .external4
                .push((net.network().into(), net.netmask().into()));
        }
    }
    for (name, node) in &desired.nodes {
        let Some(&peer) = compiler
            .peers
            .get(name)
            .filter(|_| *name != desired.node_name)
        else {
            continue;
        };
        if let Some(net) = node.v4 {
            tunnels.peers4.insert(net.addr().into(), peer);
        }
        if let Some(net) = node.v6 {
            tunnels.peers6.insert(net.addr().into(), peer);
        }
    }
    tunnels
}
