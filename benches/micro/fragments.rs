//! The table of fragments: datagrams that come whole, and a flood of fragments that never make one.

use criterion::{Criterion, Throughput, criterion_group};
use flowtable::Tick;
use flowtable::fragments::{Fragments, Key, Limits, Piece, Upper};
use std::hint::black_box;

criterion_group!(benches, whole, flood);

const LATER: [Piece; 2] = [
    Piece {
        offset: 1480,
        len: 1480,
        more: true,
    },
    Piece {
        offset: 2960,
        len: 100,
        more: false,
    },
];

/// Datagrams of three fragments, the first one first, and last.
fn whole(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("fragments/whole");
    group.throughput(Throughput::Elements(3));
    for (name, first_comes_first) in [("in order", true), ("first last", false)] {
        let mut table: Fragments<u32> = Fragments::new(Limits::default(), [1, 2]);
        let mut id = 0u16;
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                id = id.wrapping_add(1);
                let key = Key::v4(1, 2, 17, id, 3);
                let back = |token, what| {
                    let _ = black_box((token, what));
                };
                if first_comes_first {
                    table.first(Tick(0), &key, 1480, Upper::default(), back);
                }
                for piece in LATER {
                    black_box(table.later(Tick(0), &key, piece, || 7, back));
                }
                if !first_comes_first {
                    table.first(Tick(0), &key, 1480, Upper::default(), back);
                }
            });
        });
    }
}

/// Fragments each of another datagram, from one endpoint that has its share of the table already, and from as many as fill it.
fn flood(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("fragments/flood");
    group.throughput(Throughput::Elements(1));
    for (name, origins) in [("one endpoint", 1), ("64 endpoints", 64)] {
        let mut table: Fragments<u32> = Fragments::new(Limits::default(), [1, 2]);
        let mut id = 0u32;
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                id = id.wrapping_add(1);
                let key = Key::v6(1, 2, id, (id % origins) as u16);
                let back = |token, what| {
                    let _ = black_box((token, what));
                };
                let now = Tick(u64::from(id));
                table.expire(now, back);
                black_box(table.later(now, &key, LATER[0], || 7, back))
            });
        });
    }
}
