//! Snapshots that other threads read and give up while their writer goes on.

use std::sync::mpsc::sync_channel;

use flowtable::lpm::{Lpm4, NextHopId, Prefix4, Rib4};

const GENERATIONS: u16 = 300;

/// What all routes of a generation lead to.
fn hop_of(generation: u16) -> NextHopId {
    NextHopId::new(generation + 1).unwrap()
}

/// In several pages, and longer than /24.
fn prefixes() -> impl Iterator<Item = Prefix4> {
    let blocks = (0..8).map(|block| Prefix4::new(block << 28, 12).unwrap());
    let hosts = (0..8).map(|host| Prefix4::host((15 << 28) + (host << 8)));
    blocks.chain(hosts)
}

#[test]
fn pages_are_written_again_only_when_no_thread_reads_them() {
    let ends = |prefix: Prefix4| [prefix.addr(), prefix.last()];
    let addrs = prefixes().flat_map(ends).collect::<Vec<_>>().repeat(20);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                let (to, from) = sync_channel::<(u16, Lpm4)>(2);
                let addrs = &addrs;
                scope.spawn(move || {
                    let mut out = vec![NextHopId::NONE; addrs.len()];
                    for (generation, lpm) in from {
                        for _ in 0..20 {
                            lpm.lookup_batch(addrs, &mut out);
                            let expected = hop_of(generation);
                            assert!(
                                out.iter().all(|&found| found == expected),
                                "generation {generation} changed"
                            );
                        }
                    }
                });
                to
            })
            .collect();
        let mut rib = Rib4::new();
        for generation in 0..GENERATIONS {
            for prefix in prefixes() {
                rib.insert(prefix, hop_of(generation)).unwrap();
            }
            for reader in &readers {
                // It fails only if the reader has failed, which the scope reports.
                let _ = reader.send((generation, rib.snapshot()));
            }
        }
    });
}
