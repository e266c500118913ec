//! `caracal replay`: the production pipeline over captures.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;

use fastpath::port::PortId;

use super::table::one_line;
use super::{Cli, Exit, Output, output};
use crate::config::suggest::nearest;
use crate::config::{Diagnostic, Diagnostics, HostEndpoints, compute_with, load_paths};
use crate::desired::Desired;
use crate::replay::{
    AssumedUplink, HOST_PORT, Job, KernelFile, LinkRole, ReplayError, ReplayNode, Scan, Summary,
    run as replay, scan,
};
use crate::words::counted;

/// Arguments of `caracal replay`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory (or file) of resources, Calico's and Kubernetes'; may be repeated.
    #[arg(long, required = true, value_name = "DIR")]
    config: Vec<PathBuf>,
    /// Name of the node that is replayed, as its Node resource has it.
    #[arg(long, value_name = "NAME")]
    node: String,
    /// Capture (pcap or pcapng) of what comes in by a port: a pod's interface, an uplink or the host port. May be
    /// repeated; packets are merged by their times.
    #[arg(long = "in", required = true, value_name = "PORT=FILE", value_parser = parse_input)]
    inputs: Vec<Input>,
    /// Directory for the captures of what goes out, one a port, and summary.json.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// What the node's kernel would say: links, addresses, routes, neighbours (docs/replay.md).
    #[arg(long, visible_alias = "neighbours", value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// File for one JSON line a packet that came in: what became of it.
    #[arg(long, value_name = "FILE")]
    verdicts: Option<PathBuf>,
    /// Chooses what is random on a real node: the outer UDP source ports, and those of natOutgoing.
    #[arg(long, default_value_t = 0, value_name = "NUMBER")]
    seed: u64,
    /// What the node's caracal.yaml says about its host endpoints (`hostEndpoints`).
    #[arg(long, value_name = "HOW", value_enum, default_value_t)]
    host_endpoints: HostEndpoints,
}

/// A capture and its port.
#[derive(Clone, Debug)]
struct Input {
    port: String,
    file: PathBuf,
}

fn parse_input(text: &str) -> Result<Input, String> {
    match text.split_once('=') {
        Some((port, file)) if !port.is_empty() && !file.is_empty() => Ok(Input {
            port: port.to_owned(),
            file: file.into(),
        }),
        _ => Err("must be PORT=FILE, such as eth0=eth0.pcap".to_owned()),
    }
}

pub(super) fn run(args: &Args, cli: &Cli) -> Exit {
    let outcome = try_run(args, cli);
    match outcome {
        Ok(summary) => {
            let text = match cli.output {
                Output::Json => match serde_json::to_string_pretty(&summary) {
                    Ok(text) => text + "\n",
                    Err(error) => {
                        output::complain(&error);
                        return Exit::Failure;
                    }
                },
                Output::Table | Output::Wide => to_text(&summary, args),
            };
            output::print(&text, Exit::Ok)
        }
        Err((message, exit)) => {
            output::remark(&message);
            exit
        }
    }
}

type Failure = (String, Exit);

fn try_run(args: &Args, cli: &Cli) -> Result<Summary, Failure> {
    let invalid = |all: Diagnostics| (all.render(cli.color_stderr()), Exit::Invalid);
    let fail = |message: &dyn std::fmt::Display, exit| {
        let error = Diagnostic::error(message.to_string());
        (error.render(cli.color_stderr()) + "\n", exit)
    };
    let resources = load_paths(&args.config).map_err(invalid)?;
    let desired = compute_with(&resources, &args.node, args.host_endpoints);
    let desired = desired.map_err(|all| invalid(Diagnostics(all)))?;
    let kernel = match &args.kernel {
        Some(path) => KernelFile::load(path).map_err(invalid)?,
        None => KernelFile::default(),
    };
    // All captures are looked at before anything is written.
    let mut scans = Vec::new();
    for input in &args.inputs {
        let scanned = scan(&input.file, |addr| is_ours(&desired, addr));
        scans.push(scanned.map_err(|error| fail(&error, Exit::Failure))?);
    }
    let assumed = assume_uplink(args, &desired, &kernel, &scans)
        .map_err(|message| fail(&message, Exit::Usage))?;
    if let Some(uplink) = &assumed {
        note(&format!(
            "{} is taken for the uplink, with {}; describe it in --kernel FILE to change that",
            uplink.name,
            describe_mac(uplink)
        ));
    }
    let mut node = ReplayNode::new(desired, &kernel, assumed.as_ref(), args.seed)
        .map_err(|error| fail(&error, Exit::Failure))?;
    let mut inputs: Vec<(PortId, PathBuf, Scan)> = Vec::new();
    for (input, scan) in args.inputs.iter().zip(scans) {
        let Some(port) = node.port(&input.port) else {
            let message = format!("{} is not a port of {}", input.port, args.node);
            return Err(fail(&message, Exit::Usage));
        };
        if inputs.iter().any(|(other, ..)| *other == port) {
            let message = format!(
                "port {} is given two captures; join them with `mergecap`",
                input.port
            );
            return Err(fail(&message, Exit::Usage));
        }
        inputs.push((port, input.file.clone(), scan));
    }
    let job = Job {
        name: &args.node,
        seed: args.seed,
        inputs,
        out: &args.out,
        verdicts: args.verdicts.as_deref(),
    };
    replay(&mut node, &job).map_err(|error| {
        let exit = match error {
            ReplayError::VerdictsTaken(_) => Exit::Usage,
            _ => Exit::Failure,
        };
        fail(&error, exit)
    })
}

