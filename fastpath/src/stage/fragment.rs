//! IPv4 fragmentation where a next hop's MTU asks for it and the packet allows it. RFC 791 section 3.2.

use encap::flow_hash::HashKey;
use encap::fragment4;
use encap::ipv4::OFFSET_MASK;
use encap::outer::Inner;

use crate::batch::Packet;
use crate::counters::Counters;
use crate::frame::Frame;
use crate::io::{HEADROOM, PacketIo};
use crate::port::PortId;
use crate::reason::DropReason;
use crate::stage::apply::{inner_of, write_reason};
use crate::stage::egress::Observe;
use crate::tables::Adjacency;

/// The most fragments that wait for the end of their batch.
const CAPACITY: usize = 1024;
/// The longest packet that a chunk holds.
const LONGEST: usize = 4096;

/// Complete frames that go out behind their batch: the later fragments of the packets in it.
#[derive(Debug)]
pub struct Outbox {
    frames: Vec<(PortId, Frame)>,
}

impl Default for Outbox {
    fn default() -> Self {
        Self {
            frames: Vec::with_capacity(CAPACITY),
        }
    }
}

impl Outbox {
    /// Sends what waits.
    pub fn send<I: PacketIo, O: Observe>(
        &mut self,
        io: &mut I,
        counters: &Counters,
        observer: &mut O,
    ) {
        for (port, frame) in self.frames.drain(..) {
            let len = u64::from(frame.len);
            observer.leaving(&frame, io);
            match io.send(port, frame) {
                Ok(()) => {
                    observer.sent(port);
                    counters.originated.add(1);
                    if let Some(port) = counters.port(port) {
                        port.tx_packets.add(1);
                        port.tx_bytes.add(len);
                    }
                }
                Err(frame) => {
                    counters.originated_dropped.add(1);
                    io.free(frame);
                }
            }
        }
    }
}

/// Cuts a packet up. Its own frame becomes the first fragment, encapsulated and complete; the others wait in `outbox`.
pub fn run<I: PacketIo>(
    packet: &mut Packet,
    io: &mut I,
    adjacency: &Adjacency,
    key: &HashKey,
    outbox: &mut Outbox,
) -> Result<(), DropReason> {
    // Copied out: the frames that the fragments go to are of the same arena.
    let mut original = [0; LONGEST];
    let l3 = packet
        .frame
        .of(io.chunk(&packet.frame))
        .get(usize::from(packet.l3)..)
        .unwrap_or_default();
    let l3 = l3.get(..packet.ip_len()).ok_or(DropReason::Ip4Malformed)?;
    let original = original
        .get_mut(..l3.len())
        .ok_or(DropReason::MtuExceeded)?;
    original.copy_from_slice(l3);
    let inner = inner_of(packet, adjacency, key).ok_or(DropReason::NoRoute)?;
    let fragments = fragment4::plan(original, &packet.ip4, adjacency.mtu)
        .map_err(|_| DropReason::MtuExceeded)?;
    let already = outbox.frames.len();
    for (index, fragment) in fragments.enumerate() {
        let frame = match index {
            0 => Some(packet.frame.take()),
            _ if outbox.frames.len() == CAPACITY => None,
            _ => io.alloc(),
        };
        let payload = original.get(fragment.payload()).unwrap_or_default();
        let written = match frame {
            Some(mut frame) => {
                let result = write(
                    &mut frame,
                    io,
                    adjacency,
                    &inner,
                    fragment.header(),
                    payload,
                );
                if index == 0 {
                    packet.frame = frame;
                } else if result.is_ok() {
                    outbox.frames.push((adjacency.port, frame));
                } else {
                    io.free(frame);
                }
                result
            }
            None => Err(DropReason::NoFrame),
        };
        if written.is_err() {
            // A datagram with a hole is of no use to anybody.
            for (_, frame) in outbox.frames.drain(already..) {
                io.free(frame);
            }
            return written;
        }
    }
    Ok(())
}

/// Writes one fragment with its outer headers into a frame, whatever was in it.
fn write<I: PacketIo>(
    frame: &mut Frame,
    io: &mut I,
    adjacency: &Adjacency,
    inner: &Inner,
    header: &[u8],
    payload: &[u8],
) -> Result<(), DropReason> {
    let (room, len) = (adjacency.rewrite.len(), header.len() + payload.len());
    frame.start = HEADROOM.saturating_sub(room as u16);
    frame.len = (room + len) as u16;
    let bytes = frame.of(io.chunk(frame));
    let parts = bytes
        .get_mut(room..)
        .and_then(|ip| ip.split_at_mut_checked(header.len()));
    let Some((to_header, to_payload)) = parts.filter(|(_, rest)| rest.len() == payload.len())
    else {
        return Err(DropReason::NoHeadroom);
    };
    to_header.copy_from_slice(header);
    to_payload.copy_from_slice(payload);
    // Each fragment is a packet of its own to the outer header: none has another's identification.
    let id = inner.id.wrapping_add(offset_of(header));
    let inner = Inner {
        len: len as u16,
        id,
        ..*inner
    };
    adjacency.rewrite.write(bytes, &inner).map_err(write_reason)
}

/// A fragment's offset, in units of 8 bytes.
fn offset_of(header: &[u8]) -> u16 {
    match header {
        [_, _, _, _, _, _, high, low, ..] => u16::from_be_bytes([*high, *low]) & OFFSET_MASK,
        _ => 0,
    }
}
