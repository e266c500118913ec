//! What selectors can select: endpoints and network sets, with the labels that they have and inherit.

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;

use super::missing;
use crate::config::diagnostic::{Diagnostic, Diagnostics};
use crate::config::kinds::{EndpointPort, WorkloadEndpoint};
use crate::config::source::{Located, Span};
use crate::policy::model::WorkloadId;
use crate::policy::resource::{
    NAMESPACE_LABEL, NAMESPACE_PREFIX, ORCHESTRATOR_LABEL, PolicyResources, Profile,
    SERVICE_ACCOUNT_PREFIX,
};
use crate::policy::selector::Labels;

/// The service account of a pod.
pub(super) const SERVICE_ACCOUNT_LABEL: &str = "projectcalico.org/serviceaccount";
/// A profile that is always there.
const DEFAULT_ALLOW: &str = "projectcalico-default-allow";

/// What names an item.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ItemId {
    Workload(WorkloadId),
    Host(String),
    /// A network set: namespace and name.
    Set(Option<String>, String),
}

/// What a selector can select.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Item {
    pub(super) labels: Labels,
    pub(super) nets: Vec<IpNet>,
    pub(super) ports: Vec<EndpointPort>,
}

/// All items, and the profiles that they inherit from.
pub(super) struct Items<'r> {
    pub(super) all: BTreeMap<ItemId, Item>,
    pub(super) workloads: BTreeMap<WorkloadId, &'r Arc<WorkloadEndpoint>>,
    /// Each with whether a file has it.
    pub(super) profiles: BTreeMap<String, (Arc<Profile>, bool)>,
}

/// What names an endpoint in the model.
pub fn workload_id(endpoint: &WorkloadEndpoint) -> WorkloadId {
    let namespace = endpoint.meta.namespace.as_deref().unwrap_or("default");
    let name = endpoint
        .workload
        .as_deref()
        .unwrap_or(&endpoint.meta.name.value);
    WorkloadId {
        orchestrator: orchestrator(endpoint).to_owned(),
        workload: format!("{namespace}/{name}"),
        endpoint: endpoint
            .endpoint
            .clone()
            .unwrap_or_else(|| "eth0".to_owned()),
    }
}

fn orchestrator(endpoint: &WorkloadEndpoint) -> &str {
    endpoint.orchestrator.as_deref().unwrap_or("k8s")
}

impl<'r> Items<'r> {
    pub(super) fn new(resources: &'r PolicyResources, findings: &mut Diagnostics) -> Self {
        let mut items = Self {
            all: BTreeMap::new(),
            workloads: BTreeMap::new(),
            profiles: BTreeMap::new(),
        };
        for profile in &resources.profiles {
            let name = profile.meta.name.value.clone();
            items.profiles.insert(name, (Arc::clone(profile), true));
        }
        // What exists, exists in a namespace that exists. All of them first: an endpoint may name the profile of another's.
        for endpoint in &resources.base.endpoints {
            items.namespace_of(endpoint);
        }
        for set in &resources.sets {
            if let Some(namespace) = &set.meta.namespace {
                items.need_namespace(namespace, &set.meta.name.at);
            }
        }
        for endpoint in &resources.base.endpoints {
            items.workload(endpoint, findings);
        }
        for endpoint in &resources.host_endpoints {
            let label = endpoint.meta.label();
            for name in &endpoint.profiles {
                items.need_profile(&name.value, &name.at, &label, findings);
            }
            let profiles = endpoint.profiles.iter().map(|name| name.value.as_str());
            let item = Item {
                labels: items.with_inherited(endpoint.meta.labels.clone(), profiles),
                nets: endpoint
                    .expected
                    .iter()
                    .map(|address| IpNet::from(*address))
                    .collect(),
                ports: endpoint.ports.clone(),
            };
            items
                .all
                .insert(ItemId::Host(endpoint.meta.name.value.clone()), item);
        }
        for set in &resources.sets {
            let mut labels = set.meta.labels.clone();
            let mut profile = None;
            if let Some(namespace) = &set.meta.namespace {
                labels.insert(NAMESPACE_LABEL.to_owned(), namespace.clone());
                profile = Some(format!("kns.{namespace}"));
            }
            let item = Item {
                labels: items.with_inherited(labels, profile.as_deref()),
                nets: set.nets.clone(),
                ports: Vec::new(),
            };
            let id = ItemId::Set(set.meta.namespace.clone(), set.meta.name.value.clone());
            items.all.insert(id, item);
        }
        items
    }

