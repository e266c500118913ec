//! Texts in Felix's messages. Each refusal says what was there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::desired::MacAddr;

/// What is not understood, in words.
pub(super) type Refusal = String;

/// A prefix, or an address for the prefix of itself alone. Host bits stay.
pub(super) fn net(text: &str) -> Result<IpNet, Refusal> {
    let net = text.parse::<IpNet>().ok();
    net.or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
        .ok_or_else(|| format!("not a prefix: {text:?}"))
}

/// An IPv4 prefix, or an address.
pub(super) fn net_v4(text: &str) -> Result<Ipv4Net, Refusal> {
    match net(text)? {
        IpNet::V4(net) => Ok(net),
        IpNet::V6(_) => Err(format!("not an IPv4 address: {text:?}")),
    }
}

/// An IPv6 prefix, or an address.
pub(super) fn net_v6(text: &str) -> Result<Ipv6Net, Refusal> {
    match net(text)? {
        IpNet::V6(net) => Ok(net),
        IpNet::V4(_) => Err(format!("not an IPv6 address: {text:?}")),
    }
}

/// All of some prefixes.
pub(super) fn nets<T>(
    texts: &[String],
    one: impl Fn(&str) -> Result<T, Refusal>,
) -> Result<Vec<T>, Refusal> {
    texts.iter().map(|text| one(text)).collect()
}

/// An address, also with a prefix length behind it.
pub(super) fn address(text: &str) -> Result<IpAddr, Refusal> {
    net(text).map(|net| net.addr())
}

/// Nothing, or what `one` makes of it.
pub(super) fn optional<T>(
    text: &str,
    one: impl Fn(&str) -> Result<T, Refusal>,
) -> Result<Option<T>, Refusal> {
    if text.is_empty() {
        return Ok(None);
    }
    one(text).map(Some)
}

/// An IPv4 address.
pub(super) fn v4(text: &str) -> Result<Ipv4Addr, Refusal> {
    net_v4(text).map(|net| net.addr())
}

/// An IPv6 address.
pub(super) fn v6(text: &str) -> Result<Ipv6Addr, Refusal> {
    net_v6(text).map(|net| net.addr())
}

/// A MAC address.
pub(super) fn mac(text: &str) -> Result<MacAddr, Refusal> {
    let mut bytes = [0; 6];
    let mut parts = text.split(':');
    let mut one = |byte: &mut u8| {
        let part = parts.next().filter(|part| part.len() == 2);
        let value = part.and_then(|part| u8::from_str_radix(part, 16).ok());
        value.map(|value| *byte = value)
    };
    let all = bytes.iter_mut().all(|byte| one(byte).is_some());
    if all && parts.next().is_none() {
        return Ok(MacAddr(bytes));
    }
    Err(format!("not a MAC address: {text:?}"))
}

/// The name of an interface, as the kernel has them.
pub(super) fn interface(text: &str) -> Result<String, Refusal> {
    let bad = |c: char| c == '/' || c.is_whitespace() || c.is_control();
    if (1..=15).contains(&text.len()) && ![".", ".."].contains(&text) && !text.contains(bad) {
        return Ok(text.to_owned());
    }
    Err(format!("not the name of an interface: {text:?}"))
}
