//! The ways that lead to a next hop, which of them are used, and which flows take which.

use std::collections::HashMap;
use std::net::IpAddr;

use encap::flow_hash::{self, HashKey};
use fastpath::group::{BUCKETS, MAX_LEGS, Spread};

use super::Compiler;
use super::hops::Hop;
use super::kernel::{KernelHop, KernelLeg, KernelView};

/// One way: an interface and the neighbour there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Leg {
    /// The interface.
    pub(super) ifindex: u32,
    /// The neighbour that packets are sent to; none on a connected network, where it is each packet's destination.
    pub(super) neighbour: Option<IpAddr>,
    /// Its share among all.
    pub(super) weight: u16,
}

impl From<&KernelLeg> for Leg {
    fn from(leg: &KernelLeg) -> Self {
        Self {
            ifindex: leg.ifindex,
            neighbour: leg.gateway,
            weight: leg.weight,
        }
    }
}

/// The ways that lead to a next hop, used or not; none for one that is on this node.
pub(super) fn all(compiler: &Compiler, hop: &Hop, kernel: &dyn KernelView) -> Vec<Leg> {
    let underlay = |addr: Option<IpAddr>| addr.map_or_else(Vec::new, |addr| underlay(addr, kernel));
    match hop {
        Hop::Drop(_) | Hop::Host | Hop::Pod(_) => Vec::new(),
        Hop::Via { gateway, ifindex } => vec![only(*ifindex, Some(*gateway))],
        Hop::OnLink { ifindex } => vec![only(*ifindex, None)],
        Hop::Legs(legs) => legs.iter().take(MAX_LEGS).map(Leg::from).collect(),
        Hop::Node(node) | Hop::Ipip(node) => underlay(compiler.node_addr(node, false)),
        Hop::Node6(node) => underlay(compiler.node_addr(node, true)),
        Hop::Vxlan { node, v6 } => underlay(compiler.vtep_parent(node, *v6)),
    }
}

/// The ways that lead to an address of the underlay.
fn underlay(addr: IpAddr, kernel: &dyn KernelView) -> Vec<Leg> {
    let mut legs = match kernel.route(addr) {
        Some(KernelHop::Via { gateway, ifindex }) => vec![only(ifindex, Some(gateway))],
        Some(KernelHop::OnLink { ifindex }) => vec![only(ifindex, None)],
        Some(KernelHop::Legs(legs)) => legs.iter().take(MAX_LEGS).map(Leg::from).collect(),
        Some(KernelHop::Blackhole | KernelHop::Unreachable | KernelHop::Prohibit) | None => {
            Vec::new()
        }
    };
    for leg in &mut legs {
        leg.neighbour.get_or_insert(addr);
    }
    legs
}

const fn only(ifindex: u32, neighbour: Option<IpAddr>) -> Leg {
    Leg {
        ifindex,
        neighbour,
        weight: 1,
    }
}

/// Those of some legs that are used: by uplinks that are up, to neighbours that answer, or were not asked yet. If none does, those
/// by uplinks that are up, and if there is none, the first: the kernel has nothing better either.
pub(super) fn used(compiler: &Compiler, legs: &[Leg], kernel: &dyn KernelView) -> Vec<Leg> {
    if legs.len() < 2 {
        return legs.to_vec();
    }
    let is_up =
        |leg: &&Leg| compiler.ports.by_ifindex(leg.ifindex).is_some() && kernel.is_up(leg.ifindex);
    let answers = |leg: &&Leg| {
        let asked = leg.neighbour;
        !asked.is_some_and(|addr| kernel.has_failed(leg.ifindex, addr))
    };
    let up: Vec<Leg> = legs.iter().filter(is_up).copied().collect();
    let good: Vec<Leg> = up.iter().filter(answers).copied().collect();
    [good, up, legs.iter().take(1).copied().collect()]
        .into_iter()
        .find(|some| !some.is_empty())
        .unwrap_or_default()
}

/// The spreads of the tables that are being made, each once.
#[derive(Debug, Default)]
pub(super) struct Spreads {
    /// Those of the tables before.
    before: HashMap<Vec<Leg>, Spread>,
    numbers: HashMap<Vec<Leg>, u16>,
    all: Vec<Spread>,
}

impl Spreads {
    /// Begins with the next tables.
    pub(super) fn restart(&mut self) {
        let Self {
            before,
            numbers,
            all,
        } = self;
        *before = numbers
            .drain()
            .filter_map(|(legs, number)| Some((legs, all.get(usize::from(number))?.clone())))
            .collect();
        all.clear();
    }

    /// The number of the spread over these legs; none when there are too many.
    pub(super) fn over(&mut self, legs: &[Leg]) -> Option<u16> {
        if let Some(&number) = self.numbers.get(legs) {
            return Some(number);
        }
        let number = u16::try_from(self.all.len()).ok()?;
        let before = self.before.get(legs).cloned();
        self.all.push(before.unwrap_or_else(|| spread(legs)));
        self.numbers.insert(legs.to_vec(), number);
        Some(number)
    }

    /// All of them, by number.
    pub(super) fn all(&self) -> &[Spread] {
        &self.all
    }
}

/// Gives each bucket to a leg, by weighted rendezvous: every leg draws a lot for the bucket, and the best one has it. A leg's lot depends
/// on nothing but itself, so when one goes the others keep what they have, and when it is back it has what it had,
/// whatever went and came meanwhile, and whether a route, a link or a neighbour did it.
fn spread(legs: &[Leg]) -> Spread {
    Spread::new(|bucket| {
        let lots = legs.iter().map(|leg| lot(leg, bucket));
        let best = (0..).zip(lots).min_by(|(_, a), (_, b)| a.total_cmp(b));
        best.map_or(0, |(leg, _): (u8, f64)| leg)
    })
}

/// A leg's lot for a bucket: the least wins. Exponentially distributed with the weight as its rate, so that each wins as often as its weight
/// says.
fn lot(leg: &Leg, bucket: usize) -> f64 {
    /// Nothing secret: flows are spread over the buckets with a key.
    const KEY: HashKey = HashKey([0, 0]);
    let neighbour = match leg.neighbour {
        Some(IpAddr::V4(addr)) => addr.to_ipv6_mapped().to_bits(),
        Some(IpAddr::V6(addr)) => addr.to_bits(),
        None => 0,
    };
    let place = u128::from(leg.ifindex) << 32 | bucket as u128;
    let drawn = f64::from(flow_hash::v6(&KEY, neighbour, place, 0, (0, 0)));
    let uniform = (drawn + 0.5) / (f64::from(u32::MAX) + 1.0);
    -uniform.ln() / f64::from(leg.weight.max(1))
}

/// How many of a hundred flows take each leg, about.
pub(super) fn shares(legs: &[Leg]) -> Vec<u8> {
    let spread = spread(legs);
    let count = |leg: usize| {
        spread
            .legs()
            .iter()
            .filter(|&&it| usize::from(it) == leg)
            .count()
    };
    (0..legs.len())
        .map(|leg| ((count(leg) * 100 + BUCKETS / 2) / BUCKETS) as u8)
        .collect()
}

#[cfg(test)]
mod tests;
