//! Connections for people and for programs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};

use serde_json::json;

use super::super::table::{Align, Table, duration, or_dash};
use super::{Failure, Output, Sums, ask};
use crate::api::FlowsBy;
use crate::api::report::{Flow, FlowCounts, FlowDirection, Flushed};
use crate::words::{counted, counted_as, number};

const SCHEMA: &str = "caracal.flows/v1";

/// Writes rows as they come. However many there are, those of one answer are kept at a time.
pub(super) struct Rows {
    output: Output,
    /// Nothing was written yet.
    is_first: bool,
}

impl Rows {
    pub(super) const fn new(output: Output) -> Self {
        Self {
            output,
            is_first: true,
        }
    }

    /// Writes some rows. Those that have no order get one.
    pub(super) fn write(
        &mut self,
        out: &mut impl Write,
        mut flows: Vec<Flow>,
        are_ordered: bool,
    ) -> Result<(), Failure> {
        if self.output == Output::Json {
            if self.is_first {
                write!(out, "{{\n  \"schema\": \"{SCHEMA}\",\n  \"flows\": [")?;
            }
            for flow in &flows {
                let comma = if self.is_first { "" } else { "," };
                self.is_first = false;
                write!(out, "{comma}\n    {}", json!(flow))?;
            }
            return Ok(());
        }
        if !are_ordered {
            flows.sort_by(|a, b| order(a).cmp(&order(b)));
        }
        if self.is_first || !flows.is_empty() {
            write!(out, "{}", table(&flows, self.output == Output::Wide))?;
        }
        self.is_first = false;
        Ok(())
    }

    /// Writes what comes after the last row.
    pub(super) fn end(&self, out: &mut impl Write, sums: Sums) -> io::Result<()> {
        if self.output == Output::Json {
            let Sums {
                matched,
                busy,
                shown,
            } = sums;
            let end = if self.is_first { "" } else { "\n  " };
            return writeln!(
                out,
                "{end}],\n  \"matched\": {matched},\n  \"shown\": {shown},\n  \"busy\": {busy}\n}}"
            );
        }
        write!(out, "{}", footer(sums))
    }
}

type Order<'a> = (&'a str, IpAddr, Option<u16>, IpAddr, Option<u16>);

fn order(flow: &Flow) -> Order<'_> {
    (
        &flow.protocol,
        flow.src,
        flow.src_port.or(flow.icmp_id),
        flow.dst,
        flow.dst_port,
    )
}

/// What both directions come to.
pub(super) const fn size(flow: &Flow, by: FlowsBy) -> u64 {
    let (there, back) = match by {
        FlowsBy::Bytes => (flow.original.bytes, flow.reply.bytes),
        FlowsBy::Packets => (flow.original.packets, flow.reply.packets),
    };
    there.saturating_add(back)
}

fn table(flows: &[Flow], is_wide: bool) -> Table {
    use Align::{Left, Right};
    let mut columns = vec![
        ("PROTO", Left),
        ("SOURCE", Left),
        ("DESTINATION", Left),
        ("BACKEND", Left),
        ("AS", Left),
        ("STATE", Left),
        ("PACKETS", Right),
        ("BYTES", Right),
        ("REPLY-PACKETS", Right),
        ("REPLY-BYTES", Right),
        ("IDLE", Right),
        ("EXPIRES", Right),
        ("ENDPOINT", Left),
        ("IN", Left),
        ("OUT", Left),
    ];
    if is_wide {
        columns.extend([
            ("GENERATION", Right),
            ("ORIGIN", Left),
            ("REPLY-GENERATION", Right),
            ("REPLY-ORIGIN", Left),
        ]);
    }
    let mut table = Table::new(&columns);
    for flow in flows {
        let snat = flow.snat.as_ref();
        let snat = snat.map(|snat| end(snat.addr, snat.port, snat.icmp_id));
        let dnat = flow.dnat.as_ref().map(|it| end(it.addr, it.port, None));
        let mut cells = vec![
            flow.protocol.clone(),
            end(flow.src, flow.src_port, flow.icmp_id),
            end(flow.dst, flow.dst_port, None),
            or_dash(dnat.as_ref()),
            or_dash(snat.as_ref()),
            flow.state.clone(),
            number(flow.original.packets),
            number(flow.original.bytes),
            number(flow.reply.packets),
            number(flow.reply.bytes),
            duration(flow.idle_seconds),
            duration(flow.expires_seconds),
            or_dash(flow.endpoint.as_ref()),
            way(&flow.original),
            way(&flow.reply),
        ];
        if is_wide {
            for direction in [&flow.original, &flow.reply] {
                cells.push(direction.generation.to_string());
                cells.push(direction.origin.clone());
            }
        }
        table.push(&cells);
    }
    table
}

/// An end of a connection: `10.0.0.1:80`, `[fd00::1]:80`, `10.0.0.1 id 7`, `10.0.0.1`.
fn end(addr: IpAddr, port: Option<u16>, id: Option<u16>) -> String {
    match (port, id) {
        (Some(port), _) => SocketAddr::new(addr, port).to_string(),
        (None, Some(id)) => format!("{addr} id {id}"),
        (None, None) => addr.to_string(),
    }
}

