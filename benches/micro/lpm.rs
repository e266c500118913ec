//! Route lookups and changes.

use benches::routes::{Route, Spread, addresses, bgp1m, calico1k, calico1k6};
use criterion::{Criterion, Throughput, criterion_group};
use flowtable::lpm::{NextHopId, Prefix4, Prefix6, Rib4, Rib6};
use std::hint::black_box;

const LOOKUPS: usize = 1 << 16;

criterion_group!(benches, lookup4, lookup6, change4);

fn rib4(routes: &[Route<u32>]) -> Rib4 {
    let routes: Vec<_> = routes
        .iter()
        .map(|&(addr, len, hop)| {
            (
                Prefix4::new(addr, len).unwrap(),
                NextHopId::new(hop).unwrap(),
            )
        })
        .collect();
    Rib4::from_routes(&routes).unwrap()
}

fn lookup4(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("lookup/lpm4");
    group.throughput(Throughput::Elements(LOOKUPS as u64));
    for (name, routes) in [("calico1k", calico1k()), ("bgp1m", bgp1m())] {
        let lpm = rib4(&routes).snapshot();
        for spread in Spread::ALL {
            let addrs = addresses(&routes, spread, LOOKUPS);
            let mut out = vec![NextHopId::NONE; LOOKUPS];
            group.bench_function(format!("{name}/{}/batch", spread.name()), |bencher| {
                bencher.iter(|| lpm.lookup_batch(black_box(&addrs), black_box(&mut out)));
            });
        }
    }
}

fn lookup6(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("lookup/lpm6");
    group.throughput(Throughput::Elements(LOOKUPS as u64));
    let routes = calico1k6();
    let pairs: Vec<_> = routes
        .iter()
        .map(|&(addr, len, hop)| {
            (
                Prefix6::new(addr, len).unwrap(),
                NextHopId::new(hop).unwrap(),
            )
        })
        .collect();
    let lpm = Rib6::from_routes(&pairs).unwrap().snapshot();
    for spread in Spread::ALL {
        let addrs = addresses(&routes, spread, LOOKUPS);
        let mut out = vec![NextHopId::NONE; LOOKUPS];
        group.bench_function(format!("calico1k6/{}/batch", spread.name()), |bencher| {
            bencher.iter(|| lpm.lookup_batch(black_box(&addrs), black_box(&mut out)));
        });
    }
}

fn change4(criterion: &mut Criterion) {
    let mut rib = rib4(&bgp1m());
    let host = Prefix4::host(0x0a00_0001);
    criterion.bench_function("change/lpm4/bgp1m/published", |bencher| {
        let mut held = rib.snapshot();
        bencher.iter(|| {
            let _ = black_box(rib.insert(host, NextHopId::MAX));
            held = rib.snapshot();
            black_box(rib.remove(host));
            held = rib.snapshot();
        });
        black_box(&held);
    });
}
