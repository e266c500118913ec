//! Which chains a packet meets, in what order, and what they say together.
//!
//! Entering: the host endpoint's early chains, then its chain for what is forwarded; then the sender's egress, the receiver's
//! ingress, and the chain of the host endpoint by which it leaves. What the host itself sends, and what comes to it from
//! without, is for its own rules in the kernel.

use encap::l4;
use flowtable::acl::{Address, Chain, L4, Logs, Members, Reason, Tuple};

use super::{Decider, Defaults, Direction, HostEndpoints, Policies, ToHost};
use crate::port::PortId;
use crate::reason::DropReason;

/// One end of a packet's way, as policy sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// An endpoint of this node, by its port.
    Pod(PortId),
    /// This node's own stack.
    Host,
    /// Beyond the node, by an uplink.
    Uplink(PortId),
    /// Beyond the node, by an interface that is no port: a tunnel, or one that only the kernel serves.
    Elsewhere,
}

/// A chain on a packet's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leg {
    /// Of the endpoint of a pod's port.
    Pod(PortId, Direction),
    /// Of the host endpoint by which it comes in, before connections are tracked.
    Untracked,
    /// Of the same, before destinations are translated.
    PreDnat,
    /// For what is forwarded: of the host endpoint by which it comes in, or leaves.
    Forward(Direction),
}

/// What policy says about the first packet of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// It may go on.
    Allow {
        /// What decided on the side that it comes from: the pod's policy, else the host endpoint's.
        source: Decider,
        /// The same on the side that it goes to.
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

/// What untracked policy says about a packet, be it part of a connection or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Untracked {
    /// Nothing, or that it is for a failsafe port: whether it is part of a connection decides.
    Undecided,
    /// It is part of none, and begins none.
    Allowed,
    /// It is dropped.
    Denied(Decider),
}

impl Policies {
    /// Judges a packet by the untracked policy of the host endpoint by which it comes in. Counts what denies, and tells `log` which
    /// `Log` rules led there: what is allowed, or undecided and the first of its connection, is [judged](Self::judge) by all.
    pub fn untracked<A: Address + Copy>(
        &self,
        tuple: &Tuple<A>,
        from: End,
        mut log: impl FnMut(&Logs),
    ) -> Untracked {
        let asked = self.hosts.as_deref().and_then(|hosts| {
            let endpoint = hosts.of(from)?;
            Some((hosts, endpoint, endpoint.untracked.as_ref()?))
        });
        let Some((hosts, endpoint, chain)) = asked else {
            return Untracked::Undecided;
        };
        let mut met = Logs::default();
        let mut walk = Walk {
            policies: self,
            tuple,
            members: None,
            note: |_, _, _, logs: &Logs| met = *logs,
        };
        match walk.host(Leg::Untracked, chain, (&endpoint.ends, Direction::Ingress)) {
            Ok(by) if by == Decider::NOBODY || hosts.is_failsafe(by) => Untracked::Undecided,
            Ok(_) => Untracked::Allowed,
            Err((_, by)) => {
                self.count(by, &met, &mut log);
                Untracked::Denied(by)
            }
        }
    }

    /// Judges a packet that no connection is known for, and counts what decided. `tuple` is what it is before its source is
    /// translated; `log` is told which `Log` rules it meets.
    pub fn judge<A: Address + Copy>(
        &self,
        tuple: &Tuple<A>,
        from: End,
        to: End,
        mut log: impl FnMut(&Logs),
    ) -> Judgement {
        self.explain(tuple, from, to, |_, decider, _, logs| {
            self.count(decider, logs, &mut log);
        })
    }

    /// Counts what a chain has said, and tells of its `Log` rules.
    fn count(&self, decider: Decider, logs: &Logs, log: &mut impl FnMut(&Logs)) {
        self.counters.decided(decider);
        if logs.total() > 0 {
            for rule in logs.rules() {
                self.counters.decided(Decider::rule(*rule));
            }
            log(logs);
        }
    }

    /// The same without counting; `note` is told what each chain that is asked decides, whether it allows, and which `Log`
    /// rules matched.
    pub fn explain<A: Address + Copy>(
        &self,
        tuple: &Tuple<A>,
        from: End,
        to: End,
        note: impl FnMut(Leg, Decider, bool, &Logs),
    ) -> Judgement {
        let mut walk = Walk {
            policies: self,
            tuple,
            members: None,
            note,
        };
        match walk.run(from, to) {
            Ok((source, destination)) => Judgement::Allow {
                source,
                destination,
            },
            Err((reason, by)) => Judgement::Deny { reason, by },
        }
    }
}

type Denied = (DropReason, Decider);

/// A packet on its way along the chains.
struct Walk<'p, A, N> {
    policies: &'p Policies,
    tuple: &'p Tuple<A>,
    /// The sets that source and destination are in, once a chain has asked for them.
    members: Option<(Members, Members)>,
    note: N,
}

