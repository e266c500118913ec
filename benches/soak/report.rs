//! The tables.

use std::time::Duration;

use benches::rounds::Series;
use benches::table::Table;

use crate::Turn;
use crate::counters::Sums;
use crate::lab::Way;
use crate::newcomers::Tally;
use crate::spray::Load;

/// Prints one way and rate.
#[expect(clippy::print_stdout, reason = "the tables are the bench's result")]
pub(crate) fn print(way: Way, megabits: u64, turns: &[(Load, Vec<Turn>)]) {
    let asked = match megabits {
        0 => "no limit".to_owned(),
        megabits => format!("{megabits} Mbit/s"),
    };
    let title = format!("{}; B's transfer: {asked}; A sends", way.name());
    let mut table = Table::new(&[
        &title,
        "B: Mbit/s, middle",
        "to A silent",
        "to one connection",
        "B's new: tried",
        "came about",
        "at once",
        "ms, middle",
        "99 %",
        "A: kpps taken",
        "kpps lost at its ring",
        "kpps made connections",
        "kpps over its share",
        "kpps without room",
        "evicted",
        "lost at others' rings",
        "dropped of others",
    ]);
    let rate_of = |load| {
        let of = turns.iter().find(|(of, _)| *of == load);
        of.map(|(load, turns)| series(*load, turns))
    };
    let (silent, old) = (rate_of(Load::None), rate_of(Load::Old));
    for (load, turns) in turns {
        let rate = series(*load, turns);
        // Of bytes a second, not of the time that one takes.
        let to = |base: &Option<Series>| {
            base.as_ref()
                .map_or_else(String::new, |base| format!("{:.3}", rate.ratio_to(base).1))
        };
        let (mut tally, mut sums, mut seconds) = (Tally::default(), Sums::default(), 0.0);
        for turn in turns {
            tally.add(&turn.tally);
            sums.add(&turn.counted);
            seconds += turn.seconds;
        }
        tally.took.sort_unstable();
        let kpps = |count: u64| format!("{:.1}", count as f64 / seconds / 1000.0);
        let share = |count: u64| {
            format!(
                "{:.2} %",
                100.0 * count as f64 / tally.tried().max(1) as f64
            )
        };
        table.row(vec![
            load.name().to_owned(),
            format!("{:.1}", rate.median() * 8e-6),
            to(&silent),
            if *load == Load::New {
                to(&old)
            } else {
                String::new()
            },
            tally.tried().to_string(),
            share(tally.took.len() as u64),
            share(tally.prompt()),
            millis(tally.took.get(tally.took.len() / 2)),
            millis(tally.took.get(tally.took.len() * 99 / 100)),
            kpps(sums.a_rx),
            kpps(sums.a_lost),
            kpps(sums.made),
            kpps(sums.over_share),
            kpps(sums.no_room),
            sums.evicted.to_string(),
            sums.others_lost.to_string(),
            sums.others_dropped.to_string(),
        ]);
    }
    println!("{table}");
}

fn series(load: Load, turns: &[Turn]) -> Series {
    Series {
        name: load.name().to_owned(),
        rounds: turns.iter().map(|turn| turn.rate).collect(),
    }
}

fn millis(took: Option<&Duration>) -> String {
    took.map_or_else(String::new, |took| {
        format!("{:.2}", took.as_secs_f64() * 1000.0)
    })
}
