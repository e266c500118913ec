//! `caracal observe`: connections as they begin, with what decided about them.

use std::fmt::Write as _;
use std::io;
use std::time::Duration;

use clap::builder::RangedU64ValueParser;
use ipnet::IpNet;
use serde_json::json;

use super::ask::Failure;
use super::table::one_line;
use super::{Cli, Exit, Output, ask, output};
use crate::api::report::{FlowDecider, FlowEnd, FlowRecord, FlowVerdict, Observed};
use crate::api::{Client, MAX_RECORDS, Method, ObserveParams};
use crate::observe::{net, protocol};
use crate::words::{counted, counted_as};

const SCHEMA: &str = "caracal.observe/v1";

/// Who follows asks this often.
const EVERY: Duration = Duration::from_millis(100);

/// Arguments of `caracal observe`.
#[derive(Debug, clap::Args)]
#[command(after_help = RECORDED)]
pub struct Args {
    /// Go on, until interrupted.
    #[arg(short, long)]
    follow: bool,
    /// How many of the past are shown, the last ones.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 20,
        value_parser = RangedU64ValueParser::<usize>::new().range(0..=MAX_RECORDS as u64)
    )]
    last: usize,
    /// Only those.
    #[arg(long, value_enum)]
    verdict: Option<FlowVerdict>,
    /// Only those from or to this pod.
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pod: Option<String>,
    /// Only those from or to this port.
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// Only those of this protocol: tcp, udp, icmp, icmp6, sctp or a number.
    #[arg(long, value_name = "PROTOCOL", value_parser = protocol)]
    proto: Option<String>,
    /// Only those from or to this address or network.
    #[arg(long, value_name = "ADDRESS|NETWORK", value_parser = net)]
    ip: Option<IpNet>,
}

const RECORDED: &str = "\
Connections that are allowed or denied are recorded while somebody follows (-f); matches of Log rules always.
The first packet of a connection is recorded; of what is denied the first one, too, as long as it is repeated.";

/// Said beside the output, which stays as empty as it is.
const NOTHING: &str = "no such record; connections are recorded while somebody follows (-f), matches of Log rules always\n";

pub(super) fn run(args: &Args, cli: &Cli) -> Exit {
    let outcome = ask::connect(cli).map(|mut client| observe(args, cli.output, &mut client));
    match outcome {
        Ok(Ok(())) => Exit::Ok,
        Ok(Err(failure)) => failure.end(),
        Err(exit) => exit,
    }
}

fn observe(args: &Args, form: Output, client: &mut Client) -> Result<(), Failure> {
    let mut params = ObserveParams {
        after: None,
        last: Some(args.last),
        follow: args.follow,
        verdict: args.verdict,
        pod: args.pod.clone(),
        port: args.port,
        protocol: args.proto.clone(),
        net: args.ip,
    };
    let mut losses = Losses::default();
    loop {
        let part: Observed = client.call(Method::Observe(params.clone()))?;
        let text = render(&part, losses.follow(&part), form);
        output::write(&mut io::stdout().lock(), &text)?;
        if !args.follow {
            if part.records.is_empty() {
                output::remark(NOTHING);
            }
            return Ok(());
        }
        params.after = Some(part.next);
        if !part.more {
            std::thread::sleep(EVERY);
        }
    }
}

/// What is not among the records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Losses {
    lost: u64,
    limited: u64,
}

impl Losses {
    /// What has been lost since the last part; with the first one since the daemon started.
    const fn follow(&mut self, part: &Observed) -> Self {
        // A daemon that was started again counts anew.
        let new = Self {
            lost: part.lost.saturating_sub(self.lost) + part.missed,
            limited: part.limited.saturating_sub(self.limited),
        };
        *self = Self {
            lost: part.lost,
            limited: part.limited,
        };
        new
    }
}

fn render(part: &Observed, new: Losses, output: Output) -> String {
    let mut text = String::new();
    let Losses { lost, limited } = new;
    if output == Output::Json {
        if (lost, limited) != (0, 0) {
            let losses = json!({ "records": lost, "logs": limited });
            let _ = writeln!(text, "{}", json!({ "schema": SCHEMA, "lost": losses }));
        }
        for record in &part.records {
            let _ = writeln!(text, "{}", json!({ "schema": SCHEMA, "flow": record }));
        }
        return text;
    }
    if lost > 0 {
        let lost = counted(lost, "record");
        let _ = writeln!(text, "{lost} lost: more than could be kept");
    }
    if limited > 0 {
        let limited = counted_as(limited, "match", "matches");
        let _ = writeln!(
            text,
            "{limited} of Log rules not recorded: too many a second"
        );
    }
    for record in &part.records {
        let _ = writeln!(text, "{}", one_line(&line(record, output == Output::Wide)));
    }
    text
}

