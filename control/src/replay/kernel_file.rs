//! A file that says what the kernel of a node would: links, addresses, routes, neighbours.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use encap::eth::MacAddr;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::compile::KernelHop;
use crate::config::decode::{self, Context, Fields};
use crate::config::suggest::nearest;
use crate::config::yaml::{self, Node};
use crate::config::{Diagnostic, Diagnostics, Located, Source};

/// What the file says. An empty one says nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KernelFile {
    /// `links`: the interfaces that matter.
    pub links: Vec<LinkFacts>,
    /// `routes`: the main routing table, beside the connected networks, which follow from `links`.
    pub routes: Vec<RouteFacts>,
    /// `neighbours`: known MAC addresses of the underlay.
    pub neighbours: Vec<NeighbourFacts>,
}

/// An interface.
#[derive(Clone, Debug, PartialEq)]
pub struct LinkFacts {
    /// `name`.
    pub name: Located<String>,
    /// `role`. Default: a pod's where an endpoint names it, the host port by its name, else an uplink.
    pub role: Option<LinkRole>,
    /// `mac`: the interface's own MAC address.
    pub mac: Option<MacAddr>,
    /// `peerMac`: on the host port, the MAC address of the host's end.
    pub peer_mac: Option<MacAddr>,
    /// `mtu` in bytes. Default: 1500.
    pub mtu: u16,
    /// `addresses`, each with the length of its subnet's prefix.
    pub addresses: Vec<IpNet>,
    /// `partialChecksums`: whether packets may come in with partial transport checksums. Default: from pods and the host.
    pub partial_checksums: Option<bool>,
}

/// What an interface is to the dataplane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkRole {
    /// `uplink`: the underlay.
    Uplink,
    /// `host`: the host port.
    Host,
    /// `other`: known to the kernel, not served by the dataplane.
    Other,
}

/// A route.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteFacts {
    /// `to`: a prefix, or `default`.
    pub to: IpNet,
    /// `via` and `dev`, or several of these as `nextHops`; none for a route that leads nowhere.
    pub legs: Vec<LegFacts>,
    /// `type`: where it leads when not over an interface.
    pub nowhere: Option<Nowhere>,
}

/// One way of a route.
#[derive(Clone, Debug, PartialEq)]
pub struct LegFacts {
    /// `via`: the gateway.
    pub via: Option<IpAddr>,
    /// `dev`: the interface.
    pub dev: Located<String>,
    /// `weight`: its share among the others. Default: 1.
    pub weight: u16,
}

/// What becomes of packets where a route leads over no interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nowhere {
    /// `blackhole`.
    Blackhole,
    /// `unreachable`.
    Unreachable,
    /// `prohibit`.
    Prohibit,
}

impl From<Nowhere> for KernelHop {
    fn from(nowhere: Nowhere) -> Self {
        match nowhere {
            Nowhere::Blackhole => Self::Blackhole,
            Nowhere::Unreachable => Self::Unreachable,
            Nowhere::Prohibit => Self::Prohibit,
        }
    }
}

/// A neighbour.
#[derive(Clone, Debug, PartialEq)]
pub struct NeighbourFacts {
    /// `address`.
    pub address: IpAddr,
    /// `dev`: the interface that it is on.
    pub dev: Located<String>,
    /// `mac`.
    pub mac: MacAddr,
}

/// The MTU of a link that does not say.
const MTU: u16 = 1500;

impl KernelFile {
    /// Reads the file.
    ///
    /// # Errors
    /// All that is wrong in it.
    pub fn load(path: &Path) -> Result<Self, Diagnostics> {
        let source = crate::config::read(path).map_err(|error| Diagnostics(vec![*error]))?;
        Self::parse(&source)
    }

    /// Reads a text.
    ///
    /// # Errors
    /// All that is wrong in it.
    pub fn parse(source: &Arc<Source>) -> Result<Self, Diagnostics> {
        let documents = yaml::parse(source).map_err(|error| Diagnostics(vec![*error]))?;
        let mut diagnostics = Diagnostics::default();
        let mut cx = Context {
            diagnostics: &mut diagnostics,
            resource: String::new(),
        };
        if let Some(second) = documents.get(1) {
            let label = "a second one starts here";
            cx.error(&second.at, "this file has one document only", label);
        }
        let mut file = Self::default();
        if let Some(mut fields) = documents
            .first()
            .and_then(|document| Fields::open(document, "the kernel's state", &mut cx))
        {
            file.links = items(fields.get("links", &mut cx, decode::list(link)));
            file.routes = items(fields.get("routes", &mut cx, decode::list(route)));
            file.neighbours = items(fields.get("neighbours", &mut cx, decode::list(neighbour)));
            fields.finish(&mut cx);
        }
        file.check(&mut cx);
        if diagnostics.has_errors() {
            diagnostics.sort();
            return Err(diagnostics);
        }
        Ok(file)
    }

