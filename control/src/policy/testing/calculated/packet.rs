//! Packets of cases.

use crate::config::decode::{self, Context, Fields};
use crate::config::yaml::Node;
use crate::policy::packet::{Packet, State};
use crate::policy::rule::Protocol;

/// A packet as a case has it.
pub(super) struct CasePacket {
    pub(super) packet: Packet,
    pub(super) from_host: bool,
    pub(super) to_host: bool,
}

pub(super) fn packet(node: &Node, cx: &mut Context<'_>) -> Option<CasePacket> {
    let mut fields = Fields::open(node, "a packet", cx)?;
    let protocol = fields.require("proto", cx, decode::number(0..=255u8));
    let address =
        |node: &Node, cx: &mut Context<'_>| Some(decode::address_in_subnet(node, cx)?.addr());
    let src = fields.require("src", cx, address);
    let dst = fields.require("dst", cx, address);
    let original = fields.get("pre_nat_dst", cx, address);
    let mut number = |name, cx: &mut Context<'_>| {
        let number = fields.get(name, cx, decode::number(0..=65535u16));
        number.map(|number| number.value)
    };
    let ports = (number("sport", cx), number("dport", cx));
    let original_port = number("pre_nat_dport", cx);
    let icmp = (number("icmp_type", cx), number("icmp_code", cx));
    let mut is = |name| {
        fields
            .get(name, cx, decode::boolean)
            .is_some_and(|on| on.value)
    };
    let (from_host, to_host) = (is("from_host"), is("to_host"));
    fields.finish(cx);
    let ports = match ports {
        (None, None) => None,
        (src, dst) => Some((src.unwrap_or(0), dst.unwrap_or(0))),
    };
    let icmp = icmp.0.map(|kind| (kind as u8, icmp.1.unwrap_or(0) as u8));
    let to_port = ports.map_or(0, |(_, dst)| dst);
    Some(CasePacket {
        packet: Packet {
            src: src?.value,
            dst: dst?.value,
            protocol: Protocol(protocol?.value),
            ports,
            icmp,
            original_dst: original.map(|dst| (dst.value, original_port.unwrap_or(to_port))),
            state: State::New,
        },
        from_host,
        to_host,
    })
}
