//! The flow table against DPDK's lock-free `rte_hash` and hashbrown.
//!
//! `cargo bench -p benches --bench flow [-- [--rounds N] [--only SIZE] [--no-dpdk]]`

mod churn;
mod lookups;
mod threads;
mod workload;

use std::os::unix::process::CommandExt;
use std::process::Command;

use benches::rounds::Result;
use benches::setup::Setup;

/// The numbers of entries that `--only` can name; two are a connection.
const SIZES: [(&str, usize); 4] = [
    ("1k", 1_000),
    ("100k", 100_000),
    ("1m", 1_000_000),
    ("4m", 4_000_000),
];

fn main() -> Result<()> {
    with_huge_pages()?;
    let setup = Setup::from_args("flow", "rte_hash", &SIZES.map(|size| size.0))?;
    for (name, entries) in SIZES {
        if !setup.wants(name) {
            continue;
        }
        println!("## {name}: {entries} entries\n");
        let flows = workload::Flows::new(entries);
        lookups::run(&setup, name, &flows)?;
        threads::run(&setup, name, &flows)?;
    }
    Ok(())
}

/// Starts this program anew with huge pages for what it allocates, since the flow table and the peer in C
/// have them too.
fn with_huge_pages() -> Result<()> {
    const TUNABLES: &str = "GLIBC_TUNABLES";
    if std::env::var_os(TUNABLES).is_some() {
        return Ok(());
    }
    let mut again = Command::new(std::env::current_exe()?);
    again.args(std::env::args_os().skip(1));
    Err(again.env(TUNABLES, "glibc.malloc.hugetlb=1").exec().into())
}
