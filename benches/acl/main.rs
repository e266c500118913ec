//! Policy classification against DPDK's `rte_acl`, and against other ways to do it.
//!
//! `cargo bench -p benches --bench acl [-- [--rounds N] [--only SET] [--no-dpdk]]`

mod calico;
mod compile;
mod five_tuple;
mod ip_sets;
mod tuple_space;

use std::path::PathBuf;

use benches::alloc::Counting;
use benches::rounds::Result;
use benches::{cpu, peer};

#[global_allocator]
static ALLOC: Counting = Counting;

/// What the command line asks for, and where things are.
struct Setup {
    rounds: usize,
    only: Option<String>,
    core: usize,
    /// A directory for the files that peers read.
    scratch: PathBuf,
    /// The program with DPDK's classifier, if it could be made.
    dpdk: Option<PathBuf>,
}

impl Setup {
    fn wants(&self, set: &str) -> bool {
        self.only.as_ref().is_none_or(|only| only == set)
    }
}

impl Drop for Setup {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.scratch);
    }
}

/// What `--only` can name.
const SETS: [&str; 6] = [
    "rules100", "rules1k", "rules10k", "calico", "compile", "ipsets",
];

fn main() -> Result<()> {
    let setup = setup()?;
    five_tuple::run(&setup, "rules100", 100)?;
    five_tuple::run(&setup, "rules1k", 1_000)?;
    five_tuple::run(&setup, "rules10k", 10_000)?;
    calico::run(&setup)?;
    compile::run(&setup)?;
    ip_sets::run(&setup)
}

fn setup() -> Result<Setup> {
    let (mut rounds, mut only, mut dpdk) = (9, None::<String>, true);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--rounds" => rounds = args.next().ok_or("--rounds needs a number")?.parse()?,
            "--only" => only = Some(args.next().ok_or("--only needs a set's name")?),
            "--no-dpdk" => dpdk = false,
            // Cargo's own.
            "--bench" => {}
            _ => {
                return Err(format!(
                    "what is {arg}? --rounds N, --only SET and --no-dpdk are known"
                )
                .into());
            }
        }
    }
    if let Some(name) = only.as_deref().filter(|name| !SETS.contains(name)) {
        return Err(format!("there is no set {name}: {}", SETS.join(", ")).into());
    }
    if rounds < 5 {
        return Err("fewer than 5 rounds say nothing".into());
    }
    let scratch =
        PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("acl-{}", std::process::id()));
    std::fs::create_dir_all(&scratch)?;
    let core = cpu::pin_to_last_core()?;
    let dpdk = if dpdk {
        peer::compile("acl", &scratch)
            .inspect_err(|why| eprintln!("!!! WITHOUT DPDK's rte_acl: {why}"))
            .ok()
    } else {
        eprintln!("!!! WITHOUT DPDK's rte_acl: --no-dpdk");
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
