//! The screen as text.

use std::fmt::Write as _;

use super::rates::{FlowRates, Top};
use crate::cli::table::{Align, Table, duration, one_line};
use crate::words::{counted, number};

/// What is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    All,
    Cores,
    Ports,
    Flows,
    Drops,
}

impl Part {
    fn has(self, other: Self) -> bool {
        self == Self::All || self == other
    }
}

/// Ports that are shown beside the rest.
const PORTS: usize = 8;

pub(super) fn render(top: &Top, part: Part) -> String {
    let problems = match top.problems {
        0 => String::new(),
        1 => "   1 problem (caracal status)".to_owned(),
        count => format!("   {count} problems (caracal status)"),
    };
    let mut out = format!(
        "{}   tables {}   up {}   rx {}pps   tx {}pps   drop {}/s   connections {}{problems}\n",
        one_line(&top.node),
        number(top.generation),
        duration(top.uptime_seconds),
        short(top.rx_packets),
        short(top.tx_packets),
        short(top.drops),
        number(top.connections),
    );
    if part.has(Part::Cores) {
        let _ = write!(out, "\n{}", cores(top));
    }
    if part.has(Part::Ports) {
        let shown = if part == Part::All { PORTS } else { usize::MAX };
        let _ = write!(out, "\n{}", ports(top, shown));
        let more = top.ports.len().saturating_sub(shown);
        if more > 0 {
            let _ = writeln!(out, "and {}", counted(more as u64, "slower port"));
        }
    }
    if part.has(Part::Flows) {
        let _ = write!(out, "\n{}", flows(top));
    }
    if part.has(Part::Drops) {
        let _ = write!(out, "\n{}", drops(top));
        for rule in top.rules.iter().filter(|it| it.packets > 0.0) {
            let by = if rule.default { ":" } else { " by" };
            let rate = short(rule.packets);
            let _ = writeln!(out, "Denied{by} {}: {rate}/s", one_line(&rule.rule));
        }
    }
    out
}

fn cores(top: &Top) -> Table {
    use Align::Right;
    let mut table = Table::new(&[
        ("CORE", Right),
        ("BUSY %", Right),
        ("RX PPS", Right),
        ("PKTS/ROUND", Right),
    ]);
    for core in &top.cores {
        table.push(&[
            core.core
                .map_or_else(|| "any".to_owned(), |it| it.to_string()),
            format!("{:.1}", core.busy_percent),
            short(core.rx_packets),
            format!("{:.1}", core.packets_per_round),
        ]);
    }
    table
}

fn ports(top: &Top, most: usize) -> Table {
    use Align::{Left, Right};
    let mut table = Table::new(&[
        ("PORT", Left),
        ("RX PPS", Right),
        ("TX PPS", Right),
        ("RX BIT/S", Right),
        ("TX BIT/S", Right),
        ("DROP/S", Right),
        ("MODE", Left),
    ]);
    for port in top.ports.iter().take(most) {
        table.push(&[
            port.name.clone(),
            short(port.rx_packets),
            short(port.tx_packets),
            short(port.rx_bits),
            short(port.tx_bits),
            short(port.drops),
            port.mode.clone(),
        ]);
    }
    table
}

fn flows(top: &Top) -> Table {
    use Align::{Left, Right};
    let mut table = Table::new(&[
        ("FLOW", Left),
        ("PPS", Right),
        ("BIT/S", Right),
        ("STATE", Left),
        ("ENDPOINT", Left),
    ]);
    for flow in &top.flows {
        table.push(&[
            ends(flow),
            short(flow.packets),
            short(flow.bits),
            flow.state.clone(),
            flow.endpoint.clone().unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    table
}

fn ends(flow: &FlowRates) -> String {
    let end = |addr: std::net::IpAddr, port: Option<u16>| match port {
        Some(port) => std::net::SocketAddr::new(addr, port).to_string(),
        None => addr.to_string(),
    };
    let (src, dst) = (end(flow.src, flow.src_port), end(flow.dst, flow.dst_port));
    format!("{src} > {dst} {}", flow.protocol)
}

fn drops(top: &Top) -> Table {
    use Align::{Left, Right};
    let mut table = Table::new(&[("REASON", Left), ("DROP/S", Right), ("COUNT", Right)]);
    for drop in &top.reasons {
        table.push(&[drop.reason.clone(), short(drop.packets), number(drop.total)]);
    }
    table
}

/// A rate with three digits: `4.12M`, `810k`, `27`.
fn short(rate: f64) -> String {
    let units = [(1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, "")];
    // What would be rounded up to the next unit is of that one.
    let fits = |(size, _): &(f64, &str)| rate >= size * 0.9995;
    let (size, unit) = units.into_iter().find(fits).unwrap_or((1.0, ""));
    let value = rate / size;
    // What is no multiple of a thousand is most often a whole number.
    let is_short = unit.is_empty() && value.fract() <= 0.05;
    let digits = match value {
        _ if is_short => 0,
        ..9.995 if !unit.is_empty() => 2,
        ..99.95 => 1,
        _ => 0,
    };
    format!("{value:.digits$}{unit}")
}

#[cfg(test)]
mod tests {
    use super::super::rates::{self, FlowLook, tests as looks};
    use super::*;
    use crate::cli::golden;

    #[test]
    fn all_of_it_and_each_part() {
        let (before, now, time) = looks::looks();
        let mut top = rates::between(&before, &now, time).unwrap();
        let mut flows = looks::flows();
        let mut look = FlowLook::default();
        look.add(&flows);
        for (flow, count) in flows.iter_mut().zip([1_620_000, 3, 50]) {
            flow.original.packets += count;
            flow.original.bytes += 1400 * count;
        }
        while top.ports.len() <= PORTS {
            top.ports.extend_from_within(1..2);
        }
        top.flows = rates::fastest(&look, &flows, time);
        let parts = [
            Part::All,
            Part::Cores,
            Part::Ports,
            Part::Flows,
            Part::Drops,
        ];
        let all = parts.map(|part| render(&top, part));
        golden::check("top.txt", &all.join("\n----\n"));
    }

    #[test]
    fn rates_have_three_digits() {
        for (rate, text) in [
            (0.0, "0"),
            (0.5, "0.5"),
            (4.0, "4"),
            (27.3, "27.3"),
            (999.4, "999"),
            (999.9, "1.00k"),
            (1000.0, "1.00k"),
            (9999.0, "10.0k"),
            (810_000.0, "810k"),
            (4_120_000.0, "4.12M"),
            (38.1e9, "38.1G"),
            (2.5e12, "2500G"),
        ] {
            assert_eq!(short(rate), text);
        }
    }
}
