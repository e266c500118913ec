//! Pages of IPv4 tables are used again, and copied one by one.
//!
//! One test, so that no other thread takes pages beside it.

use flowtable::lpm::{NextHopId, PageMemory, Prefix4, Rib4, page_memory};

const PAGE: usize = 32 << 10;

fn hop(id: u16) -> NextHopId {
    NextHopId::new(id).unwrap()
}

/// Routes in a hundred pages, and hosts.
fn table() -> Rib4 {
    let mut rib = Rib4::new();
    for index in 0..100 {
        rib.insert(Prefix4::new(index << 22, 16).unwrap(), hop(1))
            .unwrap();
        rib.insert(Prefix4::host(index << 22), hop(2)).unwrap();
    }
    rib
}

#[test]
fn a_change_takes_the_pages_that_it_touches_and_they_come_back() {
    let start = page_memory();
    let mut rib = table();
    let built = page_memory();
    assert!(built.in_use - start.in_use >= 100 * PAGE);
    assert_eq!(built.mapped % (2 << 20), 0);
    assert!(built.mapped >= built.in_use);

    // A route, then a host: one page each, while a snapshot holds the old ones.
    let held = rib.snapshot();
    rib.insert(Prefix4::new((7 << 22) + (1 << 16), 16).unwrap(), hop(3))
        .unwrap();
    assert_eq!(page_memory().in_use - built.in_use, PAGE);
    rib.insert(Prefix4::host(7 << 22), hop(3)).unwrap();
    assert_eq!(page_memory().in_use - built.in_use, 2 * PAGE);
    // What is the writer's alone is changed in place.
    rib.insert(Prefix4::host((7 << 22) + 1), hop(4)).unwrap();
    assert_eq!(page_memory().in_use - built.in_use, 2 * PAGE);
    assert_eq!(held.lookup(7 << 22), hop(2));
    assert_eq!(held.lookup((7 << 22) + 1), hop(1));
    drop(held);
    assert_eq!(page_memory().in_use, built.in_use);

    // Tables that come and go take no more than one does.
    let before = page_memory();
    drop(rib);
    assert_eq!(page_memory().in_use, start.in_use);
    for _ in 0..10 {
        drop(table());
    }
    let PageMemory { taken, mapped, .. } = page_memory();
    assert_eq!(mapped, before.mapped);
    assert!(taken - before.taken >= 10 * 100 * PAGE);
}
