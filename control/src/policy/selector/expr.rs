//! Selectors as expressions.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// The labels of an endpoint or a network set, those that it inherits among them.
pub type Labels = BTreeMap<String, String>;

/// An expression over labels.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Expr {
    /// `all()`
    All,
    /// `global()`: only for namespaces, where it means "in none".
    Global,
    /// `has(label)`
    Has(String),
    /// `label == 'value'`
    Eq(String, String),
    /// `label != 'value'`; true without the label.
    Ne(String, String),
    /// `label in {'value', …}`
    In(String, BTreeSet<String>),
    /// `label not in {'value', …}`; true without the label.
    NotIn(String, BTreeSet<String>),
    /// `label contains 'text'`
    Contains(String, String),
    /// `label starts with 'text'`
    StartsWith(String, String),
    /// `label ends with 'text'`
    EndsWith(String, String),
    /// `!…`
    Not(Box<Expr>),
    /// `… && …`
    And(Vec<Expr>),
    /// `… || …`
    Or(Vec<Expr>),
}

impl Expr {
    /// Whether labels satisfy the expression.
    pub fn matches(&self, labels: &Labels) -> bool {
        let is = |key: &str, test: &dyn Fn(&str) -> bool| labels.get(key).is_some_and(|v| test(v));
        match self {
            Self::All | Self::Global => true,
            Self::Has(key) => labels.contains_key(key),
            Self::Eq(key, value) => is(key, &|label| label == value),
            Self::Ne(key, value) => !is(key, &|label| label == value),
            Self::In(key, values) => is(key, &|label| values.contains(label)),
            Self::NotIn(key, values) => !is(key, &|label| values.contains(label)),
            Self::Contains(key, text) => is(key, &|label| label.contains(text.as_str())),
            Self::StartsWith(key, text) => is(key, &|label| label.starts_with(text.as_str())),
            Self::EndsWith(key, text) => is(key, &|label| label.ends_with(text.as_str())),
            Self::Not(inner) => !inner.matches(labels),
            Self::And(parts) => parts.iter().all(|part| part.matches(labels)),
            Self::Or(parts) => parts.iter().any(|part| part.matches(labels)),
        }
    }

    /// Both; `None` asks for nothing.
    pub fn and(first: Option<Self>, second: Option<Self>) -> Option<Self> {
        match (first, second) {
            (Some(first), Some(second)) => {
                let parts = |expr| match expr {
                    Self::And(parts) => parts,
                    other => vec![other],
                };
                let (mut all, more) = (parts(first), parts(second));
                all.extend(more);
                Some(Self::And(all))
            }
            (one, other) => one.or(other),
        }
    }

    /// The opposite.
    #[must_use]
    pub fn negated(self) -> Self {
        Self::Not(Box::new(self))
    }

    /// The same about labels that bear a prefix, which is how endpoints inherit those of their namespace and their
    /// service account.
    #[must_use]
    pub fn with_prefix(self, prefix: &str) -> Self {
        self.map(&|leaf| leaf.prefixed(prefix))
    }

    /// The same with other expressions for `all()` and `global()`.
    #[must_use]
    pub fn with_all_and_global(self, all: &Self, global: &Self) -> Self {
        self.map(&|leaf| match leaf {
            Self::All => all.clone(),
            Self::Global => global.clone(),
            other => other,
        })
    }

    /// True if `global()` occurs.
    pub fn has_global(&self) -> bool {
        match self {
            Self::Global => true,
            Self::Not(inner) => inner.has_global(),
            Self::And(parts) | Self::Or(parts) => parts.iter().any(Self::has_global),
            _ => false,
        }
    }

    fn map(self, leaf: &dyn Fn(Self) -> Self) -> Self {
        let all = |parts: Vec<Self>| parts.into_iter().map(|part| part.map(leaf)).collect();
        match self {
            Self::Not(inner) => inner.map(leaf).negated(),
            Self::And(parts) => Self::And(all(parts)),
            Self::Or(parts) => Self::Or(all(parts)),
            other => leaf(other),
        }
    }

    fn prefixed(self, prefix: &str) -> Self {
        let long = |key: String| format!("{prefix}{key}");
        match self {
            Self::Has(key) => Self::Has(long(key)),
            Self::Eq(key, value) => Self::Eq(long(key), value),
            Self::Ne(key, value) => Self::Ne(long(key), value),
            Self::In(key, values) => Self::In(long(key), values),
            Self::NotIn(key, values) => Self::NotIn(long(key), values),
            Self::Contains(key, text) => Self::Contains(long(key), text),
            Self::StartsWith(key, text) => Self::StartsWith(long(key), text),
            Self::EndsWith(key, text) => Self::EndsWith(long(key), text),
            other => other,
        }
    }
}

/// The canonical form: equal expressions have equal texts, and the text parses to the expression.
impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all()"),
            Self::Global => f.write_str("global()"),
            Self::Has(key) => write!(f, "has({key})"),
            Self::Eq(key, value) => write!(f, "{key} == {}", Quoted(value)),
            Self::Ne(key, value) => write!(f, "{key} != {}", Quoted(value)),
            Self::In(key, values) => write!(f, "{key} in {}", Set(values)),
            Self::NotIn(key, values) => write!(f, "{key} not in {}", Set(values)),
            Self::Contains(key, text) => write!(f, "{key} contains {}", Quoted(text)),
            Self::StartsWith(key, text) => write!(f, "{key} starts with {}", Quoted(text)),
            Self::EndsWith(key, text) => write!(f, "{key} ends with {}", Quoted(text)),
            // Two signs in a row would take each other away.
            Self::Not(inner) if matches!(**inner, Self::Not(_)) => write!(f, "!({inner})"),
            Self::Not(inner) => write!(f, "!{inner}"),
            Self::And(parts) => joined(f, parts, " && "),
            Self::Or(parts) => joined(f, parts, " || "),
        }
    }
}

fn joined(f: &mut fmt::Formatter<'_>, parts: &[Expr], operator: &str) -> fmt::Result {
    f.write_str("(")?;
    for (index, part) in parts.iter().enumerate() {
        let operator = if index == 0 { "" } else { operator };
        write!(f, "{operator}{part}")?;
    }
    f.write_str(")")
}

/// A value in quotes. None holds both kinds: there is no way to write it.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quote = if self.0.contains('\'') { '"' } else { '\'' };
        write!(f, "{quote}{}{quote}", self.0)
    }
}

struct Set<'a>(&'a BTreeSet<String>);

impl fmt::Display for Set<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (index, value) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{}", Quoted(value))?;
        }
        f.write_str("}")
    }
}
