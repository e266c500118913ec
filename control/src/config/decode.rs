//! Trees to typed values, strictly, going on after each error.
//!
//! A decoder is a function `fn(&Node, &mut Context) -> Option<T>` that reports what it refuses.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::diagnostic::{Diagnostic, Diagnostics, Severity};
use super::source::{Located, Span};
use super::suggest::nearest;
use super::yaml::{Key, Node, Value};
use crate::desired::MacAddr;
use crate::netlink::host_port::{DATAPLANE_END, HOST_END};

/// Where findings go, and what resource they are about.
#[derive(Debug)]
pub struct Context<'d> {
    /// All findings so far.
    pub diagnostics: &'d mut Diagnostics,
    /// Such as `IPPool default`; empty while unknown.
    pub resource: String,
}

impl Context<'_> {
    /// Reports an error at a place.
    pub fn error(&mut self, at: &Span, message: impl Into<String>, label: impl Into<String>) {
        self.report(Diagnostic::error(message).at(at, label));
    }

    /// A mark in the list of findings, for [`Context::has_errors_since`].
    pub fn mark(&self) -> usize {
        self.diagnostics.0.len()
    }

    /// True if an error was reported since a mark: what follows from it is not worth a word.
    pub fn has_errors_since(&self, mark: usize) -> bool {
        let mut since = self.diagnostics.0.iter().skip(mark);
        since.any(|finding| finding.severity == Severity::Error)
    }

    /// Reports a finding, adding the resource.
    pub fn report(&mut self, mut diagnostic: Diagnostic) {
        if diagnostic.resource.is_none() && !self.resource.is_empty() {
            diagnostic.resource = Some(self.resource.clone());
        }
        self.diagnostics.push(diagnostic);
    }
}

/// The fields of a map while they are taken out of it.
#[derive(Debug)]
pub struct Fields<'n> {
    /// What the map is, for messages: `spec`, `spec.bgp`.
    what: String,
    at: Span,
    pairs: Vec<(&'n Key, &'n Node)>,
    known: Vec<&'static str>,
}

impl<'n> Fields<'n> {
    /// Opens a map; reports another kind of value, and keys that repeat.
    pub fn open(node: &'n Node, what: impl Into<String>, cx: &mut Context<'_>) -> Option<Self> {
        let what = what.into();
        let Value::Map(all) = &node.value else {
            let label = format!("this is {}", node.value.describe());
            cx.error(&node.at, format!("{what} must be a map"), label);
            return None;
        };
        let mut pairs: Vec<(&Key, &Node)> = Vec::with_capacity(all.len());
        let mut places = std::collections::HashMap::with_capacity(all.len());
        for (key, value) in all {
            if let Some(first) = places.insert(key.name.as_str(), &key.at) {
                places.insert(key.name.as_str(), first);
                cx.report(
                    Diagnostic::error(format!("field `{}` is given twice", key.name))
                        .at(&key.at, "again here")
                        .see("first given here", first),
                );
            } else {
                pairs.push((key, value));
            }
        }
        Some(Self {
            what,
            at: node.at.clone(),
            pairs,
            known: Vec::new(),
        })
    }

    /// The fields that nobody has taken.
    pub(crate) fn pairs(&self) -> impl Iterator<Item = (&'n Key, &'n Node)> {
        self.pairs.iter().copied()
    }

    /// Where the map starts.
    pub fn at(&self) -> &Span {
        &self.at
    }

