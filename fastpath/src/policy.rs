//! Policy as pollers see it: each endpoint's chains, and what decided about a connection.
//!
//! Control compiles it, off the pollers; it is part of the [`Tables`](crate::tables::Tables), so that a packet is judged by
//! one generation of it. A connection is judged once, by its first packet. RFC: none; the semantics are those of Calico.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use flowtable::acl::{Address, Chain, ChainSpec, Compiler, Members, RuleId, Sets, Tuple};

use crate::port::PortId;
use crate::reason::DropReason;

/// The policy of a node.
#[derive(Clone, Debug, Default)]
pub struct Policies {
    /// By port number. A pod's port that has none is closed.
    pub endpoints: Vec<Option<Endpoint>>,
    /// The IP sets that chains ask for.
    pub sets: Sets,
    /// What becomes of pods' packets to their own host that policy allows.
    pub to_host: ToHost,
    /// Whether connections are judged again when tables change (`reevaluateEstablished` in caracal.yaml).
    pub reevaluate: bool,
    /// What rules decided about.
    pub counters: RuleCounters,
}

/// What one endpoint applies.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// False: nothing passes.
    pub active: bool,
    /// For packets to the endpoint.
    pub ingress: Chain,
    /// For packets from the endpoint.
    pub egress: Chain,
}

/// What becomes of a packet from a pod to its own host, after policy (`defaultEndpointToHostAction`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ToHost {
    /// It is dropped.
    #[default]
    Drop,
    /// It is dropped, and its sender told.
    Reject,
    /// It is delivered; the host's own rules may still say no.
    Deliver,
}

/// One end of a packet's way, as policy sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// An endpoint of this node, by its port.
    Pod(PortId),
    /// This node's own stack.
    Host,
    /// Anything else.
    Outside,
}

/// Which way a packet goes, seen from an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// To it.
    Ingress,
    /// From it.
    Egress,
}

/// What policy says about the first packet of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// It may go on.
    Allow {
        /// What decided for the endpoint that it comes from.
        source: Decider,
        /// What decided for the endpoint that it goes to.
        destination: Decider,
    },
    /// It is dropped.
    Deny {
        /// For this reason.
        reason: DropReason,
        /// What decided.
        by: Decider,
    },
}

impl Policies {
    /// Lets everything pass between `ports` ports.
    pub fn allowing_all(ports: usize) -> Self {
        let spec = ChainSpec {
            allow_at_end: true,
            ..ChainSpec::default()
        };
        let chain = Compiler::default().chain(&spec).ok();
        let endpoint = chain.map(|chain| Endpoint {
            active: true,
            ingress: chain.clone(),
            egress: chain,
        });
        Self {
            endpoints: vec![endpoint; ports],
            to_host: ToHost::Deliver,
            ..Self::default()
        }
    }

    /// Judges a packet that no connection is known for, and counts what decided. `tuple` is what it is before its source is
    /// translated.
    pub fn judge<A: Address + Copy>(&self, tuple: &Tuple<A>, from: End, to: End) -> Judgement {
        self.explain(tuple, from, to, |decider, _| self.counters.decided(decider))
    }

    /// The same without counting; `note` is told what each endpoint's chain decides, and whether it allows.
    pub fn explain<A: Address + Copy>(
        &self,
        tuple: &Tuple<A>,
        from: End,
        to: End,
        mut note: impl FnMut(Decider, bool),
    ) -> Judgement {
        let mut source = Decider::NOBODY;
        let mut destination = Decider::NOBODY;
        if from == End::Host {
            // A host always reaches its own pods, and what it says to others is for host endpoints' policies.
            return Judgement::Allow {
                source,
                destination,
            };
        }
        let of = |end, direction| match end {
            End::Host | End::Outside => None,
            End::Pod(port) => Some(self.chain(port, direction)),
        };
        let chains = [of(from, Direction::Egress), of(to, Direction::Ingress)];
        let uses_sets = chains
            .iter()
            .flatten()
            .flatten()
            .any(|chain| chain.uses_sets());
        let members = if uses_sets {
            let of = |addr| self.sets.members(addr);
            (of(tuple.source), of(tuple.destination))
        } else {
            (Members::NONE, Members::NONE)
        };
        for (chain, (direction, decider)) in chains.into_iter().zip([
            (Direction::Egress, &mut source),
            (Direction::Ingress, &mut destination),
        ]) {
            let allows = match chain {
                None => continue,
                Some(Err(closed)) => {
                    *decider = closed;
                    false
                }
                Some(Ok(chain)) => {
                    let verdict = chain.classify_known(&self.sets, tuple, &members.0, &members.1);
                    *decider = Decider::of(verdict.reason, direction);
                    verdict.allow
                }
            };
            note(*decider, allows);
            if !allows {
                return Judgement::Deny {
                    reason: DropReason::PolicyDeny,
                    by: *decider,
                };
            }
        }
        if matches!((from, to), (End::Pod(_), End::Host)) {
            let reason = match self.to_host {
                ToHost::Deliver => {
                    return Judgement::Allow {
                        source,
                        destination,
                    };
                }
                ToHost::Drop => DropReason::EndpointToHost,
                ToHost::Reject => DropReason::EndpointToHostRejected,
            };
            return Judgement::Deny { reason, by: source };
        }
        Judgement::Allow {
            source,
            destination,
        }
    }

