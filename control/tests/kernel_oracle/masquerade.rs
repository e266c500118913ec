//! What conntrack and NAT make of a conversation, `masquerade fully-random` of natOutgoing among them, against what Caracal does.
//!
//! Both nodes draw ports at random, so each is talked to by itself: who answers learns the port from what came out of
//! that node. In what is compared a drawn port is the name of its conversation, and a checksum that covers one is
//! whether it is right.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use crate::compare::{Outcome, Output};
use crate::frame::{
    Check, Ends, FRAGMENT, ICMP, ICMPV6, Ip4, Ip6, TCP, TYPE_IPV4, TYPE_IPV6, UDP, checksum,
    ethernet,
};
use crate::plan::{DIRECT_POD4, NODE4, NODE6, POD1_4, VXLAN_PORT};
use crate::run::{Dataplane, is_noise};
use crate::script::{Side, macs, udp4};
use crate::view::View;

/// The kernel's rules: Calico's natOutgoing, and its drop of what is invalid.
pub(crate) const RULES: &str = "
table ip oracle {
    chain post {
        type nat hook postrouting priority srcnat
        oifname eth0 ip saddr 10.65.0.0/16 ip daddr != { 10.65.0.0/16, 10.66.0.0/16 } masquerade fully-random
    }
    chain forward {
        type filter hook forward priority filter
        ct state invalid drop
    }
}
table ip6 oracle {
    chain post {
        type nat hook postrouting priority srcnat
        oifname eth0 ip6 saddr fd65::/48 ip6 daddr != { fd65::/48, fd66::/48 } masquerade fully-random
    }
    chain forward {
        type filter hook forward priority filter
        ct state invalid drop
    }
}
";

/// A conversation's protocol, the far end's address and port (0 of a ping), and the drawn port or identifier.
type Drawn = (u8, IpAddr, u16, u16);

/// What was learnt of one node.
#[derive(Default)]
pub(crate) struct Learnt {
    names: BTreeMap<Drawn, String>,
}

impl Learnt {
    /// The port that a conversation was given.
    pub(crate) fn port(&self, name: &str) -> u16 {
        let found = self.names.iter().find(|(_, known)| *known == name);
        // Of one that did not come out; then neither will this.
        found.map_or(1, |((.., port), _)| *port)
    }

    /// Whose port this is. Somebody else may have sent to it, or have been told of it.
    fn name(&self, drawn: &Drawn) -> Option<&str> {
        let (protocol, _, _, port) = *drawn;
        let by_port = || {
            let mut names = self.names.iter();
            names.find(|((other, .., known), _)| (*other, *known) == (protocol, port))
        };
        let exactly = self.names.get(drawn);
        exactly
            .or_else(|| by_port().map(|(_, name)| name))
            .map(String::as_str)
    }

    /// Remembers a port, and judges it.
    fn learn(&mut self, who: &str, name: &str, drawn: Drawn) {
        let (protocol, _, _, port) = drawn;
        if matches!(protocol, TCP | UDP) {
            assert!(port >= 1024, "{who} {name}: port {port}");
        }
        if who == "caracal" && protocol == UDP {
            assert_ne!(port, VXLAN_PORT, "{name}: the port of VXLAN");
        }
        let other = self.names.insert(drawn, name.to_owned());
        assert_eq!(other, None, "{who} {name}: {drawn:?} was given twice");
    }
}

/// Makes frames of what was learnt so far.
type Make = Box<dyn Fn(&Learnt) -> Vec<Vec<u8>>>;

/// Frames to be sent, made when it is known what was learnt.
struct Step {
    name: String,
    side: Side,
    /// Whether it begins a conversation that is given a port.
    begins: bool,
    make: Make,
}

/// What is said, in order.
#[derive(Default)]
pub(crate) struct Talk(Vec<Step>);

impl Talk {
    /// An IP packet that comes in by a link.
    pub(crate) fn say(
        &mut self,
        name: &str,
        side: Side,
        packet: impl Fn(&Learnt) -> Vec<u8> + 'static,
    ) {
        self.push(name, side, false, move |learnt| vec![packet(learnt)]);
    }

