//! Calico's policies: `NetworkPolicy`, `GlobalNetworkPolicy` and their staged forms.

use super::rule::{self, RuleSpec};
use crate::config::decode::{self, Context, Fields};
use crate::config::diagnostic::Diagnostic;
use crate::config::resource::Meta;
use crate::config::source::{Located, Span};
use crate::policy::model::{Direction, PolicyKind};
use crate::policy::rule::Action;
use crate::policy::selector::{Expr, selector};

/// A policy of any kind, those of Kubernetes translated.
#[derive(Clone, Debug, PartialEq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a field of the resource"
)]
pub struct PolicyResource {
    /// Its kind.
    pub kind: PolicyKind,
    /// Its name.
    pub meta: Meta,
    /// `tier`.
    pub tier: Located<String>,
    /// `order`; `None`: after all that have one.
    pub order: Option<f64>,
    /// `selector`; `None`: everything.
    pub selector: Option<Located<Expr>>,
    /// `namespaceSelector` of global policies.
    pub namespace_selector: Option<Located<Expr>>,
    /// `serviceAccountSelector`.
    pub service_account_selector: Option<Located<Expr>>,
    /// It applies to packets to its endpoints.
    pub on_ingress: bool,
    /// It applies to packets from its endpoints.
    pub on_egress: bool,
    /// `ingress`.
    pub ingress: Vec<RuleSpec>,
    /// `egress`.
    pub egress: Vec<RuleSpec>,
    /// `doNotTrack`.
    pub do_not_track: bool,
    /// `preDNAT`.
    pub pre_dnat: bool,
    /// `applyOnForward`.
    pub apply_on_forward: bool,
    /// A staged policy that says "delete" stands for nothing.
    pub deletes: bool,
}

/// The tier of policies that name none.
pub(crate) const DEFAULT_TIER: &str = "default";

impl PolicyResource {
    pub(super) fn decode(
        kind: PolicyKind,
        meta: Meta,
        spec: &mut Fields<'_>,
        cx: &mut Context<'_>,
    ) -> Self {
        let mark = cx.mark();
        let global = matches!(kind, PolicyKind::Global | PolicyKind::StagedGlobal);
        let tier = spec
            .get("tier", cx, decode::name)
            .unwrap_or_else(|| Located {
                value: DEFAULT_TIER.to_owned(),
                at: meta.name.at.clone(),
            });
        let order = spec.get("order", cx, decode::fraction);
        let own = spec.get("selector", cx, selector);
        let accounts = spec.get("serviceAccountSelector", cx, selector);
        let types = types(spec, cx);
        let ingress = rule::rules(spec, "ingress", cx);
        let egress = rule::rules(spec, "egress", cx);
        let mut flags = [None, None, None];
        let mut namespaces = None;
        if global {
            namespaces = spec.get("namespaceSelector", cx, selector);
            for (flag, name) in flags
                .iter_mut()
                .zip(["doNotTrack", "preDNAT", "applyOnForward"])
            {
                *flag = spec
                    .get(name, cx, decode::boolean)
                    .filter(|flag| flag.value);
            }
        }
        let deletes = kind.is_staged() && staged_action(spec, cx);
        spec.accept(&["performanceHints"]);
        if deletes {
            fn at<T>(field: &Located<T>) -> &Span {
                &field.at
            }
            let fields = [
                order.as_ref().map(at),
                own.as_ref().map(at),
                accounts.as_ref().map(at),
                namespaces.as_ref().map(at),
                types.as_ref().map(at),
                ingress.as_ref().map(at),
                egress.as_ref().map(at),
            ];
            let flags = flags.iter().map(|flag| flag.as_ref().map(at));
            deletes_and_no_more(fields.into_iter().chain(flags), cx);
        }
        let [do_not_track, pre_dnat, apply_on_forward] = flags;
        check_flags(
            do_not_track.as_ref(),
            pre_dnat.as_ref(),
            apply_on_forward.is_some(),
            cx,
        );
        let has = |rules: &Option<Located<Vec<RuleSpec>>>| {
            rules.as_ref().is_some_and(|rules| !rules.value.is_empty())
        };
        let (on_ingress, on_egress) = match &types {
            Some(types) if !types.value.is_empty() => {
                let says = |direction| types.value.iter().any(|item| item.value == direction);
                (says(Direction::Ingress), says(Direction::Egress))
            }
            // Calico's defaults: what there are rules for; ingress where there are none at all.
            _ => (has(&ingress) || !has(&egress), has(&egress)),
        };
        if pre_dnat.is_some() && on_egress {
            let at = egress.as_ref().map_or(&meta.name.at, |rules| &rules.at);
            cx.error(
                at,
                "preDNAT is for ingress only",
                "leave out egress rules and type",
            );
        }
        let policy = Self {
            kind,
            meta,
            tier,
            order: order.map(|order| order.value),
            selector: own,
            namespace_selector: namespaces,
            service_account_selector: accounts,
            on_ingress,
            on_egress,
            ingress: ingress.map(|rules| rules.value).unwrap_or_default(),
            egress: egress.map(|rules| rules.value).unwrap_or_default(),
            do_not_track: do_not_track.is_some(),
            pre_dnat: pre_dnat.is_some(),
            // Policies of a namespace never meet a host endpoint.
            apply_on_forward: apply_on_forward.is_some(),
            deletes,
        };
        policy.remark(mark, cx);
        policy
    }

