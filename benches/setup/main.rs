//! New connections: as many packets, each the first of one, in one pass through the production pipeline.
//!
//! `cargo bench -p benches --bench setup [-- [--rounds N] [--only CHAIN]]`

use benches::alloc::{self, Counting};
use benches::cpu;
use benches::ours::Ours;
use benches::rounds::{Contender, Result, interleave};
use benches::scenario::{Chain, Scenario, no_connections};
use benches::table::Table;
use fastpath::batch::BATCH;

#[global_allocator]
static ALLOC: Counting = Counting;

/// Connections of a pass: half of the entries of a table of a million are in use then.
const CONNECTIONS: usize = 1 << 18;
/// Frames in use.
const FRAMES: usize = 512;

const CHAINS: [Chain; 6] = [
    Chain::State4,
    Chain::State4Tcp,
    Chain::Snat4,
    Chain::Snat4Tcp,
    Chain::State6,
    Chain::Snat6,
];

fn main() -> Result<()> {
    let (mut rounds, mut only) = (5, None);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--rounds" => rounds = args.next().ok_or("--rounds needs a number")?.parse()?,
            "--only" => only = args.next(),
            // Cargo's own.
            "--bench" => {}
            _ => {
                return Err(format!("what is {arg}? --rounds N and --only CHAIN are known").into());
            }
        }
    }
    let core = cpu::pin_to_last_core()?;
    println!(
        "{rounds} rounds in turn on core {core}, thread CPU time, {CONNECTIONS} connections a pass.\n"
    );
    let chosen = CHAINS
        .into_iter()
        .filter(|chain| only.as_ref().is_none_or(|only| only == chain.name()));
    let scenarios: Vec<_> = chosen
        .map(|chain| Scenario::beginning(chain, CONNECTIONS))
        .collect();
    let mut contenders: Vec<_> = scenarios
        .iter()
        .map(|scenario| Contender::new(scenario.chain.name(), || pass(scenario)))
        .collect();
    let all = interleave(rounds, CONNECTIONS, &mut contenders)?;
    let mut table = Table::new(&[
        "new connections",
        "ns, best",
        "ns, median",
        "M/s, best",
        "M/s, median",
    ]);
    for it in all {
        let (best, median) = (it.best(), it.median());
        let figures = [best, median, 1000.0 / best, 1000.0 / median];
        let mut row = vec![it.name];
        row.extend(figures.map(|figure| format!("{figure:.2}")));
        table.row(row);
    }
    println!("{table}");
    Ok(())
}

/// Begins all connections in an empty table. The time that the pipeline takes, and receiving: not that of putting packets there.
fn pass(scenario: &Scenario) -> Result<std::time::Duration> {
    let connections = Some(no_connections(scenario.chain, CONNECTIONS));
    let mut ours = Ours::with_connections(scenario, connections, FRAMES, (BATCH, 1));
    let mut took = std::time::Duration::ZERO;
    let mut allocations = 0;
    for first in (0..CONNECTIONS).step_by(FRAMES) {
        ours.put(scenario, first);
        let ((), footprint) = alloc::measure(|| took += cpu::time(|| ours.run(scenario)).1);
        allocations += footprint.allocations;
        ours.take_back();
    }
    let made = ours.counters().connections_made.get();
    if made != CONNECTIONS as u64 {
        return Err(format!("{made} connections were made of {CONNECTIONS}").into());
    }
    if allocations > 0 {
        return Err(format!("{allocations} allocations").into());
    }
    Ok(took)
}
