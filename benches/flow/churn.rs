//! Connections that go and come again: both keys are removed and then inserted.

use benches::peer::Peer;
use benches::rng::Rng;
use benches::rounds::{Contender, Result, interleave};
use benches::setup::Setup;
use benches::table::Table;
use flowtable::flow::{FlowRef, FlowTable4, Key4, Keys};

use crate::lookups::{Map, verify};
use crate::workload::{Flows, bytes};
/// Connections that a pass changes.
const CHANGES: usize = 1 << 17;

/// Connections that are removed together, and then inserted together.
const BATCH: usize = 64;

pub(crate) fn run(
    setup: &Setup,
    name: &str,
    flows: &Flows,
    table: &FlowTable4,
    map: &mut Map,
    peers: &mut [(&'static str, Peer)],
) -> Result<()> {
    let mut rng = Rng::new(9);
    // No connection twice in a batch.
    let connections = flows.keys.len() / 2;
    let start = rng.below(connections);
    let places: Vec<_> = (0..CHANGES)
        .map(|at| (start + at * (connections / BATCH + 1)) % connections * 2)
        .collect();
    let file = setup.scratch.join("churn");
    let change = |place: usize| {
        let number = (place as u64).to_ne_bytes();
        [&number[..], &bytes(&flows.keys[place])].concat()
    };
    let changes = places
        .iter()
        .flat_map(|&place| [change(place), change(place + 1)].concat());
    std::fs::write(&file, changes.collect::<Vec<_>>())?;
    let mut contenders = vec![
        Contender::here("flowtable, 64 together", || together(flows, table, &places)),
        Contender::here("flowtable", || one_by_one(flows, table, &places)),
        Contender::here("hashbrown", || {
            for &place in &places {
                for place in [place, place + 1] {
                    map.remove(&flows.keys[place]);
                }
                for place in [place, place + 1] {
                    map.insert(flows.keys[place], Flows::action(place));
                }
            }
        }),
    ];
    let command = format!("churn {}", file.display());
    contenders.extend(peers.iter_mut().map(|(name, peer)| {
        let command = command.clone();
        Contender::new(*name, move || peer.time(&command))
    }));
    // An operation is a key that is removed and inserted again.
    let all = interleave(setup.rounds, CHANGES * 2, &mut contenders)?;
    drop(contenders);
    println!(
        "{}",
        Table::of_series(&format!("{name}, remove and insert a key"), "ns", &all)
    );
    verify(
        setup,
        table,
        map,
        peers,
        &flows.keys[..flows.keys.len() / 64 * 64],
    )
}

/// As the fast path does: all are looked up before the first is removed.
fn together(flows: &Flows, table: &FlowTable4, places: &[usize]) {
    for places in places.chunks_exact(BATCH) {
        let keys: [Key4; BATCH] = std::array::from_fn(|at| flows.keys[places[at]]);
        let mut keys = Keys::from(&keys[..]);
        let mut found = [None::<FlowRef>; BATCH];
        table.lookup_batch(&mut keys, |hit| {
            found[hit.place] = Some(hit.entry.flow());
        });
        for flow in found {
            assert!(table.remove_pair(flow.expect("it is there")));
        }
        for &place in places {
            flows.insert(table, place);
        }
    }
}

fn one_by_one(flows: &Flows, table: &FlowTable4, places: &[usize]) {
    for &place in places {
        let (flow, _) = table.lookup(&flows.keys[place]).expect("it is there");
        assert!(table.remove_pair(flow));
        flows.insert(table, place);
    }
}
