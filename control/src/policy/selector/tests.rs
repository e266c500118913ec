use std::cell::Cell;
use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::index::{Change, Index};
use super::{Expr, Labels, parse};

fn labels(pairs: &[(&str, &str)]) -> Labels {
    let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    pairs.iter().map(own).collect()
}

#[test]
fn every_operator_means_what_calico_says() {
    let web = labels(&[("app", "web-1"), ("tier", "front"), ("a/b.c-d_e", "")]);
    for (text, matches) in [
        ("", true),
        ("all()", true),
        ("all( )", true),
        ("app == 'web-1'", true),
        ("app==\"web-1\"", true),
        ("app == 'web'", false),
        ("app != 'web-1'", false),
        ("missing != 'x'", true),
        ("app in {'a', 'web-1'}", true),
        ("app in{'a'}", false),
        ("app in {}", false),
        ("app in {'web-1',}", true),
        ("app not in {'a'}", true),
        ("app notin {'a'}", true),
        ("missing not in {'a'}", true),
        ("app not in {'web-1'}", false),
        ("app contains 'eb-'", true),
        ("app contains 'x'", false),
        ("app starts with 'web'", true),
        ("app starts  with 'eb'", false),
        ("app ends with '-1'", true),
        ("app ends with '-'", false),
        ("missing contains ''", false),
        ("has(app)", true),
        ("has( app )", true),
        ("has(missing)", false),
        ("!has(missing)", true),
        ("!!has(missing)", false),
        ("has(a/b.c-d_e)", true),
        ("a/b.c-d_e == ''", true),
        // && binds closer than ||.
        ("has(app) || has(missing) && has(missing)", true),
        ("(has(app) || has(missing)) && has(missing)", false),
        ("!(has(missing) || app == 'x') && tier == 'front'", true),
        ("has == 'x'", false),
    ] {
        let expr = parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(expr.matches(&web), matches, "{text}");
    }
}

#[test]
fn errors_say_where() {
    for (text, wrong, message) in [
        ("app = 'web'", "=", "no operator behind the label `app`"),
        ("app", "", "no operator behind the label `app`"),
        ("app == web", "web", "a value must be in quotes"),
        ("app == 'web", "'web", "a quote is not closed"),
        ("app in ('a')", "(", "a set must be in braces"),
        ("app in {'a' 'b'}", "'", "a set is not closed"),
        ("app in {'a'", "", "a set is not closed"),
        ("(has(a)", "(", "a `(` without its `)`"),
        ("has(a))", ")", "a `)` without its `(`"),
        ("has(a) and has(b)", "and", "`and` is no operator"),
        ("has(a) & has(b)", "&", "`&` is no operator"),
        ("has('a')", "'", "has() needs a label"),
        ("All()", "All", "unknown function `All`"),
        ("'a' == 'b'", "'", "a label has no quotes"),
        ("has(a) &&", "", "the selector ends too early"),
        ("a == 'é' && ü == 'b'", "ü", "unexpected `ü`"),
    ] {
        let error = parse(text).unwrap_err();
        assert_eq!(error.message, message, "{text}");
        assert_eq!(&text[error.at..error.at + error.len], wrong, "{text}");
    }
    let deep = "(".repeat(100_000);
    assert_eq!(
        parse(&deep).unwrap_err().message,
        "parentheses are nested too deeply"
    );
}

fn key() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["a", "b", "c", "has", "in", "x/y.z"]).prop_map(str::to_owned)
}

fn value() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["", "1", "2", "12", "it's", "say \"x\"", "é"]).prop_map(str::to_owned)
}

fn values() -> impl Strategy<Value = BTreeSet<String>> {
    prop::collection::btree_set(value(), 0..4)
}

fn expr() -> impl Strategy<Value = Expr> {
    let leaf = prop_oneof![
        Just(Expr::All),
        key().prop_map(Expr::Has),
        (key(), value()).prop_map(|(k, v)| Expr::Eq(k, v)),
        (key(), value()).prop_map(|(k, v)| Expr::Ne(k, v)),
        (key(), values()).prop_map(|(k, v)| Expr::In(k, v)),
        (key(), values()).prop_map(|(k, v)| Expr::NotIn(k, v)),
        (key(), value()).prop_map(|(k, v)| Expr::Contains(k, v)),
        (key(), value()).prop_map(|(k, v)| Expr::StartsWith(k, v)),
        (key(), value()).prop_map(|(k, v)| Expr::EndsWith(k, v)),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 2..4).prop_map(Expr::And),
            prop::collection::vec(inner.clone(), 2..4).prop_map(Expr::Or),
            inner.prop_map(Expr::negated),
        ]
    })
}

