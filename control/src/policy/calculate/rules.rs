//! Rules of resources to rules of the model: selectors and named ports become sets.

use std::collections::BTreeMap;

use super::Use;
use super::items::SERVICE_ACCOUNT_LABEL;
use crate::config::source::{Located, Span};
use crate::policy::model::Rules;
use crate::policy::resource::{
    Entity, NAMESPACE_LABEL, NAMESPACE_PREFIX, PolicyResource, PortSpec, Profile, RuleSpec,
    SERVICE_ACCOUNT_PREFIX,
};
use crate::policy::rule::{IpSetId, Matches, Origin, Ports, Protocol, Rule, Side};
use crate::policy::selector::Expr;

/// A set that rules need.
#[derive(Clone, Debug)]
pub(super) struct WantedSet {
    /// Whose addresses are in it.
    pub(super) expr: Expr,
    /// Only with a port of this protocol and name.
    pub(super) named_port: Option<(Protocol, String)>,
    /// Where it is asked for first, by somebody worth a remark.
    pub(super) used_by: Option<Use>,
}

/// Builds rules, and collects the sets that they need.
#[derive(Debug, Default)]
pub(super) struct RuleBuilder {
    pub(super) sets: BTreeMap<IpSetId, WantedSet>,
}

/// All endpoints that a policy applies to.
///
/// `all()` means what Calico's update processors make of it (`libcalico-go/lib/backend/syncersv1/updateprocessors`): in a global
/// policy that selects namespaces, whatever is in one, also where it stands in `selector`; likewise with service accounts. In a
/// policy of a namespace it means everything there.
pub(super) fn endpoints_of(policy: &PolicyResource) -> Expr {
    let plain = |field: &Option<Located<Expr>>| field.as_ref().map(|expr| expr.value.clone());
    let selector = plain(&policy.selector);
    let accounts = plain(&policy.service_account_selector);
    let accounts = accounts.map(|accounts| accounts.with_prefix(SERVICE_ACCOUNT_PREFIX));
    let selector = if let Some(namespace) = &policy.meta.namespace {
        Expr::and(Expr::and(selector, Some(in_namespace(namespace))), accounts)
    } else {
        let namespaces = plain(&policy.namespace_selector);
        let namespaces = namespaces.map(|namespaces| namespaces.with_prefix(NAMESPACE_PREFIX));
        let selector = and_all_in_any(selector, namespaces, NAMESPACE_LABEL);
        and_all_in_any(selector, accounts, SERVICE_ACCOUNT_LABEL)
    };
    selector.unwrap_or(Expr::All)
}

/// Both, with `all()` for what has a label, if there is a second.
fn and_all_in_any(first: Option<Expr>, second: Option<Expr>, label: &str) -> Option<Expr> {
    if second.is_none() {
        return first;
    }
    let any = Expr::Has(label.to_owned());
    Expr::and(first, second).map(|both| both.with_all_and_global(&any, &any))
}

fn in_namespace(namespace: &str) -> Expr {
    Expr::Eq(NAMESPACE_LABEL.to_owned(), namespace.to_owned())
}

/// A selector of namespaces as one of what lies in them: `all()` means "in any", `global()` "in none".
fn of_namespaces(selector: Expr) -> Expr {
    let in_any = Expr::Has(NAMESPACE_LABEL.to_owned());
    let in_none = in_any.clone().negated();
    selector
        .with_prefix(NAMESPACE_PREFIX)
        .with_all_and_global(&in_any, &in_none)
}

/// All that a side of a rule selects, and all that it excludes. Without a namespace selector a policy of a namespace
/// means its own namespace, as soon as it selects anything.
pub(super) fn selection(entity: &Entity, namespace: Option<&str>) -> (Option<Expr>, Option<Expr>) {
    let plain = |field: &Option<Located<Expr>>| field.as_ref().map(|expr| expr.value.clone());
    let namespaces = match plain(&entity.namespace_selector) {
        Some(selector) => Some(of_namespaces(selector)),
        None => namespace.map(in_namespace),
    };
    let accounts = entity.service_accounts.as_ref().and_then(|accounts| {
        let selector = plain(&accounts.selector);
        let selector = selector.map(|selector| selector.with_prefix(SERVICE_ACCOUNT_PREFIX));
        let names = (!accounts.names.is_empty()).then(|| {
            let names = accounts.names.iter().cloned().collect();
            Expr::In(SERVICE_ACCOUNT_LABEL.to_owned(), names)
        });
        Expr::and(selector, names)
    });
    let mut selected = Expr::and(accounts, plain(&entity.selector));
    let excluded = plain(&entity.not_selector);
    let selects = selected.is_some() || excluded.is_some() || entity.namespace_selector.is_some();
    if selects {
        selected = Expr::and(namespaces, selected);
    }
    match (selected, excluded) {
        // Who is selected is known, so that what is excluded can be taken away from it.
        (Some(selected), Some(excluded)) => {
            (Expr::and(Some(selected), Some(excluded.negated())), None)
        }
        other => other,
    }
}