    fn chain(&self, port: PortId, direction: Direction) -> Result<&Chain, Decider> {
        let endpoint = self.endpoints.get(usize::from(port.0));
        match endpoint.and_then(Option::as_ref) {
            None => Err(Decider::special(Decided::Unknown(direction))),
            Some(endpoint) if !endpoint.active => {
                Err(Decider::special(Decided::Inactive(direction)))
            }
            Some(endpoint) => Ok(match direction {
                Direction::Ingress => &endpoint.ingress,
                Direction::Egress => &endpoint.egress,
            }),
        }
    }
}

/// What decided about a connection, in the 24 bits that the flow table keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Decider(u32);

/// What a [`Decider`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decided {
    /// No endpoint's policy was asked.
    Nobody,
    /// A rule.
    Rule(RuleId),
    /// The default of the endpoint's tier with this index.
    TierDefault(Direction, u16),
    /// No tier denied, and no profile matched.
    End(Direction),
    /// The endpoint is administratively down.
    Inactive(Direction),
    /// No policy is known for the endpoint's port.
    Unknown(Direction),
}

const SPECIAL: u32 = 1 << 23;
const EGRESS: u32 = 1 << 22;
const KIND: u32 = 16;
const TIER: u32 = 0;
const END: u32 = 1;
const INACTIVE: u32 = 2;
const UNKNOWN: u32 = 3;

impl Decider {
    /// No endpoint's policy was asked.
    pub const NOBODY: Self = Self(0);

    /// Rules' numbers are above zero and below this.
    pub const MAX_RULES: u32 = SPECIAL;

    /// What decided, for a chain of this direction.
    pub const fn of(reason: flowtable::acl::Reason, direction: Direction) -> Self {
        match reason {
            flowtable::acl::Reason::Rule(id) if id.0 < Self::MAX_RULES => Self(id.0),
            flowtable::acl::Reason::TierDefault(tier) => {
                Self::special(Decided::TierDefault(direction, tier))
            }
            flowtable::acl::Reason::Rule(_) | flowtable::acl::Reason::End => {
                Self::special(Decided::End(direction))
            }
        }
    }

    const fn special(decided: Decided) -> Self {
        let (kind, direction, tier) = match decided {
            Decided::Nobody => return Self::NOBODY,
            Decided::Rule(id) => return Self(id.0),
            Decided::TierDefault(direction, tier) => (TIER, direction, tier as u32),
            Decided::End(direction) => (END, direction, 0),
            Decided::Inactive(direction) => (INACTIVE, direction, 0),
            Decided::Unknown(direction) => (UNKNOWN, direction, 0),
        };
        let egress = match direction {
            Direction::Ingress => 0,
            Direction::Egress => EGRESS,
        };
        Self(SPECIAL | egress | kind << KIND | tier)
    }

    /// As an entry of the flow table keeps it.
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits & 0x00ff_ffff)
    }

    /// For an entry of the flow table.
    pub const fn to_bits(self) -> u32 {
        self.0
    }

    /// Whose chain decided, as far as that is told: the number of a rule does not.
    pub const fn direction(self) -> Option<Direction> {
        match self.decided() {
            Decided::Nobody | Decided::Rule(_) => None,
            Decided::TierDefault(direction, _)
            | Decided::End(direction)
            | Decided::Inactive(direction)
            | Decided::Unknown(direction) => Some(direction),
        }
    }

    /// What it says.
    pub const fn decided(self) -> Decided {
        if self.0 == 0 {
            return Decided::Nobody;
        }
        if self.0 & SPECIAL == 0 {
            return Decided::Rule(RuleId(self.0));
        }
        let direction = if self.0 & EGRESS == 0 {
            Direction::Ingress
        } else {
            Direction::Egress
        };
        match self.0 >> KIND & 0x3f {
            TIER => Decided::TierDefault(direction, self.0 as u16),
            INACTIVE => Decided::Inactive(direction),
            UNKNOWN => Decided::Unknown(direction),
            _ => Decided::End(direction),
        }
    }
}

/// What rules decided about, by their numbers. Counts up for as long as the process lives and never wraps in practice:
/// 64 bits. Shared by all pollers and by control, relaxed.
///
/// `connections` are decisions: once for each first packet that was judged. `packets` and `bytes` are those of the
/// connections that the rule decided about, both directions, and of cached denials; added when an entry ends, so what is
/// under way has to be added from the flow table.
#[derive(Clone, Debug, Default)]
pub struct RuleCounters {
    chunks: Vec<Arc<[RuleCounter; CHUNK]>>,
}

