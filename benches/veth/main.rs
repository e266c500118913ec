//! Forwarding on veth: a generator, a node and a sink, each in a namespace of its own.
//!
//! `cargo bench -p benches --bench veth [-- OPTIONS]`, as root. See `usage` for the options and
//! `measure` for how the figures are derived.

mod caracal;
mod kernel;
mod lab;
mod measure;
mod nodes;
mod policies;
mod report;

use benches::rounds::Result;
use fastpath::io::xsk::test_support::{SinkHook, can_run};

use crate::caracal::{Caracal, Way};
use crate::kernel::Kernel;
use crate::lab::Lab;
use crate::measure::{Cores, Measured, Plan};
use crate::nodes::{Bare, Direct, Node, Spawned};

/// Flows that conntrack is told of, one call each, at most.
const MOST_ANSWERED: u32 = 4096;

const USAGE: &str = "\
usage: cargo bench -p benches --bench veth [-- OPTIONS]
  --rounds N        rounds that count; each node takes its turn in each (default 7)
  --packets N       packets a turn (default 200000)
  --sizes A,B       frame sizes in bytes (default 64,1400)
  --flows N         UDP flows (default 1000)
  --cores one|two   only this layout (default both)
  --sink tc|xdp     where the sink drops: tc, as a pod's end without XDP (default), or XDP
  --only NAME       only nodes whose name contains NAME (may be repeated)
  --spawn NAME:GROWTH:COMMAND
                    one more node: COMMAND runs in its namespace and forwards from n0 to n1;
                    frames grow by GROWTH bytes on the way (may be repeated)";

/// What the command line asks for.
struct Options {
    plan: Plan,
    sizes: Vec<u16>,
    flows: u32,
    layouts: Vec<Cores>,
    sink: SinkHook,
    only: Vec<String>,
    spawn: Vec<Spawned>,
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let Some(ended) = nodes::as_forwarder(&args) {
        return ended;
    }
    let options = options()?;
    if !can_run("veth bench") {
        return Ok(());
    }
    // On the generator's core spinning would be measured, not forwarding.
    let sleeps = options.layouts.contains(&Cores::One);
    let poll_mode = if sleeps { "interrupt" } else { "adaptive" };
    let mut nodes: Vec<Box<dyn Node>> = vec![Box::new(Bare { sleeps })];
    for is_offloaded in [false, true] {
        for way in [Way::Plain, Way::Vxlan, Way::Policy, Way::Snat] {
            nodes.push(Box::new(Caracal {
                way,
                poll_mode,
                is_offloaded,
            }));
        }
    }
    let kernel: [Box<dyn Node>; _] = [
        Box::new(Kernel::PLAIN),
        Box::new(Kernel::VXLAN),
        Box::new(Kernel::VXLAN_TRACKED),
        Box::new(Kernel::VXLAN_POLICY),
        Box::new(Kernel::MASQUERADE),
    ];
    nodes.extend(kernel);
    if options.flows <= MOST_ANSWERED {
        nodes.push(Box::new(Kernel::answered(options.flows)));
    }
    nodes.extend(
        options
            .spawn
            .into_iter()
            .map(|node| Box::new(node) as Box<dyn Node>),
    );
    nodes.retain(|node| {
        options.only.is_empty() || options.only.iter().any(|part| node.name().contains(part))
    });
    // The generator straight into the sink: what is not the node's.
    nodes.insert(0, Box::new(Direct));
    let mut labs = nodes
        .iter()
        .map(|node| Lab::new(node.as_ref(), options.flows, options.sink))
        .collect::<Result<Vec<_>>>()?;
    for cores in options.layouts {
        for &size in &options.sizes {
            let measured: Vec<Measured> =
                measure::take_turns(&mut labs, size, cores, &options.plan)?;
            report::print(cores, size, &measured);
        }
    }
    Ok(())
}

fn options() -> Result<Options> {
    let mut options = Options {
        plan: Plan {
            rounds: 7,
            packets: 200_000,
            // Asked now: once this thread is pinned, there is only one.
            last_core: std::thread::available_parallelism()?.get() - 1,
        },
        sizes: vec![64, 1400],
        flows: 1000,
        layouts: vec![Cores::One, Cores::Two],
        sink: SinkHook::Tc,
        only: Vec::new(),
        spawn: Vec::new(),
    };
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
            "--rounds" => options.plan.rounds = value()?.parse()?,
            "--packets" => options.plan.packets = value()?.parse()?,
            "--sizes" => {
                options.sizes = value()?
                    .split(',')
                    .map(str::parse)
                    .collect::<std::result::Result<_, _>>()?;
            }
            "--flows" => options.flows = value()?.parse()?,
            "--cores" => {
                options.layouts = match value()?.as_str() {
                    "one" => vec![Cores::One],
                    "two" => vec![Cores::Two],
                    other => return Err(format!("--cores {other}: one or two\n{USAGE}").into()),
                }
            }
            "--sink" => {
                options.sink = match value()?.as_str() {
                    "tc" => SinkHook::Tc,
                    "xdp" => SinkHook::Xdp,
                    other => return Err(format!("--sink {other}: tc or xdp\n{USAGE}").into()),
                }
            }
            "--only" => options.only.push(value()?),
            "--spawn" => options.spawn.push(value()?.parse()?),
            _ => return Err(format!("what is {arg}?\n{USAGE}").into()),
        }
    }
    Ok(options)
}
