//! Tests over resources: a table of who reaches whom.
//!
//! ```yaml
//! apiVersion: caracal/v1
//! kind: PolicyTest
//! metadata: {name: shop}
//! spec:
//!   resources: [policies]
//!   tests:
//!     - {from: shop/web, to: shop/db, protocol: TCP, port: 5432, expected: Allow}
//! ```

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::config::decode::{self, Context, Fields};
use crate::config::source::Located;
use crate::config::yaml::{Node, Value};
use crate::policy::packet::State;
use crate::policy::rule::{Family, Protocol};
use crate::policy::verdict::Outcome;

/// What `apiVersion` says of such a document.
pub(super) const API_VERSION: &str = "caracal/v1";
/// What `kind` says of such a document.
pub(super) const KIND: &str = "PolicyTest";

/// One document of tests.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) name: String,
    /// Files and directories of resources.
    pub(super) resources: Vec<PathBuf>,
    /// Node of the host endpoints and settings that count.
    pub(super) node: Option<Located<String>>,
    pub(super) rows: Vec<Row>,
}

/// One test.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) name: Option<String>,
    pub(super) from: Located<String>,
    pub(super) to: Located<String>,
    pub(super) protocol: Protocol,
    pub(super) port: Option<u16>,
    pub(super) source_port: u16,
    pub(super) icmp: (u8, u8),
    pub(super) family: Option<Located<Family>>,
    pub(super) interface: Option<Located<String>>,
    pub(super) original_dst: Option<(IpAddr, Option<u16>)>,
    pub(super) state: State,
    pub(super) expected: Outcome,
    pub(super) decided_by: Option<String>,
    pub(super) at: Located<()>,
}

/// Source port of packets whose test says none.
const SOURCE_PORT: u16 = 40000;

/// True if a document is one of tests.
pub(crate) fn is_table(document: &Node) -> bool {
    let Value::Map(pairs) = &document.value else {
        return false;
    };
    let says = |name: &str, wanted: &str| {
        let mut pairs = pairs.iter().filter(|(key, _)| key.name == name);
        pairs.any(|(_, node)| matches!(&node.value, Value::Text(text) if text == wanted))
    };
    says("kind", KIND) || says("apiVersion", API_VERSION)
}

/// Decodes a document. Paths in it count from the file's directory.
pub(super) fn decode(document: &Node, beside: &Path, cx: &mut Context<'_>) -> Option<Table> {
    cx.resource.clear();
    let mut fields = Fields::open(document, "a test", cx)?;
    let versions = [(API_VERSION, ())];
    let _ = fields.require("apiVersion", cx, decode::choice(&versions, true));
    let kinds = [(KIND, ())];
    let _ = fields.require("kind", cx, decode::choice(&kinds, true));
    let name = fields.take("metadata").and_then(|node| metadata(node, cx));
    let name = name.unwrap_or_default();
    cx.resource = match name.as_str() {
        "" => KIND.to_owned(),
        name => format!("{KIND} {name}"),
    };
    let spec = fields.require("spec", cx, |node, cx| spec(node, beside, cx));
    fields.finish(cx);
    let (resources, node, rows) = spec?.value;
    Some(Table {
        name,
        resources,
        node,
        rows,
    })
}

fn metadata(node: &Node, cx: &mut Context<'_>) -> Option<String> {
    let mut fields = Fields::open(node, "metadata", cx)?;
    let name = fields.get("name", cx, decode::name);
    fields.accept(&["labels", "annotations"]);
    fields.finish(cx);
    name.map(|name| name.value)
}

type Spec = (Vec<PathBuf>, Option<Located<String>>, Vec<Row>);

fn spec(node: &Node, beside: &Path, cx: &mut Context<'_>) -> Option<Spec> {
    let mut fields = Fields::open(node, "spec", cx)?;
    let resources = fields.get("resources", cx, decode::list(decode::name));
    let node_name = fields.get("node", cx, decode::name);
    let rows = fields.require("tests", cx, decode::list(row));
    fields.finish(cx);
    let resources = resources.into_iter().flat_map(|list| list.value);
    let resources = resources.map(|path| beside.join(path.value)).collect();
    let rows = rows?.value.into_iter();
    Some((resources, node_name, rows.map(|row| row.value).collect()))
}