/// A record for people.
fn line(record: &FlowRecord, wide: bool) -> String {
    let verdict = match record.verdict {
        FlowVerdict::Allowed => "ALLOWED",
        FlowVerdict::Denied => "DENIED",
        FlowVerdict::Logged => "LOGGED",
        FlowVerdict::Other => "?",
    };
    let mut text = format!(
        "{}  {verdict:<7}  {:<4}  {} -> {}",
        record.time,
        record.protocol,
        end(&record.src, wide),
        end(&record.dst, wide)
    );
    if let Some((kind, code)) = record.icmp {
        let _ = write!(text, " type {kind} code {code}");
    }
    if let Some(service) = &record.service {
        let _ = write!(text, " at {service}");
    }
    if let Some(snat) = &record.snat {
        let id = snat.port.or(snat.icmp_id);
        let _ = write!(text, " as {}", with_port(&snat.addr.to_string(), id));
    }
    if wide {
        let interface = record.interface.as_deref();
        let _ = match &record.node {
            Some(node) => write!(text, "  from node {node}"),
            None => write!(text, "  by {}", interface.unwrap_or("?")),
        };
    }
    if let Some(reason) = &record.reason {
        let _ = write!(text, "  {reason}");
    }
    if !record.by.is_empty() {
        let by: Vec<_> = record.by.iter().map(decider).collect();
        let _ = write!(text, "  [{}]", by.join("; "));
    }
    text
}

fn decider(by: &FlowDecider) -> String {
    // A rule's name has its direction in it.
    match (&by.direction, &by.endpoint) {
        (Some(direction), Some(endpoint)) if by.why["kind"] != "rule" => {
            format!("{direction} of {endpoint}: {}", by.text)
        }
        _ => by.text.clone(),
    }
}

fn end(end: &FlowEnd, wide: bool) -> String {
    let name = match &end.endpoint {
        Some(endpoint) if wide => format!("{endpoint}({})", end.addr),
        Some(endpoint) => endpoint.clone(),
        None => return with_port(&end.addr.to_string(), end.port),
    };
    match end.port {
        Some(port) => format!("{name}:{port}"),
        None => name,
    }
}

fn with_port(addr: &str, port: Option<u16>) -> String {
    match port {
        Some(port) if addr.contains(':') => format!("[{addr}]:{port}"),
        Some(port) => format!("{addr}:{port}"),
        None => addr.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::golden;

    fn part() -> Observed {
        serde_json::from_str(include_str!("../../tests/golden/observe.json")).unwrap()
    }

    #[test]
    fn records_are_lines() {
        let part = part();
        let all = [Output::Table, Output::Wide, Output::Json];
        let all = all.map(|output| render(&part, Losses::default().follow(&part), output));
        golden::check("observe.txt", &all.join("\n"));
    }

    #[test]
    fn losses_in_words() {
        let told = |lost, limited| {
            let new = Losses { lost, limited };
            render(&Observed::default(), new, Output::Table)
        };
        assert_eq!(
            told(1, 1),
            "1 record lost: more than could be kept\n1 match of Log rules not recorded: too many a second\n"
        );
        assert_eq!(
            told(1204, 17),
            "1 204 records lost: more than could be kept\n17 matches of Log rules not recorded: too many a second\n"
        );
    }

    #[test]
    fn losses_are_told_once() {
        let part = |lost, limited, missed| Observed {
            missed,
            lost,
            limited,
            ..Observed::default()
        };
        let mut losses = Losses::default();
        let mut told = |part| {
            let new = losses.follow(&part);
            (new.lost, new.limited)
        };
        assert_eq!(told(part(5, 1, 0)), (5, 1), "since the daemon started");
        assert_eq!(told(part(5, 1, 0)), (0, 0));
        assert_eq!(told(part(7, 4, 10)), (12, 3));
        assert_eq!(told(part(2, 0, 0)), (0, 0), "another daemon");
    }
}
