//! `caracal routes [for IP]`: the routes as pollers have them.

use std::net::IpAddr;

use super::table::{Align, Table, one_line, or_dash};
use super::{Cli, Exit, Output, ask, output};
use crate::api::report::{Route, Routes};
use crate::api::{Client, MAX_PAGE, Method, RoutesParams};
use crate::compile::{LegView, RouteKind, RouteState};
use crate::words::{counted, number};

/// Arguments of `caracal routes`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// At most as many; 0: all.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    limit: usize,
    #[command(subcommand)]
    only: Option<Only>,
}

/// Which route.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Only {
    /// The one that packets to an address take.
    #[command(visible_alias = "get")]
    For {
        /// The address.
        #[arg(value_name = "IP")]
        addr: IpAddr,
    },
}

pub(super) fn run(args: &Args, cli: &Cli) -> Exit {
    let mut client = match ask::connect(cli) {
        Ok(client) => client,
        Err(exit) => return exit,
    };
    let dst = args.only.as_ref().map(|Only::For { addr }| *addr);
    let limit = if args.limit == 0 {
        usize::MAX
    } else {
        args.limit
    };
    let routes = match fetch(&mut client, dst, limit) {
        Ok(routes) => routes,
        Err(error) => return ask::complain(&error),
    };
    let text = match (cli.output, dst) {
        (Output::Json, _) => ask::to_json("caracal.routes/v1", &routes),
        (Output::Table | Output::Wide, Some(addr)) => routes.routes.first().map_or_else(
            || format!("{addr}: no route; packets there are dropped (caracal explain no-route)\n"),
            render_one,
        ),
        (Output::Table | Output::Wide, None) => render(&routes),
    };
    output::print(&text, Exit::Ok)
}

/// Page by page, so that the daemon never stops for long.
fn fetch(
    client: &mut Client,
    dst: Option<IpAddr>,
    limit: usize,
) -> Result<Routes, crate::api::ClientError> {
    let mut all: Option<Routes> = None;
    loop {
        let (after, have) = all
            .as_ref()
            .map_or((None, 0), |all| (all.next, all.routes.len()));
        let params = RoutesParams {
            dst,
            after,
            limit: Some((limit - have).min(MAX_PAGE)),
        };
        let page: Routes = client.call(Method::Routes(params))?;
        let all = all.get_or_insert(Routes {
            total: 0,
            routes: Vec::new(),
            next: None,
        });
        all.total = page.total;
        all.next = page.next;
        all.routes.extend(page.routes);
        if all.next.is_none() || all.routes.len() >= limit {
            return Ok(all.clone());
        }
    }
}

fn render(routes: &Routes) -> String {
    use Align::{Left, Right};
    let mut table = Table::new(&[
        ("DESTINATION", Left),
        ("KIND", Left),
        ("NODE", Left),
        ("VIA", Left),
        ("DEV", Left),
        ("MTU", Right),
        ("MAC", Left),
        ("STATE", Left),
        ("FROM", Left),
    ]);
    for route in &routes.routes {
        table.push(&[
            route.prefix.to_string(),
            route.kind.name().to_owned(),
            or_dash(route.node.as_ref()),
            match route.legs.len() {
                0 => or_dash(route.via.as_ref()),
                legs => counted(legs as u64, "leg"),
            },
            or_dash(route.dev.as_ref()),
            or_dash(route.mtu.as_ref()),
            or_dash(route.mac.as_ref()),
            state(route),
            route.source.name().to_owned(),
        ]);
        for leg in &route.legs {
            table.push(&[
                format!("  weight {}", leg.weight),
                share(leg),
                String::new(),
                or_dash(leg.via.as_ref()),
                or_dash(leg.dev.as_ref()),
                or_dash(leg.mtu.as_ref()),
                or_dash(leg.mac.as_ref()),
                leg.state.name().to_owned(),
                String::new(),
            ]);
        }
    }
    let more = routes.total.saturating_sub(routes.routes.len());
    let more = match more {
        0 => String::new(),
        more => format!(", {} more (--limit 0 shows all)", number(more as u64)),
    };
    let shown = counted(routes.routes.len() as u64, "route");
    format!("{table}{shown}{more}\n")
}

fn render_one(route: &Route) -> String {
    let part = |name: &str, value: Option<String>| {
        value.map_or(String::new(), |value| {
            format!("  {name} {}", one_line(&value))
        })
    };
    let text = |value: &Option<IpAddr>| value.map(|value| value.to_string());
    let legs = route.legs.iter().map(|leg| {
        format!(
            "  leg{}{}  weight {}{}{}  {}  {}\n",
            part("via", text(&leg.via)),
            part("dev", leg.dev.clone()),
            leg.weight,
            part("mtu", leg.mtu.map(|mtu| mtu.to_string())),
            part("mac", leg.mac.clone()),
            leg.state.name(),
            share(leg)
        )
    });
    format!(
        "{}  {}{}{}{}{}{}{}  from {}  {}\n{}",
        route.prefix,
        route.kind.name(),
        part("node", route.node.clone()),
        part("remote", text(&route.remote)),
        part("via", text(&route.via)),
        part("dev", route.dev.clone()),
        part("mtu", route.mtu.map(|mtu| mtu.to_string())),
        part("mac", route.mac.clone()),
        route.source.name(),
        state(route),
        legs.collect::<String>()
    )
}

/// Which part of the flows a leg takes.
fn share(leg: &LegView) -> String {
    if leg.used {
        format!("{}% of flows", leg.share_percent)
    } else {
        "not used".to_owned()
    }
}

/// Whether packets go there; a connected network has a MAC address for each neighbour.
fn state(route: &Route) -> String {
    match (route.state, &route.reason) {
        (RouteState::Drop, Some(reason)) => format!("drop: {}", one_line(reason)),
        (RouteState::Unresolved, _) if route.kind == RouteKind::Connected => "on demand".to_owned(),
        (state, _) => state.name().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::golden;

    #[test]
    fn routes_in_columns_and_one_by_one() {
        let routes: Routes =
            serde_json::from_str(include_str!("../../tests/golden/routes.json")).unwrap();
        let mut text = render(&routes);
        for route in &routes.routes {
            text.push('\n');
            text += &render_one(route);
        }
        golden::check("routes.txt", &text);
    }
}
