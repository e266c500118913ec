//! A flat table of connections, the least that finds them.

use benches::scenario::Scenario;
use fastpath::connections::Connections;
use flowtable::flow::{Key4, Key6, flag};

use crate::minimal::{Chunk, L3, START, Template, read16, read32, read64, write16};

/// What the loop knows of flows.
pub(crate) enum Flows {
    None,
    V4(Table<V4>),
    V6(Table<V6>),
}

impl Flows {
    /// Those of the scenario's connections, both directions.
    pub(crate) fn of(scenario: &Scenario) -> Self {
        match scenario.connections.as_deref() {
            None => Self::None,
            Some(connections) if scenario.chain.is_v6() => Self::V6(V6::table(connections)),
            Some(connections) => Self::V4(V4::table(connections)),
        }
    }
}

/// A direction of a connection.
pub(crate) trait Flow: Copy + Default {
    type Key: Copy + Eq;
    fn key(&self) -> Self::Key;
    fn hop(&self) -> u16;
    fn key_of(chunk: &Chunk) -> Self::Key;
    fn hash(key: Self::Key) -> u64;
    /// Gives a packet its new source, or destination; checksums too, that of the upper layer at `CHECKSUM`.
    fn translate<const REPLY: bool, const CHECKSUM: usize>(&self, chunk: &mut Chunk);
    /// Takes the TTL down. The packet's length.
    fn forward(chunk: &mut Chunk) -> u16;
    fn ethernet(chunk: &mut Chunk, template: &Template);
}

/// Slots of which half are empty; a flow is in the first empty one from its hash on.
pub(crate) struct Table<F> {
    pub(crate) slots: Vec<F>,
}

impl<F: Flow> Table<F> {
    fn new(flows: &[F]) -> Self {
        let len = (flows.len() * 2).next_power_of_two();
        let mut slots = vec![F::default(); len];
        for flow in flows {
            let mut at = F::hash(flow.key()) as usize & (len - 1);
            while slots[at].hop() != 0 {
                at = (at + 1) & (len - 1);
            }
            slots[at] = *flow;
        }
        Self { slots }
    }
}

#[derive(Clone, Copy, Default)]
#[repr(align(32))]
pub(crate) struct V4 {
    addresses: u64,
    ports: u32,
    new_address: u32,
    new_port: u16,
    hop: u16,
    /// What the change adds to the IP header's checksum, and to that of the upper layer.
    differences: [u16; 2],
}

#[derive(Clone, Copy, Default)]
#[repr(align(64))]
pub(crate) struct V6 {
    addresses: [u64; 4],
    new_address: u128,
    ports: u32,
    new_port: u16,
    hop: u16,
    difference: u16,
}

impl V4 {
    fn table(connections: &Connections) -> Table<Self> {
        let mut all = Vec::new();
        connections.v4.table.for_each(|view| {
            let Key4 {
                src,
                dst,
                sport,
                dport,
                ..
            } = view.key;
            let action = &view.action;
            let (old_address, old_port) = match action.flags & flag::NAT_DST {
                0 => (src, sport),
                _ => (dst, dport),
            };
            let words = |addr: u32| [(addr >> 16) as u16, addr as u16];
            let address = difference(&words(old_address), &words(action.nat_addr));
            all.push(Self {
                addresses: u64::from(src) << 32 | u64::from(dst),
                ports: u32::from(sport) << 16 | u32::from(dport),
                new_address: action.nat_addr,
                new_port: action.nat_port,
                hop: action.next_hop.get(),
                differences: [
                    fold(address),
                    fold(address + difference(&[old_port], &[action.nat_port])),
                ],
            });
        });
        Table::new(&all)
    }
}

impl V6 {
    fn table(connections: &Connections) -> Table<Self> {
        let mut all = Vec::new();
        connections.v6.table.for_each(|view| {
            let Key6 {
                src,
                dst,
                sport,
                dport,
                ..
            } = view.key;
            let action = &view.action;
            let words = |addr: u128| -> [u16; 8] {
                std::array::from_fn(|at| (addr >> (112 - 16 * at)) as u16)
            };
            let sum = difference(&words(src), &words(action.nat_addr))
                + difference(&[sport], &[action.nat_port]);
            all.push(Self {
                addresses: [
                    (src >> 64) as u64,
                    src as u64,
                    (dst >> 64) as u64,
                    dst as u64,
                ],
                new_address: action.nat_addr,
                ports: u32::from(sport) << 16 | u32::from(dport),
                new_port: action.nat_port,
                hop: action.next_hop.get(),
                difference: fold(sum),
            });
        });
        Table::new(&all)
    }
}

impl Flow for V4 {
    type Key = (u64, u32);

