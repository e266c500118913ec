//! Policy of host endpoints: what the node's interfaces say about packets that the node forwards.

use std::sync::Arc;

use flowtable::acl::{Chain, RuleId};

use super::{Decided, Decider, Defaults, End};

/// The host endpoints of a node.
#[derive(Clone, Debug, Default)]
pub struct HostEndpoints {
    /// By port number, of uplinks: the endpoint of the interface, be it its own or the one for all interfaces.
    uplinks: Vec<Option<HostEndpoint>>,
    /// The one for all interfaces that have none of their own: pods', tunnels', and those that only the kernel serves.
    wildcard: Option<HostEndpoint>,
    /// Whether any has untracked policy.
    have_untracked: bool,
    /// The numbers of failsafe ports, in order. Early chains let them through, which speaks for no chain that follows
    /// (`felix/rules/static.go`: they end the raw or the mangle table, without a mark).
    failsafes: Arc<[RuleId]>,
}

/// What one host endpoint says about packets that are forwarded. A chain that is not there has no say.
#[derive(Clone, Debug, Default)]
pub struct HostEndpoint {
    /// Its name.
    pub name: Arc<str>,
    /// For packets that come in, before connections are tracked. What its policy allows skips the two that follow.
    pub untracked: Option<Chain>,
    /// For packets that come in, before destinations are translated. What its policy allows skips the one that follows.
    pub pre_dnat: Option<Chain>,
    /// For packets that come in.
    pub ingress: Option<Chain>,
    /// For packets that leave.
    pub egress: Option<Chain>,
    /// The numbers of the ends of tiers that deny: ingress, egress.
    pub ends: [Defaults; 2],
}

impl HostEndpoints {
    /// Those of uplinks, by port number: each interface's own, or the one for all interfaces; and that one, which all other
    /// interfaces have: pods', tunnels', and those that only the kernel serves. `failsafes` are the numbers of failsafe ports.
    pub fn new(
        uplinks: Vec<Option<HostEndpoint>>,
        wildcard: Option<HostEndpoint>,
        mut failsafes: Vec<RuleId>,
    ) -> Self {
        failsafes.sort_unstable();
        let mut all = uplinks.iter().flatten().chain(&wildcard);
        let have_untracked = all.any(|endpoint| endpoint.untracked.is_some());
        Self {
            have_untracked,
            uplinks,
            wildcard,
            failsafes: failsafes.into(),
        }
    }

    /// Whether any has a say about packets before connections are looked up.
    #[inline]
    pub const fn have_untracked(&self) -> bool {
        self.have_untracked
    }

    /// Whether it was a failsafe port that decided.
    pub(super) fn is_failsafe(&self, by: Decider) -> bool {
        matches!(by.decided(), Decided::Rule(id) if self.failsafes.binary_search(&id).is_ok())
    }

    /// The endpoint of the interface towards an end.
    pub fn of(&self, end: End) -> Option<&HostEndpoint> {
        match end {
            End::Uplink(port) => self.uplinks.get(usize::from(port.0))?.as_ref(),
            End::Pod(_) | End::Elsewhere => self.wildcard.as_ref(),
            End::Host => None,
        }
    }
}