    /// Several: what they become together counts, not which of them it was.
    pub(crate) fn say_all(
        &mut self,
        name: &str,
        side: Side,
        packets: impl Fn(&Learnt) -> Vec<Vec<u8>> + 'static,
    ) {
        self.push(name, side, false, packets);
    }

    /// The same; it begins a conversation, which is given a port.
    pub(crate) fn begin(
        &mut self,
        name: &str,
        side: Side,
        packet: impl Fn(&Learnt) -> Vec<u8> + 'static,
    ) {
        self.push(name, side, true, move |learnt| vec![packet(learnt)]);
    }

    fn push(
        &mut self,
        name: &str,
        side: Side,
        begins: bool,
        packets: impl Fn(&Learnt) -> Vec<Vec<u8>> + 'static,
    ) {
        let framed = move |packet: &Vec<u8>| {
            let (to, from) = macs(side);
            let is_v4 = packet[0] >> 4 == 4;
            let ethertype = if is_v4 { TYPE_IPV4 } else { TYPE_IPV6 };
            ethernet(to, from, ethertype, packet)
        };
        let make = move |learnt: &Learnt| packets(learnt).iter().map(framed).collect();
        self.0.push(Step {
            name: name.to_owned(),
            side,
            begins,
            make: Box::new(make),
        });
    }

    /// Says it all to both nodes; what each step became.
    pub(crate) fn with(&self, kernel: &Dataplane, caracal: &Dataplane) -> Vec<Outcome> {
        let (kernel, caracal) = (self.to(kernel), self.to(caracal));
        let outcomes = self.0.iter().zip(kernel).zip(caracal);
        outcomes
            .map(|((step, kernel), caracal)| Outcome {
                name: step.name.clone(),
                kernel,
                caracal,
            })
            .collect()
    }

    fn to(&self, node: &Dataplane) -> Vec<Vec<Output>> {
        let mut learnt = Learnt::default();
        let meetings = RefCell::new(0x8000..);
        let meet = || {
            let mut meetings = meetings.borrow_mut();
            meet(node, || meetings.next().expect("more of them"))
        };
        // A node that has just started may not forward yet.
        meet();
        let steps = self.0.iter().map(|step| {
            for frame in (step.make)(&learnt) {
                node.taps[&step.side].send(&frame);
            }
            let frames = meet();
            if step.begins {
                let name = &step.name;
                let drawn = frames.iter().find_map(|(_, frame)| drawn(&frame[14..]));
                let drawn =
                    drawn.unwrap_or_else(|| panic!("{}: {name} is not translated", node.name));
                learnt.learn(node.name, name, drawn);
            }
            let outputs = frames.iter().map(|(side, frame)| Output {
                side: *side,
                view: view(frame, &learnt),
            });
            outputs.collect()
        });
        steps.collect()
    }
}

/// How long a node may take to forward a packet, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until plain packets have come through both ways, which are not translated; what came out before them.
fn meet(node: &Dataplane, mut next: impl FnMut() -> u16) -> Vec<(Side, Vec<u8>)> {
    let mut frames = Vec::new();
    for (side, src, dst) in [
        (Side::Pod1, POD1_4, DIRECT_POD4),
        (Side::Wire, DIRECT_POD4, POD1_4),
    ] {
        let mut ip = udp4(src, dst, 32);
        ip.id = next();
        let (to, from) = macs(side);
        let frame = ethernet(to, from, TYPE_IPV4, &ip.bytes());
        let is_it = |frame: &[u8]| {
            frame[26..34] == [src.octets(), dst.octets()].concat()
                && frame[18..20] == ip.id.to_be_bytes()
        };
        let is_old = |frame: &[u8]| {
            let ends = [POD1_4.octets(), DIRECT_POD4.octets()];
            frame[26..34] == ends.concat() || frame[26..34] == [ends[1], ends[0]].concat()
        };
        let deadline = Instant::now() + PATIENCE;
        let mut again = Instant::now();
        let mut came = false;
        while !came {
            assert!(
                Instant::now() < deadline,
                "{} does not forward by {}",
                node.name,
                side.name()
            );
            if Instant::now() >= again {
                node.taps[&side].send(&frame);
                again += Duration::from_secs(1);
            }
            thread::sleep(Duration::from_millis(2));
            for (&side, tap) in &node.taps {
                while let Some(frame) = tap.receive() {
                    let is_ip4 = frame.len() >= 34 && frame[12..14] == [8, 0];
                    came |= is_ip4 && is_it(&frame);
                    let is_old = is_ip4 && is_old(&frame);
                    if !is_noise(&frame) && !is_old {
                        frames.push((side, frame));
                    }
                }
            }
        }
    }
    frames
}

