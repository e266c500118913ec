//! Neighbour discovery (RFC 4861): solicitations and advertisements, and telling routers' messages.

use core::fmt;

use crate::bytes::Writer;
use crate::checksum::verify_v6;
use crate::eth::{self, EtherType, MacAddr};
use crate::icmp6::{put_header, seal};
use crate::ipv6::{self, AddrClass, Ipv6Info};
use crate::l4;

#[cfg(test)]
mod tests;

/// The hop limit of all these messages: none can come from beyond the link.
pub const HOP_LIMIT: u8 = 255;
/// Length of a frame with a solicitation or advertisement and one link-layer address option, in bytes.
pub const FRAME_LEN: usize = eth::HEADER_LEN + ipv6::HEADER_LEN + MESSAGE_LEN;
/// `ff02::1`, all nodes of the link.
pub const ALL_NODES: u128 = 0xff02 << 112 | 1;

const MESSAGE_LEN: usize = 32;
const SOURCE_LINK_LAYER: u8 = 1;
const TARGET_LINK_LAYER: u8 = 2;

/// ICMPv6 types of neighbour discovery.
mod kind {
    pub(super) const ROUTER_SOLICITATION: u8 = 133;
    pub(super) const ROUTER_ADVERTISEMENT: u8 = 134;
    pub(super) const SOLICITATION: u8 = 135;
    pub(super) const ADVERTISEMENT: u8 = 136;
    pub(super) const REDIRECT: u8 = 137;
}

/// `ff02::1:ffXX:XXXX`, the group that the owner of `target` listens to (RFC 4291 section 2.7.1).
#[must_use]
pub const fn solicited_node(target: u128) -> u128 {
    0xff02 << 112 | 0x1_ff00_0000 | (target & 0x00ff_ffff)
}

/// Whether an ICMPv6 type belongs to neighbour discovery: 133 to 137.
#[inline]
pub const fn is_ndp(icmp_type: u8) -> bool {
    icmp_type >= kind::ROUTER_SOLICITATION && icmp_type <= kind::REDIRECT
}

/// A neighbour solicitation: "who has the target address?"
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Solicitation {
    /// Address asked for, host order.
    pub target: u128,
    /// The asker's hardware address, if told.
    pub source_mac: Option<MacAddr>,
}

/// A neighbour advertisement: "the target address is here."
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advertisement {
    /// Address told about, host order.
    pub target: u128,
    /// Its hardware address, if told.
    pub target_mac: Option<MacAddr>,
    /// The sender is a router.
    pub router: bool,
    /// An answer to a solicitation.
    pub solicited: bool,
    /// Replaces what is known.
    pub overrides: bool,
}

/// A checked message of neighbour discovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ndp {
    /// Who has it?
    Solicitation(Solicitation),
    /// Here it is.
    Advertisement(Advertisement),
    /// A host looks for routers; its content is not read.
    RouterSolicitation,
    /// A router speaks. From a pod: rogue (RFC 6105). Its content is not read.
    RouterAdvertisement,
    /// A better first hop is told. From a pod: rogue. Its content is not read.
    Redirect,
}

/// Why a message is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum NdpError {
    /// Not neighbour discovery at all.
    NotNdp,
    /// In a fragment (RFC 6980).
    Fragmented,
    /// The hop limit is not 255: it came from beyond the link, or pretends.
    HopLimit,
    /// The checksum is wrong.
    Checksum,
    /// The code is not 0.
    Code,
    /// Shorter than the message.
    Truncated,
    /// The target is a group.
    Target,
    /// An option of length 0, beyond the message, or too short for what it is.
    BadOption,
    /// Source or destination address forbids such a message (RFC 4861 sections 7.1.1 and 7.1.2).
    Address,
}

impl fmt::Display for NdpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotNdp => "not a neighbour discovery message",
            Self::Fragmented => "fragmented neighbour discovery message",
            Self::HopLimit => "neighbour discovery message whose hop limit is not 255",
            Self::Checksum => "neighbour discovery message with a wrong checksum",
            Self::Code => "neighbour discovery message whose code is not 0",
            Self::Truncated => "packet cut inside a neighbour discovery message",
            Self::Target => "neighbour discovery for a multicast target",
            Self::BadOption => "neighbour discovery option with a bad length",
            Self::Address => "neighbour discovery message between addresses that forbid it",
        })
    }
}

