//! Documents to resources: the header decides what the rest is.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::decode::{self, Context, Fields};
use super::diagnostic::{Diagnostic, Severity};
use super::kinds::{
    BgpConfiguration, BlockAffinity, EndpointSlice, FelixConfiguration, IpPool,
    Node as NodeResource, Service, WorkloadEndpoint, passive,
};
use super::names;
use super::source::{Located, Span};
use super::suggest::nearest;
use super::yaml::{Node, Value};

/// The API group and version that is read.
pub const API_VERSION: &str = "projectcalico.org/v3";
/// The API group and version of Kubernetes' own policies.
pub(crate) const KUBERNETES_VERSION: &str = "networking.k8s.io/v1";
/// The version of Kubernetes' oldest kinds.
const CORE_VERSION: &str = "v1";
/// The API group and version of services' endpoints.
const DISCOVERY_VERSION: &str = "discovery.k8s.io/v1";

/// Name and kind of a resource.
#[derive(Clone, Debug, PartialEq)]
pub struct Meta {
    /// Kind, such as `IPPool`.
    pub kind: &'static str,
    /// `metadata.name`.
    pub name: Located<String>,
    /// `metadata.namespace` of namespaced kinds, `default` where none is given.
    pub namespace: Option<String>,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
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

/// A resource that the dataplane acts on. Shared: a load keeps what the one before had of it.
#[derive(Clone, Debug, PartialEq)]
pub enum Resource {
    /// A node.
    Node(Arc<NodeResource>),
    /// An address pool.
    IpPool(Arc<IpPool>),
    /// A pod's interface.
    WorkloadEndpoint(Arc<WorkloadEndpoint>),
    /// Settings of Felix.
    FelixConfiguration(Arc<FelixConfiguration>),
    /// Settings of BGP.
    BgpConfiguration(Arc<BgpConfiguration>),
    /// Which node owns which block.
    BlockAffinity(Arc<BlockAffinity>),
    /// A service of Kubernetes.
    Service(Arc<Service>),
    /// Endpoints of one.
    EndpointSlice(Arc<EndpointSlice>),
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
            Self::Service(service) => &service.meta,
            Self::EndpointSlice(slice) => &slice.meta,
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

/// Those of Kubernetes, with their versions.
const KUBERNETES_KINDS: [(&str, &str); 2] = [
    ("Service", CORE_VERSION),
    ("EndpointSlice", DISCOVERY_VERSION),
];

/// Versions that lists are of.
const LIST_VERSIONS: [&str; 4] = [
    CORE_VERSION,
    API_VERSION,
    KUBERNETES_VERSION,
    DISCOVERY_VERSION,
];

/// Kinds of this and other readers that live in a namespace.
const NAMESPACED: [&str; 9] = [
    "Service",
    "EndpointSlice",
    "WorkloadEndpoint",
    "NetworkPolicy",
    "KubernetesNetworkPolicy",
    "StagedNetworkPolicy",
    "StagedKubernetesNetworkPolicy",
    "NetworkSet",
    "ServiceAccount",
];

/// Whether resources of a kind live in a namespace.
pub(crate) fn is_namespaced(kind: &str) -> bool {
    NAMESPACED.contains(&kind)
}

/// What a resource says of itself first.
pub(crate) struct Header {
    /// `apiVersion`.
    pub(crate) api_version: Located<String>,
    /// `kind`.
    pub(crate) kind: Located<String>,
}

/// Hands on the resources of a document: itself, or the items of a list.
pub(crate) fn each_resource(
    node: &Node,
    cx: &mut Context<'_>,
    take: &mut dyn FnMut(Fields<'_>, Header, &mut Context<'_>),
) {
    each_item(node, cx, take, None, 0);
}

/// Decodes one resource of the kinds of this reader.
pub(crate) fn decode_resource(
    fields: Fields<'_>,
    header: &Header,
    cx: &mut Context<'_>,
    out: &mut Vec<Resource>,
) {
    let (version, kind) = (&header.api_version.value, &header.kind);
    let mut kubernetes = KUBERNETES_KINDS.into_iter();
    let known = kubernetes.find(|(name, of)| kind.value == *name && version == of);
    if let Some((known, _)) = known {
        decode_kubernetes(fields, known, kind, cx, out);
    } else if check_api_version(header, cx) {
        decode_kind(fields, kind, cx, out);
    }
}

/// Of Kubernetes' kinds each has fields of its own beside `metadata`.
fn decode_kubernetes(
    mut fields: Fields<'_>,
    known: &'static str,
    kind: &Located<String>,
    cx: &mut Context<'_>,
    out: &mut Vec<Resource>,
) {
    let meta = take_metadata(&mut fields, known, cx);
    let is_named = meta.is_some();
    let meta = meta.unwrap_or_else(|| unnamed(known, kind));
    let resource = if known == "Service" {
        Service::decode(meta, &mut fields, cx).map(|it| Resource::Service(it.into()))
    } else {
        let slice = EndpointSlice::decode(meta, &mut fields, cx);
        Some(Resource::EndpointSlice(slice.into()))
    };
    fields.finish(cx);
    out.extend(resource.filter(|_| is_named));
}

fn each_item(
    node: &Node,
    cx: &mut Context<'_>,
    take: &mut dyn FnMut(Fields<'_>, Header, &mut Context<'_>),
    inherited: Option<(&str, &str)>,
    depth: usize,
) {
    cx.resource.clear();
    if matches!(node.value, Value::List(_)) {
        let label = "this is a list: begin each resource with `---`, or have them as `items` of a `kind: List`";
        cx.error(&node.at, "a resource must be a map", label);
        return;
    }
    if let Some(at) = of_daemon(node) {
        let label =
            "the daemon's own file? `caracal run --config` reads it; keep it out of the resources";
        cx.error(at, "a caracal.yaml is no resource", label);
        return;
    }
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
        && LIST_VERSIONS.contains(&api_version.value.as_str())
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
        let inherited = (!item_kind.is_empty()).then_some((api_version.value.as_str(), item_kind));
        for item in items {
            each_item(item, cx, take, inherited, depth + 1);
        }
        return;
    }
    take(fields, Header { api_version, kind }, cx);
}

/// The first setting of a `caracal.yaml` in a map that does not say what it is.
fn of_daemon(node: &Node) -> Option<&Span> {
    let Value::Map(pairs) = &node.value else {
        return None;
    };
    let place = |names: &[&str]| {
        let found = pairs
            .iter()
            .find(|(key, _)| names.contains(&key.name.as_str()));
        found.map(|(key, _)| &key.at)
    };
    if place(&["apiVersion", "kind"]).is_some() {
        return None;
    }
    place(&["nodeName", "resources", "uplinks", "failMode"])
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

fn check_api_version(header: &Header, cx: &mut Context<'_>) -> bool {
    let (api_version, kind) = (header.api_version.value.as_str(), &header.kind.value);
    let (message, label) = match api_version {
        API_VERSION => return true,
        "crd.projectcalico.org/v1" => (
            "`crd.projectcalico.org/v1` is Calico's storage form".to_owned(),
            format!("use `{API_VERSION}`, the form that `calicoctl get -o yaml` prints"),
        ),
        other => match versions(kind, other) {
            Some(right) => (
                format!("unknown apiVersion `{other}` of {kind}"),
                format!("must be {right}"),
            ),
            None => (
                format!("{kind} of `{other}` is not read"),
                match kind.as_str() {
                    "Pod" => format!(
                        "leave it out: a pod is known by its WorkloadEndpoint, of `{API_VERSION}`"
                    ),
                    "Node" => format!(
                        "leave it out: the node's addresses are in Calico's Node, of `{API_VERSION}`"
                    ),
                    "Endpoints" => format!(
                        "leave it out: a service's endpoints are in EndpointSlices, of `{DISCOVERY_VERSION}`"
                    ),
                    _ => match nearest(kind, KUBERNETES_KINDS.into_iter().map(|(name, _)| name)) {
                        Some(meant) => format!("did you mean `{meant}`?"),
                        None => format!("leave it out: Calico's kinds are of `{API_VERSION}`"),
                    },
                },
            ),
        },
    };
    cx.error(&header.api_version.at, message, label);
    false
}

/// The versions that a kind is read of, for advice to somebody who wrote another one.
fn versions(kind: &str, wrong: &str) -> Option<String> {
    let is_kubernetes = wrong.contains("k8s.io/") || wrong.starts_with("extensions/");
    let mut kubernetes = KUBERNETES_KINDS.into_iter();
    if let Some((_, version)) = kubernetes.find(|(name, _)| *name == kind) {
        return Some(format!("`{version}`"));
    }
    match kind {
        "Namespace" | "ServiceAccount" => Some(format!("`{CORE_VERSION}`")),
        // Kubernetes' own has nothing that ours has.
        "Node" if wrong == CORE_VERSION => None,
        "NetworkPolicy" if is_kubernetes => Some(format!("`{KUBERNETES_VERSION}`")),
        "NetworkPolicy" => Some(format!(
            "`{API_VERSION}`, or `{KUBERNETES_VERSION}` for one of Kubernetes"
        )),
        _ => {
            let mut known = KINDS.into_iter().chain(passive::known());
            let is_known = known.any(|known| known == kind);
            is_known.then(|| format!("`{API_VERSION}`"))
        }
    }
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
    let meta = take_metadata(&mut fields, known, cx);
    fields.accept(&["status"]);
    // An absent spec is an empty one: kinds without required fields allow it.
    let empty = empty_map(kind);
    let spec = fields.take("spec").unwrap_or(&empty);
    fields.finish(cx);
    let Some(mut spec) = Fields::open(spec, "spec", cx) else {
        return;
    };
    // Without a name the spec is still checked, under a name that cannot clash.
    let named = meta.is_some();
    let meta = meta.unwrap_or_else(|| unnamed(known, kind));
    let resource = match known {
        "Node" => {
            let node = NodeResource::decode(meta, &mut spec, cx);
            Some(Resource::Node(node.into()))
        }
        "IPPool" => IpPool::decode(meta, &mut spec, cx).map(|it| Resource::IpPool(it.into())),
        "WorkloadEndpoint" => WorkloadEndpoint::decode(meta, &mut spec, cx)
            .map(|it| Resource::WorkloadEndpoint(it.into())),
        "FelixConfiguration" => {
            let felix = FelixConfiguration::decode(meta, &mut spec, cx);
            Some(Resource::FelixConfiguration(felix.into()))
        }
        "BGPConfiguration" => {
            let bgp = BgpConfiguration::decode(meta, &mut spec, cx);
            Some(Resource::BgpConfiguration(bgp.into()))
        }
        _ => {
            BlockAffinity::decode(meta, &mut spec, cx).map(|it| Resource::BlockAffinity(it.into()))
        }
    };
    spec.finish(cx);
    if named {
        out.extend(resource);
    }
}

/// A map without fields, for a spec that is left out.
pub(crate) fn empty_map(kind: &Located<String>) -> Node {
    Node {
        value: Value::Map(Vec::new()),
        at: kind.at.clone(),
    }
}

/// Stands for metadata that could not be read.
pub(crate) fn unnamed(known: &'static str, kind: &Located<String>) -> Meta {
    Meta {
        kind: known,
        name: Located {
            value: String::new(),
            at: kind.at.clone(),
        },
        namespace: None,
        labels: BTreeMap::new(),
    }
}

/// Takes `metadata` out of a resource; from then on findings are about the resource.
pub(crate) fn take_metadata(
    fields: &mut Fields<'_>,
    known: &'static str,
    cx: &mut Context<'_>,
) -> Option<Meta> {
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
    meta
}

fn metadata(node: &Node, kind: &'static str, cx: &mut Context<'_>) -> Option<Meta> {
    let mut fields = Fields::open(node, "metadata", cx)?;
    let name = fields.require("name", cx, names::resource);
    if let Some(name) = &name {
        cx.resource = format!("{kind} {}", name.value);
    }
    let namespace = fields.get("namespace", cx, names::namespace);
    let labels = fields.get("labels", cx, decode::text_map);
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
    let namespaced = is_namespaced(kind);
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
        labels: labels.map(|labels| labels.value).unwrap_or_default(),
    })
}

/// Reports a kind that is not known at all.
pub(super) fn unknown_kind(kind: &Located<String>, cx: &mut Context<'_>) {
    let known = KINDS.into_iter().chain(passive::known());
    let mut kubernetes = KUBERNETES_KINDS.into_iter();
    let label = match nearest(&kind.value, known) {
        Some(known) => format!("did you mean `{known}`?"),
        None => match kubernetes.find(|(name, _)| *name == kind.value) {
            Some((_, version)) => format!("it is of apiVersion `{version}`"),
            None => format!("{API_VERSION} has no such kind"),
        },
    };
    cx.resource.clear();
    cx.report(
        Diagnostic::new(Severity::Error, format!("unknown kind `{}`", kind.value))
            .at(&kind.at, label),
    );
}
