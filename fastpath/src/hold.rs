//! Packets that wait for a next hop's MAC address (RFC 1122 section 2.3.2.2), within bounds.

use std::net::IpAddr;
use std::time::Duration;

use flowtable::Tick;

use crate::batch::Packet;
use crate::port::PortId;

/// The most packets that wait at one poller.
pub const CAPACITY: usize = 512;
/// The most packets that wait for one neighbour.
pub const PER_NEIGHBOUR: usize = 32;
/// The most packets that came in by one port and wait: a pod that scans leaves room for the others.
pub const PER_PORT: usize = 128;
/// How long a packet waits: as long as the kernel's three probes take.
pub const PATIENCE: Duration = Duration::from_secs(3);

/// A neighbour, as waited for.
pub type Neighbour = (PortId, IpAddr);

/// The packets that wait at one poller, oldest first.
#[derive(Debug)]
pub struct Hold {
    waiting: Vec<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    packet: Packet,
    neighbour: Neighbour,
    deadline: Tick,
}

impl Default for Hold {
    fn default() -> Self {
        Self {
            waiting: Vec::with_capacity(CAPACITY),
        }
    }
}

impl Hold {
    /// Whether one more packet that came in by this port may wait for this neighbour.
    pub fn has_room(&self, neighbour: Neighbour, in_port: PortId) -> bool {
        let waiting = || self.waiting.iter();
        self.waiting.len() < CAPACITY
            && waiting().filter(|one| one.neighbour == neighbour).count() < PER_NEIGHBOUR
            && waiting()
                .filter(|one| one.packet.in_port == in_port)
                .count()
                < PER_PORT
    }

    /// Lets a packet wait until `deadline`. The caller asked [`has_room`](Self::has_room) before.
    pub fn push(&mut self, packet: Packet, neighbour: Neighbour, deadline: Tick) {
        self.waiting.push(Waiting {
            packet,
            neighbour,
            deadline,
        });
    }

    /// Takes out up to `count` packets, oldest first, with their deadlines.
    pub fn take(&mut self, count: usize) -> impl Iterator<Item = (Packet, Tick)> {
        let count = count.min(self.waiting.len());
        self.waiting
            .drain(..count)
            .map(|waiting| (waiting.packet, waiting.deadline))
    }

    /// How many packets wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether no packet waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The earliest deadline.
    pub fn next_deadline(&self) -> Option<Tick> {
        self.waiting.iter().map(|waiting| waiting.deadline).min()
    }
}
