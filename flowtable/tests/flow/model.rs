//! Any sequence of changes leaves the table as it would a plain map.

use hashbrown::HashMap;

use flowtable::Tick;
use flowtable::flow::{
    Action, BATCH, Cursor, FlowRef, FlowTable, InsertError, Key4, Key6, Keys, Unavailable, View,
    seen_at,
};
use proptest::prelude::*;

use crate::family::{Family, action, directed, insert, table};

/// Slots of the table, and connections that there are: more than fit.
const SLOTS: usize = 1024;
const CONNECTIONS: u64 = 700;

#[derive(Clone, Debug)]
enum Step {
    /// With another connection's reply key: a SNAT port that may be taken.
    Insert {
        number: u64,
        reply_of: u64,
        version: u32,
    },
    Update {
        number: u64,
        reply: bool,
        version: u32,
    },
    Touch {
        number: u64,
        reply: bool,
        bytes: u32,
    },
    SetDir {
        number: u64,
        dir: u64,
    },
    Remove {
        number: u64,
        reply: bool,
    },
    Lookup {
        first: u64,
        len: usize,
    },
    /// Removes the connections of which `version % modulus` is 0.
    Sweep {
        lines: usize,
        modulus: u32,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let number = || 0..CONNECTIONS;
    prop_oneof![
        12 => (number(), any::<u32>()).prop_map(|(number, version)| Step::Insert { number, reply_of: number, version }),
        2 => (number(), number(), any::<u32>()).prop_map(|(number, reply_of, version)| Step::Insert { number, reply_of, version }),
        3 => (number(), any::<bool>(), any::<u32>()).prop_map(|(number, reply, version)| Step::Update { number, reply, version }),
        2 => (number(), any::<bool>(), any::<u32>()).prop_map(|(number, reply, bytes)| Step::Touch { number, reply, bytes }),
        1 => (number(), any::<u64>()).prop_map(|(number, dir)| Step::SetDir { number, dir }),
        3 => (number(), any::<bool>()).prop_map(|(number, reply)| Step::Remove { number, reply }),
        2 => (number(), 0..=BATCH).prop_map(|(first, len)| Step::Lookup { first, len }),
        1 => (1..20_usize, 2..9_u32).prop_map(|(lines, modulus)| Step::Sweep { lines, modulus }),
    ]
}

/// What the map says of an entry.
#[derive(Clone, Copy, Debug)]
struct Entry<K: Family> {
    flow: FlowRef,
    partner: K,
    action: Action<K::Addr>,
    dir: u64,
    last_seen: u32,
    packets: u64,
    bytes: u64,
}

struct Model<K: Family> {
    table: FlowTable<K>,
    map: HashMap<K, Entry<K>>,
    /// References to what was removed.
    gone: Vec<FlowRef>,
    cursor: Cursor,
    now: Tick,
}

impl<K: Family> Model<K> {
    fn new(seed: u64) -> Self {
        Self {
            table: table(SLOTS, seed),
            map: HashMap::new(),
            gone: Vec::new(),
            cursor: Cursor::default(),
            now: Tick(0),
        }
    }

    fn key(number: u64, reply: bool) -> K {
        let key = K::make(number);
        if reply { key.reversed() } else { key }
    }

    fn step(&mut self, step: &Step) {
        self.now.0 += 1 << 27;
        match *step {
            Step::Insert {
                number,
                reply_of,
                version,
            } => self.insert(number, reply_of, version),
            Step::Update {
                number,
                reply,
                version,
            } => {
                let Some(entry) = self.map.get_mut(&Self::key(number, reply)) else {
                    return;
                };
                let action = action::<K>(version);
                let updated = self.table.update_action(entry.flow, &action);
                entry.flow = updated.expect("nobody else is there");
                entry.action = Action {
                    flags: entry.action.flags,
                    ..action
                };
            }
            Step::Touch {
                number,
                reply,
                bytes,
            } => {
                let Some(entry) = self.map.get_mut(&Self::key(number, reply)) else {
                    return;
                };
                self.table.touch(entry.flow, self.now, bytes);
                entry.last_seen = seen_at(self.now);
                entry.packets += 1;
                entry.bytes += u64::from(bytes);
            }
            Step::SetDir { number, dir } => {
                let Some(entry) = self.map.get_mut(&Self::key(number, false)) else {
                    return;
                };
                self.table.set_dir(entry.flow, dir);
                entry.dir = dir;
            }
            Step::Remove { number, reply } => {
                let Some(entry) = self.map.get(&Self::key(number, reply)) else {
                    return;
                };
                let flow = entry.flow;
                assert!(self.table.remove_pair(flow));
                assert!(!self.table.remove_pair(flow), "removed twice");
                let partner = entry.partner;
                self.forget(partner);
            }
            Step::Lookup { first, len } => self.lookup(first, len),
            Step::Sweep { lines, modulus } => self.sweep(lines, modulus),
        }
    }

