//! Whom selectors of policies and rules select, judged by texts that are made as Calico's update processors make them
//! (`libcalico-go/lib/backend/syncersv1/updateprocessors`: `rules.go`, `networkpolicyprocessor.go`,
//! `globalnetworkpolicyprocessor.go`), and read as any selector is.

use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::items::SERVICE_ACCOUNT_LABEL;
use super::rules::{endpoints_of, selection};
use crate::config::Source;
use crate::policy::resource::{NAMESPACE_LABEL, PolicyResources, load_sources};
use crate::policy::selector::{Expr, Labels, parse};

/// What a policy, or a side of a rule, may say.
#[derive(Clone, Debug)]
struct Said {
    /// None: the policy is global.
    namespace: Option<&'static str>,
    selector: String,
    not_selector: String,
    namespaces: String,
    accounts: String,
    account_names: Vec<&'static str>,
}

fn expr() -> impl Strategy<Value = Expr> {
    let key = || select(vec!["a", "b"]).prop_map(str::to_owned);
    let value = || select(vec!["1", "2"]).prop_map(str::to_owned);
    let leaf = prop_oneof![
        2 => Just(Expr::All),
        1 => key().prop_map(Expr::Has),
        2 => (key(), value()).prop_map(|(key, value)| Expr::Eq(key, value)),
        2 => (key(), value()).prop_map(|(key, value)| Expr::Ne(key, value)),
        1 => (key(), value()).prop_map(|(key, value)| Expr::NotIn(key, [value].into())),
    ];
    leaf.prop_recursive(2, 6, 2, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(one, other)| Expr::And(vec![one, other])),
            (inner.clone(), inner.clone()).prop_map(|(one, other)| Expr::Or(vec![one, other])),
            inner.prop_map(Expr::negated),
        ]
    })
}

/// A selector, or none.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        2 => Just(String::new()),
        3 => expr().prop_map(|expr| expr.to_string()),
    ]
}

fn said() -> impl Strategy<Value = Said> {
    let namespace = select(vec![None, Some("prod")]);
    let names = subsequence(vec!["robot", "human"], 0..=2);
    (namespace, text(), text(), text(), text(), names).prop_map(
        |(namespace, selector, not_selector, namespaces, accounts, account_names)| Said {
            namespace,
            selector,
            not_selector,
            namespaces,
            accounts,
            account_names,
        },
    )
}

/// Labels of an endpoint, or of a network set: its own, and what it inherits.
fn labels() -> impl Strategy<Value = Labels> {
    let own = ["a", "b", "pcns.a", "pcns.b", "pcsa.a", "pcsa.b"];
    let own = own.map(|key| (key, vec!["1", "2"]));
    let all = own.into_iter().chain([
        (NAMESPACE_LABEL, vec!["prod", "test"]),
        (SERVICE_ACCOUNT_LABEL, vec!["robot", "other"]),
    ]);
    let one = |(key, values): (&'static str, Vec<&'static str>)| {
        let value = proptest::option::of(select(values));
        value.prop_map(move |value| value.map(|value| (key.to_owned(), value.to_owned())))
    };
    all.map(one)
        .collect::<Vec<_>>()
        .prop_map(|found| found.into_iter().flatten().collect())
}

fn prefixed(text: &str, prefix: &str) -> String {
    parse(text).unwrap().with_prefix(prefix).to_string()
}

fn has(label: &str) -> String {
    format!("has({label})")
}

/// `prefixAndAppendSelector`
fn appended(before: String, text: &str, prefix: &str) -> String {
    match (before.as_str(), text) {
        (_, "") => before,
        ("", _) => prefixed(text, prefix),
        _ => format!("({before}) && {}", prefixed(text, prefix)),
    }
}

/// `ConvertNetworkPolicyV3ToV1Value` and `convertGlobalNetworkPolicyV2ToV1Value`
fn endpoints_by_calico(said: &Said) -> String {
    let selector = said.selector.clone();
    if let Some(namespace) = said.namespace {
        let own = format!("{NAMESPACE_LABEL} == '{namespace}'");
        let selector = match selector.as_str() {
            "" => own,
            selector => format!("({selector}) && {own}"),
        };
        return appended(selector, &said.accounts, "pcsa.");
    }
    let mut selector = appended(selector, &said.namespaces, "pcns.");
    if !said.namespaces.is_empty() {
        selector = selector.replace("all()", &has(NAMESPACE_LABEL));
    }
    selector = appended(selector, &said.accounts, "pcsa.");
    if !said.accounts.is_empty() {
        selector = selector.replace("all()", &has(SERVICE_ACCOUNT_LABEL));
    }
    selector
}

