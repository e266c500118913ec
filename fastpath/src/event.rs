//! What pollers tell the control thread: rare things that only it can do something about.

use std::net::IpAddr;
use std::sync::Arc;

use crossbeam_queue::ArrayQueue;
use encap::eth::MacAddr;

use crate::batch::PeerId;
use crate::port::PortId;

/// Something a poller saw that control must act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// A packet waits for this neighbour's MAC address.
    MissingNeighbour {
        /// The port that the neighbour is behind.
        port: PortId,
        /// The neighbour.
        addr: IpAddr,
    },
    /// A router between us and another node says that a tunnel's packets were too long.
    PathMtu {
        /// The node.
        peer: PeerId,
        /// Whether the tunnel's outer header is IPv6.
        v6: bool,
        /// The longest outer packet that gets through, in bytes.
        mtu: u16,
    },
    /// A pod whose MAC address was unknown sent a valid packet from this one.
    PodMac {
        /// The pod's port.
        port: PortId,
        /// Its MAC address.
        mac: MacAddr,
    },
}

/// How many of the last events are remembered so that a repeated one is not sent again.
const REMEMBERED: usize = 8;

/// A poller's end of the ring of events. Bounded; a full ring loses events, and counts them.
#[derive(Debug)]
pub struct Events {
    ring: Arc<ArrayQueue<Event>>,
    recent: [Option<Event>; REMEMBERED],
    next: usize,
    pending: bool,
    lost: u64,
}

impl Events {
    /// Events go into `ring`, which control drains.
    pub const fn new(ring: Arc<ArrayQueue<Event>>) -> Self {
        Self {
            ring,
            recent: [None; REMEMBERED],
            next: 0,
            pending: false,
            lost: 0,
        }
    }

    /// Sends an event, unless it is one of the last few sent.
    pub fn push(&mut self, event: Event) {
        if self.recent.contains(&Some(event)) {
            return;
        }
        if self.ring.push(event).is_err() {
            self.lost += 1;
            return;
        }
        if let Some(slot) = self.recent.get_mut(self.next % REMEMBERED) {
            *slot = Some(event);
        }
        self.next = self.next.wrapping_add(1);
        self.pending = true;
    }

    /// Forgets what was sent, so that a lasting condition is reported again. Called every second or so.
    pub const fn forget(&mut self) {
        self.recent = [None; REMEMBERED];
    }

    /// Whether events were sent since the last call: then control needs waking.
    pub const fn take_pending(&mut self) -> bool {
        core::mem::replace(&mut self.pending, false)
    }

    /// How many events were lost since the start.
    pub const fn lost(&self) -> u64 {
        self.lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(last: u8) -> Event {
        Event::MissingNeighbour {
            port: PortId(1),
            addr: IpAddr::from([10, 0, 0, last]),
        }
    }

    #[test]
    fn a_repeated_event_is_sent_once_until_forgotten() {
        let ring = Arc::new(ArrayQueue::new(16));
        let mut events = Events::new(Arc::clone(&ring));
        events.push(missing(1));
        events.push(missing(1));
        assert_eq!(ring.len(), 1);
        assert!(events.take_pending());
        assert!(!events.take_pending());
        events.forget();
        events.push(missing(1));
        assert_eq!(ring.len(), 2);
    }

    #[test]
    fn a_full_ring_loses_and_counts() {
        let mut events = Events::new(Arc::new(ArrayQueue::new(1)));
        events.push(missing(1));
        events.push(missing(2));
        assert_eq!(events.lost(), 1);
    }
}
