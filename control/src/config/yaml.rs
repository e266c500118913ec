//! YAML (and JSON, which is YAML) to trees that know where each value was written.
//!
//! Types are not read through serde's derives: these stop at the first error, and a file should be reported on
//! once, with all that is wrong in it.

use std::sync::Arc;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;
use serde_saphyr::budget::Budget;
use serde_saphyr::options::{AliasLimits, DuplicateKeyPolicy, MergeKeyPolicy, Options};

use super::diagnostic::Diagnostic;
use super::source::{Source, Span};

/// Largest file that is read, in bytes.
pub const MAX_FILE_BYTES: u64 = 64 << 20;
/// Deepest nesting of lists and maps.
const MAX_DEPTH: usize = 64;
/// Most values in one file.
const MAX_NODES: usize = 4_000_000;
/// Most values that aliases may add.
const MAX_ALIAS_EVENTS: usize = 100_000;

/// A value of a document.
#[derive(Debug)]
pub struct Node {
    /// The value.
    pub value: Value,
    /// Where it starts, and for scalars how long it is.
    pub at: Span,
}

/// What a value can be.
#[derive(Debug)]
pub enum Value {
    /// Nothing, `~` or `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Int(i128),
    /// Another number.
    Float(f64),
    /// Text.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// A map, in the order of the file; keys may repeat.
    Map(Vec<(Key, Node)>),
}

impl Value {
    /// What it is, with its article, for messages.
    pub fn describe(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Bool(_) => "a boolean",
            Self::Int(_) => "a number",
            Self::Float(_) => "a fraction",
            Self::Text(_) => "text",
            Self::List(_) => "a list",
            Self::Map(_) => "a map",
        }
    }
}

/// A key of a map and where it was written.
#[derive(Debug)]
pub struct Key {
    /// The key.
    pub name: String,
    /// Its place.
    pub at: Span,
}

/// Reads all documents of a text; empty ones are left out.
///
/// # Errors
/// What makes the text no YAML, or exceeds the limits against hostile files.
pub fn parse(source: &Arc<Source>) -> Result<Vec<Node>, Box<Diagnostic>> {
    let raw: Vec<RawNode> = serde_saphyr::from_multiple_with_options(&source.text, options())
        .map_err(|error| {
            let mut diagnostic = Diagnostic::error(describe(&error));
            if let Some(location) = error.location() {
                let span = span_of(source, location.span());
                diagnostic = diagnostic.at(&span, "");
            } else {
                let start = Span {
                    source: Arc::clone(source),
                    start: 0,
                    len: 0,
                };
                diagnostic = diagnostic.at(&start, "");
            }
            Box::new(diagnostic)
        })?;
    Ok(raw.into_iter().map(|node| node.locate(source)).collect())
}

fn options() -> Options {
    let mut budget = Budget::default();
    budget.max_depth = MAX_DEPTH;
    budget.flow_nesting_limit = MAX_DEPTH;
    budget.max_nodes = MAX_NODES;
    budget.max_events = 2 * MAX_NODES;
    budget.max_documents = MAX_NODES;
    budget.max_aliases = MAX_ALIAS_EVENTS;
    budget.max_total_scalar_bytes = MAX_FILE_BYTES as usize;
    budget.max_total_comment_bytes = MAX_FILE_BYTES as usize;
    let mut aliases = AliasLimits::default();
    aliases.max_total_replayed_events = MAX_ALIAS_EVENTS;
    let mut options = Options::default();
    options.budget = Some(budget);
    options.alias_limits = aliases;
    // All pairs reach us; we report repeated keys with both places.
    options.duplicate_keys = DuplicateKeyPolicy::LastWins;
    options.merge_keys = MergeKeyPolicy::AsOrdinary;
    options.strict_booleans = true;
    options.emit_comments = false;
    options.with_snippet = false;
    options
}

