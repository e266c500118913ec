//! What a rule asks that no single field answers: sets, named ports, ICMP. Asked last, and only of rules
//! that hold for every field.

use super::sets::Members;
use super::{Address, Icmp, L4, PortRange, Rule, SetId, Sets, Side, Tuple};

/// Which end of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Source,
    Destination,
}

/// One thing that must hold.
#[derive(Clone, Debug)]
enum Check {
    In(End, SetId),
    NotIn(End, SetId),
    /// A port in one of the ranges, or in one of the sets with address and protocol.
    Named(End, Box<(Vec<PortRange>, Vec<SetId>)>),
    /// A port in one of the first ranges, if there are any, and in none of the others.
    Ports(End, Box<(Vec<PortRange>, Vec<PortRange>)>),
    PortIn(End, SetId),
    PortNotIn(End, SetId),
    Icmp(Icmp),
    NotIcmp(Icmp),
}

/// What is left to ask of each rule.
#[derive(Clone, Debug, Default)]
pub(super) struct Checks {
    all: Vec<Check>,
    /// By rule, where its checks end; they begin where those of the rule before end.
    ends: Vec<u32>,
    uses_sets: bool,
}

/// A packet, and what is known of its addresses.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subject<'a, A> {
    pub(super) tuple: &'a Tuple<A>,
    pub(super) sets: &'a Sets,
    pub(super) source: &'a Members,
    pub(super) destination: &'a Members,
}

/// Packets that are classified together.
pub(super) const BATCH: usize = 64;

/// The packets of a batch that are asked about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subjects<'a, A> {
    pub(super) tuples: &'a [Tuple<A>],
    pub(super) sets: &'a Sets,
    /// By place in `tuples`; empty if no rule asks for them.
    pub(super) sources: &'a [Members],
    pub(super) destinations: &'a [Members],
    /// Places in `tuples` of those that are asked about, at most [`BATCH`].
    pub(super) which: &'a [u8],
}

impl<'a, A: Address> Subjects<'a, A> {
    /// Each packet that is asked about.
    #[inline(always)]
    pub(super) fn iter(&self) -> impl Iterator<Item = Subject<'a, A>> {
        let all = *self;
        self.which.iter().filter_map(move |&at| all.subject(at))
    }

    /// The packet at place `at` of those that are asked about.
    #[inline(always)]
    pub(super) fn get(&self, at: usize) -> Option<Subject<'a, A>> {
        self.which.get(at).and_then(|&at| self.subject(at))
    }

    #[inline(always)]
    fn subject(&self, at: u8) -> Option<Subject<'a, A>> {
        static NOWHERE: Members = Members::NONE;
        let at = usize::from(at);
        Some(Subject {
            tuple: self.tuples.get(at)?,
            sets: self.sets,
            source: self.sources.get(at).unwrap_or(&NOWHERE),
            destination: self.destinations.get(at).unwrap_or(&NOWHERE),
        })
    }
}

impl<A: Address> Subject<'_, A> {
    #[inline(always)]
    fn is_in(&self, end: End, set: SetId) -> bool {
        match end {
            End::Source => self.sets.holds(self.source, self.tuple.source, set),
            End::Destination => self
                .sets
                .holds(self.destination, self.tuple.destination, set),
        }
    }

    /// Whether the end's address, protocol and port are in `set`; `None` without ports.
    fn port_is_in(&self, end: End, set: SetId) -> Option<bool> {
        let (source, destination) = self.tuple.ports()?;
        let (addr, port) = match end {
            End::Source => (self.tuple.source, source),
            End::Destination => (self.tuple.destination, destination),
        };
        Some(
            self.sets
                .contains_port(set, addr, self.tuple.protocol, port),
        )
    }

    fn port(&self, end: End) -> Option<u16> {
        self.tuple.ports().map(|(source, destination)| match end {
            End::Source => source,
            End::Destination => destination,
        })
    }

    /// Type and code, if it is ICMP of its family.
    fn icmp(&self) -> Option<(u8, u8)> {
        match self.tuple.l4 {
            L4::Icmp { kind, code } if self.tuple.protocol == A::ICMP => Some((kind, code)),
            _ => None,
        }
    }

    fn holds(&self, check: &Check) -> bool {
        match check {
            Check::In(end, set) => self.is_in(*end, *set),
            Check::NotIn(end, set) => !self.is_in(*end, *set),
            Check::Named(end, ports) => {
                let (ranges, sets) = &**ports;
                self.port(*end)
                    .is_some_and(|port| ranges.iter().any(|range| range.contains(port)))
                    || sets
                        .iter()
                        .any(|&set| self.port_is_in(*end, set) == Some(true))
            }
            Check::Ports(end, ports) => {
                let (ranges, not_ranges) = &**ports;
                let in_any =
                    |ranges: &[PortRange], port| ranges.iter().any(|range| range.contains(port));
                self.port(*end).is_some_and(|port| {
                    (ranges.is_empty() || in_any(ranges, port)) && !in_any(not_ranges, port)
                })
            }
            Check::PortIn(end, set) => self.port_is_in(*end, *set) == Some(true),
            // What has no port is in no set of ports.
            Check::PortNotIn(end, set) => self.port_is_in(*end, *set) != Some(true),
            Check::Icmp(icmp) => self
                .icmp()
                .is_some_and(|(kind, code)| icmp.matches(kind, code)),
            Check::NotIcmp(icmp) => self
                .icmp()
                .is_some_and(|(kind, code)| !icmp.matches(kind, code)),
        }
    }
}

