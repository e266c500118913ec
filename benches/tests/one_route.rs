//! One route's change costs what it touches, not the table: counted in bytes.
//!
//! One test, so that no other thread allocates beside it.

mod uplinks;

use benches::alloc::{self, Counting};
use fastpath::tables::{NextHop, Tables};

use crate::uplinks::{GATEWAYS, Gateways, compiler, gateway_mac, prefix, via};

#[global_allocator]
static ALLOC: Counting = Counting;

const ROUTES: u32 = 200_000;

#[test]
fn one_routes_change_does_not_rebuild_the_table() {
    let (mut compiler, whole) = alloc::measure(|| compiler(ROUTES));
    let before = compiler.tables(&Gateways);
    let changed = 12_345;
    let addr = 0x0a00_0001 + (changed << 8);
    let hop_of = |tables: &Tables| tables.fib4.lookup(addr);
    let old = hop_of(&before);
    let macs_of = |tables: &Tables| match tables.next_hop(hop_of(tables)) {
        NextHop::Send(adjacency) => Some(adjacency.rewrite.macs().dst),
        NextHop::Resolve(_) | NextHop::Drop(_) | NextHop::Group(_) => None,
    };

    let new = (changed as u8 + 1) % GATEWAYS;
    // `before` is held, as by a poller: what changes must be copied.
    let (after, change) = alloc::measure(|| {
        let hop = via(new);
        compiler
            .kernel_routes([(prefix(changed), Some(&hop))])
            .expect("a route fits");
        compiler.tables(&Gateways)
    });
    assert_eq!(macs_of(&after), Some(gateway_mac(new)));
    assert_eq!(hop_of(&before), old);
    assert!(
        change.peak_bytes < 1 << 19,
        "a change took {} bytes of {}",
        change.peak_bytes,
        whole.kept_bytes
    );
    assert!(whole.kept_bytes > 20 * change.peak_bytes);
}
