//! What happens to a scenario's packets.

use encap::outer::{Rewrite, Tunnel, UdpChecksum};
use fastpath::tables::Way;

use super::tables::{macs_of, node4, overlay};
use super::{LOCAL4, LOCAL6};

/// What happens to a scenario's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chain {
    /// IPv4 from a pod, plain by the uplink, a thousand routes.
    Forward4,
    /// The same with a million routes.
    Forward4Bgp,
    /// IPv6 from a pod, plain by the uplink.
    Forward6,
    /// IPv4 from a pod into VXLAN over IPv4.
    Vxlan4,
    /// IPv6 from a pod into VXLAN over IPv6.
    Vxlan6,
    /// IPv4 from a pod into IPIP.
    Ipip,
    /// VXLAN over IPv4 from a node to a pod.
    VxlanDecap,
    /// IPIP from a node to a pod.
    IpipDecap,
    /// UDP over IPv4 of established connections, from a pod, plain by the uplink.
    State4,
    /// The same with TCP.
    State4Tcp,
    /// UDP over IPv6, the same way.
    State6,
    /// UDP over IPv4 of established connections, from a pod into VXLAN over IPv4.
    StateVxlan4,
    /// UDP over IPv4 of established and translated connections, from a pod, plain by the uplink.
    Snat4,
    /// The same with TCP.
    Snat4Tcp,
    /// UDP over IPv6, the same way.
    Snat6,
    /// UDP over IPv4 of translated connections, from outside by the uplink back to the pod.
    Snat4Reply,
    /// UDP over IPv4 of established and translated connections, from a pod into VXLAN over IPv4.
    SnatVxlan4,
}

impl Chain {
    /// All of them.
    pub const ALL: [Self; 17] = [
        Self::Forward4,
        Self::Forward4Bgp,
        Self::Forward6,
        Self::Vxlan4,
        Self::Vxlan6,
        Self::Ipip,
        Self::VxlanDecap,
        Self::IpipDecap,
        Self::State4,
        Self::State4Tcp,
        Self::State6,
        Self::StateVxlan4,
        Self::Snat4,
        Self::Snat4Tcp,
        Self::Snat6,
        Self::Snat4Reply,
        Self::SnatVxlan4,
    ];

    /// The name in tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Forward4 => "forward4-calico1k",
            Self::Forward4Bgp => "forward4-bgp1m",
            Self::Forward6 => "forward6-calico1k6",
            Self::Vxlan4 => "vxlan4-encap",
            Self::Vxlan6 => "vxlan6-encap",
            Self::Ipip => "ipip-encap",
            Self::VxlanDecap => "vxlan4-decap",
            Self::IpipDecap => "ipip-decap",
            Self::State4 => "state4",
            Self::State4Tcp => "state4-tcp",
            Self::State6 => "state6",
            Self::StateVxlan4 => "state-vxlan4",
            Self::Snat4 => "snat4",
            Self::Snat4Tcp => "snat4-tcp",
            Self::Snat6 => "snat6",
            Self::Snat4Reply => "snat4-reply",
            Self::SnatVxlan4 => "snat-vxlan4",
        }
    }

    /// Whether the packets come out of a tunnel.
    #[must_use]
    pub const fn is_decap(self) -> bool {
        matches!(self, Self::VxlanDecap | Self::IpipDecap)
    }

    /// Whether connections are kept track of.
    #[must_use]
    pub const fn is_stateful(self) -> bool {
        matches!(
            self,
            Self::State4 | Self::State4Tcp | Self::State6 | Self::StateVxlan4
        ) || self.is_translated()
    }

    /// Whether the packets' source is translated, or their destination back.
    #[must_use]
    pub const fn is_translated(self) -> bool {
        matches!(
            self,
            Self::Snat4 | Self::Snat4Tcp | Self::Snat6 | Self::Snat4Reply | Self::SnatVxlan4
        )
    }

    /// Whether the packets go back to who began.
    #[must_use]
    pub const fn is_reply(self) -> bool {
        matches!(self, Self::Snat4Reply)
    }

    /// Whether the packets are TCP segments; else UDP.
    #[must_use]
    pub const fn is_tcp(self) -> bool {
        matches!(self, Self::State4Tcp | Self::Snat4Tcp)
    }

    /// Whether the packets are IPv6, inside of tunnels too.
    #[must_use]
    pub const fn is_v6(self) -> bool {
        matches!(
            self,
            Self::Forward6 | Self::Vxlan6 | Self::State6 | Self::Snat6
        )
    }

    /// Whether the packets go into VXLAN over IPv4.
    #[must_use]
    pub const fn is_vxlan4(self) -> bool {
        matches!(self, Self::Vxlan4 | Self::StateVxlan4 | Self::SnatVxlan4)
    }

    pub(super) const fn comes_by_uplink(self) -> bool {
        self.is_decap() || self.is_reply()
    }

    /// The same by the uplink without a tunnel: connections are made so, and their answers come back so.
    pub(super) const fn plain(self) -> Self {
        match self {
            Self::StateVxlan4 => Self::State4,
            Self::SnatVxlan4 => Self::Snat4,
            it => it,
        }
    }

    pub(super) const fn way(self) -> Way {
        let is_tunnel =
            self.is_decap() || self.is_vxlan4() || matches!(self, Self::Vxlan6 | Self::Ipip);
        if is_tunnel { Way::Tunnel } else { Way::Uplink }
    }

    /// What is put in front of a packet to node or gateway number `hop`.
    pub(super) fn rewrite(self, hop: u16) -> Rewrite {
        let macs = macs_of(hop);
        let ends = Tunnel {
            src: LOCAL4,
            dst: node4(hop),
        };
        match self {
            Self::Ipip | Self::IpipDecap => Rewrite::ipip(macs, ends, 64),
            Self::Vxlan6 => Rewrite::vxlan6(
                macs,
                Tunnel {
                    src: LOCAL6,
                    dst: LOCAL6 + u128::from(hop) + 1,
                },
                overlay(hop),
                UdpChecksum::Computed,
            ),
            _ if self.way() == Way::Tunnel => Rewrite::vxlan4(macs, ends, overlay(hop)),
            _ => Rewrite::ethernet(macs),
        }
    }
}
