//! Sending, freeing and counting: where each packet meets its fate.

use crate::batch::{Batch, Fate, Packet, flag};
use crate::counters::Counters;
use crate::frame::Frame;
use crate::io::PacketIo;
use crate::port::PortId;
use crate::reason::DropReason;

/// Sees each packet's fate as it is sealed. Replay writes its verdicts with it, who captures copies packets ([`Tap`](crate::tap::Tap)); pollers
/// use `()` otherwise.
pub trait Observe {
    /// A batch came in by a port. Nothing is known of its packets yet.
    #[inline(always)]
    fn received<I: PacketIo>(&mut self, _batch: &mut Batch, _port: PortId, _io: &mut I) {}

    /// This is how a packet looks before its fate, or [`sent`](Self::sent), is told.
    #[inline(always)]
    fn leaving<I: PacketIo>(&mut self, _frame: &Frame, _io: &mut I) {}

    /// A later fragment of a packet was sent by a port.
    #[inline(always)]
    fn sent(&mut self, _port: PortId) {}

    /// The packet as it leaves the pipeline. Its frame is gone.
    fn fate(&mut self, packet: &Packet);
}

impl Observe for () {
    #[inline]
    fn fate(&mut self, _packet: &Packet) {}
}

/// Carries out each packet's fate and empties the batch.
pub fn run<I: PacketIo, O: Observe>(
    batch: &mut Batch,
    io: &mut I,
    counters: &Counters,
    observer: &mut O,
) {
    let mut tally = Tally::default();
    for packet in batch.packets() {
        observer.leaving(&packet.frame, io);
        if let Fate::Transmit(port) = packet.fate {
            if port != tally.port {
                tally.count(counters);
                tally = Tally {
                    port,
                    ..Tally::default()
                };
            }
            let len = u64::from(packet.frame.len);
            match io.send(port, packet.frame.take()) {
                Ok(()) => {
                    tally.packets += 1;
                    tally.bytes += len;
                    tally.originated += u64::from(packet.flags & flag::ORIGINATED);
                }
                Err(frame) => {
                    io.free(frame);
                    packet.drop(DropReason::TxRingFull);
                    seal_dropped(packet, DropReason::TxRingFull, counters);
                }
            }
        } else {
            end(packet, io, counters);
        }
        observer.fate(packet);
    }
    tally.count(counters);
    batch.clear();
}

/// What was sent by one port in a row, counted together.
#[derive(Clone, Copy)]
struct Tally {
    port: PortId,
    packets: u64,
    bytes: u64,
    /// How many of the packets the dataplane made itself.
    originated: u64,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            port: PortId(u16::MAX),
            packets: 0,
            bytes: 0,
            originated: 0,
        }
    }
}

impl Tally {
    #[inline(always)]
    fn count(self, counters: &Counters) {
        counters.tx.add(self.packets - self.originated);
        counters.originated.add(self.originated);
        if let Some(port) = counters.port(self.port) {
            port.tx_packets.add(self.packets);
            port.tx_bytes.add(self.bytes);
        }
    }
}

/// The fate of a packet that is not sent.
#[inline(never)]
fn end<I: PacketIo>(packet: &mut Packet, io: &mut I, counters: &Counters) {
    match packet.fate {
        // Its frame waits elsewhere.
        Fate::Held => return,
        Fate::Punt => counters.punt.add(1),
        Fate::Drop(reason) => seal_dropped(packet, reason, counters),
        Fate::Undecided | Fate::Transmit(_) => {
            packet.drop(DropReason::NoRoute);
            seal_dropped(packet, DropReason::NoRoute, counters);
        }
    }
    io.free(packet.frame.take());
}

fn seal_dropped(packet: &Packet, reason: DropReason, counters: &Counters) {
    if packet.has(flag::ORIGINATED) {
        counters.originated_dropped.add(1);
    } else {
        counters.count_drop(packet.in_port, reason);
    }
}
