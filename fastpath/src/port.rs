//! Ports: what packets come from and go to.

use encap::eth::MacAddr;

/// A port of the dataplane. A logical port is not a socket: one port has a socket a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortId(pub u16);

/// What is known of a port. Written by control, read by pollers as part of the tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// The interface's name.
    pub name: String,
    /// The port's own MAC address.
    pub mac: MacAddr,
    /// The longest IP packet that it takes, in bytes.
    pub mtu: u16,
    /// What is behind it.
    pub kind: PortKind,
    /// Whether packets may come in with partial transport checksums: from a stack of this machine, by a virtual device.
    pub partial_checksums: bool,
    /// The source of ICMP errors that leave by it; `None`: none are sent.
    pub icmp_source4: Option<u32>,
    /// The same for IPv6.
    pub icmp_source6: Option<u128>,
    /// The address that translated connections leave by this port with; `None`: none can.
    pub nat4: Option<u32>,
    /// The same for IPv6.
    pub nat6: Option<u128>,
    /// The generation of the tables in which what is behind the port became what it is: an endpoint that was deleted,
    /// moved or given other addresses is another one, and has no part in connections made before. 0 on other ports.
    pub since: u64,
}

/// What is behind a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortKind {
    /// The underlay.
    Uplink,
    /// One workload.
    Pod(PodPort),
    /// The host's own stack.
    Host,
}

/// What binds a pod's port to its pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodPort {
    /// The pod's MAC address; `None` until it is known: then the first valid packet tells.
    pub mac: Option<MacAddr>,
    /// The pod's IPv4 addresses.
    pub addrs4: Vec<u32>,
    /// The pod's IPv6 addresses.
    pub addrs6: Vec<u128>,
    /// Sources it may use beside its own: (network, mask).
    pub allowed4: Vec<(u32, u32)>,
    /// The same for IPv6.
    pub allowed6: Vec<(u128, u128)>,
}

impl PodPort {
    /// Whether the pod may send from this IPv4 address.
    #[inline]
    pub fn may_send_from4(&self, src: u32) -> bool {
        self.addrs4.contains(&src) || self.allowed4.iter().any(|&(net, mask)| src & mask == net)
    }

    /// Whether the pod may send from this IPv6 address.
    #[inline]
    pub fn may_send_from6(&self, src: u128) -> bool {
        self.addrs6.contains(&src) || self.allowed6.iter().any(|&(net, mask)| src & mask == net)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_sends_from_its_own_and_its_allowed_addresses_only() {
        let pod = PodPort {
            addrs4: vec![0x0a41_0002],
            allowed4: vec![(0x0808_0800, 0xffff_ff00)],
            ..PodPort::default()
        };
        assert!(pod.may_send_from4(0x0a41_0002));
        assert!(pod.may_send_from4(0x0808_0807));
        assert!(!pod.may_send_from4(0x0a41_0003));
        assert!(!pod.may_send_from4(0x0808_0907));
        assert!(!pod.may_send_from6(1));
    }
}
