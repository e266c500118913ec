//! Ports of 64 rules, compared together.

use fearless_simd::prelude::*;
use fearless_simd::u16x32;

use crate::acl::tree::Line;
use crate::acl::{PortRange, Rule, Side};

/// A bound of 64 rules.
type Bound = Line<[[u16; 32]; 2]>;

/// The range of ports of each of 64 rules, for both ends.
#[derive(Clone, Debug)]
pub(super) struct PortBlock {
    source: [Bound; 2],
    destination: [Bound; 2],
    /// Rules that a packet without ports can match.
    pub(super) without_ports: u64,
}

/// One range that holds all ports that the side can match; more is asked later.
fn range(side: &Side) -> PortRange {
    let any = PortRange {
        first: 0,
        last: u16::MAX,
    };
    if side.ports.is_empty() || !side.named_ports.is_empty() {
        return any;
    }
    let holding = || side.ports.iter().filter(|range| range.first <= range.last);
    let first = holding().map(|range| range.first).min();
    let last = holding().map(|range| range.last).max();
    // No port is in any of the ranges.
    let none = PortRange { first: 1, last: 0 };
    first
        .zip(last)
        .map_or(none, |(first, last)| PortRange { first, last })
}

impl PortBlock {
    /// Of up to 64 rules.
    pub(super) fn new<'a>(rules: impl Iterator<Item = &'a Rule>) -> Self {
        let nothing = Line([[0; 32]; 2]);
        let mut block = Self {
            source: [nothing; 2],
            destination: [nothing; 2],
            without_ports: 0,
        };
        for (at, rule) in rules.enumerate().take(64) {
            let (half, lane) = (at / 32, at % 32);
            for (bounds, side) in [
                (&mut block.source, &rule.source),
                (&mut block.destination, &rule.destination),
            ] {
                let PortRange { first, last } = range(side);
                bounds[0].0[half][lane] = first;
                bounds[1].0[half][lane] = last;
            }
            let asks = rule.source.asks_for_ports() || rule.destination.asks_for_ports();
            block.without_ports |= u64::from(!asks) << at;
        }
        block
    }

    /// The rules whose ranges hold the packet's ports.
    #[inline(always)]
    pub(super) fn holding<S: Simd>(&self, simd: S, source: u16, destination: u16) -> u64 {
        let (source, destination) = (
            u16x32::splat(simd, source),
            u16x32::splat(simd, destination),
        );
        let half = |half: usize| {
            let bound = |bound: &Bound| -> u16x32<S> { bound.0[half].simd_into(simd) };
            let holds = source.simd_ge(bound(&self.source[0]))
                & source.simd_le(bound(&self.source[1]))
                & destination.simd_ge(bound(&self.destination[0]))
                & destination.simd_le(bound(&self.destination[1]));
            holds.to_bitmask()
        };
        half(0) | half(1) << 32
    }
}
