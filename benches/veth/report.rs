//! The tables.

use benches::rounds::Series;
use benches::table::Table;

use crate::measure::{Cores, Measured};

/// Prints one layout and size. The first of `all` is the generator straight into the sink.
#[expect(clippy::print_stdout, reason = "the tables are the bench's result")]
pub(crate) fn print(cores: Cores, size: u16, all: &[Measured]) {
    let Some(direct) = all.first() else {
        return;
    };
    let title = match cores {
        Cores::One => format!("{size} B, one core for all"),
        Cores::Two => format!("{size} B, two cores"),
    };
    let first = all.get(1).map(|first| series(first, cores));
    let mut table = Table::new(&[
        &title,
        "kpps, best",
        "kpps, median",
        "to the first node, best",
        "median",
        "node's own CPU ns, best",
        "median",
        "lost",
    ]);
    for (at, measured) in all.iter().enumerate() {
        let packet = series(measured, cores);
        let mut cells = vec![
            measured.name.clone(),
            kpps(packet.best()),
            kpps(packet.median()),
        ];
        match first.as_ref().filter(|_| at > 1) {
            // Packets a second of this node to those of the first one.
            Some(first) => {
                let (best, median) = first.ratio_to(&packet);
                cells.extend([format!("{best:.2}"), format!("{median:.2}")]);
            }
            None => cells.extend([String::new(), String::new()]),
        }
        if at > 0 && cores == Cores::One {
            let (best, median) = own_cost(measured, direct);
            cells.extend([format!("{best:.0}"), format!("{median:.0}")]);
        } else {
            cells.extend([String::new(), String::new()]);
        }
        cells.push(measured.lost.to_string());
        table.row(cells);
    }
    println!("{table}");
}

/// A node's time without that of the chain that has none: of the best rounds of both, and in the middle of
/// the differences round by round.
fn own_cost(node: &Measured, direct: &Measured) -> (f64, f64) {
    let (node, direct) = (series(node, Cores::One), series(direct, Cores::One));
    let by_round = Series {
        name: String::new(),
        rounds: node
            .rounds
            .iter()
            .zip(&direct.rounds)
            .map(|(node, direct)| node - direct)
            .collect(),
    };
    (node.best() - direct.best(), by_round.median())
}

/// Nanoseconds a packet: of processor time where all share a core, of wall time where they do not.
fn series(measured: &Measured, cores: Cores) -> Series {
    let rounds = match cores {
        Cores::One => measured.busy.clone(),
        Cores::Two => measured.wall.clone(),
    };
    Series {
        name: measured.name.clone(),
        rounds,
    }
}

fn kpps(nanos: f64) -> String {
    format!("{:.0}", 1e6 / nanos)
}
