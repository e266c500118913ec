//! Counters: written by one poller, read by anyone.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::port::PortId;
use crate::reason::DropReason;
use crate::stopwatch::Stage;

/// A counter with one writer. Adding is a load and a store, no locked instruction.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds. Only the owning poller may call this.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(
            self.0.load(Ordering::Relaxed).wrapping_add(n),
            Ordering::Relaxed,
        );
    }

    /// Sets. Only the owning poller may call this.
    #[inline]
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// The value, as of some moment of late.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One port's counters at one poller.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct PortCounters {
    /// Packets received.
    pub rx_packets: Counter,
    /// Bytes received.
    pub rx_bytes: Counter,
    /// Packets sent, the dataplane's own (ICMP errors, fragments after the first) included.
    pub tx_packets: Counter,
    /// Bytes sent.
    pub tx_bytes: Counter,
}

/// One stage, in the rounds that were measured.
#[derive(Debug, Default)]
pub struct StageCounters {
    /// Times that it had its turn.
    pub calls: Counter,
    /// Packets that it had before it.
    pub packets: Counter,
    /// What it took, in nanoseconds.
    pub nanoseconds: Counter,
}

/// Where time went while somebody measured ([`Stopwatch`](crate::stopwatch::Stopwatch)).
#[derive(Debug, Default)]
pub struct Measured {
    /// By stage, in the order of [`Stage::ALL`]: rounds in which one had packets.
    pub stages: [StageCounters; Stage::COUNT],
    /// What the other rounds took, in nanoseconds.
    pub empty: Counter,
    /// How long reading the clock takes, in nanoseconds; it is in none of the others.
    pub clock: Counter,
}

/// All that one poller counts. Shared by `Arc`; the poller writes, control reads.
#[derive(Debug)]
pub struct Counters {
    ports: Box<[PortCounters]>,
    /// Drops by port of entry and reason, row by row.
    drops: Box<[Counter]>,
    /// Packets that came in.
    pub rx: Counter,
    /// Packets that came in and went out.
    pub tx: Counter,
    /// Packets that came in and went to the control thread.
    pub punt: Counter,
    /// Packets that wait for a neighbour now.
    pub held: Counter,
    /// Packets that came in and were dropped.
    pub dropped: Counter,
    /// Packets that the dataplane made itself and sent: ICMP errors, fragments after the first, ARP requests.
    pub originated: Counter,
    /// Packets that the dataplane made itself and could not send.
    pub originated_dropped: Counter,
    /// ICMP errors that were not sent because of the rate limit.
    pub icmp_limited: Counter,
    /// Transport checksums that came in partial and were completed.
    pub checksums_completed: Counter,
    /// Rounds of the poller's loop.
    pub rounds: Counter,
    /// Times the poller went to sleep.
    pub sleeps: Counter,
    /// When the last round began, in nanoseconds by the poller's clock: a poller that moves is never more than its longest
    /// sleep behind.
    pub beat: Counter,
    /// Time of rounds in which packets came in, in nanoseconds.
    pub busy: Counter,
    /// Time of rounds in which none came in, sleep included, in nanoseconds.
    pub idle: Counter,
    /// Events for the control thread that were lost because its ring was full.
    pub events_lost: Counter,
    /// Connections that were made.
    pub connections_made: Counter,
    /// Connections that were removed because nothing was sent for too long.
    pub connections_expired: Counter,
    /// Connections that were removed because an endpoint is gone or has become another one.
    pub connections_ended: Counter,
    /// Connections that nobody had answered or that were being closed, removed early for new ones.
    pub connections_evicted: Counter,
    /// First packets that were forwarded without a connection being remembered: another poller was at work in the same place.
    pub connections_untracked: Counter,
    /// Records of connections that were lost because the ring was full.
    pub records_lost: Counter,
    /// Matches of `Log` rules that were only counted, because of the rate limit.
    pub logs_limited: Counter,
    /// Copies of packets for who captures that were lost because the ring was full.
    pub copies_lost: Counter,
    /// Generation of the tables in force.
    pub generation: Counter,
    /// Where time went while somebody measured.
    pub measured: Box<Measured>,
}

impl Counters {
    /// Counters for ports `0..max_ports`.
    pub fn new(max_ports: usize) -> Self {
        Self {
            ports: (0..max_ports).map(|_| PortCounters::default()).collect(),
            drops: (0..max_ports * DropReason::COUNT)
                .map(|_| Counter::default())
                .collect(),
            rx: Counter::default(),
            tx: Counter::default(),
            punt: Counter::default(),
            held: Counter::default(),
            dropped: Counter::default(),
            originated: Counter::default(),
            originated_dropped: Counter::default(),
            icmp_limited: Counter::default(),
            checksums_completed: Counter::default(),
            rounds: Counter::default(),
            sleeps: Counter::default(),
            beat: Counter::default(),
            busy: Counter::default(),
            idle: Counter::default(),
            events_lost: Counter::default(),
            connections_made: Counter::default(),
            connections_expired: Counter::default(),
            connections_ended: Counter::default(),
            connections_evicted: Counter::default(),
            connections_untracked: Counter::default(),
            records_lost: Counter::default(),
            logs_limited: Counter::default(),
            copies_lost: Counter::default(),
            generation: Counter::default(),
            measured: Box::default(),
        }
    }

    /// One port's counters; `None` beyond `max_ports`.
    #[inline]
    pub fn port(&self, port: PortId) -> Option<&PortCounters> {
        self.ports.get(usize::from(port.0))
    }

    /// How many packets that came in by `port` were dropped for `reason`.
    #[inline]
    pub fn drops(&self, port: PortId, reason: DropReason) -> Option<&Counter> {
        self.drops
            .get(usize::from(port.0) * DropReason::COUNT + reason as usize)
    }

    /// Counts one dropped packet.
    #[inline]
    pub fn count_drop(&self, port: PortId, reason: DropReason) {
        self.dropped.add(1);
        if let Some(counter) = self.drops(port, reason) {
            counter.add(1);
        }
    }

    /// Whether every packet that came in has exactly one fate: `rx = tx + drop + punt + held`.
    /// Exact only while the poller is at rest.
    pub fn is_balanced(&self) -> bool {
        self.rx.get() == self.tx.get() + self.dropped.get() + self.punt.get() + self.held.get()
    }
}
