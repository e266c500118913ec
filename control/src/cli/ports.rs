//! `caracal ports`: the ports and what passed through them.

use std::fmt::Write as _;

use super::table::{Align, Table, one_line, or_dash};
use super::watch::Watch;
use super::{Cli, Exit, Output, ask};
use crate::api::Method;
use crate::api::report::{Port, Ports};
use crate::words::number;

/// Arguments of `caracal ports`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    watch: Watch,
}

pub(super) fn run(args: &Args, cli: &Cli) -> Exit {
    args.watch.ask(cli, &Method::Ports, |ports: &Ports| {
        let text = match cli.output {
            Output::Json => ask::to_json("caracal.ports/v1", ports),
            Output::Table | Output::Wide => render(ports),
        };
        (text, Exit::Ok)
    })
}

fn render(ports: &Ports) -> String {
    use Align::{Left, Right};
    let mut table = Table::new(&[
        ("PORT", Left),
        ("KIND", Left),
        ("DRIVER", Left),
        ("MODE", Left),
        ("QUEUES", Right),
        ("MTU", Right),
        ("RX", Right),
        ("TX", Right),
        ("DROPS", Right),
        ("RX-DROPPED", Right),
        ("RX-FULL", Right),
        ("FILL-EMPTY", Right),
        ("TX-INVALID", Right),
        ("CSUM", Left),
        ("STATE", Left),
    ]);
    for port in &ports.ports {
        let generic = if port.generic { " generic" } else { "" };
        table.push(&[
            port.name.clone(),
            port.kind.clone(),
            driver(port),
            format!("{}{generic}", port.mode),
            port.queues.to_string(),
            port.mtu.to_string(),
            number(port.rx_packets),
            number(port.tx_packets),
            number(port.drops),
            number(port.xsk.rx_dropped),
            number(port.xsk.rx_ring_full),
            number(port.xsk.fill_empty),
            number(port.xsk.tx_invalid),
            (if port.software_checksums {
                "sw-fix"
            } else {
                "hw"
            })
            .to_owned(),
            (if port.up { "up" } else { "down" }).to_owned(),
        ]);
    }
    let mut out = table.to_string();
    for problem in &ports.problems {
        let name = problem.interface.as_deref().unwrap_or("-");
        let _ = writeln!(out, "! {}: {}", one_line(name), one_line(&problem.message));
    }
    out
}

/// The driver, and the members of a bond.
fn driver(port: &Port) -> String {
    let driver = or_dash(port.driver.as_ref());
    if port.members.is_empty() {
        return driver;
    }
    format!("{driver}: {}", port.members.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::golden;

    #[test]
    fn ports_in_columns() {
        let ports = serde_json::from_str(include_str!("../../tests/golden/ports.json")).unwrap();
        golden::check("ports.txt", &render(&ports));
    }
}
