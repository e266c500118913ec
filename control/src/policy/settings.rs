//! Settings of a node that policy depends on.

use std::fmt;

use ipnet::IpNet;

use super::rule::Protocol;
use crate::config::kinds::FelixConfiguration;
use crate::desired::{EndpointToHost, FelixSettings};

/// Settings of a node that policy depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// What becomes of pods' packets to their own host that policy allows.
    pub endpoint_to_host: EndpointToHost,
    /// Ports of the host that policy can not close.
    pub failsafe_inbound: Vec<Failsafe>,
    /// Ports that policy can not keep the host from.
    pub failsafe_outbound: Vec<Failsafe>,
    /// UDP port of VXLAN.
    pub vxlan_port: u16,
    /// Pods may send VXLAN themselves.
    pub allow_vxlan_from_workloads: bool,
    /// Pods may send IPIP themselves.
    pub allow_ipip_from_workloads: bool,
    /// Packets that connection tracking calls invalid are judged like others.
    pub disable_conntrack_invalid_check: bool,
}

impl Default for Settings {
    /// Calico's defaults.
    fn default() -> Self {
        Self {
            endpoint_to_host: EndpointToHost::default(),
            failsafe_inbound: Failsafe::default_inbound(),
            failsafe_outbound: Failsafe::default_outbound(),
            vxlan_port: 4789,
            allow_vxlan_from_workloads: false,
            allow_ipip_from_workloads: false,
            disable_conntrack_invalid_check: false,
        }
    }
}

impl Settings {
    /// Those that follow from Felix's settings, and from the configurations that these were made of: a later one counts.
    pub(crate) fn of<'c>(
        felix: &FelixSettings,
        configurations: impl IntoIterator<Item = &'c FelixConfiguration>,
    ) -> Self {
        let mut settings = Self {
            endpoint_to_host: felix.endpoint_to_host,
            vxlan_port: felix.vxlan_port,
            allow_vxlan_from_workloads: felix.allow_vxlan_from_workloads,
            allow_ipip_from_workloads: felix.allow_ipip_from_workloads,
            disable_conntrack_invalid_check: felix.disable_conntrack_invalid_check,
            ..Self::default()
        };
        for configuration in configurations {
            if let Some(ports) = &configuration.failsafe_inbound {
                settings.failsafe_inbound.clone_from(ports);
            }
            if let Some(ports) = &configuration.failsafe_outbound {
                settings.failsafe_outbound.clone_from(ports);
            }
        }
        settings
    }
}

/// A port that policy for a host endpoint never closes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failsafe {
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// Destination port.
    pub port: u16,
    /// Only with this other end; `None`: with any.
    pub net: Option<IpNet>,
}

impl Failsafe {
    fn list(ports: &[(Protocol, u16)]) -> Vec<Self> {
        let one = |(protocol, port): &(Protocol, u16)| Self {
            protocol: *protocol,
            port: *port,
            net: None,
        };
        ports.iter().map(one).collect()
    }

    /// Calico's default of `failsafeInboundHostPorts`: SSH, DHCP, BGP, etcd, Typha, the Kubernetes API.
    pub fn default_inbound() -> Vec<Self> {
        const TCP: Protocol = Protocol::TCP;
        Self::list(&[
            (TCP, 22),
            (Protocol::UDP, 68),
            (TCP, 179),
            (TCP, 2379),
            (TCP, 2380),
            (TCP, 5473),
            (TCP, 6443),
            (TCP, 6666),
            (TCP, 6667),
        ])
    }

    /// Calico's default of `failsafeOutboundHostPorts`: DNS, DHCP, BGP, etcd, Typha, the Kubernetes API.
    pub fn default_outbound() -> Vec<Self> {
        const TCP: Protocol = Protocol::TCP;
        Self::list(&[
            (Protocol::UDP, 53),
            (Protocol::UDP, 67),
            (TCP, 179),
            (TCP, 2379),
            (TCP, 2380),
            (TCP, 5473),
            (TCP, 6443),
            (TCP, 6666),
            (TCP, 6667),
        ])
    }
}

impl fmt::Display for Failsafe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.protocol, self.port)?;
        match self.net {
            Some(net) => write!(f, " with {net}"),
            None => Ok(()),
        }
    }
}
