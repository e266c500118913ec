//! Where settings are written. The trees are made again of the texts: what decodes them keeps values, not places.

use std::collections::BTreeMap;

use crate::config::Diagnostics;
use crate::config::resource::Meta;
use crate::config::source::Span;
use crate::config::yaml::{self, Node, Value};

/// A field as it is written.
#[derive(Clone, Debug)]
pub(super) struct Written {
    /// Where its value is.
    pub(super) at: Span,
    /// Its value, if that is text.
    text: Option<String>,
}

/// Fields by name; those of maps in maps with dots between.
#[derive(Clone, Debug, Default)]
pub(super) struct Places(BTreeMap<String, Written>);

impl Places {
    /// Of all fields of a map that are not null.
    pub(super) fn of(map: &Node) -> Self {
        let mut places = Self::default();
        places.add("", map);
        places
    }

    /// Of the fields of a resource's `spec`.
    pub(super) fn of_spec(meta: &Meta) -> Self {
        let name = &meta.name.at;
        // It has been read before: what is wrong elsewhere in the file is known.
        let documents = yaml::documents(&name.source, &mut Diagnostics::default());
        let resource = documents.iter().find_map(|document| named(document, name));
        let spec = resource.and_then(|resource| field(resource, "spec"));
        spec.map(Self::of).unwrap_or_default()
    }

    /// A field that says something: not empty, nor `Auto`, which leaves things as they are.
    pub(super) fn get(&self, name: &str) -> Option<&Span> {
        let written = self.0.get(name)?;
        let says = |text: &String| !text.is_empty() && text != "Auto";
        written
            .text
            .as_ref()
            .is_none_or(says)
            .then_some(&written.at)
    }

    /// Names of fields that hold no map.
    #[cfg(test)]
    pub(super) fn leaves(&self) -> Vec<&str> {
        let is_map = |name: &str| {
            self.0
                .keys()
                .any(|other| other.starts_with(&format!("{name}.")))
        };
        self.0
            .keys()
            .map(String::as_str)
            .filter(|name| !is_map(name))
            .collect()
    }

    fn add(&mut self, before: &str, node: &Node) {
        let Value::Map(pairs) = &node.value else {
            return;
        };
        for (key, value) in pairs {
            let name = format!("{before}{}", key.name);
            let text = match &value.value {
                Value::Null => continue,
                Value::Text(text) => Some(text.clone()),
                Value::Map(_) => {
                    self.add(&format!("{name}."), value);
                    None
                }
                _ => None,
            };
            let at = value.at.clone();
            self.0.insert(name, Written { at, text });
        }
    }
}

fn field<'n>(node: &'n Node, name: &str) -> Option<&'n Node> {
    let Value::Map(pairs) = &node.value else {
        return None;
    };
    let pair = pairs.iter().find(|(key, _)| key.name == name);
    pair.map(|(_, value)| value)
}

/// The resource whose name is written there, in a document or a list of it.
fn named<'n>(node: &'n Node, at: &Span) -> Option<&'n Node> {
    let name = field(node, "metadata").and_then(|metadata| field(metadata, "name"));
    if name.is_some_and(|name| name.at.start == at.start) {
        return Some(node);
    }
    let Some(Value::List(items)) = field(node, "items").map(|items| &items.value) else {
        return None;
    };
    items.iter().find_map(|item| named(item, at))
}
