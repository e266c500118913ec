//! Texts made of the words of the grammar: what is read is written so that it is read as the same.

use std::cell::Cell;

use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::TestRunner;

use super::*;

const TESTS: [&str; 25] = [
    "src host 10.0.0.1",
    "dst host fd00::1",
    "host 10.0.0.1",
    "src net 10.0.0.3/8",
    "dst net fd00::/64",
    "net 0.0.0.0/0",
    "src 10.0.0.7",
    "dst fd00::/16",
    "src port 53",
    "dst port 1000-2000",
    "port 0-65535",
    "proto tcp",
    "proto UDP",
    "proto 41",
    "proto 255",
    "tcp",
    "ICMP6",
    "sctp",
    "ip",
    "ip6",
    "state established",
    "state syn-sent",
    "endpoint shop/web",
    "snat",
    "dnat",
];

/// Words, some taken out, doubled, or put elsewhere, and some that are none.
fn text() -> impl Strategy<Value = String> {
    let whole = select(TESTS.to_vec())
        .prop_map(str::to_owned)
        .prop_recursive(4, 24, 3, |inner| {
            let two = (inner.clone(), inner.clone());
            let joined = (two, select(vec!["and", "or", "&&", "||", "AND", "Or"]));
            prop_oneof![
                2 => joined.prop_map(|((a, b), word)| format!("{a} {word} {b}")),
                1 => inner.clone().prop_map(|inner| format!("( {inner} )")),
                1 => (select(vec!["not", "!", "NOT"]), inner).prop_map(|(not, inner)| format!("{not} {inner}")),
            ]
        });
    let change = prop::option::weighted(0.4, (any::<Index>(), any::<Index>(), 0..4_u8));
    let blanks = prop::collection::vec(select(vec![" ", " ", "  ", "\t"]), 1..6);
    (whole, change, blanks).prop_map(|(whole, change, blanks)| {
        let mut words: Vec<&str> = whole.split(' ').collect();
        if let Some((from, to, how)) = change {
            let (from, to) = (from.index(words.len()), to.index(words.len()));
            match how {
                0 => drop(words.remove(from)),
                1 => words.swap(from, to),
                2 => words.insert(to, words[from]),
                _ => words.insert(to, ["&", "prt", "é", "10.0.0", "tcp,", "65536"][from % 6]),
            }
        }
        let blanks = blanks.iter().cycle();
        let parts = words.iter().zip(blanks);
        parts.flat_map(|(word, blank)| [*word, *blank]).collect()
    })
}

/// A filter as it is written, with all parentheses.
fn written(filter: &Filter) -> String {
    let all = |parts: &[Filter], word: &str| {
        let parts: Vec<_> = parts.iter().map(written).collect();
        format!("({})", parts.join(word))
    };
    match filter {
        Filter::Not(inner) => format!("not ({})", written(inner)),
        Filter::All(parts) => all(parts, " and "),
        Filter::Any(parts) => all(parts, " or "),
        Filter::Test(test) => match test {
            Test::Address(which, net) => format!("{}net {net}", end(*which)),
            Test::Port(which, ports) => {
                format!("{}port {}-{}", end(*which), ports.start(), ports.end())
            }
            Test::Protocol(protocol) => format!("proto {}", protocol::name(*protocol)),
            Test::Ipv6(is) => if *is { "ip6" } else { "ip" }.to_owned(),
            Test::State(state) => format!("state {}", state.name()),
            Test::Endpoint(name) => format!("endpoint {name}"),
            Test::Snat => "snat".to_owned(),
            Test::Dnat => "dnat".to_owned(),
        },
    }
}

const fn end(which: Which) -> &'static str {
    match which {
        Which::Source => "src ",
        Which::Destination => "dst ",
        Which::Either => "",
    }
}

#[test]
fn each_test_is_read() {
    for text in TESTS {
        let filter = Filter::parse(text).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(Filter::parse(&written(&filter)), Ok(filter), "{text}");
    }
}

#[test]
fn what_is_read_is_written_and_read_alike_and_what_is_not_has_its_column() {
    let (cases, read) = (Cell::new(0), Cell::new(0));
    let config = ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(2000)
    };
    let outcome = TestRunner::new(config).run(&text(), |text| {
        cases.set(cases.get() + 1);
        match Filter::parse(&text) {
            Ok(filter) => {
                read.set(read.get() + 1);
                let written = written(&filter);
                prop_assert_eq!(
                    Filter::parse(&written),
                    Ok(filter),
                    "{} -> {}",
                    text,
                    written
                );
            }
            Err(error) => {
                let columns = 1..=text.chars().count() + 1;
                prop_assert!(columns.contains(&error.column), "{}: {}", text, error);
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