/// The parser's message without the place, which we show in our own way.
fn describe(error: &serde_saphyr::Error) -> String {
    let text = error.without_snippet().to_string();
    let text = text.split(" at line ").next().unwrap_or(&text);
    let text = text
        .lines()
        .next()
        .unwrap_or(text)
        .trim_end_matches([',', ':', ' ']);
    format!("not valid YAML: {text}")
}

fn span_of(source: &Arc<Source>, span: serde_saphyr::Span) -> Span {
    let start = span
        .byte_offset()
        .map_or(source.text.len(), |at| at as usize);
    let len = span.byte_len().unwrap_or(0) as usize;
    Span {
        source: Arc::clone(source),
        start,
        len,
    }
}

struct RawNode {
    value: RawValue,
    at: serde_saphyr::Span,
}

enum RawValue {
    Scalar(Value),
    List(Vec<RawNode>),
    Map(Vec<(Spanned<RawKey>, RawNode)>),
}

impl RawNode {
    fn locate(self, source: &Arc<Source>) -> Node {
        let value = match self.value {
            RawValue::Scalar(value) => value,
            RawValue::List(list) => {
                Value::List(list.into_iter().map(|node| node.locate(source)).collect())
            }
            RawValue::Map(pairs) => Value::Map(
                pairs
                    .into_iter()
                    .map(|(key, node)| {
                        let at = span_of(source, key.referenced.span());
                        (
                            Key {
                                name: key.value.0,
                                at,
                            },
                            node.locate(source),
                        )
                    })
                    .collect(),
            ),
        };
        let mut at = span_of(source, self.at);
        // A collection's own extent would make the caret run over lines.
        if matches!(value, Value::List(_) | Value::Map(_)) {
            at.len = 0;
        }
        Node { value, at }
    }
}

impl<'de> Deserialize<'de> for RawNode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<RawValue>::deserialize(deserializer)?;
        Ok(Self {
            value: spanned.value,
            at: spanned.referenced.span(),
        })
    }
}

struct RawKey(String);

impl<'de> Deserialize<'de> for RawKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self)
    }
}

impl<'de> Deserialize<'de> for RawValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = RawValue;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<RawValue, E> {
        Ok(RawValue::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<RawValue, E> {
        Ok(RawValue::Scalar(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<RawValue, D::Error> {
        RawValue::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<RawValue, E> {
        Ok(RawValue::Scalar(Value::Bool(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<RawValue, E> {
        Ok(RawValue::Scalar(Value::Int(value.into())))
    }

    fn visit_u64<E>(self, value: u64) -> Result<RawValue, E> {
        Ok(RawValue::Scalar(Value::Int(value.into())))
    }

    fn visit_i128<E>(self, value: i128) -> Result<RawValue, E> {
        Ok(RawValue::Scalar(Value::Int(value)))
    }

    fn visit_u128<E: serde::de::Error>(self, value: u128) -> Result<RawValue, E> {
        let value = i128::try_from(value).map_err(|_| E::custom("number out of range"))?;
        Ok(RawValue::Scalar(Value::Int(value)))
    }

    fn visit_f64<E>(self, value: f64) -> Result<RawValue, E> {
        Ok(RawValue::Scalar(Value::Float(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<RawValue, E> {
        Ok(RawValue::Scalar(Value::Text(value.to_owned())))
    }

    fn visit_bytes<E>(self, value: &[u8]) -> Result<RawValue, E> {
        Ok(RawValue::Scalar(Value::Text(
            String::from_utf8_lossy(value).into_owned(),
        )))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<RawValue, A::Error> {
        let mut list = Vec::new();
        while let Some(node) = seq.next_element()? {
            list.push(node);
        }
        Ok(RawValue::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawValue, A::Error> {
        let mut pairs: Vec<(Spanned<RawKey>, RawNode)> = Vec::new();
        while let Some(key) = map.next_key::<Spanned<RawKey>>()? {
            if key.value.0 == "<<" {
                return Err(A::Error::custom("merge keys (`<<`) are not supported"));
            }
            pairs.push((key, map.next_value()?));
        }
        Ok(RawValue::Map(pairs))
    }
}
