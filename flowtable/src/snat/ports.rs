//! The ports that translated connections may get, and the order in which they are tried.

use std::ops::RangeInclusive;

use super::PortRng;

/// How many ports are tried for a connection, as in Linux. Then it is refused: its remote end's ports are as good as used up,
/// and a search through all of them would cost the connections of others.
pub const MAX_PROBES: u32 = 128;

/// A set of ports, each as likely to be drawn as any other however many are excluded.
///
/// Holds what is left of the ranges after the exclusions as runs, so that a set with few exclusions, as nearly all are, fits a
/// cache line or two. Drawing and [`PortSet::contains`] take time by the logarithm of the runs. Never changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortSet {
    runs: Box<[Run]>,
    len: u32,
}

/// Ports next to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    /// Members of the set in front of this run.
    before: u32,
    first: u16,
}

impl PortSet {
    /// The ports in any of `ranges` and in none of `excluded`.
    #[must_use]
    pub fn new(
        ranges: impl IntoIterator<Item = RangeInclusive<u16>>,
        excluded: impl IntoIterator<Item = RangeInclusive<u16>>,
    ) -> Self {
        let mut members = vec![false; 1 << 16];
        for port in ranges.into_iter().flatten() {
            members[usize::from(port)] = true;
        }
        for port in excluded.into_iter().flatten() {
            members[usize::from(port)] = false;
        }
        let mut runs = vec![];
        let mut len = 0;
        let mut is_in_run = false;
        for (port, is_member) in (0..=u16::MAX).zip(members) {
            if is_member && !is_in_run {
                runs.push(Run {
                    before: len,
                    first: port,
                });
            }
            is_in_run = is_member;
            len += u32::from(is_member);
        }
        Self {
            runs: runs.into(),
            len,
        }
    }

    /// How many ports there are, 0 to 65536.
    #[inline]
    #[must_use]
    pub const fn len(&self) -> u32 {
        self.len
    }

    /// Whether there is none.
    #[inline]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether `port` is a member.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        let index = self.runs.partition_point(|run| run.first <= port);
        let Some(run) = index.checked_sub(1).and_then(|index| self.runs.get(index)) else {
            return false;
        };
        let end = self.runs.get(index).map_or(self.len, |next| next.before);
        u32::from(port - run.first) < end - run.before
    }

    /// The member with `rank` members in front of it; `rank` must be less than [`Self::len`].
    fn select(&self, rank: u32) -> Option<u16> {
        let index = self.runs.partition_point(|run| run.before <= rank);
        let run = self.runs.get(index.checked_sub(1)?)?;
        Some(run.first + (rank - run.before) as u16)
    }

    /// At most [`MAX_PROBES`] members in random order, no one twice: all of them if there are no more. Draws from `rng` once.
    ///
    /// The first is any member with the same probability, and so is every other. They are as far apart as a second random number
    /// says, so that ports taken by others, wherever they lie, are met no more often than by drawing anew.
    #[inline]
    pub fn probes(&self, rng: &mut PortRng) -> Probes<'_> {
        // The fraction that choosing the start leaves over is as random as the whole was.
        let (start, rest) = scaled(rng.next_u64(), self.len);
        let (step, _) = scaled(rest, self.len.saturating_sub(1));
        Probes {
            set: self,
            next: start,
            step: step + 1,
            tried: 0,
        }
    }
}

/// `random`, taken as a fraction of 2^64, of `len`: the whole part, and what is left as such a fraction.
#[inline]
const fn scaled(random: u64, len: u32) -> (u32, u64) {
    let product = random as u128 * len as u128;
    ((product >> 64) as u32, product as u64)
}

/// The ports to try for a connection, one after the other: see [`PortSet::probes`].
#[derive(Clone, Debug)]
pub struct Probes<'a> {
    set: &'a PortSet,
    /// The rank to be tried next.
    next: u32,
    /// How far that goes; made to have no divisor in common with the set's length once a second port is asked for.
    step: u32,
    tried: u32,
}

