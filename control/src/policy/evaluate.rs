//! The evaluator: every leg, tier, policy and rule in turn, nothing prepared, nothing remembered.
//!
//! Slow and obviously right. It is what `caracal policy test` asks, and the judge of any faster classifier. The
//! order is that of Calico's iptables renderer.

use std::borrow::Cow;

use super::legs::Leg;
use super::matching::rule_matches;
use super::model::{DefaultAction, Direction, Failsafe, Model, PolicyId, Settings, TierPolicies};
use super::packet::{Packet, State};
use super::rule::{Action, Family, Protocol, Rule};
use super::verdict::{
    DefaultDenial, LegVerdict, Outcome, Owner, Reason, RuleRef, StagedVerdict, Verdict,
};
use crate::desired::EndpointToHost;

/// What becomes of a packet on its way, and why.
pub fn evaluate(model: &Model, packet: &Packet, legs: &[Leg]) -> Verdict {
    let mut walk = Walk::new(model, None);
    let outcome = walk.legs(packet, legs);
    let staged = walk.staged.iter().map(|met| {
        let mut alone = Walk::new(model, Some(&met.policy));
        let outcome = alone.legs(packet, legs);
        StagedVerdict {
            outcome,
            decided_by: alone.done.pop(),
            ..met.clone()
        }
    });
    Verdict {
        outcome,
        staged: staged.collect(),
        legs: walk.done,
        logs: walk.logs,
    }
}

type Decision = (Outcome, Reason);

/// One walk along the legs.
struct Walk<'m> {
    model: &'m Model,
    /// A staged policy that is taken for enforced.
    enforced: Option<&'m PolicyId>,
    done: Vec<LegVerdict>,
    staged: Vec<StagedVerdict>,
    logs: Vec<RuleRef>,
}

/// What ends a chain that has no more to say.
#[derive(Clone, Copy, PartialEq, Eq)]
enum TierEnd {
    /// The tier's default action.
    Obeyed,
    /// The next tier, whatever the tier says.
    Passed,
}

impl<'m> Walk<'m> {
    fn new(model: &'m Model, enforced: Option<&'m PolicyId>) -> Self {
        Self {
            model,
            enforced,
            done: Vec::new(),
            staged: Vec::new(),
            logs: Vec::new(),
        }
    }

    fn legs(&mut self, packet: &Packet, legs: &[Leg]) -> Outcome {
        // A host endpoint's early policy that allows a packet speaks for its later ones. A failsafe port ends one step only.
        let mut accepted: Option<(&str, Direction)> = None;
        let allows = |decision: &Option<Decision>| match decision {
            Some((Outcome::Allow, reason)) => !matches!(reason, Reason::Failsafe(_)),
            Some((Outcome::Deny, _)) | None => false,
        };
        let mut packet = Cow::Borrowed(packet);
        for leg in legs {
            let (decision, ends) = match leg {
                Leg::HostUntracked(endpoint, direction) => {
                    let decision = self.host_untracked(&packet, endpoint, *direction);
                    if allows(&decision) {
                        accepted = Some((endpoint, *direction));
                        // Not tracked: part of no connection, and out of place in none.
                        packet.to_mut().state = State::New;
                    }
                    (decision, false)
                }
                Leg::HostPreDnat(endpoint) => {
                    if accepted == Some((endpoint, Direction::Ingress)) {
                        continue;
                    }
                    let decision = self.host_pre_dnat(&packet, endpoint);
                    if allows(&decision) {
                        accepted = Some((endpoint, Direction::Ingress));
                    }
                    (decision, false)
                }
                Leg::HostForward(endpoint, direction) => {
                    if accepted == Some((endpoint, *direction)) {
                        continue;
                    }
                    (
                        Some(self.host_forward(&packet, endpoint, *direction)),
                        false,
                    )
                }
                Leg::HostNormal(endpoint, direction) => {
                    if accepted == Some((endpoint, *direction)) {
                        continue;
                    }
                    (Some(self.host_normal(&packet, endpoint, *direction)), false)
                }
                Leg::WorkloadToHostAlways => {
                    let decision = is_neighbour_discovery(&packet)
                        .then_some((Outcome::Allow, Reason::NeighbourDiscovery));
                    (decision, true)
                }
                Leg::Workload(id, direction) => {
                    let decision = match self.model.workloads.get(id) {
                        Some(workload) => self.workload(&packet, workload, *direction),
                        None => (Outcome::Deny, Reason::UnknownEndpoint),
                    };
                    (Some(decision), false)
                }
                Leg::EndpointToHost(node) => {
                    (Some(to_host(&packet, self.model.settings_of(node))), false)
                }
                Leg::HostToWorkload => (Some((Outcome::Allow, Reason::HostToWorkload)), false),
            };
            let Some((outcome, reason)) = decision else {
                continue;
            };
            self.done.push(LegVerdict {
                leg: leg.clone(),
                outcome,
                reason,
            });
            if outcome == Outcome::Deny || ends {
                return outcome;
            }
        }
        Outcome::Allow
    }