impl Checks {
    /// Adds the checks of the next rule; whether there are any.
    pub(super) fn push(&mut self, rule: &Rule) -> bool {
        self.push_rule(rule, false)
    }

    /// [`Checks::push`] for a matcher that knows one range of ports for each end, and no more.
    pub(super) fn push_with_ports(&mut self, rule: &Rule) -> bool {
        self.push_rule(rule, true)
    }

    fn push_rule(&mut self, rule: &Rule, ports: bool) -> bool {
        let before = self.all.len();
        for (end, side) in [
            (End::Source, &rule.source),
            (End::Destination, &rule.destination),
        ] {
            if ports && (side.ports.len() > 1 || !side.not_ports.is_empty()) {
                let ranges = if side.named_ports.is_empty() {
                    side.ports.clone()
                } else {
                    Vec::new()
                };
                self.all.push(Check::Ports(
                    end,
                    Box::new((ranges, side.not_ports.clone())),
                ));
            }
            self.push_side(end, side);
        }
        self.all.extend(rule.icmp.map(Check::Icmp));
        self.all.extend(rule.not_icmp.map(Check::NotIcmp));
        self.ends.push(self.all.len() as u32);
        self.all.len() > before
    }

    fn push_side(&mut self, end: End, side: &Side) {
        let checks = &mut self.all;
        checks.extend(side.sets.iter().map(|&set| Check::In(end, set)));
        checks.extend(side.not_sets.iter().map(|&set| Check::NotIn(end, set)));
        if !side.named_ports.is_empty() {
            let ports = (side.ports.clone(), side.named_ports.clone());
            checks.push(Check::Named(end, Box::new(ports)));
        }
        checks.extend(side.port_sets.iter().map(|&set| Check::PortIn(end, set)));
        checks.extend(
            side.not_named_ports
                .iter()
                .map(|&set| Check::PortNotIn(end, set)),
        );
        self.uses_sets |= !(side.sets.is_empty() && side.not_sets.is_empty());
    }

    /// Whether any rule asks for the sets that an address is in.
    pub(super) const fn uses_sets(&self) -> bool {
        self.uses_sets
    }

    /// Whether all that is left to ask of rule `at` holds.
    #[inline]
    pub(super) fn hold<A: Address>(&self, at: usize, subject: &Subject<'_, A>) -> bool {
        let end = |at: usize| self.ends.get(at).map_or(0, |&end| end as usize);
        let first = if at == 0 { 0 } else { end(at - 1) };
        self.all
            .get(first..end(at))
            .is_some_and(|checks| checks.iter().all(|check| subject.holds(check)))
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let named = self.all.iter().map(|check| match check {
            Check::Named(_, ports) => {
                size_of_val(&**ports) + size_of_val(&*ports.0) + size_of_val(&*ports.1)
            }
            Check::Ports(_, ports) => {
                size_of_val(&**ports) + size_of_val(&*ports.0) + size_of_val(&*ports.1)
            }
            _ => 0,
        });
        self.all.capacity() * size_of::<Check>()
            + self.ends.capacity() * size_of::<u32>()
            + named.sum::<usize>()
    }
}
