//! Copies of packets for who captures: as they come in, as they go out, as they are dropped.
//!
//! While nobody captures it costs one relaxed load a round; while somebody does, packets go through a pipeline of their own
//! making, which copies the beginning of each into a bounded ring. Nothing is allocated; a full ring loses copies, and they are
//! counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crossbeam_queue::ArrayQueue;
use flowtable::Tick;

use crate::batch::{Batch, Fate, Packet};
use crate::counters::Counters;
use crate::frame::Frame;
use crate::io::PacketIo;
use crate::policy::Decider;
use crate::port::PortId;
use crate::reason::DropReason;
use crate::stage::egress::Observe;

/// Bytes of a packet that are copied, from its first.
pub const SNAPLEN: usize = 256;

/// The beginning of a packet, at one moment of its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copied {
    /// When, by the poller's clock: the beginning of its round.
    pub at: Tick,
    /// Generation of the tables in force.
    pub generation: u64,
    /// The port that it came in or went out by.
    pub port: PortId,
    /// The moment.
    pub moment: Moment,
    /// Its whole length, in bytes.
    pub len: u16,
    bytes: [u8; SNAPLEN],
}

/// A moment of a packet's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// As it came in.
    In,
    /// As it went out.
    Out,
    /// As it was dropped: out of its tunnel, if it came by one.
    Dropped {
        /// Why.
        reason: DropReason,
        /// What denied it; means something only for reasons of policy's.
        by: Decider,
    },
}

impl Copied {
    /// Its first bytes.
    pub fn bytes(&self) -> &[u8] {
        let kept = usize::from(self.len).min(SNAPLEN);
        self.bytes.get(..kept).unwrap_or_default()
    }
}

/// What is captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Only what is dropped.
    pub drops_only: bool,
    /// Only what comes in or goes out by this port.
    pub port: Option<PortId>,
}

impl Wanted {
    const ON: u32 = 1 << 16;
    const DROPS_ONLY: u32 = 1 << 17;
    const ANY_PORT: u32 = 1 << 18;

    fn bits(self) -> u32 {
        let drops = if self.drops_only { Self::DROPS_ONLY } else { 0 };
        Self::ON | drops | self.port.map_or(Self::ANY_PORT, |port| port.0.into())
    }

    const fn from_bits(bits: u32) -> Option<Self> {
        if bits & Self::ON == 0 {
            return None;
        }
        let port = if bits & Self::ANY_PORT == 0 {
            Some(PortId(bits as u16))
        } else {
            None
        };
        Some(Self {
            drops_only: bits & Self::DROPS_ONLY != 0,
            port,
        })
    }
}

/// What all pollers are to capture. Written by control, read by pollers once a round.
#[derive(Debug, Default)]
pub struct Switch(AtomicU32);

impl Switch {
    /// Captures this from now on, or nothing.
    pub fn set(&self, wanted: Option<Wanted>) {
        self.0.store(wanted.map_or(0, Wanted::bits), Relaxed);
    }

    fn get(&self) -> Option<Wanted> {
        Wanted::from_bits(self.0.load(Relaxed))
    }
}

/// A poller's end of the ring of copies.
#[derive(Debug)]
pub struct Tap {
    ring: Arc<ArrayQueue<Copied>>,
    switch: Arc<Switch>,
    counters: Arc<Counters>,
    wanted: Wanted,
    /// The copy of the packet that is about to meet its fate.
    next: Copied,
    pending: bool,
}

impl Tap {
    /// Copies go into `ring`, which control drains, while `switch` says so.
    pub fn new(
        ring: Arc<ArrayQueue<Copied>>,
        switch: Arc<Switch>,
        counters: Arc<Counters>,
    ) -> Self {
        Self {
            ring,
            switch,
            counters,
            wanted: Wanted {
                drops_only: true,
                port: None,
            },
            next: Copied {
                at: Tick(0),
                generation: 0,
                port: PortId(0),
                moment: Moment::In,
                len: 0,
                bytes: [0; SNAPLEN],
            },
            pending: false,
        }
    }

