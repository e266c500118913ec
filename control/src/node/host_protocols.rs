//! Protocols without ports that the host uses itself: natOutgoing leaves them alone, so that an answer's protocol says whose it is.

use std::path::Path;

use super::host_ports::local_ports;
use crate::netlink::{Link, ipsec};

/// Their numbers, of this thread's network namespace: those of raw sockets, of tunnels that are up, and of IPsec.
pub(super) fn read<'a>(links: impl IntoIterator<Item = &'a Link>) -> Vec<u16> {
    let mut numbers: Vec<u16> = links.into_iter().flat_map(of_tunnel).copied().collect();
    for file in ["raw", "raw6"] {
        let path = Path::new("/proc/thread-self/net").join(file);
        // A raw socket's protocol stands where others have their port. No such file where the kernel has no IPv6.
        numbers.extend(local_ports(
            &std::fs::read_to_string(path).unwrap_or_default(),
        ));
    }
    // Where the kernel does not say, it may well be in use.
    if ipsec::is_used().unwrap_or(true) {
        numbers.extend(IPSEC);
    }
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

const IPIP: u16 = 4;
const SIT: u16 = 41;
const GRE: u16 = 47;
/// MPLS in IP (RFC 4023), which devices for IP in IP may carry.
const MPLS: u16 = 137;
/// ESP, AH, and IPComp.
const IPSEC: [u16; 3] = [50, 51, 108];

/// What a tunnel's packets are. The kernel makes one of each kind as soon as it can; down, it takes nothing.
fn of_tunnel(link: &Link) -> &'static [u16] {
    if !link.admin_up {
        return &[];
    }
    match link.kind.as_deref() {
        Some("ipip") => &[IPIP, MPLS],
        Some("sit") => &[SIT, IPIP, MPLS],
        Some("ip6tnl") => &[IPIP, SIT],
        Some("gre" | "gretap" | "erspan" | "ip6gre" | "ip6gretap" | "ip6erspan") => &[GRE],
        Some("vti" | "vti6" | "xfrm") => &IPSEC,
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use fastpath::io::xsk::test_support::skipped_without_root;
    use nix::sched::{CloneFlags, unshare};
    use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

    use super::*;

    fn link(kind: &str, admin_up: bool) -> Link {
        Link {
            kind: Some(kind.to_owned()),
            admin_up,
            ..Link::default()
        }
    }

    #[test]
    fn a_raw_sockets_protocol_is_used() {
        if skipped_without_root("a_raw_sockets_protocol_is_used") {
            return;
        }
        let alone = || {
            unshare(CloneFlags::CLONE_NEWNET).expect("a namespace of its own");
            assert!(!read([]).contains(&17));
            let _socket = socket(
                AddressFamily::Inet6,
                SockType::Raw,
                SockFlag::empty(),
                SockProtocol::Udp,
            )
            .expect("a socket");
            assert!(read([]).contains(&17));
        };
        std::thread::spawn(alone).join().expect("the test");
    }

    #[test]
    fn tunnels_that_are_up_use_their_protocol() {
        let used = read(&[link("gre", true), link("veth", true), link("sit", true)]);
        for protocol in [GRE, SIT, IPIP, MPLS] {
            assert!(used.contains(&protocol), "{protocol} of {used:?}");
        }
        assert!(!read(&[link("gretap", false)]).contains(&GRE));
    }
}
