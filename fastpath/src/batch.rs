//! Packets on their way through the stages.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use encap::ipv4::Ipv4Info;
use encap::ipv6::Ipv6Info;
use flowtable::lpm::NextHopId;

use crate::frame::Frame;
use crate::policy::Decider;
use crate::port::PortId;
use crate::reason::DropReason;

/// The most packets that go through the stages together.
pub const BATCH: usize = 64;

/// What becomes of a packet. Each packet leaves the pipeline with exactly one that is not `Undecided`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Still on its way through the stages.
    Undecided,
    /// Leaves by this port.
    Transmit(PortId),
    /// Its content went to the control thread (a neighbour's answer).
    Punt,
    /// Waits for a next hop's MAC address; counted again when it goes on.
    Held,
    /// Dropped for this reason.
    Drop(DropReason),
}

/// The network protocol of a packet, once it is parsed. Each of the two is a bit, so that those of a batch are one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Family {
    /// Not known yet.
    Unknown = 0,
    /// IPv4.
    V4 = 1,
    /// IPv6.
    V6 = 2,
}

impl Family {
    /// Whether packets of this family are among those whose families make this number: all of them, or-ed.
    #[inline(always)]
    pub(crate) const fn is_in(self, families: u8) -> bool {
        families & self as u8 != 0
    }
}

/// What the stages know of one packet. The IPv4 path reads and writes only the first cache line.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Packet {
    /// The IPv4 header, when `family` is [`Family::V4`].
    pub ip4: Ipv4Info,
    /// The frame that holds it.
    pub frame: Frame,
    /// Source and destination port (an ICMP echo's identifier as both), or zeros.
    pub ports: (u16, u16),
    /// Offset of the IP header from the packet's first byte.
    pub l3: u16,
    /// The port it came in by.
    pub in_port: PortId,
    /// The next hop that `resolve` chose.
    pub next_hop: NextHopId,
    /// The node that the outer header came from, when the packet came out of a tunnel; else [`PeerId::NONE`].
    pub peer: PeerId,
    /// What becomes of it.
    pub fate: Fate,
    /// Network protocol.
    pub family: Family,
    /// [`flag`] bits.
    pub flags: u8,
    /// Who denied it. Means something only when it is dropped for a reason of policy's.
    pub denied_by: Decider,
    /// [`FlowTable::flow_hash`](flowtable::flow::FlowTable::flow_hash) of it as it came, once it was looked up among the connections; else 0.
    /// Outer source ports come of it.
    pub flow_hash: u32,
    /// Free for the caller: follows the packet to its fate (replay: the packet's number).
    pub tag: u32,
    /// The IPv6 header, when `family` is [`Family::V6`].
    pub ip6: Ipv6Info,
}

/// Bits of [`Packet::flags`].
pub mod flag {
    /// Made by the dataplane itself (ICMP errors): no TTL to spend, no source to check.
    pub const ORIGINATED: u8 = 1;
    /// The transport checksum may be partial (it came from a local stack).
    pub const MAYBE_PARTIAL: u8 = 1 << 1;
    /// The host's own packet: it keeps its TTL, as it would without us.
    pub const KEEP_TTL: u8 = 1 << 2;
    /// Longer than the way's MTU, and may be fragmented.
    pub const FRAGMENT: u8 = 1 << 3;
    /// A complete frame with its link header (an answer to ARP or neighbour discovery, a fragment): only to be sent.
    pub const COMPLETE: u8 = 1 << 4;
    /// Addresses or ports of the packet's headers, as known here, are not those of its bytes: they are to be translated.
    pub const TRANSLATE: u8 = 1 << 5;
    /// A fragment whose ports are those of its datagram's first.
    pub const PIECED: u8 = 1 << 6;
    /// IPv4 without options or IPv6 without extension headers, not fragmented, with a whole header of TCP or UDP: nearly all packets, for
    /// which stages have a shorter way.
    pub const ORDINARY: u8 = 1 << 7;
}

/// A known remote node, as outer source address and as the owner of inner source addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId(pub u16);

impl PeerId {
    /// No node.
    pub const NONE: Self = Self(0);
    /// The last number of a node: connections remember a node in 15 bits, of which [`Self::EXTERNAL`] fills all.
    pub const LAST: Self = Self(0x7ffe);
    /// A tunnel end outside the cluster (FelixConfiguration `externalNodesList`).
    pub const EXTERNAL: Self = Self(u16::MAX);
}

impl Packet {
    /// A packet of which only the frame and the port are known.
    fn restart(&mut self, frame: Frame, in_port: PortId) {
        self.frame = frame;
        self.ports = (0, 0);
        self.l3 = 0;
        self.in_port = in_port;
        self.next_hop = NextHopId::NONE;
        self.peer = PeerId::NONE;
        self.fate = Fate::Undecided;
        self.family = Family::Unknown;
        self.flags = 0;
        self.flow_hash = 0;
        self.tag = 0;
    }