    /// Takes a field out, absent and null alike giving `None`.
    pub fn take(&mut self, name: &'static str) -> Option<&'n Node> {
        self.take_with_key(name).map(|(_, node)| node)
    }

    /// As [`Fields::take`], with the key's place.
    pub fn take_with_key(&mut self, name: &'static str) -> Option<(&'n Key, &'n Node)> {
        self.known.push(name);
        let index = self.pairs.iter().position(|(key, _)| key.name == name)?;
        let pair = self.pairs.swap_remove(index);
        (!matches!(pair.1.value, Value::Null)).then_some(pair)
    }

    /// A field that may be absent.
    pub fn get<T>(
        &mut self,
        name: &'static str,
        cx: &mut Context<'_>,
        decode: impl FnOnce(&Node, &mut Context<'_>) -> Option<T>,
    ) -> Option<Located<T>> {
        let node = self.take(name)?;
        decode(node, cx).map(|value| Located {
            value,
            at: node.at.clone(),
        })
    }

    /// A field that must be there.
    pub fn require<T>(
        &mut self,
        name: &'static str,
        cx: &mut Context<'_>,
        decode: impl FnOnce(&Node, &mut Context<'_>) -> Option<T>,
    ) -> Option<Located<T>> {
        if let Some(node) = self.take(name) {
            return decode(node, cx).map(|value| Located {
                value,
                at: node.at.clone(),
            });
        }
        // A misspelt field is reported as that, once, by `finish`.
        let misspelt = self
            .pairs
            .iter()
            .any(|(key, _)| nearest(&key.name, [name]).is_some());
        if !misspelt {
            let message = format!("{} needs the field `{name}`", self.what);
            cx.error(
                &self.at.clone(),
                message,
                format!("`{name}` is missing here"),
            );
        }
        None
    }

    /// Accepts fields whatever they hold.
    pub fn accept(&mut self, names: &[&'static str]) {
        for name in names {
            let _ = self.take(name);
        }
    }

    /// Reports all fields that nobody took.
    pub fn finish(mut self, cx: &mut Context<'_>) {
        self.pairs.sort_by_key(|(key, _)| key.at.start);
        for (key, _) in &self.pairs {
            let label = match nearest(&key.name, self.known.iter().copied()) {
                Some(known) if known.eq_ignore_ascii_case(&key.name) => {
                    format!("the case matters: `{known}`")
                }
                Some(known) => format!("did you mean `{known}`?"),
                None => format!("{} has no such field", self.what),
            };
            cx.report(
                Diagnostic::error(format!("unknown field `{}`", key.name))
                    .at(&key.at, label)
                    .help("unknown fields are refused, not ignored"),
            );
        }
    }
}

fn wrong_type<T>(node: &Node, wanted: &str, cx: &mut Context<'_>) -> Option<T> {
    let found = node.value.describe();
    let label = match &node.value {
        Value::Text(text) if text.is_empty() => "this is empty".to_owned(),
        Value::Text(_) if wanted.contains("number") || wanted.contains("`true`") => {
            format!("this is {found}; leave out the quotes, or check the spelling")
        }
        Value::Int(_) | Value::Bool(_) | Value::Float(_) if wanted == "text" => {
            format!("this is {found}; put it in quotes")
        }
        _ => format!("this is {found}"),
    };
    cx.error(&node.at, format!("expected {wanted}"), label);
    None
}

/// Any text.
pub fn text(node: &Node, cx: &mut Context<'_>) -> Option<String> {
    match &node.value {
        Value::Text(text) => Some(text.clone()),
        _ => wrong_type(node, "text", cx),
    }
}

/// Text that is not empty.
pub fn name(node: &Node, cx: &mut Context<'_>) -> Option<String> {
    let value = text(node, cx)?;
    if value.trim().is_empty() {
        cx.error(&node.at, "a name must not be empty", "this is empty");
        return None;
    }
    Some(value)
}

/// `true` or `false`.
pub fn boolean(node: &Node, cx: &mut Context<'_>) -> Option<bool> {
    match node.value {
        Value::Bool(value) => Some(value),
        _ => wrong_type(node, "`true` or `false`", cx),
    }
}

/// A whole number within a range.
pub fn number<T>(range: RangeInclusive<T>) -> impl Fn(&Node, &mut Context<'_>) -> Option<T>
where
    T: TryFrom<i128> + PartialOrd + std::fmt::Display,
{
    move |node, cx| {
        let Value::Int(value) = node.value else {
            return wrong_type(node, "a whole number", cx);
        };
        if let Ok(value) = T::try_from(value)
            && range.contains(&value)
        {
            return Some(value);
        }
        let label = format!("must be {} to {}", range.start(), range.end());
        cx.error(&node.at, "number out of range", label);
        None
    }
}

/// A TCP or UDP port, 1 to 65535.
pub fn port(node: &Node, cx: &mut Context<'_>) -> Option<u16> {
    match node.value {
        Value::Int(value) => match u16::try_from(value) {
            Ok(port) if port > 0 => Some(port),
            _ => {
                cx.error(&node.at, "port out of range", "must be 1 to 65535");
                None
            }
        },
        _ => wrong_type(node, "a port number", cx),
    }
}

/// A port or `first:last`.
pub fn port_range(node: &Node, cx: &mut Context<'_>) -> Option<(u16, u16)> {
    let parsed = match &node.value {
        Value::Int(_) => return port(node, cx).map(|port| (port, port)),
        Value::Text(text) => {
            let (first, last) = text.split_once(':').unwrap_or((text, text));
            digits(first).zip(digits(last))
        }
        _ => return wrong_type(node, "a port number or \"first:last\"", cx),
    };
    match parsed {
        Some((first, last)) if first <= last => Some((first, last)),
        _ => {
            cx.error(
                &node.at,
                "not a range of ports",
                "must be a port, or \"first:last\" within 0 to 65535",
            );
            None
        }
    }
}

/// A number of nothing but digits: what parses integers takes a `+`, too.
pub(crate) fn digits<T: FromStr>(text: &str) -> Option<T> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| text.parse().ok()).flatten()
}

/// One of some words; `exact` in case or not.
pub fn choice<T: Copy>(
    words: &[(&'static str, T)],
    exact: bool,
) -> impl Fn(&Node, &mut Context<'_>) -> Option<T> {
    move |node, cx| {
        let given = text(node, cx)?;
        let hit = words.iter().find(|(word, _)| {
            if exact {
                *word == given
            } else {
                word.eq_ignore_ascii_case(&given)
            }
        });
        if let Some((_, value)) = hit {
            return Some(*value);
        }
        let list: Vec<String> = words.iter().map(|(word, _)| format!("`{word}`")).collect();
        let mut label = format!("must be one of {}", list.join(", "));
        if let Some(meant) = nearest(&given, words.iter().map(|(word, _)| *word)) {
            label = format!("did you mean `{meant}`? ({label})");
        }
        cx.error(&node.at, format!("unknown value `{given}`"), label);
        None
    }
}

/// A list, each item by `decode`; items that are refused are left out.
pub fn list<T>(
    decode: impl Fn(&Node, &mut Context<'_>) -> Option<T>,
) -> impl Fn(&Node, &mut Context<'_>) -> Option<Vec<Located<T>>> {
    move |node, cx| {
        let Value::List(items) = &node.value else {
            return wrong_type(node, "a list", cx);
        };
        let mut out = Vec::with_capacity(items.len());
        for item in items {
            if let Some(value) = decode(item, cx) {
                out.push(Located {
                    value,
                    at: item.at.clone(),
                });
            }
        }
        Some(out)
    }
}

/// A map from text to text (labels, annotations, log filters). Nothing is an empty text.
pub fn text_map(node: &Node, cx: &mut Context<'_>) -> Option<BTreeMap<String, String>> {
    let Value::Map(pairs) = &node.value else {
        return wrong_type(node, "a map of texts", cx);
    };
    let mut map = BTreeMap::new();
    for (key, value) in pairs {
        let text = match value.value {
            Value::Null => String::new(),
            _ => text(value, cx)?,
        };
        map.insert(key.name.clone(), text);
    }
    Some(map)
}

/// Any number, with or without a fraction.
pub fn fraction(node: &Node, cx: &mut Context<'_>) -> Option<f64> {
    match node.value {
        Value::Int(value) => Some(value as f64),
        Value::Float(value) if value.is_finite() => Some(value),
        _ => wrong_type(node, "a number", cx),
    }
}

/// A duration as Go writes it: `90s`, `1m30s`, `500ms`.
pub fn duration(node: &Node, cx: &mut Context<'_>) -> Option<String> {
    let given = text(node, cx)?;
    if is_duration(&given) {
        return Some(given);
    }
    cx.error(
        &node.at,
        format!("not a duration: `{given}`"),
        "such as `90s`, `1m30s` or `500ms`",
    );
    None
}

fn is_duration(text: &str) -> bool {
    parse_duration(text).is_some()
}

/// A duration as Go writes it.
pub fn parse_duration(text: &str) -> Option<Duration> {
    const UNITS: [(&str, f64); 6] = [
        ("ms", 1e-3),
        ("us", 1e-6),
        ("ns", 1e-9),
        ("s", 1.0),
        ("m", 60.0),
        ("h", 3600.0),
    ];
    let (mut rest, mut seconds) = (text, 0.0);
    while !rest.is_empty() {
        let digits = rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
        let number = rest[..rest.len() - digits.len()].parse::<f64>().ok()?;
        let unit = UNITS.into_iter().find(|(unit, _)| digits.starts_with(unit));
        let Some((unit, length)) = unit else {
            return (digits.is_empty() && number == 0.0).then_some(Duration::ZERO);
        };
        seconds += number * length;
        rest = &digits[unit.len()..];
    }
    Duration::try_from_secs_f64(seconds).ok()
}

/// A prefix without host bits.
pub fn cidr(node: &Node, cx: &mut Context<'_>) -> Option<IpNet> {
    let net = network(node, cx, true)?;
    if net.trunc() != net {
        let label = format!("did you mean `{}`?", net.trunc());
        cx.error(
            &node.at,
            "the address has bits set behind its prefix length",
            label,
        );
        return None;
    }
    Some(net)
}

/// A member of a network set: a plain address, or as [`masked_cidr`].
pub fn set_member(node: &Node, cx: &mut Context<'_>) -> Option<IpNet> {
    masked(node, cx, false)
}

/// As [`cidr`], but of bits behind the prefix length there is only a warning, since Calico and Kubernetes take them.
pub fn masked_cidr(node: &Node, cx: &mut Context<'_>) -> Option<IpNet> {
    masked(node, cx, true)
}

fn masked(node: &Node, cx: &mut Context<'_>, strict: bool) -> Option<IpNet> {
    let net = network(node, cx, strict)?;
    let masked = net.trunc();
    if masked != net {
        let message = "the address has bits set behind its prefix length";
        let warning = Diagnostic::warning(message);
        cx.report(warning.at(&node.at, format!("taken as `{masked}`")));
    }
    Some(masked)
}

/// An address with the prefix length of its subnet, or a plain address (taken as /32 or /128).
pub fn address_in_subnet(node: &Node, cx: &mut Context<'_>) -> Option<IpNet> {
    network(node, cx, false)
}

/// As [`address_in_subnet`], IPv4 only, and an address that a machine can have.
pub fn address_in_subnet_v4(node: &Node, cx: &mut Context<'_>) -> Option<Ipv4Net> {
    match network(node, cx, false)? {
        IpNet::V4(net) => unicast(net.addr().into(), node, cx).map(|_| net),
        IpNet::V6(_) => wrong_family(node, "IPv4", cx),
    }
}

/// As [`address_in_subnet`], IPv6 only, and an address that a machine can have.
pub fn address_in_subnet_v6(node: &Node, cx: &mut Context<'_>) -> Option<Ipv6Net> {
    match network(node, cx, false)? {
        IpNet::V6(net) => unicast(net.addr().into(), node, cx).map(|_| net),
        IpNet::V4(_) => wrong_family(node, "IPv6", cx),
    }
}

/// An address that a machine can have, alone or as /32 or /128.
pub fn host_address(node: &Node, cx: &mut Context<'_>) -> Option<IpAddr> {
    let net = network(node, cx, false)?;
    if net.prefix_len() != net.max_prefix_len() {
        let label = format!("must be one address: /{}", net.max_prefix_len());
        cx.error(
            &node.at,
            "an endpoint's network must be a single address",
            label,
        );
        return None;
    }
    unicast(net.addr(), node, cx)
}

/// A plain IPv4 address that a machine can have. A tunnel address may carry `/32`.
pub fn ipv4(node: &Node, cx: &mut Context<'_>) -> Option<Ipv4Addr> {
    match host_address(node, cx)? {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => wrong_family(node, "IPv4", cx),
    }
}

/// A plain IPv6 address that a machine can have.
pub fn ipv6(node: &Node, cx: &mut Context<'_>) -> Option<Ipv6Addr> {
    match host_address(node, cx)? {
        IpAddr::V6(address) => Some(address),
        IpAddr::V4(_) => wrong_family(node, "IPv6", cx),
    }
}

fn wrong_family<T>(node: &Node, wanted: &str, cx: &mut Context<'_>) -> Option<T> {
    cx.error(
        &node.at,
        "wrong address family",
        format!("must be an {wanted} address"),
    );
    None
}

fn unicast(address: IpAddr, node: &Node, cx: &mut Context<'_>) -> Option<IpAddr> {
    let what = if address.is_unspecified() {
        "the unspecified address"
    } else if address.is_multicast() {
        "a multicast address"
    } else if address.is_loopback() {
        "a loopback address"
    } else if address == IpAddr::V4(Ipv4Addr::BROADCAST) {
        "the broadcast address"
    } else {
        return Some(address);
    };
    cx.error(
        &node.at,
        "not an address that a machine can have",
        format!("this is {what}"),
    );
    None
}

/// An address with or (if `strict` is false) without a prefix length.
fn network(node: &Node, cx: &mut Context<'_>, strict: bool) -> Option<IpNet> {
    let given = text(node, cx)?;
    let (address, length) = match given.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (given.as_str(), None),
    };
    let wanted = if strict {
        "such as `10.244.0.0/16` or `fd00:10:244::/48`"
    } else {
        "such as `10.0.0.7/24` or `fd00::7/64`"
    };
    let Ok(address) = address.parse::<IpAddr>() else {
        cx.error(&node.at, format!("not an IP address: `{given}`"), wanted);
        return None;
    };
    if let IpAddr::V6(v6) = address
        && let Some(v4) = v6.to_ipv4_mapped()
    {
        cx.error(
            &node.at,
            "an IPv4 address written as IPv6",
            format!("write it as `{v4}`"),
        );
        return None;
    }
    let longest: u8 = if address.is_ipv4() { 32 } else { 128 };
    let length = match length {
        None if strict => {
            cx.error(
                &node.at,
                "the prefix length is missing",
                format!("such as `{address}/{longest}`"),
            );
            return None;
        }
        None => longest,
        Some(length) => match digits(length) {
            Some(length) if length <= longest => length,
            _ => {
                let label = format!("must be /0 to /{longest}");
                cx.error(&node.at, format!("bad prefix length `/{length}`"), label);
                return None;
            }
        },
    };
    IpNet::new(address, length).ok()
}

/// A unicast Ethernet address, `02:00:5e:10:00:01`.
pub fn mac(node: &Node, cx: &mut Context<'_>) -> Option<MacAddr> {
    let given = text(node, cx)?;
    let label = match parse_mac(&given) {
        Some(MacAddr(bytes)) if bytes[0] & 1 == 1 => "this is a group address",
        Some(MacAddr([0, 0, 0, 0, 0, 0])) => "all zero",
        Some(address) => return Some(address),
        None => "must be six bytes such as `02:00:5e:10:00:01`",
    };
    cx.error(&node.at, format!("not a MAC address: `{given}`"), label);
    None
}

fn parse_mac(text: &str) -> Option<MacAddr> {
    let mut bytes = [0; 6];
    let mut parts = text.split([':', '-']);
    for byte in &mut bytes {
        let part = parts.next()?;
        if part.len() != 2 || !part.bytes().all(|c| c.is_ascii_hexdigit()) {
            return None;
        }
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(MacAddr(bytes))
}

/// A Linux interface name: 1 to 15 bytes without slashes and blanks.
pub fn interface(node: &Node, cx: &mut Context<'_>) -> Option<String> {
    let given = text(node, cx)?;
    let label = if given.is_empty() {
        "this is empty".to_owned()
    } else if given.len() > 15 {
        format!("{} characters; Linux allows 15", given.len())
    } else if given == "." || given == ".." {
        "reserved".to_owned()
    } else if given
        .chars()
        .any(|c| c == '/' || c == ':' || c.is_whitespace() || c.is_control())
    {
        "without slashes, colons and blanks".to_owned()
    } else {
        return Some(given);
    };
    cx.error(&node.at, format!("not an interface name: `{given}`"), label);
    None
}

/// As [`interface`], and none that is made by the daemon itself.
pub fn foreign_interface(node: &Node, cx: &mut Context<'_>) -> Option<String> {
    let name = interface(node, cx)?;
    if [HOST_END, DATAPLANE_END].contains(&name.as_str()) {
        let label = "an end of the host's port, which Caracal makes; name another interface";
        cx.error(
            &node.at,
            format!("interface {name} is Caracal's own"),
            label,
        );
        return None;
    }
    Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_go_durations() {
        for good in ["90s", "1m30s", "500ms", "1.5h", "0"] {
            assert!(is_duration(good), "{good}");
        }
        for bad in ["90", "s", "1x", "1m30", "..s"] {
            assert!(!is_duration(bad), "{bad}");
        }
    }

    #[test]
    fn macs_have_six_bytes_of_two_digits() {
        assert_eq!(
            parse_mac("02:00:5e:10:00:0a"),
            Some(MacAddr([2, 0, 0x5e, 0x10, 0, 10]))
        );
        for bad in [
            "02:00:5e:10:00",
            "2:0:5e:10:0:a",
            "02:00:5e:10:00:0a:0b",
            "0g:00:5e:10:00:0a",
            "02:+0:5e:10:00:0a",
        ] {
            assert_eq!(parse_mac(bad), None, "{bad}");
        }
    }
}