fn some_labels() -> impl Strategy<Value = Labels> {
    prop::collection::btree_map(key(), value(), 0..5)
}

/// What an expression means, said another way: the set of labels' worlds is cut down by each operator, with values
/// looked at as lists of characters.
fn means(expr: &Expr, labels: &Labels) -> bool {
    let found: Vec<Vec<char>> = match expr {
        Expr::Has(key)
        | Expr::Eq(key, _)
        | Expr::Ne(key, _)
        | Expr::In(key, _)
        | Expr::NotIn(key, _)
        | Expr::Contains(key, _)
        | Expr::StartsWith(key, _)
        | Expr::EndsWith(key, _) => {
            let mut found = Vec::new();
            for (name, value) in labels {
                if name == key {
                    found.push(value.chars().collect());
                }
            }
            found
        }
        _ => Vec::new(),
    };
    let chars = |text: &String| text.chars().collect::<Vec<char>>();
    match expr {
        Expr::All | Expr::Global => true,
        Expr::Has(_) => !found.is_empty(),
        Expr::Eq(_, value) => found.contains(&chars(value)),
        Expr::Ne(_, value) => !found.contains(&chars(value)),
        Expr::In(_, values) => values.iter().any(|value| found.contains(&chars(value))),
        Expr::NotIn(_, values) => values.iter().all(|value| !found.contains(&chars(value))),
        Expr::Contains(_, text) => {
            let text = chars(text);
            let mut starts = found
                .iter()
                .flat_map(|label| (0..=label.len()).map(move |at| &label[at..]));
            starts.any(|rest| rest.starts_with(&text))
        }
        Expr::StartsWith(_, text) => found.iter().any(|label| label.starts_with(&chars(text))),
        Expr::EndsWith(_, text) => found.iter().any(|label| label.ends_with(&chars(text))),
        Expr::Not(inner) => !means(inner, labels),
        Expr::And(parts) => parts
            .iter()
            .fold(true, |all, part| all & means(part, labels)),
        Expr::Or(parts) => parts
            .iter()
            .fold(false, |any, part| any | means(part, labels)),
    }
}

/// The words and signs of a selector, each followed by blanks or by nothing; some are taken out, doubled, or put elsewhere,
/// and some are none.
fn text() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("all()".to_owned()),
        key().prop_map(|k| format!("has(\u{1}{k}\u{1})")),
        (key(), operator(), value())
            .prop_map(|(k, o, v)| format!("{k}\u{1}{o}\u{1}{}", quoted(&v))),
        (
            key(),
            any::<bool>(),
            prop::collection::vec(value(), 0..4),
            any::<bool>()
        )
            .prop_map(|(key, negated, values, comma)| {
                let word = if negated {
                    "\u{1}not\u{1}in"
                } else {
                    "\u{1}in"
                };
                let values: Vec<_> = values.iter().map(|value| quoted(value)).collect();
                let end = if comma && !values.is_empty() {
                    "\u{1},"
                } else {
                    ""
                };
                format!(
                    "{key}{word}\u{1}{{\u{1}{}{end}\u{1}}}",
                    values.join("\u{1},\u{1}")
                )
            }),
    ];
    let whole = leaf.prop_recursive(4, 24, 3, |inner| {
        let several = |inner, sign: &'static str| {
            prop::collection::vec(inner, 2..4).prop_map(move |parts| parts.join(sign))
        };
        prop_oneof![
            several(inner.clone(), "\u{1}&&\u{1}"),
            several(inner.clone(), "\u{1}||\u{1}"),
            inner
                .clone()
                .prop_map(|inner| format!("(\u{1}{inner}\u{1})")),
            inner.prop_map(|inner| format!("!\u{1}{inner}")),
        ]
    });
    let change = prop::option::weighted(
        0.4,
        (
            any::<prop::sample::Index>(),
            any::<prop::sample::Index>(),
            0..4_u8,
        ),
    );
    let blanks = prop::collection::vec(
        prop::sample::select(vec![" ", " ", " ", "", "  ", "\t"]),
        1..8,
    );
    (whole, change, blanks).prop_map(|(whole, change, blanks)| {
        let mut tokens: Vec<&str> = whole.split('\u{1}').collect();
        if let Some((from, to, how)) = change {
            let (from, to) = (from.index(tokens.len()), to.index(tokens.len()));
            match how {
                0 => drop(tokens.remove(from)),
                1 => tokens.swap(from, to),
                2 => tokens.insert(to, tokens[from]),
                _ => tokens.insert(to, ["&", "|", "é", "'", "}", "and"][from % 6]),
            }
        }
        let blanks = blanks.iter().cycle();
        tokens
            .iter()
            .zip(blanks)
            .flat_map(|(token, blank)| [*token, *blank])
            .collect()
    })
}

