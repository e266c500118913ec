//! Packets that wait for a next hop's MAC address (RFC 1122 section 2.3.2.2), within bounds.

use std::net::IpAddr;
use std::time::Duration;

use flowtable::Tick;

use crate::batch::Packet;
use crate::port::PortId;
use crate::tables::Tables;

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
    terms: Terms,
}

/// How long a packet waits, and for whom.
#[derive(Clone, Copy, Debug, Default)]
pub struct Terms {
    /// When it is dropped.
    pub deadline: Tick,
    /// The generation of the tables when it came: it is dropped when its port is another endpoint's since.
    pub generation: u64,
}

impl Terms {
    /// Those of a packet that begins to wait.
    pub fn new(tables: &Tables, now: Tick) -> Self {
        Self {
            deadline: now + PATIENCE,
            generation: tables.generation,
        }
    }

    /// Whether the endpoint that sent a packet is gone, or has given its port to another.
    pub fn sender_is_gone(&self, packet: &Packet, tables: &Tables) -> bool {
        let port = tables.port(packet.in_port);
        port.is_none_or(|port| port.since > self.generation)
    }
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
            && self.has_share(in_port)
    }

    /// Whether a port has fewer packets waiting than one may have.
    pub fn has_share(&self, in_port: PortId) -> bool {
        let of_port = self.waiting.iter();
        of_port.filter(|one| one.packet.in_port == in_port).count() < PER_PORT
    }

    /// Lets a packet wait. The caller asked [`has_room`](Self::has_room) before.
    pub fn push(&mut self, packet: Packet, neighbour: Neighbour, terms: Terms) {
        self.waiting.push(Waiting {
            packet,
            neighbour,
            terms,
        });
    }

    /// Takes out up to `count` packets, oldest first.
    pub fn take(&mut self, count: usize) -> impl Iterator<Item = (Packet, Terms)> {
        let count = count.min(self.waiting.len());
        self.waiting
            .drain(..count)
            .map(|waiting| (waiting.packet, waiting.terms))
    }

    /// How many packets wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether no packet waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}
