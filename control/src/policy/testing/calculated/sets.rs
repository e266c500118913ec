//! IP sets with their members.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::config::Span;
use crate::config::decode::{self, Context};
use crate::config::yaml::{Node, Value};
use crate::policy::model::{IpPort, IpSet};
use crate::policy::rule::{IpSetId, Protocol};

/// All sets of a case.
pub(super) fn ip_sets(node: &Node, cx: &mut Context<'_>) -> Option<BTreeMap<IpSetId, IpSet>> {
    let Value::Map(pairs) = &node.value else {
        cx.error(
            &node.at,
            "ipsets must be a map",
            format!("this is {}", node.value.describe()),
        );
        return None;
    };
    let mut sets = BTreeMap::new();
    for (key, members) in pairs {
        let members = decode::list(|node: &Node, cx: &mut Context<'_>| {
            let text = decode::name(node, cx)?;
            member(&text, &node.at, cx)
        })(members, cx)?;
        let (mut nets, mut ports) = (BTreeSet::new(), BTreeSet::new());
        for member in members {
            match member.value {
                Member::Net(net) => drop(nets.insert(net)),
                Member::Port(port) => drop(ports.insert(port)),
            }
        }
        if !nets.is_empty() && !ports.is_empty() {
            cx.error(
                &key.at,
                "a set of addresses and of ports",
                "must be one of both",
            );
        }
        let set = if ports.is_empty() {
            IpSet::Nets(nets)
        } else {
            IpSet::IpPorts(ports)
        };
        sets.insert(key.name.as_str().into(), set);
    }
    Some(sets)
}

enum Member {
    Net(IpNet),
    Port(IpPort),
}

/// `10.0.0.0/8`, `10.0.0.1`, `10.0.0.1,tcp:80` or `10.0.0.1/32,tcp:80`.
fn member(text: &str, at: &Span, cx: &mut Context<'_>) -> Option<Member> {
    let (address, port) = match text.split_once(',') {
        Some((address, port)) => (address, Some(port)),
        None => (text, None),
    };
    let net = address.parse::<IpNet>().ok();
    let net = net.or_else(|| address.parse::<IpAddr>().ok().map(IpNet::from));
    let port = port.map(|port| {
        let (protocol, port) = port.split_once(':')?;
        Some((Protocol::by_name(protocol)?, port.parse::<u16>().ok()?))
    });
    let member = match (net, port) {
        (Some(net), None) => Some(Member::Net(net.trunc())),
        (Some(net), Some(Some((protocol, port)))) if net.prefix_len() == net.max_prefix_len() => {
            Some(Member::Port(IpPort {
                address: net.addr(),
                protocol,
                port,
            }))
        }
        _ => None,
    };
    if member.is_none() {
        let label = "such as `10.0.0.0/8` or `10.0.0.1,tcp:80`";
        cx.error(at, format!("not a member of an IP set: `{text}`"), label);
    }
    member
}
