//! `caracal perf`: where a packet's time goes, stage by stage.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::table::{Align, Table};
use super::{Cli, Exit, Output, ask, output};
use crate::api::report::{Perf, PollerPerf, StagePerf};
use crate::api::{Client, ClientError, MAX_MEASURED, Method, PerfParams};
use crate::config::decode::parse_duration;
use crate::words::{counted, number};

/// The daemon is asked again this often: it measures on for a while only.
const EVERY: Duration = Duration::from_secs(1);
/// The shortest and the longest measuring.
const SHORTEST: Duration = Duration::from_millis(10);
const LONGEST: Duration = Duration::from_hours(1);

/// Arguments of `caracal perf`.
#[derive(Debug, clap::Args)]
#[command(after_help = MEANING)]
pub struct Args {
    /// How long to measure: `500ms`, `2s`, `1m`.
    #[arg(long = "for", value_name = "TIME", default_value = "1s", value_parser = time)]
    lasts: Duration,
    /// Only the poller on this core.
    #[arg(long, value_name = "N")]
    core: Option<u16>,
}

const MEANING: &str = "\
CALLS are batches, PACKETS what a stage had before it, NS/PKT what it took for each of them, and % its part of the rounds with packets.
Packets are in more than one batch if they waited, and what the dataplane makes itself is in some stages.
Pollers measure only meanwhile, and are slower for it: each stage reads the clock twice, which is taken off from what is shown.";

/// What was measured.
#[derive(Debug, Serialize)]
struct Report {
    /// How long.
    seconds: f64,
    pollers: Vec<PollerPerf>,
}

pub(super) fn run(args: &Args, cli: &Cli) -> Exit {
    let mut client = match ask::connect(cli) {
        Ok(client) => client,
        Err(exit) => return exit,
    };
    let report = match measure(&mut client, args.lasts) {
        Ok(perf) => report(perf, args.core),
        Err(error) => return ask::complain(&error),
    };
    match report {
        Ok(report) => {
            let text = match cli.output {
                Output::Json => ask::to_json("caracal.perf/v1", &report),
                Output::Table | Output::Wide => render(&report),
            };
            output::print(&text, Exit::Ok)
        }
        Err(cores) => {
            output::complain(&format!("there is no poller on that core: {cores}"));
            Exit::Failure
        }
    }
}

/// Has pollers measure for a while; what they counted then.
fn measure(client: &mut Client, lasts: Duration) -> Result<Perf, ClientError> {
    let end = Instant::now() + lasts;
    let mut ask = |lasts: Duration| -> Result<Perf, ClientError> {
        // A bit of a millisecond is one, so that something is left to measure.
        let milliseconds = lasts.min(MAX_MEASURED).as_micros().div_ceil(1000) as u64;
        client.call(Method::Perf(PerfParams { milliseconds }))
    };
    let before = ask(lasts)?;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        std::thread::sleep(left.min(EVERY));
        let left = end.saturating_duration_since(Instant::now());
        let now = ask(left)?;
        if left.is_zero() {
            return Ok(now.since(&before));
        }
    }
}

/// What is shown; else which cores there are.
fn report(perf: Perf, core: Option<u16>) -> Result<Report, String> {
    let seconds = perf.nanoseconds as f64 / 1e9;
    let cores: Vec<_> = perf.pollers.iter().filter_map(|it| it.core).collect();
    let mut pollers = perf.pollers;
    if core.is_some() {
        pollers.retain(|poller| poller.core == core);
    }
    if !pollers.is_empty() {
        return Ok(Report { seconds, pollers });
    }
    let cores: Vec<_> = cores.iter().map(u16::to_string).collect();
    Err(if cores.is_empty() {
        "`pollers.cores` in caracal.yaml names none, and pollers run on any".to_owned()
    } else {
        format!("they are on {}", cores.join(", "))
    })
}

