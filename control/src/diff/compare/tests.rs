//! Comparing sets of resources, by example and at random.

use std::fmt::Write as _;
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::config::Source;
use crate::config::load_sources;

fn written(texts: &[&str]) -> Written {
    let name = |index| format!("{index}.yaml");
    let sources = texts.iter().enumerate();
    let sources: Vec<Arc<Source>> = sources
        .map(|(index, text)| Source::new(name(index), *text))
        .collect();
    Written::read(&sources)
}

/// Changes as `sign kind name path -old +new`.
fn said(old: &str, new: &str) -> Vec<String> {
    let changes = compare(&written(&[old]), &written(&[new]));
    let mut all = Vec::new();
    for change in changes {
        let name = change.name.to_string();
        match (&change.old, &change.new) {
            (None, _) => all.push(format!("+ {name}")),
            (_, None) => all.push(format!("- {name}")),
            _ => assert!(!change.fields.is_empty()),
        }
        for field in &change.fields {
            let mut line = format!("~ {name} {}", field.path);
            for (sign, values) in [('-', &field.removed), ('+', &field.added)] {
                for value in values {
                    let _ = write!(line, " {sign}{value}");
                }
            }
            all.push(line);
        }
    }
    all
}

fn policy(spec: &str) -> String {
    format!(
        "apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata: {{name: p, namespace: ns}}\nspec: {spec}\n"
    )
}

const P: &str = "NetworkPolicy ns/p";

#[test]
fn a_field_is_named_by_its_path() {
    for (old, new, expected) in [
        ("{order: 1}", "{order: 1.0}", vec![]),
        ("{order: 1}", "{order: 2}", vec!["spec.order -1 +2"]),
        ("{order: 1}", "{}", vec!["spec.order -1"]),
        (
            "{order: 1, selector: a}",
            "{selector: a}",
            vec!["spec.order -1"],
        ),
        (
            "{selector: a}",
            "{selector: a, types: [Ingress]}",
            vec!["spec.types +[Ingress]"],
        ),
        (
            "{ingress: [{action: Allow, destination: {ports: [80, 443]}}]}",
            "{ingress: [{action: Allow, destination: {ports: [80, 8443]}}]}",
            vec!["spec.ingress[0].destination.ports -443 +8443"],
        ),
        (
            "{types: [Ingress, Egress]}",
            "{types: [Egress, Ingress]}",
            vec!["spec.types -Ingress +Ingress"],
        ),
        (
            "{types: [Ingress]}",
            "{types: Ingress}",
            vec!["spec.types -[Ingress] +Ingress"],
        ),
    ] {
        let expected: Vec<_> = expected.iter().map(|it| format!("~ {P} {it}")).collect();
        assert_eq!(said(&policy(old), &policy(new)), expected, "{old} {new}");
    }
}

#[test]
fn a_rule_that_is_put_between_others_is_the_only_change() {
    let rules = |all: &[&str]| policy(&format!("{{ingress: [{}]}}", all.join(", ")));
    let (a, b, c) = ("{action: Allow}", "{action: Deny}", "{action: Log}");
    for (old, new, expected) in [
        (vec![a, b], vec![c, a, b], vec!["[0] +{action: Log}"]),
        (vec![a, b], vec![a, c, b], vec!["[1] +{action: Log}"]),
        (vec![a, c, b], vec![a, b], vec!["[1] -{action: Log}"]),
        (vec![a, b], vec![a, c], vec!["[1].action -Deny +Log"]),
        (
            vec![a, b, a],
            vec![c, a],
            vec!["[0].action -Allow +Log", "[1] -{action: Deny}"],
        ),
        (vec![a, a], vec![a], vec!["[1] -{action: Allow}"]),
        // It is the one that is most alike that has changed.
        (
            vec!["{action: Allow, protocol: TCP}"],
            vec![c, "{action: Allow, protocol: UDP}"],
            vec!["[0] +{action: Log}", "[1].protocol -TCP +UDP"],
        ),
        (
            vec![c, "{action: Allow, protocol: TCP}"],
            vec!["{action: Allow, protocol: UDP}"],
            vec!["[0] -{action: Log}", "[0].protocol -TCP +UDP"],
        ),
    ] {
        let expected: Vec<_> = expected
            .iter()
            .map(|it| format!("~ {P} spec.ingress{it}"))
            .collect();
        assert_eq!(
            said(&rules(&old), &rules(&new)),
            expected,
            "{old:?} {new:?}"
        );
    }
}

#[test]
fn what_nobody_reads_does_not_matter() {
    let plain = policy("{selector: a}");
    let noisy = "apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nstatus: {x: 1}\nspec: {selector: 'a', order: ~}\n\
                 metadata:\n  namespace: ns\n  name: p\n  uid: 1-2\n  resourceVersion: '7'\n  creationTimestamp: ~\n  labels: {}\n\
                 \x20 annotations: {a: b}\n  managedFields: [{manager: x}]\n  generation: 4\n";
    assert_eq!(said(&plain, noisy), Vec::<String>::new());
    let labelled = noisy.replace("labels: {}", "labels: {a.b/c: d}");
    let label = "~ NetworkPolicy ns/p metadata.labels[\"a.b/c\"] +d";
    assert_eq!(said(&plain, &labelled), [label]);
    let other = labelled.replace("c: d", "c: e");
    let label = "~ NetworkPolicy ns/p metadata.labels[\"a.b/c\"] -d +e";
    assert_eq!(said(&labelled, &other), [label]);
}