/// Whether an address is the node's own or in a pool.
fn is_ours(desired: &Desired, addr: IpAddr) -> bool {
    let mut own = desired
        .local_node()
        .into_iter()
        .flat_map(crate::desired::Node::addresses);
    own.any(|own| own == addr) || desired.pools.iter().any(|pool| pool.cidr.contains(&addr))
}

/// The one port that is no pod's, where no file says what there is: it can only be the uplink.
fn assume_uplink(
    args: &Args,
    desired: &Desired,
    kernel: &KernelFile,
    scans: &[Scan],
) -> Result<Option<AssumedUplink>, String> {
    let pods: Vec<&str> = desired
        .endpoints
        .iter()
        .map(|endpoint| endpoint.interface.as_str())
        .collect();
    let links = kernel.links.iter();
    let links: Vec<&str> = links.map(|link| link.name.value.as_str()).collect();
    let has_host = kernel
        .links
        .iter()
        .any(|link| link.role == Some(LinkRole::Host));
    let known = |name: &str| {
        pods.contains(&name) || links.contains(&name) || (!has_host && name == HOST_PORT)
    };
    let mut unknown = args
        .inputs
        .iter()
        .zip(scans)
        .filter(|(input, _)| !known(&input.port));
    let Some((input, scan)) = unknown.next() else {
        return Ok(None);
    };
    let others = pods.iter().chain(&links).copied();
    let meant = nearest(&input.port, others.chain([HOST_PORT]));
    if args.kernel.is_none()
        && meant.is_none()
        && unknown.all(|(other, _)| other.port == input.port)
    {
        return Ok(Some(AssumedUplink {
            name: input.port.clone(),
            mac: scan.our_mac,
        }));
    }
    let advice = match (meant, &args.kernel) {
        (Some(meant), _) => format!("did you mean `{meant}`?"),
        (None, Some(file)) => format!("describe it in {}", file.display()),
        (None, None) => "only one uplink can do without; describe them in --kernel FILE".to_owned(),
    };
    Err(format!(
        "port {} is neither an interface of a pod of {} nor described; {advice}",
        input.port, args.node
    ))
}

fn describe_mac(uplink: &AssumedUplink) -> String {
    match uplink.mac {
        Some(mac) => format!(
            "the Node's addresses and the MAC address {} of its capture",
            crate::desired::MacAddr(mac.0)
        ),
        None => "the Node's addresses".to_owned(),
    }
}

/// The result; notes go to standard error.
fn to_text(summary: &Summary, args: &Args) -> String {
    let mut out = format!(
        "{:<16} {:>10} {:>10} {:>10}\n",
        "PORT", "IN", "OUT", "DROPPED"
    );
    for (name, port) in &summary.ports {
        if port.rx_packets + port.tx_packets == 0 {
            continue;
        }
        let dropped: u64 = port.drops.values().sum();
        let (rx, tx) = (port.rx_packets, port.tx_packets);
        let _ = writeln!(out, "{name:<16} {rx:>10} {tx:>10} {dropped:>10}");
        if port.cut > 0 {
            note(&format!(
                "{} into {name} cut by the capture (snap length), and malformed for that",
                counted(port.cut, "packet")
            ));
        }
    }
    for (reason, count) in &summary.drops {
        let _ = writeln!(out, "dropped: {reason:<24} {count:>10}");
    }
    let all = summary.accounting;
    let _ = writeln!(
        out,
        "accounting: rx {} = tx {} + drop {} + punt {} + held {}; made here: {}",
        all.rx, all.tx, all.drop, all.punt, all.held, summary.originated
    );
    for neighbour in &summary.unresolved {
        note(&format!(
            "packets waited for {} on {}; give its MAC address under `neighbours` in --kernel FILE (a pod's in its WorkloadEndpoint)",
            neighbour.address, neighbour.port
        ));
    }
    let _ = writeln!(
        out,
        "written to {}",
        one_line(&args.out.display().to_string())
    );
    out
}

fn note(text: &str) {
    output::remark(&format!("note: {text}\n"));
}