impl RuleBuilder {
    pub(super) fn policy(&mut self, policy: &PolicyResource) -> Rules {
        let namespace = policy.meta.namespace.as_deref();
        let label = policy.meta.label();
        Rules {
            inbound: self.rules(&policy.ingress, namespace, &label),
            outbound: self.rules(&policy.egress, namespace, &label),
        }
    }

    pub(super) fn profile(&mut self, profile: &Profile) -> Rules {
        let label = profile.meta.label();
        Rules {
            inbound: self.rules(&profile.ingress, None, &label),
            outbound: self.rules(&profile.egress, None, &label),
        }
    }

    fn rules(&mut self, rules: &[RuleSpec], namespace: Option<&str>, label: &str) -> Vec<Rule> {
        rules
            .iter()
            .map(|rule| self.rule(rule, namespace, label))
            .collect()
    }

    fn rule(&mut self, rule: &RuleSpec, namespace: Option<&str>, label: &str) -> Rule {
        // A named port is one of the rule's protocol; TCP where it has none.
        let protocol = rule.protocol.filter(|protocol| protocol.has_ports());
        let protocol = protocol.unwrap_or(Protocol::TCP);
        let cx = RuleContext {
            namespace,
            protocol,
            rule: &rule.at.at,
            label,
        };
        Rule {
            action: rule.action,
            matches: Matches {
                families: rule.families,
                protocol: rule.protocol,
                not_protocol: rule.not_protocol,
                icmp: rule.icmp,
                not_icmp: rule.not_icmp,
                src: self.side(&rule.source, &cx),
                dst: self.side(&rule.destination, &cx),
            },
            origin: Origin {
                index: rule.index,
                rule_id: None,
                at: Some(rule.at.at.clone()),
            },
        }
    }

    fn side(&mut self, entity: &Entity, cx: &RuleContext<'_>) -> Side {
        let (selected, excluded) = selection(entity, cx.namespace);
        let place = |field: &Option<Located<Expr>>| field.as_ref().map(|expr| expr.at.clone());
        let at = place(&entity.selector)
            .or_else(|| place(&entity.namespace_selector))
            .or_else(|| place(&entity.not_selector))
            .unwrap_or_else(|| cx.rule.clone());
        let mut side = Side {
            nets: (!entity.nets.is_empty()).then(|| entity.nets.clone()),
            not_nets: entity.not_nets.clone(),
            ..Side::default()
        };
        side.ports = self.ports(&entity.ports, selected.as_ref(), cx);
        side.not_ports = self.ports(&entity.not_ports, selected.as_ref(), cx);
        if let Some(expr) = selected {
            side.ip_sets
                .push(self.set(expr, None, Some((at, cx.label.to_owned()))));
        }
        if let Some(expr) = excluded {
            side.not_ip_sets.push(self.set(expr, None, None));
        }
        side
    }

    fn ports(
        &mut self,
        ports: &[Located<PortSpec>],
        selected: Option<&Expr>,
        cx: &RuleContext<'_>,
    ) -> Option<Ports> {
        if ports.is_empty() {
            return None;
        }
        let mut done = Ports::default();
        for port in ports {
            match &port.value {
                PortSpec::Range(range) => done.ranges.push(*range),
                PortSpec::Named(name) => {
                    let expr = selected.cloned().unwrap_or(Expr::All);
                    let named = Some((cx.protocol, name.clone()));
                    let used_by = Some((port.at.clone(), cx.label.to_owned()));
                    done.named.push(self.set(expr, named, used_by));
                }
            }
        }
        Some(done)
    }

    fn set(
        &mut self,
        expr: Expr,
        named_port: Option<(Protocol, String)>,
        used_by: Option<Use>,
    ) -> IpSetId {
        let id = match &named_port {
            None => expr.to_string(),
            Some((protocol, name)) => format!("{name}/{protocol} of {expr}"),
        };
        let id = IpSetId(id.into());
        let set = self.sets.entry(id.clone()).or_insert_with(|| WantedSet {
            expr,
            named_port,
            used_by: None,
        });
        set.used_by = set.used_by.take().or(used_by);
        id
    }
}

/// What is known of a rule as a whole.
struct RuleContext<'r> {
    namespace: Option<&'r str>,
    protocol: Protocol,
    rule: &'r Span,
    label: &'r str,
}
