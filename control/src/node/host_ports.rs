//! The source ports of natOutgoing, and its protocols without ports: none that the host uses, so that an answer's port or
//! protocol says whose it is.

use std::io;
use std::ops::RangeInclusive;
use std::path::Path;

use flowtable::snat::{PortSet, Ports};

use super::host_protocols;
use crate::desired::FelixSettings;
use crate::netlink::Link;
use crate::xdp::{NatPorts, no_ports};

/// What the host's stack uses ports for, and protocols without.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct HostPorts {
    /// `net.ipv4.ip_local_port_range`: what it gives to connections of its own.
    ephemeral: Option<RangeInclusive<u16>>,
    /// `net.ipv4.ip_local_reserved_ports`.
    reserved: Vec<RangeInclusive<u16>>,
    /// Ports of TCP sockets, outside of the ephemeral range.
    tcp: Vec<u16>,
    /// The same of UDP.
    udp: Vec<u16>,
    /// Numbers of protocols without ports.
    protocols: Vec<u16>,
}

impl HostPorts {
    /// What the kernel says now, of this thread's network namespace, which has these links.
    pub(super) fn read<'a>(links: impl IntoIterator<Item = &'a Link>) -> io::Result<Self> {
        let text = |path: &str| std::fs::read_to_string(Path::new("/proc").join(path));
        let ephemeral = parse_pair(&text("sys/net/ipv4/ip_local_port_range")?);
        let ports = |files: [&str; 2]| {
            let mut ports = Vec::new();
            for file in files {
                // No such file where the kernel has no IPv6.
                let table = text(&format!("thread-self/net/{file}")).unwrap_or_default();
                ports.extend(local_ports(&table));
            }
            ports.retain(|port| !ephemeral.as_ref().is_some_and(|range| range.contains(port)));
            ports.sort_unstable();
            ports.dedup();
            ports
        };
        Ok(Self {
            reserved: parse_ranges(
                &text("sys/net/ipv4/ip_local_reserved_ports").unwrap_or_default(),
            ),
            tcp: ports(["tcp", "tcp6"]),
            udp: ports(["udp", "udp6"]),
            protocols: host_protocols::read(links),
            ephemeral,
        })
    }

    /// The ports, and the protocols without, that are left for translated connections.
    ///
    /// By default those that the host gives nobody: outside of its ephemeral range, without NodePorts, which kube-proxy serves
    /// without a listening socket. `natPortRange` is
    /// taken as it is: who sets it has made room for it. What somebody listens on, or reserved, is never taken, nor VXLAN's port.
    pub(crate) fn left_for_nat(&self, felix: &FelixSettings) -> Ports {
        let chosen = felix.nat_port_range.map(|(first, last)| first..=last);
        let range = chosen.clone().unwrap_or(Ports::DEFAULT_RANGE);
        let node_ports = || felix.node_ports.iter().map(|&(first, last)| first..=last);
        let own = || self.ephemeral.clone().into_iter().chain(node_ports());
        let reserved = || self.reserved.iter().cloned();
        let common = || own().filter(|_| chosen.is_none()).chain(reserved());
        let used = |ports: &[u16]| ports.iter().map(|&port| port..=port).collect::<Vec<_>>();
        let vxlan = felix.vxlan_port..=felix.vxlan_port;
        Ports {
            tcp: PortSet::new([range.clone()], common().chain(used(&self.tcp))),
            udp: PortSet::new([range], common().chain(used(&self.udp)).chain([vxlan])),
            // The range is for TCP and UDP, as in Calico's rules.
            others: PortSet::new([Ports::DEFAULT_RANGE], own().chain(reserved())),
            identifiers: PortSet::new([0..=u16::MAX], []),
            protocols: Ports::protocols_without(self.protocols.iter().copied()),
        }
    }
}

/// The ports, and the protocols without, as the NIC's program takes them.
pub(super) fn bits(ports: &Ports) -> Box<NatPorts> {
    let mut bits = no_ports();
    let sets = [&ports.tcp, &ports.udp, &ports.others, &ports.protocols];
    for (words, set) in bits.iter_mut().zip(sets) {
        for port in (0..=u16::MAX).filter(|&port| set.contains(port)) {
            words[usize::from(port / 64)] |= 1 << (port % 64);
        }
    }
    bits
}

/// Two numbers with white space between.
fn parse_pair(text: &str) -> Option<RangeInclusive<u16>> {
    let mut numbers = text.split_whitespace().map(str::parse);
    match (numbers.next()?, numbers.next()?) {
        (Ok(first), Ok(last)) => Some(first..=last),
        _ => None,
    }
}

