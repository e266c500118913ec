//! The whole path of a packet in memory, against the minimal loop that forwards at all.
//!
//! `cargo bench -p benches --bench pipeline [-- [--rounds N] [--only CHAIN] [--full | --profile]]`
//!
//! `--profile` times nothing and runs both at one row of each chain, for a profiler to look at.

mod established;
mod flows;
mod minimal;
mod verify;

use std::time::Duration;

use benches::alloc::{self, Counting};
use benches::cpu;
use benches::rounds::{Contender, Result, interleave};
use benches::scenario::{Chain, Scenario};
use benches::table::Table;

use crate::minimal::Minimal;
use benches::ours::Ours;

#[global_allocator]
static ALLOC: Counting = Counting;

/// Packets of a pass at least; a multiple of all numbers of frames.
const PACKETS: usize = 1 << 18;

/// The last number with connections only.
const FLOWS: [usize; 4] = [1 << 10, 1 << 14, 1 << 18, 1 << 20];
const FRAMES: [usize; 3] = [512, 4096, 65_536];
/// Packets that are received together, and by how many ports.
const BATCHES: [(usize, usize); 4] = [(1, 1), (32, 1), (64, 1), (64, 4)];

/// Flows, frames in use, batch and ports of a row.
type Point = (usize, usize, (usize, usize));

/// What the command line asks for.
struct Setup {
    rounds: usize,
    only: Option<String>,
    quick: bool,
    full: bool,
    profile: bool,
}

fn main() -> Result<()> {
    let setup = setup()?;
    for chain in Chain::ALL {
        if setup.only.as_ref().is_none_or(|only| only == chain.name()) {
            if setup.profile {
                profile(&setup, chain);
            } else {
                run(&setup, chain)?;
            }
        }
    }
    Ok(())
}

/// Runs the pipeline and the minimal loop over the same few frames, each packet once, untimed.
fn profile(setup: &Setup, chain: Chain) {
    let scenario = Scenario::new(chain, 1 << 14);
    let mut ours = Ours::new(&scenario, 512, (64, 1));
    let mut minimal = Minimal::new(&scenario, 512);
    for round in 0..setup.rounds * 100 {
        ours.put(&scenario, round * 512);
        ours.run(&scenario);
        ours.take_back();
        minimal.put(&scenario, round * 512);
        minimal.run(&scenario, 64);
        std::hint::black_box(&mut minimal.sent);
    }
}

fn setup() -> Result<Setup> {
    let mut setup = Setup {
        rounds: 9,
        only: None,
        quick: false,
        full: false,
        profile: false,
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--rounds" => setup.rounds = args.next().ok_or("--rounds needs a number")?.parse()?,
            "--only" => setup.only = Some(args.next().ok_or("--only needs a chain's name")?),
            "--quick" => setup.quick = true,
            "--full" => setup.full = true,
            "--profile" => setup.profile = true,
            // Cargo's own.
            "--bench" => {}
            _ => {
                let known = "--rounds N, --only CHAIN, --quick, --full and --profile are known";
                return Err(format!("what is {arg}? {known}").into());
            }
        }
    }
    if setup.rounds < 5 {
        return Err("fewer than 5 rounds say nothing".into());
    }
    let core = cpu::pin_to_last_core()?;
    println!(
        "{} rounds in turn on core {core}, thread CPU time, ns a packet; one round warms up.\n",
        setup.rounds
    );
    Ok(setup)
}

/// All rows of one chain.
fn run(setup: &Setup, chain: Chain) -> Result<()> {
    let mut table = Table::new(&[
        chain.name(),
        "put",
        "ours, best",
        "ours, median",
        "minimal, best",
        "minimal, median",
        "ratio, best",
        "ratio, median",
        "allocations",
    ]);
    for flows in FLOWS {
        let points: Vec<_> = points(setup).filter(|point| point.0 == flows).collect();
        if points.is_empty() || (flows > PACKETS && !chain.is_stateful()) {
            continue;
        }
        let scenario = Scenario::new(chain, flows);
        verify::run(&scenario)?;
        for point in points {
            table.row(row(setup, &scenario, point)?);
        }
    }
    println!("{table}");
    Ok(())
}

