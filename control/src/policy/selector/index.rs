//! Which selectors select which items, kept up to date: a change of an item's labels looks only at selectors that
//! could care, and a new selector only at items that it could select.
//!
//! For each selector there are atoms, `label == value` or `has(label)`, of which one must hold before the selector
//! can match at all. Selectors and items are found by them. It is sound: what no atom leads to can not match, and
//! what matched before is looked at again.

use std::collections::{BTreeMap, BTreeSet};

use super::expr::{Expr, Labels};

/// Something that must hold.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Atom {
    /// The label has this value.
    Value(String, String),
    /// The label is there.
    Key(String),
}

/// The atoms of which one must hold, if the expression is to hold; `None`: it may hold whatever the labels are.
fn atoms(expr: &Expr) -> Option<Vec<Atom>> {
    let value = |key: &String, value: &String| Atom::Value(key.clone(), value.clone());
    match expr {
        Expr::All | Expr::Global | Expr::Ne(..) | Expr::NotIn(..) | Expr::Not(_) => None,
        Expr::Has(key)
        | Expr::Contains(key, _)
        | Expr::StartsWith(key, _)
        | Expr::EndsWith(key, _) => Some(vec![Atom::Key(key.clone())]),
        Expr::Eq(key, wanted) => Some(vec![value(key, wanted)]),
        Expr::In(key, values) => Some(values.iter().map(|wanted| value(key, wanted)).collect()),
        // Any part will do; the one that leads to the fewest is the best guess.
        Expr::And(parts) => parts
            .iter()
            .filter_map(atoms)
            .min_by_key(|atoms| cost(atoms)),
        Expr::Or(parts) => {
            let all: Option<Vec<Vec<Atom>>> = parts.iter().map(atoms).collect();
            all.map(|atoms| atoms.into_iter().flatten().collect())
        }
    }
}

fn cost(atoms: &[Atom]) -> usize {
    let one = |atom: &Atom| match atom {
        Atom::Value(..) => 1,
        Atom::Key(_) => 100,
    };
    atoms.iter().map(one).sum()
}

/// A selector began or ceased to select an item.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change<S, I> {
    /// The selector.
    pub selector: S,
    /// The item.
    pub item: I,
    /// Whether it selects it now.
    pub selects: bool,
}

/// Selectors `S` and items `I`.
#[derive(Clone, Debug)]
pub struct Index<S, I> {
    selectors: BTreeMap<S, (Expr, Option<Vec<Atom>>)>,
    items: BTreeMap<I, Labels>,
    by_atom: BTreeMap<Atom, BTreeSet<S>>,
    /// Selectors without atoms.
    unbound: BTreeSet<S>,
    items_by_atom: BTreeMap<Atom, BTreeSet<I>>,
    selected: BTreeMap<S, BTreeSet<I>>,
    selected_by: BTreeMap<I, BTreeSet<S>>,
    evaluations: u64,
}

impl<S, I> Default for Index<S, I> {
    fn default() -> Self {
        Self {
            selectors: BTreeMap::new(),
            items: BTreeMap::new(),
            by_atom: BTreeMap::new(),
            unbound: BTreeSet::new(),
            items_by_atom: BTreeMap::new(),
            selected: BTreeMap::new(),
            selected_by: BTreeMap::new(),
            evaluations: 0,
        }
    }
}

impl<S: Ord + Clone, I: Ord + Clone> Index<S, I> {
    /// An index of nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// The items that a selector selects.
    pub fn selected(&self, selector: &S) -> impl Iterator<Item = &I> {
        self.selected.get(selector).into_iter().flatten()
    }

    /// The selectors that select an item.
    pub fn selectors_of(&self, item: &I) -> impl Iterator<Item = &S> {
        self.selected_by.get(item).into_iter().flatten()
    }

    /// How many expressions were evaluated so far.
    pub fn evaluations(&self) -> u64 {
        self.evaluations
    }

    /// Adds a selector, or changes its expression.
    pub fn set_selector(&mut self, selector: &S, expr: Expr) -> Vec<Change<S, I>> {
        let mut changes = self.remove_selector(selector);
        let atoms = atoms(&expr);
        let candidates: BTreeSet<I> = match &atoms {
            None => {
                self.unbound.insert(selector.clone());
                self.items.keys().cloned().collect()
            }
            Some(atoms) => {
                for atom in atoms {
                    let selectors = self.by_atom.entry(atom.clone()).or_default();
                    selectors.insert(selector.clone());
                }
                let items = atoms.iter().filter_map(|atom| self.items_by_atom.get(atom));
                items.flatten().cloned().collect()
            }
        };
        self.selectors.insert(selector.clone(), (expr, atoms));
        for item in candidates {
            changes.extend(self.judge(selector, &item));
        }
        net(changes)
    }