/// `GetEntityRuleSelector`, and `combineMatchesIfPossible` in `felix/calc/rule_scanner.go`: who must be met, who must not.
fn side_by_calico(said: &Said) -> (String, String) {
    let mut accounts = match said.accounts.as_str() {
        "" => String::new(),
        text => prefixed(text, "pcsa."),
    };
    if !said.account_names.is_empty() {
        let names = said.account_names.join("', '");
        let names = format!("{SERVICE_ACCOUNT_LABEL} in {{ '{names}' }}");
        accounts = match accounts.as_str() {
            "" => names,
            accounts => format!("({accounts}) && ({names})"),
        };
    }
    let namespaces = match (said.namespaces.as_str(), said.namespace) {
        ("", None) => String::new(),
        ("", Some(namespace)) => format!("{NAMESPACE_LABEL} == '{namespace}'"),
        (text, _) => prefixed(text, "pcns.").replace("all()", &has(NAMESPACE_LABEL)),
    };
    let parts = [accounts.as_str(), &said.selector];
    let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    let mut selector = match parts.as_slice() {
        [] => String::new(),
        [one] => (*one).to_owned(),
        several => format!("({})", several.join(") && (")),
    };
    let selects = [&selector, &said.not_selector, &said.namespaces];
    if !namespaces.is_empty() && selects.iter().any(|text| !text.is_empty()) {
        selector = match selector.as_str() {
            "" => namespaces,
            selector => format!("({namespaces}) && ({selector})"),
        };
    }
    if !selector.is_empty() && !said.not_selector.is_empty() {
        let both = format!("({selector}) && (!({}))", said.not_selector);
        return (both, String::new());
    }
    (selector, said.not_selector.clone())
}

/// A policy that says it of itself, and with one rule that says it of its source.
fn loaded(said: &Said) -> PolicyResources {
    let (kind, namespace, namespaces) = match said.namespace {
        Some(namespace) => ("NetworkPolicy", format!(", namespace: {namespace}"), ""),
        None => ("GlobalNetworkPolicy", String::new(), &*said.namespaces),
    };
    let namespaces = match namespaces {
        "" => String::new(),
        text => format!("namespaceSelector: \"{text}\", "),
    };
    let text = format!(
        "apiVersion: projectcalico.org/v3\nkind: {kind}\nmetadata: {{name: p{namespace}}}\nspec:\n  {{{namespaces}selector: \
         \"{}\", serviceAccountSelector: \"{}\", ingress: [{{action: Allow, source: {{selector: \"{}\", notSelector: \"{}\", \
         namespaceSelector: \"{}\", serviceAccounts: {{names: [{}], selector: \"{}\"}}}}}}]}}",
        said.selector,
        said.accounts,
        said.selector,
        said.not_selector,
        said.namespaces,
        said.account_names.join(", "),
        said.accounts,
    );
    load_sources(&[Source::new("a.yaml", text)]).unwrap_or_else(|errors| panic!("{errors}"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn selectors_select_what_calicos_texts_select(said in said(), labels in labels()) {
        let resources = loaded(&said);
        let policy = &resources.policies[0];
        let calico = endpoints_by_calico(&said);
        let selects = parse(&calico).unwrap().matches(&labels);
        prop_assert_eq!(endpoints_of(policy).matches(&labels), selects, "{}", calico);

        let (must, must_not) = side_by_calico(&said);
        let (selected, excluded) = selection(&policy.ingress[0].source, said.namespace);
        for (calico, ours) in [(must, selected), (must_not, excluded)] {
            let wanted = (!calico.is_empty()).then(|| parse(&calico).unwrap().matches(&labels));
            prop_assert_eq!(ours.map(|expr| expr.matches(&labels)), wanted, "{}", calico);
        }
    }
}