impl core::error::Error for NdpError {}

/// Reads the neighbour discovery message in `l3`, the packet that `ip` was parsed from, with all checks of
/// RFC 4861 sections 6.1, 7.1 and 8.1 that do not need more than the packet.
pub fn parse(l3: &[u8], ip: &Ipv6Info) -> Result<Ndp, NdpError> {
    let message = l3
        .get(usize::from(ip.upper.offset)..ip.total_len())
        .ok_or(NdpError::Truncated)?;
    let Some((&[kind, code, ..], body)) = message.split_first_chunk::<8>() else {
        return Err(if ip.upper.protocol == l4::ICMPV6 {
            NdpError::Truncated
        } else {
            NdpError::NotNdp
        });
    };
    if ip.upper.protocol != l4::ICMPV6 || !is_ndp(kind) {
        return Err(NdpError::NotNdp);
    }
    // An atomic fragment too: section 5 of RFC 6980 makes no exception.
    if ip.upper.fragment.is_some() {
        return Err(NdpError::Fragmented);
    }
    if ip.hop_limit != HOP_LIMIT {
        return Err(NdpError::HopLimit);
    }
    if code != 0 {
        return Err(NdpError::Code);
    }
    if !verify_v6(ip.src, ip.dst, l4::ICMPV6, message) {
        return Err(NdpError::Checksum);
    }
    match kind {
        kind::SOLICITATION => parse_solicitation(ip, body).map(Ndp::Solicitation),
        kind::ADVERTISEMENT => parse_advertisement(ip, message, body).map(Ndp::Advertisement),
        kind::ROUTER_SOLICITATION => Ok(Ndp::RouterSolicitation),
        kind::ROUTER_ADVERTISEMENT => Ok(Ndp::RouterAdvertisement),
        _ => Ok(Ndp::Redirect),
    }
}

/// RFC 4861 section 7.1.1. `body` starts at the target address.
fn parse_solicitation(ip: &Ipv6Info, body: &[u8]) -> Result<Solicitation, NdpError> {
    let (target, options) = parse_target(body)?;
    let source_mac = link_layer_option(options, SOURCE_LINK_LAYER)?;
    match ipv6::class(ip.src) {
        // Duplicate address detection: to the solicited-node group, and nothing to learn from it.
        AddrClass::Unspecified if ip.dst == solicited_node(target) && source_mac.is_none() => {}
        AddrClass::Unicast | AddrClass::LinkLocal => {}
        _ => return Err(NdpError::Address),
    }
    Ok(Solicitation { target, source_mac })
}

/// RFC 4861 section 7.1.2. `body` starts at the target address.
fn parse_advertisement(
    ip: &Ipv6Info,
    message: &[u8],
    body: &[u8],
) -> Result<Advertisement, NdpError> {
    let (target, options) = parse_target(body)?;
    let target_mac = link_layer_option(options, TARGET_LINK_LAYER)?;
    let flags = message.get(4).copied().unwrap_or_default();
    let advertisement = Advertisement {
        target,
        target_mac,
        router: flags & 0x80 != 0,
        solicited: flags & 0x40 != 0,
        overrides: flags & 0x20 != 0,
    };
    let to_group = ipv6::class(ip.dst) == AddrClass::Multicast;
    let from_host = matches!(
        ipv6::class(ip.src),
        AddrClass::Unicast | AddrClass::LinkLocal
    );
    if !from_host || (to_group && advertisement.solicited) {
        Err(NdpError::Address)
    } else {
        Ok(advertisement)
    }
}

fn parse_target(body: &[u8]) -> Result<(u128, &[u8]), NdpError> {
    let (target, options) = body.split_first_chunk().ok_or(NdpError::Truncated)?;
    let target = u128::from_be_bytes(*target);
    if ipv6::class(target) == AddrClass::Multicast {
        Err(NdpError::Target)
    } else {
        Ok((target, options))
    }
}