    fn insert(&mut self, number: u64, reply_of: u64, version: u32) {
        let (forward, reply) = (K::make(number), K::make(reply_of).reversed());
        let action = action::<K>(version);
        let inserted = self.table.insert_pair(
            (forward, action),
            (reply, action),
            self.now,
            (number, !number),
        );
        match inserted {
            Ok((there, back)) => {
                for (key, partner, flow, is_reply, dir) in [
                    (forward, reply, there, false, number),
                    (reply, forward, back, true, !number),
                ] {
                    let entry = Entry {
                        flow,
                        partner,
                        action: directed(action, is_reply),
                        dir,
                        last_seen: seen_at(self.now),
                        packets: 0,
                        bytes: 0,
                    };
                    assert!(self.map.insert(key, entry).is_none(), "{key:?} was there");
                }
            }
            Err(InsertError::ReplyTaken) => assert!(self.map.contains_key(&reply)),
            Err(InsertError::ForwardTaken) => {
                assert!(self.map.contains_key(&forward) && !self.map.contains_key(&reply));
            }
            Err(InsertError::Full) => {
                // 64 of the 1,024 slots serve a key, and they are not full before many are taken.
                assert!(self.map.len() > SLOTS / 2, "full at {}", self.map.len());
                assert!(!self.map.contains_key(&reply));
            }
            Err(InsertError::Busy) => panic!("nobody else is there"),
        }
    }

    /// Strikes out a connection, by the key of either direction.
    fn forget(&mut self, key: K) {
        let entry = self.map.remove(&key).expect("it was there");
        let other = self.map.remove(&entry.partner).expect("with its partner");
        self.gone.extend([entry.flow, other.flow]);
    }

    fn lookup(&self, first: u64, len: usize) {
        // Both directions of connections, in and out of the table.
        let keys: Vec<K> = (0..len as u64)
            .map(|at| Self::key((first + at / 2) % CONNECTIONS, at % 2 == 1))
            .collect();
        let mut found = vec![None; len];
        let hits = self.table.lookup_batch(&mut Keys::from(&keys[..]), |hit| {
            found[hit.place] = Some((hit.entry.flow(), hit.action()));
        });
        for (at, (key, found)) in keys.iter().zip(found).enumerate() {
            let expected = self.map.get(key).map(|entry| (entry.flow, entry.action));
            assert_eq!(found, expected, "{key:?}");
            assert_eq!(hits >> at & 1 == 1, expected.is_some());
            assert_eq!(self.table.lookup(key), expected, "{key:?} alone");
        }
        assert!(len == BATCH || hits >> len == 0, "hits behind the last key");
    }

    fn sweep(&mut self, lines: usize, modulus: u32) {
        let (mut expired, mut removed) = (Vec::new(), Vec::new());
        let map = &self.map;
        let stats = self.table.sweep(
            &mut self.cursor,
            lines,
            |forward, reply| {
                assert_eq!(map[&forward.key].partner, reply.key);
                assert_is_view(map, forward);
                assert_is_view(map, reply);
                let is_expired = forward.action.generation.is_multiple_of(modulus);
                if is_expired {
                    expired.push(forward.key);
                }
                is_expired
            },
            |forward, _| removed.push(forward.key),
        );
        assert_eq!(removed, expired, "who is removed is told of");
        assert_eq!((stats.removed, stats.busy), (expired.len(), 0));
        assert_eq!(stats.slots, lines * 64);
        for key in expired {
            self.forget(key);
        }
    }

