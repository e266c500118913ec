//! From next hops as they are meant to next hops with every byte in place.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use encap::eth::MacAddr;
use encap::outer::{Kind, Macs, Overlay, Rewrite, Tunnel, UdpChecksum};
use encap::vxlan::{self, Vni};
use fastpath::batch::PeerId;
use fastpath::group::Group;
use fastpath::port::{PodPort, Port, PortId, PortKind};
use fastpath::reason::DropReason;
use fastpath::tables::{Adjacency, Nat, NextHop, Tables, Tunnels, Unresolved, VxlanEnd, Way};
use flowtable::lpm::NextHopId;
use ipnet::IpNet;

use super::Compiler;
use super::hops::Hop;
use super::kernel::KernelView;
use super::legs::{self, Leg, Spreads};
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
pub(super) fn tables(
    compiler: &Compiler,
    kernel: &dyn KernelView,
    spreads: &mut Spreads,
) -> Tables {
    let (fib4, fib6) = compiler.fib.snapshot();
    let mut next_hops = vec![NextHop::Drop(DropReason::NoRoute); compiler.hops.len()];
    spreads.restart();
    for (id, hop) in compiler.hops.iter() {
        let used = legs::used(compiler, &legs::all(compiler, hop, kernel), kernel);
        let made = match &*used {
            [_, _, ..] => group(compiler, hop, &used, kernel, &mut next_hops, spreads),
            _ => next_hop(compiler, hop, used.first(), kernel),
        };
        if let Some(slot) = next_hops.get_mut(id.index()) {
            *slot = made;
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
        spreads: spreads.all().to_vec(),
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
        services: compiler.services.tables().clone(),
        tracking: nat::tracking(&compiler.desired, compiler.pick_up),
        policies: compiler
            .policy
            .policies(&compiler.ports, &|ifindex| kernel.addresses(ifindex)),
        endpoints_since: compiler.incarnations.changed(),
        ports,
    }
}

/// A next hop that is several: each leg's is put behind the others, where no route has a number. Connections do not mind that the
/// numbers are others in each tables: what older tables decided is decided again.
fn group(
    compiler: &Compiler,
    hop: &Hop,
    used: &[Leg],
    kernel: &dyn KernelView,
    next_hops: &mut Vec<NextHop>,
    spreads: &mut Spreads,
) -> NextHop {
    let single = |leg| next_hop(compiler, hop, Some(leg), kernel);
    let first = single(&used[0]);
    let has_room = next_hops.len() + used.len() <= usize::from(NextHopId::MAX.get()) + 1;
    let id = NextHopId::new(next_hops.len() as u16).filter(|_| has_room);
    // Without room, or a tunnel's end, one has to do.
    let (Some(id), Some((way, peer, port))) = (id, first.origin()) else {
        return first;
    };
    let Some(spread) = spreads.over(used) else {
        return first;
    };
    next_hops.extend(used.iter().map(single));
    NextHop::Group(Group {
        first: id,
        spread,
        way,
        peer,
        port,
    })
}

/// A next hop by one of the legs that lead there, for those that legs lead to.
pub(super) fn next_hop(
    compiler: &Compiler,
    hop: &Hop,
    leg: Option<&Leg>,
    kernel: &dyn KernelView,
) -> NextHop {
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
        Hop::Via { .. } | Hop::OnLink { .. } | Hop::Legs(_) => match leg {
            Some(leg) => by_uplink(
                compiler,
                leg,
                PeerId::NONE,
                Way::Uplink,
                kernel,
                plain_rewrite,
            ),
            None => down,
        },
        Hop::Node(node) | Hop::Node6(node) => {
            to_node(compiler, node, leg, Way::Uplink, kernel, plain_rewrite)
        }
        Hop::Vxlan { node, v6 } => vxlan_hop(compiler, node, *v6, leg, kernel),
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
                to_node(compiler, node, leg, Way::Tunnel, kernel, rewrite),
                mtu,
            )
        }
    }
}

fn vxlan_hop(
    compiler: &Compiler,
    node: &str,
    v6: bool,
    leg: Option<&Leg>,
    kernel: &dyn KernelView,
) -> NextHop {
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
            to_node(compiler, node, leg, Way::Tunnel, kernel, |macs| {
                Rewrite::vxlan4(macs, ends, overlay)
            })
        }
        (Some(IpAddr::V6(src)), Some(IpAddr::V6(dst))) => {
            let ends = Tunnel {
                src: src.into(),
                dst: dst.into(),
            };
            to_node(compiler, node, leg, Way::Tunnel, kernel, |macs| {
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

/// A next hop behind a node, by a leg of the underlay's route to it.
fn to_node(
    compiler: &Compiler,
    node: &str,
    leg: Option<&Leg>,
    way: Way,
    kernel: &dyn KernelView,
    rewrite: impl Fn(Macs) -> Rewrite,
) -> NextHop {
    let peer = compiler.peers.get(node).copied().unwrap_or(PeerId::NONE);
    match leg {
        Some(leg) => by_uplink(compiler, leg, peer, way, kernel, rewrite),
        None => NextHop::Drop(DropReason::NoRoute),
    }
}

/// A next hop by an uplink, and one of its neighbours or all of them.
fn by_uplink(
    compiler: &Compiler,
    leg: &Leg,
    peer: PeerId,
    way: Way,
    kernel: &dyn KernelView,
    rewrite: impl Fn(Macs) -> Rewrite,
) -> NextHop {
    let Some((id, spec)) = compiler
        .ports
        .by_ifindex(leg.ifindex)
        .and_then(|id| Some((id, compiler.ports.get(id)?)))
    else {
        return NextHop::Drop(DropReason::PortDown);
    };
    let mac = |addr| kernel.mac(leg.ifindex, addr);
    match leg.neighbour.and_then(mac) {
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
            gateway: leg.neighbour,
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
