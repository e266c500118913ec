//! Documents to resources: the header decides what the rest is.

use super::decode::{self, Context, Fields};
use super::diagnostic::{Diagnostic, Severity};
use super::kinds::{
    BgpConfiguration, BlockAffinity, FelixConfiguration, IpPool, Node as NodeResource,
    WorkloadEndpoint, passive,
};
use super::source::Located;
use super::suggest::nearest;
use super::yaml::{Node, Value};

/// The API group and version that is read.
pub const API_VERSION: &str = "projectcalico.org/v3";

/// Name and kind of a resource.
#[derive(Clone, Debug, PartialEq)]
pub struct Meta {
    /// Kind, such as `IPPool`.
    pub kind: &'static str,
    /// `metadata.name`.
    pub name: Located<String>,
    /// `metadata.namespace` of namespaced kinds, `default` where none is given.
    pub namespace: Option<String>,
}

impl Meta {
    /// As it is shown: `IPPool default`, `WorkloadEndpoint prod/web`.
    pub fn label(&self) -> String {
        match &self.namespace {
            Some(namespace) => format!("{} {namespace}/{}", self.kind, self.name.value),
            None => format!("{} {}", self.kind, self.name.value),
        }
    }
}

/// A resource that the dataplane acts on.
#[derive(Clone, Debug, PartialEq)]
pub enum Resource {
    /// A node.
    Node(NodeResource),
    /// An address pool.
    IpPool(IpPool),
    /// A pod's interface.
    WorkloadEndpoint(WorkloadEndpoint),
    /// Settings of Felix.
    FelixConfiguration(FelixConfiguration),
    /// Settings of BGP.
    BgpConfiguration(BgpConfiguration),
    /// Which node owns which block.
    BlockAffinity(BlockAffinity),
}

impl Resource {
    /// Its name and kind.
    pub fn meta(&self) -> &Meta {
        match self {
            Self::Node(node) => &node.meta,
            Self::IpPool(pool) => &pool.meta,
            Self::WorkloadEndpoint(endpoint) => &endpoint.meta,
            Self::FelixConfiguration(felix) => &felix.meta,
            Self::BgpConfiguration(bgp) => &bgp.meta,
            Self::BlockAffinity(block) => &block.meta,
        }
    }
}

const KINDS: [&str; 6] = [
    "Node",
    "IPPool",
    "WorkloadEndpoint",
    "FelixConfiguration",
    "BGPConfiguration",
    "BlockAffinity",
];

/// Decodes one document, which may be a list of resources.
pub fn decode_document(node: &Node, cx: &mut Context<'_>, out: &mut Vec<Resource>) {
    decode_item(node, cx, out, None, 0);
}

fn decode_item(
    node: &Node,
    cx: &mut Context<'_>,
    out: &mut Vec<Resource>,
    inherited: Option<(&str, &str)>,
    depth: usize,
) {
    cx.resource.clear();
    let Some(mut fields) = Fields::open(node, "a resource", cx) else {
        return;
    };
    let api_version = header(&mut fields, "apiVersion", inherited.map(|(api, _)| api), cx);
    let kind = header(&mut fields, "kind", inherited.map(|(_, kind)| kind), cx);
    let (Some(api_version), Some(kind)) = (api_version, kind) else {
        return;
    };
    cx.resource.clone_from(&kind.value);

    let item_kind = kind.strip_suffix("List");
    if let Some(item_kind) = item_kind
        && (api_version.value == API_VERSION || (api_version.value == "v1" && item_kind.is_empty()))
    {
        fields.accept(&["metadata"]);
        let items = fields.take("items");
        if depth > 0 {
            cx.error(&kind.at, "a list in a list", "lists may not be nested");
            return;
        }
        fields.finish(cx);
        let Some(items) = items else { return };
        let Value::List(items) = &items.value else {
            cx.error(
                &items.at,
                "`items` must be a list",
                format!("this is {}", items.value.describe()),
            );
            return;
        };
        let inherited = (!item_kind.is_empty()).then_some((API_VERSION, item_kind));
        for item in items {
            decode_item(item, cx, out, inherited, depth + 1);
        }
        return;
    }
    if !check_api_version(&api_version, &kind, cx) {
        return;
    }
    decode_kind(fields, &kind, cx, out);
}

fn header(
    fields: &mut Fields<'_>,
    name: &'static str,
    inherited: Option<&str>,
    cx: &mut Context<'_>,
) -> Option<Located<String>> {
    let at = fields.at().clone();
    match inherited {
        Some(inherited) => Some(fields.get(name, cx, decode::name).unwrap_or(Located {
            value: inherited.to_owned(),
            at,
        })),
        None => fields.require(name, cx, decode::name),
    }
}

