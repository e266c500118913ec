//! Sending, freeing and counting: where each packet meets its fate.

use crate::batch::{Batch, Fate, Packet, flag};
use crate::counters::Counters;
use crate::io::PacketIo;
use crate::port::PortId;
use crate::reason::DropReason;

/// Sees each packet's fate as it is sealed. Replay writes its verdicts with it; pollers use `()`.
pub trait Observe {
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
    let mut tally = Tally {
        port: PortId(u16::MAX),
        packets: 0,
        bytes: 0,
    };
    let mut forwarded = 0;
    for packet in batch.packets() {
        if let Fate::Transmit(port) = packet.fate {
            let len = u64::from(packet.frame.len);
            match io.send(port, packet.frame.take()) {
                Ok(()) => {
                    tally.add(counters, port, len);
                    forwarded += u64::from(seal_sent(packet, counters));
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
    tally.flush(counters);
    counters.tx.add(forwarded);
    batch.clear();
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

/// Whether a packet that was sent had come in (`true`) or is the dataplane's own.
#[inline]
fn seal_sent(packet: &Packet, counters: &Counters) -> bool {
    if packet.has(flag::ORIGINATED) {
        counters.originated.add(1);
        return false;
    }
    true
}

fn seal_dropped(packet: &Packet, reason: DropReason, counters: &Counters) {
    if packet.has(flag::ORIGINATED) {
        counters.originated_dropped.add(1);
    } else {
        counters.count_drop(packet.in_port, reason);
    }
}

/// Packets and bytes sent by one port after another, counted once a run of the same port.
struct Tally {
    port: PortId,
    packets: u64,
    bytes: u64,
}

impl Tally {
    #[inline]
    fn add(&mut self, counters: &Counters, port: PortId, bytes: u64) {
        if port != self.port {
            self.flush(counters);
            *self = Self {
                port,
                packets: 0,
                bytes: 0,
            };
        }
        self.packets += 1;
        self.bytes += bytes;
    }

    #[inline]
    fn flush(&self, counters: &Counters) {
        if self.packets > 0
            && let Some(port) = counters.port(self.port)
        {
            port.tx_packets.add(self.packets);
            port.tx_bytes.add(self.bytes);
        }
    }
}
