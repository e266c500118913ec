//! Connections: what all pollers share of them, and what each poller has of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};

use crossbeam_utils::CachePadded;
use flowtable::conn::quota::{self, Quota};
use flowtable::flow::{Capacity, Cursor, FlowKey, FlowTable, Key4, Key6, Seed};
use flowtable::fragments::Limits;
use flowtable::snat::{PortRng, Shares};

use crate::batch::{BATCH, Packet};
use crate::offload::Offers;
use crate::record::Records;
pub use crate::stage::flow::{
    Connection, Direction, Kept, KeptDirection, LeftOut, Origin, Removal, Walked,
};
use crate::stage::flow::{Found, Held, Sweep};

/// The connections of a node. Written and read by all pollers, none of which ever waits for another; control reads
/// them to show them, and removes those that it is told to.
#[derive(Debug)]
pub struct Connections {
    /// Those of IPv4.
    pub v4: Side<Key4>,
    /// Those of IPv6.
    pub v6: Side<Key6>,
}

/// The connections of one address family.
#[derive(Debug)]
pub struct Side<K: FlowKey> {
    /// Two entries a connection.
    pub table: FlowTable<K>,
    /// How many each endpoint has.
    pub quota: Quota,
    /// How many source ports to one destination each has that has many connections.
    pub shares: Shares,
    /// How many there are. The table could only count its tags.
    live: CachePadded<AtomicU32>,
    /// The lines where the next search for what an endpoint gives up begins: of what it began, and of what others began at it.
    hands: [AtomicUsize; 2],
}

/// What a node's connections are made with. All memory is taken at once.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Entries for IPv4, two a connection.
    pub v4: Capacity,
    /// Entries for IPv6.
    pub v6: Capacity,
    /// Ports that may have connections: one more than the largest port number.
    pub ports: u16,
    /// The part of a table that one endpoint may fill, in percent.
    pub share_percent: u32,
}

impl Connections {
    /// No connections yet. `seed` must be random: it keeps senders from choosing who collides.
    pub fn new(sizes: &Sizes, seed: [u64; 4]) -> Self {
        let [a, b, c, d] = seed;
        Self {
            v4: Side::new(sizes.v4, Seed([a, b]), sizes),
            v6: Side::new(sizes.v6, Seed([c, d]), sizes),
        }
    }

    /// The memory that they take, in bytes.
    pub fn memory_bytes(&self) -> usize {
        self.v4.memory_bytes() + self.v6.memory_bytes()
    }
}

impl<K: FlowKey> Side<K> {
    fn new(capacity: Capacity, seed: Seed, sizes: &Sizes) -> Self {
        // Beyond seven eighths the lines of the table begin to be full one by one.
        let connections = (capacity.get() / 16 * 7) as u32;
        let limits = quota::Limits {
            share: (u64::from(connections) * u64::from(sizes.share_percent) / 100) as u32,
            ..quota::Limits::of(connections)
        };
        Self {
            table: FlowTable::new(capacity, seed),
            quota: Quota::new(sizes.ports, limits),
            shares: Shares::new((capacity.get() / 16).min(1 << 16)),
            live: CachePadded::default(),
            hands: Default::default(),
        }
    }

    /// Inserts a connection, counted for the endpoint that it belongs to. It is counted before it is there, since another poller, or
    /// control, may remove it at once.
    ///
    /// # Errors
    /// Those of `insert`. Then nothing is counted.
    pub fn insert<T, E>(
        &self,
        owner: u16,
        insert: impl FnOnce(&FlowTable<K>) -> Result<T, E>,
    ) -> Result<T, E> {
        self.live.fetch_add(1, Relaxed);
        self.quota.created(owner);
        let inserted = insert(&self.table);
        if inserted.is_err() {
            self.removed(owner);
        }
        inserted
    }

    /// Counts a connection that was removed. Once for each that was [inserted](Self::insert).
    pub fn removed(&self, owner: u16) {
        self.live.fetch_sub(1, Relaxed);
        self.quota.removed(owner);
    }

    /// Where the next search for a connection of an endpoint that has its share begins: for one that others began, or it itself.
    pub(crate) const fn hand(&self, is_others: bool) -> &AtomicUsize {
        let [own, others] = &self.hands;
        if is_others { others } else { own }
    }

    fn memory_bytes(&self) -> usize {
        self.table.memory_bytes() + self.shares.memory_bytes()
    }