fn check_api_version(
    api_version: &Located<String>,
    kind: &Located<String>,
    cx: &mut Context<'_>,
) -> bool {
    let (message, label) = match api_version.value.as_str() {
        API_VERSION => return true,
        "crd.projectcalico.org/v1" => (
            "`crd.projectcalico.org/v1` is Calico's storage form".to_owned(),
            format!("use `{API_VERSION}`, the form that `calicoctl get -o yaml` prints"),
        ),
        "networking.k8s.io/v1" if kind.value == "NetworkPolicy" => {
            passive::refuse(kind, cx);
            return false;
        }
        other => (
            format!("unknown apiVersion `{other}`"),
            format!("must be `{API_VERSION}`"),
        ),
    };
    cx.error(&api_version.at, message, label);
    false
}

fn decode_kind(
    mut fields: Fields<'_>,
    kind: &Located<String>,
    cx: &mut Context<'_>,
    out: &mut Vec<Resource>,
) {
    let Some(known) = KINDS.into_iter().find(|known| *known == kind.value) else {
        passive::decode(fields, kind, cx);
        return;
    };
    let meta = fields
        .take_with_key("metadata")
        .map(|(_, node)| node)
        .or_else(|| {
            let label = "`metadata` is missing here";
            cx.error(
                fields.at(),
                format!("{known} needs the field `metadata`"),
                label,
            );
            None
        })
        .and_then(|node| metadata(node, known, cx));
    if let Some(meta) = &meta {
        cx.resource = meta.label();
    }
    fields.accept(&["status"]);
    // An absent spec is an empty one: kinds without required fields allow it.
    let empty = Node {
        value: Value::Map(Vec::new()),
        at: kind.at.clone(),
    };
    let spec = fields.take("spec").unwrap_or(&empty);
    fields.finish(cx);
    let Some(mut spec) = Fields::open(spec, "spec", cx) else {
        return;
    };
    // Without a name the spec is still checked, under a name that cannot clash.
    let named = meta.is_some();
    let meta = meta.unwrap_or_else(|| Meta {
        kind: known,
        name: Located {
            value: String::new(),
            at: kind.at.clone(),
        },
        namespace: None,
    });
    let resource = match known {
        "Node" => Some(Resource::Node(NodeResource::decode(meta, &mut spec, cx))),
        "IPPool" => IpPool::decode(meta, &mut spec, cx).map(Resource::IpPool),
        "WorkloadEndpoint" => {
            WorkloadEndpoint::decode(meta, &mut spec, cx).map(Resource::WorkloadEndpoint)
        }
        "FelixConfiguration" => Some(Resource::FelixConfiguration(FelixConfiguration::decode(
            meta, &mut spec, cx,
        ))),
        "BGPConfiguration" => Some(Resource::BgpConfiguration(BgpConfiguration::decode(
            meta, &mut spec, cx,
        ))),
        _ => BlockAffinity::decode(meta, &mut spec, cx).map(Resource::BlockAffinity),
    };
    spec.finish(cx);
    if named {
        out.extend(resource);
    }
}

fn metadata(node: &Node, kind: &'static str, cx: &mut Context<'_>) -> Option<Meta> {
    let mut fields = Fields::open(node, "metadata", cx)?;
    let name = fields.require("name", cx, decode::name);
    if let Some(name) = &name {
        cx.resource = format!("{kind} {}", name.value);
    }
    let namespace = fields.get("namespace", cx, decode::name);
    let _ = fields.get("labels", cx, decode::text_map);
    let _ = fields.get("annotations", cx, decode::text_map);
    fields.accept(&[
        "uid",
        "resourceVersion",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "generateName",
        "managedFields",
        "ownerReferences",
        "finalizers",
        "selfLink",
    ]);
    fields.finish(cx);
    let namespaced = kind == "WorkloadEndpoint";
    if let Some(namespace) = &namespace
        && !namespaced
    {
        cx.error(
            &namespace.at,
            format!("{kind} has no namespace"),
            "leave this out",
        );
    }
    let namespace =
        namespaced.then(|| namespace.map_or_else(|| "default".to_owned(), |ns| ns.value));
    Some(Meta {
        kind,
        name: name?,
        namespace,
    })
}

/// Reports a kind that is not known at all.
pub(super) fn unknown_kind(kind: &Located<String>, cx: &mut Context<'_>) {
    let known = KINDS.into_iter().chain(passive::known());
    let label = match nearest(&kind.value, known) {
        Some(known) => format!("did you mean `{known}`?"),
        None => format!("{API_VERSION} has no such kind"),
    };
    cx.resource.clear();
    cx.report(
        Diagnostic::new(Severity::Error, format!("unknown kind `{}`", kind.value))
            .at(&kind.at, label),
    );
}
