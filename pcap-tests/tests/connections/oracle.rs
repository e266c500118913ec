//! Connections as a plain program with a map and a clock would keep them: the judge of which packets pass, and of what
//! they are translated to.
//!
//! It knows packets by their facts, and of TCP only what endpoints say that keep to the rules, and strays. Which port a
//! connection is given it asks, and judges: in the range, and no other connection's to the same remote end.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::time::Duration;

use fastpath::port::PortId;

use crate::node::*;

/// Addresses, and ports: of ICMP the identifier as the port of who asks; of what has neither zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Tuple {
    pub(crate) protocol: u8,
    pub(crate) src: (Ipv4Addr, u16),
    pub(crate) dst: (Ipv4Addr, u16),
}

impl Tuple {
    const fn reversed(self) -> Self {
        Self {
            src: self.dst,
            dst: self.src,
            ..self
        }
    }

    /// That of an answer, if it leaves from this address and port.
    const fn answers_to(self, address: Ipv4Addr, port: u16) -> Self {
        Self {
            dst: (address, port),
            ..self.reversed()
        }
    }

    /// Whether it has ports, or an identifier.
    const fn has_ports(self) -> bool {
        matches!(self.protocol, 1 | 6 | 17)
    }
}

/// What a packet says, as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Says {
    Syn,
    SynAck,
    Ack,
    Reset,
    /// An ICMP query's answer.
    Answer,
    /// A datagram, or an ICMP query.
    Anything,
}

/// How far a TCP connection is; others are `Open`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Asked,
    Answered,
    Open,
    Reset,
}

/// A connection.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    pub(crate) first: Tuple,
    /// What the answers look like from outside.
    pub(crate) back: Tuple,
    pub(crate) phase: Phase,
    /// When a packet of each direction was seen.
    seen: [Option<Duration>; 2],
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Sent(PortId, Tuple),
    /// The same, from some port of this address.
    SentFrom(Ipv4Addr, Tuple),
    Dropped,
}

/// What the node is told.
#[derive(Clone, Debug)]
pub(crate) struct State {
    pub(crate) has_pods: [bool; 2],
    /// The uplink's address.
    pub(crate) address: Ipv4Addr,
    pub(crate) masquerades: bool,
    pub(crate) reaches_outside: bool,
    pub(crate) range: RangeInclusive<u16>,
}

/// A node's connections.
#[derive(Clone, Debug)]
pub(crate) struct Oracle {
    pub(crate) state: State,
    pub(crate) now: Duration,
    connections: Vec<Option<Connection>>,
    keys: HashMap<Tuple, (usize, bool)>,
}

impl Oracle {
    pub(crate) fn new(state: State) -> Self {
        Self {
            state,
            now: Duration::ZERO,
            connections: Vec::new(),
            keys: HashMap::new(),
        }
    }

    /// Those that are there.
    pub(crate) fn all(&self) -> impl Iterator<Item = (usize, &Connection)> {
        let all = self.connections.iter().enumerate();
        all.filter_map(|(at, connection)| Some((at, connection.as_ref()?)))
    }

    fn remove(&mut self, at: usize) {
        if let Some(gone) = self.connections[at].take() {
            self.keys.remove(&gone.first);
            self.keys.remove(&gone.back);
        }
    }

    /// Lets time pass.
    pub(crate) fn pass(&mut self, time: Duration) {
        self.now += time;
        let over: Vec<_> = self
            .all()
            .filter(|(_, connection)| self.is_over(connection))
            .map(|(at, _)| at)
            .collect();
        for at in over {
            self.remove(at);
        }
    }

    fn is_over(&self, connection: &Connection) -> bool {
        let [first, back] = connection.seen;
        let timeout = Duration::from_secs(match (connection.first.protocol, connection.phase) {
            (6, Phase::Asked | Phase::Answered) => 20,
            (6, Phase::Open) => 7440,
            (6, Phase::Reset) => 240,
            (17, _) if back.is_none() => 30,
            (17, _) => 300,
            (1, _) => 60,
            _ => 600,
        });
        let since = |seen: Duration| self.now.saturating_sub(seen);
        let since_first = since(first.expect("it has begun"));
        // RFC 4787 REQ-6: answers alone keep nothing for ever.
        let alone = since_first.saturating_sub(timeout * 4);
        let idle = back.map_or(since_first, |back| since_first.min(since(back).max(alone)));
        idle >= timeout
    }

    /// A pod is gone, or another one with the same address.
    pub(crate) fn lose(&mut self, pod: &str) {
        let address = v4(pod);
        let over: Vec<_> = self
            .all()
            .filter(|(_, it)| [it.first.src.0, it.first.dst.0].contains(&address))
            .map(|(at, _)| at)
            .collect();
        for at in over {
            self.remove(at);
        }
    }