/// Ports and ranges of them, as `8080,9000-9010`.
fn parse_ranges(text: &str) -> Vec<RangeInclusive<u16>> {
    let one = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse().ok()?..=last.parse().ok()?)
    };
    text.trim().split(',').filter_map(one).collect()
}

/// The local ports of the sockets in a table such as /proc/net/tcp.
pub(super) fn local_ports(table: &str) -> impl Iterator<Item = u16> {
    table.lines().skip(1).filter_map(|line| {
        let local = line.split_whitespace().nth(1)?;
        u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> HostPorts {
        let tcp = "  sl  local_address rem_address   st tx_queue rx_queue\n\
                   \x20  0: 0100007F:1F90 00000000:0000 0A 00000000:00000000\n\
                   \x20  1: 00000000000000000000000000000000:2710 00000000000000000000000000000000:0000 0A\n";
        HostPorts {
            ephemeral: parse_pair("32768\t60999\n"),
            reserved: parse_ranges("9000-9010,9099\n"),
            tcp: local_ports(tcp).collect(),
            udp: vec![5353],
            protocols: vec![47, 89],
        }
    }

    #[test]
    fn no_port_that_the_host_uses_is_taken() {
        let host = host();
        assert_eq!(host.tcp, [8080, 10_000]);
        let ports = host.left_for_nat(&FelixSettings::default());
        for port in [
            1023, 8080, 10_000, 9000, 9010, 9099, 30_000, 32_767, 32_768, 60_999,
        ] {
            assert!(!ports.tcp.contains(port), "TCP {port}");
        }
        for port in [5353, 4789, 9005, 40_000] {
            assert!(!ports.udp.contains(port), "UDP {port}");
        }
        for port in [1024, 4789, 5353, 9011, 29_999, 61_000, 65_535] {
            assert!(ports.tcp.contains(port), "TCP {port}");
        }
        assert!(ports.udp.contains(8080), "only TCP listens there");
        assert!(!ports.others.contains(40_000));
        assert!(ports.tcp.len() > 30_000);
    }

    #[test]
    fn a_chosen_range_is_taken_but_for_what_is_in_use() {
        let felix = FelixSettings {
            nat_port_range: Some((4780, 40_000)),
            ..FelixSettings::default()
        };
        let ports = host().left_for_nat(&felix);
        assert!(ports.tcp.contains(32_768), "the operator made room");
        assert!(!ports.tcp.contains(8080));
        assert!(!ports.tcp.contains(40_001));
        assert!(ports.udp.contains(4788));
        assert!(!ports.udp.contains(4789));
        assert!(
            ports.others.contains(61_000),
            "the range is for TCP and UDP"
        );
    }

    #[test]
    fn node_ports_are_where_they_are_said_to_be() {
        let felix = FelixSettings {
            node_ports: vec![(20_000, 20_010), (25_000, 25_000)],
            ..FelixSettings::default()
        };
        let ports = host().left_for_nat(&felix);
        for port in [20_000, 20_010, 25_000] {
            assert!(!ports.tcp.contains(port), "{port}");
            assert!(!ports.others.contains(port), "{port}");
        }
        for port in [19_999, 20_011, 24_999, 30_000, 32_767] {
            assert!(ports.tcp.contains(port), "{port}");
        }
    }

    #[test]
    fn the_bits_are_the_ports() {
        let ports = host().left_for_nat(&FelixSettings::default());
        let bits = bits(&ports);
        let sets = [&ports.tcp, &ports.udp, &ports.others, &ports.protocols];
        for (words, set) in bits.iter().zip(sets) {
            for port in 0..=u16::MAX {
                let is_set = words[usize::from(port / 64)] >> (port % 64) & 1 == 1;
                assert_eq!(is_set, set.contains(port), "{port}");
            }
        }
    }

    #[test]
    fn no_protocol_that_the_host_or_a_tunnel_of_ours_uses_is_taken() {
        let protocols = host().left_for_nat(&FelixSettings::default()).protocols;
        for used in [47, 89, 4, 0, 1, 6, 17, 58, 132] {
            assert!(!protocols.contains(used), "{used}");
        }
        for free in [50, 51, 253] {
            assert!(protocols.contains(free), "{free}");
        }
    }

    #[test]
    fn what_the_kernel_says_can_be_read() {
        let host = HostPorts::read([]).expect("/proc");
        assert!(host.ephemeral.is_some());
    }
}
