//! `caracal drops`: what was dropped, why and where.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use clap::ValueEnum;

use super::table::{Align, Table, one_line};
use super::watch::Watch;
use super::{Cli, Exit, Output, ask};
use crate::api::Method;
use crate::api::report::{DropCount, Drops};
use crate::words::{counted, number};

/// What stands for ports that are gone.
const GONE: &str = "(gone)";

/// Arguments of `caracal drops`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Sum up.
    #[arg(long, value_enum)]
    by: Option<By>,
    #[command(flatten)]
    watch: Watch,
}

/// What to sum up by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum By {
    /// All ports together.
    Reason,
    /// All reasons together.
    Port,
}

pub(super) fn run(args: &Args, cli: &Cli) -> Exit {
    args.watch.ask(cli, &Method::Drops, |drops: &Drops| {
        let text = match cli.output {
            Output::Json => ask::to_json("caracal.drops/v1", drops),
            Output::Table | Output::Wide => render(drops, args.by),
        };
        (text, Exit::Ok)
    })
}

fn render(drops: &Drops, by: Option<By>) -> String {
    use Align::{Left, Right};
    let port = |drop: &DropCount| drop.port.clone().unwrap_or_else(|| GONE.to_owned());
    let mut out = match by {
        None => {
            let mut table = Table::new(&[
                ("REASON", Left),
                ("STAGE", Left),
                ("PORT", Left),
                ("COUNT", Right),
            ]);
            for drop in &drops.drops {
                table.push(&[
                    drop.reason.clone(),
                    drop.stage.clone(),
                    port(drop),
                    number(drop.count),
                ]);
            }
            table.to_string()
        }
        Some(By::Reason) => {
            let mut table = Table::new(&[("REASON", Left), ("STAGE", Left), ("COUNT", Right)]);
            let key = |drop: &DropCount| (drop.reason.clone(), drop.stage.clone());
            for ((reason, stage), count) in summed(&drops.drops, key) {
                table.push(&[reason, stage, number(count)]);
            }
            table.to_string()
        }
        Some(By::Port) => {
            let mut table = Table::new(&[("PORT", Left), ("COUNT", Right)]);
            for (port, count) in summed(&drops.drops, port) {
                table.push(&[port, number(count)]);
            }
            table.to_string()
        }
    };
    let _ = writeln!(out, "Total: {}", number(drops.total));
    for rule in &drops.rules {
        let _ = writeln!(
            out,
            "Denied{} {}: {} of {}",
            if rule.default { ":" } else { " by" },
            one_line(&rule.rule),
            counted(rule.packets, "packet"),
            counted(rule.connections, "connection")
        );
    }
    for kernel in &drops.kernel {
        let xsk = &kernel.xsk;
        let counts = [
            ("rx_dropped", xsk.rx_dropped),
            ("rx_ring_full", xsk.rx_ring_full),
            ("fill_empty", xsk.fill_empty),
            ("rx_invalid", xsk.rx_invalid),
            ("tx_invalid", xsk.tx_invalid),
        ];
        let counts: Vec<_> = counts
            .iter()
            .filter(|(_, count)| *count > 0)
            .map(|(name, count)| format!("{name} {}", number(*count)))
            .collect();
        let _ = writeln!(
            out,
            "Kernel, before we saw them: {} on {}",
            counts.join(", "),
            one_line(&kernel.port)
        );
    }
    out
}

/// Sums, the largest first.
fn summed<K: Ord>(drops: &[DropCount], key: impl Fn(&DropCount) -> K) -> Vec<(K, u64)> {
    let mut sums = BTreeMap::new();
    for drop in drops {
        *sums.entry(key(drop)).or_insert(0) += drop.count;
    }
    let mut sums: Vec<_> = sums.into_iter().collect();
    sums.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    sums
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::golden;

    #[test]
    fn drops_in_columns_and_summed_up() {
        let drops = serde_json::from_str(include_str!("../../tests/golden/drops.json")).unwrap();
        let all = [None, Some(By::Reason), Some(By::Port)].map(|by| render(&drops, by));
        golden::check("drops.txt", &all.join("\n"));
    }
}