impl<A: Address + Copy, N: FnMut(Leg, Decider, bool, &Logs)> Walk<'_, A, N> {
    fn run(&mut self, from: End, to: End) -> Result<(Decider, Decider), Denied> {
        let (mut source, mut destination) = (Decider::NOBODY, Decider::NOBODY);
        if from == End::Host {
            // A host always reaches its own pods, and what it says to others is for its own rules.
            return Ok((source, destination));
        }
        let hosts = self.policies.hosts.as_deref();
        if let Some(hosts) = hosts {
            source = self.enter(hosts, from, to)?;
        }
        let from_pod = if let End::Pod(port) = from {
            if to == End::Host && is_neighbour_discovery(self.tuple) {
                return Ok((Decider::NOBODY, destination));
            }
            source = self.pod(port, Direction::Egress)?;
            true
        } else {
            false
        };
        if let End::Pod(port) = to {
            destination = self.pod(port, Direction::Ingress)?;
        }
        if let Some(hosts) = hosts {
            let by = self.leave(hosts, to)?;
            if !matches!(to, End::Pod(_)) {
                destination = by;
            }
        }
        if from_pod && to == End::Host {
            let reason = match self.policies.to_host {
                ToHost::Deliver => return Ok((source, destination)),
                ToHost::Drop => DropReason::EndpointToHost,
                ToHost::Reject => DropReason::EndpointToHostRejected,
            };
            return Err((reason, source));
        }
        Ok((source, destination))
    }

    /// What the host endpoint says by which the packet comes in.
    fn enter(&mut self, hosts: &HostEndpoints, from: End, to: End) -> Result<Decider, Denied> {
        let from_pod = matches!(from, End::Pod(_));
        let Some(endpoint) = hosts.of(from).filter(|_| from_pod || to != End::Host) else {
            return Ok(Decider::NOBODY);
        };
        let untracked = endpoint.untracked.as_ref().filter(|_| !from_pod);
        let early = [
            (Leg::Untracked, untracked),
            (Leg::PreDnat, endpoint.pre_dnat.as_ref()),
        ];
        for (leg, chain) in early {
            if let Some(chain) = chain {
                let by = self.host(leg, chain, (&endpoint.ends, Direction::Ingress))?;
                if by != Decider::NOBODY && !hosts.is_failsafe(by) {
                    return Ok(by);
                }
            }
        }
        match endpoint.ingress.as_ref().filter(|_| to != End::Host) {
            Some(chain) => {
                let leg = Leg::Forward(Direction::Ingress);
                self.host(leg, chain, (&endpoint.ends, Direction::Ingress))
            }
            None => Ok(Decider::NOBODY),
        }
    }

    /// What the host endpoint says by which the packet leaves.
    fn leave(&mut self, hosts: &HostEndpoints, to: End) -> Result<Decider, Denied> {
        let Some(endpoint) = hosts.of(to) else {
            return Ok(Decider::NOBODY);
        };
        match &endpoint.egress {
            Some(chain) => {
                let leg = Leg::Forward(Direction::Egress);
                self.host(leg, chain, (&endpoint.ends, Direction::Egress))
            }
            None => Ok(Decider::NOBODY),
        }
    }

    /// Nobody, if the chain leaves the packet to those that follow.
    fn host(
        &mut self,
        leg: Leg,
        chain: &Chain,
        (ends, direction): (&[Defaults; 2], Direction),
    ) -> Result<Decider, Denied> {
        let [ingress, egress] = ends;
        let defaults = match direction {
            Direction::Ingress => ingress,
            Direction::Egress => egress,
        };
        let (decider, reason) = self.ask(leg, (chain, defaults), direction)?;
        Ok(if reason == Reason::End {
            Decider::NOBODY
        } else {
            decider
        })
    }

    fn pod(&mut self, port: PortId, direction: Direction) -> Result<Decider, Denied> {
        let policies = self.policies;
        let leg = Leg::Pod(port, direction);
        match policies.chain(port, direction) {
            Ok(chain) => Ok(self.ask(leg, chain, direction)?.0),
            Err(closed) => {
                (self.note)(leg, closed, false, &Logs::default());
                Err((DropReason::PolicyDeny, closed))
            }
        }
    }

    fn ask(
        &mut self,
        leg: Leg,
        (chain, defaults): (&Chain, &Defaults),
        direction: Direction,
    ) -> Result<(Decider, Reason), Denied> {
        let (sets, tuple) = (&self.policies.sets, self.tuple);
        let verdict = if chain.uses_sets() {
            let (source, destination) = self.members.get_or_insert_with(|| {
                let of = |addr| sets.members(addr);
                (of(tuple.source), of(tuple.destination))
            });
            chain.classify_known(sets, tuple, source, destination)
        } else {
            chain.classify_known(sets, tuple, &Members::NONE, &Members::NONE)
        };
        let decider = defaults.decider(verdict.reason, direction);
        (self.note)(leg, decider, verdict.allow, &verdict.logs);
        if verdict.allow {
            Ok((decider, verdict.reason))
        } else {
            Err((DropReason::PolicyDeny, decider))
        }
    }
}

/// Multicast listener discovery and neighbour discovery: from a pod to its host always allowed.
fn is_neighbour_discovery<A>(tuple: &Tuple<A>) -> bool {
    tuple.protocol == l4::ICMPV6
        && matches!(
            tuple.l4,
            L4::Icmp {
                kind: 130..=133 | 135 | 136,
                ..
            }
        )
}
