//! What rules have decided, for those who ask.

use std::collections::HashMap;

use fastpath::policy::{Decided, Decider, RuleCount};
use flowtable::acl::RuleId;
use flowtable::flow::{FlowKey, FlowTable};
use serde_json::Value;

use super::Node;
use crate::api::report::{DenyingRule, PolicyShown};
use crate::api::{ApiError, ErrorCode};
use crate::config::HostEndpoints;
use crate::metrics::RuleUse;
use crate::policy::model::{Direction, Stage};
use crate::policy::show::{self, Counted, Counts, Shown};
use crate::policy::verdict::{Owner, Reason, RuleRef};
use crate::trace::find;

/// So many rules are named with the drops.
const MOST: usize = 10;

/// Packets and bytes of connections that are under way, by the rules that decided about them.
type UnderWay = HashMap<RuleId, (u64, u64)>;

impl Node {
    pub(super) fn policy_shown(&self, endpoint: &str) -> Result<Value, ApiError> {
        let bad = |message| ApiError::new(ErrorCode::BadParams, message);
        let policy = self.compiler.policy();
        let under_way = self.under_way();
        let counts = |what: Counted<'_>, direction: Direction| {
            let id = match what {
                Counted::Rule(Owner::Policy { id, .. }, at) => {
                    policy.rule_ids(id, direction).get(at).copied()
                }
                Counted::Rule(Owner::Profile(name), at) => {
                    policy.profile_rule_ids(name, direction).get(at).copied()
                }
                Counted::Default(denial) => policy.default_id(denial, direction),
            };
            id.map(|id| self.count(id, &under_way))
        };
        let shown = if let Some(shown) = self.host_endpoint_shown(endpoint, &counts) {
            shown
        } else {
            let endpoint = find(&self.compiler, endpoint).map_err(bad)?;
            let id = policy.endpoint(&endpoint.interface);
            let shown = id.and_then(|id| show::workload(policy.model(), id, &counts));
            shown.ok_or_else(|| bad(format!("no policy is known of {}", endpoint.id)))?
        };
        super::answer::value(&PolicyShown {
            text: show::to_text(&shown),
            policy: show::to_json(&shown),
        })
    }

    /// What applies to a host endpoint of this node, and on which interfaces: what pollers have decided and what the kernel has.
    fn host_endpoint_shown(&self, name: &str, counts: Counts<'_>) -> Option<Shown> {
        let policy = self.compiler.policy();
        let host = policy.model().host_endpoints.get(name);
        let host = host.filter(|host| host.node == self.name)?;
        let own = self.config.host_endpoints == HostEndpoints::Enforced;
        let interfaces = if own {
            self.host_policy.interfaces_of(name)
        } else {
            policy.uplinks_of(name, self.compiler.ports(), &self.mirror)
        };
        let in_kernel = self.host_policy.counts();
        let counts = |stage: Stage, what: Counted<'_>, direction: Direction| {
            let here = in_kernel.get(stage, &what, direction);
            let forwarded = (stage != Stage::Own)
                .then(|| counts(what, direction))
                .flatten();
            match (here, forwarded) {
                (Some(one), Some(other)) => Some(RuleCount {
                    connections: one.connections + other.connections,
                    packets: one.packets + other.packets,
                    bytes: one.bytes + other.bytes,
                }),
                (one, other) => one.or(other),
            }
        };
        Some(show::enforced_host(
            policy.model(),
            (name, host),
            (&interfaces, own),
            &counts,
        ))
    }

    /// What denied most: rules, and what does where no rule matches.
    pub(super) fn denying_rules(&self) -> Vec<DenyingRule> {
        let under_way = self.under_way();
        let rules = self.compiler.policy().denying();
        let mut rules: Vec<_> = rules
            .map(|(id, reason, direction)| {
                let count = self.count(id, &under_way);
                let is_default = !matches!(reason, Reason::Rule(_));
                DenyingRule {
                    rule: if is_default {
                        format!("{reason} ({})", direction.as_str())
                    } else {
                        reason.to_string()
                    },
                    default: is_default,
                    connections: count.connections,
                    packets: count.packets,
                }
            })
            .collect();
        rules.extend(
            self.host_policy
                .counts()
                .denying(self.compiler.policy().model()),
        );
        rules.retain(|rule| rule.connections > 0);
        rules.sort_by_key(|rule| std::cmp::Reverse(rule.packets));
        rules.truncate(MOST);
        rules
    }

    /// What each rule in force has decided.
    pub(super) fn rule_uses(&self) -> Vec<RuleUse> {
        let under_way = self.under_way();
        let rules = self.compiler.policy().in_force();
        let used = rules.filter_map(|(id, reason, direction)| {
            let Reason::Rule(rule) = reason else {
                return None;
            };
            Some(rule_use(&rule, direction, self.count(id, &under_way)))
        });
        let in_kernel = self.host_policy.counts();
        let in_kernel = in_kernel.rules(self.compiler.policy().model());
        let in_kernel = in_kernel.map(|(rule, count)| rule_use(&rule, rule.direction, count));
        used.chain(in_kernel).collect()
    }

    fn count(&self, id: RuleId, under_way: &UnderWay) -> RuleCount {
        let mut count = self.compiler.policy().counters().get(id);
        if let Some((packets, bytes)) = under_way.get(&id) {
            count.packets += packets;
            count.bytes += bytes;
        }
        count
    }

    fn under_way(&self) -> UnderWay {
        let mut sums = UnderWay::new();
        add(&self.connections.v4.table, &mut sums);
        add(&self.connections.v6.table, &mut sums);
        sums
    }
}

fn rule_use(rule: &RuleRef, direction: Direction, count: RuleCount) -> RuleUse {
    let (tier, policy) = match &rule.owner {
        Owner::Policy { tier, id } => (Some(tier.to_string()), id.to_string()),
        Owner::Profile(name) => (None, format!("Profile {name}")),
    };
    RuleUse {
        tier,
        policy,
        direction: direction.as_str(),
        rule: rule.number(),
        action: rule.action.as_str(),
        connections: count.connections,
        packets: count.packets,
    }
}

/// Adds both directions' packets to the rules that either entry names.
fn add<K: FlowKey>(table: &FlowTable<K>, sums: &mut UnderWay) {
    table.for_each(|view| {
        if view.is_reply() {
            return;
        }
        let reply = table.partner(view.flow).and_then(|flow| table.view(flow));
        let of_reply = reply.map(|reply| (reply.packets, reply.bytes, reply.action.rule));
        let (packets, bytes, rule) = of_reply.unwrap_or_default();
        let mut rules = vec![view.action.rule, rule];
        rules.dedup();
        for rule in rules {
            if let Decided::Rule(id) = Decider::from_bits(rule).decided() {
                let sum = sums.entry(id).or_default();
                sum.0 += packets + view.packets;
                sum.1 += bytes + view.bytes;
            }
        }
    });
}