/// One dimension at a time around 16 K flows, 512 frames and batches of 64; or all of them.
fn points(setup: &Setup) -> impl Iterator<Item = Point> {
    let base = (FLOWS[1], FRAMES[0], BATCHES[2]);
    let (full, quick) = (setup.full, setup.quick);
    let all = FLOWS.into_iter().flat_map(|flows| {
        FRAMES
            .into_iter()
            .flat_map(move |frames| BATCHES.map(|batch| (flows, frames, batch)))
    });
    all.filter(move |point| {
        let differs = [point.0 != base.0, point.1 != base.1, point.2 != base.2];
        full || differs.iter().filter(|&&it| it).count() <= usize::from(!quick)
    })
}

/// Runs the contenders of one row in turn.
fn row(setup: &Setup, scenario: &Scenario, point: Point) -> Result<Vec<String>> {
    let (flows, frames, (batch, ports)) = point;
    let mut ours = Ours::new(scenario, frames, (batch, ports));
    let mut minimal = Minimal::new(scenario, frames);
    let packets = PACKETS.max(flows);
    let firsts = || (0..packets).step_by(frames);
    let clock = Clock::new();
    let (mut allocations, mut put) = (0, Vec::new());
    let mut contenders = [
        Contender::new("ours", || {
            let (mut sent, mut took, mut put_took) = (0, Duration::ZERO, Duration::ZERO);
            let pass = || {
                for first in firsts() {
                    put_took += clock.time(|| ours.put(scenario, first));
                    took += clock.time(|| ours.run(scenario));
                    sent += ours.take_back();
                }
            };
            let ((), footprint) = alloc::measure(pass);
            allocations += footprint.allocations;
            put.push(put_took.as_nanos() as f64 / packets as f64);
            if sent == packets {
                Ok(took)
            } else {
                Err(format!("{sent} of {packets} packets were sent").into())
            }
        }),
        Contender::new("minimal", || {
            let mut took = Duration::ZERO;
            for first in firsts() {
                minimal.put(scenario, first);
                took += clock.time(|| minimal.run(scenario, batch));
                std::hint::black_box(&mut minimal.sent);
            }
            Ok(took)
        }),
    ];
    let all = interleave(setup.rounds, packets, &mut contenders)?;
    drop(contenders);
    if allocations != 0 {
        let all = packets * setup.rounds * 2;
        return Err(format!("{allocations} allocations in {all} packets").into());
    }
    let [own, peer] = &all[..] else {
        return Err("two contenders were run".into());
    };
    let (best, median) = own.ratio_to(peer);
    let mut cells = vec![format!(
        "{flows} flows, {frames} frames, batch {}",
        if ports > 1 {
            format!("{ports} x {batch}")
        } else {
            batch.to_string()
        }
    )];
    let put = put.into_iter().fold(f64::INFINITY, f64::min);
    let figures = [
        put,
        own.best(),
        own.median(),
        peer.best(),
        peer.median(),
        best,
        median,
    ];
    cells.extend(figures.map(|figure| format!("{figure:.2}")));
    cells.push(allocations.to_string());
    Ok(cells)
}

/// The thread's clock, whose own cost is taken off: some passes are not much longer.
struct Clock {
    cost: Duration,
}

impl Clock {
    fn new() -> Self {
        let mut costs: Vec<_> = (0..1001).map(|_| cpu::time(|| ()).1).collect();
        costs.sort_unstable();
        Self {
            cost: costs[costs.len() / 2],
        }
    }

    fn time(&self, work: impl FnOnce()) -> Duration {
        cpu::time(work).1.saturating_sub(self.cost)
    }
}
