//! Frames of many devices that come by one socket.
//!
//! The kernel's program that sends them there writes a tag over each frame's destination MAC address, which is all that it can say:
//!
//! | byte | holds |
//! |---|---|
//! | 0 | what the destination was: 0 the device's own, 1 broadcast, 2 and 3 the multicast address of the IPv4 or IPv6 destination, 4 another one |
//! | 1 | 0 |
//! | 2 to 5 | the interface index of the device that the frame came in by, big-endian |
//!
//! Here the port is found by the index, and the address is put back.

use encap::eth::MacAddr;
use hashbrown::HashMap;

use crate::port::PortId;

/// Stands for a destination that was none of the others: nobody's, so that the frame is not for us.
const ANOTHERS: MacAddr = MacAddr([0x02, 0, 0, 0, 0, 0]);

/// The ports that tags name. One poller's alone.
#[derive(Debug)]
pub(super) struct Tags {
    by_ifindex: HashMap<u32, Tagged>,
}

#[derive(Clone, Copy, Debug)]
struct Tagged {
    port: PortId,
    mac: MacAddr,
}

impl Tags {
    /// None, with room for so many.
    pub(super) fn with_capacity(ports: usize) -> Self {
        Self {
            by_ifindex: HashMap::with_capacity(ports),
        }
    }

    /// Frames that came in by this device are the port's from now on; `mac` is the device's own address, as its packets have it.
    pub(super) fn insert(&mut self, ifindex: u32, port: PortId, mac: MacAddr) {
        self.by_ifindex.insert(ifindex, Tagged { port, mac });
    }

    /// The port goes, whatever devices it had.
    pub(super) fn remove_port(&mut self, port: PortId) {
        self.by_ifindex.retain(|_, tagged| tagged.port != port);
    }

    /// Whose a frame is; its destination is what it was before the tag. `None` for a frame that names no port; it stays as it is.
    #[inline]
    pub(super) fn untag(&self, frame: &mut [u8]) -> Option<PortId> {
        let &[kind, 0, a, b, c, d] = frame.first_chunk::<6>()? else {
            return None;
        };
        let ifindex = u32::from_be_bytes([a, b, c, d]);
        let &Tagged { port, mac } = self.by_ifindex.get(&ifindex)?;
        let MacAddr(destination) = match kind {
            0 => mac,
            1 => MacAddr::BROADCAST,
            2 => multicast4(frame).unwrap_or(ANOTHERS),
            3 => multicast6(frame).unwrap_or(ANOTHERS),
            _ => ANOTHERS,
        };
        if let Some(to) = frame.first_chunk_mut() {
            *to = destination;
        }
        Some(port)
    }
}

/// The multicast MAC address that belongs to an IPv4 packet's destination (RFC 1112, section 6.4).
#[cold]
fn multicast4(frame: &[u8]) -> Option<MacAddr> {
    let &[0x08, 0x00] = frame.get(12..)?.first_chunk()? else {
        return None;
    };
    let &[_, b, c, d] = frame.get(30..)?.first_chunk()?;
    Some(MacAddr([0x01, 0x00, 0x5e, b & 0x7f, c, d]))
}