    /// Connections in the table, as of some moment of late.
    pub fn len(&self) -> u32 {
        self.live.load(Relaxed)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How full it is, in 1/256ths of what it may hold.
    pub fn fill(&self) -> u16 {
        let (len, capacity) = (
            u64::from(self.len()),
            u64::from(self.quota.limits().capacity),
        );
        (len * 256 / capacity.max(1)).min(256) as u16
    }
}

/// One poller's part.
#[derive(Debug)]
pub struct Tracker {
    pub(crate) connections: Arc<Connections>,
    /// Draws source ports.
    pub(crate) rng: PortRng,
    /// Where the poller's sweeps of the tables go on.
    pub(crate) cursors: (Cursor, Cursor),
    /// How many pollers there are.
    pub(crate) pollers: usize,
    /// What the batch's packets have to do with connections.
    pub(crate) found: Box<[Found; BATCH]>,
    /// How often the batch's packets may still search for a connection to evict.
    pub(crate) searches: u8,
    /// How many ports they may still try, beyond the first of each.
    pub(crate) spare_tries: u32,
    pub(crate) sweep: Sweep,
    /// Fragmented datagrams, and the fragments that wait for their first.
    pub(crate) fragments: Held,
    /// Fragments that waited and go on now.
    pub(crate) released: Vec<Packet>,
    /// Where it tells of connections; `None`: nowhere.
    pub(crate) records: Option<Records>,
    /// Where it offers connections for the kernel; `None`: nowhere.
    pub(crate) offers: Option<Offers>,
}

impl Tracker {
    /// The part of poller `index` of `pollers`. `secret` must be random and the poller's own.
    pub fn new(
        connections: Arc<Connections>,
        (index, pollers): (usize, usize),
        secret: [u64; 2],
    ) -> Self {
        let limits = Limits::default();
        Self {
            connections,
            rng: PortRng::new(secret),
            cursors: (Cursor::new(index, pollers), Cursor::new(index, pollers)),
            pollers: pollers.max(1),
            found: Box::new([Found::Nothing; BATCH]),
            searches: 0,
            spare_tries: 0,
            sweep: Sweep::default(),
            released: Vec::with_capacity(limits.held.into()),
            fragments: Held::new(limits, [secret[1], !secret[0]]),
            records: None,
            offers: None,
        }
    }

    /// The same, which tells of connections as they are judged.
    #[must_use]
    pub fn with_records(mut self, records: Records) -> Self {
        self.records = Some(records);
        self
    }

    /// The same, which offers connections that are under way to who has them repeated by the kernel.
    #[must_use]
    pub fn with_offers(mut self, offers: Offers) -> Self {
        self.offers = Some(offers);
        self
    }

    /// Whether connections of endpoints that are gone are still to be removed.
    pub(crate) const fn is_in_haste(&self) -> bool {
        self.sweep.is_in_haste()
    }

    /// Whether the ring of records filled up since the last call. Who takes offers is called, if there are any.
    pub(crate) fn take_pending(&mut self) -> bool {
        if let Some(offers) = &self.offers {
            offers.call();
        }
        match &mut self.records {
            Some(records) => records.take_pending(),
            None => false,
        }
    }

    /// Whether fragments that waited are to go on.
    pub(crate) const fn has_released(&self) -> bool {
        !self.released.is_empty()
    }

    /// Fragments that wait for their first.
    pub(crate) fn held(&self) -> usize {
        self.fragments.held()
    }

    /// The connections that it shares.
    pub const fn connections(&self) -> &Arc<Connections> {
        &self.connections
    }
}

#[cfg(test)]
mod tests {
    use flowtable::Tick;
    use flowtable::flow::{Action, InsertError};

    use super::*;

    fn side() -> Side<Key4> {
        let sizes = Sizes {
            v4: Capacity::MIN,
            v6: Capacity::MIN,
            ports: 2,
            share_percent: 50,
        };
        Side::new(sizes.v4, Seed([1, 2]), &sizes)
    }

    fn counts(side: &Side<Key4>) -> (u32, u32) {
        (side.len(), side.quota.count(1))
    }

    #[test]
    fn who_removes_a_connection_while_it_is_inserted_finds_it_counted() {
        let side = side();
        let key = Key4 {
            src: 1,
            dst: 2,
            ..Key4::default()
        };
        let there = (key, Action::default());
        let back = (key.reversed(), Action::default());
        let inserted = side.insert(1, |table| {
            let inserted = table.insert_pair(there, back, Tick(0), (0, 0));
            assert_eq!(counts(&side), (1, 1));
            // Another poller, before this one has come back.
            assert!(inserted.is_ok_and(|(flow, _)| table.remove_pair(flow)));
            side.removed(1);
            inserted
        });
        assert!(inserted.is_ok());
        assert_eq!(counts(&side), (0, 0));
    }

    #[test]
    fn what_is_not_inserted_is_not_counted() {
        let side = side();
        let refused = side.insert(1, |_| Err::<(), _>(InsertError::Full));
        assert_eq!(refused, Err(InsertError::Full));
        assert_eq!(counts(&side), (0, 0));
    }
}