fn operator() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "==",
        "!=",
        "contains",
        "starts with",
        "ends\u{1}with",
        "=",
    ])
}

fn quoted(value: &str) -> String {
    let quote = if value.contains('\'') { '"' } else { '\'' };
    format!("{quote}{value}{quote}")
}

/// What parses is written so that it is read as the same; what does not is refused within the text.
#[test]
fn texts_made_of_the_grammars_words_are_read_and_written_alike() {
    let (cases, read) = (Cell::new(0), Cell::new(0));
    let config = ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(2000)
    };
    let outcome = TestRunner::new(config).run(&text(), |text| {
        cases.set(cases.get() + 1);
        match parse(&text) {
            Ok(expr) => {
                read.set(read.get() + 1);
                let written = expr.to_string();
                prop_assert_eq!(parse(&written), Ok(expr), "{} -> {}", text, written);
            }
            Err(error) => {
                let wrong = text.get(error.at..error.at + error.len);
                prop_assert!(wrong.is_some(), "{}: {:?}", text, error);
                prop_assert!(!error.message.is_empty());
            }
        }
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
    let (cases, read) = (cases.get(), read.get());
    assert!(
        read > cases / 3 && read < cases * 9 / 10,
        "{read} of {cases} are read"
    );
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(expr in expr()) {
        let text = expr.to_string();
        prop_assert_eq!(parse(&text), Ok(expr), "{}", text);
    }

    #[test]
    fn an_expression_means_what_its_parts_mean(expr in expr(), labels in some_labels()) {
        prop_assert_eq!(expr.matches(&labels), means(&expr, &labels));
    }

    #[test]
    fn the_index_knows_at_all_times_what_selects_what(
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let mut index: Index<u8, u8> = Index::new();
        let mut selectors = std::collections::BTreeMap::new();
        let mut items = std::collections::BTreeMap::new();
        let mut told = BTreeSet::new();
        for step in steps {
            let changes = match step {
                Step::Selector(id, expr) => {
                    selectors.insert(id, expr.clone());
                    index.set_selector(&id, expr)
                }
                Step::NoSelector(id) => {
                    selectors.remove(&id);
                    index.remove_selector(&id)
                }
                Step::Item(id, labels) => {
                    items.insert(id, labels.clone());
                    index.set_item(&id, labels)
                }
                Step::NoItem(id) => {
                    items.remove(&id);
                    index.remove_item(&id)
                }
            };
            for Change { selector, item, selects } in changes {
                let news = if selects { told.insert((selector, item)) } else { told.remove(&(selector, item)) };
                prop_assert!(news, "told what was known");
            }
            let mut right = BTreeSet::new();
            for (selector, expr) in &selectors {
                for (item, labels) in &items {
                    if expr.matches(labels) {
                        right.insert((*selector, *item));
                    }
                }
            }
            prop_assert_eq!(&told, &right);
            let found: BTreeSet<(u8, u8)> = (0..6)
                .flat_map(|s| index.selected(&s).map(move |i| (s, *i)).collect::<Vec<_>>())
                .collect();
            prop_assert_eq!(&found, &right);
            let found: BTreeSet<(u8, u8)> = (0..6)
                .flat_map(|i| index.selectors_of(&i).map(move |s| (*s, i)).collect::<Vec<_>>())
                .collect();
            prop_assert_eq!(&found, &right);
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Selector(u8, Expr),
    NoSelector(u8),
    Item(u8, Labels),
    NoItem(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..6u8, expr()).prop_map(|(id, expr)| Step::Selector(id, expr)),
        (0..6u8).prop_map(Step::NoSelector),
        (0..6u8, some_labels()).prop_map(|(id, labels)| Step::Item(id, labels)),
        (0..6u8).prop_map(Step::NoItem),
    ]
}

#[test]
fn a_change_of_labels_looks_only_at_selectors_that_could_care() {
    let mut index: Index<usize, usize> = Index::new();
    for id in 0..1000 {
        let app = parse(&format!("app == 'app-{id}' && has(tier)")).unwrap();
        index.set_selector(&id, app);
    }
    for id in 0..1000 {
        let app = format!("app-{id}");
        index.set_item(&id, labels(&[("app", &app), ("tier", "x")]));
    }
    assert_eq!(index.evaluations(), 1000);
    let changes = index.set_item(&7, labels(&[("app", "app-8"), ("tier", "x")]));
    assert_eq!(changes.len(), 2);
    assert_eq!(index.evaluations(), 1002);
    // A selector of one application looks at its items only.
    index.set_selector(&1000, parse("app in {'app-8', 'app-9'}").unwrap());
    assert_eq!(index.evaluations(), 1005);
}