/// The multicast MAC address that belongs to an IPv6 packet's destination (RFC 2464, section 7).
#[cold]
fn multicast6(frame: &[u8]) -> Option<MacAddr> {
    let &[0x86, 0xdd] = frame.get(12..)?.first_chunk()? else {
        return None;
    };
    let &[a, b, c, d] = frame.get(50..)?.first_chunk()?;
    Some(MacAddr([0x33, 0x33, a, b, c, d]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAC: MacAddr = MacAddr([0xee; 6]);
    const IPV4: [u8; 2] = [0x08, 0x00];
    const IPV6: [u8; 2] = [0x86, 0xdd];

    fn tags() -> Tags {
        let mut tags = Tags::with_capacity(4);
        tags.insert(0x0001_0203, PortId(7), MAC);
        tags.insert(5, PortId(8), MacAddr([0x02, 0, 0, 0, 0, 8]));
        tags
    }

    /// A frame of device 0x10203 whose bytes behind the Ethernet header count up from 14.
    fn frame(kind: u8, ethertype: [u8; 2], len: usize) -> Vec<u8> {
        let mut frame = vec![kind, 0, 0, 1, 2, 3, 2, 0, 0, 0, 0, 1];
        frame.extend(ethertype);
        frame.extend(14..=200);
        frame.truncate(len);
        frame
    }

    fn restored(kind: u8, ethertype: [u8; 2], len: usize) -> [u8; 6] {
        let mut bytes = frame(kind, ethertype, len);
        assert_eq!(tags().untag(&mut bytes), Some(PortId(7)));
        let rest = frame(kind, ethertype, len);
        assert_eq!(bytes[6..], rest[6..], "nothing else is touched");
        *bytes.first_chunk().expect("as long as before")
    }

    #[test]
    fn each_kind_has_its_destination_back() {
        assert_eq!(restored(0, IPV4, 60), MAC.0);
        assert_eq!(restored(1, [0x08, 0x06], 60), [0xff; 6]);
        // Bytes 30 to 33 and 50 to 53.
        assert_eq!(restored(2, IPV4, 60), [0x01, 0x00, 0x5e, 31, 32, 33]);
        assert_eq!(restored(3, IPV6, 60), [0x33, 0x33, 50, 51, 52, 53]);
        assert_eq!(restored(4, IPV4, 60), ANOTHERS.0);
        assert_eq!(restored(5, IPV4, 60), ANOTHERS.0);
        assert_eq!(restored(255, IPV4, 60), ANOTHERS.0);
    }

    #[test]
    fn of_an_ipv4_group_23_bits_are_in_the_address() {
        let mut bytes = frame(2, IPV4, 60);
        bytes[30..34].copy_from_slice(&[239, 0xff, 1, 2]);
        assert_eq!(tags().untag(&mut bytes), Some(PortId(7)));
        assert_eq!(bytes[..6], [0x01, 0x00, 0x5e, 0x7f, 1, 2]);
    }

    #[test]
    fn a_group_that_cannot_be_read_is_anothers() {
        assert_eq!(restored(2, IPV4, 34), [0x01, 0x00, 0x5e, 31, 32, 33]);
        assert_eq!(restored(2, IPV4, 33), ANOTHERS.0);
        assert_eq!(restored(2, IPV6, 60), ANOTHERS.0);
        assert_eq!(restored(3, IPV6, 54), [0x33, 0x33, 50, 51, 52, 53]);
        assert_eq!(restored(3, IPV6, 53), ANOTHERS.0);
        assert_eq!(restored(3, IPV4, 60), ANOTHERS.0);
        assert_eq!(restored(2, IPV4, 6), ANOTHERS.0);
    }

    #[test]
    fn what_is_no_tag_or_names_nobody_stays_as_it_is() {
        for mut bytes in [
            vec![],
            vec![0, 0, 0, 1, 2],
            vec![0, 0, 0, 1, 2, 4, 9, 9],
            // What the kernel's stack may send: groups, and a broadcast.
            vec![0x33, 0x33, 0, 1, 2, 3, 9, 9],
            vec![0, 1, 0, 1, 2, 3, 9, 9],
            vec![0xff; 14],
        ] {
            let before = bytes.clone();
            assert_eq!(tags().untag(&mut bytes), None, "{before:02x?}");
            assert_eq!(bytes, before);
        }
    }

    #[test]
    fn a_port_goes_with_all_its_devices() {
        let mut tags = tags();
        tags.insert(6, PortId(8), MAC);
        let whose = |tags: &Tags, ifindex: u8| tags.untag(&mut [0, 0, 0, 0, 0, ifindex]);
        tags.insert(5, PortId(8), MAC);
        assert_eq!(whose(&tags, 5), Some(PortId(8)));
        tags.remove_port(PortId(8));
        assert_eq!((whose(&tags, 5), whose(&tags, 6)), (None, None));
        assert_eq!(tags.untag(&mut frame(0, IPV4, 60)), Some(PortId(7)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_harmless(mut bytes in prop::collection::vec(any::<u8>(), 0..80), kind in 0..6_u8, known in any::<bool>()) {
            if known && let Some(to) = bytes.first_chunk_mut() {
                *to = [kind, 0, 0, 1, 2, 3];
            }
            let len = bytes.len();
            let before = bytes.clone();
            let whose = tags().untag(&mut bytes);
            prop_assert_eq!(bytes.len(), len);
            prop_assert_eq!(whose.is_none(), bytes == before);
            if known && len >= 6 {
                prop_assert_eq!(whose, Some(PortId(7)));
            }
        }
    }
}
