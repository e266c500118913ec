//! Policy as pollers see it: each endpoint's chains, and what decided about a connection.
//!
//! Control compiles it, off the pollers; it is part of the [`Tables`](crate::tables::Tables), so that a packet is judged by
//! one generation of it. A connection is judged once, by its first packet. RFC: none; the semantics are those of Calico.

use std::sync::Arc;

use flowtable::acl::{Chain, ChainSpec, Compiler, Reason, RuleId, Sets};

use crate::port::PortId;

mod counters;
mod hosts;
mod judge;

pub use counters::{RuleCount, RuleCounter, RuleCounters};
pub use hosts::{HostEndpoint, HostEndpoints};
pub use judge::{End, Judgement, Leg, Untracked};

/// The policy of a node.
#[derive(Clone, Debug, Default)]
pub struct Policies {
    /// By port number. A pod's port that has none is closed.
    pub endpoints: Vec<Option<Endpoint>>,
    /// What host endpoints say about what the node forwards; `None` where none says anything.
    pub hosts: Option<Arc<HostEndpoints>>,
    /// The IP sets that chains ask for.
    pub sets: Sets,
    /// What becomes of pods' packets to their own host that policy allows.
    pub to_host: ToHost,
    /// Whether connections are judged again when tables change (`reevaluateEstablished` in caracal.yaml).
    pub reevaluate: bool,
    /// The numbers of denials by ports for whose endpoint no policy is known: ingress, egress. 0: none.
    pub unknown: [RuleId; 2],
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
    /// The numbers of what denies where no rule does: ingress, egress.
    pub defaults: [Defaults; 2],
}

/// The numbers of denials that no rule decided: they are counted and named as rules are. 0: none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Defaults {
    /// That the endpoint is administratively down.
    pub inactive: RuleId,
    /// That no rule of a tier matched, by the tier's index.
    pub tiers: Arc<[RuleId]>,
    /// That no tier decided, and no profile matched.
    pub end: RuleId,
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

/// Which way a packet goes, seen from an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// To it.
    Ingress,
    /// From it.
    Egress,
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
            defaults: <[Defaults; 2]>::default(),
        });
        Self {
            endpoints: vec![endpoint; ports],
            to_host: ToHost::Deliver,
            ..Self::default()
        }
    }

    fn chain(&self, port: PortId, direction: Direction) -> Result<(&Chain, &Defaults), Decider> {
        let endpoint = self.endpoints.get(usize::from(port.0));
        let Some(endpoint) = endpoint.and_then(Option::as_ref) else {
            let [ingress, egress] = self.unknown;
            let number = match direction {
                Direction::Ingress => ingress,
                Direction::Egress => egress,
            };
            return Err(Decider::numbered(number, Decided::Unknown(direction)));
        };
        let [ingress, egress] = &endpoint.defaults;
        let (chain, defaults) = match direction {
            Direction::Ingress => (&endpoint.ingress, ingress),
            Direction::Egress => (&endpoint.egress, egress),
        };
        if endpoint.active {
            Ok((chain, defaults))
        } else {
            let decided = Decided::Inactive(direction);
            Err(Decider::numbered(defaults.inactive, decided))
        }
    }
}

impl Defaults {
    fn decider(&self, reason: Reason, direction: Direction) -> Decider {
        let number = match reason {
            Reason::Rule(_) => None,
            Reason::TierDefault(tier) => self.tiers.get(usize::from(tier)).copied(),
            Reason::End => Some(self.end),
        };
        match number {
            Some(number) if number.0 != 0 => Decider::rule(number),
            _ => Decider::of(reason, direction),
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
    /// A rule, or what has a number as rules have: see [`Defaults`].
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

    /// A rule.
    pub const fn rule(id: RuleId) -> Self {
        Self::from_bits(id.0)
    }

    /// What decided, for a chain of this direction.
    pub const fn of(reason: Reason, direction: Direction) -> Self {
        match reason {
            Reason::Rule(id) if id.0 < Self::MAX_RULES => Self(id.0),
            Reason::TierDefault(tier) => Self::special(Decided::TierDefault(direction, tier)),
            Reason::Rule(_) | Reason::End => Self::special(Decided::End(direction)),
        }
    }

    /// What has a number, if it has one.
    const fn numbered(number: RuleId, decided: Decided) -> Self {
        if number.0 == 0 {
            Self::special(decided)
        } else {
            Self::rule(number)
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

#[cfg(test)]
mod tests {
    use flowtable::acl::Tuple;

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
            matches!(
                policies.judge(&tuple, from, to, |_| ()),
                Judgement::Allow { .. }
            )
        };
        let outside = End::Uplink(PortId(2));
        assert!(judge(&policies, known, outside));
        assert!(!judge(&policies, unknown, outside));
        assert!(!judge(&policies, known, unknown));
        assert!(judge(&policies, End::Host, unknown));
        policies.to_host = ToHost::Drop;
        assert!(!judge(&policies, known, End::Host));
        assert!(judge(&policies, outside, End::Host));
    }
}
