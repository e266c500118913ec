//! `caracal trace`: what would become of a packet.

use super::{Cli, Exit, Output, ask, output};
use crate::api::Method;
use crate::trace::{Ask, Trace};

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
    #[arg(long, default_value = "tcp", value_name = "PROTOCOL")]
    proto: String,
    /// Destination port.
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    port: u16,
    /// Source port, or the identifier of an echo request.
    #[arg(long, value_name = "PORT", default_value_t = 40_000)]
    source_port: u16,
}

pub(super) fn run(args: &Args, cli: &Cli) -> Exit {
    let params = Ask {
        from: args.from.clone(),
        to: args.to.clone(),
        protocol: args.proto.clone(),
        port: args.port,
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
