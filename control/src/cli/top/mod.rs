//! `caracal top`: what happens now, in rates.

mod rates;
mod render;
mod screen;

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use super::{Cli, Exit, Output, ask, output};
use crate::api::report::{Drops, Flow, Flows};
use crate::api::{Client, ClientError, FlowsBy, FlowsParams, Method};
use rates::{FlowLook, FlowRates, Look, Top};
use render::Part;

/// Between two looks.
const EVERY: Duration = Duration::from_secs(1);
/// Of this time in which nothing was sent a connection is not fast.
const ACTIVE: u64 = 2;
/// The largest of each part of the tables that are looked at.
const LARGEST: usize = 256;
/// Going over the tables of connections takes at most one part in so many of the time.
const REST: u32 = 10;

/// Arguments of `caracal top`.
#[derive(Debug, clap::Args)]
#[command(after_help = KEYS)]
pub struct Args {
    /// Show once what happens in a second, and end.
    #[arg(long)]
    once: bool,
}

const KEYS: &str = "\
Keys: c, p, f, d show only cores, ports, flows or drops, a all of it; the space bar stops and goes on; q ends.
Of connections the fastest are shown of those that are among the largest, both directions together.";

pub(super) fn run(args: &Args, cli: &Cli) -> Exit {
    if args.once {
        return once(cli);
    }
    if cli.output == Output::Json || !std::io::stdout().is_terminal() {
        let message =
            "top wants a terminal to draw on; `caracal top --once` writes its numbers once";
        output::complain(&message);
        return Exit::Usage;
    }
    screen::run(cli)
}

fn once(cli: &Cli) -> Exit {
    let top = match ask::connect(cli).and_then(|mut client| {
        let outcome = watch_a_second(&mut client);
        outcome.map_err(|error| ask::complain(&error))
    }) {
        Ok(top) => top,
        Err(exit) => return exit,
    };
    let Some(top) = top else {
        output::complain(&"the daemon was started again meanwhile");
        return Exit::Failure;
    };
    let text = match cli.output {
        Output::Json => ask::to_json("caracal.top/v1", &top),
        Output::Table | Output::Wide => render::render(&top, Part::All),
    };
    output::print(&text, Exit::Ok)
}

fn watch_a_second(client: &mut Client) -> Result<Option<Top>, ClientError> {
    let mut eye = Eye::default();
    eye.look(client)?;
    std::thread::sleep(EVERY);
    eye.look(client)?;
    Ok(eye.top().cloned())
}

/// Looks at a daemon again and again.
#[derive(Default)]
struct Eye {
    last: Option<(Instant, Look)>,
    top: Option<Top>,
    flows: Option<(Instant, FlowLook)>,
    fastest: Vec<FlowRates>,
    /// The tables of connections are gone over then.
    flows_due: Option<Instant>,
}

impl Eye {
    /// What happened between the last two looks, if that is known.
    const fn top(&self) -> Option<&Top> {
        self.top.as_ref()
    }

    fn look(&mut self, client: &mut Client) -> Result<(), ClientError> {
        let status = client.call(Method::Status)?;
        let now = Instant::now();
        let drops: Drops = client.call(Method::Drops)?;
        let rules = drops.rules;
        let look = Look { status, rules };
        let last = self.last.as_ref();
        self.top = last.and_then(|(at, last)| rates::between(last, &look, now - *at));
        if last.is_some() && self.top.is_none() {
            self.forget_flows();
        }
        self.last = Some((now, look));
        if self.flows_due.is_none_or(|due| due <= now) {
            self.look_at_flows(client)?;
        }
        if let Some(top) = &mut self.top {
            top.flows.clone_from(&self.fastest);
        }
        Ok(())
    }

    /// Goes over the tables, and rests so long that the daemon is not kept busy by it.
    fn look_at_flows(&mut self, client: &mut Client) -> Result<(), ClientError> {
        let now = Instant::now();
        let flows = largest(client)?;
        if let Some((at, last)) = &self.flows {
            self.fastest = rates::fastest(last, &flows, now - *at);
        }
        let mut look = FlowLook::default();
        look.add(&flows);
        self.flows = Some((now, look));
        self.flows_due = Some(now + REST * now.elapsed());
        Ok(())
    }

    fn forget_flows(&mut self) {
        self.flows = None;
        self.flows_due = None;
        self.fastest.clear();
    }
}

/// The largest connections of each part of the tables that are not idle.
fn largest(client: &mut Client) -> Result<Vec<Flow>, ClientError> {
    let mut params = FlowsParams {
        limit: Some(LARGEST),
        top: Some(FlowsBy::Packets),
        active: Some(ACTIVE),
        ..FlowsParams::default()
    };
    let mut all = Vec::new();
    loop {
        let part: Flows = client.call(Method::Flows(params.clone()))?;
        all.extend(part.flows);
        match part.next {
            Some(next) => params.from = next,
            None => return Ok(all),
        }
    }
}