/// Walks all options, each of which must have a length; returns the Ethernet address in the one of type `wanted`.
fn link_layer_option(mut options: &[u8], wanted: u8) -> Result<Option<MacAddr>, NdpError> {
    let mut found = None;
    while let [kind, len, ..] = options {
        // In units of 8 bytes, type and length included.
        let len = usize::from(*len) * 8;
        let (option, rest) = options
            .split_at_checked(len)
            .filter(|_| len != 0)
            .ok_or(NdpError::BadOption)?;
        if *kind == wanted {
            // Ethernet's option is one unit (RFC 2464 section 6).
            let &[_, _, m0, m1, m2, m3, m4, m5] = option else {
                return Err(NdpError::BadOption);
            };
            found = Some(MacAddr([m0, m1, m2, m3, m4, m5]));
        }
        options = rest;
    }
    if options.is_empty() {
        Ok(found)
    } else {
        Err(NdpError::BadOption)
    }
}

/// One end of an exchange on the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Station {
    /// IPv6 address, host order.
    pub ip: u128,
    /// Ethernet address.
    pub mac: MacAddr,
}

/// The frame that answers `solicitation`, which came from `asker`, on behalf of the target: `ours` has it, and is a router.
///
/// Solicited, to the asker; or to all nodes and unsolicited, if the asker has no address yet (RFC 4861 section 7.2.4).
/// Never overriding, because we answer as a proxy (section 7.2.8).
#[must_use]
pub fn build_reply(solicitation: &Solicitation, asker: Station, ours: Station) -> [u8; FRAME_LEN] {
    let solicited = asker.ip != 0;
    let to = if solicited {
        asker
    } else {
        Station {
            ip: ALL_NODES,
            mac: MacAddr::of_ipv6_group(ALL_NODES),
        }
    };
    let advertisement = Advertisement {
        target: solicitation.target,
        target_mac: Some(ours.mac),
        router: true,
        solicited,
        overrides: false,
    };
    build_advertisement(&advertisement, ours, to)
}

/// A frame with an advertisement; its option holds `target_mac`, or the sender's own address if there is none.
#[must_use]
pub fn build_advertisement(
    advertisement: &Advertisement,
    from: Station,
    to: Station,
) -> [u8; FRAME_LEN] {
    let flags = u8::from(advertisement.router) << 7
        | u8::from(advertisement.solicited) << 6
        | u8::from(advertisement.overrides) << 5;
    let option = (
        TARGET_LINK_LAYER,
        advertisement.target_mac.unwrap_or(from.mac),
    );
    frame(
        from,
        to,
        [kind::ADVERTISEMENT, flags],
        advertisement.target,
        option,
    )
}

/// The frame that asks for `target`: to its solicited-node group, or to one station that is believed to have it.
#[must_use]
pub fn build_solicitation(from: Station, target: u128, to: Option<MacAddr>) -> [u8; FRAME_LEN] {
    let group = solicited_node(target);
    let to = match to {
        Some(mac) => Station { ip: target, mac },
        None => Station {
            ip: group,
            mac: MacAddr::of_ipv6_group(group),
        },
    };
    frame(
        from,
        to,
        [kind::SOLICITATION, 0],
        target,
        (SOURCE_LINK_LAYER, from.mac),
    )
}

fn frame(
    from: Station,
    to: Station,
    [kind, flags]: [u8; 2],
    target: u128,
    (option, mac): (u8, MacAddr),
) -> [u8; FRAME_LEN] {
    let mut frame = [0; FRAME_LEN];
    let (ethernet, packet) = frame.split_at_mut(eth::HEADER_LEN);
    // All lengths are fixed and add up: nothing here can fail.
    let _ = Writer::new(ethernet).put(&eth::header(to.mac, from.mac, EtherType::IPV6));
    let mut writer = Writer::new(packet);
    let _ = put_header(&mut writer, from.ip, to.ip, MESSAGE_LEN as u16, HOP_LIMIT);
    let target = target.to_be_bytes();
    for piece in [
        &[kind, 0, 0, 0, flags, 0, 0, 0][..],
        &target,
        &[option, 1],
        &mac.0,
    ] {
        let _ = writer.put(piece);
    }
    let _ = seal(writer.written(), from.ip, to.ip);
    frame
}