    #[inline(always)]
    fn key(&self) -> (u64, u32) {
        (self.addresses, self.ports)
    }

    #[inline(always)]
    fn hop(&self) -> u16 {
        self.hop
    }

    #[inline(always)]
    fn key_of(chunk: &Chunk) -> (u64, u32) {
        (read64(chunk, L3 + 12), read32(chunk, L3 + 20))
    }

    #[inline(always)]
    fn hash((addresses, ports): (u64, u32)) -> u64 {
        multiply(addresses ^ u64::from(ports).rotate_left(17))
    }

    #[inline(always)]
    fn translate<const REPLY: bool, const CHECKSUM: usize>(&self, chunk: &mut Chunk) {
        let (address, port) = if REPLY { (16, 22) } else { (12, 20) };
        *chunk[L3 + address..].first_chunk_mut().expect("inside") = self.new_address.to_be_bytes();
        write16(chunk, L3 + port, self.new_port);
        let [of_ip, of_upper] = self.differences;
        write16(chunk, L3 + 10, changed(read16(chunk, L3 + 10), of_ip));
        let at = L3 + 20 + CHECKSUM;
        write16(
            chunk,
            at,
            on_wire::<CHECKSUM>(changed(read16(chunk, at), of_upper)),
        );
    }

    #[inline(always)]
    fn forward(chunk: &mut Chunk) -> u16 {
        chunk[L3 + 8] -= 1;
        let sum = u32::from(read16(chunk, L3 + 10)) + 0x0100;
        write16(chunk, L3 + 10, (sum + u32::from(sum >= 0xffff)) as u16);
        read16(chunk, L3 + 2)
    }

    #[inline(always)]
    fn ethernet(chunk: &mut Chunk, template: &Template) {
        chunk[START..L3].copy_from_slice(&template.bytes[..14]);
    }
}

impl Flow for V6 {
    type Key = ([u64; 4], u32);

    #[inline(always)]
    fn key(&self) -> ([u64; 4], u32) {
        (self.addresses, self.ports)
    }

    #[inline(always)]
    fn hop(&self) -> u16 {
        self.hop
    }

    #[inline(always)]
    fn key_of(chunk: &Chunk) -> ([u64; 4], u32) {
        let addresses = std::array::from_fn(|at| read64(chunk, L3 + 8 + 8 * at));
        (addresses, read32(chunk, L3 + 40))
    }

    #[inline(always)]
    fn hash(([a, b, c, d], ports): ([u64; 4], u32)) -> u64 {
        let source = a ^ b.rotate_left(23) ^ u64::from(ports).rotate_left(17);
        multiply(multiply(source) ^ c ^ d.rotate_left(31))
    }

    #[inline(always)]
    fn translate<const REPLY: bool, const CHECKSUM: usize>(&self, chunk: &mut Chunk) {
        *chunk[L3 + 8..].first_chunk_mut().expect("inside") = self.new_address.to_be_bytes();
        write16(chunk, L3 + 40, self.new_port);
        let at = L3 + 40 + CHECKSUM;
        write16(
            chunk,
            at,
            on_wire::<CHECKSUM>(changed(read16(chunk, at), self.difference)),
        );
    }

    #[inline(always)]
    fn forward(chunk: &mut Chunk) -> u16 {
        chunk[L3 + 7] -= 1;
        40 + read16(chunk, L3 + 4)
    }

    #[inline(always)]
    fn ethernet(chunk: &mut Chunk, template: &Template) {
        chunk[START..L3].copy_from_slice(&template.bytes[..14]);
        write16(chunk, L3 - 2, 0x86dd);
    }
}

/// Where the checksum of UDP and that of TCP lie.
pub(crate) const UDP: usize = 6;
pub(crate) const TCP: usize = 16;

#[inline(always)]
fn multiply(key: u64) -> u64 {
    let wide = u128::from(key) * 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835;
    (wide >> 64) as u64 ^ wide as u64
}

/// The sum of `!old + new` (RFC 1624 equation 3).
fn difference(old: &[u16], new: &[u16]) -> u32 {
    let words = old.iter().zip(new);
    words
        .map(|(&old, &new)| u32::from(!old) + u32::from(new))
        .sum()
}

fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// A checksum after a change.
#[inline(always)]
fn changed(checksum: u16, difference: u16) -> u16 {
    let sum = u32::from(!checksum) + u32::from(difference);
    !((sum & 0xffff) + (sum >> 16)) as u16
}

/// UDP's zero means "none".
#[inline(always)]
fn on_wire<const CHECKSUM: usize>(checksum: u16) -> u16 {
    if CHECKSUM == UDP && checksum == 0 {
        0xffff
    } else {
        checksum
    }
}