    /// Everything is as the map says.
    fn check(&self) {
        for (key, entry) in &self.map {
            assert_eq!(self.table.lookup(key), Some((entry.flow, entry.action)));
            let view = self.table.view(entry.flow).expect("it is there");
            assert_is_view(&self.map, &view);
            assert_eq!(self.table.dir(entry.flow), entry.dir);
            let partner = self.map[&entry.partner].flow;
            assert_eq!(self.table.partner(entry.flow), Some(partner));
        }
        for number in 0..CONNECTIONS {
            for key in [Self::key(number, false), Self::key(number, true)] {
                assert_eq!(
                    self.table.lookup(&key).is_some(),
                    self.map.contains_key(&key)
                );
            }
        }
        for &flow in &self.gone {
            assert_eq!(self.table.view(flow), None, "a removed entry's reference");
            assert_eq!(self.table.partner(flow), None);
            assert!(!self.table.remove_pair(flow));
            let updated = self.table.update_action(flow, &action::<K>(0));
            assert_eq!(updated, Err(Unavailable::Gone));
        }
        let mut seen = 0;
        self.table.for_each(|view| {
            assert_is_view(&self.map, view);
            seen += 1;
        });
        assert_eq!((seen, self.table.len()), (self.map.len(), self.map.len()));
    }
}

fn assert_is_view<K: Family>(map: &HashMap<K, Entry<K>>, view: &View<K>) {
    let entry = map.get(&view.key).expect("nothing else is there");
    let expected = View {
        flow: entry.flow,
        key: view.key,
        action: entry.action,
        dir: entry.dir,
        last_seen: entry.last_seen,
        packets: entry.packets,
        bytes: entry.bytes,
    };
    assert_eq!(*view, expected);
}

fn run<K: Family>(seed: u64, steps: &[Step]) {
    let mut model = Model::<K>::new(seed);
    // Nearly full from the start: words overflow, and lines fill.
    for number in 0..CONNECTIONS * 3 / 5 {
        model.insert(number, number, number as u32);
    }
    for step in steps {
        model.step(step);
    }
    model.check();
    // And all of it can go.
    model.sweep(SLOTS / 64, 1);
    model.sweep(SLOTS / 64, 1);
    model.check();
    assert!(model.table.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_ipv4_table_is_a_map(seed in any::<u64>(), steps in prop::collection::vec(step(), 1..400)) {
        run::<Key4>(seed, &steps);
    }

    #[test]
    fn the_ipv6_table_is_a_map(seed in any::<u64>(), steps in prop::collection::vec(step(), 1..400)) {
        run::<Key6>(seed, &steps);
    }
}

/// What 127 changes of an entry do to references to it: they are gone, and the entry is not.
#[test]
fn a_reference_outlives_126_changes() {
    let table = table::<Key4>(SLOTS, 1);
    let (first, _) = insert(&table, 1, 0, Tick(0)).unwrap();
    let mut flow = first;
    for version in 1..=126 {
        flow = table.update_action(flow, &action::<Key4>(version)).unwrap();
        assert_eq!(flow, first);
    }
    let next = table.update_action(flow, &action::<Key4>(127)).unwrap();
    assert_ne!(next, first);
    assert_eq!(table.view(first), None);
    assert_eq!(table.lookup(&Key4::make(1)).unwrap().0, next);
    assert!(table.remove_pair(next));
    assert!(table.is_empty());
}

#[test]
fn a_connection_to_itself_is_refused() {
    let table = table::<Key4>(SLOTS, 1);
    let key = Key4 {
        src: 1,
        dst: 1,
        sport: 2,
        dport: 2,
        protocol: 17,
    };
    let entry = (key, action::<Key4>(1));
    let inserted = table.insert_pair(entry, entry, Tick(0), (0, 0));
    assert_eq!(inserted, Err(InsertError::ForwardTaken));
    assert!(table.is_empty());
}

/// At half the load no key is refused: there is room in each line.
#[test]
fn a_table_filled_to_half_refuses_nobody() {
    for seed in 0..8 {
        let table = table::<Key4>(1 << 16, seed);
        for number in 0..1 << 14 {
            insert(&table, number, 0, Tick(0)).unwrap();
        }
        assert_eq!(table.len(), 1 << 15);
    }
}
