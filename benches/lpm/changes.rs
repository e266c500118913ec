//! The cost of a change: of one that is published at once, and of a thousand that are published together.

use std::hint::black_box;

use benches::rounds::{Contender, Result, interleave};
use benches::routes::Route;
use benches::setup::Setup;
use benches::table::Table;
use flowtable::lpm::NextHopId;

use crate::family::Family;
use crate::lookups::Dpdk;
/// Routes that are removed and added again.
const ROUTES: usize = 500;

/// Changes in all.
const CHANGES: usize = 2 * ROUTES;

/// Removes and adds [`ROUTES`] of the routes: with a snapshot, which a poller would hold, after each
/// change and after all of them. The peers change in place; nobody may look up meanwhile in `prefix-trie`.
pub(crate) fn run<F: Family>(
    setup: &Setup,
    name: &str,
    routes: &[Route<F::Addr>],
    rib: &mut F::Rib,
    trie: &mut F::Trie,
    peers: &mut [Dpdk],
) -> Result<()> {
    let stride = routes.len() / ROUTES;
    let some: Vec<_> = routes.iter().step_by(stride).take(ROUTES).collect();
    let rib = std::cell::RefCell::new(rib);
    let pass = |after_each: bool| {
        let mut rib = rib.borrow_mut();
        let mut held = F::snapshot(&rib);
        for route in &some {
            let prefix = F::prefix(route);
            black_box(F::remove(&mut rib, prefix));
            if after_each {
                held = F::snapshot(&rib);
            }
            let hop = NextHopId::new(route.2).unwrap_or(NextHopId::MAX);
            let inserted = F::insert(&mut rib, prefix, hop);
            assert_eq!(inserted, Ok(()), "the route was there before");
            if after_each {
                held = F::snapshot(&rib);
            }
        }
        black_box(&held);
    };
    let mut contenders = vec![
        Contender::here("flowtable, published together", || pass(false)),
        Contender::here("flowtable, each published", || pass(true)),
        Contender::here("prefix-trie, in place", || {
            for route in &some {
                F::trie_remove(trie, route);
                F::trie_insert(trie, route);
            }
        }),
    ];
    contenders.extend(peers.iter_mut().map(|it| {
        let name = format!("{}, in place", it.name);
        Contender::new(name, move || it.peer.time(&format!("churn {ROUTES}")))
    }));
    let all = interleave(setup.rounds, CHANGES, &mut contenders)?;
    println!(
        "{}",
        Table::of_series(&format!("{name}, {CHANGES} changes"), "ns a change", &all)
    );
    Ok(())
}