    fn workload(
        &mut self,
        packet: &Packet,
        workload: &super::model::Workload,
        direction: Direction,
    ) -> Decision {
        let settings = self.model.settings_of(&workload.node);
        if !workload.active {
            return (Outcome::Deny, Reason::Inactive);
        }
        if let Some(decision) = by_state(packet, settings) {
            return decision;
        }
        if direction == Direction::Egress
            && let Some(reason) = encapsulation(packet, settings)
        {
            return (Outcome::Deny, reason);
        }
        self.tiers(packet, &workload.tiers, direction, TierEnd::Obeyed)
            .unwrap_or_else(|| self.profiles(packet, &workload.profiles, direction))
    }

    fn host_untracked(
        &mut self,
        packet: &Packet,
        endpoint: &str,
        direction: Direction,
    ) -> Option<Decision> {
        let host = self.model.host_endpoints.get(endpoint)?;
        if !has_policies(&host.untracked, direction) {
            return None;
        }
        // What is not tracked is never translated.
        let packet = &packet.before_dnat();
        let settings = self.model.settings_of(&host.node);
        // Without connection tracking a reply is known by its source port.
        failsafe(packet, settings, direction)
            .or_else(|| failsafe_reply(packet, settings, direction))
            .or_else(|| self.tiers(packet, &host.untracked, direction, TierEnd::Passed))
    }

    fn host_pre_dnat(&mut self, packet: &Packet, endpoint: &str) -> Option<Decision> {
        let host = self.model.host_endpoints.get(endpoint)?;
        if !has_policies(&host.pre_dnat, Direction::Ingress) {
            return None;
        }
        let packet = &packet.before_dnat();
        let settings = self.model.settings_of(&host.node);
        by_state(packet, settings)
            .or_else(|| failsafe(packet, settings, Direction::Ingress))
            .or_else(|| self.tiers(packet, &host.pre_dnat, Direction::Ingress, TierEnd::Passed))
    }

    fn host_forward(&mut self, packet: &Packet, endpoint: &str, direction: Direction) -> Decision {
        let Some(host) = self.model.host_endpoints.get(endpoint) else {
            return (Outcome::Deny, Reason::UnknownEndpoint);
        };
        if !has_policies(&host.forward, direction) {
            return (Outcome::Allow, Reason::NoPolicy);
        }
        by_state(packet, self.model.settings_of(&host.node))
            .or_else(|| self.tiers(packet, &host.forward, direction, TierEnd::Obeyed))
            .unwrap_or((Outcome::Allow, Reason::Undecided))
    }

    fn host_normal(&mut self, packet: &Packet, endpoint: &str, direction: Direction) -> Decision {
        let Some(host) = self.model.host_endpoints.get(endpoint) else {
            return (Outcome::Deny, Reason::UnknownEndpoint);
        };
        let settings = self.model.settings_of(&host.node);
        by_state(packet, settings)
            .or_else(|| failsafe(packet, settings, direction))
            .or_else(|| self.tiers(packet, &host.normal, direction, TierEnd::Obeyed))
            .unwrap_or_else(|| self.profiles(packet, &host.profiles, direction))
    }

    /// Tiers in order. `None`: all passed.
    fn tiers(
        &mut self,
        packet: &Packet,
        tiers: &[TierPolicies],
        direction: Direction,
        end: TierEnd,
    ) -> Option<Decision> {
        tiers
            .iter()
            .find_map(|tier| self.tier(packet, tier, direction, end))
    }

    fn tier(
        &mut self,
        packet: &Packet,
        tier: &TierPolicies,
        direction: Direction,
        end: TierEnd,
    ) -> Option<Decision> {
        let mut last_enforced = None;
        for id in tier.of(direction) {
            let policy = self.model.policies.get(id);
            let rules = policy.map_or(&[][..], |policy| policy.rules.of(direction));
            let owner = || Owner::Policy {
                tier: tier.name.clone(),
                id: id.clone(),
            };
            if id.kind.is_staged() && self.enforced != Some(id) {
                let rule = first_match(self.model, packet, rules);
                self.staged.push(StagedVerdict {
                    policy: id.clone(),
                    tier: tier.name.clone(),
                    rule: rule.map(|rule| RuleRef::new(owner(), direction, rule)),
                    // Both are found out at the end.
                    outcome: Outcome::Allow,
                    decided_by: None,
                });
                continue;
            }
            last_enforced = Some(id);
            if let Some(rule) = self.rules(packet, rules, direction, &owner) {
                let outcome = match rule.action {
                    Action::Allow => Outcome::Allow,
                    Action::Deny => Outcome::Deny,
                    Action::Pass | Action::Log => return None,
                };
                let rule = RuleRef::new(owner(), direction, rule);
                return Some((outcome, Reason::Rule(rule)));
            }
        }
        let policy = last_enforced?;
        let denies = end == TierEnd::Obeyed && tier.default_action == DefaultAction::Deny;
        denies.then(|| {
            let denial = DefaultDenial::EndOfTier {
                tier: tier.name.clone(),
                policy: policy.clone(),
            };
            (Outcome::Deny, denial.reason(self.model))
        })
    }

