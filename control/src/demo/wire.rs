//! A look at the underlay: which form the pods' packets have on the router's links to the nodes. Without it a check
//! could pass by the wrong path.
//!
//! Quiet traffic is seen whole; of a bulk transfer only samples are taken, so that looking does not slow it down.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::socket::sockopt::RcvBuf;
use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, setsockopt, socket,
};

use super::error::{DemoError, Result};
use super::ip::Shell;
use super::netns;
use super::plan::{LabId, Node, OUTSIDE_HOST, OUTSIDE_SUBNET, underlay};
use super::scenario::{Carriage, Family};
use super::topology::router_link;

const OUTGOING: u8 = 4; // PACKET_OUTGOING
const VXLAN_PORT: [u8; 2] = 4789_u16.to_be_bytes();

/// Packets seen from one node: `[carriage][family]`.
type Counts = [[AtomicU32; 2]; 3];

/// Packets of one family that a node sent into the underlay, by form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Seen {
    /// With a pod's address in the outermost header.
    pub plain: u32,
    /// In VXLAN.
    pub vxlan: u32,
    /// In IPIP.
    pub ipip: u32,
}

impl Seen {
    /// The count of one form.
    pub fn of(self, carriage: Carriage) -> u32 {
        match carriage {
            Carriage::Plain => self.plain,
            Carriage::Vxlan => self.vxlan,
            Carriage::Ipip => self.ipip,
        }
    }

    /// The forms seen, for people.
    pub fn describe(self) -> String {
        let forms: Vec<String> = [Carriage::Plain, Carriage::Vxlan, Carriage::Ipip]
            .into_iter()
            .filter(|form| self.of(*form) > 0)
            .map(|form| format!("{} {form}", self.of(form)))
            .collect();
        if forms.is_empty() {
            return "nothing".to_owned();
        }
        forms.join(", ")
    }
}

#[derive(Debug, Default)]
struct Shared {
    counts: [Counts; 2],
    /// Rounds that found nothing to read: what was sent before one is counted.
    idle: AtomicU32,
    /// Whether packets between pods and the server outside count.
    outside: AtomicBool,
    stop: AtomicBool,
}

