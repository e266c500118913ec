//! What differs, for people and for programs.

mod effect;

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::daemon::Found;
use crate::config::printable::printable;
use crate::config::{Diagnostics, Span};
use crate::diff::tree::Tree;
use crate::diff::{Change, FieldChange};
use crate::words::number;

/// The form of the JSON.
const SCHEMA: &str = "caracal.diff/v1";

/// How many resources are added, changed and removed.
fn counts(changes: &[Change]) -> [u64; 3] {
    let mut counts = [0; 3];
    for change in changes {
        let [added, changed, removed] = &mut counts;
        *match (&change.old, &change.new) {
            (None, _) => added,
            (Some(_), Some(_)) => changed,
            (Some(_), None) => removed,
        } += 1;
    }
    counts
}

/// For people.
pub(super) fn text(changes: &[Change], found: Option<&Found>) -> String {
    if changes.is_empty() {
        return "no differences\n".to_owned();
    }
    let mut text = String::new();
    for change in changes {
        let sign = match (&change.old, &change.new) {
            (None, _) => '+',
            (Some(_), Some(_)) => '~',
            (Some(_), None) => '-',
        };
        let name = change.name.to_string();
        let at = places(change.old.as_ref(), change.new.as_ref());
        let _ = writeln!(text, "{sign} {}  {at}", printable(&name));
        for field in &change.fields {
            let _ = write!(text, "    {}", printable(&field.path));
            for (sign, values) in [('-', &field.removed), ('+', &field.added)] {
                for value in values {
                    let _ = write!(text, "  {sign} {value}");
                }
            }
            let (old, new) = ends(field);
            let _ = writeln!(text, "  ({})", places(old, new));
        }
    }
    let [added, changed, removed] = counts(changes).map(number);
    let _ = writeln!(
        text,
        "\n{added} added, {changed} changed, {removed} removed"
    );
    if let Some(found) = found {
        let _ = write!(text, "\n{}", effect::text(found));
    }
    text
}

fn ends(field: &FieldChange) -> (Option<&Span>, Option<&Span>) {
    fn first(values: &[Tree]) -> Option<&Span> {
        values.first().map(|value| &value.at)
    }
    (first(&field.removed), first(&field.added))
}

/// `old/web.yaml:3 -> new/web.yaml:5`, or the one that there is.
fn places(old: Option<&Span>, new: Option<&Span>) -> String {
    let place = |span: &Span| {
        let path = span.source.path.display().to_string();
        format!("{}:{}", printable(&path), span.line_and_column().0)
    };
    let both = old.into_iter().chain(new).map(place);
    both.collect::<Vec<_>>().join(" -> ")
}

/// For programs.
pub(super) fn json(changes: &[Change], found: Option<&Found>, remarks: &Diagnostics) -> String {
    let [added, changed, removed] = counts(changes);
    let answer = json!({
        "schema": SCHEMA,
        "different": !changes.is_empty(),
        "added": added,
        "changed": changed,
        "removed": removed,
        "resources": changes.iter().map(resource).collect::<Vec<_>>(),
        "effect": found.map(effect::json),
        "diagnostics": remarks.to_json(),
    });
    format!("{answer:#}\n")
}

fn resource(change: &Change) -> Value {
    let word = match (&change.old, &change.new) {
        (None, _) => "added",
        (Some(_), Some(_)) => "changed",
        (Some(_), None) => "removed",
    };
    json!({
        "change": word,
        "kind": change.name.kind,
        "namespace": change.name.namespace,
        "name": change.name.name,
        "old": change.old.as_ref().map(place),
        "new": change.new.as_ref().map(place),
        "fields": change.fields.iter().map(field).collect::<Vec<_>>(),
    })
}

fn field(field: &FieldChange) -> Value {
    let values = |values: &[Tree]| values.iter().map(Tree::to_json).collect::<Vec<_>>();
    let (old, new) = ends(field);
    json!({
        "path": field.path,
        "removed": values(&field.removed),
        "added": values(&field.added),
        "old": old.map(place),
        "new": new.map(place),
    })
}

fn place(span: &Span) -> Value {
    json!({ "file": span.source.path.display().to_string(), "line": span.line_and_column().0 })
}