    /// Moves the packet out, its frame with it; what stays behind has none.
    pub(crate) const fn move_out(&mut self) -> Self {
        let frame = self.frame.take();
        Self { frame, ..*self }
    }

    /// Its destination address, once it is parsed.
    pub fn destination(&self) -> Option<IpAddr> {
        match self.family {
            Family::V4 => Some(Ipv4Addr::from_bits(self.ip4.dst).into()),
            Family::V6 => Some(Ipv6Addr::from_bits(self.ip6.dst).into()),
            Family::Unknown => None,
        }
    }

    /// Its source address, once it is parsed.
    pub fn source(&self) -> Option<IpAddr> {
        match self.family {
            Family::V4 => Some(Ipv4Addr::from_bits(self.ip4.src).into()),
            Family::V6 => Some(Ipv6Addr::from_bits(self.ip6.src).into()),
            Family::Unknown => None,
        }
    }

    /// Length of the IP packet without link padding, in bytes. 0 when it was not parsed.
    #[inline]
    pub fn ip_len(&self) -> usize {
        match self.family {
            Family::V4 => usize::from(self.ip4.total_len),
            Family::V6 => self.ip6.total_len(),
            Family::Unknown => 0,
        }
    }

    /// Whether no stage has decided its fate yet.
    #[inline]
    pub fn is_undecided(&self) -> bool {
        matches!(self.fate, Fate::Undecided)
    }

    /// Whether all of these [`flag`] bits are set.
    #[inline]
    pub const fn has(&self, bits: u8) -> bool {
        self.flags & bits == bits
    }

    /// Decides its fate: dropped by policy.
    #[inline]
    pub(crate) const fn deny(&mut self, reason: DropReason, by: Decider) {
        self.denied_by = by;
        self.fate = Fate::Drop(reason);
    }

    /// Decides its fate: dropped.
    #[inline]
    pub const fn drop(&mut self, reason: DropReason) {
        self.fate = Fate::Drop(reason);
    }
}

/// Up to [`BATCH`] packets that came from one queue of one port.
///
/// Lives as long as its poller; filling it allocates nothing.
#[derive(Debug)]
pub struct Batch {
    packets: Box<[Packet; BATCH]>,
    len: usize,
}

impl Default for Batch {
    fn default() -> Self {
        let blank = || Packet {
            ip4: Ipv4Info::default(),
            frame: Frame::NONE,
            ports: (0, 0),
            l3: 0,
            in_port: PortId(0),
            next_hop: NextHopId::NONE,
            peer: PeerId::NONE,
            fate: Fate::Undecided,
            family: Family::Unknown,
            flags: 0,
            denied_by: Decider::NOBODY,
            flow_hash: 0,
            tag: 0,
            ip6: Ipv6Info::default(),
        };
        Self {
            packets: Box::new(std::array::from_fn(|_| blank())),
            len: 0,
        }
    }
}

impl Batch {
    /// Appends a frame as a fresh packet.
    ///
    /// # Errors
    /// Gives the frame back when the batch is full.
    #[inline]
    pub fn push(&mut self, frame: Frame, in_port: PortId) -> Result<&mut Packet, Frame> {
        match self.packets.get_mut(self.len) {
            Some(slot) => {
                slot.restart(frame, in_port);
                self.len += 1;
                Ok(slot)
            }
            None => Err(frame),
        }
    }

    /// Appends frames as fresh packets, as many as there is room for; the others stay with the iterator.
    #[inline]
    pub fn take_from(&mut self, frames: &mut impl Iterator<Item = Frame>, in_port: PortId) {
        let room = self.packets.get_mut(self.len..).unwrap_or_default();
        let mut count = 0;
        // Slots first: when they run out no frame is lost.
        for (slot, frame) in room.iter_mut().zip(frames) {
            slot.restart(frame, in_port);
            count += 1;
        }
        self.len += count;
    }

    /// Appends a packet that is known already. A full batch must not be given more.
    pub(crate) fn push_packet(&mut self, packet: Packet) {
        if let Some(slot) = self.packets.get_mut(self.len) {
            *slot = packet;
            self.len += 1;
        }
    }

    /// The packets.
    #[inline]
    pub fn packets(&mut self) -> &mut [Packet] {
        self.packets.get_mut(..self.len).unwrap_or_default()
    }

    /// How many packets it holds.
    #[inline]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds none.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether it can hold no more.
    pub const fn is_full(&self) -> bool {
        self.len == BATCH
    }

    /// Forgets its packets. Their frames must have gone on before.
    pub const fn clear(&mut self) {
        self.len = 0;
    }
}