    /// The profiles of an endpoint's namespace and service account.
    fn namespace_of(&mut self, endpoint: &WorkloadEndpoint) {
        let namespace = endpoint.meta.namespace.as_deref().unwrap_or("default");
        let at = &endpoint.meta.name.at;
        self.need_namespace(namespace, at);
        if let Some(account) = &endpoint.service_account {
            let name = format!("ksa.{namespace}.{account}");
            let bare = || Profile::of_bare_service_account(namespace, account, at);
            self.profiles
                .entry(name)
                .or_insert_with(|| (bare().into(), false));
        }
    }

    fn workload(&mut self, endpoint: &'r Arc<WorkloadEndpoint>, findings: &mut Diagnostics) {
        let (id, label) = (workload_id(endpoint), endpoint.meta.label());
        let at = &endpoint.meta.name.at;
        if let Some(other) = self.workloads.get(&id) {
            findings.push(
                Diagnostic::error(format!("two endpoints of pod {id}"))
                    .at(at, "give them different names in `endpoint`")
                    .about(label)
                    .see("the other is here", &other.meta.name.at),
            );
            return;
        }
        let namespace = endpoint.meta.namespace.as_deref().unwrap_or("default");
        for name in &endpoint.profiles {
            self.need_profile(name, at, &label, findings);
        }
        if endpoint.profiles.is_empty() {
            findings.push(
                Diagnostic::warning("an endpoint without profiles")
                    .at(at, "what no policy decides about is denied")
                    .about(&label)
                    .help(format!(
                        "Calico's CNI plugin writes `profiles: [kns.{namespace}, …]`"
                    )),
            );
        }
        // Nobody may pretend to be in another namespace.
        let mut labels = endpoint.meta.labels.clone();
        labels.retain(|key, _| {
            !key.starts_with(NAMESPACE_PREFIX) && !key.starts_with(SERVICE_ACCOUNT_PREFIX)
        });
        labels.insert(NAMESPACE_LABEL.to_owned(), namespace.to_owned());
        labels.insert(
            ORCHESTRATOR_LABEL.to_owned(),
            orchestrator(endpoint).to_owned(),
        );
        if let Some(account) = &endpoint.service_account {
            labels.insert(SERVICE_ACCOUNT_LABEL.to_owned(), account.clone());
        }
        let profiles = endpoint.profiles.iter().map(String::as_str);
        let item = Item {
            labels: self.with_inherited(labels, profiles),
            nets: endpoint
                .addresses
                .iter()
                .map(|address| address.value.into())
                .collect(),
            ports: endpoint.ports.clone(),
        };
        self.all.insert(ItemId::Workload(id.clone()), item);
        self.workloads.insert(id, endpoint);
    }

    fn need_namespace(&mut self, namespace: &str, at: &Span) {
        let profile = self.profiles.entry(format!("kns.{namespace}"));
        profile.or_insert_with(|| (Profile::of_bare_namespace(namespace, at).into(), false));
    }

    fn need_profile(&mut self, name: &str, at: &Span, label: &str, findings: &mut Diagnostics) {
        if self.profiles.contains_key(name) {
            return;
        }
        if name == DEFAULT_ALLOW {
            let profile = Profile::allowing_all(name.to_owned(), Labels::new(), at);
            self.profiles
                .insert(name.to_owned(), (profile.into(), false));
            return;
        }
        findings.push(
            Diagnostic::warning(format!("unknown profile `{name}`"))
                .at(at, "a profile that is not there denies everything")
                .about(label),
        );
        let at = Located {
            value: (),
            at: at.clone(),
        };
        self.profiles
            .insert(name.to_owned(), (missing(name, &at).into(), false));
    }

    /// Labels of an item, and those of its profiles that it does not have itself.
    fn with_inherited<'n>(
        &self,
        mut labels: Labels,
        profiles: impl IntoIterator<Item = &'n str>,
    ) -> Labels {
        for name in profiles {
            let Some((profile, _)) = self.profiles.get(name) else {
                continue;
            };
            for (key, value) in &profile.labels {
                labels.entry(key.clone()).or_insert_with(|| value.clone());
            }
        }
        labels
    }
}
