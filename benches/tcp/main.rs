//! What two real stacks get out of the node between them: TCP's rate, and how long a datagram is on its way and back.
//!
//! `cargo bench -p benches --bench tcp [-- OPTIONS]`, as root. See `USAGE` for the options.
//!
//! A turn is [`Plan::seconds`] of one connection or of several at once, after half a second that does not count; nodes take turns, path by
//! path. Sender, node and receiver share the machine's processors as they like: the figure is what an application sees, and
//! only the ratio to the kernel in the same run says much.

mod lab;
mod nodes;
mod traffic;

use std::time::Duration;

use benches::rounds::{Result, Series};
use benches::table::Table;
use fastpath::io::xsk::test_support::can_run;

use crate::lab::{Lab, Path};
use crate::nodes::Node;

const USAGE: &str = "\
usage: cargo bench -p benches --bench tcp [-- OPTIONS]
  --rounds N     rounds that count (default 5)
  --seconds S    seconds a turn (default 1)
  --streams A,B  connections at once (default 1,4)
  --only NAME    only nodes whose name contains NAME (may be repeated); the kernel is always there";

/// How much to measure.
struct Plan {
    rounds: usize,
    seconds: Duration,
    streams: Vec<usize>,
}

fn main() -> Result<()> {
    let (plan, only) = options()?;
    if !can_run("tcp bench") {
        return Ok(());
    }
    let nodes: Vec<Node> = Node::ALL
        .into_iter()
        .filter(|node| {
            *node == Node::Kernel
                || only.is_empty()
                || only.iter().any(|part| node.name().contains(part.as_str()))
        })
        .collect();
    for path in Path::ALL {
        let labs = nodes
            .iter()
            .map(|&node| Lab::new(node, path))
            .collect::<Result<Vec<_>>>()?;
        for &streams in &plan.streams {
            let mut all = series(&nodes);
            for round in 0..=plan.rounds {
                for (lab, series) in labs.iter().zip(&mut all) {
                    let bytes = lab.transfer(streams, plan.seconds)?;
                    if round > 0 {
                        // Nanoseconds a byte: less is better, as in all series.
                        let nanos = plan.seconds.as_nanos() as f64;
                        series.rounds.push(nanos / bytes as f64);
                    }
                }
            }
            let title = format!("{}, {streams} at once", path.name());
            print(&title, "Gbit/s", &all, |nanos| 8.0 / nanos);
        }
        let mut all = series(&nodes);
        for round in 0..=plan.rounds {
            for (lab, series) in labs.iter().zip(&mut all) {
                let median = lab.round_trip()?;
                if round > 0 {
                    series.rounds.push(median.as_nanos() as f64);
                }
            }
        }
        let title = format!("{}, a datagram and its answer", path.name());
        print(&title, "us", &all, |nanos| nanos / 1000.0);
    }
    Ok(())
}

fn series(nodes: &[Node]) -> Vec<Series> {
    let empty = |node: &Node| Series {
        name: node.name().to_owned(),
        rounds: Vec::new(),
    };
    nodes.iter().map(empty).collect()
}

#[expect(clippy::print_stdout, reason = "the tables are the bench's result")]
fn print(title: &str, unit: &str, all: &[Series], shown: impl Fn(f64) -> f64) {
    let Some(first) = all.first() else { return };
    let mut table = Table::new(&[
        title,
        &format!("{unit}, best"),
        "median",
        "times as good as the kernel, best",
        "median",
    ]);
    for series in all {
        let (best, median) = first.ratio_to(series);
        table.row(vec![
            series.name.clone(),
            format!("{:.2}", shown(series.best())),
            format!("{:.2}", shown(series.median())),
            format!("{best:.2}"),
            format!("{median:.2}"),
        ]);
    }
    println!("{table}");
}

fn options() -> Result<(Plan, Vec<String>)> {
    let mut plan = Plan {
        rounds: 5,
        seconds: Duration::from_secs(1),
        streams: vec![1, 4],
    };
    let mut only = Vec::new();
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
            "--rounds" => plan.rounds = value()?.parse()?,
            "--seconds" => plan.seconds = Duration::from_secs_f64(value()?.parse()?),
            "--streams" => {
                plan.streams = value()?
                    .split(',')
                    .map(str::parse)
                    .collect::<std::result::Result<_, _>>()?;
            }
            "--only" => only.push(value()?),
            _ => return Err(format!("what is {arg}?\n{USAGE}").into()),
        }
    }
    Ok((plan, only))
}
