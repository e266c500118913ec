//! `Node`: a member of the cluster and its addresses.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::config::decode::{self, Context, Fields};
use crate::config::resource::Meta;
use crate::config::source::Located;
use crate::config::yaml;
use crate::desired::MacAddr;

/// A node, as far as the dataplane needs it.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Its name.
    pub meta: Meta,
    /// `bgp.ipv4Address`, else the first IPv4 `InternalIP` of `addresses`.
    pub v4: Option<Located<Ipv4Net>>,
    /// `bgp.ipv6Address`, else the first IPv6 `InternalIP` of `addresses`.
    pub v6: Option<Located<Ipv6Net>>,
    /// `bgp.ipv4IPIPTunnelAddr`.
    pub ipip_tunnel_v4: Option<Located<Ipv4Addr>>,
    /// `ipv4VXLANTunnelAddr`.
    pub vxlan_tunnel_v4: Option<Located<Ipv4Addr>>,
    /// `ipv6VXLANTunnelAddr`.
    pub vxlan_tunnel_v6: Option<Located<Ipv6Addr>>,
    /// `vxlanTunnelMACAddr`.
    pub vxlan_mac: Option<Located<MacAddr>>,
    /// `vxlanTunnelMACAddrV6`.
    pub vxlan_mac_v6: Option<Located<MacAddr>>,
}

impl Node {
    pub(crate) fn decode(meta: Meta, spec: &mut Fields<'_>, cx: &mut Context<'_>) -> Self {
        let mut node = Self {
            meta,
            v4: None,
            v6: None,
            ipip_tunnel_v4: None,
            vxlan_tunnel_v4: spec.get("ipv4VXLANTunnelAddr", cx, decode::ipv4),
            vxlan_tunnel_v6: spec.get("ipv6VXLANTunnelAddr", cx, decode::ipv6),
            vxlan_mac: spec.get("vxlanTunnelMACAddr", cx, decode::mac),
            vxlan_mac_v6: spec.get("vxlanTunnelMACAddrV6", cx, decode::mac),
        };
        if let Some(bgp) = spec.take("bgp")
            && let Some(mut bgp) = Fields::open(bgp, "spec.bgp", cx)
        {
            node.v4 = bgp.get("ipv4Address", cx, decode::address_in_subnet_v4);
            node.v6 = bgp.get("ipv6Address", cx, decode::address_in_subnet_v6);
            node.ipip_tunnel_v4 = bgp.get("ipv4IPIPTunnelAddr", cx, decode::ipv4);
            let _ = bgp.get("routeReflectorClusterID", cx, decode::text);
            bgp.accept(&["asNumber", "interfaces"]);
            bgp.finish(cx);
        }
        let addresses = spec.get("addresses", cx, decode::list(address));
        for Located { value, at } in addresses.into_iter().flat_map(|list| list.value) {
            match value {
                Some(IpNet::V4(value)) if node.v4.is_none() => {
                    node.v4 = Some(Located { value, at });
                }
                Some(IpNet::V6(value)) if node.v6.is_none() => {
                    node.v6 = Some(Located { value, at });
                }
                _ => {}
            }
        }
        if let Some(wireguard) = spec.take("wireguard")
            && let Some(mut wireguard) = Fields::open(wireguard, "spec.wireguard", cx)
        {
            let _ = wireguard.get("interfaceIPv4Address", cx, decode::ipv4);
            let _ = wireguard.get("interfaceIPv6Address", cx, decode::ipv6);
            wireguard.finish(cx);
        }
        spec.accept(&["orchRefs", "interfaces", "assignedVXLANTunnelAddr"]);
        node
    }
}

/// The address in an item of `spec.addresses`, if it is an `InternalIP`. Others (host names among them) give none.
#[expect(
    clippy::option_option,
    reason = "the outer one is every decoder's: refused"
)]
fn address(node: &yaml::Node, cx: &mut Context<'_>) -> Option<Option<IpNet>> {
    let mut fields = Fields::open(node, "an address", cx)?;
    let kind = fields.get("type", cx, decode::text);
    let internal = kind.is_some_and(|kind| kind.value == "InternalIP");
    let address = if internal {
        Some(
            fields
                .require("address", cx, decode::address_in_subnet)?
                .value,
        )
    } else {
        fields.accept(&["address"]);
        None
    };
    fields.finish(cx);
    Some(address)
}