    /// Takes a selector away.
    pub fn remove_selector(&mut self, selector: &S) -> Vec<Change<S, I>> {
        let Some((_, atoms)) = self.selectors.remove(selector) else {
            return Vec::new();
        };
        self.unbound.remove(selector);
        for atom in atoms.iter().flatten() {
            forget(&mut self.by_atom, atom, selector);
        }
        let items = self.selected.remove(selector).unwrap_or_default();
        for item in &items {
            forget(&mut self.selected_by, item, selector);
        }
        let change = |item| Change {
            selector: selector.clone(),
            item,
            selects: false,
        };
        items.into_iter().map(change).collect()
    }

    /// Adds an item, or changes its labels.
    pub fn set_item(&mut self, item: &I, labels: Labels) -> Vec<Change<S, I>> {
        let old = self.items.get(item);
        if old == Some(&labels) {
            return Vec::new();
        }
        let old: BTreeSet<Atom> = old.map(atoms_of).unwrap_or_default();
        let new = atoms_of(&labels);
        for atom in old.difference(&new) {
            forget(&mut self.items_by_atom, atom, item);
        }
        for atom in new.difference(&old) {
            let items = self.items_by_atom.entry(atom.clone()).or_default();
            items.insert(item.clone());
        }
        // Selectors that some atom leads to, those that nothing binds, and those that selected it so far.
        let by_atom = new
            .iter()
            .filter_map(|atom| self.by_atom.get(atom))
            .flatten();
        let so_far = self.selected_by.get(item).into_iter().flatten();
        let candidates: BTreeSet<S> = by_atom
            .chain(&self.unbound)
            .chain(so_far)
            .cloned()
            .collect();
        self.items.insert(item.clone(), labels);
        let candidates = candidates.iter();
        candidates
            .filter_map(|selector| self.judge(selector, item))
            .collect()
    }

    /// Takes an item away.
    pub fn remove_item(&mut self, item: &I) -> Vec<Change<S, I>> {
        let Some(labels) = self.items.remove(item) else {
            return Vec::new();
        };
        for atom in atoms_of(&labels) {
            forget(&mut self.items_by_atom, &atom, item);
        }
        let selectors = self.selected_by.remove(item).unwrap_or_default();
        for selector in &selectors {
            forget(&mut self.selected, selector, item);
        }
        let change = |selector| Change {
            selector,
            item: item.clone(),
            selects: false,
        };
        selectors.into_iter().map(change).collect()
    }

    fn judge(&mut self, selector: &S, item: &I) -> Option<Change<S, I>> {
        let (expr, _) = self.selectors.get(selector)?;
        let labels = self.items.get(item)?;
        self.evaluations += 1;
        let selects = expr.matches(labels);
        let items = self.selected.entry(selector.clone()).or_default();
        let selectors = self.selected_by.entry(item.clone()).or_default();
        let changed = if selects {
            selectors.insert(selector.clone());
            items.insert(item.clone())
        } else {
            selectors.remove(selector);
            items.remove(item)
        };
        changed.then(|| Change {
            selector: selector.clone(),
            item: item.clone(),
            selects,
        })
    }
}

/// All atoms that labels satisfy.
fn atoms_of(labels: &Labels) -> BTreeSet<Atom> {
    let both = |(key, value): (&String, &String)| {
        [
            Atom::Key(key.clone()),
            Atom::Value(key.clone(), value.clone()),
        ]
    };
    labels.iter().flat_map(both).collect()
}

fn forget<K: Ord, V: Ord>(map: &mut BTreeMap<K, BTreeSet<V>>, key: &K, value: &V) {
    if let Some(values) = map.get_mut(key) {
        values.remove(value);
        if values.is_empty() {
            map.remove(key);
        }
    }
}

/// Changes without those that undo each other.
fn net<S: Ord, I: Ord>(changes: Vec<Change<S, I>>) -> Vec<Change<S, I>> {
    let mut last: BTreeMap<(S, I), (usize, bool)> = BTreeMap::new();
    for change in changes {
        let entry = last
            .entry((change.selector, change.item))
            .or_insert((0, false));
        *entry = (entry.0 + 1, change.selects);
    }
    let odd = last.into_iter().filter(|(_, (times, _))| times % 2 == 1);
    odd.map(|((selector, item), (_, selects))| Change {
        selector,
        item,
        selects,
    })
    .collect()
}
