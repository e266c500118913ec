//! YAML (and JSON, which is YAML) to trees that know where each value was written.
//!
//! Types are not read through serde's derives: these stop at the first error, and a file should be reported on
//! once, with all that is wrong in it.

use std::ops::Range;
use std::sync::Arc;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;
use serde_saphyr::budget::Budget;
use serde_saphyr::options::{AliasLimits, DuplicateKeyPolicy, MergeKeyPolicy, Options};

use super::diagnostic::{Diagnostic, Diagnostics};
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
    parse_part(source, 0..source.text.len())
}

/// Reads those documents of a text that can be read, and reports each that can not.
pub fn documents(source: &Arc<Source>, findings: &mut Diagnostics) -> Vec<Node> {
    let error = match parse(source) {
        Ok(all) => return all,
        Err(error) => error,
    };
    let mut readable = Vec::new();
    let mut errors = Vec::new();
    for part in parts(&source.text) {
        match parse_part(source, part) {
            Ok(documents) => readable.extend(documents),
            Err(error) => errors.push(*error),
        }
    }
    if errors.is_empty() {
        // The text as a whole exceeds a limit.
        errors.push(*error);
    }
    findings.0.extend(errors);
    readable
}

/// A text cut where documents begin. A line that begins with `---` can be nothing else, whatever is wrong before it (YAML 1.2.2,
/// section 9.1.2, `c-forbidden`). Directives belong to the document that follows them: there the text is not cut.
fn parts(text: &str) -> Vec<Range<usize>> {
    let (mut parts, mut start, mut at) = (Vec::new(), 0, 0);
    let mut directives = false;
    for line in text.split_inclusive('\n') {
        let rest = line.strip_prefix("---");
        let begins =
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']));
        if begins && !directives && at > start {
            parts.push(start..at);
            start = at;
        }
        directives = line.starts_with('%') || directives && !begins;
        at += line.len();
    }
    parts.push(start..at);
    parts
}

fn parse_part(source: &Arc<Source>, part: Range<usize>) -> Result<Vec<Node>, Box<Diagnostic>> {
    let place = Place {
        source,
        start: part.start,
        end: part.end,
    };
    let text = source.text.get(part).unwrap_or_default();
    let raw: Vec<RawNode> =
        serde_saphyr::from_multiple_with_options(text, options()).map_err(|error| {
            let at = error.location().map_or_else(
                || Span {
                    source: Arc::clone(source),
                    start: place.start,
                    len: 0,
                },
                |location| place.span(location.span()),
            );
            Box::new(Diagnostic::error(describe(&error)).at(&at, ""))
        })?;
    Ok(raw.into_iter().map(|node| node.locate(&place)).collect())
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

/// A part of a text, which the parser's places count from.
struct Place<'s> {
    source: &'s Arc<Source>,
    start: usize,
    end: usize,
}

impl Place<'_> {
    fn span(&self, span: serde_saphyr::Span) -> Span {
        let start = span
            .byte_offset()
            .map_or(self.end, |at| self.start + at as usize);
        let len = span.byte_len().unwrap_or(0) as usize;
        Span {
            source: Arc::clone(self.source),
            start,
            len,
        }
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
    fn locate(self, place: &Place<'_>) -> Node {
        let value = match self.value {
            RawValue::Scalar(value) => value,
            RawValue::List(list) => {
                Value::List(list.into_iter().map(|node| node.locate(place)).collect())
            }
            RawValue::Map(pairs) => Value::Map(
                pairs
                    .into_iter()
                    .map(|(key, node)| {
                        let at = place.span(key.referenced.span());
                        (
                            Key {
                                name: key.value.0,
                                at,
                            },
                            node.locate(place),
                        )
                    })
                    .collect(),
            ),
        };
        let mut at = place.span(self.at);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(text: &str) -> Vec<&str> {
        parts(text).into_iter().map(|part| &text[part]).collect()
    }

    #[test]
    fn a_text_is_cut_before_each_document_but_for_its_directives() {
        assert_eq!(cut(""), [""]);
        assert_eq!(cut("a: 1\n---\nb: 2"), ["a: 1\n", "---\nb: 2"]);
        assert_eq!(
            cut("---\na\n---\r\nb\n--- c\n"),
            ["---\na\n", "---\r\nb\n", "--- c\n"]
        );
        assert_eq!(
            cut("%YAML 1.2\n# x\n---\na\n---\nb\n"),
            ["%YAML 1.2\n# x\n---\na\n", "---\nb\n"]
        );
        let one = "a: |\n  ---\nb: ---\n---c: 1\n----\n";
        assert_eq!(cut(one), [one]);
    }

    #[test]
    fn parts_say_what_the_whole_says_and_where() {
        let text =
            "a: [1, é]\n---\n# nothing\n---\nb: {c: &x 2, d: *x}\n...\ne: 3\n--- |\n ---\n--- f\n";
        let source = Source::new("a.yaml", text);
        let whole = parse(&source).unwrap();
        let each = parts(text)
            .into_iter()
            .flat_map(|part| parse_part(&source, part).unwrap());
        let each: Vec<_> = each.collect();
        assert_eq!(whole.len(), 5);
        assert_eq!(format!("{each:?}"), format!("{whole:?}"));
    }
}