    fn check(&self, cx: &mut Context<'_>) {
        for (index, link) in self.links.iter().enumerate() {
            let mut before = self.links.iter().take(index);
            if let Some(first) = before.find(|other| other.name == link.name) {
                cx.report(
                    Diagnostic::error(format!("link {} is described twice", link.name.value))
                        .at(&link.name.at, "again here")
                        .see("first described here", &first.name.at),
                );
            }
        }
        let legs = self.routes.iter().flat_map(|route| &route.legs);
        let routes = legs.map(|leg| &leg.dev);
        let neighbours = self.neighbours.iter().map(|neighbour| &neighbour.dev);
        for dev in routes.chain(neighbours) {
            let names = || self.links.iter().map(|link| link.name.value.as_str());
            if names().any(|name| name == dev.value) {
                continue;
            }
            let label = match nearest(&dev.value, names()) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => "describe it under `links`".to_owned(),
            };
            cx.error(&dev.at, format!("no link is called `{}`", dev.value), label);
        }
    }
}

fn items<T>(list: Option<Located<Vec<Located<T>>>>) -> Vec<T> {
    let items = list.into_iter().flat_map(|list| list.value);
    items.map(|item| item.value).collect()
}

fn link(node: &Node, cx: &mut Context<'_>) -> Option<LinkFacts> {
    let mut fields = Fields::open(node, "a link", cx)?;
    let roles = [
        ("uplink", LinkRole::Uplink),
        ("host", LinkRole::Host),
        ("other", LinkRole::Other),
    ];
    let name = fields.require("name", cx, decode::interface);
    let role = fields.get("role", cx, decode::choice(&roles, true));
    let mac = fields.get("mac", cx, decode::mac);
    let peer_mac = fields.get("peerMac", cx, decode::mac);
    let mtu = fields.get("mtu", cx, decode::number(68..=65535_u16));
    let addresses = fields.get("addresses", cx, decode::list(decode::address_in_subnet));
    let partial = fields.get("partialChecksums", cx, decode::boolean);
    fields.finish(cx);
    Some(LinkFacts {
        name: name?,
        role: role.map(|role| role.value),
        mac: mac.map(|mac| MacAddr(mac.value.0)),
        peer_mac: peer_mac.map(|mac| MacAddr(mac.value.0)),
        mtu: mtu.map_or(MTU, |mtu| mtu.value),
        addresses: items(addresses),
        partial_checksums: partial.map(|partial| partial.value),
    })
}

fn route(node: &Node, cx: &mut Context<'_>) -> Option<RouteFacts> {
    let mut fields = Fields::open(node, "a route", cx)?;
    let kinds = [
        ("unicast", None),
        ("blackhole", Some(Nowhere::Blackhole)),
        ("unreachable", Some(Nowhere::Unreachable)),
        ("prohibit", Some(Nowhere::Prohibit)),
    ];
    let to = fields.require("to", cx, destination);
    let via = fields.get("via", cx, decode::host_address);
    let dev = fields.get("dev", cx, decode::interface);
    let next_hops = fields.get("nextHops", cx, decode::list(leg));
    let kind = fields.get("type", cx, decode::choice(&kinds, true));
    let at = fields.at().clone();
    fields.finish(cx);
    let via = via.map(|via| via.value);
    let nowhere = kind.and_then(|kind| kind.value);
    let has_several = next_hops.is_some();
    let ways = [nowhere.is_some(), dev.is_some(), has_several];
    if ways.into_iter().filter(|way| *way).count() != 1 || via.is_some() && dev.is_none() {
        let message = "a route needs `dev` (and `via` for a gateway), or `nextHops` with several of these, or a `type` that leads \
                       nowhere";
        cx.error(&at, message, "one of the three");
        return None;
    }
    let mut legs = items(next_hops);
    legs.extend(dev.map(|dev| LegFacts {
        via,
        dev,
        weight: 1,
    }));
    if nowhere.is_none() && legs.is_empty() {
        cx.error(&at, "a route over none", "`nextHops` needs an entry");
        return None;
    }
    let is_v6 = |leg: &LegFacts| leg.via.map(|via| via.is_ipv6());
    let to = match to?.value {
        Some(net) => net,
        None if legs.iter().any(|leg| is_v6(leg) == Some(true)) => Ipv6Net::default().into(),
        None => Ipv4Net::default().into(),
    };
    if legs
        .iter()
        .any(|leg| is_v6(leg).is_some_and(|v6| v6 != to.addr().is_ipv6()))
    {
        cx.error(
            &at,
            "a gateway of the other family",
            "`to` and `via` differ",
        );
        return None;
    }
    Some(RouteFacts { to, legs, nowhere })
}

