//! Five-tuple rules as ClassBench's, and packets that meet them.

use std::collections::HashSet;

use crate::rng::{Rng, Zipf};

/// A five-tuple rule. The first rule of a list that matches decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FiveTuple {
    /// First source address and prefix length.
    pub source: (u32, u8),
    /// First destination address and prefix length.
    pub destination: (u32, u8),
    /// First and last source port.
    pub source_ports: (u16, u16),
    /// First and last destination port.
    pub destination_ports: (u16, u16),
    /// The protocol; `None` is any.
    pub protocol: Option<u8>,
}

/// A packet's five-tuple. The protocol is TCP or UDP: packets have ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Source address.
    pub source: u32,
    /// Destination address.
    pub destination: u32,
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// The protocol.
    pub protocol: u8,
}

const ANY_PORT: (u16, u16) = (0, u16::MAX);

/// Source and destination prefix lengths, and how often they come together (of 100).
const LENGTHS: [((u8, u8), usize); 13] = [
    ((32, 32), 23),
    ((24, 32), 14),
    ((0, 32), 10),
    ((24, 24), 10),
    ((28, 32), 7),
    ((16, 32), 6),
    ((16, 24), 6),
    ((32, 24), 6),
    ((0, 24), 4),
    ((21, 27), 5),
    ((32, 0), 4),
    ((8, 16), 3),
    ((0, 16), 2),
];

/// `count` different rules: addresses in few networks, some of which many rules name; well-known
/// destination ports, ranges and wildcards; mostly TCP.
#[must_use]
pub fn five_tuples(count: usize, seed: u64) -> Vec<FiveTuple> {
    let mut rng = Rng::new(seed);
    let networks: Vec<u32> = (0..(count / 20).clamp(4, 400))
        .map(|_| (rng.next_u64() as u32) & 0xffff_0000)
        .collect();
    let popular = Zipf::new(networks.len());
    let ports: Vec<u16> = [80, 443, 53, 22, 25, 8080, 3306, 5432, 123, 161]
        .into_iter()
        .chain((0..90).map(|_| 1 + rng.below(49_151) as u16))
        .collect();
    let well_known = Zipf::new(ports.len());
    let mut seen = HashSet::new();
    let mut rules = Vec::new();
    while rules.len() < count {
        let address = |rng: &mut Rng, len: u8| {
            let network = networks[popular.draw(rng)];
            // Hosts stand together, as servers in a rack do.
            let host = (rng.below(40) << 8 | rng.below(256)) as u32;
            ((network | host) & mask(len), len)
        };
        let (source_len, destination_len) = lengths(&mut rng);
        let (source, destination) = (
            address(&mut rng, source_len),
            address(&mut rng, destination_len),
        );
        let source_ports = match rng.below(100) {
            0..90 => ANY_PORT,
            90..97 => (1024, u16::MAX),
            _ => one(ports[well_known.draw(&mut rng)]),
        };
        let destination_ports = match rng.below(100) {
            0..60 => one(ports[well_known.draw(&mut rng)]),
            60..85 => ANY_PORT,
            85..90 => (1024, u16::MAX),
            _ => {
                let first = rng.below(60_000) as u16;
                (first, first + rng.below(5_000) as u16)
            }
        };
        let protocol = match rng.below(100) {
            0..68 => Some(6),
            68..94 => Some(17),
            _ => None,
        };
        let rule = FiveTuple {
            source,
            destination,
            source_ports,
            destination_ports,
            protocol,
        };
        if seen.insert(rule) {
            rules.push(rule);
        }
    }
    rules
}

/// `count` packets: nine of ten at a random place of a random rule, the others anywhere.
#[must_use]
pub fn packets(rules: &[FiveTuple], count: usize, seed: u64) -> Vec<Packet> {
    let mut rng = Rng::new(seed);
    (0..count)
        .map(|_| {
            if rules.is_empty() || rng.below(10) == 0 {
                return anywhere(&mut rng);
            }
            let rule = rules[rng.below(rules.len())];
            let mut host = |(first, len): (u32, u8)| first | (rng.next_u64() as u32 & !mask(len));
            let (source, destination) = (host(rule.source), host(rule.destination));
            let mut port =
                |(first, last): (u16, u16)| first + rng.below(usize::from(last - first) + 1) as u16;
            Packet {
                source,
                destination,
                source_port: port(rule.source_ports),
                destination_port: port(rule.destination_ports),
                protocol: rule.protocol.unwrap_or(6),
            }
        })
        .collect()
}

fn anywhere(rng: &mut Rng) -> Packet {
    Packet {
        source: rng.next_u64() as u32,
        destination: rng.next_u64() as u32,
        source_port: rng.next_u64() as u16,
        destination_port: rng.next_u64() as u16,
        protocol: if rng.below(4) == 0 { 17 } else { 6 },
    }
}

fn lengths(rng: &mut Rng) -> (u8, u8) {
    let mut at = rng.below(LENGTHS.iter().map(|(_, weight)| weight).sum());
    for (lengths, weight) in LENGTHS {
        match at.checked_sub(weight) {
            Some(rest) => at = rest,
            None => return lengths,
        }
    }
    LENGTHS[0].0
}

const fn one(port: u16) -> (u16, u16) {
    (port, port)
}

/// The bits that the first `len` bits of an address select.
#[must_use]
pub fn mask(len: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0)
}

impl FiveTuple {
    /// Whether the rule matches `packet`.
    #[must_use]
    pub fn matches(&self, packet: &Packet) -> bool {
        let within = |(first, last): (u16, u16), port| (first..=last).contains(&port);
        packet.source & mask(self.source.1) == self.source.0
            && packet.destination & mask(self.destination.1) == self.destination.0
            && within(self.source_ports, packet.source_port)
            && within(self.destination_ports, packet.destination_port)
            && self.protocol.is_none_or(|own| own == packet.protocol)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nine_of_ten_packets_match_a_rule() {
        let rules = five_tuples(1000, 1);
        let packets = packets(&rules, 2000, 2);
        let matching = packets
            .iter()
            .filter(|packet| rules.iter().any(|rule| rule.matches(packet)))
            .count();
        assert!((1700..2000).contains(&matching), "{matching}");
    }
}