#[test]
fn resources_are_known_by_kind_namespace_and_name() {
    let calico =
        "apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata: {name: p}\nspec: {}\n";
    let default = calico.replace("name: p", "name: p, namespace: default");
    assert_eq!(said(calico, &default), Vec::<String>::new());
    let kubernetes = default
        .replace("projectcalico.org/v3", "networking.k8s.io/v1")
        .replace("spec: {}", "spec: {podSelector: {}}");
    assert_eq!(
        said(calico, &kubernetes),
        [
            "+ KubernetesNetworkPolicy default/p",
            "- NetworkPolicy default/p"
        ]
    );
    let list = "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: projectcalico.org/v3, kind: NetworkPolicy, metadata: {name: p}}\n";
    assert_eq!(said(calico, list), Vec::<String>::new());
    // Kinds that nothing acts on may repeat.
    let peer = "---\napiVersion: projectcalico.org/v3\nkind: BGPPeer\nmetadata: {name: x}\nspec: {asNumber: 1}\n";
    assert_eq!(said(&peer.repeat(2), peer), ["- BGPPeer x"]);
}

#[test]
fn a_long_list_is_compared_place_by_place() {
    let items = |first: usize| {
        let all: Vec<String> = (first..first + 3000).map(|it| it.to_string()).collect();
        policy(&format!("{{x: [{}]}}", all.join(", ")))
    };
    let changes = compare(&written(&[&items(0)]), &written(&[&items(10_000)]));
    assert_eq!(changes[0].fields[0].removed.len(), 3000);
    assert_eq!(changes[0].fields[0].added.len(), 3000);
}

/// A document with a few kinds, names and fields.
fn document() -> impl Strategy<Value = String> {
    let port = prop_oneof![Just("80"), Just("443"), Just("'90:91'")];
    let rule =
        (prop_oneof![Just("Allow"), Just("Deny")], vec(port, 0..4)).prop_map(|(action, ports)| {
            format!(
                "{{action: {action}, protocol: TCP, destination: {{ports: [{}]}}}}",
                ports.join(", ")
            )
        });
    (0..3_u8, vec(rule, 0..5)).prop_map(|(order, rules)| {
        format!(
            "{{order: {order}, selector: all(), ingress: [{}]}}",
            rules.join(", ")
        )
    })
}

/// Documents of different names.
fn documents() -> impl Strategy<Value = Vec<String>> {
    vec(document(), 0..6).prop_map(|specs| {
        let named = specs.into_iter().enumerate();
        named
            .map(|(index, spec)| {
                format!("---\napiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {{name: p{index}}}\nspec: {spec}\n")
            })
            .collect()
    })
}

/// A list with what changed taken out and put in.
fn patched(old: &Tree, new: &Tree) -> bool {
    let mut fields = Vec::new();
    value(String::new(), old, new, &mut fields);
    fields.is_empty() == (old == new)
}

proptest! {
    #[test]
    fn a_set_does_not_differ_from_itself_in_whatever_order(all in documents(), at in any::<prop::sample::Index>()) {
        let plain = written(&[&all.concat()]);
        prop_assert_eq!(plain.0.len(), all.len());
        let mut turned = all.clone();
        if !turned.is_empty() {
            turned.rotate_left(at.index(all.len()));
        }
        let texts: Vec<&str> = turned.iter().map(String::as_str).collect();
        prop_assert!(compare(&plain, &written(&texts)).is_empty());
    }

    #[test]
    fn there_is_a_difference_if_and_only_if_the_model_says_so(old in documents(), new in documents()) {
        let load = |all: &[String]| {
            let source = Source::new("a.yaml", all.concat());
            load_sources(&[source]).expect("valid").policy
        };
        let changes = compare(&written(&[&old.concat()]), &written(&[&new.concat()]));
        prop_assert_eq!(changes.is_empty(), written(&[&old.concat()]) == written(&[&new.concat()]));
        // What is the same as it is written means the same.
        prop_assert!(!changes.is_empty() || load(&old) == load(&new));
        // The other way round the same resources differ.
        let back = compare(&written(&[&new.concat()]), &written(&[&old.concat()]));
        let names = |changes: &[Change]| changes.iter().map(|it| it.name.clone()).collect::<Vec<_>>();
        prop_assert_eq!(names(&changes), names(&back));
    }

    #[test]
    fn gaps_make_one_list_of_the_other(old in vec(0..4_u8, 0..12), new in vec(0..4_u8, 0..12)) {
        let tree = |items: &[u8]| {
            let text = format!("{items:?}");
            let documents = crate::config::yaml::parse(&Source::new("a.yaml", text)).unwrap();
            Tree::of(&documents[0])
        };
        let (old, new) = (tree(&old), tree(&new));
        prop_assert!(patched(&old, &new));
        let (Content::List(old), Content::List(new)) = (&old.content, &new.content) else {
            return Ok(());
        };
        let (mut made, mut at) = (Vec::new(), 0);
        for gap in gaps(old, new) {
            made.extend_from_slice(&old[at..gap.old.start]);
            made.extend_from_slice(&new[gap.new.clone()]);
            at = gap.old.end;
        }
        made.extend_from_slice(&old[at..]);
        prop_assert_eq!(&made, new);
    }
}