/// The addresses, protocol, and payload of a packet; whether it is a first fragment of several, or a later one.
struct Packet<'a> {
    src: IpAddr,
    dst: IpAddr,
    protocol: u8,
    is_whole: bool,
    is_later: bool,
    payload: &'a mut [u8],
}

fn packet(bytes: &mut [u8]) -> Option<Packet<'_>> {
    let is_v4 = *bytes.first()? >> 4 == 4;
    let header_len = if is_v4 { 20 } else { 40 };
    let header = bytes.get(..header_len)?.to_vec();
    let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    let address = |at: usize| -> Option<IpAddr> {
        Some(if is_v4 {
            <[u8; 4]>::try_from(header.get(at..at + 4)?).ok()?.into()
        } else {
            <[u8; 16]>::try_from(header.get(at..at + 16)?).ok()?.into()
        })
    };
    let len = if is_v4 {
        usize::from(word(2))
    } else {
        40 + usize::from(word(4))
    };
    let mut protocol = header[if is_v4 { 9 } else { 6 }];
    let mut fragment = if is_v4 { word(6) & 0x3fff } else { 0 };
    let mut start = header_len;
    if !is_v4 && protocol == FRAGMENT {
        let header = bytes.get(start..start + 8)?;
        let word = u16::from_be_bytes([header[2], header[3]]);
        // As IPv4 has them: the offset below, "more fragments" above.
        (protocol, fragment) = (header[0], word >> 3 | (word & 1) << 13);
        start += 8;
    }
    let (src, dst) = if is_v4 {
        (address(12)?, address(16)?)
    } else {
        (address(8)?, address(24)?)
    };
    let is_cut = bytes.len() < len;
    let end = len.min(bytes.len());
    Some(Packet {
        src,
        dst,
        protocol,
        is_whole: fragment == 0 && !is_cut,
        is_later: fragment & 0x1fff != 0,
        payload: bytes.get_mut(start..end)?,
    })
}

/// What port a translated packet was given.
fn drawn(packet_bytes: &[u8]) -> Option<Drawn> {
    let mut bytes = packet_bytes.to_vec();
    let packet = packet(&mut bytes)?;
    let word = |at: usize| {
        Some(u16::from_be_bytes([
            *packet.payload.get(at)?,
            *packet.payload.get(at + 1)?,
        ]))
    };
    if packet.src != IpAddr::from(NODE4) && packet.src != IpAddr::from(NODE6) {
        return None;
    }
    match packet.protocol {
        TCP | UDP => Some((packet.protocol, packet.dst, word(2)?, word(0)?)),
        ICMP | ICMPV6 => Some((packet.protocol, packet.dst, 0, word(4)?)),
        _ => None,
    }
}

/// A frame for comparison.
fn view(frame: &[u8], learnt: &Learnt) -> View {
    // No drawn port is seen in a tunnel.
    let tunnelled = View::of(frame);
    if tunnelled.source_port.is_some() {
        return tunnelled;
    }
    let mut frame = frame.to_vec();
    let mut said = Vec::new();
    mask(&mut frame[14..], learnt, "", &mut said);
    let mut view = View::of(&frame);
    view.fields.extend(said);
    view
}

