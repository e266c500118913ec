//! Files to checked resources.

use std::path::PathBuf;
use std::sync::Arc;

use super::endpoint::HostEndpoint;
use super::kubernetes;
use super::policy::PolicyResource;
use super::profile::{Profile, Tier};
use super::sets::NetworkSet;
use crate::config::check::endpoints_are_unique;
use crate::config::decode::{Context, Fields};
use crate::config::resource::{
    API_VERSION, Header, KUBERNETES_VERSION, Meta, Resource, decode_resource, each_resource,
    empty_map, take_metadata, unnamed,
};
use crate::config::yaml::{self, Node};
use crate::config::{Diagnostics, Resources, Source, read_all_given, retain_first};
use crate::policy::model::PolicyKind;
use crate::policy::testing::is_test;

/// All resources that bear on policy, valid one by one. Order is that of the files. Shared: a load keeps what the one
/// before had of a file that did not change.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct PolicyResources {
    /// Endpoints of pods, nodes, settings.
    pub base: Resources,
    /// Policies of all kinds.
    pub policies: Vec<Arc<PolicyResource>>,
    /// `Tier`.
    pub tiers: Vec<Arc<Tier>>,
    /// `Profile`, and what `Namespace` and `ServiceAccount` stand for.
    pub profiles: Vec<Arc<Profile>>,
    /// `NetworkSet` and `GlobalNetworkSet`.
    pub sets: Vec<Arc<NetworkSet>>,
    /// `HostEndpoint`.
    pub host_endpoints: Vec<Arc<HostEndpoint>>,
}

impl PolicyResources {
    /// Number of resources.
    pub fn len(&self) -> usize {
        self.base.len()
            + self.policies.len()
            + self.tiers.len()
            + self.profiles.len()
            + self.sets.len()
            + self.host_endpoints.len()
    }

    /// True if there is no resource.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Loads files and directories together.
///
/// # Errors
/// All that is wrong in all files, warnings included.
pub fn load_paths(paths: &[PathBuf]) -> Result<PolicyResources, Diagnostics> {
    let mut diagnostics = Diagnostics::default();
    let sources = read_all_given(paths, &mut diagnostics);
    load(&sources, diagnostics, endpoints_are_unique)
}

/// Loads texts that are in memory already.
///
/// # Errors
/// As [`load_paths`].
pub fn load_sources(sources: &[Arc<Source>]) -> Result<PolicyResources, Diagnostics> {
    load(sources, Diagnostics::default(), endpoints_are_unique)
}

/// Loads texts, and checks what must hold between endpoints, nodes and pools as `check` says.
pub(crate) fn load(
    sources: &[Arc<Source>],
    diagnostics: Diagnostics,
    check: fn(&Resources, &mut Diagnostics),
) -> Result<PolicyResources, Diagnostics> {
    let files: Vec<Decoded> = sources.iter().map(decode).collect();
    join(&files, diagnostics, check)
}

/// What one file gave.
#[derive(Debug, Default)]
pub(crate) struct Decoded {
    resources: Reader,
    findings: Diagnostics,
}

impl Decoded {
    /// The policies of a file that holds nothing else, and of which nothing is to be said.
    pub(crate) fn only_policies(&self) -> Option<&[Arc<PolicyResource>]> {
        let Reader { found, base } = &self.resources;
        let are_all = self.findings.0.is_empty()
            && base.is_empty()
            && found.len() == found.policies.len()
            && found.policies.iter().all(|policy| !policy.deletes);
        are_all.then_some(&found.policies)
    }
}

/// Decodes a file. It depends on nothing but the text.
pub(crate) fn decode(source: &Arc<Source>) -> Decoded {
    let mut file = Decoded::default();
    let documents = yaml::documents(source, &mut file.findings);
    // A directory may hold tests of its policies.
    for document in documents.iter().filter(|document| !is_test(document)) {
        file.resources.document(document, &mut file.findings);
    }
    file
}

/// The resources of all files together, and what `check` says of them.
pub(crate) fn join<'d>(
    files: impl IntoIterator<Item = &'d Decoded>,
    mut diagnostics: Diagnostics,
    check: fn(&Resources, &mut Diagnostics),
) -> Result<PolicyResources, Diagnostics> {
    let mut reader = Reader::default();
    for file in files {
        reader.add(&file.resources);
        diagnostics.0.extend_from_slice(&file.findings.0);
    }
    let mut resources = reader.finish(&mut diagnostics, check);
    diagnostics.sort();
    if diagnostics.has_errors() {
        return Err(diagnostics);
    }
    resources.base.remarks = diagnostics;
    Ok(resources)
}

