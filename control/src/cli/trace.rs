//! `caracal trace`: what would become of a packet.

use super::{Cli, Exit, Output, ask, output};
use crate::api::Method;
use crate::policy::rule::Protocol;
use crate::trace::{Ask, Trace, protocol};

/// Arguments of `caracal trace`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Who sends: an address, or an endpoint as `namespace/pod`.
    #[arg(long, value_name = "NAME|ADDRESS")]
    from: String,
    /// Who is meant: an address, or an endpoint as `namespace/pod`.
    #[arg(long, value_name = "NAME|ADDRESS")]
    to: String,
    /// tcp, udp, sctp, icmp (echo request), or a number.
    #[arg(long, default_value = "tcp", value_name = "PROTOCOL", value_parser = known_protocol)]
    proto: String,
    /// Destination port; TCP, UDP and SCTP need one.
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// Source port, or the identifier of an echo request.
    #[arg(long, value_name = "PORT", default_value_t = 40_000)]
    source_port: u16,
}

fn known_protocol(name: &str) -> Result<String, String> {
    protocol(name).map(|_| name.to_owned())
}

/// What is wrong with the port, before any daemon is asked.
fn check_port(args: &Args) -> Result<u16, String> {
    let protocol = protocol(&args.proto)?;
    let has_ports = protocol.has_ports() || protocol == Protocol::UDPLITE;
    match (has_ports, args.port) {
        (true, None) => Err(format!("{protocol} needs --port PORT: to which port?")),
        (false, Some(_)) => Err(format!("{protocol} has no ports: leave out --port")),
        (_, port) => Ok(port.unwrap_or_default()),
    }
}

pub(super) fn run(args: &Args, cli: &Cli) -> Exit {
    let port = match check_port(args) {
        Ok(port) => port,
        Err(error) => {
            output::complain(&error);
            return Exit::Usage;
        }
    };
    let params = Ask {
        from: args.from.clone(),
        to: args.to.clone(),
        protocol: args.proto.clone(),
        port,
        source_port: args.source_port,
    };
    match ask::ask::<Trace>(cli, Method::Trace(params)) {
        Ok(trace) => {
            let text = match cli.output {
                Output::Json => ask::to_json("caracal.trace/v1", &trace),
                Output::Table | Output::Wide => trace.to_string(),
            };
            output::print(&text, Exit::Ok)
        }
        Err(exit) => exit,
    }
}
