//! The peer: the least that can be called forwarding, in a plain tight loop.
//!
//! Looks the destination up (the same table, in batches), takes the TTL down, puts the headers in front and
//! patches lengths, identification, checksum and source port. It trusts every byte: no validation, no ports,
//! no counters, no drops, no fragments, one shape of packet at one place of each frame. What it leaves out
//! is what the pipeline is for; the ratio to it is what that costs.

use benches::ours::CHUNK;
use benches::scenario::{Chain, Scenario};
use fastpath::io::HEADROOM;
use fastpath::tables::NextHop;
use flowtable::lpm::NextHopId;

use crate::established;
use crate::flows::Flows;

/// Where each packet's first byte lies in its chunk.
pub(crate) const START: usize = HEADROOM as usize;
/// The same of its IP header.
pub(crate) const L3: usize = START + 14;
/// Packets that are looked up together at most.
pub(crate) const BATCH: usize = 64;

pub(crate) type Chunk = [u8; CHUNK];

/// A packet as it leaves.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sent {
    pub(crate) chunk: u32,
    pub(crate) start: u16,
    pub(crate) len: u16,
    pub(crate) hop: NextHopId,
}

/// The headers of one next hop, up to 88 bytes of them, and the sum over its IPv4 header.
#[derive(Clone, Copy)]
#[repr(align(32))]
pub(crate) struct Template {
    pub(crate) bytes: [u8; 84],
    sum: u32,
}

/// The loop with its frames.
pub(crate) struct Minimal {
    arena: Vec<Chunk>,
    templates: Vec<Template>,
    flows: Flows,
    pub(crate) sent: Vec<Sent>,
}

impl Minimal {
    pub(crate) fn new(scenario: &Scenario, frames: usize) -> Self {
        let template = |hop: &NextHop| {
            let mut bytes = [0; 84];
            if let NextHop::Send(adjacency) = hop {
                let from = adjacency.rewrite.bytes();
                bytes[..from.len()].copy_from_slice(from);
            }
            let words = bytes[14..34].chunks(2);
            let sum = words
                .map(|two| u32::from(u16::from_be_bytes([two[0], two[1]])))
                .sum();
            Template { bytes, sum }
        };
        Self {
            arena: vec![[0; CHUNK]; frames],
            templates: scenario.tables.next_hops.iter().map(template).collect(),
            flows: Flows::of(scenario),
            sent: vec![Sent::default(); frames],
        }
    }

    /// Puts the next packets into all frames.
    pub(crate) fn put(&mut self, scenario: &Scenario, first: usize) {
        let packets = scenario.packets(first, self.arena.len());
        for (chunk, packet) in self.arena.iter_mut().zip(packets) {
            chunk[START..START + packet.len()].copy_from_slice(packet);
        }
    }

    /// Forwards all frames, `batch` at a time.
    pub(crate) fn run(&mut self, scenario: &Scenario, batch: usize) {
        match scenario.chain {
            Chain::Forward4 | Chain::Forward4Bgp => {
                self.run4::<L3>(scenario, batch, |chunk, template, _| {
                    chunk[START..L3].copy_from_slice(&template.bytes[..14]);
                    START
                });
            }
            Chain::Vxlan4 => self.run4::<L3>(scenario, batch, vxlan4),
            Chain::Ipip => self.run4::<L3>(scenario, batch, |chunk, template, len| {
                let id = read16(chunk, L3 + 4);
                chunk[L3 - 34..L3].copy_from_slice(&template.bytes[..34]);
                outer4(chunk, L3 - 20, template.sum + 0x4000, len + 20, id);
                chunk[L3 - 14] = 0x40;
                L3 - 34
            }),
            Chain::VxlanDecap => {
                self.run4::<{ L3 + 50 }>(scenario, batch, |chunk, template, _| {
                    const AT: usize = L3 + 50 - 14;
                    if read16(chunk, L3 + 22) != 4789 || chunk[L3 + 32..L3 + 35] != [0, 0x10, 0] {
                        return 0;
                    }
                    chunk[AT..AT + 14].copy_from_slice(&template.bytes[..14]);
                    AT
                });
            }
            Chain::IpipDecap => {
                self.run4::<{ L3 + 20 }>(scenario, batch, |chunk, template, _| {
                    const AT: usize = L3 + 20 - 14;
                    if chunk[L3 + 9] != 4 {
                        return 0;
                    }
                    chunk[AT..AT + 14].copy_from_slice(&template.bytes[..14]);
                    AT
                });
            }
            Chain::Forward6 => self.run6(scenario, batch, |chunk, template, _| {
                chunk[START..L3].copy_from_slice(&template.bytes[..14]);
                write16(chunk, L3 - 2, 0x86dd);
                START
            }),
            Chain::Vxlan6 => self.run6(scenario, batch, vxlan6),
            _ => established::run(
                scenario.chain,
                &mut self.arena,
                &self.flows,
                &self.templates,
                &mut self.sent,
                batch,
            ),
        }
    }