fn row(node: &Node, cx: &mut Context<'_>) -> Option<Row> {
    let mark = cx.mark();
    let mut fields = Fields::open(node, "a test", cx)?;
    let name = fields.get("name", cx, decode::name);
    let from = fields.require("from", cx, decode::name);
    let to = fields.require("to", cx, decode::name);
    let protocol = fields.require("protocol", cx, protocol);
    let port = fields.get("port", cx, decode::port);
    let source_port = fields.get("sourcePort", cx, decode::port);
    let icmp = fields.get("icmp", cx, icmp);
    let family = fields.get("ipVersion", cx, family);
    let interface = fields.get("interface", cx, decode::interface);
    let original = fields.get("sentTo", cx, sent_to);
    let states = [
        ("New", State::New),
        ("Established", State::Established),
        ("Invalid", State::Invalid),
    ];
    let state = fields.get("connection", cx, decode::choice(&states, true));
    let outcomes = [("Allow", Outcome::Allow), ("Deny", Outcome::Deny)];
    let expected = fields.require("expected", cx, decode::choice(&outcomes, true));
    let decided_by = fields.get("decidedBy", cx, decode::name);
    fields.finish(cx);
    let protocol = protocol?;
    if let Some(port) = &port
        && !protocol.has_ports()
    {
        cx.error(
            &port.at,
            format!("{} has no ports", protocol.value),
            "leave this out",
        );
    }
    if port.is_none() && protocol.has_ports() {
        if !cx.has_errors_since(mark) {
            let label = format!("add `port`, the destination's {} port", protocol.value);
            cx.error(&protocol.at, "a test without a port", label);
        }
        return None;
    }
    let is_icmp = [Protocol::ICMP, Protocol::ICMPV6].contains(&protocol.value);
    if let Some(icmp) = &icmp
        && !is_icmp
    {
        cx.error(
            &icmp.at,
            format!("{} has no ICMP types", protocol.value),
            "leave this out",
        );
    }
    // Echo requests, if nothing else is said.
    let echo = if protocol.value == Protocol::ICMPV6 {
        128
    } else {
        8
    };
    Some(Row {
        name: name.map(|name| name.value),
        from: from?,
        to: to?,
        protocol: protocol.value,
        port: port.map(|port| port.value),
        source_port: source_port.map_or(SOURCE_PORT, |port| port.value),
        icmp: icmp.map_or((echo, 0), |icmp| icmp.value),
        family,
        interface,
        original_dst: original.map(|original| original.value),
        state: state.map(|state| state.value).unwrap_or_default(),
        expected: expected?.value,
        decided_by: decided_by.map(|by| by.value),
        at: Located {
            value: (),
            at: node.at.clone(),
        },
    })
}

fn protocol(node: &Node, cx: &mut Context<'_>) -> Option<Protocol> {
    if let Value::Int(_) = node.value {
        return decode::number(1..=255u8)(node, cx).map(Protocol);
    }
    decode::choice(&Protocol::NAMES, true)(node, cx)
}

fn icmp(node: &Node, cx: &mut Context<'_>) -> Option<(u8, u8)> {
    let mut fields = Fields::open(node, "icmp", cx)?;
    let kind = fields.require("type", cx, decode::number(0..=255u8));
    let code = fields.get("code", cx, decode::number(0..=255u8));
    fields.finish(cx);
    Some((kind?.value, code.map_or(0, |code| code.value)))
}

fn family(node: &Node, cx: &mut Context<'_>) -> Option<Family> {
    match node.value {
        Value::Int(4) => Some(Family::V4),
        Value::Int(6) => Some(Family::V6),
        _ => {
            cx.error(&node.at, "no such IP version", "must be 4 or 6");
            None
        }
    }
}

/// The destination before it was translated.
fn sent_to(node: &Node, cx: &mut Context<'_>) -> Option<(IpAddr, Option<u16>)> {
    let mut fields = Fields::open(node, "sentTo", cx)?;
    let address = fields.require("address", cx, decode::host_address);
    let port = fields.get("port", cx, decode::port);
    fields.finish(cx);
    Some((address?.value, port.map(|port| port.value)))
}
