//! What policy costs in the pipeline: packets of established connections and first packets of new ones, by the rules that the
//! pods have; and packets of what is denied.
//!
//! `cargo bench -p benches --bench policy [-- [--rounds N]]`

use std::time::Duration;

use benches::alloc::{self, Counting};
use benches::cpu;
use benches::ours::Ours;
use benches::policies::with_rules;
use benches::rounds::{Contender, Result, Series, interleave};
use benches::scenario::{Chain, Scenario, no_connections};
use benches::table::Table;
use fastpath::batch::BATCH;
use fastpath::policy::Policies;
use flowtable::acl::Action;

#[global_allocator]
static ALLOC: Counting = Counting;

/// Connections that are established.
const FLOWS: usize = 1 << 14;
/// Connections that begin in a pass.
const NEW: usize = 1 << 18;
/// Packets of a pass over established connections.
const PACKETS: usize = 1 << 18;
/// Frames in use.
const FRAMES: usize = 512;
/// Rules of each pod and direction.
const RULES: [usize; 4] = [0, 100, 1_000, 11_000];

fn main() -> Result<()> {
    let mut rounds = 9;
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--rounds" => rounds = args.next().ok_or("--rounds needs a number")?.parse()?,
            // Cargo's own.
            "--bench" => {}
            _ => return Err(format!("what is {arg}? --rounds N is known").into()),
        }
    }
    let core = cpu::pin_to_last_core()?;
    println!(
        "{rounds} rounds in turn on core {core}, thread CPU time, {FRAMES} frames, batches of {BATCH}.\n"
    );
    let policies: Vec<_> = RULES
        .iter()
        .map(|&count| (count, with_rules(count, Action::Allow)))
        .collect();
    println!("## Packets of {FLOWS} established connections\n");
    for chain in [
        Chain::State4,
        Chain::Snat4,
        Chain::StateVxlan4,
        Chain::SnatVxlan4,
    ] {
        println!("{}", established(rounds, chain, &policies)?);
    }
    println!("## First packets of {NEW} connections\n");
    for chain in [
        Chain::State4,
        Chain::State4Tcp,
        Chain::Snat4,
        // Nothing that goes into a tunnel is masqueraded.
        Chain::StateVxlan4,
    ] {
        println!("{}", new(rounds, chain, &policies)?);
    }
    println!("## Packets that are denied\n");
    println!("{}", denied(rounds)?);
    Ok(())
}

/// Packets of established connections, of pods with few rules and with many.
fn established(rounds: usize, chain: Chain, policies: &[(usize, Policies)]) -> Result<Table> {
    let scenarios: Vec<_> = policies
        .iter()
        .map(|(rules, policies)| (name(*rules), Scenario::under(policies, chain, FLOWS)))
        .collect();
    let mut contenders: Vec<_> = scenarios
        .iter()
        .map(|(name, scenario)| {
            let mut ours = Ours::new(scenario, FRAMES, (BATCH, 1));
            Contender::new(name.clone(), move || {
                let (took, sent) = pass(&mut ours, scenario, PACKETS)?;
                expect(sent, PACKETS, "sent")?;
                Ok(took)
            })
        })
        .collect();
    let all = interleave(rounds, PACKETS, &mut contenders)?;
    Ok(table(chain.name(), &all))
}

/// First packets, each of a connection in a table that was empty before the pass.
fn new(rounds: usize, chain: Chain, policies: &[(usize, Policies)]) -> Result<Table> {
    let scenarios: Vec<_> = policies
        .iter()
        .map(|(rules, policies)| {
            let scenario = Scenario::beginning(chain, NEW).judged_by(policies);
            (name(*rules), scenario)
        })
        .collect();
    let mut contenders: Vec<_> = scenarios
        .iter()
        .map(|(name, scenario)| {
            Contender::new(name.clone(), move || {
                let connections = Some(no_connections(chain, NEW));
                let mut ours = Ours::with_connections(scenario, connections, FRAMES, (BATCH, 1));
                let (took, _) = pass(&mut ours, scenario, NEW)?;
                expect(ours.counters().connections_made.get() as usize, NEW, "made")?;
                Ok(took)
            })
        })
        .collect();
    let all = interleave(rounds, NEW, &mut contenders)?;
    Ok(table(chain.name(), &all))
}