fn render(report: &Report) -> String {
    use Align::{Left, Right};
    let stages = summed(&report.pollers);
    let busy: u64 = stages.iter().map(|stage| stage.nanoseconds).sum();
    let empty: u64 = report.pollers.iter().map(|it| it.empty_nanoseconds).sum();
    let all = report.seconds * 1e9 * report.pollers.len() as f64;
    let rest = all - busy as f64 - empty as f64;
    let mut out = format!(
        "{:.2} s of {}: {} % in rounds with packets, {} % in rounds without, {} % asleep and measuring\n\n",
        report.seconds,
        pollers(&report.pollers),
        percent(busy as f64, all),
        percent(empty as f64, all),
        percent(rest.max(0.0), all),
    );
    let mut table = Table::new(&[
        ("STAGE", Left),
        ("CALLS", Right),
        ("PACKETS", Right),
        ("PKTS/CALL", Right),
        ("NS/PKT", Right),
        ("%", Right),
    ]);
    for stage in &stages {
        table.push(&[
            stage.stage.clone(),
            number(stage.calls),
            number(stage.packets),
            per(stage.packets, stage.calls),
            per(stage.nanoseconds, stage.packets),
            percent(stage.nanoseconds as f64, busy as f64),
        ]);
    }
    let received = stages.first().map_or(0, |recv| recv.packets);
    table.push(&[
        "all".to_owned(),
        String::new(),
        number(received),
        String::new(),
        per(busy, received),
        percent(busy as f64, busy as f64),
    ]);
    let _ = write!(out, "{table}");
    let clock = report.pollers.iter().map(|it| it.clock_nanoseconds).max();
    let clock = clock.unwrap_or_default();
    let _ = writeln!(
        out,
        "\nReading the clock takes {clock} ns, which are taken off."
    );
    out
}

/// All pollers' stages together.
fn summed(pollers: &[PollerPerf]) -> Vec<StagePerf> {
    let mut sums: Vec<StagePerf> = Vec::new();
    for stage in pollers.iter().flat_map(|poller| &poller.stages) {
        match sums.iter_mut().find(|sum| sum.stage == stage.stage) {
            Some(sum) => {
                sum.calls += stage.calls;
                sum.packets += stage.packets;
                sum.nanoseconds += stage.nanoseconds;
            }
            None => sums.push(stage.clone()),
        }
    }
    sums
}

/// Which pollers these are.
fn pollers(pollers: &[PollerPerf]) -> String {
    match pollers {
        [
            PollerPerf {
                core: Some(core), ..
            },
        ] => format!("the poller on core {core}"),
        _ => counted(pollers.len() as u64, "poller"),
    }
}

/// With one digit after the point; of nothing it is not known.
fn per(sum: u64, count: u64) -> String {
    if sum == 0 || count == 0 {
        return "-".to_owned();
    }
    format!("{:.1}", sum as f64 / count as f64)
}

fn percent(part: f64, whole: f64) -> String {
    if whole <= 0.0 {
        return "-".to_owned();
    }
    format!("{:.1}", part * 100.0 / whole)
}

/// How long to measure.
fn time(text: &str) -> Result<Duration, String> {
    let time = parse_duration(text).ok_or("a time is written as 500ms, 2s, 1m")?;
    if !(SHORTEST..=LONGEST).contains(&time) {
        return Err("from 10ms to 1h".to_owned());
    }
    Ok(time)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::golden;

    fn answers() -> [Perf; 2] {
        let text = include_str!("../../tests/golden/perf.json");
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn stages_in_the_order_of_the_walk() {
        let [before, now] = answers();
        let all = report(now.clone().since(&before), None).unwrap();
        let one = report(now.since(&before), Some(3)).unwrap();
        let none = report(before.clone().since(&before), None).unwrap();
        let all = [all, one, none].map(|report| render(&report));
        golden::check("perf.txt", &all.join("\n"));
    }

    #[test]
    fn a_core_without_a_poller_is_told_which_have_one() {
        let [_, mut now] = answers();
        assert_eq!(
            report(now.clone(), Some(7)).unwrap_err(),
            "they are on 2, 3"
        );
        for poller in &mut now.pollers {
            poller.core = None;
        }
        let said = report(now, Some(7)).unwrap_err();
        assert!(said.contains("pollers.cores"), "{said}");
    }

    #[test]
    fn what_was_counted_before_does_not_count() {
        let [before, now] = answers();
        let lap = |perf: &Perf| perf.pollers[0].stages[0].clone();
        let (first, last) = (lap(&before), lap(&now));
        let since = now.since(&before);
        assert_eq!(lap(&since).packets, last.packets - first.packets);
        assert_eq!(
            lap(&since).nanoseconds,
            last.nanoseconds - first.nanoseconds
        );
        // Of another daemon.
        assert_eq!(lap(&before.since(&since)).calls, 0);
    }

    #[test]
    fn times_have_bounds() {
        assert_eq!(time("2s"), Ok(Duration::from_secs(2)));
        assert_eq!(time("10ms"), Ok(SHORTEST));
        for bad in ["", "2", "-1s", "0s", "9ms", "61m", "1y"] {
            assert!(time(bad).is_err(), "{bad}");
        }
    }
}
