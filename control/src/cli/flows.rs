//! `caracal flows`: connections, as pollers have them.

mod render;

use std::collections::BTreeMap;
use std::io::{self, Write};

use clap::ArgGroup;

use super::ask::Failure;
use super::watch::Watch;
use super::{Cli, Exit, Output, ask, output};
use crate::api::report::{FlowCounts, Flows, Flushed};
use crate::api::{Client, FlowsBy, FlowsParams, FlushParams, MAX_FLOWS, Method};
use crate::flows::{Filter, FilterError};

/// Rows that are shown unless more are asked for.
const ROWS: usize = 100;

/// Arguments of `caracal flows`.
#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("which").args(["filter", "all"]).multiple(true), after_help = EXPRESSIONS)]
pub struct Args {
    /// Only those that this is true of, such as 'src 10.0.0.0/8 and dst port 53'.
    #[arg(long = "match", value_name = "EXPR", value_parser = expression)]
    filter: Option<String>,
    /// The N largest, the largest first.
    #[arg(
        long,
        value_name = "N",
        value_parser = clap::value_parser!(u16).range(1..=1000),
        conflicts_with_all = ["count", "flush", "limit", "all"]
    )]
    top: Option<u16>,
    /// What --top compares, both directions together; bytes unless said.
    #[arg(long, value_enum, requires = "top")]
    by: Option<FlowsBy>,
    /// How many there are, by state, protocol and endpoint.
    #[arg(long, conflicts_with_all = ["flush", "limit"])]
    count: bool,
    /// Remove them. Needs --match or --all.
    #[arg(long, requires = "which", conflicts_with_all = ["limit", "watch"])]
    flush: bool,
    /// All of them, however many there are.
    #[arg(long, conflicts_with = "limit")]
    all: bool,
    /// At most as many, 0 for all; 100 unless said (JSON: all).
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    #[command(flatten)]
    watch: Watch,
}

impl Args {
    /// How many connections a list has at most.
    fn rows(&self, output: Output) -> usize {
        match self.limit {
            _ if self.all => usize::MAX,
            Some(0) => usize::MAX,
            Some(limit) => limit,
            None if output == Output::Json => usize::MAX,
            None => ROWS,
        }
    }
}

const EXPRESSIONS: &str = "\
Expressions:
  src ADDRESS|NETWORK, dst …    where the first packet came from, and went to, before translation
  host ADDRESS, net NETWORK     either of them, or what they are translated to
  [src|dst] port N[-M]          ports in the same way
  proto NAME|NUMBER, or tcp, udp, icmp, icmp6, sctp; ip, ip6
  state NAME                    established, syn_sent, unreplied, assured … (as conntrack names them)
  endpoint NAMESPACE/NAME       a pod's, or those that pass through an interface
  snat                          the source is translated
  dnat                          the destination is: a service's endpoint
  not, and, or, ( )             `and` binds stronger than `or`";

fn expression(text: &str) -> Result<String, FilterError> {
    Filter::parse(text).map(|_| text.to_owned())
}

pub(super) fn run(args: &Args, cli: &Cli) -> Exit {
    if args.flush && args.all && args.filter.is_some() {
        output::complain(&"--flush takes either --match or --all");
        return Exit::Usage;
    }
    args.watch.repeat(|| {
        let mut client = ask::connect(cli)?;
        let shown = if args.watch.is_on() {
            screen(args, cli.output, &mut client)
        } else {
            whole(args, cli.output, &mut client)
        };
        shown.map_err(|failure| failure.end())
    })
}

/// Shows each part as it comes.
fn whole(args: &Args, output: Output, client: &mut Client) -> Result<Exit, Failure> {
    let mut stdout = io::stdout().lock();
    let exit = once(args, output, client, &mut stdout)?;
    stdout.flush()?;
    Ok(exit)
}

/// Shows the whole at once, in the place of what was there on a terminal.
fn screen(args: &Args, output: Output, client: &mut Client) -> Result<Exit, Failure> {
    let mut stdout = io::stdout().lock();
    let mut text = args.watch.clear(&stdout, output).as_bytes().to_vec();
    let exit = once(args, output, client, &mut text)?;
    stdout.write_all(&text)?;
    stdout.flush()?;
    Ok(exit)
}

fn once(
    args: &Args,
    output: Output,
    client: &mut Client,
    out: &mut impl Write,
) -> Result<Exit, Failure> {
    if args.flush {
        return flush(args, output, client, out);
    }
    if args.count {
        count(args, output, client, out)?;
    } else if let Some(top) = args.top {
        largest(args, top.into(), output, client, out)?;
    } else {
        list(args, output, client, out)?;
    }
    Ok(Exit::Ok)
}

