//! Policy classification against DPDK's `rte_acl`, and against other ways to do it.
//!
//! `cargo bench -p benches --bench acl [-- [--rounds N] [--only SET] [--no-dpdk]]`

mod calico;
mod compile;
mod five_tuple;
mod ip_sets;
mod tuple_space;

use benches::alloc::Counting;
use benches::rounds::Result;
use benches::setup::Setup;

#[global_allocator]
static ALLOC: Counting = Counting;

/// What `--only` can name.
const SETS: [&str; 6] = [
    "rules100", "rules1k", "rules10k", "calico", "compile", "ipsets",
];

fn main() -> Result<()> {
    let setup = Setup::from_args("acl", "rte_acl", &SETS)?;
    five_tuple::run(&setup, "rules100", 100)?;
    five_tuple::run(&setup, "rules1k", 1_000)?;
    five_tuple::run(&setup, "rules10k", 10_000)?;
    calico::run(&setup)?;
    compile::run(&setup)?;
    ip_sets::run(&setup)
}