    /// The rules of a direction, and whether the policy applies to it.
    pub fn direction(&self, direction: Direction) -> (&[RuleSpec], bool) {
        match direction {
            Direction::Ingress => (&self.ingress, self.on_ingress),
            Direction::Egress => (&self.egress, self.on_egress),
        }
    }

    /// Points out what is allowed and hardly meant, unless there were errors since a mark.
    pub(super) fn remark(&self, mark: usize, cx: &mut Context<'_>) {
        if cx.has_errors_since(mark) {
            return;
        }
        for direction in [Direction::Ingress, Direction::Egress] {
            let (rules, applies) = self.direction(direction);
            let Some(first) = rules.first() else { continue };
            if !applies {
                let word = direction.as_str();
                cx.report(
                    Diagnostic::warning(format!("{word} rules without effect")).at(
                        &first.at.at,
                        format!("`types` does not say {}", capital(direction)),
                    ),
                );
            } else if rules.iter().all(|rule| rule.action == Action::Log) {
                cx.report(
                    Diagnostic::warning("a policy that only logs drops everything it logs")
                        .at(&first.at.at, "no rule behind it allows or passes")
                        .help(format!(
                            "a policy that applies denies what none of its tier's rules decides; add an {} rule with \
                             `action: Allow` or `Pass`",
                            direction.as_str()
                        )),
                );
            }
            unreachable_rules(rules, cx);
        }
    }
}

/// Rules behind one that decides about everything.
fn unreachable_rules(rules: &[RuleSpec], cx: &mut Context<'_>) {
    let everything = |rule: &RuleSpec| {
        let plain = RuleSpec {
            action: rule.action,
            index: rule.index,
            at: rule.at.clone(),
            families: crate::policy::rule::Families::Any,
            protocol: None,
            not_protocol: None,
            icmp: None,
            not_icmp: None,
            source: rule::Entity::default(),
            destination: rule::Entity::default(),
        };
        rule.action != Action::Log && *rule == plain
    };
    let Some(last) = rules.iter().position(everything) else {
        return;
    };
    if let Some(behind) = rules.get(last + 1) {
        cx.report(
            Diagnostic::warning("a rule that is never reached")
                .at(&behind.at.at, "an earlier rule decides about every packet")
                .see("this one", &rules[last].at.at),
        );
    }
}

fn capital(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "Ingress",
        Direction::Egress => "Egress",
    }
}

/// `types` or `policyTypes`.
pub(super) const TYPES: [(&str, Direction); 2] = [
    ("Ingress", Direction::Ingress),
    ("Egress", Direction::Egress),
];

fn types(spec: &mut Fields<'_>, cx: &mut Context<'_>) -> Option<Located<Vec<Located<Direction>>>> {
    let types = spec.get("types", cx, decode::list(decode::choice(&TYPES, true)))?;
    let mut seen: Vec<(Direction, &Span)> = Vec::new();
    for item in &types.value {
        if let Some((_, first)) = seen.iter().find(|(known, _)| *known == item.value) {
            cx.report(
                Diagnostic::error(format!("type `{}` is given twice", capital(item.value)))
                    .at(&item.at, "again here")
                    .see("first given here", first),
            );
        }
        seen.push((item.value, &item.at));
    }
    Some(types)
}

/// True if the staged policy stands for a deletion.
pub(super) fn staged_action(spec: &mut Fields<'_>, cx: &mut Context<'_>) -> bool {
    let actions = [
        ("Set", false),
        ("Delete", true),
        ("Learn", false),
        ("Ignore", false),
    ];
    spec.get("stagedAction", cx, decode::choice(&actions, true))
        .is_some_and(|action| action.value)
}

/// Calico refuses a staged deletion that says more: what it says would never be looked at.
pub(super) fn deletes_and_no_more<'f>(
    fields: impl Iterator<Item = Option<&'f Span>>,
    cx: &mut Context<'_>,
) {
    if let Some(first) = fields.flatten().min_by_key(|at| at.start) {
        let label = "leave this out: a deletion says nothing but its tier";
        cx.error(first, "a staged deletion that says more", label);
    }
}

fn check_flags(
    do_not_track: Option<&Located<bool>>,
    pre_dnat: Option<&Located<bool>>,
    apply_on_forward: bool,
    cx: &mut Context<'_>,
) {
    if let (Some(_), Some(second)) = (do_not_track, pre_dnat) {
        let label = "one of doNotTrack and preDNAT must be false";
        cx.error(&second.at, "both untracked and before DNAT", label);
    }
    if let Some(flag) = do_not_track.or(pre_dnat)
        && !apply_on_forward
    {
        let label = "add `applyOnForward: true`";
        cx.error(
            &flag.at,
            "such a policy applies to forwarded packets, too",
            label,
        );
    }
}