/// What one rule decided about.
#[derive(Debug, Default)]
pub struct RuleCounter {
    connections: AtomicU64,
    packets: AtomicU64,
    bytes: AtomicU64,
}

/// A copy of a [`RuleCounter`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RuleCount {
    /// First packets that were judged.
    pub connections: u64,
    /// Packets of connections.
    pub packets: u64,
    /// Their bytes, from the IP header on.
    pub bytes: u64,
}

const CHUNK: usize = 256;

impl RuleCounters {
    /// Counters of no rule.
    pub const fn new() -> Self {
        Self { chunks: Vec::new() }
    }

    /// Makes room for rules up to this number. What was counted stays, also in clones.
    pub fn grow(&mut self, last: RuleId) {
        while self.chunks.len() * CHUNK <= last.0 as usize {
            self.chunks
                .push(Arc::new(std::array::from_fn(|_| RuleCounter::default())));
        }
    }

    fn of(&self, decider: Decider) -> Option<&RuleCounter> {
        let Decided::Rule(id) = decider.decided() else {
            return None;
        };
        let id = id.0 as usize;
        self.chunks.get(id / CHUNK)?.get(id % CHUNK)
    }

    fn decided(&self, decider: Decider) {
        if let Some(counter) = self.of(decider) {
            counter.connections.fetch_add(1, Relaxed);
        }
    }

    /// Adds packets of a connection, in one direction.
    pub(crate) fn add(&self, decider: Decider, packets: u64, bytes: u64) {
        if let Some(counter) = self.of(decider) {
            counter.packets.fetch_add(packets, Relaxed);
            counter.bytes.fetch_add(bytes, Relaxed);
        }
    }

    /// Begins to count anew, for another rule of this number.
    pub fn reset(&self, rule: RuleId) {
        if let Some(counter) = self.of(Decider::from_bits(rule.0)) {
            counter.connections.store(0, Relaxed);
            counter.packets.store(0, Relaxed);
            counter.bytes.store(0, Relaxed);
        }
    }

    /// The counts of a rule; zeros for one that there are none for.
    pub fn get(&self, rule: RuleId) -> RuleCount {
        let counter = self.of(Decider::from_bits(rule.0));
        counter.map_or_else(RuleCount::default, |counter| RuleCount {
            connections: counter.connections.load(Relaxed),
            packets: counter.packets.load(Relaxed),
            bytes: counter.bytes.load(Relaxed),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_decided_survives_24_bits() {
        use Direction::{Egress, Ingress};
        for decided in [
            Decided::Nobody,
            Decided::Rule(RuleId(1)),
            Decided::Rule(RuleId(Decider::MAX_RULES - 1)),
            Decided::TierDefault(Ingress, 0),
            Decided::TierDefault(Egress, u16::MAX),
            Decided::End(Ingress),
            Decided::End(Egress),
            Decided::Inactive(Egress),
            Decided::Unknown(Ingress),
        ] {
            let decider = Decider::special(decided);
            assert_eq!(Decider::from_bits(decider.to_bits()).decided(), decided);
            assert!(decider.to_bits() < 1 << 24);
        }
    }

    #[test]
    fn a_port_without_policy_is_closed_but_to_the_host() {
        let tuple = Tuple::<u32>::default();
        let mut policies = Policies::allowing_all(1);
        let (known, unknown) = (End::Pod(PortId(0)), End::Pod(PortId(1)));
        let judge = |policies: &Policies, from, to| {
            matches!(policies.judge(&tuple, from, to), Judgement::Allow { .. })
        };
        assert!(judge(&policies, known, End::Outside));
        assert!(!judge(&policies, unknown, End::Outside));
        assert!(!judge(&policies, known, unknown));
        assert!(judge(&policies, End::Host, unknown));
        policies.to_host = ToHost::Drop;
        assert!(!judge(&policies, known, End::Host));
        assert!(judge(&policies, End::Outside, End::Host));
    }

    #[test]
    fn counters_are_kept_as_they_grow() {
        let mut counters = RuleCounters::default();
        counters.grow(RuleId(3));
        let older = counters.clone();
        counters.grow(RuleId(1000));
        older.add(Decider::from_bits(3), 2, 100);
        counters.decided(Decider::from_bits(1000));
        assert_eq!(
            (
                counters.get(RuleId(3)).packets,
                counters.get(RuleId(3)).bytes
            ),
            (2, 100)
        );
        assert_eq!(counters.get(RuleId(1000)).connections, 1);
        assert_eq!(older.get(RuleId(1000)), RuleCount::default());
    }
}
