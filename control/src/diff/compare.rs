//! What differs between two sets of resources.

use std::collections::{BTreeMap, BTreeSet};

use super::resources::{Name, Written};
use super::tree::{Content, Tree};
use crate::config::source::Span;

/// Lists of which the product of lengths is more are compared place by place: the search for the shortest way from one to the
/// other takes that much time and memory.
const MAX_CELLS: usize = 4 << 20;

/// What lies between elements that stay is not aligned where it is longer, in the same sense.
const MAX_PAIRS: usize = 1 << 10;

/// A resource that is not in both sets, or not the same in both.
#[derive(Clone, Debug)]
pub struct Change {
    /// What it is called.
    pub name: Name,
    /// Where it is written now; none: it would be added.
    pub old: Option<Span>,
    /// Where it would be written; none: it would be removed.
    pub new: Option<Span>,
    /// What differs, by path. Empty unless it is in both.
    pub fields: Vec<FieldChange>,
}

/// A field that differs.
#[derive(Clone, Debug)]
pub struct FieldChange {
    /// Its path: `spec.ingress[0].destination.ports`. An element's number is that of the new list; that of the old one where it
    /// is removed.
    pub path: String,
    /// What is no longer there: the value, or of a list of plain values those that go.
    pub removed: Vec<Tree>,
    /// What is new there.
    pub added: Vec<Tree>,
}

/// Compares two sets. Sorted by kind, namespace and name.
pub fn compare(old: &Written, new: &Written) -> Vec<Change> {
    let names: BTreeSet<&Name> = old.0.keys().chain(new.0.keys()).collect();
    let change = |name: &Name| {
        let (old, new) = (old.0.get(name), new.0.get(name));
        let mut fields = Vec::new();
        if let (Some(old), Some(new)) = (old, new) {
            value(String::new(), old, new, &mut fields);
            if fields.is_empty() {
                return None;
            }
        }
        Some(Change {
            name: name.clone(),
            old: old.map(|tree| tree.at.clone()),
            new: new.map(|tree| tree.at.clone()),
            fields,
        })
    };
    names.into_iter().filter_map(change).collect()
}

fn value(path: String, old: &Tree, new: &Tree, out: &mut Vec<FieldChange>) {
    match (&old.content, &new.content) {
        (Content::Map(old), Content::Map(new)) => map(&path, old, new, out),
        (Content::List(old), Content::List(new)) => list(path, old, new, out),
        _ if old == new => {}
        _ => out.push(FieldChange {
            path,
            removed: vec![old.clone()],
            added: vec![new.clone()],
        }),
    }
}

fn map(
    path: &str,
    old: &BTreeMap<String, Tree>,
    new: &BTreeMap<String, Tree>,
    out: &mut Vec<FieldChange>,
) {
    let keys: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    for key in keys {
        let path = below(path, key);
        match (old.get(key), new.get(key)) {
            (Some(old), Some(new)) => value(path, old, new, out),
            (old, new) => out.push(FieldChange {
                path,
                removed: old.cloned().into_iter().collect(),
                added: new.cloned().into_iter().collect(),
            }),
        }
    }
}

/// The path of a key: `spec.order`, `metadata.labels["a.b/c"]`.
fn below(path: &str, key: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if key.is_empty() || !key.chars().all(is_plain) {
        return format!("{path}[{}]", serde_json::Value::from(key));
    }
    if path.is_empty() {
        return key.to_owned();
    }
    format!("{path}.{key}")
}