fn leg(node: &Node, cx: &mut Context<'_>) -> Option<LegFacts> {
    let mut fields = Fields::open(node, "a next hop", cx)?;
    let via = fields.get("via", cx, decode::host_address);
    let dev = fields.require("dev", cx, decode::interface);
    let weight = fields.get("weight", cx, decode::number(1..=u16::MAX));
    fields.finish(cx);
    Some(LegFacts {
        via: via.map(|via| via.value),
        dev: dev?,
        weight: weight.map_or(1, |weight| weight.value),
    })
}

/// A prefix, or `default`: `None`.
#[expect(
    clippy::option_option,
    reason = "the outer one is every decoder's: refused"
)]
fn destination(node: &Node, cx: &mut Context<'_>) -> Option<Option<IpNet>> {
    match &node.value {
        yaml::Value::Text(text) if text == "default" => Some(None),
        _ => decode::cidr(node, cx).map(Some),
    }
}

fn neighbour(node: &Node, cx: &mut Context<'_>) -> Option<NeighbourFacts> {
    let mut fields = Fields::open(node, "a neighbour", cx)?;
    let address = fields.require("address", cx, decode::host_address);
    let dev = fields.require("dev", cx, decode::interface);
    let mac = fields.require("mac", cx, decode::mac);
    fields.finish(cx);
    Some(NeighbourFacts {
        address: address?.value,
        dev: dev?,
        mac: MacAddr(mac?.value.0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<KernelFile, String> {
        KernelFile::parse(&Source::new("kernel.yaml", text)).map_err(|all| all.render(false))
    }

    #[test]
    fn everything_can_be_said() {
        let file = parse(
            "links:
  - { name: eth0, mac: 02:00:00:00:00:01, mtu: 9000, addresses: [172.18.0.2/16, 2001:db8::2/64] }
  - { name: caracal0, role: host, mac: 02:00:00:00:00:02, peerMac: 02:00:00:00:00:03 }
routes:
  - { to: default, via: 172.18.0.1, dev: eth0 }
  - { to: default, via: 2001:db8::1, dev: eth0 }
  - { to: 10.9.0.0/16, type: blackhole }
  - { to: 10.8.0.0/16, nextHops: [{ via: 172.18.0.1, dev: eth0 }, { dev: eth0, weight: 3 }] }
neighbours:
  - { address: 172.18.0.1, dev: eth0, mac: 02:00:00:00:00:04 }
",
        )
        .expect("a good file");
        assert_eq!(file.links[0].mtu, 9000);
        assert_eq!(file.links[1].role, Some(LinkRole::Host));
        assert_eq!(file.links[1].mtu, 1500);
        let to: Vec<String> = file
            .routes
            .iter()
            .map(|route| route.to.to_string())
            .collect();
        assert_eq!(to, ["0.0.0.0/0", "::/0", "10.9.0.0/16", "10.8.0.0/16"]);
        assert_eq!(file.routes[2].nowhere, Some(Nowhere::Blackhole));
        let legs: Vec<_> = file.routes[3]
            .legs
            .iter()
            .map(|leg| (leg.via.is_some(), leg.weight))
            .collect();
        assert_eq!(legs, [(true, 1), (false, 3)]);
        assert_eq!(file.neighbours[0].mac, MacAddr([2, 0, 0, 0, 0, 4]));
        assert_eq!(parse(""), Ok(KernelFile::default()));
    }

    #[test]
    fn mistakes_are_told_with_their_places() {
        let cases = [
            ("links: [{ nam: eth0 }]", "kernel.yaml:1:11"),
            ("links: [{ name: e, mtu: 12 }]", "kernel.yaml:1:25"),
            ("links: [{ name: e }, { name: e }]", "described twice"),
            (
                "links: [{ name: eth0 }]\nroutes: [{ to: default, dev: eht0 }]",
                "did you mean `eth0`?",
            ),
            ("routes: [{ to: default }]", "a route needs `dev`"),
            ("routes: [{ to: default, nextHops: [] }]", "needs an entry"),
            (
                "links: [{ name: e }]\nroutes: [{ to: default, dev: e, nextHops: [{ dev: e }] }]",
                "one of the three",
            ),
            (
                "links: [{ name: e }]\nroutes: [{ to: default, nextHops: [{ dev: e, weight: 0 }] }]",
                "kernel.yaml:2:",
            ),
            (
                "links: [{ name: e }]\nroutes: [{ to: default, nextHops: [{ dev: f }] }]",
                "no link is called `f`",
            ),
            (
                "routes: [{ to: 10.0.0.1/8, type: blackhole }]",
                "kernel.yaml:1:16",
            ),
            (
                "links: [{ name: e }]\nroutes: [{ to: 10.0.0.0/8, via: 2001:db8::1, dev: e }]",
                "other family",
            ),
            (
                "neighbours: [{ address: 10.0.0.1, dev: e }]",
                "needs the field `mac`",
            ),
            ("a: 1\n---\nb: 2", "one document only"),
        ];
        for (text, expected) in cases {
            let found = parse(text).expect_err(text);
            assert!(found.contains(expected), "{text}: {found}");
        }
    }
}