impl Iterator for Probes<'_> {
    type Item = u16;

    #[inline]
    fn next(&mut self) -> Option<u16> {
        if self.tried >= MAX_PROBES.min(self.set.len) {
            return None;
        }
        if self.tried == 1 {
            self.step = coprime_from(self.step, self.set.len);
        }
        if self.tried != 0 {
            self.next += self.step;
            if self.next >= self.set.len {
                self.next -= self.set.len;
            }
        }
        self.tried += 1;
        self.set.select(self.next)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = (MAX_PROBES.min(self.set.len) - self.tried) as usize;
        (left, Some(left))
    }
}

impl ExactSizeIterator for Probes<'_> {}

/// The first number from `step` on, around at `len`, without a divisor in common with `len`.
fn coprime_from(step: u32, len: u32) -> u32 {
    (step..len)
        .chain(1..step)
        .find(|step| greatest_common_divisor(*step, len) == 1)
        .unwrap_or(1)
}

const fn greatest_common_divisor(mut a: u32, mut b: u32) -> u32 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// The ports, and the identifiers of ICMP queries, that pollers give to translated connections, and the protocols that are
/// translated without.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ports {
    /// Of TCP.
    pub tcp: PortSet,
    /// Of UDP. Without the port of VXLAN: answers to it would be taken for a tunnel's packets.
    pub udp: PortSet,
    /// Of SCTP.
    pub others: PortSet,
    /// Identifiers of ICMP and ICMPv6 queries.
    pub identifiers: PortSet,
    /// Numbers of the protocols that are translated by their addresses alone. None of them is the host's.
    pub protocols: PortSet,
}

impl Default for Ports {
    /// The default range, and nothing excluded.
    fn default() -> Self {
        Self::new(Self::DEFAULT_RANGE, [], [])
    }
}

impl Ports {
    /// Ports that no well-known service has, where nothing else is configured.
    pub const DEFAULT_RANGE: RangeInclusive<u16> = 1024..=u16::MAX;

    /// No ports and no identifiers: nothing can be translated.
    #[must_use]
    pub fn none() -> Self {
        let none = || PortSet::new([], []);
        Self {
            tcp: none(),
            udp: none(),
            others: none(),
            identifiers: none(),
            protocols: none(),
        }
    }

    /// The protocols that are translated by their addresses alone, but for those of `hosts`.
    ///
    /// Never: extension headers of IPv6; ICMP, and what has ports (TCP, UDP, SCTP, and UDP-Lite and DCCP, of which nobody draws any);
    /// IGMP, which is for one link; IPIP, which may be our own tunnels'; L2TP, since the kernel does not tell which sockets it has.
    #[must_use]
    pub fn protocols_without(hosts: impl IntoIterator<Item = u16>) -> PortSet {
        const NEVER: [u16; 14] = [0, 1, 2, 4, 6, 17, 33, 43, 44, 58, 60, 115, 132, 136];
        let excluded = NEVER.into_iter().chain(hosts);
        PortSet::new([0..=u8::MAX.into()], excluded.map(|number| number..=number))
    }

    /// TCP and UDP get ports of `range`, without those `excluded` for them: whatever the node itself listens on, its reserved
    /// ports, and for UDP that of VXLAN. SCTP gets any of [`Self::DEFAULT_RANGE`], queries any identifier, and any protocol without
    /// ports may be translated.
    #[must_use]
    pub fn new(
        range: RangeInclusive<u16>,
        tcp_excluded: impl IntoIterator<Item = RangeInclusive<u16>>,
        udp_excluded: impl IntoIterator<Item = RangeInclusive<u16>>,
    ) -> Self {
        Self {
            tcp: PortSet::new([range.clone()], tcp_excluded),
            udp: PortSet::new([range], udp_excluded),
            others: PortSet::new([Self::DEFAULT_RANGE], []),
            identifiers: PortSet::new([0..=u16::MAX], []),
            protocols: Self::protocols_without([]),
        }
    }
}