/// What all parts of the tables come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sums {
    matched: u64,
    busy: u64,
    shown: u64,
}

impl Sums {
    fn add(&mut self, part: &Flows) {
        self.matched += part.matched;
        self.busy += part.busy;
    }
}

/// Asks for all parts, one by one, so that the daemon never stops for long. `visit` may change what is asked for next.
fn parts(
    client: &mut Client,
    mut params: FlowsParams,
    mut visit: impl FnMut(Flows, &mut FlowsParams) -> Result<(), Failure>,
) -> Result<(), Failure> {
    loop {
        let part: Flows = client.call(Method::Flows(params.clone()))?;
        let next = part.next;
        visit(part, &mut params)?;
        match next {
            Some(next) => params.from = next,
            None => return Ok(()),
        }
    }
}

fn list(
    args: &Args,
    output: Output,
    client: &mut Client,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let mut left = args.rows(output);
    let params = FlowsParams {
        filter: args.filter.clone(),
        limit: Some(left.min(MAX_FLOWS)),
        ..FlowsParams::default()
    };
    let mut sums = Sums::default();
    let mut rows = render::Rows::new(output);
    parts(client, params, |part, params| {
        sums.add(&part);
        left = left.saturating_sub(part.flows.len());
        params.limit = Some(left.min(MAX_FLOWS));
        sums.shown += part.flows.len() as u64;
        rows.write(out, part.flows, false)
    })?;
    rows.end(out, sums)?;
    Ok(())
}

fn largest(
    args: &Args,
    top: usize,
    output: Output,
    client: &mut Client,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let by = args.by.unwrap_or(FlowsBy::Bytes);
    let params = FlowsParams {
        filter: args.filter.clone(),
        limit: Some(top),
        top: Some(by),
        ..FlowsParams::default()
    };
    let mut sums = Sums::default();
    let mut largest = Vec::new();
    parts(client, params, |part, _| {
        sums.add(&part);
        largest.extend(part.flows);
        largest.sort_by_key(|flow| std::cmp::Reverse(render::size(flow, by)));
        largest.truncate(top);
        Ok(())
    })?;
    sums.shown = largest.len() as u64;
    let mut rows = render::Rows::new(output);
    rows.write(out, largest, true)?;
    rows.end(out, sums)?;
    Ok(())
}

fn count(
    args: &Args,
    output: Output,
    client: &mut Client,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let params = FlowsParams {
        filter: args.filter.clone(),
        limit: Some(0),
        counts: true,
        ..FlowsParams::default()
    };
    let mut sums = Sums::default();
    let mut counts = FlowCounts::default();
    parts(client, params, |part, _| {
        sums.add(&part);
        let part = part.counts.unwrap_or_default();
        add(&mut counts.state, part.state);
        add(&mut counts.protocol, part.protocol);
        add(&mut counts.endpoint, part.endpoint);
        Ok(())
    })?;
    out.write_all(render::counts(output, sums, &counts).as_bytes())?;
    Ok(())
}

fn add(sum: &mut BTreeMap<String, u64>, part: BTreeMap<String, u64>) {
    for (name, count) in part {
        *sum.entry(name).or_insert(0) += count;
    }
}

fn flush(
    args: &Args,
    output: Output,
    client: &mut Client,
    out: &mut impl Write,
) -> Result<Exit, Failure> {
    let mut sum = Flushed::default();
    loop {
        let params = FlushParams {
            filter: args.filter.clone(),
            all: args.all,
            from: sum.next.unwrap_or(0),
        };
        let part: Flushed = client.call(Method::FlushFlows(params))?;
        sum.matched += part.matched;
        sum.removed += part.removed;
        sum.busy += part.busy;
        sum.next = part.next;
        if sum.next.is_none() {
            break;
        }
    }
    out.write_all(render::flushed(output, sum).as_bytes())?;
    Ok(if sum.busy == 0 {
        Exit::Ok
    } else {
        Exit::Failure
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::Command;

    fn rows(args: &str) -> usize {
        let cli = Cli::try_parse_from(format!("caracal flows {args}").split_whitespace()).unwrap();
        let Command::Flows(args) = &cli.command else {
            panic!("{cli:?}");
        };
        args.rows(cli.output)
    }

    #[test]
    fn a_list_is_as_long_as_was_said() {
        assert_eq!(rows(""), ROWS);
        assert_eq!(rows("--limit 7"), 7);
        assert_eq!(rows("--limit 7 -o json"), 7);
        // As in `caracal routes`.
        for all in ["--all", "--limit 0", "-o json"] {
            assert_eq!(rows(all), usize::MAX, "{all}");
        }
    }
}