/// Says of each drawn port whose it is, and of each checksum that covers one whether it is right; both become zero.
fn mask(bytes: &mut [u8], learnt: &Learnt, layer: &str, said: &mut Vec<(String, String)>) {
    let Some(packet) = packet(bytes) else { return };
    if packet.is_later {
        return;
    }
    let Packet {
        src,
        dst,
        protocol,
        payload,
        is_whole,
        ..
    } = packet;
    let at = match protocol {
        TCP => 16,
        UDP => 6,
        ICMP | ICMPV6 => 2,
        _ => return,
    };
    if payload.len() < 8 {
        return;
    }
    let check = match (src, dst) {
        _ if payload.len() < at + 2 || !is_whole => "not to be told",
        _ if protocol == UDP && payload[6..8] == [0, 0] => "zero",
        (IpAddr::V4(src), IpAddr::V4(dst)) if protocol != ICMP => {
            verdict(&[&(src, dst).pseudo(protocol, payload.len()), payload])
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            verdict(&[&(src, dst).pseudo(protocol, payload.len()), payload])
        }
        _ => verdict(&[payload]),
    };
    said.push((format!("{layer}checksum"), check.to_owned()));
    if let Some(field) = payload.get_mut(at..at + 2) {
        field.fill(0);
    }
    let is_query = matches!((protocol, payload[0]), (ICMP, 0 | 8) | (ICMPV6, 128 | 129));
    let is_error = matches!(
        (protocol, payload[0]),
        (ICMP, 3 | 4 | 5 | 11 | 12) | (ICMPV6, 1..=4)
    );
    if is_error {
        return mask(&mut payload[8..], learnt, &format!("{layer}quoted "), said);
    }
    let is_ours = |addr: IpAddr| addr == IpAddr::from(NODE4) || addr == IpAddr::from(NODE6);
    let word = |at: usize| u16::from_be_bytes([payload[at], payload[at + 1]]);
    // Which field holds the drawn port, and who the far end is.
    let ours = match (is_ours(src), is_ours(dst)) {
        (true, false) if is_query => Some((4, (protocol, dst, 0, word(4)))),
        (false, true) if is_query => Some((4, (protocol, src, 0, word(4)))),
        (true, false) if at != 2 => Some((0, (protocol, dst, word(2), word(0)))),
        (false, true) if at != 2 => Some((2, (protocol, src, word(0), word(2)))),
        _ => None,
    };
    if let Some((at, drawn)) = ours
        && let Some(name) = learnt.name(&drawn)
    {
        said.push((format!("{layer}port of"), name.to_owned()));
        payload[at..at + 2].fill(0);
    }
}

fn verdict(parts: &[&[u8]]) -> &'static str {
    if checksum(parts) == 0 {
        "right"
    } else {
        "wrong"
    }
}

/// An IP packet around a payload.
pub(crate) fn ip(
    src: impl Into<IpAddr>,
    dst: impl Into<IpAddr>,
    protocol: u8,
    payload: Vec<u8>,
) -> Vec<u8> {
    match (src.into(), dst.into()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => Ip4::new(src, dst, protocol, payload).bytes(),
        (IpAddr::V6(src), IpAddr::V6(dst)) => Ip6::new(src, dst, protocol, payload).bytes(),
        _ => panic!("two families"),
    }
}

/// A TCP segment: ports, flags, sequence and acknowledgement number.
pub(crate) fn segment(
    ends: &impl Ends,
    ports: (u16, u16),
    flags: u8,
    (seq, ack): (u32, u32),
    data: &[u8],
    check: Check,
) -> Vec<u8> {
    let mut segment = [ports.0.to_be_bytes(), ports.1.to_be_bytes()].concat();
    segment.extend(seq.to_be_bytes());
    segment.extend(ack.to_be_bytes());
    segment.extend([0x50, flags, 0x20, 0, 0, 0, 0, 0]);
    segment.extend(data);
    crate::frame::seal(segment, 16, TCP, ends, check)
}
