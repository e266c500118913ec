//! What was decided about a packet, and by what.

use std::fmt;
use std::sync::Arc;

use super::legs::Leg;
use super::model::{DefaultAction, Direction, Model, PolicyId, TierPolicies};
use super::rule::{Action, Origin, Rule};
use crate::desired::EndpointToHost;

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It goes on.
    Allow,
    /// It is dropped.
    Deny,
}

impl Outcome {
    /// `Allow` or `Deny`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "Allow",
            Self::Deny => "Deny",
        }
    }
}

/// What was decided about a packet, leg by leg.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// Allowed by all legs, or denied by one.
    pub outcome: Outcome,
    /// The legs that were gone, in order. The last one decided.
    pub legs: Vec<LegVerdict>,
    /// What staged policies that the packet met would do, each if it alone were enforced.
    pub staged: Vec<StagedVerdict>,
    /// `Log` rules that matched.
    pub logs: Vec<RuleRef>,
}

impl Verdict {
    /// What decided. `None`: no leg was asked, since no endpoint stands in the way.
    pub fn decided_by(&self) -> Option<&LegVerdict> {
        self.legs.last()
    }
}

/// What one leg decided.
#[derive(Clone, Debug, PartialEq)]
pub struct LegVerdict {
    /// The leg.
    pub leg: Leg,
    /// What it decided.
    pub outcome: Outcome,
    /// Why.
    pub reason: Reason,
}

/// What a staged policy would do.
#[derive(Clone, Debug, PartialEq)]
pub struct StagedVerdict {
    /// The policy.
    pub policy: PolicyId,
    /// Tier that it is in.
    pub tier: Arc<str>,
    /// The first of its rules that matches and is not `Log`.
    pub rule: Option<RuleRef>,
    /// What would become of the packet.
    pub outcome: Outcome,
    /// Which leg would decide, and why.
    pub decided_by: Option<LegVerdict>,
}

/// What a rule belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A policy.
    Policy {
        /// Its tier.
        tier: Arc<str>,
        /// Its name.
        id: PolicyId,
    },
    /// A profile, by name.
    Profile(String),
}

/// A rule, as it is named to people.
#[derive(Clone, Debug, PartialEq)]
pub struct RuleRef {
    /// What it belongs to.
    pub owner: Owner,
    /// For packets in this direction.
    pub direction: Direction,
    /// What it does.
    pub action: Action,
    /// Where it was written.
    pub origin: Origin,
}

impl RuleRef {
    /// Names a rule of an owner.
    pub fn new(owner: Owner, direction: Direction, rule: &Rule) -> Self {
        Self {
            owner,
            direction,
            action: rule.action,
            origin: rule.origin.clone(),
        }
    }

    /// Its number among the rules of its direction, from 1.
    pub fn number(&self) -> usize {
        self.origin.index + 1
    }

    /// `file:line`, or the rule's id, or nothing.
    pub fn place(&self) -> Option<String> {
        self.origin.place()
    }
}

impl fmt::Display for RuleRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.owner {
            Owner::Policy { tier, id } => write!(f, "tier {tier}: {id}")?,
            Owner::Profile(name) => write!(f, "profile {name}")?,
        }
        write!(
            f,
            ", {} rule {} ({})",
            self.direction.as_str(),
            self.number(),
            self.action.as_str()
        )?;
        match self.place() {
            Some(place) => write!(f, ", {place}"),
            None => Ok(()),
        }
    }
}

/// What denies a packet to or from a pod that no rule decided about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum DefaultDenial {
    /// [`Reason::EndOfTier`].
    EndOfTier {
        /// The tier.
        tier: Arc<str>,
        /// The last policy that applies in it.
        policy: PolicyId,
    },
    /// [`Reason::NoProfileMatched`].
    NoProfileMatched(Vec<String>),
    /// [`Reason::Inactive`].
    Inactive,
    /// [`Reason::UnknownEndpoint`].
    UnknownEndpoint,
}