    /// Looks whether anything is to be captured in the round that begins now.
    #[inline]
    pub fn look(&mut self, now: Tick, generation: u64) -> bool {
        let Some(wanted) = self.switch.get() else {
            return false;
        };
        self.wanted = wanted;
        self.next.at = now;
        self.next.generation = generation;
        true
    }

    /// Whether the ring filled up since the last call: then control needs waking.
    pub(crate) const fn take_pending(&mut self) -> bool {
        core::mem::replace(&mut self.pending, false)
    }

    fn push(&mut self, port: PortId, moment: Moment) {
        let is_drop = matches!(moment, Moment::Dropped { .. });
        if (self.wanted.drops_only && !is_drop) || self.wanted.port.is_some_and(|it| it != port) {
            return;
        }
        let copied = Copied {
            port,
            moment,
            ..self.next
        };
        if self.ring.push(copied).is_err() {
            self.counters.copies_lost.add(1);
        }
        self.pending |= self.ring.len() * 2 >= self.ring.capacity();
    }
}

impl Observe for Tap {
    fn received<I: PacketIo>(&mut self, batch: &mut Batch, port: PortId, io: &mut I) {
        if self.wanted.drops_only {
            return;
        }
        for packet in batch.packets() {
            self.leaving(&packet.frame, io);
            self.push(port, Moment::In);
        }
    }

    fn leaving<I: PacketIo>(&mut self, frame: &Frame, io: &mut I) {
        let bytes = frame.of(io.chunk(frame));
        self.next.len = bytes.len() as u16;
        for (to, from) in self.next.bytes.iter_mut().zip(&*bytes) {
            *to = *from;
        }
    }

    fn sent(&mut self, port: PortId) {
        self.push(port, Moment::Out);
    }

    fn fate(&mut self, packet: &Packet) {
        match packet.fate {
            Fate::Transmit(port) => self.push(port, Moment::Out),
            Fate::Drop(reason) => {
                let by = packet.denied_by;
                self.push(packet.in_port, Moment::Dropped { reason, by });
            }
            Fate::Undecided | Fate::Punt | Fate::Held => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wanted_fits_the_switch() {
        let switch = Switch::default();
        assert_eq!(switch.get(), None);
        for drops_only in [false, true] {
            for port in [None, Some(PortId(0)), Some(PortId(u16::MAX))] {
                let wanted = Some(Wanted { drops_only, port });
                switch.set(wanted);
                assert_eq!(switch.get(), wanted);
            }
        }
        switch.set(None);
        assert_eq!(switch.get(), None);
    }

    #[test]
    fn control_is_woken_before_the_ring_is_full_and_what_is_lost_is_counted() {
        let (ring, counters) = (Arc::new(ArrayQueue::new(4)), Arc::new(Counters::new(1)));
        let switch = Arc::new(Switch::default());
        let mut tap = Tap::new(
            Arc::clone(&ring),
            Arc::clone(&switch),
            Arc::clone(&counters),
        );
        assert!(!tap.look(Tick(1), 7), "nobody captures");
        let all = Wanted {
            drops_only: false,
            port: Some(PortId(3)),
        };
        switch.set(Some(all));
        assert!(tap.look(Tick(2), 8));
        tap.sent(PortId(2));
        assert!(ring.is_empty(), "another port");
        tap.sent(PortId(3));
        assert!(!tap.take_pending());
        tap.sent(PortId(3));
        assert!(tap.take_pending());
        for _ in 0..3 {
            tap.sent(PortId(3));
        }
        assert_eq!((ring.len(), counters.copies_lost.get()), (4, 1));
        let copied = ring.pop().unwrap();
        assert_eq!((copied.at, copied.generation), (Tick(2), 8));
    }
}
