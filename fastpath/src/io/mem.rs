//! Packet I/O in memory: benches, property tests and replay run the production pipeline over it.

use std::time::Duration;

use flowtable::prefetch;

use super::{HEADROOM, PacketIo};
use crate::batch::{BATCH, Batch};
use crate::frame::{Frame, no_bytes};
use crate::port::PortId;

/// Ports in memory: one receive queue and one list of sent frames a port.
#[derive(Debug)]
pub struct MemIo {
    arena: Vec<u8>,
    chunk_len: usize,
    free: Vec<u32>,
    ports: Vec<MemPort>,
    /// The most frames that are received together.
    together: usize,
}

#[derive(Debug)]
struct MemPort {
    /// What arrived, of which the first `received` are gone.
    arrived: Vec<Frame>,
    received: usize,
    sent: Vec<Frame>,
    tx_room: usize,
}

impl MemIo {
    /// An arena of `chunks` chunks of `chunk_len` bytes, and `ports` ports of which each may hold `tx_room`
    /// sent frames until they are taken.
    pub fn new(chunks: u32, chunk_len: u16, ports: usize, tx_room: usize) -> Self {
        let chunk_len = usize::from(chunk_len);
        Self {
            arena: vec![0; chunk_len * chunks as usize],
            chunk_len,
            free: (0..chunks).rev().collect(),
            ports: (0..ports)
                .map(|_| MemPort {
                    arrived: Vec::with_capacity(chunks as usize),
                    received: 0,
                    sent: Vec::with_capacity(tx_room),
                    tx_room,
                })
                .collect(),
            together: BATCH,
        }
    }

    /// From now on receives at most this many frames together, and never more than a batch.
    pub fn receive_together(&mut self, frames: usize) {
        self.together = frames.min(BATCH);
    }

    /// Copies a packet in as if it had arrived at `port`. `false` when there is no frame, no such port, or
    /// the packet is too long for a chunk.
    pub fn inject(&mut self, port: PortId, packet: &[u8]) -> bool {
        let Some(frame) = self.alloc() else {
            return false;
        };
        self.inject_into(port, packet, frame)
    }

    fn inject_into(&mut self, port: PortId, packet: &[u8], mut frame: Frame) -> bool {
        frame.len = u16::try_from(packet.len()).unwrap_or(u16::MAX);
        let room = frame.of(self.chunk(&frame));
        if room.len() == packet.len() {
            room.copy_from_slice(packet);
            if let Some(port) = self.ports.get_mut(usize::from(port.0)) {
                port.arrive(frame);
                return true;
            }
        }
        self.free(frame);
        false
    }

    /// The next frame that was sent by `port`, oldest first: its bytes are shown to `see`, then it is freed.
    pub fn take_sent<R>(&mut self, port: PortId, mut see: impl FnMut(&[u8]) -> R) -> Vec<R> {
        let Some(slot) = self.ports.get_mut(usize::from(port.0)) else {
            return Vec::new();
        };
        let sent = std::mem::take(&mut slot.sent);
        let seen = sent
            .iter()
            .map(|frame| see(frame.of(self.chunk(frame))))
            .collect();
        for frame in sent {
            self.free(frame);
        }
        seen
    }

    /// Frees what `port` has sent without a look. Returns how many frames that were.
    pub fn discard_sent(&mut self, port: PortId) -> usize {
        let Some(slot) = self.ports.get_mut(usize::from(port.0)) else {
            return 0;
        };
        let count = slot.sent.len();
        self.free
            .extend(slot.sent.drain(..).map(|frame| frame.chunk));
        count
    }

    /// Frees what arrived at `port` and was not received. Returns how many frames that were.
    pub fn discard_arrived(&mut self, port: PortId) -> usize {
        let Some(slot) = self.ports.get_mut(usize::from(port.0)) else {
            return 0;
        };
        let left = slot.arrived.drain(..).skip(slot.received);
        let before = self.free.len();
        self.free.extend(left.map(|frame| frame.chunk));
        slot.received = 0;
        self.free.len() - before
    }

    /// How many chunks are free. All of them, when every frame has found its way back.
    pub const fn free_chunks(&self) -> usize {
        self.free.len()
    }
}

impl MemPort {
    fn arrive(&mut self, frame: Frame) {
        // Instead of growing, if what was received leaves room.
        if self.received > 0 && self.arrived.len() == self.arrived.capacity() {
            self.arrived.drain(..self.received);
            self.received = 0;
        }
        self.arrived.push(frame);
    }

    /// The next frames, `count` at most, to be taken.
    #[inline]
    fn next(&mut self, count: usize) -> &mut [Frame] {
        if self.received == self.arrived.len() {
            self.arrived.clear();
            self.received = 0;
        }
        let from = self.received;
        self.received = self.arrived.len().min(from + count);
        self.arrived
            .get_mut(from..self.received)
            .unwrap_or_default()
    }
}

impl PacketIo for MemIo {
    #[inline]
    fn chunk(&mut self, frame: &Frame) -> &mut [u8] {
        let at = frame.chunk as usize * self.chunk_len;
        let Some(rest) = self.arena.get_mut(at..) else {
            return no_bytes();
        };
        let Some(chunk) = rest.get_mut(..self.chunk_len) else {
            return no_bytes();
        };
        chunk
    }

    fn rx_queues(&self) -> usize {
        self.ports.len()
    }

    #[inline]
    fn recv(&mut self, queue: usize, batch: &mut Batch) -> Option<PortId> {
        let id = PortId(queue as u16);
        let port = self.ports.get_mut(queue)?;
        let frames = port.next(self.together.min(BATCH - batch.len()));
        let take = |frame: &mut Frame| {
            let at = frame.chunk as usize * self.chunk_len + usize::from(frame.start);
            if let Some(first) = self.arena.get(at) {
                prefetch(first);
            }
            frame.take()
        };
        batch.take_from(&mut frames.iter_mut().map(take), id);
        Some(id)
    }

    #[inline]
    fn send(&mut self, port: PortId, frame: Frame) -> Result<(), Frame> {
        match self.ports.get_mut(usize::from(port.0)) {
            Some(port) if port.sent.len() < port.tx_room => {
                port.sent.push(frame);
                Ok(())
            }
            _ => Err(frame),
        }
    }

    #[inline]
    fn send_all<'a>(&mut self, port: PortId, frames: impl Iterator<Item = &'a mut Frame>) -> usize {
        let Some(port) = self.ports.get_mut(usize::from(port.0)) else {
            return 0;
        };
        let before = port.sent.len();
        let room = port.tx_room.saturating_sub(before);
        port.sent.extend(frames.take(room).map(Frame::take));
        port.sent.len() - before
    }

    fn flush(&mut self) {}

    #[inline]
    fn alloc(&mut self) -> Option<Frame> {
        self.free.pop().map(|chunk| Frame {
            chunk,
            start: HEADROOM,
            len: 0,
        })
    }

    #[inline]
    fn free(&mut self, frame: Frame) {
        if !frame.is_none() {
            self.free.push(frame.chunk);
        }
    }

    fn wait(&mut self, _timeout: Duration) {}
}
