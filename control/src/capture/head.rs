//! What a filter asks of a packet's first bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use fastpath::port::PortId;

use crate::flows::{Filter, Test, Which, has_ports};

/// Addresses and ports of a packet, as it is on the wire: of a tunnel's packet those of the outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    src: IpAddr,
    dst: IpAddr,
    protocol: u8,
    /// Of protocols that have them, and not of later fragments.
    ports: Option<(u16, u16)>,
}

impl Head {
    /// That of an Ethernet frame; none of what is not IP. IPv6 extension headers are not gone through.
    pub(crate) fn of(frame: &[u8]) -> Option<Self> {
        let byte = |at: usize| frame.get(at).copied();
        let (src, dst, protocol, l4, is_later) = match array(frame, 12)? {
            [0x08, 0x00] => {
                let l4 = 14 + usize::from(byte(14)? & 0xf) * 4;
                let fragment = u16::from_be_bytes(array(frame, 20)?);
                let src = Ipv4Addr::from(array::<4>(frame, 26)?);
                let dst = Ipv4Addr::from(array::<4>(frame, 30)?);
                (
                    src.into(),
                    dst.into(),
                    byte(23)?,
                    l4,
                    fragment & 0x1fff != 0,
                )
            }
            [0x86, 0xdd] => {
                let src = Ipv6Addr::from(array::<16>(frame, 22)?);
                let dst = Ipv6Addr::from(array::<16>(frame, 38)?);
                (IpAddr::from(src), dst.into(), byte(20)?, 54, false)
            }
            _ => return None,
        };
        let port = |at| array(frame, at).map(u16::from_be_bytes);
        let ports = (has_ports(protocol) && !is_later)
            .then(|| Some((port(l4)?, port(l4 + 2)?)))
            .flatten();
        Some(Self {
            src,
            dst,
            protocol,
            ports,
        })
    }

    /// Whether a filter means a packet with this head at a port. One without a head is meant by no condition but the port's.
    pub(crate) fn is_meant(head: Option<&Self>, at: PortId, filter: &Filter<Vec<PortId>>) -> bool {
        filter.holds(&|test| match (test, head) {
            (Test::Endpoint(ports), _) => ports.contains(&at),
            (_, None) => false,
            (test, Some(head)) => head.holds(test),
        })
    }

    fn holds<E>(&self, test: &Test<E>) -> bool {
        match test {
            Test::Address(which, net) => which.of(&self.src, &self.dst, |addr| net.contains(addr)),
            Test::Port(which, range) => self
                .ports
                .is_some_and(|(src, dst)| which.of(&src, &dst, |port| range.contains(port))),
            Test::Protocol(protocol) => self.protocol == *protocol,
            Test::Ipv6(is) => self.src.is_ipv6() == *is,
            // Refused before.
            Test::State(_) | Test::Snat | Test::Dnat | Test::Endpoint(_) => false,
        }
    }
}

impl Which {
    fn of<T>(self, source: &T, destination: &T, is: impl Fn(&T) -> bool) -> bool {
        match self {
            Self::Source => is(source),
            Self::Destination => is(destination),
            Self::Either => is(source) || is(destination),
        }
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn filter(text: &str) -> Filter<Vec<PortId>> {
        let filter = Filter::parse(text).unwrap();
        filter.resolve(&|_| Ok::<_, ()>(vec![PortId(7)])).unwrap()
    }

    /// Ethernet, IPv4 with an option, UDP.
    fn ipv4(fragment: u16) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([8, 0, 0x46, 0, 0, 32, 0, 0]);
        frame.extend(fragment.to_be_bytes());
        frame.extend([64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 1, 1, 1, 1]);
        frame.extend([0x30, 0x39, 0, 53, 0, 8, 0, 0]);
        frame
    }

    #[test]
    fn what_a_filter_means() {
        let frame = ipv4(0);
        let is_meant =
            |text: &str| Head::is_meant(Head::of(&frame).as_ref(), PortId(7), &filter(text));
        for text in [
            "udp",
            "src 10.0.0.1",
            "dst net 10.0.0.0/30 and src port 12345",
            "port 53 and ip",
            "endpoint cali7",
            "not tcp",
        ] {
            assert!(is_meant(text), "{text}");
        }
        for text in ["tcp", "dst host 10.0.0.1", "src port 53", "ip6", "not udp"] {
            assert!(!is_meant(text), "{text}");
        }
        // A later fragment has no ports.
        let later = Head::of(&ipv4(0x2001)).unwrap();
        assert!(!Head::is_meant(Some(&later), PortId(1), &filter("port 53")));
        let mut ipv6 = vec![0; 12];
        ipv6.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 8, 6, 64]);
        ipv6.extend([0xfd; 32]);
        ipv6.extend([0, 80, 1, 0]);
        let head = Head::of(&ipv6).unwrap();
        let tcp = filter("ip6 and tcp and src port 80 and dst port 256 and not endpoint x");
        assert!(Head::is_meant(Some(&head), PortId(1), &tcp));
        // What is no IP.
        assert_eq!(Head::of(&[0xff; 60]), None);
        assert!(!Head::is_meant(None, PortId(7), &filter("udp")));
        assert!(Head::is_meant(None, PortId(7), &filter("endpoint x")));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80), v6: bool) {
            let mut bytes = bytes;
            if let Some(kind) = bytes.get_mut(12..14) {
                kind.copy_from_slice(if v6 { &[0x86, 0xdd] } else { &[8, 0] });
            }
            let _ = Head::of(&bytes);
        }
    }
}
