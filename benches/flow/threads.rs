//! Two threads on one table against two threads on a table each.

use std::sync::Barrier;
use std::time::Duration;

use benches::cpu;
use benches::rounds::{Contender, Result, interleave};
use benches::setup::Setup;
use benches::table::Table;
use flowtable::Tick;
use flowtable::flow::{FlowTable4, Key4, Keys};

use crate::workload::{Flows, Spread};
/// Keys that a thread looks up in a pass.
const LOOKUPS: usize = 1 << 20;

pub(crate) fn run(setup: &Setup, name: &str, flows: &Flows) -> Result<()> {
    let [shared, second] = [flows.table(), flows.table()];
    for spread in [Spread::Uniform, Spread::Zipf] {
        let keys = flows.lookups(spread, LOOKUPS);
        // Each direction of a connection has one poller: even places and odd ones.
        let halves = [0, 1].map(|thread| {
            let is_mine = |key: &&Key4| u8::from(key.src >> 24 != 10) == thread;
            let mine: Vec<_> = keys.iter().filter(is_mine).copied().collect();
            mine
        });
        let per_thread = halves[0].len().min(halves[1].len()) / 64 * 64;
        let halves = halves.each_ref().map(|half| &half[..per_thread]);
        for (does, counts) in [("looking up", false), ("counting too", true)] {
            let pair = |tables: [&FlowTable4; 2]| both(tables, halves, counts);
            let mut contenders = [
                Contender::new("one table", || pair([&shared, &shared])),
                Contender::new("a table each", || pair([&shared, &second])),
            ];
            let all = interleave(setup.rounds, per_thread * 2, &mut contenders)?;
            let title = format!("{name}, {}, two threads {does}", spread.name());
            println!("{}", Table::of_series(&title, "ns", &all));
        }
    }
    Ok(())
}

/// Two threads look up at once, each its keys in its table; the time that both ran together.
fn both(tables: [&FlowTable4; 2], keys: [&[Key4]; 2], counts: bool) -> Result<Duration> {
    let start = Barrier::new(2);
    std::thread::scope(|scope| {
        let threads = [0, 1].map(|thread| {
            let (table, keys, start) = (tables[thread], keys[thread], &start);
            scope.spawn(move || {
                cpu::pin_to(thread)?;
                start.wait();
                let ((), time) = cpu::time(|| {
                    for keys in keys.chunks_exact(64) {
                        let mut sum = 0;
                        table.lookup_batch(&mut Keys::from(keys), |hit| {
                            if counts {
                                hit.entry.touch(Tick(1 << 40), 64);
                            }
                            sum += u64::from(hit.action().rule);
                        });
                        std::hint::black_box(sum);
                    }
                });
                Ok::<_, nix::Error>(time)
            })
        });
        let mut sum = Duration::ZERO;
        for thread in threads {
            sum += thread.join().map_err(|_| "a thread panicked")??;
        }
        Ok(sum)
    })
}
