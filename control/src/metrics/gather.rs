//! From JSON to samples.

use std::collections::BTreeMap;

use serde_json::Value;

use super::list::{Kind, Metric, Unit};
use crate::api::report::Changes;

/// The labels of a sample.
pub(super) type Labels = Vec<(&'static str, String)>;

/// All samples of one name.
#[derive(Debug, PartialEq)]
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) unit: Unit,
    pub(super) help: &'static str,
    pub(super) samples: Samples,
}

#[derive(Debug, PartialEq)]
pub(super) enum Samples {
    /// By labels; in the unit of the JSON.
    Numbers(BTreeMap<Labels, u64>),
    /// In the unit of the JSON.
    Histogram(Changes),
}

/// The families of a list of metrics, of which those of one name stand together. One without samples is left out.
pub(super) fn gather(metrics: &[Metric], figures: &Value) -> Vec<Family> {
    let by_name = metrics.chunk_by(|a, b| a.name == b.name && a.unit == b.unit);
    let families = by_name.filter_map(|metrics| {
        let first = metrics.first()?;
        let samples = if first.kind == Kind::Histogram {
            Samples::Histogram(histogram(first, figures))
        } else {
            Samples::Numbers(numbers(metrics, figures))
        };
        Some(Family {
            name: first.name,
            kind: first.kind,
            unit: first.unit,
            help: first.help,
            samples,
        })
    });
    families
        .filter(|family| !matches!(&family.samples, Samples::Numbers(all) if all.is_empty()))
        .collect()
}

fn numbers(metrics: &[Metric], figures: &Value) -> BTreeMap<Labels, u64> {
    let mut samples = BTreeMap::new();
    for metric in metrics {
        for labels in metric.always.labels() {
            samples.insert(labels, 0);
        }
        each(figures, metric.from, |entry, number, value| {
            if let Some(labels) = labels(metric, entry, number) {
                *samples.entry(labels).or_default() += amount(value);
            }
        });
    }
    samples
}

fn histogram(metric: &Metric, figures: &Value) -> Changes {
    let mut found = Changes::default();
    each(figures, metric.from, |_, _, value| {
        found = serde_json::from_value(value.clone()).unwrap_or_default();
    });
    found
}

/// Calls `found` for each value at a path: with the entry of the innermost array (or the report) that it is in, the entry's number, and
/// itself. What is not there is passed over.
pub(super) fn each<'v>(
    root: &'v Value,
    path: &str,
    mut found: impl FnMut(&'v Value, usize, &'v Value),
) {
    // The report is what labels are from unless there is an array.
    let report = path
        .split_once('.')
        .and_then(|(report, _)| root.get(report));
    walk((report.unwrap_or(root), 0), root, path, &mut found);
}

fn walk<'v>(
    entry: (&'v Value, usize),
    value: &'v Value,
    path: &str,
    found: &mut impl FnMut(&'v Value, usize, &'v Value),
) {
    if path.is_empty() {
        return found(entry.0, entry.1, value);
    }
    let (member, rest) = path.split_once('.').unwrap_or((path, ""));
    if let Some(array) = member.strip_suffix("[]") {
        let items = value.get(array).and_then(Value::as_array);
        for (number, item) in items.into_iter().flatten().enumerate() {
            walk((item, number), item, rest, found);
        }
    } else if let Some(value) = value.get(member) {
        walk(entry, value, rest, found);
    }
}

fn labels(metric: &Metric, entry: &Value, number: usize) -> Option<Labels> {
    let mut labels = Labels::new();
    for &(label, source) in metric.labels {
        let (member, may_lack) = match source.strip_suffix('?') {
            Some(member) => (member, true),
            None => (source, false),
        };
        let value = if let Some(word) = member.strip_prefix('=') {
            word.to_owned()
        } else if member == "#" {
            number.to_string()
        } else {
            match entry.get(member) {
                Some(Value::String(text)) => text.clone(),
                Some(Value::Number(number)) => number.to_string(),
                _ if may_lack => continue,
                _ => return None,
            }
        };
        labels.push((label, value));
    }
    Some(labels)
}

/// What a value counts for.
fn amount(value: &Value) -> u64 {
    match value {
        Value::Number(number) => number.as_u64().unwrap_or_default(),
        Value::Bool(is_so) => u64::from(*is_so),
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::super::list::Always;
    use super::*;
    use serde_json::json;

    const fn metric(from: &'static str, labels: &'static [(&'static str, &'static str)]) -> Metric {
        Metric {
            name: "x",
            kind: Kind::Counter,
            unit: Unit::None,
            from,
            labels,
            always: Always::Nothing,
            help: "",
        }
    }

    fn found(metric: Metric, value: &Value) -> Vec<(String, u64)> {
        let render = |labels: Labels| {
            let labels: Vec<_> = labels
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            labels.join(",")
        };
        let samples = numbers(&[metric], value).into_iter();
        samples
            .map(|(labels, count)| (render(labels), count))
            .collect()
    }

    #[test]
    fn a_path_leads_through_members_and_arrays() {
        let value = json!({"a": {"n": 7, "yes": true, "list": [
            {"name": "p", "core": 3, "deep": {"n": 1}},
            {"name": "q", "core": null, "deep": {"n": 2}},
            {"name": null, "deep": {"n": 4}},
        ]}, "b": [{"n": 5}]});
        let is = |metric, expected: &[(&str, u64)]| {
            let expected: Vec<_> = expected
                .iter()
                .map(|(labels, n)| ((*labels).to_owned(), *n))
                .collect();
            assert_eq!(found(metric, &value), expected);
        };
        is(metric("a.n", &[]), &[("", 7)]);
        is(
            metric("a.yes", &[("v", "n"), ("w", "=x")]),
            &[("v=7,w=x", 1)],
        );
        is(
            metric("a.list[].deep.n", &[("p", "name")]),
            &[("p=p", 1), ("p=q", 2)],
        );
        let by_number = metric("a.list[].deep.n", &[("i", "#"), ("c", "core?")]);
        is(by_number, &[("i=0,c=3", 1), ("i=1", 2), ("i=2", 4)]);
        is(metric("a.list[]", &[]), &[("", 3)]);
        is(metric("b[].n", &[]), &[("", 5)]);
        is(metric("a.nothing.n", &[]), &[]);
    }
}
