//! Values of documents, by what they say: the order of keys and how a value is written do not matter, its place is known.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Map, Number, Value as Json};

use crate::config::source::Span;
use crate::config::yaml::{Node, Value};

/// A value and its place.
#[derive(Clone, Debug)]
pub struct Tree {
    /// What it says.
    pub content: Content,
    /// Where it is written.
    pub at: Span,
}

/// What a value says.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// Nothing that is made of others.
    Scalar(Scalar),
    /// In order.
    List(Vec<Tree>),
    /// By key.
    Map(BTreeMap<String, Tree>),
}

/// Text, a number, a boolean or nothing. Two that read the same are the same: `80` and `"80"`.
#[derive(Clone, Debug)]
pub struct Scalar(Json);

impl PartialEq for Tree {
    /// Compares what is said, wherever.
    fn eq(&self, other: &Self) -> bool {
        self.content == other.content
    }
}

impl PartialEq for Scalar {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Json::String(one), Json::String(other)) => one == other,
            _ => self.to_string() == other.to_string(),
        }
    }
}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Json::String(text) => f.write_str(text),
            other => write!(f, "{other}"),
        }
    }
}

impl Scalar {
    fn of(value: &Value) -> Self {
        Self(match value {
            Value::Bool(value) => Json::Bool(*value),
            Value::Int(value) => int(*value),
            Value::Float(value) => float(*value),
            Value::Text(text) => Json::String(text.clone()),
            Value::Null | Value::List(_) | Value::Map(_) => Json::Null,
        })
    }
}

fn int(value: i128) -> Json {
    Number::from_i128(value).map_or_else(|| Json::String(value.to_string()), Json::Number)
}

/// `100.0` is `100`.
fn float(value: f64) -> Json {
    if value.fract() == 0.0 && value.abs() < 1e15 {
        return int(value as i128);
    }
    Number::from_f64(value).map_or_else(|| Json::String(value.to_string()), Json::Number)
}

impl Tree {
    /// The value of a document. A key without a value is none; of one that repeats the first counts.
    pub(crate) fn of(node: &Node) -> Self {
        let content = match &node.value {
            Value::List(list) => Content::List(list.iter().map(Self::of).collect()),
            Value::Map(pairs) => {
                let mut map = BTreeMap::new();
                for (key, value) in pairs {
                    if !matches!(value.value, Value::Null) {
                        let value = || Self::of(value);
                        map.entry(key.name.clone()).or_insert_with(value);
                    }
                }
                Content::Map(map)
            }
            scalar => Content::Scalar(Scalar::of(scalar)),
        };
        Self {
            content,
            at: node.at.clone(),
        }
    }

    /// Whether it is not made of others.
    pub const fn is_scalar(&self) -> bool {
        matches!(self.content, Content::Scalar(_))
    }

    /// As JSON.
    pub fn to_json(&self) -> Json {
        match &self.content {
            Content::Scalar(Scalar(value)) => value.clone(),
            Content::List(list) => Json::Array(list.iter().map(Self::to_json).collect()),
            Content::Map(map) => {
                let pairs = map
                    .iter()
                    .map(|(key, value)| (key.clone(), value.to_json()));
                Json::Object(pairs.collect::<Map<_, _>>())
            }
        }
    }
}

/// As YAML in one line.
impl fmt::Display for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.content {
            Content::Scalar(scalar) => quoted(&scalar.to_string(), "", f),
            Content::List(_) | Content::Map(_) => flow(self, f),
        }
    }
}

/// Inside of others, where commas and brackets mean something.
fn flow(tree: &Tree, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    const SPECIAL: &str = ",[]{}:#\"'&*!|>%@`";
    match &tree.content {
        Content::Scalar(scalar) => quoted(&scalar.to_string(), SPECIAL, f),
        Content::List(list) => {
            f.write_str("[")?;
            for (index, item) in list.iter().enumerate() {
                f.write_str(if index > 0 { ", " } else { "" })?;
                flow(item, f)?;
            }
            f.write_str("]")
        }
        Content::Map(map) => {
            f.write_str("{")?;
            for (index, (key, value)) in map.iter().enumerate() {
                f.write_str(if index > 0 { ", " } else { "" })?;
                quoted(key, SPECIAL, f)?;
                f.write_str(": ")?;
                flow(value, f)?;
            }
            f.write_str("}")
        }
    }
}

/// Text that stands between others: in quotes where it would not be read as it is.
fn quoted(text: &str, special: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let is_plain = !text.is_empty()
        && text.trim() == text
        && !text.contains(char::is_control)
        && !text.contains(|c| special.contains(c));
    if is_plain {
        f.write_str(text)
    } else {
        write!(f, "{}", Json::String(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Source, yaml};

    fn tree(text: &str) -> Tree {
        let documents = yaml::parse(&Source::new("a.yaml", text)).unwrap();
        Tree::of(&documents[0])
    }

    #[test]
    fn how_it_is_written_does_not_matter() {
        let plain = tree("a: 1\nb: [x, 'y z']\nc: {d: true}\n");
        for same in [
            "c:\n  d: true\nb:\n- \"x\"\n- y z\na: 1\n",
            "# why\n{\"a\": 1, \"b\": [\"x\", \"y z\"], \"c\": {\"d\": true}, e: null, f: ~, g: }",
            "a: '1'\nb: [x, y z]\nc: {d: 'true'}\n",
            "a: 1.0\nb: [x, y z]\nc: {d: true}\n",
        ] {
            assert_eq!(tree(same), plain, "{same}");
        }
        for other in [
            "a: 2\nb: [x, y z]\nc: {d: true}\n",
            "a: 1\nb: [y z, x]\nc: {d: true}\n",
            "a: 1\nb: [x, y z]\nc: {}\n",
            "a: 1\nb: [x, y z]\n",
        ] {
            assert_ne!(tree(other), plain, "{other}");
        }
    }

    #[test]
    fn it_is_shown_as_it_could_be_written() {
        for (text, shown) in [
            ("a == 'b', c", "a == 'b', c"),
            ("''", "\"\""),
            ("\"a\\e[2J\\n\"", "\"a\\u001b[2J\\n\""),
            (
                "{p: [80, '90:91'], s: \"a == 'b'\", t: x y}",
                "{p: [80, \"90:91\"], s: \"a == 'b'\", t: x y}",
            ),
            ("[]", "[]"),
        ] {
            assert_eq!(tree(text).to_string(), shown);
        }
        let json = tree("{o: 1.5, p: 80, t: yes, b: false}").to_json();
        let expected = serde_json::json!({"o": 1.5, "p": 80, "t": "yes", "b": false});
        assert_eq!(json, expected);
    }
}
