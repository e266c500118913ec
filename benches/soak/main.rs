//! What a pod that sprays new connections costs another pod: one node, pod A that sprays, pod B that works.
//!
//! `cargo bench -p benches --bench soak [-- OPTIONS]`, as root, on two cores at least: the poller has the last one, the
//! generator, pod B and the outside share the first.
//!
//! Rounds of three turns: pod A does nothing; sends as fast as it can, all of one connection; sends as fast as it can, each packet of
//! another connection. Between the first two is what a busy neighbour costs, whatever it sends: a poller has one core, and takes
//! as many packets of each port in a round. Between the last two is what new connections cost beyond.

mod counters;
mod lab;
mod newcomers;
mod report;
mod spray;
mod transfer;

use std::time::{Duration, Instant};

use benches::cpu;
use benches::rounds::Result;
use fastpath::io::xsk::test_support::can_run;

use crate::counters::Sums;
use crate::lab::{Lab, Way};
use crate::newcomers::{Newcomers, Tally};
use crate::spray::{Load, Spray};
use crate::transfer::Transfer;

/// After a change of what pod A does, before it counts.
const SETTLE: Duration = Duration::from_millis(1500);

const USAGE: &str = "\
usage: cargo bench -p benches --bench soak [-- OPTIONS]
  --rounds N        rounds of three turns (default 5)
  --seconds N       how long a turn is (default 4)
  --mbit A,B        pod B's transfer in megabits a second, 0 as fast as TCP goes (default 100,0)
  --only NAME       only ways whose name contains NAME (udp, syn, vxlan)
  --setting LINE    one more line of caracal.yaml (may be repeated)";

/// What the command line asks for.
struct Options {
    rounds: usize,
    seconds: u64,
    megabits: Vec<u64>,
    only: Option<String>,
    settings: String,
}

/// One turn.
#[derive(Clone, Debug)]
struct Turn {
    /// Bytes a second that arrived of the transfer.
    rate: f64,
    tally: Tally,
    counted: Sums,
    seconds: f64,
}

fn main() -> Result<()> {
    let options = options()?;
    if !can_run("soak bench") {
        return Ok(());
    }
    let last = std::thread::available_parallelism()?.get() - 1;
    if last == 0 {
        return Err("two cores are needed: one for the poller, one for who sends".into());
    }
    cpu::pin_to(0)?;
    for way in Way::ALL {
        let name = way.name().to_lowercase();
        if options
            .only
            .as_ref()
            .is_some_and(|only| !name.contains(only.as_str()))
        {
            continue;
        }
        let mut lab = Lab::new(way, &options.settings, last)?;
        let generator = lab.generator.take().ok_or("a lab without a generator")?;
        let spray = Spray::start(generator, 0);
        let newcomers = Newcomers::start(&lab.b, &lab.outside)?;
        for &megabits in &options.megabits {
            let transfer = Transfer::start(&lab.b, &lab.outside, megabits)?;
            let mut turns = Load::ALL.map(|load| (load, Vec::new()));
            for round in 0..options.rounds {
                // Not always in the same order.
                for at in 0..turns.len() {
                    let (load, taken) = &mut turns[(round + at) % Load::ALL.len()];
                    spray.set(*load);
                    std::thread::sleep(SETTLE);
                    taken.push(turn(&lab, &transfer, &newcomers, options.seconds)?);
                    spray.set(Load::None);
                    lab.counters.forget_a()?;
                }
            }
            report::print(way, megabits, &turns);
        }
    }
    Ok(())
}

fn turn(lab: &Lab, transfer: &Transfer, newcomers: &Newcomers, seconds: u64) -> Result<Turn> {
    let before = lab.counters.now()?;
    newcomers.take();
    let (bytes, started) = (transfer.received(), Instant::now());
    std::thread::sleep(Duration::from_secs(seconds));
    let (bytes, took) = (transfer.received() - bytes, started.elapsed().as_secs_f64());
    let tally = newcomers.take();
    let counted = lab.counters.now()?.since(&before);
    Ok(Turn {
        rate: bytes as f64 / took,
        tally,
        counted,
        seconds: took,
    })
}

fn options() -> Result<Options> {
    let mut options = Options {
        rounds: 5,
        seconds: 4,
        megabits: vec![100, 0],
        only: None,
        settings: String::new(),
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        // Cargo's own.
        if arg == "--bench" {
            continue;
        }
        let mut value = || {
            args.next()
                .ok_or_else(|| format!("{arg} needs a value\n{USAGE}"))
        };
        match arg.as_str() {
            "--rounds" => options.rounds = value()?.parse()?,
            "--seconds" => options.seconds = value()?.parse()?,
            "--mbit" => {
                options.megabits = value()?
                    .split(',')
                    .map(str::parse)
                    .collect::<std::result::Result<_, _>>()?;
            }
            "--only" => options.only = Some(value()?.to_lowercase()),
            "--setting" => {
                options.settings += &value()?;
                options.settings.push('\n');
            }
            _ => return Err(format!("what is {arg}?\n{USAGE}").into()),
        }
    }
    Ok(options)
}
