//! The flow table against DPDK's lock-free `rte_hash` and hashbrown.
//!
//! `cargo bench -p benches --bench flow [-- [--rounds N] [--only SIZE] [--no-dpdk]]`

mod churn;
mod lookups;
mod threads;
mod workload;

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use benches::rounds::Result;
use benches::{cpu, peer};

/// What the command line asks for, and where things are.
struct Setup {
    rounds: usize,
    only: Option<String>,
    core: usize,
    /// A directory for the files that the peer reads.
    scratch: PathBuf,
    /// The program with DPDK's table, if it could be made.
    dpdk: Option<PathBuf>,
}

impl Drop for Setup {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.scratch);
    }
}

/// The numbers of entries that `--only` can name; two are a connection.
const SIZES: [(&str, usize); 4] = [
    ("1k", 1_000),
    ("100k", 100_000),
    ("1m", 1_000_000),
    ("4m", 4_000_000),
];

fn main() -> Result<()> {
    with_huge_pages()?;
    let setup = setup()?;
    for (name, entries) in SIZES {
        if setup.only.as_ref().is_some_and(|only| only != name) {
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

fn setup() -> Result<Setup> {
    let (mut rounds, mut only, mut dpdk) = (9, None::<String>, true);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--rounds" => rounds = args.next().ok_or("--rounds needs a number")?.parse()?,
            "--only" => only = Some(args.next().ok_or("--only needs a size")?),
            "--no-dpdk" => dpdk = false,
            // Cargo's own.
            "--bench" => {}
            _ => {
                return Err(format!(
                    "what is {arg}? --rounds N, --only SIZE and --no-dpdk are known"
                )
                .into());
            }
        }
    }
    if let Some(name) = only
        .as_deref()
        .filter(|name| SIZES.iter().all(|size| size.0 != *name))
    {
        return Err(format!(
            "there is no size {name}: {}",
            SIZES.map(|it| it.0).join(", ")
        )
        .into());
    }
    if rounds < 5 {
        return Err("fewer than 5 rounds say nothing".into());
    }
    let scratch =
        PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("flow-{}", std::process::id()));
    std::fs::create_dir_all(&scratch)?;
    let core = cpu::pin_to_last_core()?;
    let dpdk = if dpdk {
        peer::compile("flow", &scratch)
            .inspect_err(|why| eprintln!("!!! WITHOUT DPDK's rte_hash: {why}"))
            .ok()
    } else {
        eprintln!("!!! WITHOUT DPDK's rte_hash: --no-dpdk");
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
