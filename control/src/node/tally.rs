//! What pollers counted, summed.

use std::sync::Arc;

use fastpath::counters::Counters;
use fastpath::port::PortId;
use fastpath::reason::DropReason;

use crate::api::report::{Accounting, Connections};

/// Packets that one poller may have in hand while it is read: counted in, and without a fate yet.
const IN_HAND: u64 = 64;
/// Packets that may go from held to another fate while a poller is read.
const HELD: u64 = 512;

/// One port's counters, all pollers together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) rx_packets: u64,
    pub(super) rx_bytes: u64,
    pub(super) tx_packets: u64,
    pub(super) tx_bytes: u64,
    /// By reason, in the order of [`DropReason::ALL`].
    pub(super) drops: Vec<u64>,
}

impl Tally {
    /// The counters of a number, whichever ports had it.
    pub(super) fn of<'a>(
        counters: &(impl Iterator<Item = &'a Arc<Counters>> + Clone),
        id: PortId,
    ) -> Self {
        let ports = || counters.clone().filter_map(|counters| counters.port(id));
        let drops = DropReason::ALL.iter().map(|&reason| {
            let counts = counters
                .clone()
                .filter_map(|counters| counters.drops(id, reason));
            counts.map(fastpath::counters::Counter::get).sum()
        });
        Self {
            rx_packets: ports().map(|port| port.rx_packets.get()).sum(),
            rx_bytes: ports().map(|port| port.rx_bytes.get()).sum(),
            tx_packets: ports().map(|port| port.tx_packets.get()).sum(),
            tx_bytes: ports().map(|port| port.tx_bytes.get()).sum(),
            drops: drops.collect(),
        }
    }

    /// What was counted since.
    pub(super) fn since(mut self, base: &Self) -> Self {
        let less = |now: &mut u64, base: u64| *now = now.saturating_sub(base);
        less(&mut self.rx_packets, base.rx_packets);
        less(&mut self.rx_bytes, base.rx_bytes);
        less(&mut self.tx_packets, base.tx_packets);
        less(&mut self.tx_bytes, base.tx_bytes);
        for (now, base) in self.drops.iter_mut().zip(&base.drops) {
            less(now, *base);
        }
        self
    }
}

/// Drops by reason, all ports and pollers together.
pub(super) fn drops<'a>(
    counters: &(impl Iterator<Item = &'a Arc<Counters>> + Clone),
    ports: usize,
) -> Vec<u64> {
    let mut totals = vec![0; DropReason::COUNT];
    for id in 0..ports as u16 {
        let of_port = Tally::of(counters, PortId(id)).drops;
        for (total, count) in totals.iter_mut().zip(of_port) {
            *total += count;
        }
    }
    totals
}

/// Where the packets of all pollers went.
pub(super) fn accounting<'a>(counters: impl Iterator<Item = &'a Arc<Counters>>) -> Accounting {
    let mut sum = Accounting {
        balanced: true,
        ..Accounting::default()
    };
    for counters in counters {
        let fates = || {
            counters.tx.get() + counters.dropped.get() + counters.punt.get() + counters.held.get()
        };
        // The poller goes on meanwhile: what came in lies between what had a fate before and what has one after.
        let before = fates();
        let rx = counters.rx.get();
        let (tx, drop, punt, held) = (
            counters.tx.get(),
            counters.dropped.get(),
            counters.punt.get(),
            counters.held.get(),
        );
        let after = tx + drop + punt + held;
        sum.balanced &= before <= rx + HELD && rx <= after + IN_HAND + HELD;
        sum.rx += rx;
        sum.tx += tx;
        sum.drop += drop;
        sum.punt += punt;
        sum.held += held;
        sum.originated += counters.originated.get();
        sum.originated_dropped += counters.originated_dropped.get();
        sum.icmp_limited += counters.icmp_limited.get();
        sum.checksums_completed += counters.checksums_completed.get();
    }
    sum
}

/// What became of the connections of all pollers.
pub(super) fn connections<'a>(counters: impl Iterator<Item = &'a Arc<Counters>>) -> Connections {
    let mut sum = Connections::default();
    for counters in counters {
        sum.made += counters.connections_made.get();
        sum.expired += counters.connections_expired.get();
        sum.ended += counters.connections_ended.get();
        sum.evicted += counters.connections_evicted.get();
        sum.untracked += counters.connections_untracked.get();
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pollers() -> Vec<Arc<Counters>> {
        let pollers: Vec<_> = (0..2).map(|_| Arc::new(Counters::new(4))).collect();
        for (index, counters) in (1..).zip(&pollers) {
            counters.rx.add(1000 * index);
            counters.tx.add(1000 * index - 3);
            let port = counters.port(PortId(2)).unwrap();
            port.rx_packets.add(10 * index);
            port.tx_bytes.add(7);
            for _ in 0..3 {
                counters.count_drop(PortId(2), DropReason::SourceSpoofed);
            }
        }
        pollers
    }

    #[test]
    fn a_port_is_summed_over_pollers_and_starts_at_zero() {
        let pollers = pollers();
        let now = Tally::of(&pollers.iter(), PortId(2));
        assert_eq!(
            (now.rx_packets, now.tx_bytes, now.drops.iter().sum()),
            (30, 14, 6)
        );
        assert_eq!(now.drops[DropReason::SourceSpoofed as usize], 6);
        pollers[1].count_drop(PortId(2), DropReason::NoRoute);
        let later = Tally::of(&pollers.iter(), PortId(2)).since(&now);
        assert_eq!((later.rx_packets, later.drops.iter().sum()), (0, 1));
        assert_eq!(drops(&pollers.iter(), 4).iter().sum::<u64>(), 7);
    }

    #[test]
    fn what_became_of_connections_is_summed_over_pollers() {
        let pollers = pollers();
        for (index, counters) in (1..).zip(&pollers) {
            counters.connections_made.add(index);
            counters.connections_expired.add(10 * index);
            counters.connections_ended.add(100 * index);
            counters.connections_evicted.add(1000 * index);
            counters.connections_untracked.add(10_000 * index);
        }
        let expected = Connections {
            made: 3,
            expired: 30,
            ended: 300,
            evicted: 3000,
            untracked: 30_000,
            ..Connections::default()
        };
        assert_eq!(connections(pollers.iter()), expected);
    }

    #[test]
    fn packets_without_a_fate_are_noticed() {
        let pollers = pollers();
        let sum = accounting(pollers.iter());
        assert_eq!((sum.rx, sum.tx, sum.drop), (3000, 2994, 6));
        assert!(sum.balanced);
        pollers[0].rx.add(IN_HAND);
        assert!(accounting(pollers.iter()).balanced, "in hand");
        pollers[0].rx.add(HELD + 1);
        assert!(!accounting(pollers.iter()).balanced);
        pollers[0].rx.set(0);
        assert!(!accounting(pollers.iter()).balanced);
    }
}