    /// IPv4 packets whose headers lie at `AT`; `rewrite` puts the headers in front and says where they start.
    #[inline(always)]
    fn run4<const AT: usize>(
        &mut self,
        scenario: &Scenario,
        batch: usize,
        rewrite: impl Fn(&mut Chunk, &Template, u16) -> usize,
    ) {
        let (lpm, templates) = (&scenario.tables.fib4, &self.templates[..]);
        let mut first = 0;
        for (chunks, sent) in self
            .arena
            .chunks_mut(batch)
            .zip(self.sent.chunks_mut(batch))
        {
            let (mut addrs, mut hops) = ([0; BATCH], [NextHopId::NONE; BATCH]);
            for (addr, chunk) in addrs.iter_mut().zip(chunks.iter()) {
                *addr = read32(chunk, AT + 16);
            }
            lpm.lookup_batch(&addrs[..chunks.len()], &mut hops);
            for (((chunk, hop), sent), index) in chunks.iter_mut().zip(hops).zip(sent).zip(first..)
            {
                chunk[AT + 8] -= 1;
                let sum = u32::from(read16(chunk, AT + 10)) + 0x0100;
                write16(chunk, AT + 10, (sum + u32::from(sum >= 0xffff)) as u16);
                let len = read16(chunk, AT + 2);
                let start = rewrite(chunk, &templates[hop.index()], len);
                *sent = Sent {
                    chunk: index,
                    start: start as u16,
                    len: len + (AT - start) as u16,
                    hop,
                };
            }
            first += chunks.len() as u32;
        }
    }

    /// The same for IPv6.
    #[inline(always)]
    fn run6(
        &mut self,
        scenario: &Scenario,
        batch: usize,
        rewrite: impl Fn(&mut Chunk, &Template, u16) -> usize,
    ) {
        let (lpm, templates) = (&scenario.tables.fib6, &self.templates[..]);
        let mut first = 0;
        for (chunks, sent) in self
            .arena
            .chunks_mut(batch)
            .zip(self.sent.chunks_mut(batch))
        {
            let (mut addrs, mut hops) = ([0; BATCH], [NextHopId::NONE; BATCH]);
            for (addr, chunk) in addrs.iter_mut().zip(chunks.iter()) {
                *addr = u128::from_be_bytes(*chunk[L3 + 24..].first_chunk().expect("inside"));
            }
            lpm.lookup_batch(&addrs[..chunks.len()], &mut hops);
            for (((chunk, hop), sent), index) in chunks.iter_mut().zip(hops).zip(sent).zip(first..)
            {
                chunk[L3 + 7] -= 1;
                let len = 40 + read16(chunk, L3 + 4);
                let start = rewrite(chunk, &templates[hop.index()], len);
                *sent = Sent {
                    chunk: index,
                    start: start as u16,
                    len: len + (L3 - start) as u16,
                    hop,
                };
            }
            first += chunks.len() as u32;
        }
    }
}

/// A source port that differs from flow to flow, by a multiplication.
#[inline(always)]
fn source_port(a: u64, b: u64) -> u16 {
    0xc000 | ((a ^ b.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 50) as u16
}

#[inline(always)]
pub(crate) fn vxlan4(chunk: &mut Chunk, template: &Template, len: u16) -> usize {
    let (addrs, ports) = (read64(chunk, L3 + 12), read32(chunk, L3 + 20));
    let id = read16(chunk, L3 + 4);
    chunk[L3 - 64..L3].copy_from_slice(&template.bytes[..64]);
    outer4(chunk, L3 - 50, template.sum, len + 50, id);
    write16(chunk, L3 - 30, source_port(addrs, ports.into()));
    write16(chunk, L3 - 26, len + 30);
    L3 - 64
}

#[inline(always)]
fn vxlan6(chunk: &mut Chunk, template: &Template, len: u16) -> usize {
    let (a, b) = (read64(chunk, L3 + 32), read64(chunk, L3 + 40));
    chunk[L3 - 84..L3].copy_from_slice(&template.bytes);
    write16(chunk, L3 - 66, len + 30);
    write16(chunk, L3 - 30, source_port(a, b));
    write16(chunk, L3 - 26, len + 30);
    write16(chunk, L3 - 2, 0x86dd);
    // The datagram, and the pseudo-header's addresses right in front of it.
    let summed = &chunk[L3 - 62..L3 + usize::from(len)];
    let (words, rest) = summed.as_chunks::<4>();
    let mut sum: u64 = words
        .iter()
        .map(|it| u64::from(u32::from_ne_bytes(*it)))
        .sum();
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    sum += u64::from(u32::from_ne_bytes(last));
    sum += u64::from((len + 30).to_be()) + u64::from(17_u16.to_be());
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    write16(chunk, L3 - 24, !u16::from_be(sum as u16));
    L3 - 84
}

/// Patches the outer IPv4 header at `at`.
#[inline(always)]
fn outer4(chunk: &mut Chunk, at: usize, sum: u32, len: u16, id: u16) {
    write16(chunk, at + 2, len);
    write16(chunk, at + 4, id);
    let sum = sum + u32::from(len) + u32::from(id);
    let sum = (sum & 0xffff) + (sum >> 16);
    write16(chunk, at + 10, !(sum + (sum >> 16)) as u16);
}

#[inline(always)]
pub(crate) fn read16(chunk: &Chunk, at: usize) -> u16 {
    u16::from_be_bytes(*chunk[at..].first_chunk().expect("inside"))
}

#[inline(always)]
pub(crate) fn read32(chunk: &Chunk, at: usize) -> u32 {
    u32::from_be_bytes(*chunk[at..].first_chunk().expect("inside"))
}

#[inline(always)]
pub(crate) fn read64(chunk: &Chunk, at: usize) -> u64 {
    u64::from_be_bytes(*chunk[at..].first_chunk().expect("inside"))
}

#[inline(always)]
pub(crate) fn write16(chunk: &mut Chunk, at: usize, value: u16) {
    *chunk[at..].first_chunk_mut().expect("inside") = value.to_be_bytes();
}

impl Minimal {
    /// What was sent from frame number `index`: the next hop, and the bytes.
    pub(crate) fn output(&self, index: usize) -> (NextHopId, &[u8]) {
        let sent = self.sent[index];
        let from = usize::from(sent.start);
        let chunk = &self.arena[sent.chunk as usize];
        (sent.hop, &chunk[from..from + usize::from(sent.len)])
    }
}