/// Collects the resources of documents.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    found: PolicyResources,
    base: Vec<Resource>,
}

impl Reader {
    /// Takes a document.
    pub(crate) fn document(&mut self, document: &Node, diagnostics: &mut Diagnostics) {
        let mut cx = Context {
            diagnostics,
            resource: String::new(),
        };
        each_resource(document, &mut cx, &mut |fields, header, cx| {
            self.resource(fields, &header, cx);
        });
    }

    /// Takes what another one collected.
    fn add(&mut self, other: &Self) {
        let (found, more) = (&mut self.found, &other.found);
        self.base.extend_from_slice(&other.base);
        found.policies.extend_from_slice(&more.policies);
        found.tiers.extend_from_slice(&more.tiers);
        found.profiles.extend_from_slice(&more.profiles);
        found.sets.extend_from_slice(&more.sets);
        found.host_endpoints.extend_from_slice(&more.host_endpoints);
    }

    /// All that was collected, without repeated names, which are reported.
    pub(crate) fn finish(
        mut self,
        diagnostics: &mut Diagnostics,
        check: fn(&Resources, &mut Diagnostics),
    ) -> PolicyResources {
        retain_first(&mut self.base, Resource::meta, diagnostics);
        let found = &mut self.found;
        retain_first(&mut found.policies, |policy| &policy.meta, diagnostics);
        retain_first(&mut found.tiers, |tier| &tier.meta, diagnostics);
        retain_first(&mut found.profiles, |profile| &profile.meta, diagnostics);
        retain_first(&mut found.sets, |set| &set.meta, diagnostics);
        retain_first(
            &mut found.host_endpoints,
            |endpoint| &endpoint.meta,
            diagnostics,
        );
        for resource in self.base {
            self.found.base.add(resource);
        }
        self.found.base.sort();
        check(&self.found.base, diagnostics);
        self.found
    }

    fn resource(&mut self, mut fields: Fields<'_>, header: &Header, cx: &mut Context<'_>) {
        let Some(kind) = Kind::of(header) else {
            decode_resource(fields, header, cx, &mut self.base);
            return;
        };
        let meta = take_metadata(&mut fields, kind.name(), cx);
        let named = meta.is_some();
        let meta = meta.unwrap_or_else(|| unnamed(kind.name(), &header.kind));
        if kind.has_spec() {
            let empty = empty_map(&header.kind);
            let spec = fields.take("spec").unwrap_or(&empty);
            fields.accept(&["status"]);
            fields.finish(cx);
            if let Some(mut spec) = Fields::open(spec, "spec", cx) {
                self.spec(kind, meta, named, &mut spec, cx);
                spec.finish(cx);
            }
            return;
        }
        fields.accept(&[
            "spec",
            "status",
            "secrets",
            "imagePullSecrets",
            "automountServiceAccountToken",
        ]);
        fields.finish(cx);
        let profile = match kind {
            Kind::Namespace => Profile::of_namespace(&meta),
            _ => Profile::of_service_account(&meta),
        };
        if named {
            self.found.profiles.push(profile.into());
        }
    }

