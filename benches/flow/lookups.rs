//! Lookups, and connections that come and go, on one core.

use std::hint::black_box;

use benches::peer::Peer;
use benches::rounds::{Contender, Result, interleave};
use benches::setup::Setup;
use benches::table::Table;
use flowtable::Tick;
use flowtable::flow::{Action, FlowTable4, Key4, Keys};
use hashbrown::HashMap;

use crate::churn;
use crate::workload::{Flows, Spread, bytes};

/// Keys that a pass looks up; a multiple of each batch.
const LOOKUPS: usize = 1 << 20;

/// hashbrown with its own hash, foldhash.
pub(crate) type Map = HashMap<Key4, Action<u32>>;

/// Everything of one size.
pub(crate) fn run(setup: &Setup, name: &str, flows: &Flows) -> Result<()> {
    let table = flows.table();
    let mut map = Map::with_capacity(flows.slots / 2);
    map.extend((0..flows.keys.len()).map(|place| (flows.keys[place], Flows::action(place))));
    let mut peers = start_peers(setup, flows)?;
    println!(
        "Ours takes {:.1} MB, {} slots for {} entries.\n",
        table.memory_bytes() as f64 / 1e6,
        flows.slots,
        flows.keys.len()
    );

    for spread in Spread::ALL {
        let keys = flows.lookups(spread, LOOKUPS);
        verify(setup, &table, &map, &mut peers, &keys)?;
        for batch in [64, 32, 1] {
            let mut contenders = vec![
                Contender::here("flowtable", || batches(&table, &keys, batch)),
                Contender::here("flowtable, counting", || counting(&table, &keys, batch)),
                Contender::here("hashbrown", || one_by_one(&map, &keys)),
            ];
            contenders.extend(peers.iter_mut().map(|(name, peer)| {
                Contender::new(*name, move || peer.time(&format!("batch {batch}")))
            }));
            let all = interleave(setup.rounds, LOOKUPS, &mut contenders)?;
            let title = format!("{name}, {}, {batch} at a time", spread.name());
            println!("{}", Table::of_series(&title, "ns", &all));
        }
    }
    churn::run(setup, name, flows, &table, &mut map, &mut peers)
}

/// What is made of a found action: something of each of its words.
#[inline(always)]
const fn of(action: &Action<u32>) -> u64 {
    action.rule as u64 + action.next_hop.get() as u64 + action.nat_port as u64
}

fn batches(table: &FlowTable4, keys: &[Key4], batch: usize) {
    match batch {
        1 => keys.iter().for_each(|key| {
            black_box(table.lookup(key).map_or(0, |(_, action)| of(&action)));
        }),
        _ => keys.chunks_exact(batch).for_each(|keys| {
            let mut sum = 0;
            let hits = table.lookup_batch(&mut Keys::from(keys), |hit| sum += of(&hit.action()));
            black_box((sum, hits));
        }),
    }
}

/// The same, and each packet is counted.
fn counting(table: &FlowTable4, keys: &[Key4], batch: usize) {
    let now = Tick(1 << 40);
    match batch {
        1 => keys.iter().for_each(|key| {
            black_box(table.lookup(key).map_or(0, |(flow, action)| {
                table.touch(flow, now, 64);
                of(&action)
            }));
        }),
        _ => keys.chunks_exact(batch).for_each(|keys| {
            let mut sum = 0;
            let hits = table.lookup_batch(&mut Keys::from(keys), |hit| {
                hit.entry.touch(now, 64);
                sum += of(&hit.action());
            });
            black_box((sum, hits));
        }),
    }
}

fn one_by_one(map: &Map, keys: &[Key4]) {
    for keys in keys.chunks_exact(64) {
        let mut sum = 0;
        for key in keys {
            sum += map.get(key).map_or(0, of);
        }
        black_box(sum);
    }
}

/// DPDK's table, on small pages and on transparent huge ones.
fn start_peers(setup: &Setup, flows: &Flows) -> Result<Vec<(&'static str, Peer)>> {
    let Some(program) = &setup.dpdk else {
        return Ok(Vec::new());
    };
    let file = setup.scratch.join("table");
    std::fs::write(&file, flows.keys.iter().flat_map(bytes).collect::<Vec<_>>())?;
    let mut peers = Vec::new();
    for (name, kind) in [("rte_hash", "huge"), ("rte_hash, small pages", "small")] {
        let mut peer = Peer::start(program, kind, setup.core)?;
        peer.ready()?;
        peer.ask(&format!("table {} {}", flows.slots, file.display()))?;
        peers.push((name, peer));
    }
    Ok(peers)
}

/// All contenders find the same, or there is nothing to compare.
pub(crate) fn verify(
    setup: &Setup,
    table: &FlowTable4,
    map: &Map,
    peers: &mut [(&'static str, Peer)],
    keys: &[Key4],
) -> Result<()> {
    let place = |action: Option<Action<u32>>| action.map_or(u32::MAX, |action| action.nat_addr);
    let expected: Vec<_> = keys
        .iter()
        .map(|key| place(map.get(key).copied()))
        .collect();
    let differs = |who: &str, found: &[u32]| -> Result<()> {
        let differs = expected.iter().zip(found).position(|(a, b)| a != b);
        match differs {
            None if found.len() == expected.len() => Ok(()),
            _ => Err(format!("{who} finds something else than hashbrown: {differs:?}").into()),
        }
    };
    let ours: Vec<_> = keys
        .iter()
        .map(|key| place(table.lookup(key).map(|found| found.1)))
        .collect();
    differs("flowtable, one by one,", &ours)?;
    for batch in [32, 64] {
        let mut ours = vec![u32::MAX; keys.len()];
        for (keys, out) in keys.chunks(batch).zip(ours.chunks_mut(batch)) {
            table.lookup_batch(&mut Keys::from(keys), |hit| {
                out[hit.place] = hit.action().nat_addr;
            });
        }
        differs("flowtable", &ours)?;
    }
    for (name, peer) in peers {
        let (input, output) = (setup.scratch.join("keys"), setup.scratch.join("places"));
        std::fs::write(&input, keys.iter().flat_map(bytes).collect::<Vec<_>>())?;
        peer.ask(&format!("keys {}", input.display()))?;
        peer.ask(&format!("outputs {}", output.display()))?;
        let places: Vec<_> = std::fs::read(&output)?
            .as_chunks::<4>()
            .0
            .iter()
            .map(|&four| u32::from_ne_bytes(four))
            .collect();
        differs(name, &places)?;
    }
    Ok(())
}