/// The watcher. Ends when dropped.
#[derive(Debug)]
pub struct Wire {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Wire {
    /// Starts to watch the router's links.
    ///
    /// # Errors
    /// When the system refuses the packet socket.
    pub fn watch(lab: &LabId, shell: Shell) -> Result<Self> {
        let router = lab.netns("router");
        let links = link_indexes(shell, &router)?;
        let socket = netns::within(&router, || {
            socket(
                AddressFamily::Packet,
                SockType::Raw,
                SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
                SockProtocol::EthAll,
            )
        })?
        .map_err(DemoError::io("packet socket on the router"))?;
        setsockopt(&socket, RcvBuf, &(512 * 1024)).map_err(DemoError::io("SO_RCVBUF"))?;
        let shared = Arc::new(Shared::default());
        let counted = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("wire".to_owned())
            .spawn(move || count(&socket, &links, &counted))
            .map_err(DemoError::io("starting the thread that watches the wire"))?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Counts from zero again, once what was sent so far is counted.
    ///
    /// `outside` says whether packets of the server outside count: an old connection to it may still send its last
    /// segments again, and they are nobody's evidence in a conversation between others.
    pub fn reset(&self, outside: bool) {
        self.shared.outside.store(outside, Ordering::Relaxed);
        self.settle();
        for node in &self.shared.counts {
            for count in node.iter().flatten() {
                count.store(0, Ordering::Relaxed);
            }
        }
    }

    /// What each node (1, then 2) sent of a family since the last reset.
    pub fn seen(&self, family: Family) -> [Seen; 2] {
        self.settle();
        self.shared.counts.each_ref().map(|counts| {
            let of =
                |form: Carriage| counts[form as usize][family as usize].load(Ordering::Relaxed);
            Seen {
                plain: of(Carriage::Plain),
                vxlan: of(Carriage::Vxlan),
                ipip: of(Carriage::Ipip),
            }
        })
    }

    fn settle(&self) {
        let before = self.shared.idle.load(Ordering::Relaxed);
        let deadline = Instant::now() + Duration::from_secs(1);
        // Two: the first may have begun before the last packet came.
        while self
            .shared
            .idle
            .load(Ordering::Relaxed)
            .wrapping_sub(before)
            < 2
            && Instant::now() < deadline
        {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // it does not panic, and has nothing to say
        }
    }
}

fn link_indexes(shell: Shell, router: &str) -> Result<BTreeMap<usize, Node>> {
    let mut links = BTreeMap::new();
    for node in Node::ALL {
        let link = router_link(node);
        // "5: node1@if2: <BROADCAST…"
        let output = shell.ip_output(router, &["-o", "link", "show", "dev", link])?;
        let index = output
            .split(':')
            .next()
            .and_then(|n| n.trim().parse().ok())
            .ok_or_else(|| DemoError::Refused(format!("`ip -o link` printed {output:?}")))?;
        links.insert(index, node);
    }
    Ok(links)
}

fn count(socket: &OwnedFd, links: &BTreeMap<usize, Node>, shared: &Shared) {
    let mut head = [0; 128];
    while !shared.stop.load(Ordering::Relaxed) {
        let mut read = 0_u32;
        // EAGAIN ends a round; any other error shows as nothing seen, which no check takes for good.
        while let Ok((len, Some(from))) = recvfrom::<LinkAddr>(socket.as_raw_fd(), &mut head) {
            read += 1;
            if from.pkttype() != OUTGOING
                && let Some(node) = links.get(&from.ifindex())
                && let Some((form, family)) = head.get(..len).and_then(classify)
                && (shared.outside.load(Ordering::Relaxed) || !is_of_outside(&head[..len], family))
            {
                let counts = &shared.counts[usize::from(node.number() - 1)];
                counts[form as usize][family as usize].fetch_add(1, Ordering::Relaxed);
            }
            if read.is_multiple_of(256) {
                break; // a bulk transfer: the kernel drops what does not fit into the buffer meanwhile
            }
        }
        if read == 0 {
            shared.idle.fetch_add(1, Ordering::Relaxed);
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// The form of a frame and the family of the pods' packet that it carries; `None` for a frame of nobody's pods.
fn classify(frame: &[u8]) -> Option<(Carriage, Family)> {
    let (family, packet) = ethernet(frame)?;
    match family {
        Family::Ipv4 => {
            let header_len = usize::from(packet.first()? & 0x0f) * 4;
            match *packet.get(9)? {
                4 => return Some((Carriage::Ipip, Family::Ipv4)),
                17 => {
                    if let Some(inner) = vxlan_payload(packet.get(header_len..)?) {
                        return Some((Carriage::Vxlan, ethernet(inner)?.0));
                    }
                }
                _ => {}
            }
            let address = |at: usize| -> Option<Ipv4Addr> {
                let bytes: [u8; 4] = packet.get(at..at + 4)?.try_into().ok()?;
                Some(Ipv4Addr::from(bytes))
            };
            let pod = |ip: Ipv4Addr| ip.octets().starts_with(&[10, 244]);
            (pod(address(12)?) || pod(address(16)?)).then_some((Carriage::Plain, Family::Ipv4))
        }
        Family::Ipv6 => {
            if *packet.get(6)? == 17
                && let Some(inner) = vxlan_payload(packet.get(40..)?)
            {
                return Some((Carriage::Vxlan, ethernet(inner)?.0));
            }
            let address = |at: usize| -> Option<Ipv6Addr> {
                let bytes: [u8; 16] = packet.get(at..at + 16)?.try_into().ok()?;
                Some(Ipv6Addr::from(bytes))
            };
            let pod = |ip: Ipv6Addr| ip.segments().starts_with(&[0xfd44, 0, 0]);
            (pod(address(8)?) || pod(address(24)?)).then_some((Carriage::Plain, Family::Ipv6))
        }
    }
}

/// Whether a plain frame comes from or goes to the server outside.
fn is_of_outside(frame: &[u8], family: Family) -> bool {
    let addresses = match family {
        Family::Ipv4 => frame.get(26..34),
        Family::Ipv6 => frame.get(22..54),
    };
    let outside: &[u8] = match underlay(family, OUTSIDE_SUBNET, OUTSIDE_HOST) {
        IpAddr::V4(addr) => &addr.octets(),
        IpAddr::V6(addr) => &addr.octets(),
    };
    addresses.is_some_and(|both| both.chunks(outside.len()).any(|one| one == outside))
}

fn ethernet(frame: &[u8]) -> Option<(Family, &[u8])> {
    let family = match frame.get(12..14)? {
        [0x08, 0x00] => Family::Ipv4,
        [0x86, 0xdd] => Family::Ipv6,
        _ => return None,
    };
    Some((family, frame.get(14..)?))
}

/// The inner frame, when a UDP datagram is VXLAN.
fn vxlan_payload(udp: &[u8]) -> Option<&[u8]> {
    (udp.get(2..4)? == VXLAN_PORT)
        .then(|| udp.get(16..))
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ipv4(protocol: u8, src: [u8; 4], dst: [u8; 4], payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([0x08, 0x00, 0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0]);
        frame.extend(src);
        frame.extend(dst);
        frame.extend(payload);
        frame
    }

    const NODE1: [u8; 4] = [172, 30, 1, 11];
    const NODE2: [u8; 4] = [172, 30, 2, 12];
    const POD: [u8; 4] = [10, 244, 1, 2];

    #[test]
    fn forms_are_told_apart() {
        let inner = ipv4(1, POD, [10, 244, 2, 2], &[]);
        let mut vxlan = vec![0xc0, 0, 0x12, 0xb5, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0x10, 0, 0];
        vxlan.extend(&inner);
        assert_eq!(
            classify(&ipv4(17, NODE1, NODE2, &vxlan)),
            Some((Carriage::Vxlan, Family::Ipv4))
        );
        assert_eq!(
            classify(&ipv4(4, NODE1, NODE2, &inner[14..])),
            Some((Carriage::Ipip, Family::Ipv4))
        );
        assert_eq!(classify(&inner), Some((Carriage::Plain, Family::Ipv4)));
        assert_eq!(
            classify(&ipv4(6, NODE2, POD, &[])),
            Some((Carriage::Plain, Family::Ipv4))
        );
    }

    #[test]
    fn packets_of_the_server_outside_are_known() {
        let IpAddr::V4(outside) = underlay(Family::Ipv4, OUTSIDE_SUBNET, OUTSIDE_HOST) else {
            unreachable!()
        };
        assert!(is_of_outside(
            &ipv4(6, POD, outside.octets(), &[]),
            Family::Ipv4
        ));
        assert!(is_of_outside(
            &ipv4(6, outside.octets(), POD, &[]),
            Family::Ipv4
        ));
        assert!(!is_of_outside(
            &ipv4(6, POD, [10, 244, 2, 2], &[]),
            Family::Ipv4
        ));
    }

    #[test]
    fn traffic_of_the_nodes_themselves_does_not_count() {
        assert_eq!(classify(&ipv4(6, NODE1, NODE2, &[])), None);
        assert_eq!(classify(&[]), None);
        assert_eq!(classify(&[0; 14]), None);
    }
}
