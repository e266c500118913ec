//! Resources as they are written, by what they are called.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::tree::{Content, Tree};
use crate::config::decode::{Context, Fields};
use crate::config::resource::{Header, each_resource, is_namespaced};
use crate::config::source::Span;
use crate::config::{Diagnostics, Source, yaml};
use crate::policy::resource::kind_of;
use crate::policy::testing::is_test;

/// What a resource is called. Sorted as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    /// Kind, as findings name it: `KubernetesNetworkPolicy` is one of Kubernetes.
    pub kind: String,
    /// Of kinds that have one; `default` where none is given.
    pub namespace: Option<String>,
    /// `metadata.name`.
    pub name: String,
    /// Of several that are called so, which only kinds that nothing acts on may be: which it is, from 0.
    pub repeated: usize,
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind, self.name),
            None => write!(f, "{} {}", self.kind, self.name),
        }
    }
}

/// Whether a field beside `metadata` says what is wanted.
fn is_read(kind: &str, field: &str) -> bool {
    match kind {
        "EndpointSlice" => ["addressType", "endpoints", "ports"].contains(&field),
        // Of a service it says which addresses load balancers have.
        "Service" => ["spec", "status"].contains(&field),
        _ => field == "spec",
    }
}

/// All resources of some files.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Written(pub BTreeMap<Name, Tree>);

impl Written {
    /// What these texts hold. What can not be read is left out: that is for whoever loads them to say.
    pub fn read(sources: &[Arc<Source>]) -> Self {
        let mut all = Self::default();
        let mut unsaid = Diagnostics::default();
        for source in sources {
            for document in yaml::documents(source, &mut unsaid) {
                if is_test(&document) {
                    continue;
                }
                let mut cx = Context {
                    diagnostics: &mut unsaid,
                    resource: String::new(),
                };
                each_resource(&document, &mut cx, &mut |fields, header, _| {
                    all.add(&fields, &header);
                });
            }
        }
        all
    }

    fn add(&mut self, fields: &Fields<'_>, header: &Header) {
        let at: Span = fields.at().clone();
        let empty = || Tree {
            content: Content::Map(BTreeMap::new()),
            at: at.clone(),
        };
        // What is left out is empty.
        let mut map: BTreeMap<String, Tree> = BTreeMap::new();
        if is_read(&header.kind.value, "spec") {
            map.insert("spec".to_owned(), empty());
        }
        let (mut name, mut namespace, mut labels) = (None, None, None);
        for (key, node) in fields.pairs() {
            let tree = Tree::of(node);
            match (key.name.as_str(), tree.content) {
                // Nothing else in it is read.
                ("metadata", Content::Map(mut metadata)) => {
                    name = metadata.remove("name");
                    namespace = metadata.remove("namespace");
                    labels = metadata.remove("labels");
                }
                (field, mut content) if is_read(&header.kind.value, field) => {
                    let at = tree.at;
                    if let ("status", Content::Map(status)) = (field, &mut content) {
                        status.retain(|key, _| key == "loadBalancer");
                    }
                    map.insert(key.name.clone(), Tree { content, at });
                }
                _ => {}
            }
        }
        let labels = ("labels".to_owned(), labels.unwrap_or_else(empty));
        let content = Content::Map([labels].into());
        map.insert(
            "metadata".to_owned(),
            Tree {
                content,
                at: at.clone(),
            },
        );
        let text = |tree: Tree| match tree.content {
            Content::Scalar(scalar) => Some(scalar.to_string()),
            Content::List(_) | Content::Map(_) => None,
        };
        let Some(name) = name.and_then(text) else {
            return;
        };
        let kind = kind_of(header).unwrap_or(&header.kind.value);
        let namespace = namespace.and_then(text);
        let mut name = Name {
            namespace: namespace.or_else(|| is_namespaced(kind).then(|| "default".to_owned())),
            kind: kind.to_owned(),
            name,
            repeated: 0,
        };
        while self.0.contains_key(&name) {
            name.repeated += 1;
        }
        let content = Content::Map(map);
        self.0.insert(name, Tree { content, at });
    }
}
