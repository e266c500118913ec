//! Writes the seeds of every target to `DIR/<target>/`, for the fuzzer to begin with.
//!
//! `cargo run -p pcap-tests --example fuzz_seeds -- fuzz/corpus`

use std::error::Error;
use std::fs;
use std::path::PathBuf;

use pcap_tests::fuzz::TARGETS;

fn main() -> Result<(), Box<dyn Error>> {
    let dir = std::env::args_os().nth(1).map(PathBuf::from);
    let dir = dir.ok_or("which directory?")?;
    for target in TARGETS {
        let dir = dir.join(target.name);
        fs::create_dir_all(&dir)?;
        for (index, seed) in (target.seeds)().iter().enumerate() {
            fs::write(dir.join(format!("seed-{index}")), seed)?;
        }
    }
    Ok(())
}