    /// The port by which an address is reached.
    fn way(&self, to: Ipv4Addr) -> Option<PortId> {
        let pods = [(POD, v4(POD_ADDR)), (OTHER, v4(OTHER_ADDR))];
        for ((port, address), has) in pods.into_iter().zip(self.state.has_pods) {
            if to == address {
                return has.then_some(port);
            }
        }
        if [v4(NODE), v4(crate::schedule::NODE_B)].contains(&to) {
            return Some(HOST);
        }
        let is_remote_pod = to.octets()[..2] == [10, 65];
        (is_remote_pod || self.state.reaches_outside).then_some(UPLINK)
    }

    /// What becomes of a packet that comes in by a port.
    pub(crate) fn judge(&mut self, by: PortId, packet: Tuple, says: Says) -> Verdict {
        match self.keys.get(&packet).copied() {
            Some((at, is_reply)) => self.known(by, at, is_reply, packet, says),
            None => self.unknown(by, packet, says),
        }
    }

    fn known(
        &mut self,
        by: PortId,
        at: usize,
        is_reply: bool,
        packet: Tuple,
        says: Says,
    ) -> Verdict {
        let connection = self.connections[at].clone().expect("its keys are there");
        let sent = match (is_reply, connection.back.dst == connection.first.src) {
            (true, _) => connection.first.reversed(),
            (false, true) => packet,
            (false, false) => Tuple {
                src: connection.back.dst,
                ..packet
            },
        };
        let Some(way) = self.way(sent.dst.0) else {
            return Verdict::Dropped;
        };
        // Who comes from where nothing is reached is not believed.
        if by == UPLINK && self.way(packet.src.0) != Some(UPLINK) {
            return Verdict::Dropped;
        }
        let is_translated = connection.back.dst.0 != connection.first.src.0;
        if !is_reply && is_translated && connection.back.dst.0 != self.state.address {
            self.remove(at);
            return Verdict::Dropped;
        }
        // Who asked does not answer: nobody here opens from both sides.
        if matches!(says, Says::SynAck) && !is_reply {
            return Verdict::Dropped;
        }
        let phase = match (connection.phase, says, is_reply) {
            (Phase::Reset, Says::Syn, false) => {
                self.remove(at);
                return self.unknown(by, packet, says);
            }
            (Phase::Asked, Says::SynAck, true) => Phase::Answered,
            (Phase::Answered, Says::Ack, false) => Phase::Open,
            (_, Says::Reset, _) => Phase::Reset,
            (phase, ..) => phase,
        };
        if let Some(connection) = &mut self.connections[at] {
            connection.phase = phase;
            connection.seen[usize::from(is_reply)] = Some(self.now);
        }
        Verdict::Sent(way, sent)
    }

    fn unknown(&mut self, by: PortId, packet: Tuple, says: Says) -> Verdict {
        let Some(way) = self.way(packet.dst.0) else {
            return Verdict::Dropped;
        };
        if by == UPLINK && self.way(packet.src.0) != Some(UPLINK) {
            return Verdict::Dropped;
        }
        // The host's own with the outside is none of ours; other nodes' pods speak to it through us.
        let in_pool = |address: Ipv4Addr| address.octets()[..2] == [10, 65];
        if by == UPLINK && way == HOST && !in_pool(packet.src.0) {
            return Verdict::Sent(HOST, packet);
        }
        let begins = match says {
            // Nothing is picked up in its middle here.
            Says::SynAck | Says::Ack | Says::Reset | Says::Answer => return Verdict::Dropped,
            Says::Syn => Phase::Asked,
            Says::Anything => Phase::Open,
        };
        let is_translated = self.state.masquerades
            && way == UPLINK
            && in_pool(packet.src.0)
            && !in_pool(packet.dst.0);
        // Without ports there is one to a destination.
        let answers = packet.answers_to(self.state.address, 0);
        if is_translated && !packet.has_ports() && self.keys.contains_key(&answers) {
            return Verdict::Dropped;
        }
        // Not remembered: the host's own, to where a pod speaks by the same protocol without ports.
        if !is_translated && self.keys.contains_key(&packet.reversed()) {
            return Verdict::Sent(way, packet);
        }
        let connection = Connection {
            first: packet,
            back: packet.reversed(),
            phase: begins,
            seen: [Some(self.now), None],
        };
        let at = self.connections.len();
        self.keys.insert(packet, (at, false));
        if !is_translated {
            self.keys.insert(connection.back, (at, true));
        }
        self.connections.push(Some(connection));
        if is_translated {
            Verdict::SentFrom(self.state.address, packet)
        } else {
            Verdict::Sent(way, packet)
        }
    }

    /// The port that the connection of this packet was given.
    pub(crate) fn given(&mut self, packet: Tuple, port: u16) -> Result<(), String> {
        let range = match packet.protocol {
            1 => 0..=u16::MAX,
            _ if packet.has_ports() => self.state.range.clone(),
            _ => 0..=0,
        };
        if !range.contains(&port) {
            return Err(format!("port {port} is not in {range:?}"));
        }
        let (at, _) = self.keys[&packet];
        let back = packet.answers_to(self.state.address, port);
        if let Some(other) = self.keys.insert(back, (at, true)) {
            return Err(format!("port {port} is that of {other:?}"));
        }
        if let Some(connection) = &mut self.connections[at] {
            connection.back = back;
        }
        Ok(())
    }
}
