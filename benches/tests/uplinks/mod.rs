//! A compiler with two uplinks and routes of a kernel made of data.

use std::net::{IpAddr, Ipv4Addr};

use control::compile::{Compiler, KernelHop, KernelView, PortRole, PortSpec};
use encap::eth::MacAddr;
use encap::flow_hash::HashKey;
use ipnet::{IpNet, Ipv4Net};

/// Routers behind the second uplink, numbered from 0.
pub(crate) const GATEWAYS: u8 = 8;

const IN_MAC: MacAddr = MacAddr([2, 0, 0, 0, 1, 0]);
const OUT_INDEX: u32 = 3;

/// A kernel that knows the gateways' addresses and nothing else.
pub(crate) struct Gateways;

impl KernelView for Gateways {
    fn route(&self, _addr: IpAddr) -> Option<KernelHop> {
        None
    }

    fn exact(&self, _prefix: IpNet) -> Option<KernelHop> {
        None
    }

    fn mac(&self, ifindex: u32, addr: IpAddr) -> Option<MacAddr> {
        match addr {
            IpAddr::V4(addr) if ifindex == OUT_INDEX => Some(gateway_mac(addr.octets()[3])),
            _ => None,
        }
    }
}

/// A gateway's MAC address.
pub(crate) fn gateway_mac(number: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 2, number])
}

/// The way by a gateway.
pub(crate) fn via(gateway: u8) -> KernelHop {
    KernelHop::Via {
        gateway: Ipv4Addr::new(192, 168, 2, gateway).into(),
        ifindex: OUT_INDEX,
    }
}

/// The /24 with this number, from 10.0.0.0 on.
pub(crate) fn prefix(number: u32) -> IpNet {
    let first = Ipv4Addr::from_bits(0x0a00_0000 + (number << 8));
    IpNet::V4(Ipv4Net::new_assert(first, 24))
}

/// A compiler with two uplinks, ports 0 and 1, and `routes` /24 routes, each by some gateway, and the default route by gateway 0.
pub(crate) fn compiler(routes: u32) -> Compiler {
    let mut compiler = Compiler::new(HashKey([1, 2]));
    for (ifindex, name, mac) in [
        (2, "in", IN_MAC),
        (OUT_INDEX, "out", MacAddr([2, 0, 0, 0, 1, 1])),
    ] {
        compiler.ports_mut().insert(PortSpec {
            name: name.into(),
            ifindex,
            mac,
            mtu: 1500,
            partial_checksums: false,
            role: PortRole::Uplink,
        });
    }
    let hops: Vec<_> = (0..GATEWAYS).map(via).collect();
    let default = (IpNet::V4(Ipv4Net::default()), Some(&hops[0]));
    let others = (0..routes).map(|number| {
        let hop = &hops[number as usize % hops.len()];
        (prefix(number), Some(hop))
    });
    compiler
        .kernel_routes(std::iter::once(default).chain(others))
        .expect("the routes fit");
    compiler
}
