//! `Profile` and `Tier`, and the profiles that namespaces and service accounts stand for.

use std::collections::BTreeMap;

use super::DEFAULT_TIER;
use super::rule::{self, Entity, RuleSpec};
use crate::config::decode::{self, Context, Fields};
use crate::config::resource::Meta;
use crate::config::source::{Located, Span};
use crate::policy::model::DefaultAction;
use crate::policy::rule::{Action, Families};
use crate::policy::selector::Labels;

/// What endpoints inherit from their namespace's labels is called so.
pub(crate) const NAMESPACE_PREFIX: &str = "pcns.";
/// What endpoints inherit from their service account's labels is called so.
pub(crate) const SERVICE_ACCOUNT_PREFIX: &str = "pcsa.";
const NAME_LABEL: &str = "projectcalico.org/name";

/// A profile.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    /// Its name.
    pub meta: Meta,
    /// `labelsToApply`: what its endpoints inherit.
    pub labels: Labels,
    /// `ingress`.
    pub ingress: Vec<RuleSpec>,
    /// `egress`.
    pub egress: Vec<RuleSpec>,
}

impl Profile {
    pub(super) fn decode(meta: Meta, spec: &mut Fields<'_>, cx: &mut Context<'_>) -> Self {
        let labels = spec.get("labelsToApply", cx, decode::text_map);
        let ingress = rule::rules(spec, "ingress", cx);
        let egress = rule::rules(spec, "egress", cx);
        Self {
            meta,
            labels: labels.map(|labels| labels.value).unwrap_or_default(),
            ingress: ingress.map(|rules| rules.value).unwrap_or_default(),
            egress: egress.map(|rules| rules.value).unwrap_or_default(),
        }
    }

    /// What Calico makes of a namespace: all is allowed where no policy applies, and endpoints inherit its labels.
    pub(super) fn of_namespace(meta: &Meta) -> Self {
        let name = &meta.name.value;
        let mut labels = inherited(NAMESPACE_PREFIX, &meta.labels, name);
        // Kubernetes gives it to every namespace.
        let own_name = format!("{NAMESPACE_PREFIX}kubernetes.io/metadata.name");
        labels.entry(own_name).or_insert_with(|| name.clone());
        Self::allowing_all(format!("kns.{name}"), labels, &meta.name.at)
    }

    /// What Calico makes of a service account: its pods inherit its labels. It has no rules.
    pub(super) fn of_service_account(meta: &Meta) -> Self {
        let namespace = meta.namespace.as_deref().unwrap_or("default");
        let name = &meta.name.value;
        Self {
            meta: named(format!("ksa.{namespace}.{name}"), &meta.name.at),
            labels: inherited(SERVICE_ACCOUNT_PREFIX, &meta.labels, name),
            ingress: Vec::new(),
            egress: Vec::new(),
        }
    }

    /// A namespace that nothing is known about but its name.
    pub(crate) fn of_bare_namespace(name: &str, at: &Span) -> Self {
        Self::of_namespace(&named(name.to_owned(), at))
    }

    /// A service account that nothing is known about but its name.
    pub(crate) fn of_bare_service_account(namespace: &str, name: &str, at: &Span) -> Self {
        let mut meta = named(name.to_owned(), at);
        meta.namespace = Some(namespace.to_owned());
        Self::of_service_account(&meta)
    }

    /// A profile that allows everything.
    pub(crate) fn allowing_all(name: String, labels: Labels, at: &Span) -> Self {
        let allow = RuleSpec {
            action: Action::Allow,
            families: Families::Any,
            protocol: None,
            not_protocol: None,
            icmp: None,
            not_icmp: None,
            source: Entity::default(),
            destination: Entity::default(),
            index: 0,
            at: Located {
                value: (),
                at: at.clone(),
            },
        };
        Self {
            meta: named(name, at),
            labels,
            ingress: vec![allow.clone()],
            egress: vec![allow],
        }
    }
}

fn named(name: String, at: &Span) -> Meta {
    Meta {
        kind: "Profile",
        name: Located {
            value: name,
            at: at.clone(),
        },
        namespace: None,
        labels: BTreeMap::new(),
    }
}

fn inherited(prefix: &str, own: &Labels, name: &str) -> Labels {
    let long = |(key, value): (&String, &String)| (format!("{prefix}{key}"), value.clone());
    let mut labels: Labels = own.iter().map(long).collect();
    labels.insert(format!("{prefix}{NAME_LABEL}"), name.to_owned());
    labels
}

/// A tier.
#[derive(Clone, Debug, PartialEq)]
pub struct Tier {
    /// Its name.
    pub meta: Meta,
    /// `order`; `None`: after all that have one.
    pub order: Option<f64>,
    /// `defaultAction`, default Deny.
    pub default_action: DefaultAction,
}

/// Order of the tier `default`, which is always there.
pub(crate) const DEFAULT_TIER_ORDER: f64 = 1_000_000.0;

impl Tier {
    pub(super) fn decode(meta: Meta, spec: &mut Fields<'_>, cx: &mut Context<'_>) -> Self {
        let order = spec.get("order", cx, decode::fraction);
        let actions = [("Deny", DefaultAction::Deny), ("Pass", DefaultAction::Pass)];
        let action = spec.get("defaultAction", cx, decode::choice(&actions, true));
        let is_default = meta.name.value == DEFAULT_TIER;
        if is_default {
            default_tier_is_as_calico_has_it(order.as_ref(), action.as_ref(), cx);
        }
        Self {
            meta,
            order: order
                .map(|order| order.value)
                .or(is_default.then_some(DEFAULT_TIER_ORDER)),
            default_action: action.map(|action| action.value).unwrap_or_default(),
        }
    }
}

/// Calico stores no other: what a file says otherwise was never in force anywhere.
fn default_tier_is_as_calico_has_it(
    order: Option<&Located<f64>>,
    action: Option<&Located<DefaultAction>>,
    cx: &mut Context<'_>,
) {
    if let Some(order) = order.filter(|order| order.value.total_cmp(&DEFAULT_TIER_ORDER).is_ne()) {
        cx.error(
            &order.at,
            "default tier order must be 1000000",
            "write 1000000, or make a tier of another name with this order",
        );
    }
    if let Some(action) = action.filter(|action| action.value != DefaultAction::Deny) {
        cx.error(
            &action.at,
            "the tier `default` must have default action Deny",
            "write Deny, or make a tier of another name that passes",
        );
    }
}