impl DefaultDenial {
    /// The reason that it is, with where the model says that its policy was written.
    pub fn reason(self, model: &Model) -> Reason {
        match self {
            Self::EndOfTier { tier, policy } => {
                let origin = model.policies.get(&policy).map(|it| it.origin.clone());
                Reason::EndOfTier {
                    tier,
                    policy,
                    origin: origin.unwrap_or_default(),
                }
            }
            Self::NoProfileMatched(profiles) => Reason::NoProfileMatched(profiles),
            Self::Inactive => Reason::Inactive,
            Self::UnknownEndpoint => Reason::UnknownEndpoint,
        }
    }
}

impl TierPolicies {
    /// What denies at the end of the tier; nothing if no policy of it is enforced there, or it goes on to the next.
    pub fn default_denial(&self, direction: Direction) -> Option<DefaultDenial> {
        let mut policies = self.of(direction).iter();
        let policy = policies.rfind(|id| !id.kind.is_staged())?;
        (self.default_action == DefaultAction::Deny).then(|| DefaultDenial::EndOfTier {
            tier: Arc::clone(&self.name),
            policy: policy.clone(),
        })
    }
}

/// Why a leg decided as it did.
#[derive(Clone, Debug, PartialEq)]
pub enum Reason {
    /// A rule of a policy or a profile.
    Rule(RuleRef),
    /// The end of a tier: a policy of it applies, and no rule matched.
    EndOfTier {
        /// The tier.
        tier: Arc<str>,
        /// The last policy that applies in it.
        policy: PolicyId,
        /// Where that was written.
        origin: Origin,
    },
    /// No rule of any profile matched.
    NoProfileMatched(Vec<String>),
    /// No policy applies, and none is needed.
    NoPolicy,
    /// No policy that applies decided, and none is needed.
    Undecided,
    /// The pod is administratively down.
    Inactive,
    /// There is no such endpoint.
    UnknownEndpoint,
    /// The packet belongs to a connection that was allowed.
    Established,
    /// The packet fits no connection.
    Invalid,
    /// A failsafe port, as text.
    Failsafe(String),
    /// A pod may not send VXLAN.
    VxlanFromWorkload,
    /// A pod may not send IPIP.
    IpipFromWorkload,
    /// `defaultEndpointToHostAction`.
    EndpointToHost(EndpointToHost),
    /// From a host to its own pod.
    HostToWorkload,
    /// Multicast and neighbour discovery of IPv6, from a pod to its host.
    NeighbourDiscovery,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule(rule) => write!(f, "{rule}"),
            Self::EndOfTier {
                tier,
                policy,
                origin,
            } => {
                write!(
                    f,
                    "no rule matched in tier {tier}; {policy} selects this endpoint"
                )?;
                match origin.place() {
                    Some(place) => write!(f, ", {place}"),
                    None => Ok(()),
                }
            }
            Self::NoProfileMatched(profiles) if profiles.is_empty() => {
                f.write_str("no policy decided, and there is no profile")
            }
            Self::NoProfileMatched(profiles) => {
                write!(
                    f,
                    "no policy decided, and no rule of {}",
                    profiles.join(", ")
                )
            }
            Self::NoPolicy => f.write_str("no policy applies"),
            Self::Undecided => f.write_str("no policy decided, and none needs to"),
            Self::Inactive => f.write_str("the endpoint is administratively down"),
            Self::UnknownEndpoint => f.write_str("the endpoint is not known"),
            Self::Established => f.write_str("part of a connection that was allowed"),
            Self::Invalid => f.write_str("fits no connection"),
            Self::Failsafe(port) => write!(f, "failsafe port {port}"),
            Self::VxlanFromWorkload => f.write_str("pods may not send VXLAN"),
            Self::IpipFromWorkload => f.write_str("pods may not send IPIP"),
            Self::EndpointToHost(action) => {
                write!(f, "defaultEndpointToHostAction is {action:?}")
            }
            Self::HostToWorkload => f.write_str("a host always reaches its own pods"),
            Self::NeighbourDiscovery => f.write_str("neighbour discovery"),
        }
    }
}
