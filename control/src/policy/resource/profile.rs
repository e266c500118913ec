//! `Profile` and `Tier`, and the profiles that namespaces and service accounts stand for.

use std::collections::BTreeMap;

use super::policy::DEFAULT_TIER;
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
    /// `order`, default that of the tier `default`: 1000000.
    pub order: f64,
    /// `defaultAction`, default Deny.
    pub default_action: DefaultAction,
}

/// A tier that is always there, as Calico makes it.
#[derive(Debug)]
pub(crate) struct BuiltInTier {
    /// Its name.
    pub(crate) name: &'static str,
    /// Its order.
    pub(crate) order: f64,
    /// Its default action.
    pub(crate) default_action: DefaultAction,
}

/// The order of the tier `default`, and of those that give none (`DefaultTierFields` in `libcalico-go/lib/resources`): the
/// name decides among them.
const DEFAULT_TIER_ORDER: f64 = 1_000_000.0;

/// Those of Calico (`ensureTierExists` in `libcalico-go/lib/clientv3/client.go`): between the last two, around the first,
/// are the cluster's own.
pub(crate) const BUILT_IN_TIERS: [BuiltInTier; 3] = [
    BuiltInTier {
        name: DEFAULT_TIER,
        order: DEFAULT_TIER_ORDER,
        default_action: DefaultAction::Deny,
    },
    BuiltInTier {
        name: "kube-admin",
        order: 1_000.0,
        default_action: DefaultAction::Pass,
    },
    BuiltInTier {
        name: "kube-baseline",
        order: 10_000_000.0,
        default_action: DefaultAction::Pass,
    },
];

impl Tier {
    pub(super) fn decode(meta: Meta, spec: &mut Fields<'_>, cx: &mut Context<'_>) -> Self {
        let order = spec.get("order", cx, decode::fraction);
        let actions = [("Deny", DefaultAction::Deny), ("Pass", DefaultAction::Pass)];
        let action = spec.get("defaultAction", cx, decode::choice(&actions, true));
        let built_in = BUILT_IN_TIERS.iter().find(|it| it.name == meta.name.value);
        if let Some(built_in) = built_in {
            built_in.is_what_was_given(&meta, order.as_ref(), action.as_ref(), cx);
        }
        Self {
            meta,
            order: order.map_or(DEFAULT_TIER_ORDER, |order| order.value),
            default_action: action.map(|action| action.value).unwrap_or_default(),
        }
    }
}

impl BuiltInTier {
    /// Calico stores no other (the rules on `Tier` in `api/pkg/apis/projectcalico/v3/tier.go`): what a file says otherwise was never in
    /// force anywhere. What is not given counts as [`DEFAULT_TIER_ORDER`] and Deny.
    fn is_what_was_given(
        &self,
        meta: &Meta,
        order: Option<&Located<f64>>,
        action: Option<&Located<DefaultAction>>,
        cx: &mut Context<'_>,
    ) {
        let Self {
            name,
            order: own,
            default_action,
        } = self;
        let given = order.map_or(DEFAULT_TIER_ORDER, |order| order.value);
        if given.total_cmp(own).is_ne() {
            cx.error(
                order.map_or(&meta.name.at, |order| &order.at),
                format!("{name} tier order must be {own}"),
                format!("write {own}, or make a tier of another name with this order"),
            );
        }
        let given = action.map(|action| action.value).unwrap_or_default();
        if given != *default_action {
            let (own, other) = match default_action {
                DefaultAction::Deny => ("Deny", "passes"),
                DefaultAction::Pass => ("Pass", "denies"),
            };
            cx.error(
                action.map_or(&meta.name.at, |action| &action.at),
                format!("the tier `{name}` must have default action {own}"),
                format!("write {own}, or make a tier of another name that {other}"),
            );
        }
    }
}
