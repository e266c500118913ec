//! Sending, freeing and counting: where each packet meets its fate.

use crate::batch::{Batch, Fate, Packet, flag};
use crate::counters::Counters;
use crate::frame::Frame;
use crate::io::PacketIo;
use crate::port::PortId;
use crate::reason::DropReason;
use crate::stopwatch::Stage;

/// Sees each packet's fate as it is sealed, and batches as they go from stage to stage. Replay writes its verdicts with it, who captures copies
/// packets ([`Tap`](crate::tap::Tap)), who measures takes times ([`Stopwatch`](crate::stopwatch::Stopwatch)); pollers use `()` otherwise.
pub trait Observe {
    /// Whether it looks at packets and their fates.
    const WATCHES: bool = true;

    /// A batch came in by a port. Nothing is known of its packets yet.
    #[inline(always)]
    fn received<I: PacketIo>(&mut self, _batch: &mut Batch, _port: PortId, _io: &mut I) {}

    /// This is how a packet looks before its fate, or [`sent`](Self::sent), is told.
    #[inline(always)]
    fn leaving<I: PacketIo>(&mut self, _frame: &Frame, _io: &mut I) {}

    /// A later fragment of a packet was sent by a port.
    #[inline(always)]
    fn sent(&mut self, _port: PortId) {}

    /// What follows is a stage's, which has so many packets before it. Returns how many; 0 if that is nothing to it.
    #[inline(always)]
    fn enter(&mut self, _stage: Stage, _packets: impl FnOnce() -> usize) -> usize {
        0
    }

    /// The packet as it leaves the pipeline. Its frame is gone.
    fn fate(&mut self, packet: &Packet);
}

impl Observe for () {
    const WATCHES: bool = false;

    #[inline]
    fn fate(&mut self, _packet: &Packet) {}
}

/// Carries out each packet's fate and empties the batch. Packets that leave by one port in a row are sent together.
pub fn run<I: PacketIo, O: Observe>(
    batch: &mut Batch,
    io: &mut I,
    counters: &Counters,
    observer: &mut O,
) {
    let mut rest = batch.packets();
    loop {
        let count = in_a_row::<O>(rest);
        let Some((row, others)) = rest.split_at_mut_checked(count) else {
            break;
        };
        rest = others;
        match row {
            [] => break,
            [packet] => {
                observer.leaving(&packet.frame, io);
                match packet.fate {
                    Fate::Transmit(port) => send(packet, port, io, counters),
                    _ => end(packet, io, counters),
                }
                observer.fate(packet);
            }
            [first, ..] => {
                if let Fate::Transmit(port) = first.fate {
                    send_row(row, port, io, counters);
                }
            }
        }
    }
    batch.clear();
}

/// How many packets, from the first on, are sent by one port; 1 where that is not all there is to it.
#[inline(always)]
fn in_a_row<O: Observe>(packets: &[Packet]) -> usize {
    let Some((first, others)) = packets.split_first() else {
        return 0;
    };
    // Whoever watches sees each packet and its fate together.
    if O::WATCHES || !matches!(first.fate, Fate::Transmit(_)) {
        return 1;
    }
    let same = others.iter().take_while(|it| it.fate == first.fate);
    1 + same.count()
}

/// Sends a packet by a port.
#[inline(always)]
fn send<I: PacketIo>(packet: &mut Packet, port: PortId, io: &mut I, counters: &Counters) {
    let bytes = u64::from(packet.frame.len);
    match io.send(port, packet.frame.take()) {
        Ok(()) => {
            let originated = u64::from(packet.flags & flag::ORIGINATED);
            count(port, 1, bytes, originated, counters);
        }
        Err(frame) => {
            packet.frame = frame;
            refuse(packet, io, counters);
        }
    }
}

/// Sends packets by a port, one after the other.
#[inline(always)]
fn send_row<I: PacketIo>(row: &mut [Packet], port: PortId, io: &mut I, counters: &Counters) {
    let (mut bytes, mut originated) = (0, 0);
    for packet in &*row {
        bytes += u64::from(packet.frame.len);
        originated += u64::from(packet.flags & flag::ORIGINATED);
    }
    let sent = io.send_all(port, row.iter_mut().map(|packet| &mut packet.frame));
    if sent < row.len() {
        for packet in row.iter_mut().filter(|it| !it.frame.is_none()) {
            bytes -= u64::from(packet.frame.len);
            originated -= u64::from(packet.flags & flag::ORIGINATED);
            refuse(packet, io, counters);
        }
    }
    count(port, sent as u64, bytes, originated, counters);
}

/// Counts what was sent by a port; `originated` of the packets the dataplane made itself.
#[inline(always)]
fn count(port: PortId, packets: u64, bytes: u64, originated: u64, counters: &Counters) {
    counters.tx.add(packets - originated);
    counters.originated.add(originated);
    if let Some(port) = counters.port(port) {
        port.tx_packets.add(packets);
        port.tx_bytes.add(bytes);
    }
}

/// The port has no room.
#[cold]
#[inline(never)]
fn refuse<I: PacketIo>(packet: &mut Packet, io: &mut I, counters: &Counters) {
    io.free(packet.frame.take());
    packet.drop(DropReason::TxRingFull);
    seal_dropped(packet, DropReason::TxRingFull, counters);
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
