//! Connections that go and come again: both keys are removed and then inserted.

use benches::peer::Peer;
use benches::rng::Rng;
use benches::rounds::{Contender, Result, interleave};
use benches::table::Table;
use flowtable::flow::FlowTable4;

use crate::Setup;
use crate::lookups::{Map, verify};
use crate::workload::{Flows, bytes};

/// Connections that a pass changes.
const CHANGES: usize = 1 << 17;

pub(crate) fn run(
    setup: &Setup,
    name: &str,
    flows: &Flows,
    table: &FlowTable4,
    map: &mut Map,
    mut peer: Option<&mut Peer>,
) -> Result<()> {
    let mut rng = Rng::new(9);
    let places: Vec<_> = (0..CHANGES)
        .map(|_| rng.below(flows.keys.len() / 2) * 2)
        .collect();
    let file = setup.scratch.join("churn");
    let change = |place: usize| {
        let mut bytes = [
            &(place as u64).to_ne_bytes()[..],
            &bytes(&flows.keys[place]),
        ]
        .concat();
        bytes.extend((place as u64 + 1).to_ne_bytes());
        bytes.extend(crate::workload::bytes(&flows.keys[place + 1]));
        bytes
    };
    std::fs::write(
        &file,
        places
            .iter()
            .flat_map(|&place| change(place))
            .collect::<Vec<_>>(),
    )?;
    let mut contenders = vec![
        Contender::here("flowtable", || ours(flows, table, &places)),
        Contender::here("hashbrown", || {
            for &place in &places {
                for place in [place, place + 1] {
                    map.remove(&flows.keys[place]);
                }
                for place in [place, place + 1] {
                    map.insert(flows.keys[place], flows.action(place));
                }
            }
        }),
    ];
    if let Some(peer) = &mut peer {
        let command = format!("churn {}", file.display());
        contenders.push(Contender::new("rte_hash", move || peer.time(&command)));
    }
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
        peer,
        &flows.keys[..flows.keys.len() / 64 * 64],
    )
}

fn ours(flows: &Flows, table: &FlowTable4, places: &[usize]) {
    for &place in places {
        let (flow, _) = table.lookup(&flows.keys[place]).expect("it is there");
        assert!(table.remove_pair(flow));
        flows.insert(table, place);
    }
}
