//! `caracal trace`: what would become of a packet.

use std::net::IpAddr;

use super::{Cli, Exit, Output, ask, output};
use crate::api::Method;
use crate::policy::rule::Protocol;
use crate::trace::{Ask, Trace, protocol};

/// Arguments of `caracal trace`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Who sends: an address, a pod as `namespace/pod`, or `host` for the node itself.
    #[arg(long, value_name = "NAME|ADDRESS")]
    from: String,
    /// Who is meant, in the same way; with or without the port, as in `10.0.0.7:5432`.
    #[arg(long, value_name = "NAME|ADDRESS[:PORT]")]
    to: String,
    /// tcp, udp, sctp, icmp (echo request), or a number.
    #[arg(long, default_value = "tcp", value_name = "PROTOCOL", value_parser = known_protocol)]
    proto: String,
    /// Destination port; TCP, UDP and SCTP need one, here or behind `--to`.
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// Source port, or the identifier of an echo request.
    #[arg(long, value_name = "PORT", default_value_t = 40_000)]
    source_port: u16,
}

fn known_protocol(name: &str) -> Result<String, String> {
    protocol(name).map(|_| name.to_owned())
}

/// Who is meant, and the port that stands behind it: `10.0.0.7:5432`, `[fd00::7]:5432`, `shop/db:5432`.
fn split_port(to: &str) -> (&str, Option<u16>) {
    let split = || {
        let (name, port) = to.rsplit_once(':')?;
        let port = port.parse().ok().filter(|port| *port > 0)?;
        let bare = name.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
        Some((bare.unwrap_or(name), port))
    };
    // What is an address as a whole has no port.
    match split() {
        Some((name, port)) if to.parse::<IpAddr>().is_err() => (name, Some(port)),
        _ => (to, None),
    }
}

/// Who is meant, and the port; or what is wrong with it, before any daemon is asked.
fn check_port(args: &Args) -> Result<(&str, u16), String> {
    let (to, behind) = split_port(&args.to);
    let port = match (behind, args.port) {
        (Some(behind), Some(port)) if behind != port => {
            return Err(format!("--to says port {behind}, and --port says {port}"));
        }
        (behind, port) => port.or(behind),
    };
    let protocol = protocol(&args.proto)?;
    let has_ports = protocol.has_ports() || protocol == Protocol::UDPLITE;
    match (has_ports, port) {
        (true, None) => Err(format!("{protocol} needs --port PORT: to which port?")),
        (false, Some(_)) => Err(format!("{protocol} has no ports: leave it out")),
        (_, port) => Ok((to, port.unwrap_or_default())),
    }
}

pub(super) fn run(args: &Args, cli: &Cli) -> Exit {
    let (to, port) = match check_port(args) {
        Ok(checked) => checked,
        Err(error) => {
            output::complain(&error);
            return Exit::Usage;
        }
    };
    let params = Ask {
        from: args.from.clone(),
        to: to.to_owned(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_may_stand_behind_who_is_meant() {
        for (to, name, port) in [
            ("10.0.0.7:5432", "10.0.0.7", Some(5432)),
            ("[fd00::7]:5432", "fd00::7", Some(5432)),
            ("shop/db:5432", "shop/db", Some(5432)),
            ("host:22", "host", Some(22)),
            ("10.0.0.7", "10.0.0.7", None),
            ("fd00::7:5432", "fd00::7:5432", None),
            ("::1", "::1", None),
            ("shop/db", "shop/db", None),
            ("shop/db:http", "shop/db:http", None),
            ("shop/db:0", "shop/db:0", None),
            ("shop/db:70000", "shop/db:70000", None),
        ] {
            assert_eq!(split_port(to), (name, port), "{to}");
        }
    }
}