fn way(direction: &FlowDirection) -> String {
    match (&direction.port, &direction.node) {
        (Some(port), _) => port.clone(),
        (None, Some(node)) => format!("node {node}"),
        (None, None) => "-".to_owned(),
    }
}

fn footer(sums: Sums) -> String {
    let mut text = if sums.shown == sums.matched {
        counted(sums.matched, "connection")
    } else {
        format!(
            "{} of {} (--all shows all, --top N the largest)",
            number(sums.shown),
            counted(sums.matched, "connection")
        )
    };
    text.push('\n');
    if sums.busy > 0 {
        let _ = writeln!(
            text,
            "{} at this moment, and not looked at",
            counted_as(
                sums.busy,
                "entry was being changed",
                "entries were being changed"
            )
        );
    }
    text
}

/// How many there are of which kind.
pub(super) fn counts(output: Output, sums: Sums, counts: &FlowCounts) -> String {
    if output == Output::Json {
        let report = json!({ "matched": sums.matched, "busy": sums.busy, "counts": counts });
        return ask::to_json("caracal.flows-count/v1", &report);
    }
    let mut text = footer(Sums {
        shown: sums.matched,
        ..sums
    });
    for (heading, counts) in [
        ("STATE", &counts.state),
        ("PROTOCOL", &counts.protocol),
        ("ENDPOINT", &counts.endpoint),
    ] {
        if !counts.is_empty() {
            let _ = write!(text, "\n{}", count_table(heading, counts));
        }
    }
    text
}

/// The most frequent first.
fn count_table(heading: &str, counts: &BTreeMap<String, u64>) -> Table {
    let mut table = Table::new(&[(heading, Align::Left), ("COUNT", Align::Right)]);
    let mut counts: Vec<_> = counts.iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    for (name, count) in counts {
        table.push(&[name.clone(), number(*count)]);
    }
    table
}

/// What was removed.
pub(super) fn flushed(output: Output, sum: Flushed) -> String {
    if output == Output::Json {
        let report = json!({ "matched": sum.matched, "removed": sum.removed, "busy": sum.busy });
        return ask::to_json("caracal.flows-flush/v1", &report);
    }
    let mut text = format!("{} removed\n", counted(sum.removed, "connection"));
    if sum.busy > 0 {
        let _ = writeln!(
            text,
            "{} could not be removed: pollers were at work on {}; try again",
            number(sum.busy),
            if sum.busy == 1 { "it" } else { "them" }
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::report::Flows;
    use crate::cli::golden;

    fn part() -> Flows {
        serde_json::from_str(include_str!("../../../tests/golden/flows.json")).unwrap()
    }

    fn written(output: Output, parts: Vec<Vec<Flow>>, sums: Sums) -> String {
        let mut out = Vec::new();
        let mut rows = Rows::new(output);
        for part in parts {
            assert!(rows.write(&mut out, part, false).is_ok());
        }
        rows.end(&mut out, sums).unwrap();
        String::from_utf8(out).unwrap()
    }

    const SOME: Sums = Sums {
        matched: 18_204,
        busy: 0,
        shown: 5,
    };

    #[test]
    fn connections_in_columns() {
        golden::check(
            "flows.txt",
            &written(Output::Table, vec![part().flows], SOME),
        );
        golden::check(
            "flows-wide.txt",
            &written(Output::Wide, vec![part().flows], SOME),
        );
    }

    #[test]
    fn json_is_whole_however_many_parts_there_are() {
        let flows = part().flows;
        for parts in [
            vec![],
            vec![vec![]],
            vec![flows.clone()],
            vec![flows[..2].to_vec(), vec![], flows[2..].to_vec()],
        ] {
            let count: usize = parts.iter().map(Vec::len).sum();
            // A daemon answers at least once.
            let parts = if parts.is_empty() {
                vec![vec![]]
            } else {
                parts
            };
            let text = written(Output::Json, parts, SOME);
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(value["schema"], SCHEMA);
            assert_eq!(
                (&value["matched"], &value["shown"]),
                (&json!(18_204), &json!(5))
            );
            assert_eq!(value["flows"], json!(flows[..count]));
        }
    }

    #[test]
    fn counts_and_removals_in_words() {
        let counts_of = part().counts.unwrap();
        let mut text = counts(Output::Table, SOME, &counts_of);
        for (matched, busy) in [(0, 0), (1, 0), (7, 1), (7, 2)] {
            let sum = Flushed {
                matched,
                removed: matched,
                busy,
                next: None,
            };
            let _ = write!(text, "\n{}", flushed(Output::Table, sum));
            let sums = Sums {
                matched,
                busy,
                shown: matched,
            };
            text += &footer(sums);
        }
        golden::check("flows-count.txt", &text);
        let value: serde_json::Value =
            serde_json::from_str(&counts(Output::Json, SOME, &counts_of)).unwrap();
        assert_eq!(value["counts"]["state"]["ESTABLISHED"], 12_004);
        assert_eq!(value["schema"], "caracal.flows-count/v1");
    }

    #[test]
    fn nothing_from_outside_reaches_the_terminal() {
        let mut flows = part().flows;
        flows[0].endpoint = Some("a\u{1b}[2Jb".to_owned());
        let text = written(Output::Wide, vec![flows], SOME);
        assert!(!text.contains(|c: char| c.is_control() && c != '\n'));
    }
}