    /// Decodes a spec, also one without a name; only what has one is kept.
    fn spec(
        &mut self,
        kind: Kind,
        meta: Meta,
        named: bool,
        spec: &mut Fields<'_>,
        cx: &mut Context<'_>,
    ) {
        fn keep<T>(list: &mut Vec<Arc<T>>, named: bool, resource: Option<T>) {
            list.extend(resource.filter(|_| named).map(Arc::new));
        }
        let found = &mut self.found;
        match kind {
            Kind::Policy(kind) => {
                keep(
                    &mut found.policies,
                    named,
                    Some(PolicyResource::decode(kind, meta, spec, cx)),
                );
            }
            Kind::KubernetesPolicy(kind) => {
                keep(
                    &mut found.policies,
                    named,
                    Some(kubernetes::decode(kind, meta, spec, cx)),
                );
            }
            Kind::Tier => keep(&mut found.tiers, named, Some(Tier::decode(meta, spec, cx))),
            Kind::Profile => keep(
                &mut found.profiles,
                named,
                Some(Profile::decode(meta, spec, cx)),
            ),
            Kind::NetworkSet | Kind::GlobalNetworkSet => {
                keep(
                    &mut found.sets,
                    named,
                    Some(NetworkSet::decode(meta, spec, cx)),
                );
            }
            Kind::HostEndpoint => {
                keep(
                    &mut found.host_endpoints,
                    named,
                    HostEndpoint::decode(meta, spec, cx),
                );
            }
            Kind::Namespace | Kind::ServiceAccount => {}
        }
    }
}

/// A kind of this reader, as findings name it.
pub(crate) fn kind_of(header: &Header) -> Option<&'static str> {
    Kind::of(header).map(Kind::name)
}

/// Kinds of this reader.
#[derive(Clone, Copy)]
enum Kind {
    Policy(PolicyKind),
    KubernetesPolicy(PolicyKind),
    Tier,
    Profile,
    NetworkSet,
    GlobalNetworkSet,
    HostEndpoint,
    Namespace,
    ServiceAccount,
}

impl Kind {
    fn of(header: &Header) -> Option<Self> {
        match (
            header.api_version.value.as_str(),
            header.kind.value.as_str(),
        ) {
            (API_VERSION, "NetworkPolicy") => Some(Self::Policy(PolicyKind::Namespaced)),
            (API_VERSION, "GlobalNetworkPolicy") => Some(Self::Policy(PolicyKind::Global)),
            (API_VERSION, "StagedNetworkPolicy") => {
                Some(Self::Policy(PolicyKind::StagedNamespaced))
            }
            (API_VERSION, "StagedGlobalNetworkPolicy") => {
                Some(Self::Policy(PolicyKind::StagedGlobal))
            }
            (API_VERSION, "StagedKubernetesNetworkPolicy") => {
                Some(Self::KubernetesPolicy(PolicyKind::StagedKubernetes))
            }
            (KUBERNETES_VERSION, "NetworkPolicy") => {
                Some(Self::KubernetesPolicy(PolicyKind::Kubernetes))
            }
            (API_VERSION, "Tier") => Some(Self::Tier),
            (API_VERSION, "Profile") => Some(Self::Profile),
            (API_VERSION, "NetworkSet") => Some(Self::NetworkSet),
            (API_VERSION, "GlobalNetworkSet") => Some(Self::GlobalNetworkSet),
            (API_VERSION, "HostEndpoint") => Some(Self::HostEndpoint),
            ("v1", "Namespace") => Some(Self::Namespace),
            ("v1", "ServiceAccount") => Some(Self::ServiceAccount),
            _ => None,
        }
    }

    /// As findings name it. Policies of Kubernetes and of Calico have one `kind:`, and must not clash.
    fn name(self) -> &'static str {
        match self {
            Self::Policy(kind) | Self::KubernetesPolicy(kind) => kind.as_str(),
            Self::Tier => "Tier",
            Self::Profile => "Profile",
            Self::NetworkSet => "NetworkSet",
            Self::GlobalNetworkSet => "GlobalNetworkSet",
            Self::HostEndpoint => "HostEndpoint",
            Self::Namespace => "Namespace",
            Self::ServiceAccount => "ServiceAccount",
        }
    }

    fn has_spec(self) -> bool {
        !matches!(self, Self::Namespace | Self::ServiceAccount)
    }
}
