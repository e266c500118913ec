//! Route lookup against DPDK's `rte_fib` and `rte_lpm` and the `prefix-trie` crate.
//!
//! `cargo bench -p benches --bench lpm [-- [--rounds N] [--only TABLE] [--no-dpdk]]`

mod changes;
mod family;
mod lookups;

use benches::alloc::Counting;
use benches::rounds::Result;
use benches::routes;
use benches::setup::Setup;

use crate::family::{V4, V6};

#[global_allocator]
static ALLOC: Counting = Counting;

/// The tables that `--only` can name.
const TABLES: [&str; 4] = ["calico1k", "bgp1m", "calico1k6", "bgp200k6"];

fn main() -> Result<()> {
    let setup = Setup::from_args("lpm", "rte_fib and rte_lpm", &TABLES)?;
    let (peers4, peers6) = (["fib4", "fib4-huge", "lpm4"], ["fib6", "fib6-huge"]);
    lookups::run::<V4>(&setup, "calico1k", &routes::calico1k(), &peers4)?;
    lookups::run::<V4>(&setup, "bgp1m", &routes::bgp1m(), &peers4)?;
    lookups::run::<V6>(&setup, "calico1k6", &routes::calico1k6(), &peers6)?;
    lookups::run::<V6>(&setup, "bgp200k6", &routes::bgp200k6(), &peers6)
}
