//! Routes of a table, and the rules that send lookups there.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::route::{
    RouteAttribute, RouteFlags, RouteMessage, RouteProtocol, RouteScope, RouteType, RouteVia,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::link::family_of;
use super::{Writer, unless};
use crate::netlink::PROTOCOL;
use crate::netlink::decode::{RouteEntry, route};
use crate::netlink::mirror::routes_of;
use crate::netlink::model::Route;
use crate::netlink::socket::Result;

/// A route to be made; it carries our protocol number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewRoute {
    /// Routing table.
    pub table: u32,
    /// Destination.
    pub dst: IpNet,
    /// Metric. IPv6 takes 0 for 1024.
    pub metric: u32,
    /// Where it leads.
    pub target: RouteTarget,
    /// Source address for packets of this host; it must be one of its own.
    pub pref_src: Option<IpAddr>,
}

/// Where a route leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteTarget {
    /// Over an interface, to a router or to the destination itself.
    Link {
        /// The interface.
        ifindex: u32,
        /// The router, of either family.
        gateway: Option<IpAddr>,
        /// The router is on the link although no address says so.
        onlink: bool,
    },
    /// Nowhere, silently.
    Blackhole,
    /// Nowhere, with an ICMP error.
    Unreachable,
}

impl Writer {
    /// Makes a route, in place of one with the same table, destination and metric.
    ///
    /// # Errors
    /// What the kernel says: no such interface, a gateway that is not on the link, a preferred source that is not ours.
    pub fn replace_route(&mut self, new: &NewRoute) -> Result<()> {
        let message = RouteNetlinkMessage::NewRoute(message(new));
        let what = || format!("route {} in table {}", new.dst, new.table);
        self.requests
            .change(message, NLM_F_CREATE | NLM_F_REPLACE, what)
    }

    /// Deletes the route of this table, destination and metric, if it is one of ours.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn delete_route(&mut self, table: u32, dst: IpNet, metric: u32) -> Result<()> {
        let mut message = bare(table, dst, metric);
        // The kernel takes scope "nowhere" and an unspecified type for "any".
        message.header.scope = RouteScope::NoWhere;
        message.header.kind = RouteType::Unspec;
        let outcome = self
            .requests
            .change(RouteNetlinkMessage::DelRoute(message), 0, || {
                format!("delete the route to {dst} from table {table}")
            });
        unless(outcome, &[libc::ESRCH, libc::ENOENT])
    }

    /// The routes of a table as the kernel has them now, whoever made them.
    ///
    /// # Errors
    /// When the kernel refuses the dump.
    pub fn routes(&mut self, table: u32) -> Result<Vec<Route>> {
        let mut found = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let request = RouteNetlinkMessage::GetRoute(routes_of(family, table));
            let outcome = self
                .requests
                .dump(request, "list the routes of a table", |message| {
                    // A kernel without IPv6 answers with all it has.
                    if message.payload.first() != Some(&u8::from(family)) {
                        return;
                    }
                    if let Some(RouteEntry { dst, metric, path }) = route(message.payload, table) {
                        found.push(Route {
                            dst,
                            metric,
                            path: path.into(),
                        });
                    }
                });
            unless(outcome.map(drop), &[libc::ENOENT])?;
        }
        Ok(found)
    }

    /// Deletes all of our routes from a table.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn flush_table(&mut self, table: u32) -> Result<()> {
        for route in self
            .routes(table)?
            .iter()
            .filter(|route| route.protocol == PROTOCOL)
        {
            self.delete_route(table, route.dst, route.metric)?;
        }
        Ok(())
    }

    /// Adds the rule `pref PREFERENCE from all lookup TABLE` for one family. Returns whether it was missing.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn add_rule(&mut self, family: AddressFamily, preference: u32, table: u32) -> Result<bool> {
        let message = RouteNetlinkMessage::NewRule(rule(family, preference, table));
        let outcome = self
            .requests
            .change(message, NLM_F_CREATE | NLM_F_EXCL, || {
                format!("add the rule to look up table {table} at preference {preference}")
            });
        match outcome {
            Err(error) if error.is(libc::EEXIST) => Ok(false),
            outcome => outcome.map(|()| true),
        }
    }

    /// Deletes that rule, wherever it came from.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn delete_rule(
        &mut self,
        family: AddressFamily,
        preference: u32,
        table: u32,
    ) -> Result<()> {
        let message = RouteNetlinkMessage::DelRule(rule(family, preference, table));
        let outcome = self.requests.change(message, 0, || {
            format!("delete the rule to look up table {table} at preference {preference}")
        });
        unless(outcome, &[libc::ENOENT])
    }
}

fn bare(table: u32, dst: IpNet, metric: u32) -> RouteMessage {
    let mut message = routes_of(family_of(dst.addr()), table);
    message.header.destination_prefix_length = dst.prefix_len();
    message.header.protocol = RouteProtocol::Other(PROTOCOL);
    message.header.kind = RouteType::Unicast;
    message
        .attributes
        .push(RouteAttribute::Destination(dst.network().into()));
    message.attributes.push(RouteAttribute::Priority(metric));
    message
}

fn message(new: &NewRoute) -> RouteMessage {
    let mut message = bare(new.table, new.dst, new.metric);
    match new.target {
        RouteTarget::Link {
            ifindex,
            gateway,
            onlink,
        } => {
            message.attributes.push(RouteAttribute::Oif(ifindex));
            match gateway {
                Some(via) if via.is_ipv4() != new.dst.addr().is_ipv4() => {
                    message
                        .attributes
                        .push(RouteAttribute::Via(RouteVia::from(via)));
                }
                Some(via) => message.attributes.push(RouteAttribute::Gateway(via.into())),
                // IPv4 wants to know that the destination itself is on the link.
                None if new.dst.addr().is_ipv4() => message.header.scope = RouteScope::Link,
                None => {}
            }
            if onlink {
                message.header.flags = RouteFlags::Onlink;
            }
        }
        RouteTarget::Blackhole => message.header.kind = RouteType::BlackHole,
        RouteTarget::Unreachable => message.header.kind = RouteType::Unreachable,
    }
    message.attributes.extend(
        new.pref_src
            .map(|src| RouteAttribute::PrefSource(src.into())),
    );
    message
}

fn rule(family: AddressFamily, preference: u32, table: u32) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = family;
    message.header.action = RuleAction::ToTable;
    message.attributes = vec![
        RuleAttribute::Priority(preference),
        RuleAttribute::Table(table),
        RuleAttribute::Protocol(RouteProtocol::Other(PROTOCOL)),
    ];
    message
}