fn list(path: String, old: &[Tree], new: &[Tree], out: &mut Vec<FieldChange>) {
    let gaps = gaps(old, new);
    if old.iter().chain(new).all(Tree::is_scalar) {
        let of = |all: &[Tree], side: fn(&Gap) -> std::ops::Range<usize>| {
            let items = gaps.iter().filter_map(|gap| all.get(side(gap)));
            items.flatten().cloned().collect::<Vec<_>>()
        };
        let removed = of(old, |gap| gap.old.clone());
        let added = of(new, |gap| gap.new.clone());
        if !gaps.is_empty() {
            out.push(FieldChange {
                path,
                removed,
                added,
            });
        }
        return;
    }
    for gap in gaps {
        let (olds, news) = (&old[gap.old.clone()], &new[gap.new.clone()]);
        let skip = most_alike(olds, news);
        let (skip_old, skip_new) = if olds.len() > news.len() {
            (0, skip)
        } else {
            (skip, 0)
        };
        for at in 0..olds.len().max(news.len()) {
            let (from, to) = (at.checked_sub(skip_old), at.checked_sub(skip_new));
            let is = from.and_then(|from| olds.get(from));
            let will_be = to.and_then(|to| news.get(to));
            let index = |start: usize, at: Option<usize>| {
                format!("{path}[{}]", start + at.unwrap_or_default())
            };
            match (is, will_be) {
                (Some(old), Some(new)) => value(index(gap.new.start, to), old, new, out),
                (Some(old), None) => out.push(FieldChange {
                    path: index(gap.old.start, from),
                    removed: vec![old.clone()],
                    added: Vec::new(),
                }),
                (None, Some(new)) => out.push(FieldChange {
                    path: index(gap.new.start, to),
                    removed: Vec::new(),
                    added: vec![new.clone()],
                }),
                (None, None) => {}
            }
        }
    }
}

/// How many elements of the longer list to leave out at its start, so that the others differ in as few fields as may be from the
/// shorter one.
fn most_alike(old: &[Tree], new: &[Tree]) -> usize {
    let (short, long) = if old.len() > new.len() {
        (new, old)
    } else {
        (old, new)
    };
    if short.len() * long.len() > MAX_PAIRS {
        return 0;
    }
    let differ = |skip: &usize| {
        let mut fields = Vec::new();
        for (one, other) in short.iter().zip(&long[*skip..]) {
            value(String::new(), one, other, &mut fields);
        }
        fields.len()
    };
    (0..=long.len() - short.len())
        .min_by_key(differ)
        .unwrap_or_default()
}

/// Elements between those that stay.
#[derive(Debug, PartialEq, Eq)]
struct Gap {
    old: std::ops::Range<usize>,
    new: std::ops::Range<usize>,
}

/// What lies between the elements of a longest common subsequence. Empty: the lists are the same.
fn gaps(old: &[Tree], new: &[Tree]) -> Vec<Gap> {
    let same = |(one, other): &(&Tree, &Tree)| one == other;
    let head = old.iter().zip(new).take_while(same).count();
    let (a, b) = (&old[head..], &new[head..]);
    let tail = a.iter().rev().zip(b.iter().rev()).take_while(same).count();
    let (a, b) = (&a[..a.len() - tail], &b[..b.len() - tail]);
    let mut gaps = Vec::new();
    let mut gap = |old: std::ops::Range<usize>, new: std::ops::Range<usize>| {
        if !old.is_empty() || !new.is_empty() {
            let (old, new) = (
                old.start + head..old.end + head,
                new.start + head..new.end + head,
            );
            gaps.push(Gap { old, new });
        }
    };
    if a.len().saturating_mul(b.len()) > MAX_CELLS {
        gap(0..a.len(), 0..b.len());
        return gaps;
    }
    // The longest common subsequence of what follows each pair of places.
    let width = b.len() + 1;
    let mut longest = vec![0_u32; (a.len() + 1) * width];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            longest[i * width + j] = if a[i] == b[j] {
                longest[(i + 1) * width + j + 1] + 1
            } else {
                longest[(i + 1) * width + j].max(longest[i * width + j + 1])
            };
        }
    }
    let (mut i, mut j, mut since) = (0, 0, (0, 0));
    while i < a.len() && j < b.len() {
        if a[i] == b[j] {
            gap(since.0..i, since.1..j);
            (i, j) = (i + 1, j + 1);
            since = (i, j);
        } else if longest[(i + 1) * width + j] >= longest[i * width + j + 1] {
            i += 1;
        } else {
            j += 1;
        }
    }
    gap(since.0..a.len(), since.1..b.len());
    gaps
}

#[cfg(test)]
mod tests;
