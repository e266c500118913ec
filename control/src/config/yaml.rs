//! YAML (and JSON, which is YAML) to trees that know where each value was written.
//!
//! Types are not read through serde's derives: these stop at the first error, and a file should be reported on
//! once, with all that is wrong in it.

use std::cell::Cell;
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
        negation: Cell::new(None),
    };
    let text = source.text.get(part).unwrap_or_default();
    let raw: Vec<RawNode> = serde_saphyr::from_multiple_with_options(text, options())
        .map_err(|error| Box::new(place.diagnostic(&error)))?;
    let nodes = raw.into_iter().map(|node| node.locate(&place)).collect();
    match place.negation.take() {
        Some(at) => Err(Box::new(place.bad_tag("!", at))),
        None => Ok(nodes),
    }
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
    // `selector: !has(x)` without quotes is a tag and no value: ignored, it would select everything.
    options.reject_unsupported_tags = true;
    options.strict_booleans = true;
    options.emit_comments = false;
    options.with_snippet = false;
    options
}

/// A part of a text, which the parser's places count from.
struct Place<'s> {
    source: &'s Arc<Source>,
    start: usize,
    end: usize,
    /// A `!` that stands alone before text: `! has(x)` would be read as `has(x)`.
    negation: Cell<Option<usize>>,
}

impl Place<'_> {
    fn diagnostic(&self, error: &serde_saphyr::Error) -> Diagnostic {
        let at = self.point(error.location());
        let error = error.without_snippet();
        if let serde_saphyr::Error::UnsupportedTag { tag, .. } = error {
            // The parser's place is behind it.
            let before = self.source.text.get(self.start..at.start);
            let tag_at = before.and_then(|before| before.rfind(tag.as_str()));
            return self.bad_tag(tag, tag_at.map_or(at.start, |at| self.start + at));
        }
        // Without the place, which we show in our own way.
        let text = error.to_string();
        let text = text.split(" at line ").next().unwrap_or(&text);
        let text = text
            .lines()
            .next()
            .unwrap_or(text)
            .trim_end_matches([',', ':', ' ']);
        let message = Diagnostic::error(format!("not valid YAML: {text}"));
        if text.contains("<document start>") {
            return message.at(&at, "begin each document with `---`");
        }
        let is_about_tabs = text.split(' ').any(|word| matches!(word, "tab" | "tabs"));
        match is_about_tabs.then(|| self.tab(at.start)).flatten() {
            Some(tab) => message.at(&tab, "indent with blanks"),
            None => message.at(&at, ""),
        }
    }

    /// The first tab that a line is indented with, from the line of `from` on. The parser's place is behind it, or where the
    /// scalar before it begins.
    fn tab(&self, from: usize) -> Option<Span> {
        let before = self.source.text.get(self.start..from)?;
        let mut at = self.start + before.rfind('\n').map_or(0, |at| at + 1);
        for line in self.source.text.get(at..self.end)?.split_inclusive('\n') {
            let indentation = line.len() - line.trim_start_matches([' ', '\t']).len();
            if let Some(tab) = line.get(..indentation).and_then(|line| line.find('\t')) {
                return Some(Span {
                    source: Arc::clone(self.source),
                    start: at + tab,
                    len: 0,
                });
            }
            at += line.len();
        }
        None
    }

    fn bad_tag(&self, tag: &str, start: usize) -> Diagnostic {
        let at = Span {
            source: Arc::clone(self.source),
            start,
            len: tag.len(),
        };
        let message = format!("not valid YAML: unsupported tag `{tag}`");
        Diagnostic::error(message).at(&at, "put text that begins with `!` in quotes")
    }

    /// Remembers the first `!` that stands alone before a scalar, on its line.
    fn look_for_negation(&self, scalar: usize) {
        let before = self.source.text.get(..scalar).unwrap_or_default();
        let tag = before.trim_end_matches([' ', '\t']).strip_suffix('!');
        if let Some(before) = tag
            && before.ends_with([' ', '\t', '\n', '[', '{', ',', ':'])
            && self.negation.get().is_none()
        {
            self.negation.set(Some(before.len()));
        }
    }

    /// Where an error is. The parser counts characters where it stopped for bad syntax, and bytes elsewhere.
    fn point(&self, location: Option<serde_saphyr::Location>) -> Span {
        let Some(span) = location.map(|location| location.span()) else {
            return Span {
                source: Arc::clone(self.source),
                start: self.start,
                len: 0,
            };
        };
        let mut at = self.span(span);
        if span.byte_offset().is_none() {
            let text = self.source.text.get(self.start..self.end);
            let mut characters = text.unwrap_or_default().char_indices();
            let stopped = characters.nth(span.offset() as usize);
            at.start = stopped.map_or(self.end, |(at, _)| self.start + at);
        }
        at
    }

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
        if matches!(value, Value::List(_) | Value::Map(_)) {
            // A collection's own extent would make the caret run over lines.
            at.len = 0;
        } else {
            place.look_for_negation(at.start);
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
    fn an_error_is_where_the_text_is_wrong() {
        for text in [
            "é: ü\n>\tb: 2\nc: 3\n",
            "é: ü\r\n>\tb: 2\r\nc: 3\r\n",
            "\u{feff}é: ü\n>\tb: 2\nc: 3\n",
            "é: 1\n---\nü: 'ö' >é\nc: 3\n",
            "é: 1\n---\nü: >@\nc: 3\n",
            "é: 1\n---\nü: >*x\nc: 3\n",
            "é: 1\n---\nü: >!x y\nc: 3\n",
            "é: 1\n---\nü: {x: >! y}\nc: 3\n",
            "é: 1\n---\nü:\n- >!  'y'\n- z\n",
            "é: 1\n---\nü: >! \nc: 3\n",
            "a: 1\n>b\n",
        ] {
            let at = text.find('>').unwrap();
            let source = Source::new("a.yaml", text.replace('>', ""));
            let mut findings = Diagnostics::default();
            documents(&source, &mut findings);
            let [error] = findings.0.as_slice() else {
                panic!("{text:?}: {findings:?}");
            };
            let said = error.at.as_ref().map(|span| span.start);
            assert_eq!(said, Some(at), "{text:?}: {error:?}");
        }
    }

    #[test]
    fn an_exclamation_mark_in_text_is_no_tag() {
        let text = "a: wow !\nb: {c: d !, e: f}\nf: '! g'\n'h !': i\nj ! : k # !\nl: # !\n  m\nn: &o! p\nq: |\n  !\n  r\n";
        let read = parse(&Source::new("a.yaml", text)).unwrap();
        assert_eq!(read.len(), 1);
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