/// Denied packets again and again, beside allowed ones; and denied for the first time, beside allowed for the first time.
fn denied(rounds: usize) -> Result<Table> {
    let allowing = with_rules(1_000, Action::Allow);
    let denying = with_rules(1_000, Action::Deny);
    let allowed = Scenario::under(&allowing, Chain::State4, FLOWS);
    let mut refused = Scenario::beginning(Chain::State4, FLOWS).judged_by(&denying);
    refused.connections = Some(no_connections(Chain::State4, 2 * FLOWS));
    let [first_allowed, first_refused] = [&allowing, &denying]
        .map(|policies| Scenario::beginning(Chain::State4, NEW).judged_by(policies));
    let mut passing = Ours::new(&allowed, FRAMES, (BATCH, 1));
    let mut refusing = Ours::new(&refused, FRAMES, (BATCH, 1));
    let fresh = |scenario| {
        let connections = Some(no_connections(Chain::State4, 2 * NEW));
        Ours::with_connections(scenario, connections, FRAMES, (BATCH, 1))
    };
    let mut contenders = [
        Contender::new("allowed, known", || {
            let (took, sent) = pass(&mut passing, &allowed, NEW)?;
            expect(sent, NEW, "sent")?;
            Ok(took)
        }),
        Contender::new("denied, known", || {
            let (took, sent) = pass(&mut refusing, &refused, NEW)?;
            expect(sent, 0, "sent")?;
            Ok(took)
        }),
        Contender::new("allowed, new", || {
            let (took, sent) = pass(&mut fresh(&first_allowed), &first_allowed, NEW)?;
            expect(sent, NEW, "sent")?;
            Ok(took)
        }),
        Contender::new("denied, new", || {
            let (took, sent) = pass(&mut fresh(&first_refused), &first_refused, NEW)?;
            expect(sent, 0, "sent")?;
            Ok(took)
        }),
    ];
    let all = interleave(rounds, NEW, &mut contenders)?;
    Ok(table("state4, 1000 rules", &all))
}

/// Takes `packets` packets through; how long the pipeline and receiving took, and how many were sent.
fn pass(ours: &mut Ours, scenario: &Scenario, packets: usize) -> Result<(Duration, usize)> {
    let (mut took, mut sent, mut allocations) = (Duration::ZERO, 0, 0);
    for first in (0..packets).step_by(FRAMES) {
        ours.put(scenario, first);
        let ((), footprint) = alloc::measure(|| took += cpu::time(|| ours.run(scenario)).1);
        allocations += footprint.allocations;
        sent += ours.take_back();
    }
    expect(allocations, 0, "allocations")?;
    Ok((took, sent))
}

fn expect(count: usize, expected: usize, what: &str) -> Result<()> {
    if count == expected {
        Ok(())
    } else {
        Err(format!("{count} {what}, not {expected}").into())
    }
}

fn name(rules: usize) -> String {
    match rules {
        0 => "one rule".to_owned(),
        _ => format!("{rules} rules"),
    }
}

/// Nanoseconds, millions a second, and the ratio to the first.
fn table(name: &str, all: &[Series]) -> Table {
    let mut table = Table::new(&[
        name,
        "ns, best",
        "ns, median",
        "M/s, median",
        "to the first, best",
        "to the first, median",
    ]);
    for it in all {
        let (best, median) = (it.best(), it.median());
        let ratio = it.ratio_to(&all[0]);
        let mut row = vec![it.name.clone()];
        let figures = [best, median, 1000.0 / median, ratio.0, ratio.1];
        row.extend(figures.map(|figure| format!("{figure:.2}")));
        table.row(row);
    }
    table
}
