//! Route lookup against DPDK's `rte_fib` and `rte_lpm` and the `prefix-trie` crate.
//!
//! `cargo bench -p benches --bench lpm [-- [--rounds N] [--only TABLE] [--no-dpdk]]`

mod changes;
mod family;
mod lookups;

use std::path::PathBuf;

use benches::alloc::Counting;
use benches::rounds::Result;
use benches::{cpu, peer, routes};

use crate::family::{V4, V6};

#[global_allocator]
static ALLOC: Counting = Counting;

/// What the command line asks for, and where things are.
struct Setup {
    rounds: usize,
    only: Option<String>,
    core: usize,
    /// A directory for the files that peers read.
    scratch: PathBuf,
    /// The program with DPDK's tables, if it could be made.
    dpdk: Option<PathBuf>,
}

impl Drop for Setup {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.scratch);
    }
}

/// The tables that `--only` can name.
const TABLES: [&str; 4] = ["calico1k", "bgp1m", "calico1k6", "bgp200k6"];

fn main() -> Result<()> {
    let setup = setup()?;
    let (peers4, peers6) = (["fib4", "fib4-huge", "lpm4"], ["fib6", "fib6-huge"]);
    lookups::run::<V4>(&setup, "calico1k", &routes::calico1k(), &peers4)?;
    lookups::run::<V4>(&setup, "bgp1m", &routes::bgp1m(), &peers4)?;
    lookups::run::<V6>(&setup, "calico1k6", &routes::calico1k6(), &peers6)?;
    lookups::run::<V6>(&setup, "bgp200k6", &routes::bgp200k6(), &peers6)
}

fn setup() -> Result<Setup> {
    let (mut rounds, mut only, mut dpdk) = (9, None::<String>, true);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--rounds" => rounds = args.next().ok_or("--rounds needs a number")?.parse()?,
            "--only" => only = Some(args.next().ok_or("--only needs a table's name")?),
            "--no-dpdk" => dpdk = false,
            // Cargo's own.
            "--bench" => {}
            _ => {
                return Err(format!(
                    "what is {arg}? --rounds N, --only TABLE and --no-dpdk are known"
                )
                .into());
            }
        }
    }
    if let Some(name) = only.as_deref().filter(|name| !TABLES.contains(name)) {
        return Err(format!("there is no table {name}: {}", TABLES.join(", ")).into());
    }
    if rounds < 5 {
        return Err("fewer than 5 rounds say nothing".into());
    }
    let scratch =
        PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("lpm-{}", std::process::id()));
    std::fs::create_dir_all(&scratch)?;
    let core = cpu::pin_to_last_core()?;
    let dpdk = if dpdk {
        peer::compile("lpm", &scratch)
            .inspect_err(|why| eprintln!("!!! WITHOUT DPDK's rte_fib and rte_lpm: {why}"))
            .ok()
    } else {
        eprintln!("!!! WITHOUT DPDK's rte_fib and rte_lpm: --no-dpdk");
        None
    };
    println!(
        "{rounds} rounds in turn on core {core}, thread CPU time; of two passes a turn the second counts.\n"
    );
    Ok(Setup {
        rounds,
        only,
        core,
        scratch,
        dpdk,
    })
}