    /// Profiles in order: a packet that none allows is dropped. Pass means nothing here, since there is no next tier.
    fn profiles(&mut self, packet: &Packet, names: &[String], direction: Direction) -> Decision {
        for name in names {
            let profile = self.model.profiles.get(name);
            let rules = profile.map_or(&[][..], |profile| profile.rules.of(direction));
            let owner = || Owner::Profile(name.clone());
            let Some(rule) = self.rules(packet, rules, direction, &owner) else {
                continue;
            };
            let outcome = match rule.action {
                Action::Allow => Outcome::Allow,
                Action::Deny => Outcome::Deny,
                Action::Pass | Action::Log => continue,
            };
            let rule = RuleRef::new(owner(), direction, rule);
            return (outcome, Reason::Rule(rule));
        }
        (Outcome::Deny, Reason::NoProfileMatched(names.to_vec()))
    }

    /// The first rule that matches and is more than `Log`; those before it that log are noted.
    fn rules<'r>(
        &mut self,
        packet: &Packet,
        rules: &'r [Rule],
        direction: Direction,
        owner: &dyn Fn() -> Owner,
    ) -> Option<&'r Rule> {
        for rule in rules {
            if !rule_matches(self.model, &rule.matches, packet) {
                continue;
            }
            if rule.action != Action::Log {
                return Some(rule);
            }
            self.logs.push(RuleRef::new(owner(), direction, rule));
        }
        None
    }
}

fn first_match<'r>(model: &Model, packet: &Packet, rules: &'r [Rule]) -> Option<&'r Rule> {
    let mut rules = rules.iter();
    rules.find(|rule| rule.action != Action::Log && rule_matches(model, &rule.matches, packet))
}

/// True if anything applies in a direction.
fn has_policies(tiers: &[TierPolicies], direction: Direction) -> bool {
    tiers.iter().any(|tier| !tier.of(direction).is_empty())
}

fn by_state(packet: &Packet, settings: &Settings) -> Option<Decision> {
    match packet.state {
        State::Established => Some((Outcome::Allow, Reason::Established)),
        State::Invalid if !settings.disable_conntrack_invalid_check => {
            Some((Outcome::Deny, Reason::Invalid))
        }
        State::Invalid | State::New => None,
    }
}

/// What a pod may not send, whatever policy says.
fn encapsulation(packet: &Packet, settings: &Settings) -> Option<Reason> {
    let to_port = packet.ports.map(|(_, dst)| dst);
    if packet.protocol == Protocol::UDP
        && to_port == Some(settings.vxlan_port)
        && !settings.allow_vxlan_from_workloads
    {
        return Some(Reason::VxlanFromWorkload);
    }
    (packet.protocol == Protocol::IPIP && !settings.allow_ipip_from_workloads)
        .then_some(Reason::IpipFromWorkload)
}

fn failsafe(packet: &Packet, settings: &Settings, direction: Direction) -> Option<Decision> {
    let (_, port) = packet.ports?;
    let (ports, other_end) = match direction {
        Direction::Ingress => (&settings.failsafe_inbound, packet.src),
        Direction::Egress => (&settings.failsafe_outbound, packet.dst),
    };
    failsafe_in(ports, packet.protocol, port, other_end)
}

fn failsafe_reply(packet: &Packet, settings: &Settings, direction: Direction) -> Option<Decision> {
    let (port, _) = packet.ports?;
    let (ports, other_end) = match direction {
        Direction::Ingress => (&settings.failsafe_outbound, packet.src),
        Direction::Egress => (&settings.failsafe_inbound, packet.dst),
    };
    failsafe_in(ports, packet.protocol, port, other_end)
}

fn failsafe_in(
    ports: &[Failsafe],
    protocol: Protocol,
    port: u16,
    other_end: std::net::IpAddr,
) -> Option<Decision> {
    let hit = ports.iter().find(|failsafe| {
        failsafe.protocol == protocol
            && failsafe.port == port
            && failsafe.net.is_none_or(|net| net.contains(&other_end))
    })?;
    Some((Outcome::Allow, Reason::Failsafe(hit.to_string())))
}

/// `Return` leaves the packet to the host's own rules, which are not ours.
fn to_host(packet: &Packet, settings: &Settings) -> Decision {
    if packet.state == State::Established {
        return (Outcome::Allow, Reason::Established);
    }
    let action = settings.endpoint_to_host;
    let outcome = match action {
        EndpointToHost::Accept | EndpointToHost::Return => Outcome::Allow,
        EndpointToHost::Drop | EndpointToHost::Reject => Outcome::Deny,
    };
    (outcome, Reason::EndpointToHost(action))
}

/// Multicast listener queries, reports and done, router solicitation, neighbour solicitation and advertisement
/// (RFC 2710, RFC 4861).
fn is_neighbour_discovery(packet: &Packet) -> bool {
    packet.family() == Family::V6
        && packet.protocol == Protocol::ICMPV6
        && packet
            .icmp
            .is_some_and(|(kind, _)| matches!(kind, 130..=133 | 135 | 136))
}
