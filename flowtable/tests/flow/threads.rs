//! Many threads on one table: what they find is whole, and what they leave is sound.

use hashbrown::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use flowtable::Tick;
use flowtable::flow::{Action, BATCH, Cursor, FlowTable, InsertError, Key4, Key6, Keys};

use crate::family::{Family, action, directed, insert, table};

const THREADS: usize = 4;
const ROUNDS: usize = 10_000;
/// Few enough that threads meet at the same connections all the time.
const CONNECTIONS: u64 = 300;
const SLOTS: usize = 1024;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// A version tells whose it is: all of connection `n` are `n` modulo the number of connections.
fn assert_whole<K: Family>(number: u64, is_reply: bool, found: &Action<K::Addr>) {
    let expected = directed(action::<K>(found.generation), is_reply);
    assert_eq!(*found, expected, "torn");
    assert_eq!(
        u64::from(found.generation) % CONNECTIONS,
        number,
        "another one's"
    );
}

fn version(number: u64, random: u64) -> u32 {
    (random % 1_000_000 * CONNECTIONS + number) as u32
}

fn poller<K: Family>(table: &FlowTable<K>, seed: u64, inserted: &AtomicUsize) {
    let mut random = Random(seed);
    let mut cursor = Cursor::new(seed as usize % THREADS, THREADS);
    for _ in 0..ROUNDS {
        let (number, bits) = (random.next() % CONNECTIONS, random.next());
        let is_reply = bits & 1 == 1;
        let forward = K::make(number);
        let key = if is_reply {
            forward.reversed()
        } else {
            forward
        };
        match bits >> 1 & 7 {
            0 | 1 => match insert(table, number, version(number, bits >> 8), Tick(bits)) {
                Ok((there, back)) => {
                    inserted.fetch_add(1, Ordering::Relaxed);
                    assert_ne!(there.slot(), back.slot());
                }
                Err(why) => assert_ne!(why, InsertError::Full, "there is room"),
            },
            2 => {
                if let Some((flow, _)) = table.lookup(&key) {
                    table.remove_pair(flow);
                }
            }
            3 => {
                if let Some((flow, _)) = table.lookup(&key) {
                    let _ = table.update_action(flow, &action::<K>(version(number, bits >> 8)));
                    if let Some(view) = table.partner(flow).and_then(|flow| table.view(flow)) {
                        assert_eq!(view.key, key.reversed(), "another one's partner");
                    }
                }
            }
            4 => {
                table.sweep(
                    &mut cursor,
                    1,
                    |forward, reply| {
                        assert_eq!(forward.key.reversed(), reply.key);
                        forward.action.generation % 16 == 0
                    },
                    |_, _| (),
                );
            }
            _ => {
                let numbers = |at: usize| (number + at as u64) % CONNECTIONS;
                let keys: [K; BATCH] = std::array::from_fn(|at| {
                    let key = K::make(numbers(at));
                    if is_reply { key.reversed() } else { key }
                });
                table.lookup_batch(&mut Keys::from(&keys[..]), |hit| {
                    assert_whole::<K>(numbers(hit.place), is_reply, &hit.action());
                    hit.entry.touch(Tick(bits), 64);
                });
            }
        }
    }
}

fn stress<K: Family>() {
    let table = table::<K>(SLOTS, 3);
    let inserted = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (table, inserted) = (&table, &inserted);
            scope.spawn(move || poller(table, thread as u64, inserted));
        }
    });
    assert!(
        inserted.into_inner() > ROUNDS / 10,
        "hardly anything happened"
    );

    // Each key is there once, with its partner.
    let mut views = HashMap::new();
    table.for_each(|view| {
        let twice = views.insert(view.key, *view);
        assert!(twice.is_none(), "a key is there twice");
    });
    assert_eq!(views.len(), table.len());
    for (key, view) in &views {
        assert_eq!(table.lookup(key), Some((view.flow, view.action)));
        let partner = views[&key.reversed()].flow;
        assert_eq!(table.partner(view.flow), Some(partner));
    }
    // No lock is left behind, of words or of entries.
    table.sweep(&mut Cursor::default(), SLOTS / 64, |_, _| true, |_, _| ());
    assert!(table.is_empty(), "{} entries stay", table.len());
    for number in 0..CONNECTIONS {
        insert(&table, number, 0, Tick(0)).unwrap();
    }
}

#[test]
fn threads_find_whole_entries_and_leave_a_sound_ipv4_table() {
    stress::<Key4>();
}

#[test]
fn threads_find_whole_entries_and_leave_a_sound_ipv6_table() {
    stress::<Key6>();
}
