//! Connections, and what is looked up of them.

use benches::rng::{Rng, Zipf};
use flowtable::Tick;
use flowtable::flow::{Action, Capacity, FlowKey, FlowTable4, Key4, Seed};
use flowtable::lpm::NextHopId;

/// Connections with SNAT, by the places of their entries: 2c is the forward one of connection c, 2c + 1
/// the reply's.
pub(crate) struct Flows {
    pub(crate) keys: Vec<Key4>,
    /// Slots of a table that is at most half full with them.
    pub(crate) slots: usize,
}

/// How often each key is looked up.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Spread {
    Uniform,
    Zipf,
    Miss,
}

impl Spread {
    pub(crate) const ALL: [Self; 3] = [Self::Uniform, Self::Zipf, Self::Miss];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Zipf => "Zipf 1.0",
            Self::Miss => "misses",
        }
    }
}

impl Flows {
    pub(crate) fn new(entries: usize) -> Self {
        let mut rng = Rng::new(entries as u64);
        let mut keys = Vec::with_capacity(entries);
        for _ in 0..entries / 2 {
            let forward = key(&mut rng);
            let reply = Key4 {
                dst: 0xc0a8_0001,
                dport: rng.next_u64() as u16,
                ..forward.reversed()
            };
            keys.extend([forward, reply]);
        }
        Self {
            keys,
            slots: (entries * 2).next_power_of_two(),
        }
    }

    /// What the entry at a place says: enough of it to tell the place.
    pub(crate) fn action(place: usize) -> Action<u32> {
        Action {
            generation: 1,
            next_hop: NextHopId::new((place & 0x7fff) as u16).unwrap_or(NextHopId::MAX),
            nat_addr: place as u32,
            nat_port: place as u16,
            rule: place as u32,
            ..Action::default()
        }
    }

    pub(crate) fn table(&self) -> FlowTable4 {
        let capacity = Capacity::new(self.slots).expect("a power of two, and not small");
        let table = FlowTable4::new(
            capacity,
            Seed([0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210]),
        );
        for place in (0..self.keys.len()).step_by(2) {
            self.insert(&table, place);
        }
        table
    }

    /// Inserts the connection whose forward entry's place this is.
    #[inline(always)]
    pub(crate) fn insert(&self, table: &FlowTable4, place: usize) {
        let entry = |place: usize| (self.keys[place], Self::action(place));
        table
            .insert_pair(entry(place), entry(place + 1), Tick(0), (0, 0))
            .expect("there is room, and nobody else is there");
    }

    /// `count` keys to look up.
    pub(crate) fn lookups(&self, spread: Spread, count: usize) -> Vec<Key4> {
        let mut rng = Rng::new(7);
        match spread {
            Spread::Uniform => (0..count)
                .map(|_| self.keys[rng.below(self.keys.len())])
                .collect(),
            Spread::Zipf => {
                let zipf = Zipf::new(self.keys.len());
                let mut of_rank = self.keys.clone();
                rng.shuffle(&mut of_rank);
                (0..count).map(|_| of_rank[zipf.draw(&mut rng)]).collect()
            }
            // An address that no connection has.
            Spread::Miss => (0..count)
                .map(|_| Key4 {
                    src: 0x0b00_0000 | rng.next_u64() as u32 >> 8,
                    ..key(&mut rng)
                })
                .collect(),
        }
    }
}

/// A pod's connection to somewhere.
fn key(rng: &mut Rng) -> Key4 {
    let bits = rng.next_u64();
    Key4 {
        src: 0x0a00_0000 | bits as u32 >> 8,
        dst: rng.next_u64() as u32,
        sport: (bits >> 32) as u16,
        dport: [80, 443, 53, 8080][(bits >> 48) as usize % 4],
        protocol: [6, 6, 6, 17][(bits >> 50) as usize % 4],
    }
}

/// A key as the peer in C reads it.
pub(crate) fn bytes(key: &Key4) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&key.src.to_ne_bytes());
    bytes[4..8].copy_from_slice(&key.dst.to_ne_bytes());
    bytes[8..10].copy_from_slice(&key.sport.to_ne_bytes());
    bytes[10..12].copy_from_slice(&key.dport.to_ne_bytes());
    bytes[12] = key.protocol;
    bytes
}
